/**
 * What the default backbone knows, through the HTTP API of the real Worker:
 *
 *   npm run bench -- backbone --data DIR
 *
 * DIR holds labelled sets (text-datasets.ts). For each, test accuracy of a head on the embeddings alone and of one with lexical
 * features beside them as `auto` chooses, against TF-IDF of words and characters with a linear SVM (Debian's
 * python3-sklearn). Where pre-training has seen the training texts, those held out of them flatter the embeddings, so `auto`
 * asks the wrong ones: there lexical features are asked for. Then MTEB's protocol (8 examples a class, scikit-learn's logistic regression, 10 draws), typing errors,
 * and what lexical features cost a training.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { textStatic } from "../src/backbones/node.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { seededRandom } from "../src/core/random.ts";
import { type Client, GraftError } from "../src/sdk/client.ts";
import { type LocalWorker, withWorker } from "./local-worker.ts";
import { type Peer, startPeer } from "./peer.ts";
import { median, noPeer, pairedRatio, type Row } from "./report.ts";
import { type LabelledText, readTextDatasets, type Split, sampleByLabel, type TextDataset } from "./text-datasets.ts";

const BATCH = 1_024;
const DRAWS = 10;
const SHOTS = 8;
const TRAININGS = 5;
const CLASSES = 77;
const EXAMPLES_PER_CLASS = 130;
/** Accuracy that is the same as a peer's, and what typing errors may cost. */
const SVM_TOLERANCE = 0.003;
const MAX_TYPO_LOSS = 0.03;

const targets: Record<string, { dense?: number; lexical?: number }> = {
  "hwu64 5 a class": { dense: 0.71, lexical: 0.72 },
  "hwu64 10 a class": { dense: 0.78, lexical: 0.785 },
  "hwu64 full": { dense: 0.885, lexical: 0.895 },
  "snips train_small": { lexical: 0.99 },
  clinc150_full: { lexical: 0.935 },
  "mr_polarity 10-fold": { lexical: 0.78 },
  bitext_support27: { lexical: 0.998 },
};

export async function run(): Promise<Row[]> {
  const { values } = parseArgs({
    allowPositionals: true,
    options: { data: { type: "string", default: "" }, json: { type: "string" } },
  });
  const sets = readTextDatasets(values.data);
  if (sets.length === 0) throw new Error(`--data '${values.data}' has none of the sets of bench/text-datasets.ts.`);
  const peer = startPeer<string[]>("backbone-peer.py");
  try {
    return await withWorker(async (worker) => {
      const rows: Row[] = [];
      for (const set of sets) rows.push(...(await measureAccuracies(worker.graft, peer, set)));
      for (const name of ["hwu64 full", "clinc150_full"]) {
        const set = sets.find((each) => each.name === name);
        if (set) rows.push(await measureFewShot(worker, peer, set));
      }
      const hwu64 = sets.find(({ name }) => name === "hwu64 full");
      if (hwu64) rows.push(await measureTypos(worker.graft, hwu64));
      const clinc150 = sets.find(({ name }) => name === "clinc150_full");
      if (clinc150) rows.push(...(await measureLexicalCosts(worker.graft, clinc150)));
      return rows;
    });
  } finally {
    peer.stop();
  }
}

