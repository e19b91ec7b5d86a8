/** Examples' targets as a training takes them. */
import type { Task } from "../head.ts";
import type { TrainingSet } from "./train.ts";

/** What an example is to be predicted as: a label, any number of labels or a value, as the task wants. */
export type Target = string | readonly string[] | number;

export interface TargetSet {
  readonly labels: readonly string[];
  readonly targets: TrainingSet["targets"];
}

/**
 * Sorted labels, or those `among` which to look, and each row's target in terms of them; rows of the out-of-scope label, or
 * of one that is not among them, belong to none.
 */
export function readTargets(
  task: Task,
  given: readonly Target[],
  outOfScopeLabel: string | null,
  among?: readonly string[],
): TargetSet {
  if (task === "regression")
    return { labels: [], targets: { kind: "value", values: Float64Array.from(given as readonly number[]) } };
  const known = given as readonly (string | readonly string[])[];
  const labels = among ?? [...new Set(known.flat())].filter((label) => label !== outOfScopeLabel).sort();
  const index = new Map(labels.map((label, i) => [label, i]));
  const at = (label: string) => index.get(label) ?? -1;
  return {
    labels,
    targets:
      task === "single_label"
        ? { kind: "single", indices: Int32Array.from(known, (label) => at(label as string)) }
        : {
            kind: "multi",
            indices: known.map((list) => (list as readonly string[]).map(at).filter((label) => label >= 0)),
          },
  };
}
