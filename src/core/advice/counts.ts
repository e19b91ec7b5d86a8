/** What is counted of a dataset's labels and inputs. */
import type { Targets } from "../linear/targets.ts";

export interface DatasetCounts {
  readonly examples: number;
  readonly examples_per_class: { readonly min: number; readonly median: number; readonly max: number };
  /** The largest class's examples by the smallest's. */
  readonly imbalance: number;
  /** The share of examples whose input another one before has. */
  readonly duplicates: number;
  /** The share of examples whose input another one has with another label. */
  readonly conflicts: number;
}

/** @param groups rows of a group have the same input */
export function countDataset(targets: Targets, labels: number, groups: Int32Array): DatasetCounts {
  const counts = new Array<number>(labels).fill(0);
  const keys: string[] = [];
  for (let row = 0; row < groups.length; row++) {
    const own = targets.kind === "value" ? [] : [targets.indices[row] ?? []].flat();
    for (const label of own) if (label >= 0) counts[label] = (counts[label] ?? 0) + 1;
    keys.push(targets.kind === "value" ? String(targets.values[row]) : [...own].sort((a, b) => a - b).join());
  }
  const sorted = counts.sort((a, b) => a - b);
  const [min = 0, max = 0] = [sorted[0], sorted.at(-1)];
  const rowsOf = Map.groupBy(groups.keys(), (row) => groups[row]);
  let [repeated, conflicting] = [0, 0];
  for (const rows of rowsOf.values()) {
    repeated += rows.length - 1;
    if (new Set(rows.map((row) => keys[row])).size > 1) conflicting += rows.length;
  }
  const total = Math.max(1, groups.length);
  return {
    examples: groups.length,
    examples_per_class: { min, median: medianOf(sorted), max },
    imbalance: min === 0 ? max : max / min,
    duplicates: repeated / total,
    conflicts: conflicting / total,
  };
}

function medianOf(sorted: readonly number[]): number {
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] ?? 0) + (sorted[Math.ceil(middle)] ?? 0)) / 2;
}