async function measureAccuracies(graft: Client, peer: Peer<string[]>, set: TextDataset): Promise<Row[]> {
  const dense: number[] = [];
  const lexical: number[] = [];
  const svm: number[] = [];
  let lexicalCount = 0;
  for (const split of set.splits) {
    await uploadDataset(graft, split.train);
    const denseHead = await graft.heads.train({
      name: "alone",
      dataset: "data",
      method: "head",
      hyperparameters: { lexical: false },
    });
    dense.push(await measureAccuracy(graft, denseHead.id, split.test));
    const hyperparameters = set.seenInPretraining ? { lexical: true } : {};
    const lexicalHead = await graft.heads
      .train({ name: "beside", dataset: "data", method: "head", hyperparameters })
      .catch((error) => {
        if (error instanceof GraftError && error.code === "edge_budget_exceeded") return denseHead;
        throw error;
      });
    if (lexicalHead.training.lexical) lexicalCount++;
    lexical.push(await measureAccuracy(graft, lexicalHead.id, split.test));
    const predicted = await peer.request({
      do: "svm",
      texts: split.train.map(({ text }) => text),
      labels: split.train.map(({ label }) => label),
      test: split.test.map(({ text }) => text),
    });
    svm.push(mean(split.test.map(({ label }, i) => Number(label === predicted[i]))));
  }
  const target = targets[set.name] ?? {};
  const name = set.seenInPretraining ? `${set.name} (seen in pre-training)` : set.name;
  const featureName = lexicalCount === 0 ? "embeddings, for there was no better" : "with lexical features";
  console.error(`${name}: ${mean(dense).toFixed(4)}, ${mean(lexical).toFixed(4)}, SVM ${mean(svm).toFixed(4)}`);
  const requiredAccuracy = Math.max(target.lexical ?? 0, mean(svm) - SVM_TOLERANCE);
  return [
    {
      case: name,
      measure: "accuracy, embeddings alone",
      value: mean(dense),
      unit: "",
      ...noPeer,
      target: target.dense === undefined ? null : `≥ ${target.dense}`,
      met: target.dense === undefined ? null : mean(dense) >= target.dense,
    },
    {
      case: name,
      measure: `accuracy, ${featureName}`,
      value: mean(lexical),
      unit: "",
      peer: "TF-IDF word+char, linear SVM",
      peer_value: mean(svm),
      ratio: null,
      spread: null,
      target: `≥ ${requiredAccuracy.toFixed(4)}`,
      met: mean(lexical) >= requiredAccuracy,
    },
  ];
}

/** Replaces the data set "data". */
async function uploadDataset(graft: Client, rows: readonly LabelledText[]): Promise<void> {
  await graft.datasets.delete("data").catch(() => undefined);
  await graft.datasets.create({ name: "data", task: "single_label", modality: "text" });
  const lines = rows.map(({ text, label }) => JSON.stringify({ text, label })).join("\n");
  await graft.datasets.import("data", lines, "application/x-ndjson");
}

async function measureAccuracy(graft: Client, head: string, test: readonly LabelledText[]): Promise<number> {
  let correct = 0;
  for (let first = 0; first < test.length; first += BATCH) {
    const part = test.slice(first, first + BATCH);
    const { data } = await graft.heads.predict(head, { input: part.map(({ text }) => text) });
    part.forEach(({ label }, i) => {
      if (data[i]?.label === label) correct++;
    });
  }
  return correct / test.length;
}

/** Embeddings in Node, which are those of the Worker to the byte (test/contract/text-static.test.ts). */
async function measureFewShot({ folder }: LocalWorker, peer: Peer<string[]>, set: TextDataset): Promise<Row> {
  const { train, test } = set.splits[0] as Split;
  const [trainFile, testFile] = [join(folder, "x"), join(folder, "t")];
  writeFileSync(trainFile, await embeddings(train));
  writeFileSync(testFile, await embeddings(test));
  const rowIndex = new Map(train.map((row, i) => [row, i]));
  const accuracies: number[] = [];
  for (let seed = 1; seed <= DRAWS; seed++) {
    const rows = sampleByLabel(train, SHOTS, seed).map((row) => rowIndex.get(row));
    const labels = train.map(({ label }) => label);
    const predicted = await peer.request({
      do: "logistic",
      x: trainFile,
      test: testFile,
      dimensions: textStatic.dimensions,
      rows,
      labels,
    });
    accuracies.push(mean(test.map(({ label }, i) => Number(label === predicted[i]))));
  }
  return {
    case: `${set.name}${set.seenInPretraining ? " (seen in pre-training)" : ""}, MTEB's protocol`,
    measure: `accuracy, ${SHOTS} a class, ${DRAWS} draws`,
    value: mean(accuracies),
    unit: "",
    ...noPeer,
    spread: [Math.min(...accuracies), Math.max(...accuracies)],
    target: null,
    met: null,
  };
}

async function embeddings(texts: readonly LabelledText[]): Promise<Float32Array<ArrayBuffer>> {
  const { rows } = await textStatic.embed(texts.map(({ text }) => text));
  const values = new Float32Array(texts.length * textStatic.dimensions);
  for (const [i, row] of rows.entries()) if (row) values.set(row, i * textStatic.dimensions);
  return values;
}

