/**
 * Static sub-word embeddings. A text's embedding is the sum of its words' vectors, scaled to unit norm. A word of the
 * vocabulary has a row. The vector of any other word is the sum of its n-grams' rows (subwords.ts), divided by the square
 * root of their number:
 *
 *   v(w) = row of w,   or   |G_w|^(-½) Σ_{g ∈ G_w} row of g;     embedding = Σ_w v(w) / ‖Σ_w v(w)‖
 *
 * Rows are four-bit integers, each with a scale, and are read in place without unpacking. Frequent words that say little
 * have rows of a small norm, which training learns.
 *
 *   table   "GST1" | u32 dimensions | u32 words | u32 n-gram rows | rows × f16 scale | rows × dimensions × 4 bit
 *           little-endian; the first of a byte's two numbers is the lower half; a number is (half − 8) · scale
 */
import { splitWords } from "../core/text/words.ts";
import type { Backbone, WordSum } from "./backbone.ts";
import { forEachSubword, subwordCount, vocabularyKey } from "./subwords.ts";

const MAGIC = 0x31545347;
const HEADER_BYTES = 16;
/** How many rows are summed together. So many fit into the processor's first-level cache beside the sum. */
const BATCH_ROWS = 128;
/** The rows that wait for the next sum, and their weights; the first `batchCount` entries are valid. */
const batchRows = new Uint32Array(BATCH_ROWS);
const batchWeights = new Float64Array(BATCH_ROWS);
let batchCount = 0;

export interface StaticTable {
  /** A multiple of eight. */
  readonly dimensions: number;
  /** The row of each word of the vocabulary. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** The number of n-gram rows, which follow the words' rows. */
  readonly buckets: number;
  readonly scales: Float32Array;
  /** rows × dimensions / 8: eight numbers in each entry. */
  readonly packed: Uint32Array;
}

/** A model's config.json. */
export interface StaticConfig {
  readonly id: string;
  readonly revision: string;
  readonly license: string;
  readonly dimensions: number;
  readonly vocabulary: number;
  readonly buckets: number;
}

export interface StaticBackbone extends Backbone {
  readonly wordSum: WordSum;
  /** Reads the table once. Throws if it is invalid, as `embed` does. */
  table(): StaticTable;
}

export function isStatic(backbone: Backbone): backbone is StaticBackbone {
  return backbone.kind === "static";
}

/**
 * The backbone of a model's three files. The first call of `embed` reads the table in place, and throws if the table is
 * invalid or does not match the configuration.
 */
export function staticBackbone(config: StaticConfig, vocabulary: string, bytes: Uint8Array): StaticBackbone {
  const { id, revision, license, dimensions, buckets } = config;
  let cachedTable: StaticTable | undefined;
  const table = () => {
    const loadedTable = cachedTable ?? readTable(vocabulary, bytes);
    if (loadedTable.dimensions !== dimensions)
      throw new Error("The table and its configuration do not belong together.");
    cachedTable = loadedTable;
    return loadedTable;
  };
  return {
    table,
    id,
    revision,
    modality: "text",
    dimensions,
    kind: "static",
    license,
    parameters: (config.vocabulary + buckets) * dimensions,
    bytes: bytes.length + Buffer.byteLength(vocabulary),
    cost: "local",
    embed: async (inputs) => {
      const loadedTable = table();
      return { rows: inputs.map((text) => encode(loadedTable, text)), failure: null };
    },
    wordSum: {
      dimensions,
      read: (text) => text,
      multiply: (words, directions) => multiplyWords(table(), words, directions),
    },
  };
}

/** Reads a table and its vocabulary, a word a line. Throws if they are incomplete, do not match or have another version. */
export function readTable(vocabulary: string, bytes: Uint8Array): StaticTable {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER_BYTES || view.getUint32(0, true) !== MAGIC) throw new Error("This is no static table.");
  const dimensions = view.getUint32(4, true);
  const wordCount = view.getUint32(8, true);
  const buckets = view.getUint32(12, true);
  const rows = wordCount + buckets;
  const start = HEADER_BYTES + 2 * rows;
  if (dimensions % 8 !== 0 || bytes.length !== start + (rows * dimensions) / 2)
    throw new Error("The table is not as long as it says.");
  const names = new Map<string, number>();
  for (const name of vocabulary.trimEnd().split("\n")) if (name !== "") names.set(name, names.size);
  if (names.size !== wordCount) throw new Error("The table and its vocabulary do not belong together.");
  return {
    dimensions,
    vocabulary: names,
    buckets,
    scales: new Float32Array(new Float16Array(new Uint8Array(bytes.subarray(HEADER_BYTES, start)).buffer)),
    packed: toUint32Array(bytes.subarray(start)),
  };
}

/** The same bytes as 32-bit integers: in place if they are aligned, else a copy. */
function toUint32Array(bytes: Uint8Array): Uint32Array {
  const { buffer, byteOffset, length } = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  return new Uint32Array(buffer, byteOffset, length / 4);
}

