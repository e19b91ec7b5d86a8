/**
 * A static backbone that was fine-tuned for a tenant, as a delta over the shared base: new rows for the words of its
 * examples, and a convolution over the words of a text (src/finetune/network.ts). The embedding is the base's, followed by
 * the output of each filter:
 *
 *   (base(text), h)    h_f = max(0, c_f + max_t K_f · (x_{t−1}, x_t, x_{t+1}))
 *                      x_t: the row of word t, zeros beyond the text
 *
 * A word without a row in the delta has the base's row, times `scale`. K_f is a scale times eight-bit integers.
 *
 *   delta   "GFT1" | u32 bytes of JSON | u32 bytes of names | JSON | names | filters × f32 scale | filters × f32 c |
 *           filters × 3 dimensions × i8 | a static table without n-grams (text-static.ts)
 *           little-endian; the JSON and the names (one a line) are each padded with spaces to a multiple of 4
 */
import { WINDOW } from "../core/fine-tuning-cost.ts";
import { splitWords } from "../core/text/words.ts";
import type { Backbone } from "./backbone.ts";
import { quantise } from "./quantise.ts";
import { vocabularyKey } from "./subwords.ts";
import { encode, readTable, type StaticBackbone, type StaticTable, wordVector } from "./text-static.ts";

const MAGIC = 0x31544647;
const HEADER = 12;
/** How many words' products with the kernel are cached. A language's most frequent words make up most of a text. */
const MAX_CACHED_WORDS = 1024;

interface DeltaHeader {
  readonly base: { readonly id: string; readonly revision: string };
  /** The base's dimensions. */
  readonly dimensions: number;
  readonly scale: number;
  readonly filters: number;
}

export interface Delta extends DeltaHeader {
  readonly rows: StaticTable;
  /** filters × 3 dimensions. */
  readonly kernel: Float32Array;
  readonly bias: Float32Array;
}

/** A training's result. `rows` has the row of each name of `vocabulary`, in its order. */
export interface FineTunedWeights extends Pick<DeltaHeader, "base" | "dimensions" | "scale"> {
  readonly vocabulary: readonly string[];
  readonly rows: Float32Array;
  readonly kernel: Float32Array;
  readonly bias: Float32Array;
}

export function encodeDelta({ base, dimensions, scale, vocabulary, rows, kernel, bias }: FineTunedWeights): Uint8Array {
  const filters = bias.length;
  const header: DeltaHeader = { base: { id: base.id, revision: base.revision }, dimensions, scale, filters };
  const json = padTo4Bytes(JSON.stringify(header));
  const namesBytes = padTo4Bytes(vocabulary.join("\n"));
  const start = Buffer.alloc(HEADER);
  [MAGIC, json.length, namesBytes.length].forEach((value, i) => {
    start.writeUInt32LE(value, 4 * i);
  });
  const scales = new Float32Array(filters);
  const quantisedKernel = new Int8Array(kernel.length);
  const width = kernel.length / filters;
  for (let f = 0; f < filters; f++) {
    const row = kernel.subarray(f * width, (f + 1) * width);
    const filterScale = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127;
    scales[f] = filterScale;
    row.forEach((value, j) => {
      quantisedKernel[f * width + j] = Math.round(value / (filterScale || 1));
    });
  }
  const table = quantise(rows, { dimensions, vocabulary: vocabulary.length, buckets: 0 });
  const bytes = ({ buffer, byteOffset, byteLength }: Float32Array | Int8Array) =>
    new Uint8Array(buffer, byteOffset, byteLength);
  return new Uint8Array(
    Buffer.concat([start, json, namesBytes, bytes(scales), bytes(bias), bytes(quantisedKernel), table]),
  );
}

/** In UTF-8, padded with spaces to a multiple of four bytes. */
export function padTo4Bytes(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4, " ")]);
}

/** Reads a delta, its table in place; null if the bytes are invalid. */
export function decodeDelta(bytes: Uint8Array): Delta | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER || view.getUint32(0, true) !== MAGIC) return null;
  const namesEnd = HEADER + view.getUint32(4, true);
  const floatsStart = namesEnd + view.getUint32(8, true);
  try {
    const text = (from: number, to: number) =>
      new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(from, to));
    const { base, scale, dimensions, filters } = JSON.parse(text(HEADER, namesEnd)) as DeltaHeader;
    if (typeof base?.id !== "string" || typeof base.revision !== "string" || !Number.isInteger(filters)) return null;
    const floats = (from: number) => new Float32Array(new Uint8Array(bytes.subarray(from, from + 4 * filters)).buffer);
    const scales = floats(floatsStart);
    const bias = floats(floatsStart + 4 * filters);
    const kernelAt = floatsStart + 8 * filters;
    const width = WINDOW * dimensions;
    const rows = readTable(text(namesEnd, floatsStart), bytes.subarray(kernelAt + filters * width));
    const kernel = new Float32Array(filters * width);
    for (const [f, filterScale] of scales.entries())
      for (let i = f * width; i < (f + 1) * width; i++) kernel[i] = view.getInt8(kernelAt + i) * filterScale;
    const finite =
      Number.isFinite(scale) && [scales, bias, rows.scales].every((numbers) => numbers.every(Number.isFinite));
    return finite && rows.dimensions === dimensions && rows.buckets === 0
      ? { base, scale, dimensions, filters, rows, kernel, bias }
      : null;
  } catch {
    return null;
  }
}