/** One edit in a word of each test text. */
async function measureTypos(graft: Client, set: TextDataset): Promise<Row> {
  const { train, test } = set.splits[0] as Split;
  await uploadDataset(graft, train);
  const { id } = await graft.heads.train({ name: "typos", dataset: "data", method: "head" });
  const random = seededRandom(1);
  const clean = await measureAccuracy(graft, id, test);
  const edited = await measureAccuracy(
    graft,
    id,
    test.map(({ text, label }) => ({ text: addTypo(text, random), label })),
  );
  return {
    case: `${set.name}, one typing error in each text`,
    measure: "accuracy lost",
    value: clean - edited,
    unit: "",
    ...noPeer,
    target: `≤ ${MAX_TYPO_LOSS}`,
    met: clean - edited <= MAX_TYPO_LOSS,
  };
}

/** Leaves out, doubles, replaces or swaps a letter of one of a text's words, the longer ones if there are any. */
function addTypo(text: string, random: () => number): string {
  const words = [...text.matchAll(/\p{L}+/gu)];
  const long = words.filter(([word]) => word.length >= 4);
  const candidates = long.length > 0 ? long : words;
  const match = candidates[Math.floor(random() * candidates.length)];
  if (match === undefined) return text;
  const [word] = match;
  const position = Math.floor(random() * word.length);
  const letter = String.fromCharCode(97 + Math.floor(26 * random()));
  const edits = [
    word.slice(0, position) + word.slice(position + 1),
    word.slice(0, position) + letter + word.slice(position),
    word.slice(0, position) + letter + word.slice(position + 1),
    word.slice(0, position) +
      word
        .slice(position, position + 2)
        .split("")
        .reverse()
        .join("") +
      word.slice(position + 2),
  ];
  const edited = edits[Math.floor(random() * edits.length)] ?? word;
  return text.slice(0, match.index) + edited + text.slice(match.index + word.length);
}

/** What lexical features add to a training of 10,010 examples of 77 classes, the first of a set's own; and the head's size. */
async function measureLexicalCosts(graft: Client, set: TextDataset): Promise<Row[]> {
  const { train, test } = set.splits[0] as Split;
  const all = [...train, ...test];
  const labels = [...new Set(all.map(({ label }) => label))].sort().slice(0, CLASSES);
  const rows = sampleByLabel(
    all.filter(({ label }) => labels.includes(label)),
    EXAMPLES_PER_CLASS,
    1,
  );
  await uploadDataset(graft, rows);
  const timeTraining = async (lexical: boolean | "auto") => {
    const { training, bytes } = await graft.heads.train({
      name: "costs",
      dataset: "data",
      method: "head",
      hyperparameters: { lexical },
    });
    return { milliseconds: training.milliseconds, bytes };
  };
  const denseTimes: number[] = [];
  const lexicalTimes: number[] = [];
  const autoTimes: number[] = [];
  let headBytes = 0;
  for (let i = -1; i < TRAININGS; i++) {
    const denseResult = await timeTraining(false);
    const lexicalResult = await timeTraining(true);
    const autoResult = await timeTraining("auto");
    if (i < 0) continue;
    denseTimes.push(denseResult.milliseconds);
    lexicalTimes.push(lexicalResult.milliseconds);
    autoTimes.push(autoResult.milliseconds);
    headBytes = lexicalResult.bytes;
  }
  const name = `${rows.length} examples × ${labels.length} classes`;
  const peer = "without lexical features";
  const row = (measure: string, values: number[], target: string | null): Row => {
    const { ratio, spread } = pairedRatio(values, denseTimes);
    const met = target === null ? null : ratio <= 2;
    const value = median(values);
    return { case: name, measure, value, unit: "ms", peer, peer_value: median(denseTimes), ratio, spread, target, met };
  };
  return [
    row("training with lexical features", lexicalTimes, "ratio ≤ 2"),
    row("training that chooses between both", autoTimes, null),
    {
      case: name,
      measure: "head with lexical features",
      value: headBytes / 1e6,
      unit: "MB",
      ...noPeer,
      target: "≤ 2",
      met: headBytes <= 2e6,
    },
  ];
}
