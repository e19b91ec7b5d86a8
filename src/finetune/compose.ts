/** Makes a delta and a head out of a frozen head and trained layers. */
import { encodeDelta, type FineTunedWeights } from "../backbones/fine-tuned-static.ts";
import { WINDOW } from "../core/fine-tuning-cost.ts";
import type { Head } from "../core/head.ts";
import type { FineTunedNetwork } from "./train.ts";

export interface ComposedModel {
  readonly delta: Uint8Array;
  /** How many numbers were trained, without the head's. */
  readonly parameters: number;
  /** Reads the embedding and the features after it. It is not calibrated yet: its temperature is 1. */
  readonly head: Head;
}

/**
 * The frozen head and the trained layers form a two-expert ensemble. Each expert's logits are divided by its own
 * temperature; both are linear in the embedding and the features, so their weighted mean is stored as one linear head over
 * these (512 numbers for text-static-1). The features are scaled to the mean length 1 that the embedding has, so that other
 * heads on this backbone find both of one size.
 *
 * @param textIndices the texts that were trained on
 */
export function composeModel(
  base: FineTunedWeights["base"],
  frozen: Head,
  fineTunedNetwork: FineTunedNetwork,
  textIndices: readonly number[],
): ComposedModel {
  const { network, vocabulary, plan, share, mean, deviation } = fineTunedNetwork;
  const { dimensions: d, filters, outputs, trainedCount } = network.shape;
  const factor = 1 / meanFeatureNorm(fineTunedNetwork, textIndices);
  const { kernel, weights, filterBias, bias } = network.layers();
  const rows = network.rows().slice(0, trainedCount * d);
  const delta = encodeDelta({
    base,
    dimensions: d,
    scale: vocabulary.scale,
    vocabulary: vocabulary.keys.slice(0, trainedCount),
    rows,
    // Features are proportional to kernel and bias.
    kernel: kernel.map((value) => factor * value),
    bias: filterBias.map((value) => factor * value),
  });

  const headFactor = (1 - share) / plan.headTemperature;
  const layersFactor = (share * deviation) / plan.layersTemperature;
  const width = frozen.dimensions + filters;
  const headWeights = new Float32Array(outputs * width);
  for (let k = 0; k < outputs; k++) {
    const headRow = frozen.weights.subarray(k * frozen.dimensions, (k + 1) * frozen.dimensions);
    const layersRow = weights.subarray(k * filters, (k + 1) * filters);
    const scaledHeadRow = headRow.map((value) => headFactor * value);
    const scaledLayersRow = layersRow.map((value) => (layersFactor / factor) * value);
    headWeights.set(scaledHeadRow, k * width);
    headWeights.set(scaledLayersRow, k * width + frozen.dimensions);
  }
  const { lexical } = frozen;
  const head: Head = {
    ...frozen,
    dimensions: width,
    weights: headWeights,
    bias: frozen.bias.map((value, k) => headFactor * value + layersFactor * (bias[k] as number)),
    lexical: lexical && { ...lexical, scales: lexical.scales.map((value) => headFactor * value) },
    offset: frozen.task === "regression" ? (1 - share) * frozen.offset + share * mean : 0,
    temperature: 1,
    outOfScopeThreshold: null,
    scope: null,
    thresholds: [],
    conformal: new Float32Array(0),
  };
  return { delta, parameters: trainedCount * d + filters * (WINDOW * d + 1), head };
}

/** The mean length of the features of one batch of the texts. */
function meanFeatureNorm({ network, vocabulary }: FineTunedNetwork, textIndices: readonly number[]): number {
  const { filters, batchSize } = network.shape;
  const sample = textIndices.slice(0, batchSize).map(vocabulary.wordIds);
  const { features } = network.forward(sample);
  let sum = 0;
  sample.forEach((_, i) => {
    sum += Math.hypot(...features.subarray(i * filters, (i + 1) * filters));
  });
  return sum / Math.max(1, sample.length) || 1;
}
