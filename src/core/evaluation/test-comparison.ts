/** Compares two heads by what they predict of the same test set. */
import type { Targets } from "../linear/targets.ts";
import { compare, type Decision, gainError } from "./comparison.ts";
import type { TestPrediction, TestResult } from "./test-set.ts";

/** Two heads on the same rows. */
export interface TestComparison {
  /** Of the new head and of the other one; R² for regression. */
  readonly accuracy: number;
  readonly otherAccuracy: number;
  /** The rows that only the new head predicts correctly, and those that only the other one does. */
  readonly fixed: readonly number[];
  readonly broken: readonly number[];
  /** How the new head compares with the other one. */
  readonly decision: Decision;
}

/**
 * Compares the result of a head with that of another one on the same rows. For regression, a row is fixed if the new head is
 * nearer to its value, and broken if the other one is.
 */
export function compareTests(targets: Targets, result: TestResult, other: TestResult): TestComparison {
  const rows = Array.from(targets.kind === "value" ? targets.values.keys() : targets.indices.keys());
  const [fixed, broken]: [number[], number[]] = [[], []];
  for (const row of rows) {
    const difference = advantage(targets, row, result, other);
    if (difference > 0) fixed.push(row);
    if (difference < 0) broken.push(row);
  }
  const accuracyOf = ({ evaluation }: TestResult) => evaluation.accuracy ?? evaluation.r2 ?? 0;
  const [accuracy, otherAccuracy] = [accuracyOf(result), accuracyOf(other)];
  const valuesOf = ({ prediction }: TestResult) => rows.map((row) => prediction(row).values[0] as number);
  const decision = compare({
    test_examples: result.evaluation.examples,
    head_accuracy: otherAccuracy,
    fine_tuned_accuracy: accuracy,
    only_head: broken.length,
    only_fine_tuned: fixed.length,
    gain_error:
      targets.kind === "value" ? gainError(Array.from(targets.values), valuesOf(other), valuesOf(result)) : undefined,
  });
  return { accuracy, otherAccuracy, fixed, broken, decision };
}

/** Above 0 if only `result` is right about a row or nearer to its value, below 0 if only `other` is. */
function advantage(targets: Targets, row: number, result: TestResult, other: TestResult): number {
  const [own, others] = [result.prediction(row), other.prediction(row)];
  if (targets.kind !== "value") return Number(own.isCorrect ?? false) - Number(others.isCorrect ?? false);
  const value = targets.values[row] as number;
  const distance = ({ values }: TestPrediction) => Math.abs((values[0] as number) - value);
  return distance(others) - distance(own);
}
