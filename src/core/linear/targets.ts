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
export function encodeTargets(
  task: Task,
  targets: readonly Target[],
  outOfScopeLabel: string | null,
  knownLabels?: readonly string[],
): TargetSet {
  if (task === "regression")
    return { labels: [], targets: { kind: "value", values: Float64Array.from(targets as readonly number[]) } };
  const labelTargets = targets as readonly (string | readonly string[])[];
  const labels = knownLabels ?? [...new Set(labelTargets.flat())].filter((label) => label !== outOfScopeLabel).sort();
  const labelIndex = new Map(labels.map((label, i) => [label, i]));
  const indexOf = (label: string) => labelIndex.get(label) ?? -1;
  return {
    labels,
    targets:
      task === "single_label"
        ? { kind: "single", indices: Int32Array.from(labelTargets, (label) => indexOf(label as string)) }
        : {
            kind: "multi",
            indices: labelTargets.map((list) => (list as readonly string[]).map(indexOf).filter((label) => label >= 0)),
          },
  };
}
