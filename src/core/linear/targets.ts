/** The targets of a training set, and what is counted from them: row weights and strata. */
import type { Task } from "../head.ts";

/** What an example is to be predicted as: a label, any number of labels or a value, depending on the task. */
export type Target = string | readonly string[] | number;

/**
 * The targets of all rows.
 *
 * - single: the index of each row's label, or −1 for an out-of-scope row, which is never trained on and only sets the
 *   threshold
 * - multi: the label indices of each row
 * - value: the value of each row
 */
export type Targets =
  | { readonly kind: "single"; readonly indices: Int32Array }
  | { readonly kind: "multi"; readonly indices: readonly (readonly number[])[] }
  | { readonly kind: "value"; readonly values: Float64Array };

export interface TargetSet {
  readonly labels: readonly string[];
  readonly targets: Targets;
}

/**
 * The labels, and each row's target as indices into them. The labels are `knownLabels`, or those of all targets,
 * sorted. The out-of-scope label and labels that are not known have no index.
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

/**
 * Values less their mean, which is returned as `offset`: around zero, 32-bit logits keep what sets the values apart.
 * Labels stay as they are.
 */
export function centreTargets(targets: Targets): { targets: Targets; offset: number } {
  if (targets.kind !== "value") return { targets, offset: 0 };
  const offset = targets.values.reduce((sum, value) => sum + value / targets.values.length, 0);
  return { targets: { kind: "value", values: targets.values.map((value) => value - offset) }, offset };
}

/** The targets of some rows. */
export function pickTargets(targets: Targets, rows: readonly number[]): Targets {
  switch (targets.kind) {
    case "single":
      return { kind: "single", indices: Int32Array.from(rows, (row) => targets.indices[row] as number) };
    case "multi":
      return { kind: "multi", indices: rows.map((row) => targets.indices[row] ?? []) };
    case "value":
      return { kind: "value", values: Float64Array.from(rows, (row) => targets.values[row] as number) };
  }
}

/**
 * Each row's weight: 0 for out-of-scope rows, else 1, or scikit-learn's "balanced": rows / (classes × rows of the
 * class).
 */
export function rowWeights(
  targets: Targets,
  rows: number,
  labels: number,
  classWeight: "balanced" | null,
): Float64Array {
  if (targets.kind !== "single") return new Float64Array(rows).fill(1);
  const counts = new Float64Array(labels);
  let total = 0;
  for (const label of targets.indices) {
    if (label < 0) continue;
    counts[label] = (counts[label] as number) + 1;
    total++;
  }
  const present = counts.reduce((sum, count) => sum + (count > 0 ? 1 : 0), 0);
  return Float64Array.from(targets.indices, (label) => {
    if (label < 0) return 0;
    return classWeight === "balanced" ? total / (present * (counts[label] as number)) : 1;
  });
}

/** Each row's class, by which rows are spread over the folds. A multi-label row belongs to its rarest label. */
export function strataOf(targets: Targets, labels: number): Int32Array {
  switch (targets.kind) {
    case "single":
      return targets.indices;
    case "value":
      return new Int32Array(targets.values.length).fill(-1);
    case "multi": {
      const counts = new Int32Array(labels);
      for (const label of targets.indices.flat()) counts[label] = (counts[label] as number) + 1;
      return Int32Array.from(targets.indices, (row) =>
        row.reduce(
          (rarest, label) => (rarest < 0 || (counts[label] as number) < (counts[rarest] as number) ? label : rarest),
          -1,
        ),
      );
    }
  }
}

/** Each output's share of the weighted rows (single and multi). Half a row is added to each, so that none is 0 or 1. */
export function priors(targets: Targets, weights: Float64Array, outputs: number): Float64Array {
  const shares = new Float64Array(outputs).fill(0.5);
  let total = 1;
  for (let row = 0; row < weights.length; row++) {
    const weight = weights[row] as number;
    if (weight === 0) continue;
    total += weight;
    const labels =
      targets.kind === "single"
        ? [targets.indices[row] as number]
        : targets.kind === "multi"
          ? (targets.indices[row] ?? [])
          : [];
    for (const k of labels) shares[k] = (shares[k] as number) + weight;
  }
  return shares.map((share) => share / total);
}
