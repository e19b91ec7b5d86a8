/**
 * Full fine-tuning on whole labelled sets, with the Worker and the batch endpoint as processes:
 *
 *   npm run bench -- finetune --data DIR
 *
 * DIR has labelled sets (shared/text-datasets.ts). Measures the test accuracy of the frozen head, of the fine-tuned model
 * and of what `if_better` would promote, beside the gain that the job expected and its chance of a loss; against fastText (Debian's) and TF-IDF with a linear SVM (Debian's
 * python3-sklearn); the time to fastText's accuracy on one thread; the size of a delta; the first prediction with a cold
 * one; and memory by size. Each case's result is stored, so that an interrupted measurement resumes.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { textStatic } from "../src/backbones/node.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { splitWords } from "../src/core/text/words.ts";
import { type System, startSystem, type TenantClient, waitForJobEnd } from "../test/e2e/processes.ts";
import { accuracyOf, measureAccuracy, predictBySvm, uploadDataset } from "./shared/accuracy.ts";
import { cached } from "./shared/cached.ts";
import { accuracyOn, prepareSplit, trainHead, trainLayers } from "./shared/in-process.ts";
import { processTreeMegabytes } from "./shared/memory.ts";
import { type Peer, startPeer } from "./shared/python-peer.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median, spreadOf } from "./shared/statistics.ts";
import { syntheticTexts } from "./shared/synthetic.ts";
import { type LabelledText, readRequestedDatasets, type Split, sampleByLabel } from "./shared/text-datasets.ts";

const SETS =
  /^(clinc150_full|hwu64 full|mr_polarity 10-fold|multidogo_(airline|finance|insurance)|goemotions_ekman single|query_wellformedness)$/;
/** Examples a class of the smaller trainings. */
const SHOTS = [10, 20, 50];
const SIZES = [1_000, 10_000, 50_000, 100_000];
const LABELS = 20;
const WARM_PREDICTIONS = 20;
const TIMED_RUNS = 3;
const JOB_TIMEOUT_MS = 3_600_000;

export const runs = 1;

interface Accuracies {
  readonly frozen: number;
  readonly fineTuned: number;
  readonly verdict: string;
  readonly expectedGain: number;
  readonly chanceOfLoss: number;
  readonly seconds: number;
  readonly deltaBytes: number;
}

/** Learning rate and epochs. */
type FastTextOptions = readonly [number, number];

interface FastText {
  readonly accuracy: number;
  readonly seconds: number;
  readonly options: FastTextOptions;
}

export async function run(): Promise<Row[]> {
  const sets = readRequestedDatasets(SETS);
  const system = await startSystem({ batch: { BATCH_JOBS: "1" }, worker: { BATCH_SILENCE_SECONDS: "120" } });
  const peer = startPeer<string[]>("backbone.py");
  try {
    const tenant = await system.createTenant("bench");
    const shotRows: Row[] = [];
    for (const shots of SHOTS) {
      const gains: Gain[] = [];
      for (const { name, splits } of sets) {
        const { train, test } = splits[0] as Split;
        const caseName = `${name}, ${shots} a class`;
        const ours = await cachedAccuracies(tenant, caseName, { train: sampleByLabel(train, shots, 1), test });
        console.error(caseName, ours);
        gains.push(gainOf(ours));
        shotRows.push(...judgeRows(caseName, ours));
      }
      shotRows.push(...gainRows(`all sets, ${shots} a class`, gains, false));
    }
    // The slowest cases come last, so that an interrupted measurement has shown most results.
    for (const { name, splits } of sets) console.error(name, await cachedAccuracies(tenant, name, splits[0] as Split));
    const coldStartRows = await cached("finetune", "cold", () => measureColdStart(tenant));
    const sizeRows: Row[] = [];
    for (const size of SIZES)
      sizeRows.push(...(await cached("finetune", `memory ${size}`, () => measureSize(system, tenant, size))));
    console.error(coldStartRows, sizeRows);
    const rows: Row[] = [];
    const gains: Gain[] = [];
    for (const { name, splits } of sets) {
      const split = splits[0] as Split;
      const ours = await cachedAccuracies(tenant, name, split);
      gains.push(gainOf(ours));
      rows.push(...judgeRows(name, ours), ...(await compareWithPeers(peer, name, split, ours)));
    }
    return [...rows, ...gainRows("all sets", gains, true), ...shotRows, ...coldStartRows, ...sizeRows];
  } finally {
    peer.stop();
    await system.close();
  }
}

