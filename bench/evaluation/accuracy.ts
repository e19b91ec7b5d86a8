/**
 * What trainings say of their heads, against test texts: `accuracy_estimate`, calibration, conformal sets, and the accuracy
 * expected of twice as many examples. From a set's training file to its test file; where pre-training has seen the
 * training file, also from one half of the test file to the other.
 */
import { mean } from "../../src/core/evaluation/metrics.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import { makeRow, type Row } from "../shared/report.ts";
import type { Split } from "../shared/text-datasets.ts";
import { type Case, makeCase, storedResults, type Topic } from "./case.ts";
import type { TextFile } from "./embeddings.ts";
import {
  accuracyOf,
  COVERAGE,
  countLabels,
  type Estimate,
  type Figures,
  figuresOf,
  judge,
  readEstimate,
  trainHead,
  trainingSeconds,
} from "./head.ts";
import type { EvaluationSet } from "./sets.ts";

export const MAX_ERROR = 0.02;
const MAX_CALIBRATION_ERROR = 0.03;
const MIN_COVERAGE = 0.88;
const SEED = 3;

interface Quality extends Figures {
  readonly examples: number;
  readonly testTexts: number;
  readonly lexical: boolean;
  /** Means over the splits. */
  readonly estimate: Estimate;
  readonly heldOutAccuracy: number;
}

interface Growth {
  readonly examples: number;
  readonly accuracy: number;
  readonly expected: Estimate;
}

/** Splits to train and test on, and the files of their texts. */
interface Source {
  readonly name: string;
  readonly files: readonly TextFile[];
  readonly splits: readonly Split[];
}

function sourcesOf({ name, seenInPretraining, splits, train, test }: EvaluationSet): Source[] {
  const files = [train, test];
  if (!seenInPretraining) return [{ name, files, splits }];
  const shuffled = shuffle([...test.rows], seededRandom(SEED));
  const half = shuffled.length >> 1;
  return [
    { name: `${name}, seen in pre-training`, files, splits },
    {
      name: `${name}, halves of the test file`,
      files: [test],
      splits: [{ train: shuffled.slice(0, half), test: shuffled.slice(half) }],
    },
  ];
}

export function accuracyTopic(sets: readonly EvaluationSet[]): Topic {
  const pairs = sets.flatMap(sourcesOf).map((source) => ({ quality: qualityCase(source), growth: growthCase(source) }));
  return {
    cases: pairs.flatMap(({ quality, growth }) => [quality, growth]),
    rows: () => [
      ...storedResults(pairs.map(({ quality }) => quality)).flatMap(({ name, result }) => qualityRows(name, result)),
      ...pairs.flatMap(({ quality, growth }) => growthRows(growth.name, quality.stored(), growth.stored())),
    ],
  };
}

function secondsOf({ splits }: Source, share: number, detail: "summary" | "full"): number {
  const trainings = splits.map(({ train }) => trainingSeconds(share * train.length, countLabels(train), detail));
  return trainings.reduce((sum, seconds) => sum + seconds, 0);
}

function qualityCase(source: Source): Case<Quality> {
  const settings = { name: `${source.name}: estimate`, files: source.files, seconds: secondsOf(source, 1, "summary") };
  return makeCase(settings, (encoder) => {
    const runs = source.splits.map(({ train, test }) => {
      const { head, training, evaluation } = trainHead(encoder, train);
      return {
        training,
        evaluation,
        estimate: readEstimate(evaluation.accuracy_estimate),
        judgements: judge(encoder, head, test),
      };
    });
    const judgements = runs.flatMap((run) => run.judgements);
    return {
      examples: mean(runs.map(({ training }) => training.examples)),
      testTexts: judgements.length,
      lexical: runs.every(({ training }) => training.lexical),
      estimate: meanEstimate(runs.map(({ estimate }) => estimate)),
      heldOutAccuracy: mean(runs.map(({ evaluation }) => evaluation.accuracy ?? 0)),
      ...figuresOf(judgements),
    };
  });
}

function growthCase(source: Source): Case<Growth> {
  const seconds = secondsOf(source, 0.5, "full");
  return makeCase({ name: `${source.name}: twice the examples`, files: source.files, seconds }, (encoder) => {
    const runs = source.splits.map(({ train, test }) => {
      const half = shuffle([...train], seededRandom(SEED)).slice(0, train.length >> 1);
      const { head, training, evaluation } = trainHead(encoder, half, { detail: "full" });
      return {
        examples: training.examples,
        accuracy: accuracyOf(judge(encoder, head, test)),
        expected: readEstimate(evaluation.expected_accuracy?.["2x"]),
      };
    });
    return {
      examples: mean(runs.map(({ examples }) => examples)),
      accuracy: mean(runs.map(({ accuracy }) => accuracy)),
      expected: meanEstimate(runs.map(({ expected }) => expected)),
    };
  });
}

function meanEstimate(estimates: readonly Estimate[]): Estimate {
  return {
    value: mean(estimates.map(({ value }) => value)),
    low: mean(estimates.map(({ low }) => low)),
    high: mean(estimates.map(({ high }) => high)),
  };
}

function qualityRows(name: string, result: Quality): Row[] {
  const { estimate, accuracy, coverage, plainCoverage } = result;
  const row = (fields: Pick<Row, "measure" | "value"> & Partial<Row>) => makeRow({ case: name, ...fields });
  return [
    estimateRow(name, "accuracy_estimate", estimate, accuracy),
    row({ measure: "accuracy of held-out examples", value: result.heldOutAccuracy }),
    row({
      measure: "ECE on the test texts, bins of equal mass",
      value: result.ece,
      target: `≤ ${MAX_CALIBRATION_ERROR}`,
      met: result.ece <= MAX_CALIBRATION_ERROR,
    }),
    row({
      measure: `coverage of sets at ${COVERAGE}`,
      value: coverage,
      peer: `labels of probability ≥ ${(1 - COVERAGE).toFixed(1)}`,
      peer_value: plainCoverage,
      target: `≥ ${MIN_COVERAGE}`,
      met: coverage >= MIN_COVERAGE,
    }),
    row({
      measure: `labels a set at ${COVERAGE}`,
      value: result.setSize,
      peer: `labels of probability ≥ ${(1 - COVERAGE).toFixed(1)}`,
      peer_value: result.plainSize,
    }),
    row({ measure: "examples", value: result.examples }),
    row({ measure: "test texts", value: result.testTexts }),
  ];
}

function growthRows(name: string, all: Quality | null, half: Growth | null): Row[] {
  if (all === null || half === null) return [];
  return [
    estimateRow(name, "accuracy expected by half of the examples", half.expected, all.accuracy),
    makeRow({ case: name, measure: "test accuracy with half of the examples", value: half.accuracy }),
  ];
}

/** The spread is the interval. */
function estimateRow(name: string, measure: string, { value, low, high }: Estimate, accuracy: number): Row {
  return makeRow({
    case: name,
    measure,
    value,
    peer: "test accuracy",
    peer_value: accuracy,
    spread: [low, high],
    target: `within ${MAX_ERROR} of the test accuracy`,
    met: Math.abs(value - accuracy) <= MAX_ERROR,
  });
}
