/**
 * `accuracy_estimate` and its interval over many small samples: 50 of at most 2,000 examples of all sets, judged on texts
 * that were not drawn, and ten of five and ten examples a class, judged as on a test set with as many texts of each class.
 */
import { mean } from "../../src/core/evaluation/metrics.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import { makeRow, type Row } from "../shared/report.ts";
import { spreadOf } from "../shared/statistics.ts";
import { type LabelledText, type Split, sampleByLabel } from "../shared/text-datasets.ts";
import { MAX_ERROR } from "./accuracy.ts";
import { type Case, makeCase, resultsOf, type Topic } from "./case.ts";
import type { TextFile } from "./embeddings.ts";
import {
  accuracyOf,
  balancedAccuracyOf,
  countLabels,
  type Estimate,
  type Judgement,
  judge,
  readEstimate,
  trainHead,
  trainingSeconds,
} from "./head.ts";
import type { EvaluationSet } from "./sets.ts";

const RESAMPLES = 50;
/** The samples of a set grow from one to the next. */
const SAMPLE_SIZES = [250, 500, 1_000, 2_000, 2_000];
/** A sample has at least so many examples a label on average, as far as the largest size has room. */
const MIN_MEAN_EXAMPLES = 10;
const MAX_TEST_TEXTS = 3_000;
const MIN_COVERED = 0.9;

const FEW_SETS = /^(hwu64|clinc150|snips)/;
const FEW = [5, 10];
const DRAWS = 10;

/** What a training on a sample expects, and the test accuracy of its head. */
interface Draw extends Estimate {
  readonly accuracy: number;
}

type Accuracy = (judgements: readonly Judgement[]) => number;

function drawCase(
  name: string,
  files: readonly TextFile[],
  { train, test }: Split,
  accuracy: Accuracy,
  seed: number,
): Case<Draw> {
  const seconds = trainingSeconds(train.length, countLabels(train));
  return makeCase({ name, files, seconds }, (encoder) => {
    const { head, evaluation } = trainHead(encoder, train, { seed });
    return { ...readEstimate(evaluation.accuracy_estimate), accuracy: accuracy(judge(encoder, head, test)) };
  });
}

export function resamplesTopic(sets: readonly EvaluationSet[]): Topic {
  const cases = Array.from({ length: sets.length === 0 ? 0 : RESAMPLES }, (_, i) =>
    resampleCase(sets[i % sets.length] as EvaluationSet, Math.floor(i / sets.length)),
  );
  return {
    cases,
    rows: () => summaryRows("resamples of at most 2,000 examples", cases, `≥ ${MIN_COVERED}`, MIN_COVERED),
  };
}

/** Drawn from all of a set's texts, but for those that pre-training has seen. */
function resampleCase({ name, seenInPretraining, train, test }: EvaluationSet, round: number): Case<Draw> {
  const files = seenInPretraining ? [test] : [train, test];
  const pool = files.flatMap(({ rows }) => rows);
  const largest = Math.max(...SAMPLE_SIZES);
  const size = Math.max(
    SAMPLE_SIZES[round % SAMPLE_SIZES.length] as number,
    Math.min(largest, MIN_MEAN_EXAMPLES * countLabels(pool)),
  );
  const shuffled = shuffle([...pool], seededRandom(round));
  const split = { train: shuffled.slice(0, size), test: shuffled.slice(size, size + MAX_TEST_TEXTS) };
  return drawCase(`resample ${round} of ${name}, ${size} examples`, files, split, accuracyOf, round);
}

export function fewTopic(sets: readonly EvaluationSet[]): Topic {
  const groups = sets
    .filter(({ name }) => FEW_SETS.test(name))
    .flatMap((set) => FEW.flatMap((size) => fewGroups(set, size)));
  return {
    cases: groups.flatMap(({ cases }) => cases),
    rows: () => groups.flatMap(({ name, cases }) => fewRows(name, cases)),
  };
}

function fewGroups({ name, seenInPretraining, train, test }: EvaluationSet, size: number) {
  const draws = (title: string, files: readonly TextFile[], splitOf: (seed: number) => Split) => ({
    name: title,
    cases: Array.from({ length: DRAWS }, (_, seed) =>
      drawCase(`${title}, draw ${seed}`, files, splitOf(seed), balancedAccuracyOf, seed),
    ),
  });
  const setName = name.replace(" full", "");
  const suffix = seenInPretraining ? ", seen in pre-training" : "";
  const fromTrain = draws(`${setName}, ${size} a class${suffix}`, [train, test], (seed) => ({
    train: sampleByLabel(train.rows, size, seed),
    test: test.rows,
  }));
  if (!seenInPretraining) return [fromTrain];
  const fromTest = draws(`${setName}, ${size} a class, of the test file`, [test], (seed) => {
    const sample: readonly LabelledText[] = sampleByLabel(test.rows, size, seed);
    const drawn = new Set(sample);
    return { train: sample, test: test.rows.filter((row) => !drawn.has(row)) };
  });
  return [fromTrain, fromTest];
}

function fewRows(name: string, cases: readonly Case<Draw>[]): Row[] {
  const draws = resultsOf(cases);
  if (draws.length === 0) return [];
  const value = mean(draws.map((draw) => draw.value));
  const accuracy = mean(draws.map((draw) => draw.accuracy));
  return [
    makeRow({
      case: name,
      measure: "accuracy_estimate, mean over the draws",
      value,
      peer: "test accuracy",
      peer_value: accuracy,
      spread: spreadOf(draws.map((draw) => draw.value)),
      target: `within ${MAX_ERROR} of the test accuracy`,
      met: Math.abs(value - accuracy) <= MAX_ERROR,
    }),
    ...summaryRows(name, cases, "each", 1),
  ];
}

function summaryRows(name: string, cases: readonly Case<Draw>[], target: string, minimum: number): Row[] {
  const draws = resultsOf(cases);
  if (draws.length === 0) return [];
  const covered = mean(draws.map(({ low, high, accuracy }) => Number(low <= accuracy && accuracy <= high)));
  const errors = draws.map(({ value, accuracy }) => value - accuracy);
  return [
    makeRow({
      case: name,
      measure: "share of draws with the test accuracy in their interval",
      value: covered,
      target,
      met: covered >= minimum,
    }),
    makeRow({
      case: name,
      measure: "accuracy_estimate − test accuracy",
      value: mean(errors),
      spread: spreadOf(errors),
    }),
    makeRow({ case: name, measure: "width of the interval", value: mean(draws.map(({ low, high }) => high - low)) }),
    makeRow({ case: name, measure: "draws", value: draws.length }),
  ];
}