/** Test accuracy above the frozen head's, of the fine-tuned model and of the model that `if_better` promotes. */
interface Gain {
  readonly always: number;
  readonly promoted: number;
}

function gainOf({ fineTuned, frozen, verdict }: Accuracies): Gain {
  const always = fineTuned - frozen;
  return { always, promoted: verdict === "better" ? always : 0 };
}

/** What the job's comparison made of a case, beside the test set. */
function judgeRows(name: string, ours: Accuracies): Row[] {
  const { always, promoted } = gainOf(ours);
  return [
    makeRow({ case: name, measure: "test accuracy, frozen head", value: ours.frozen }),
    makeRow({ case: name, measure: "gain on the test set, fine-tuned", value: always }),
    makeRow({ case: name, measure: "gain that the job expected", value: ours.expectedGain }),
    makeRow({ case: name, measure: "chance of a loss, by the job", value: ours.chanceOfLoss }),
    makeRow({
      case: name,
      measure: `gain of what if_better keeps (${ours.verdict})`,
      value: promoted,
      target: "≥ -0.005",
      met: promoted >= -0.005,
    }),
  ];
}

/** @param hasTargets false for few examples, whose gain is only stated */
function gainRows(name: string, gains: readonly Gain[], hasTargets: boolean): Row[] {
  const always = mean(gains.map((gain) => gain.always));
  const promoted = mean(gains.map((gain) => gain.promoted));
  const largestLoss = Math.max(0, ...gains.map((gain) => -gain.promoted));
  return [
    makeRow({
      case: name,
      measure: "mean gain over the frozen head",
      value: always,
      ...(hasTargets ? { target: "≥ 0.015", met: always >= 0.015 } : {}),
    }),
    makeRow({ case: name, measure: "the same, promoted by if_better", value: promoted }),
    makeRow({
      case: name,
      measure: "what if_better promotes gains, of what promoting always would",
      value: promoted / always,
      ...(hasTargets ? { target: "≥ 0.8", met: promoted >= 0.8 * always } : {}),
    }),
    makeRow({
      case: name,
      measure: "largest loss promoted",
      value: largestLoss,
      target: "≤ 0.005",
      met: largestLoss <= 0.005,
    }),
  ];
}

function cachedAccuracies(tenant: TenantClient, name: string, split: Split): Promise<Accuracies> {
  return cached("finetune", `${name} accuracies`, () => measureAccuracies(tenant, split));
}

/** A set's rows: accuracies beside those of fastText and the SVM, the time to fastText's accuracy, and the delta's size. */
async function compareWithPeers(peer: Peer<string[]>, name: string, split: Split, ours: Accuracies): Promise<Row[]> {
  const fastText = await cached("finetune", `${name} fastText`, async () => bestFastText(split));
  const svm = await cached("finetune", `${name} SVM`, () => measureSvm(peer, split));
  const time = await cached("finetune", `${name} time`, () => compareTimes(fastText, split));
  console.error(name, ours, fastText, { svm, time });
  const aheadRow = (peerName: string, peerAccuracy: number) =>
    makeRow({
      case: name,
      measure: "test accuracy, fine-tuned",
      value: ours.fineTuned,
      peer: peerName,
      peer_value: peerAccuracy,
      target: "ahead",
      met: ours.fineTuned > peerAccuracy,
    });
  const deltaShare = ours.deltaBytes / textStatic.bytes;
  return [
    aheadRow(`fastText (lr ${fastText.options[0]}, ${fastText.options[1]} epochs)`, fastText.accuracy),
    aheadRow("TF-IDF, linear SVM", svm),
    makeRow({
      case: name,
      measure: "time to fastText's accuracy",
      value: time.seconds,
      unit: "s",
      peer: "fastText",
      peer_value: time.peerSeconds,
      ratio: time.ratio,
      spread: time.spread,
      target: "≤ 0.5",
      met: time.ratio <= 0.5,
    }),
    makeRow({ case: name, measure: "job, create to the end", value: ours.seconds, unit: "s" }),
    makeRow({
      case: name,
      measure: `delta of ${split.train.length} examples, of the base`,
      value: deltaShare,
      target: "≤ 0.25",
      met: deltaShare <= 0.25,
    }),
  ];
}