/** The embedding of a text: unit norm, the same bytes on every machine. White space alone gives zeros. */
export function encode(table: StaticTable, text: string): Float32Array {
  const { dimensions } = table;
  const sum = new Float64Array(dimensions);
  const tokens = splitWords(text);
  for (const word of tokens) gatherWord(sum, table, vocabularyKey(word));
  flushBatch(sum, table);

  // Rows may be zeros or cancel out. The text's n-grams, hashed into the dimensions, then replace them.
  if (tokens.length > 0 && sum.every((value) => value === 0))
    forEachSubword(text, dimensions, (dimension) => {
      sum[dimension] = 1;
    });
  let squares = 0;
  for (let j = 0; j < dimensions; j++) squares += (sum[j] as number) ** 2;
  const scale = 1 / (Math.sqrt(squares) || 1);
  const embedding = new Float32Array(dimensions);
  for (let j = 0; j < dimensions; j++) embedding[j] = (sum[j] as number) * scale;
  return embedding;
}

/** v(w) / ‖Σ_w v(w)‖ of each word, times each direction; null if the sum is zeros. */
function multiplyWords(
  table: StaticTable,
  words: readonly string[],
  directions: readonly Float32Array[],
): readonly Float64Array[] | null {
  const sum = new Float64Array(table.dimensions);
  for (const word of words) gatherWord(sum, table, vocabularyKey(word));
  flushBatch(sum, table);
  const norm = Math.sqrt(dot(sum, sum));
  if (norm === 0) return null;
  const known = new Map<string, readonly number[]>();
  const products = directions.map(() => new Float64Array(words.length));
  for (const [i, word] of words.entries()) {
    const name = vocabularyKey(word);
    let own = known.get(name);
    if (own === undefined) {
      const vector = wordVector(table, name);
      own = directions.map((direction) => dot(direction, vector) / norm);
      known.set(name, own);
    }
    for (const [o, product] of own.entries()) (products[o] as Float64Array)[i] = product;
  }
  return products;
}

function dot(a: Float32Array | Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let j = 0; j < b.length; j++) sum += (a[j] as number) * (b[j] as number);
  return sum;
}

/** v(w) of a word, by its vocabulary key (subwords.ts). */
export function wordVector(table: StaticTable, name: string): Float64Array {
  const sum = new Float64Array(table.dimensions);
  gatherWord(sum, table, name);
  flushBatch(sum, table);
  return sum;
}

/** Adds v(w) to the sum. Some rows may wait in the batch until `flushBatch`. */
function gatherWord(sum: Float64Array, table: StaticTable, name: string): void {
  const { vocabulary, buckets } = table;
  const row = vocabulary.get(name);
  if (row !== undefined) {
    gatherRow(sum, table, row, 1);
    return;
  }
  const factor = 1 / Math.sqrt(subwordCount(name));
  forEachSubword(name, buckets, (bucket) => gatherRow(sum, table, vocabulary.size + bucket, factor));
}

function gatherRow(sum: Float64Array, table: StaticTable, row: number, factor: number): void {
  if (batchCount === BATCH_ROWS) flushBatch(sum, table);
  batchRows[batchCount] = row;
  batchWeights[batchCount++] = factor * (table.scales[row] as number);
}

/** Adds the batch's rows, times their weights. Eight columns at a time, so that their sums stay in registers. */
function flushBatch(sum: Float64Array, { packed }: StaticTable): void {
  const count = batchCount;
  batchCount = 0;
  const width = sum.length / 8;
  for (let column = 0; column < width; column++) {
    let s0 = 0,
      s1 = 0,
      s2 = 0,
      s3 = 0,
      s4 = 0,
      s5 = 0,
      s6 = 0,
      s7 = 0;
    for (let i = 0; i < count; i++) {
      const weight = batchWeights[i] as number;
      const eight = packed[(batchRows[i] as number) * width + column] as number;
      s0 += weight * ((eight & 15) - 8);
      s1 += weight * (((eight >>> 4) & 15) - 8);
      s2 += weight * (((eight >>> 8) & 15) - 8);
      s3 += weight * (((eight >>> 12) & 15) - 8);
      s4 += weight * (((eight >>> 16) & 15) - 8);
      s5 += weight * (((eight >>> 20) & 15) - 8);
      s6 += weight * (((eight >>> 24) & 15) - 8);
      s7 += weight * ((eight >>> 28) - 8);
    }
    const j = 8 * column;
    increase(sum, j, s0);
    increase(sum, j + 1, s1);
    increase(sum, j + 2, s2);
    increase(sum, j + 3, s3);
    increase(sum, j + 4, s4);
    increase(sum, j + 5, s5);
    increase(sum, j + 6, s6);
    increase(sum, j + 7, s7);
  }
}

function increase(values: Float64Array, index: number, amount: number): void {
  values[index] = (values[index] as number) + amount;
}
