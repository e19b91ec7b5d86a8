/** Accuracy and calibration of fine-tuned models on labelled sets, and what the job's comparison makes of them. */

import { textUse } from "../../src/backbones/node.ts";
import { encoderLayout } from "../../src/backbones/sentence-encoder/layout.ts";
import { mean } from "../../src/core/evaluation/metrics.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import type { TenantClient } from "../../test/e2e/processes.ts";
import { accuracyOf, type HeadQuality, measureQuality, predictBySvm, uploadDataset } from "../shared/accuracy.ts";
import { cached, readStored } from "../shared/cached.ts";
import { bestFastText, type FastText } from "../shared/fast-text.ts";
import { readOptions, readRowLimit } from "../shared/options.ts";
import type { Peer } from "../shared/python-peer.ts";
import { makeRow, type Row } from "../shared/report.ts";
import { readTextDatasets, type Split, sampleByLabel } from "../shared/text-datasets.ts";
import { jobOperations, trainingOperations, workOf } from "../shared/training-work.ts";
import { BENCH, type Case, waitForSuccess } from "./case.ts";

const SETS =
  /^(clinc150_full|hwu64 full|mr_polarity 10-fold|multidogo_(airline|finance|insurance)|goemotions_ekman single|query_wellformedness)$/;
/** Examples a class of the smaller trainings. */
const SHOTS = [10, 20, 50];
const LAYERS = 4;
const MAX_CALIBRATION_ERROR = 0.05;
const MAX_LOSS = 0.005;
const MIN_GAIN = 0.015;
const MIN_PROMOTED_SHARE = 0.8;
const MAX_DELTA_SHARE = 0.4;

interface Result {
  readonly frozen: HeadQuality;
  readonly fineTuned: HeadQuality;
  readonly verdict: string;
  readonly expectedGain: number;
  readonly chanceOfLoss: number;
  readonly seconds: number;
  readonly deltaBytes: number;
}

interface AccuracyCase extends Case {
  /** The cases that have a mean together. */
  readonly group: string;
  readonly split: Split;
}

/** The sets in the folder `--data` with few examples a class and with all of them. */
export function accuracyCases(): AccuracyCase[] {
  return readTextDatasets(readOptions().data, SETS).flatMap(({ name: set, splits }): AccuracyCase[] => {
    const { train, test } = splits[0] as Split;
    const rows = shuffle([...train], seededRandom(1)).slice(0, readRowLimit(set));
    const fullName = rows.length < train.length ? `${set}, ${rows.length} rows` : set;
    return [
      ...SHOTS.map((shots) => {
        const sample = sampleByLabel(train, shots, 1);
        return makeCase(`${set}, ${shots} a class`, `${shots} a class`, { train: sample, test });
      }),
      makeCase(fullName, "full data", { train: rows.length < train.length ? rows : train, test }),
    ];
  });
}

function makeCase(name: string, group: string, split: Split): AccuracyCase {
  return {
    name,
    group,
    split,
    operations: jobOperations(workOf(split.train), LAYERS) + 2 * trainingOperations(workOf(split.test), 0),
    async measure(context) {
      if (context === null) {
        const result = readStored<Result>(BENCH, `${name} accuracies`);
        const fastText = readStored<FastText>(BENCH, `${name} fastText`);
        const svm = readStored<number>(BENCH, `${name} SVM`);
        return result && fastText && svm !== null ? caseRows(name, result, fastText, svm) : null;
      }
      const result = await cached(BENCH, `${name} accuracies`, async () =>
        measureResult((await context.system()).tenant, split),
      );
      console.error(name, result);
      const fastText = await cached(BENCH, `${name} fastText`, async () => bestFastText(split));
      const svm = await cached(BENCH, `${name} SVM`, () => measureSvm(context.peer(), split));
      console.error(name, { fastText, svm });
      return caseRows(name, result, fastText, svm);
    },
  };
}

async function measureSvm(peer: Peer<string[]>, { train, test }: Split): Promise<number> {
  return accuracyOf(await predictBySvm(peer, train, test), test);
}

async function measureResult(tenant: TenantClient, { train, test }: Split): Promise<Result> {
  const { graft } = tenant;
  await uploadDataset(graft, "data", train, true);
  for (const name of ["frozen", "tuned"]) await graft.heads.delete(name).catch(() => undefined);
  // What is beyond one request, a job trains.
  const frozen = await graft.heads.train({ name: "frozen", dataset: "data", backbone: textUse.id });
  if (frozen.object === "fine_tuning.job") await waitForSuccess(tenant, frozen.id);
  const started = performance.now();
  const params = { model: textUse.id, training_file: "dataset:data", head: "tuned", suffix: "tuned" } as const;
  const { id } = await graft.jobs.create({ ...params, trainable: "all", promote: "always" });
  const job = await waitForSuccess(tenant, id);
  const { comparison } = job.graft;
  if (comparison === null) throw new Error("Nothing was compared.");
  const seconds = (performance.now() - started) / 1000;
  const model = await graft.models.get(job.fine_tuned_model as string);
  return {
    frozen: await measureQuality(graft, "frozen", test),
    fineTuned: await measureQuality(graft, "tuned", test),
    verdict: comparison.verdict,
    expectedGain: comparison.expected_gain,
    chanceOfLoss: comparison.chance_of_loss,
    seconds,
    deltaBytes: model.graft.bytes,
  };
}

