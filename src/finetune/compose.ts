/** Makes of a frozen head and trained layers a backbone's delta, and the head on it. */
import { encodeDelta, type FineTunedWeights, WINDOW } from "../backbones/fine-tuned.ts";
import type { Head } from "../core/head.ts";
import type { FineTunedNetwork } from "./train.ts";

export interface ComposedModel {
  readonly delta: Uint8Array;
  /** How many numbers were trained, the head's left out. */
  readonly parameters: number;
  /** On the embedding with the features beside it. Nothing is calibrated yet: its temperature is 1. */
  readonly head: Head;
}

/**
 * Both experts' logits are sums of products with what the backbone gives, so their weighted mean is one head. Features are
 * given the mean length 1, as the embedding before them has, so that other heads find both of one size.
 */
export function composeModel(
  base: FineTunedWeights["base"],
  frozen: Head,
  fineTunedNetwork: FineTunedNetwork,
  textIndices: readonly number[],
): ComposedModel {
  const { network, vocabulary, plan, share, mean, deviation } = fineTunedNetwork;
  const { dimensions: d, filters, outputs, trainedCount } = network.shape;
  const factor = 1 / meanNorm(fineTunedNetwork, textIndices);
  const { kernel, weights, filterBias, bias } = network.layers();
  const rows = network.rows().slice(0, trainedCount * d);
  const delta = encodeDelta({
    base,
    dimensions: d,
    scale: vocabulary.scale,
    vocabulary: vocabulary.keys.slice(0, trainedCount),
    rows,
    // A maximum of products grows as its kernel does.
    kernel: kernel.map((value) => factor * value),
    bias: filterBias.map((value) => factor * value),
  });

  const headFactor = (1 - share) / plan.headTemperature;
  const layersFactor = (share * deviation) / plan.layersTemperature;
  const width = frozen.dimensions + filters;
  const headWeights = new Float32Array(outputs * width);
  for (let k = 0; k < outputs; k++) {
    for (let j = 0; j < frozen.dimensions; j++)
      headWeights[k * width + j] = headFactor * (frozen.weights[k * frozen.dimensions + j] as number);
    for (let f = 0; f < filters; f++)
      headWeights[k * width + frozen.dimensions + f] = (layersFactor / factor) * (weights[k * filters + f] as number);
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
    conformal: new Float32Array(0),
  };
  return { delta, parameters: trainedCount * d + filters * (WINDOW * d + 1), head };
}

/** Of the features of so many of the texts as tell it. */
function meanNorm({ network, vocabulary }: FineTunedNetwork, textIndices: readonly number[]): number {
  const { filters, batchSize } = network.shape;
  const sample = textIndices.slice(0, batchSize).map(vocabulary.wordIds);
  const { features } = network.forward(sample);
  let sum = 0;
  sample.forEach((_, i) => {
    sum += Math.hypot(...features.subarray(i * filters, (i + 1) * filters));
  });
  return sum / Math.max(1, sample.length) || 1;
}
