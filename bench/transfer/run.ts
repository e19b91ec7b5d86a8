/** One training of the grid, and means over many. */
import { mean } from "../../src/core/evaluation/metrics.ts";

/** From the frozen backbone on. The last layers are the last two of text-use-1, the last one of text-static-1. */
export const methods = ["head", "last layers", "all"] as const;
export type Method = (typeof methods)[number];

/** Examples a class; full: the whole set, or as much of it as the grid takes. */
export const sizes = [5, 10, 20, 50, "full"] as const;
export type Size = (typeof sizes)[number];

/** One training, and the accuracy of its model. */
export interface Run {
  readonly model: string;
  readonly set: string;
  readonly seenInPretraining: boolean;
  readonly size: Size;
  readonly method: Method;
  readonly seed: number;
  readonly examples: number;
  readonly labels: number;
  readonly test: number;
  readonly train: number;
  readonly parameters: number;
  readonly operations: number;
  readonly seconds: number;
}

export type Value = (run: Run) => number;

export const accuracy: Value = ({ test }) => test;
export const gap: Value = ({ train, test }) => train - test;

type Selection = Partial<Pick<Run, "model" | "set" | "size" | "method">>;

export function select(runs: readonly Run[], selection: Selection): Run[] {
  const fields = Object.entries(selection) as [keyof Selection, unknown][];
  return runs.filter((run) => fields.every(([field, value]) => run[field] === value));
}

export function setsOf(runs: readonly Run[]): string[] {
  return [...new Set(runs.map(({ set }) => set))];
}

/** The mean over the sets of the mean over a set's draws; null if there are none. */
export function meanBySet(runs: readonly Run[], value: Value): number | null {
  const bySet = [...Map.groupBy(runs, ({ set }) => set).values()];
  return bySet.length === 0 ? null : mean(bySet.map((group) => mean(group.map(value))));
}

export interface Gain {
  readonly set: string;
  readonly gain: number;
}

/** The test accuracy of one method above another's, for each set that has both. */
export function gainsBySet(runs: readonly Run[], size: Size, method: Method, over: Method = "head"): Gain[] {
  return setsOf(runs).flatMap((set) => {
    const value = meanBySet(select(runs, { set, size, method }), accuracy);
    const base = meanBySet(select(runs, { set, size, method: over }), accuracy);
    return value === null || base === null ? [] : [{ set, gain: value - base }];
  });
}