/** Test accuracy above the frozen head's, of the fine-tuned model and of the model that `if_better` promotes. */
interface Gain {
  readonly always: number;
  readonly promoted: number;
}

function gainOf({ fineTuned, frozen, verdict }: Result): Gain {
  const always = fineTuned.accuracy - frozen.accuracy;
  return { always, promoted: verdict === "better" ? always : 0 };
}

function caseRows(name: string, result: Result, fastText: FastText, svm: number): Row[] {
  const { always, promoted } = gainOf(result);
  const { fineTuned, frozen, verdict, deltaBytes } = result;
  const deltaShare = deltaBytes / textUse.bytes;
  const row = (fields: Omit<Parameters<typeof makeRow>[0], "case">) => makeRow({ case: name, ...fields });
  const aheadRow = (peer: string, peer_value: number) => {
    const value = fineTuned.accuracy;
    return row({
      measure: "test accuracy, fine-tuned",
      value,
      peer,
      peer_value,
      target: "ahead",
      met: value > peer_value,
    });
  };
  return [
    row({ measure: "test accuracy, frozen head", value: frozen.accuracy }),
    aheadRow(`fastText (lr ${fastText.rate}, ${fastText.epochs} epochs)`, fastText.accuracy),
    aheadRow("TF-IDF, linear SVM", svm),
    row({ measure: "gain on the test set, fine-tuned", value: always }),
    row({ measure: "gain that the job expected", value: result.expectedGain }),
    row({ measure: "chance of a loss, by the job", value: result.chanceOfLoss }),
    row({
      measure: `gain of what if_better keeps (${verdict}: the ${verdict === "better" ? "fine-tuned model" : "frozen head"})`,
      value: promoted,
      target: `≥ -${MAX_LOSS}`,
      met: promoted >= -MAX_LOSS,
    }),
    row({
      measure: "calibration error on the test set, fine-tuned",
      value: fineTuned.calibrationError,
      peer: "frozen head",
      peer_value: frozen.calibrationError,
      target: `≤ ${MAX_CALIBRATION_ERROR}`,
      met: fineTuned.calibrationError <= MAX_CALIBRATION_ERROR,
    }),
    row({
      measure: "delta, of the backbone",
      value: deltaShare,
      target: `≤ ${MAX_DELTA_SHARE}`,
      met: deltaShare <= MAX_DELTA_SHARE,
    }),
    row({ measure: "delta, of the encoder's weights", value: deltaBytes / encoderLayout(textUse.shape).bytes }),
    row({ measure: "job, create to the end", value: result.seconds, unit: "s" }),
  ];
}

/** The means of the cases whose accuracies are stored: of all data first, which has targets. */
export function summaryRows(cases: readonly AccuracyCase[]): Row[] {
  const groups = Map.groupBy(cases, ({ group }) => group);
  return [...groups].reverse().flatMap(([group, members]) => {
    const results = members.flatMap(({ name }) => readStored<Result>(BENCH, `${name} accuracies`) ?? []);
    if (results.length === 0) return [];
    const isComplete = results.length === members.length;
    return groupRows(`${group}, ${results.length} sets`, results, isComplete && group === "full data");
  });
}

/** @param hasTargets false for few examples, whose gain is only stated */
function groupRows(name: string, results: readonly Result[], hasTargets: boolean): Row[] {
  const gains = results.map(gainOf);
  const always = mean(gains.map((gain) => gain.always));
  const promoted = mean(gains.map((gain) => gain.promoted));
  const largestLoss = Math.max(0, ...gains.map((gain) => -gain.promoted));
  const worstCalibration = Math.max(...results.map(({ fineTuned }) => fineTuned.calibrationError));
  const row = (measure: string, value: number, target: string | null, isMet = true) =>
    makeRow({ case: name, measure, value, target, met: target === null ? null : isMet });
  const targetOfAll = (target: string) => (hasTargets ? target : null);
  return [
    row("mean gain over the frozen head", always, targetOfAll(`≥ ${MIN_GAIN}`), always >= MIN_GAIN),
    row("the same, promoted by if_better", promoted, null),
    ...(always > 0
      ? [
          row(
            "what if_better promotes gains, of what promoting always would",
            promoted / always,
            targetOfAll(`≥ ${MIN_PROMOTED_SHARE}`),
            promoted >= MIN_PROMOTED_SHARE * always,
          ),
        ]
      : []),
    row("largest loss promoted", largestLoss, `≤ ${MAX_LOSS}`, largestLoss <= MAX_LOSS),
    row(
      "largest calibration error, fine-tuned",
      worstCalibration,
      `≤ ${MAX_CALIBRATION_ERROR}`,
      worstCalibration <= MAX_CALIBRATION_ERROR,
    ),
  ];
}
