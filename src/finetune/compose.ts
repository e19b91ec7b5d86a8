/** Makes of a frozen head and trained layers a backbone's delta, and the head on it. */
import { encodeDelta, type FineTuned } from "../backbones/fine-tuned.ts";
import type { Head } from "../core/head.ts";
import { WINDOW } from "./network.ts";
import type { FineTunedNetwork } from "./train.ts";

export interface Composed {
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
export function compose(
  base: FineTuned["base"],
  frozen: Head,
  tuned: FineTunedNetwork,
  texts: readonly number[],
): Composed {
  const { network, words, plan, share, mean, deviation } = tuned;
  const { dimensions: d, filters, outputs, trained } = network.shape;
  const factor = 1 / meanLength(tuned, texts);
  const { kernel, weights, filterBias, bias } = network.layers();
  const rows = network.rows().slice(0, trained * d);
  const delta = encodeDelta({
    base,
    dimensions: d,
    scale: words.scale,
    names: words.names.slice(0, trained),
    rows,
    // A maximum of products grows as its kernel does.
    kernel: kernel.map((value) => factor * value),
    bias: filterBias.map((value) => factor * value),
  });

  const ofHead = (1 - share) / plan.headTemperature;
  const ofLayers = (share * deviation) / plan.layersTemperature;
  const width = frozen.dimensions + filters;
  const joined = new Float32Array(outputs * width);
  for (let k = 0; k < outputs; k++) {
    for (let j = 0; j < frozen.dimensions; j++)
      joined[k * width + j] = ofHead * (frozen.weights[k * frozen.dimensions + j] as number);
    for (let f = 0; f < filters; f++)
      joined[k * width + frozen.dimensions + f] = (ofLayers / factor) * (weights[k * filters + f] as number);
  }
  const { lexical } = frozen;
  const head: Head = {
    ...frozen,
    dimensions: width,
    weights: joined,
    bias: frozen.bias.map((value, k) => ofHead * value + ofLayers * (bias[k] as number)),
    lexical: lexical && { ...lexical, scales: lexical.scales.map((value) => ofHead * value) },
    offset: frozen.task === "regression" ? (1 - share) * frozen.offset + share * mean : 0,
    temperature: 1,
    outOfScopeThreshold: null,
    conformal: new Float32Array(0),
  };
  return { delta, parameters: trained * d + filters * (WINDOW * d + 1), head };
}

/** Of the features of so many of the texts as tell it. */
function meanLength({ network, words }: FineTunedNetwork, texts: readonly number[]): number {
  const { filters, batch } = network.shape;
  const some = texts.slice(0, batch).map(words.text);
  const { features } = network.forward(some);
  let sum = 0;
  some.forEach((_, i) => {
    sum += Math.hypot(...features.subarray(i * filters, (i + 1) * filters));
  });
  return sum / Math.max(1, some.length) || 1;
}
