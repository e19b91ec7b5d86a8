/** Fine-tuned backbones of each kind: a delta over a shared backbone whose layers jobs can train. */
import type { Backbone } from "./backbone.ts";
import { decodeEncoderDelta, type EncoderDelta, fineTunedEncoder } from "./fine-tuned-encoder.ts";
import { type Delta, decodeDelta, fineTunedBackbone, residentBytes } from "./fine-tuned-static.ts";
import { layerNames } from "./sentence-encoder/layout.ts";
import { networkBytes } from "./sentence-encoder/network.ts";
import { isStatic, type StaticBackbone } from "./text-static.ts";
import { type EncoderBackbone, isEncoder } from "./text-use.ts";

export type TrainableBackbone = StaticBackbone | EncoderBackbone;

/** Of a static backbone: the convolution, and the rows of words. */
const STATIC_LAYERS = 2;

export function isTrainable(backbone: Backbone): backbone is TrainableBackbone {
  return isStatic(backbone) || isEncoder(backbone);
}

/** How many layers of a backbone a job can train, from the last. */
export function trainableLayers(backbone: TrainableBackbone): number {
  return isEncoder(backbone) ? layerNames(backbone.shape).length : STATIC_LAYERS;
}

/** Reads a delta of any kind; null if the bytes are none. */
export function readDelta(bytes: Uint8Array): Delta | EncoderDelta | null {
  return decodeDelta(bytes) ?? decodeEncoderDelta(bytes);
}

/** A fine-tuned backbone, and about what it takes in memory beside its base. */
export interface LoadedBackbone {
  readonly backbone: Backbone;
  readonly residentBytes: number;
}

/** The backbone of a delta over its base; null if they do not belong together. `bytes` is the delta's size. */
export function loadDelta(
  base: TrainableBackbone,
  ref: Pick<Backbone, "id" | "revision">,
  delta: Delta | EncoderDelta,
  bytes: number,
): LoadedBackbone | null {
  if ("tensors" in delta) {
    if (!isEncoder(base)) return null;
    const backbone = fineTunedEncoder(base, ref, delta, bytes);
    return backbone && { backbone, residentBytes: networkBytes(base.shape) };
  }
  if (!isStatic(base) || delta.dimensions !== base.dimensions) return null;
  return { backbone: fineTunedBackbone(base, ref, delta, bytes), residentBytes: residentBytes(delta, bytes) };
}
