/** The ensemble of the frozen head and the trained layers, on texts that are held out of the training. */
import { fitTemperature, type HeldOutLogits, heldOutLogLoss } from "../core/evaluation/calibration.ts";
import type { Targets } from "../core/linear/targets.ts";

export interface EnsembleData {
  readonly targets: Targets;
  readonly outputs: number;
  /** The numbers of the texts that are held out of the training; empty if a plan tells how long it is. */
  readonly heldOut: readonly number[];
  /** The frozen head's logits of the held-out texts, one after another. */
  readonly headLogits: Float32Array;
}

export interface EnsembleEvaluation {
  /** At the best temperature of the ensemble. */
  readonly loss: number;
  readonly accuracy: number;
  readonly headTemperature: number;
  readonly layersTemperature: number;
}

/** Evaluates the ensemble on the held-out texts. Each expert has the temperature that is best for it alone. */
export function* evaluateEnsemble(
  { targets, heldOut, outputs, headLogits }: EnsembleData,
  layersLogits: Float32Array,
  share: number,
): Generator<number, EnsembleEvaluation, void> {
  if (targets.kind === "value") {
    let squares = 0;
    for (const [i, row] of heldOut.entries()) {
      const value = (1 - share) * (headLogits[i] as number) + share * (layersLogits[i] as number);
      squares += (value - (targets.values[row] as number)) ** 2;
    }
    return { loss: squares / heldOut.length, accuracy: 0, headTemperature: 1, layersTemperature: 1 };
  }
  const all = Array.from(heldOut.keys());
  const toHeldOut = (logits: Float32Array): HeldOutLogits => ({ rows: Int32Array.from(heldOut), logits, outputs });
  const headTemperature = yield* fitTemperature(targets, toHeldOut(headLogits), all);
  const layersTemperature = yield* fitTemperature(targets, toHeldOut(layersLogits), all);
  const [headFactor, layersFactor] = [(1 - share) / headTemperature, share / layersTemperature];
  const logits = headLogits.map((z, i) => headFactor * z + layersFactor * (layersLogits[i] as number));
  // Experts that agree may be more certain than either alone. The loss is therefore taken at its best temperature.
  const temperature = yield* fitTemperature(targets, toHeldOut(logits), all);
  const loss = heldOutLogLoss(targets, toHeldOut(logits), all, temperature);
  return { loss, accuracy: accuracyOf(targets, heldOut, logits, outputs), headTemperature, layersTemperature };
}

/** The share of rows whose predicted labels are right. */
export function accuracyOf(
  targets: Exclude<Targets, { kind: "value" }>,
  rows: readonly number[],
  logits: Float32Array,
  outputs: number,
): number {
  const isCorrect = (row: number, z: Float32Array) => {
    if (targets.kind === "single") return z.indexOf(Math.max(...z)) === targets.indices[row];
    const positive = new Set(targets.indices[row]);
    return z.every((logit, k) => logit >= 0 === positive.has(k));
  };
  return rows.filter((row, i) => isCorrect(row, logits.subarray(i * outputs, (i + 1) * outputs))).length / rows.length;
}