async function measureSvm(peer: Peer<string[]>, { train, test }: Split): Promise<number> {
  return accuracyOf(await predictBySvm(peer, train, test), test);
}

async function measureAccuracies(tenant: TenantClient, { train, test }: Split): Promise<Accuracies> {
  const { graft } = tenant;
  await uploadDataset(graft, "data", train, true);
  for (const name of ["frozen", "tuned"]) await graft.heads.delete(name).catch(() => undefined);
  await graft.heads.train({ name: "frozen", dataset: "data", backbone: textStatic.id, method: "head" });
  const started = performance.now();
  const params = { model: textStatic.id, training_file: "dataset:data", head: "tuned", suffix: "tuned" } as const;
  const { id } = await graft.jobs.create({ ...params, trainable: "all", promote: "always" });
  const job = await waitForJobEnd(tenant, id, JOB_TIMEOUT_MS);
  const { comparison } = job.graft;
  if (job.status !== "succeeded" || comparison === null) throw new Error(job.error?.message ?? "nothing was compared");
  const model = await graft.models.get(job.fine_tuned_model as string);
  return {
    frozen: await measureAccuracy(graft, "frozen", test),
    fineTuned: await measureAccuracy(graft, "tuned", test),
    verdict: comparison.verdict,
    expectedGain: comparison.expected_gain,
    chanceOfLoss: comparison.chance_of_loss,
    seconds: (performance.now() - started) / 1000,
    deltaBytes: model.graft.bytes,
  };
}

/** The fastText training with the best test accuracy over its options. */
function bestFastText(split: Split): FastText {
  const results = [0.1, 0.5, 1].flatMap((lr) => [25, 50].map((epochs) => trainFastText(split, [lr, epochs])));
  return results.reduce((best, each) => (each.accuracy > best.accuracy ? each : best));
}

