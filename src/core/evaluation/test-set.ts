/**
 * How a head does on a test set: labelled examples to which nothing is fitted. The head predicts as it serves, with its own
 * temperature and thresholds.
 *
 * A label that the head does not know is one more class, which it never predicts: its examples are wrong, and it has its
 * row in the figures per class and in the confusion matrix. Only the log loss leaves these examples out, since it would be
 * infinite.
 */
import { type Head, judgeScope, outputsOf, thresholdOf } from "../head.ts";
import { encodeTargets, type Target, type Targets } from "../linear/targets.ts";
import type { Evaluation } from "./evaluation.ts";
import { type ClassCounts, calibrationBins, mean, regressionMetrics } from "./metrics.ts";
import { multiLabelFigures } from "./multi-label.ts";
import { argmax, logSumExp, softplus } from "./probability.ts";
import { regressionIntervals } from "./regression-intervals.ts";
import { evaluateScope } from "./scope-fit.ts";
import { singleLabelFigures } from "./single-label.ts";

/** The targets of a test set for one head. */
export interface TestTargets {
  /** Those of the head, and after them those that it does not know. */
  readonly labels: readonly string[];
  /** Indices into `labels`; −1 for an out-of-scope row. */
  readonly targets: Targets;
}

/** @param outOfScopeLabel that of the test set. A head that has it as a label predicts it like any other. */
export function encodeTestTargets(
  { task, labels }: Pick<Head, "task" | "labels">,
  targets: readonly Target[],
  outOfScopeLabel: string | null,
): TestTargets {
  if (task === "regression") return encodeTargets(task, targets, null);
  const known = new Set(labels);
  const unknown = new Set((targets as readonly (string | readonly string[])[]).flat());
  for (const label of [...known, outOfScopeLabel ?? ""]) unknown.delete(label);
  const testLabels = [...labels, ...[...unknown].sort()];
  return encodeTargets(task, targets, known.has(outOfScopeLabel ?? "") ? null : outOfScopeLabel, testLabels);
}

/** What a head predicts of one row. */
export interface TestPrediction {
  /** False also for the row of another label than the head knows. Null for an out-of-scope row. */
  readonly isCorrect: boolean | null;
  /** single: the label's index. multi: those of all labels. value: the value. */
  readonly values: readonly number[];
  /** single: the probability of the label, and whether the input counts as in scope. Otherwise null. */
  readonly score: number | null;
  readonly inScope: boolean | null;
}

export interface TestResult {
  readonly evaluation: Evaluation;
  readonly prediction: (row: number) => TestPrediction;
}

export interface HeadTest {
  /** Takes the logits of a row, before the temperature, and its embedding. Each row comes once. */
  add(row: number, logits: Float64Array, embedding: Float32Array): void;
  result(): TestResult;
}

/** Tests a head on rows with these targets. */
export function testHead(head: Head, { labels, targets }: TestTargets): HeadTest {
  switch (targets.kind) {
    case "single":
      return testSingleLabel(head, labels, targets.indices);
    case "multi":
      return testMultiLabel(head, labels, targets.indices);
    case "value":
      return testRegression(head, targets.values);
  }
}

const settings = { method: "test_set", detail: "summary" } as const;

