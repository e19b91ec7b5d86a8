import config from "../../models/text-static-1/config.json" with { type: "json" };
import table from "../../models/text-static-1/table.bin";
import vocabulary from "../../models/text-static-1/vocabulary.txt";
import encoderConfig from "../../models/text-use-1/config.json" with { type: "json" };
import encoderVocabulary from "../../models/text-use-1/vocabulary.txt";
import weights from "../../models/text-use-1/weights.bin";
import type { Backbone } from "./backbone.ts";
import { AUTO } from "./index.ts";
import kernels from "./sentence-encoder/kernels.wasm";
import { staticBackbone } from "./text-static.ts";
import { textUseBackbone } from "./text-use.ts";

/** text-static-1 in workerd, where its files are modules of the Worker. */
export const textStatic = staticBackbone(config, vocabulary, new Uint8Array(table));

/** text-use-1 in workerd. */
export const textUse = textUseBackbone(textStatic, encoderConfig, encoderVocabulary, () => ({
  kernels,
  weights: new Uint8Array(weights),
}));

/** The backbones that come with the project and have weights. */
export const bundledBackbones: readonly Backbone[] = [textStatic, textUse];

/**
 * The backbones that a training by default may use and that take milliseconds a text, so that datasets are embedded ahead
 * of it. `defaultBackbone` is this instance's setting; without one, or with `AUTO`, a training may use text-use-1.
 */
export function backbonesToEmbedAhead(defaultBackbone: string | undefined): readonly Backbone[] {
  const id = (defaultBackbone ?? AUTO) === AUTO ? textUse.id : defaultBackbone;
  return bundledBackbones.filter((backbone) => backbone.id === id && backbone.cost === "local_cached");
}
