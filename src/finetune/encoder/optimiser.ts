/** The steps of AdamW for groups of numbers, and copies of what these change. */
import { ADAM, biasCorrection } from "../adam.ts";
import type { Workspace } from "../kernels.ts";
import type { Group } from "./parameters.ts";

const MAX_GRADIENT_NORM = 1;
/** What steps change of each group. */
const STATE = ["values", "means", "squares"] as const;
const SNAPSHOT = ["values"] as const;
type StatePart = (typeof STATE)[number];

export interface Optimiser {
  /**
   * One step for all groups, each with the rate of its name, their gradients scaled to a norm of 1 at most together. Numbers
   * with anchors then go `pull` times the rate of the way back to them.
   */
  step(rates: ReadonlyMap<string, number>, pull: number): void;
  /** A copy of the numbers that are trained. */
  snapshot(): Float32Array[];
  /** A copy of all that steps change: the numbers, as a snapshot has them, then Adam's means and squares. */
  state(): Float32Array[];
  /** Whether arrays are a snapshot, or a state, of these groups. */
  fits(arrays: readonly Float32Array[], kind: "snapshot" | "state"): boolean;
  /** Throws if the snapshot does not fit, as `resume` does. */
  restore(snapshot: readonly Float32Array[]): void;
  /** Takes over the state of groups after so many steps. */
  resume(state: readonly Float32Array[], steps: number): void;
}

export function makeOptimiser({ kernels, floats }: Workspace, groups: readonly Group[]): Optimiser {
  let steps = 0;
  const stretches = (parts: readonly StatePart[]) =>
    parts.flatMap((part) => groups.map((group) => ({ offset: group[part], count: group.count })));
  const copy = (parts: readonly StatePart[]) =>
    stretches(parts).map(({ offset, count }) => floats(offset, count).slice());
  const fits = (arrays: readonly Float32Array[], parts: readonly StatePart[]) => {
    const counts = stretches(parts).map(({ count }) => count);
    return arrays.length === counts.length && arrays.every(({ length }, i) => length === counts[i]);
  };
  const write = (arrays: readonly Float32Array[], parts: readonly StatePart[]) => {
    if (!fits(arrays, parts)) throw new Error("These are not the arrays of this network.");
    for (const [i, { offset, count }] of stretches(parts).entries()) floats(offset, count).set(arrays[i] ?? []);
  };
  return {
    step(rates, pull) {
      const squares = groups.reduce((sum, { count, gradients }) => sum + kernels.sumSquares(count, gradients), 0);
      const norm = Math.sqrt(squares);
      const correction = biasCorrection(++steps);
      for (const { name, count, values, gradients, means, squares: second, anchors } of groups) {
        if (norm > MAX_GRADIENT_NORM) kernels.shrink(gradients, count, MAX_GRADIENT_NORM / norm);
        const rate = rates.get(name) ?? 0;
        kernels.adam(values, means, second, gradients, count, rate * correction, ...ADAM);
        if (anchors !== null) kernels.pull(count, values, anchors, rate * pull);
      }
    },
    snapshot: () => copy(SNAPSHOT),
    state: () => copy(STATE),
    fits: (arrays, kind) => fits(arrays, kind === "state" ? STATE : SNAPSHOT),
    restore: (snapshot) => write(snapshot, SNAPSHOT),
    resume(state, stepsDone) {
      write(state, STATE);
      steps = stepsDone;
    },
  };
}
