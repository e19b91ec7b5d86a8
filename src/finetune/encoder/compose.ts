/** Makes a delta and a head out of a trained encoder. */
import { baseReader, encodeEncoderDelta } from "../../backbones/fine-tuned-encoder.ts";
import type { EncoderBackbone } from "../../backbones/text-use.ts";
import type { Head } from "../../core/head.ts";
import type { ComposedModel } from "../compose.ts";
import type { FineTunedEncoder } from "./train.ts";

/**
 * The trained layers as a delta, and the head that was trained with them, of the frozen one's labels. It is not calibrated
 * yet: its temperature is 1. `layers` is how many were trained.
 */
export function composeEncoder(
  base: EncoderBackbone,
  frozen: Head,
  { network, mean, deviation }: FineTunedEncoder,
  layers: number,
): ComposedModel {
  const { id, revision, shape, dimensions } = base;
  const outputs = frozen.bias.length;
  const delta = encodeEncoderDelta({
    base: { id, revision },
    layers,
    shape,
    before: baseReader(base),
    after: network.tensor,
  });
  const head: Head = {
    ...frozen,
    weights: network.head
      .weights()
      .slice(0, outputs * dimensions)
      .map((value) => deviation * value),
    bias: network.head
      .bias()
      .slice(0, outputs)
      .map((value) => deviation * value),
    offset: frozen.task === "regression" ? mean : 0,
    temperature: 1,
    outOfScopeThreshold: null,
    scope: null,
    thresholds: [],
    conformal: new Float32Array(0),
  };
  return { delta, parameters: network.trainedParameters, head };
}