function testSingleLabel(head: Head, labels: readonly string[], truth: Int32Array): HeadTest {
  const { temperature, outOfScopeThreshold, scope } = head;
  const predicted = new Int32Array(truth.length);
  const tops = new Float64Array(truth.length);
  const uncalibratedTops = new Float64Array(truth.length);
  const losses: number[] = [];
  const scopes: ReturnType<typeof judgeScope>[] = [];
  return {
    add(row, logits, embedding) {
      scopes[row] = judgeScope(head, logits, embedding);
      const probabilities = outputsOf(head, logits, temperature);
      const label = argmax(probabilities);
      predicted[row] = label;
      tops[row] = probabilities[label] as number;
      uncalibratedTops[row] = outputsOf(head, logits, 1)[label] as number;
      const targetLogit = logits[truth[row] as number];
      if (targetLogit !== undefined)
        losses.push(logSumExp(logits.map((logit) => logit / temperature)) - targetLogit / temperature);
    },
    result() {
      const inScopeRows = Array.from(truth.keys()).filter((row) => (truth[row] as number) >= 0);
      const outOfScopeRows = Array.from(truth.keys()).filter((row) => (truth[row] as number) < 0);
      const pick = (values: Int32Array | Float64Array) => inScopeRows.map((row) => values[row] as number);
      const figures = singleLabelFigures(labels, {
        truth: pick(truth),
        predicted: pick(predicted),
        tops: pick(tops),
        uncalibratedTops: pick(uncalibratedTops),
        logLoss: mean(losses),
      });
      const scoresOf = (rows: readonly number[]) => rows.flatMap((row) => scopes[row]?.score ?? []);
      const score = scope === null ? "max_probability" : "in_scope_p_value";
      return {
        evaluation: {
          ...settings,
          ...figures,
          out_of_scope:
            outOfScopeThreshold === null
              ? null
              : { ...evaluateScope(outOfScopeThreshold, scoresOf(inScopeRows), scoresOf(outOfScopeRows)), score },
        },
        prediction: (row) => ({
          isCorrect: (truth[row] as number) < 0 ? null : predicted[row] === truth[row],
          values: [predicted[row] as number],
          score: tops[row] as number,
          inScope: scopes[row]?.inScope ?? null,
        }),
      };
    },
  };
}

function testMultiLabel(
  head: Head,
  labels: readonly string[],
  truth: Extract<Targets, { kind: "multi" }>["indices"],
): HeadTest {
  const { temperature } = head;
  const counts = labels.map(() => ({ hits: 0, predicted: 0, support: 0 }) satisfies ClassCounts);
  const predictions = new Map<number, readonly number[]>();
  const exact = new Uint8Array(truth.length);
  const [bins, uncalibratedBins] = [calibrationBins(), calibrationBins()];
  let loss = 0;
  return {
    add(row, logits) {
      const targets = new Set(truth[row]);
      const probabilities = outputsOf(head, logits, temperature);
      const uncalibrated = outputsOf(head, logits, 1);
      const predicted: number[] = [];
      let exampleLoss = 0;
      for (const [k, probability] of probabilities.entries()) {
        const isPositive = targets.has(k);
        const logit = (logits[k] as number) / temperature;
        bins.add(probability, isPositive);
        uncalibratedBins.add(uncalibrated[k] as number, isPositive);
        exampleLoss += softplus(logit) - (isPositive ? logit : 0);
        if (probability >= thresholdOf(head, k)) predicted.push(k);
      }
      loss += exampleLoss / Math.max(1, logits.length);
      for (const k of targets) (counts[k] as { support: number }).support++;
      for (const k of predicted) {
        const count = counts[k] as { hits: number; predicted: number };
        count.predicted++;
        if (targets.has(k)) count.hits++;
      }
      exact[row] = predicted.length === targets.size && predicted.every((k) => targets.has(k)) ? 1 : 0;
      predictions.set(row, predicted);
    },
    result: () => ({
      evaluation: {
        ...settings,
        ...multiLabelFigures(labels, head.thresholds, {
          counts,
          exactMatches: exact.reduce((sum, each) => sum + each, 0),
          bins,
          examples: truth.length,
          uncalibratedError: uncalibratedBins.error(),
          logLoss: loss / Math.max(1, truth.length),
        }),
      },
      prediction: (row) => ({
        isCorrect: exact[row] === 1,
        values: predictions.get(row) ?? [],
        score: null,
        inScope: null,
      }),
    }),
  };
}

function testRegression(head: Head, truth: Float64Array): HeadTest {
  const predicted = new Float64Array(truth.length);
  return {
    add(row, logits) {
      predicted[row] = outputsOf(head, logits, head.temperature)[0] as number;
    },
    result() {
      const values = [Array.from(truth), Array.from(predicted)] as const;
      const figures = { ...regressionMetrics(...values), ...regressionIntervals(...values) };
      const distance = (row: number) => Math.abs((predicted[row] as number) - (truth[row] as number));
      return {
        evaluation: { ...settings, examples: truth.length, ...figures },
        // Off by no more than is usual.
        prediction: (row) => ({
          isCorrect: distance(row) <= figures.rmse,
          values: [predicted[row] as number],
          score: null,
          inScope: null,
        }),
      };
    },
  };
}