/** How many numbers a delta has in addition to its base's. */
export function trainedParameters({ rows, kernel, bias }: Delta): number {
  return rows.vocabulary.size * rows.dimensions + kernel.length + bias.length;
}

/** About what a name takes in a map, besides its characters. */
const NAME_BYTES = 96;

/** About what the backbone of a delta takes in memory, with a full cache. `bytes` is the delta's size. */
export function residentBytes({ rows, kernel, filters }: Delta, bytes: number): number {
  return bytes + NAME_BYTES * rows.vocabulary.size + 4 * (kernel.length + MAX_CACHED_WORDS * WINDOW * filters);
}

/** The backbone of a delta over the base that it names. `bytes` is the delta's size. */
export function fineTunedBackbone(
  base: StaticBackbone,
  { id, revision }: Pick<Backbone, "id" | "revision">,
  delta: Delta,
  bytes: number,
): Backbone {
  const cache = new Map<string, Float32Array>();
  return {
    id,
    revision,
    modality: "text",
    dimensions: base.dimensions + delta.filters,
    kind: "fine_tuned",
    license: base.license,
    parameters: base.parameters + trainedParameters(delta),
    bytes,
    cost: "local",
    embed: async (inputs) => {
      const table = base.table();
      const rows = inputs.map((text) => {
        const embedding = new Float32Array(base.dimensions + delta.filters);
        embedding.set(encode(table, text));
        writeFeatures(embedding.subarray(base.dimensions), table, delta, text, cache);
        return embedding;
      });
      return { rows, failure: null };
    },
    wordSum: base.wordSum,
  };
}

/** Writes h of a text into `features`, which are zeros before. */
function writeFeatures(
  features: Float32Array,
  table: StaticTable,
  delta: Delta,
  text: string,
  cache: Map<string, Float32Array>,
): void {
  const { filters, bias } = delta;
  const wordProducts = splitWords(text).map((word) => computeProducts(table, delta, vocabularyKey(word), cache));
  if (wordProducts.length === 0) return;
  const maxima = new Float64Array(filters).fill(Number.NEGATIVE_INFINITY);
  for (let t = 0; t < wordProducts.length; t++)
    maxPool(maxima, wordProducts[t - 1], wordProducts[t] as Float32Array, wordProducts[t + 1], filters);
  for (let f = 0; f < filters; f++) features[f] = Math.max(0, (maxima[f] as number) + (bias[f] as number));
}

function maxPool(
  maxima: Float64Array,
  previous: Float32Array | undefined,
  current: Float32Array,
  next: Float32Array | undefined,
  filters: number,
): void {
  for (let f = 0; f < filters; f++) {
    let sum = current[filters + f] as number;
    if (previous !== undefined) sum += previous[f] as number;
    if (next !== undefined) sum += next[2 * filters + f] as number;
    if (sum > (maxima[f] as number)) maxima[f] = sum;
  }
}

/** A word's products with the parts of each filter for the word before, the word itself and the word after: 3 × filters. */
function computeProducts(
  table: StaticTable,
  delta: Delta,
  name: string,
  cache: Map<string, Float32Array>,
): Float32Array {
  const cachedProducts = cache.get(name);
  if (cachedProducts !== undefined) return cachedProducts;
  const { filters, kernel, rows, scale } = delta;
  const d = rows.dimensions;
  const isTrained = rows.vocabulary.has(name);
  const x = wordVector(isTrained ? rows : table, name);
  if (!isTrained) for (let j = 0; j < d; j++) x[j] = (x[j] as number) * scale;
  const result = new Float32Array(WINDOW * filters);
  for (let f = 0; f < filters; f++)
    for (let o = 0; o < WINDOW; o++) result[o * filters + f] = dot(kernel, (f * WINDOW + o) * d, x);
  if (cache.size === MAX_CACHED_WORDS) cache.clear();
  cache.set(name, result);
  return result;
}

function dot(kernel: Float32Array, from: number, x: Float64Array): number {
  let sum = 0;
  for (let j = 0; j < x.length; j++) sum += (kernel[from + j] as number) * (x[j] as number);
  return sum;
}
