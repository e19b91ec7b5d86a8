/**
 * Cross-fitting: each part of the held-out examples is evaluated at the temperature that is fitted on the other parts.
 */
import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import type { Targets } from "../linear/targets.ts";
import type { Steps } from "../steps.ts";
import { fitTemperature, type HeldOutLogits, heldOutLogLoss, heldOutProbabilities } from "./calibration.ts";

export interface HeldOutEntry {
  /** Its row in the held-out logits. */
  readonly index: number;
  readonly part: number;
}

/** For each part, the temperature fitted on the entries of the other parts. */
export function* crossFitTemperatures(
  targets: Targets,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  entries: readonly HeldOutEntry[],
): Steps<ReadonlyMap<number, number>> {
  const temperatures = new Map<number, number>();
  for (const part of new Set(parts)) {
    const others = entries.filter((entry) => entry.part !== part);
    temperatures.set(part, yield* fitTemperature(targets, heldOut, indicesOf(others)));
  }
  return temperatures;
}

/** The log loss of all entries, each at its part's temperature. */
export function crossFitLogLoss(
  targets: Targets,
  heldOut: HeldOutLogits,
  entries: readonly HeldOutEntry[],
  temperatures: ReadonlyMap<number, number>,
): number {
  let sum = 0;
  for (const [part, temperature] of temperatures) {
    const partEntries = entries.filter((entry) => entry.part === part);
    sum += heldOutLogLoss(targets, heldOut, indicesOf(partEntries), temperature) * partEntries.length;
  }
  return sum / Math.max(1, entries.length);
}

export function indicesOf(entries: readonly HeldOutEntry[]): number[] {
  return entries.map(({ index }) => index);
}

/** Operations between two yields. */
const OPERATIONS_PER_YIELD = 1e8;

/** Calls `visit` with the probabilities of each entry at the temperature that `temperatureOf` gives it. */
export function* visitProbabilities<Entry extends HeldOutEntry>(
  kind: "single" | "multi",
  heldOut: HeldOutLogits,
  entries: readonly Entry[],
  temperatureOf: (entry: Entry) => number,
  visit: (probabilities: Float64Array, entry: Entry) => void,
): Steps<void> {
  let operations = 0;
  for (const entry of entries) {
    visit(heldOutProbabilities(kind, heldOut, entry.index, temperatureOf(entry)), entry);
    operations += heldOut.outputs * OPERATIONS_PER_LOGIT;
    if (operations < OPERATIONS_PER_YIELD) continue;
    yield operations;
    operations = 0;
  }
  yield operations;
}