/** Trains fastText on one thread. */
function trainFastText({ train, test }: Split, options: FastTextOptions): FastText {
  const [lr, epochs] = options;
  const folder = mkdtempSync(join(tmpdir(), "fasttext-"));
  try {
    const labels = [...new Set(train.map(({ label }) => label))];
    const line = ({ text, label }: LabelledText) => `__label__${labels.indexOf(label)} ${splitWords(text).join(" ")}`;
    const [trainFile, testFile, model] = ["train", "test", "model"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    writeFileSync(trainFile, train.map(line).join("\n"));
    writeFileSync(testFile, test.map((row) => splitWords(row.text).join(" ") || " ").join("\n"));
    const started = performance.now();
    const fastTextParams = { lr, epoch: epochs, wordNgrams: 2, minn: 2, maxn: 4, thread: 1, verbose: 0 };
    const args = Object.entries(fastTextParams).flatMap(([name, value]) => [`-${name}`, `${value}`]);
    execFileSync("fasttext", ["supervised", "-input", trainFile, "-output", model, ...args], { stdio: "ignore" });
    const seconds = (performance.now() - started) / 1000;
    const output = execFileSync("fasttext", ["predict", `${model}.bin`, testFile], {
      encoding: "utf8",
      maxBuffer: 1e8,
    });
    const predicted = output.trimEnd().split("\n");
    const accuracy = mean(test.map(({ label }, i) => Number(predicted[i] === `__label__${labels.indexOf(label)}`)));
    return { accuracy, seconds, options };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Our time to fastText's accuracy and its own training time, in alternating runs. */
async function compareTimes({ accuracy, options }: FastText, split: Split) {
  const [ours, peers]: [number[], number[]] = [[], []];
  let modelName = "";
  for (let i = 0; i < TIMED_RUNS; i++) {
    const result = await timeToAccuracy(accuracy, split);
    ours.push(result.seconds);
    modelName = result.by;
    peers.push(trainFastText(split, options).seconds);
  }
  const ratios = ours.map((seconds, i) => seconds / (peers[i] as number));
  const spread = spreadOf(ratios);
  return { seconds: median(ours), peerSeconds: median(peers), ratio: median(ratios), spread, by: modelName };
}

/** The time from texts until a model reaches an accuracy: the frozen head, then one that reads words, then the layers. */
async function timeToAccuracy(accuracy: number, split: Split): Promise<{ seconds: number; by: string }> {
  let seconds = 0;
  for (const modelName of ["frozen head", "frozen head that reads words", "layers"]) {
    const prepared = await prepareSplit(split, 0, modelName !== "frozen head");
    const trained = await (modelName === "layers" ? trainLayers(prepared, 2) : trainHead(prepared));
    seconds += trained.seconds;
    const modelAccuracy = await accuracyOn(prepared, prepared.test, trained.model);
    if (modelAccuracy >= accuracy) return { seconds, by: modelName };
  }
  return { seconds: Number.POSITIVE_INFINITY, by: "nothing" };
}

/** The first prediction after a promotion, before an isolate has the delta, against the predictions after it. */
async function measureColdStart(tenant: TenantClient): Promise<Row[]> {
  const { graft } = tenant;
  const coldTimes: number[] = [];
  const warmTimes: number[] = [];
  await uploadDataset(graft, "cold", syntheticTexts(10_000, 50), true);
  for (let i = 0; i < 3; i++) {
    const params = { model: textStatic.id, training_file: "dataset:cold", head: `cold-${i}`, seed: i } as const;
    const { id } = await graft.jobs.create({ ...params, trainable: "all", promote: "always" });
    await waitForJobEnd(tenant, id, JOB_TIMEOUT_MS);
    const timePrediction = async () => {
      const started = performance.now();
      await graft.heads.predict(`cold-${i}`, { input: `w1000 w1001 w1002 w1003 w7 w8 and a few words more` });
      return performance.now() - started;
    };
    coldTimes.push(await timePrediction());
    const times: number[] = [];
    for (let n = 0; n < WARM_PREDICTIONS; n++) times.push(await timePrediction());
    warmTimes.push(median(times));
  }
  const coldStartPenalty = median(coldTimes) - median(warmTimes);
  return [
    makeRow({
      case: "first prediction after promotion, cold delta of 10,000 examples",
      measure: "more than a warm one",
      value: coldStartPenalty,
      unit: "ms",
      peer: "warm",
      peer_value: median(warmTimes),
      spread: [Math.min(...coldTimes) - median(warmTimes), Math.max(...coldTimes) - median(warmTimes)],
      target: "≤ 150",
      met: coldStartPenalty <= 150,
    }),
  ];
}

/** The time and the peak memory of a job with so many examples. */
async function measureSize(system: System, tenant: TenantClient, examples: number): Promise<Row[]> {
  const { graft } = tenant;
  const name = `size-${examples}`;
  await uploadDataset(graft, name, syntheticTexts(examples, LABELS), true);
  let megabytes = 0;
  const idleMegabytes = processTreeMegabytes(system.pid("batch"));
  const memoryTimer = setInterval(() => {
    megabytes = Math.max(megabytes, processTreeMegabytes(system.pid("batch")));
  }, 100);
  const started = performance.now();
  const { id } = await graft.jobs.create({
    model: textStatic.id,
    training_file: `dataset:${name}`,
    trainable: "all",
    promote: "always",
  });
  const { status, error } = await waitForJobEnd(tenant, id, JOB_TIMEOUT_MS);
  clearInterval(memoryTimer);
  if (status !== "succeeded") throw new Error(error?.message);
  const seconds = (performance.now() - started) / 1000;
  const caseName = `${examples} examples of 12 words, ${LABELS} labels`;
  return [
    makeRow({ case: caseName, measure: "job, create to the end", value: seconds, unit: "s" }),
    makeRow({
      case: caseName,
      measure: `the batch endpoint's peak memory (${idleMegabytes.toFixed(0)} MB at rest)`,
      value: megabytes,
      unit: "MB",
      target: "≤ 1000",
      met: megabytes <= 1000,
    }),
  ];
}
