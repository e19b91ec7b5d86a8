import { readFileSync } from "node:fs";
import { join } from "node:path";
import config from "../../models/text-static-1/config.json" with { type: "json" };
import encoderConfig from "../../models/text-use-1/config.json" with { type: "json" };
import type { Backbone } from "./backbone.ts";
import { staticBackbone } from "./text-static.ts";
import { textUseBackbone } from "./text-use.ts";

const models = join(import.meta.dirname, "../../models");
const readText = (file: string) => readFileSync(join(models, file), "utf8");

/** text-static-1 in Node, from its files. */
export const textStatic = staticBackbone(
  config,
  readText("text-static-1/vocabulary.txt"),
  readFileSync(join(models, "text-static-1/table.bin")),
);

/** The types of workerd lack it, because compiling at run time is forbidden there. */
const { Module } = WebAssembly as unknown as { Module: new (bytes: Uint8Array) => WebAssembly.Module };

/** text-use-1 in Node. Its weights are read when it first embeds. */
export const textUse = textUseBackbone(textStatic, encoderConfig, readText("text-use-1/vocabulary.txt"), () => ({
  kernels: new Module(readFileSync(join(import.meta.dirname, "sentence-encoder/kernels.wasm"))),
  weights: readFileSync(join(models, "text-use-1/weights.bin")),
}));

/** The backbones that come with the project and have weights. */
export const bundledBackbones: readonly Backbone[] = [textStatic, textUse];
