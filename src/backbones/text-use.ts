/**
 * text-use-1: a static embedding (text-static.ts) beside that of a sentence encoder (sentence-encoder/), which knows the
 * order of words. Each has unit norm, and reads the text with its spelling corrected (spelling.ts): what a misspelt word has
 * in common with the word that is meant, neither knows well enough.
 *
 *   embedding = (static(text), encoder(text)) / √2
 */
import type { Backbone, EmbedResult, WordSum } from "./backbone.ts";
import { type EncoderShape, encoderLayout } from "./sentence-encoder/layout.ts";
import { BLOCK_TOKENS, type EncoderNetwork, encoderNetwork } from "./sentence-encoder/network.ts";
import { unigramTokenizer } from "./sentence-encoder/tokenizer.ts";
import { correctSpelling } from "./spelling.ts";
import type { StaticBackbone } from "./text-static.ts";

/** A model's config.json. */
export interface EncoderConfig extends EncoderShape {
  readonly id: string;
  readonly revision: string;
  readonly license: string;
  readonly parameters: number;
}

export interface EncoderFiles {
  readonly kernels: WebAssembly.Module;
  /** The whole of a buffer, which is detached when the weights have been copied. */
  readonly weights: Uint8Array<ArrayBuffer>;
}

/** The kernels and weights of an encoder, loaded. */
export interface Encoder {
  readonly kernels: WebAssembly.Module;
  readonly network: EncoderNetwork;
}

/** A static backbone beside a sentence encoder. */
export interface EncoderBackbone extends Backbone {
  readonly base: StaticBackbone;
  readonly wordSum: WordSum;
  readonly shape: EncoderShape;
  /** Loads the encoder once. Throws if its weights do not match the configuration, as `embed` does. */
  encoder(): Encoder;
  /** The pieces that the encoder reads of a text whose spelling has been corrected. */
  tokenize(text: string): number[];
}

export function isEncoder(backbone: Backbone): backbone is EncoderBackbone {
  return backbone.kind === "sentence_encoder";
}

/** The backbone of a static one and an encoder. The first call of `embed` loads the encoder's files. */
export function textUseBackbone(
  base: StaticBackbone,
  config: EncoderConfig,
  vocabulary: string,
  loadFiles: () => EncoderFiles,
): EncoderBackbone {
  const tokenize = unigramTokenizer(vocabulary);
  let loadedEncoder: Encoder | undefined;
  const loadEncoder = () => {
    const { kernels, weights } = loadFiles();
    const network = encoderNetwork(kernels, config, weights);
    // The network has a copy, and an isolate has little memory.
    weights.buffer.transfer(0);
    return { kernels, network };
  };
  const encoder = () => {
    loadedEncoder ??= loadEncoder();
    return loadedEncoder;
  };
  return {
    base,
    shape: config,
    encoder,
    tokenize,
    id: config.id,
    // The embeddings depend on the files of both, and spelling is corrected by the vocabulary of the base.
    revision: `${base.revision}-${config.revision}`,
    modality: "text",
    dimensions: base.dimensions + (config.widths.at(-1) ?? 0),
    kind: "sentence_encoder",
    license: `${config.license} AND ${base.license}`,
    parameters: base.parameters + config.parameters,
    bytes: base.bytes + encoderLayout(config).bytes + Buffer.byteLength(vocabulary),
    cost: "local_cached",
    embed: (inputs) => embedByNetwork({ base, tokenize }, encoder().network, inputs),
    wordSum: {
      dimensions: base.dimensions,
      read: (text) => correctSpelling(text, base.table().vocabulary),
      multiply: (words, directions) =>
        base.wordSum
          .multiply(words, directions)
          ?.map((products) => products.map((product) => product * Math.SQRT1_2)) ?? null,
    },
  };
}

/** The embeddings of a static backbone and of an encoder's network, beside each other. */
export async function embedByNetwork(
  { base, tokenize }: Pick<EncoderBackbone, "base" | "tokenize">,
  network: EncoderNetwork,
  inputs: readonly string[],
): Promise<EmbedResult> {
  const texts = correctTexts(base, inputs);
  const { rows: baseRows, failure } = await base.embed(texts);
  const rows = encodeTexts(network, texts.map(tokenize));
  return {
    rows: rows.map((row, i) => concatenate(baseRows[i] ?? new Float32Array(base.dimensions), row)),
    failure,
  };
}

/** Texts as both read them. */
export function correctTexts(base: StaticBackbone, inputs: readonly string[]): string[] {
  const { vocabulary: ranks } = base.table();
  return inputs.map((input) => correctSpelling(input, ranks));
}

/** The encoder's rows of tokenized texts, as many in one pass as it takes. */
function encodeTexts(network: EncoderNetwork, texts: readonly (readonly number[])[]): Float32Array[] {
  const rows: Float32Array[] = [];
  let block: (readonly number[])[] = [];
  let tokens = 0;
  for (const text of texts) {
    const length = Math.min(text.length, network.maxTokens);
    if (tokens + length > BLOCK_TOKENS) {
      rows.push(...network.encode(block));
      block = [];
      tokens = 0;
    }
    block.push(text);
    tokens += length;
  }
  return [...rows, ...network.encode(block)];
}

/** Two rows of unit norm, as one. */
function concatenate(a: Float32Array, b: Float32Array): Float32Array {
  const row = new Float32Array(a.length + b.length);
  row.set(a);
  row.set(b, a.length);
  return row.map((value) => value * Math.SQRT1_2);
}
