/**
 * Static sub-word embeddings: a text is the sum of its words' vectors, at unit norm. A word of the vocabulary has a row;
 * any other is the sum of its n-grams' rows (subwords.ts), divided by the square root of how many they are:
 *
 *   v(w) = row of w,   or   |G_w|^(-½) Σ_{g ∈ G_w} row of g;     embedding = Σ_w v(w) / ‖Σ_w v(w)‖
 *
 * Rows are four-bit integers with a scale each, and are read as they lie: nothing is unpacked beforehand. How frequent a
 * word is, and so how little it says, is in the norm that training gave its row.
 *
 *   table   "GST1" | u32 dimensions | u32 words | u32 n-gram rows | rows × f16 scale | rows × dimensions × 4 bit
 *           little-endian; of two numbers in a byte the first is the lower half; a number is (half − 8) · scale
 */
import { words } from "../core/words.ts";
import { eachSubword, entry, subwordCount } from "./subwords.ts";

const MAGIC = 0x31545347;
const HEADER = 16;

export interface StaticTable {
  readonly dimensions: number;
  /** The row of each word of the vocabulary. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Rows of n-grams, after those of the words. */
  readonly buckets: number;
  readonly scales: Float32Array;
  readonly packed: Uint8Array;
}

/** Reads a table and the words of its rows, one a line. Throws when they are not whole, or not of this version. */
export function readTable(vocabulary: string, bytes: Uint8Array): StaticTable {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER || view.getUint32(0, true) !== MAGIC) throw new Error("This is no static table.");
  const dimensions = view.getUint32(4, true);
  const known = view.getUint32(8, true);
  const buckets = view.getUint32(12, true);
  const rows = known + buckets;
  const names = vocabulary.trimEnd().split("\n");
  if (names.length !== known || bytes.length !== HEADER + rows * (2 + dimensions / 2))
    throw new Error("The table and its vocabulary do not belong together.");
  const scales = new Float32Array(rows);
  for (let row = 0; row < rows; row++) scales[row] = fromHalf(view.getUint16(HEADER + 2 * row, true));
  return {
    dimensions,
    vocabulary: new Map(names.map((name, row) => [name, row])),
    buckets,
    scales,
    packed: bytes.subarray(HEADER + 2 * rows),
  };
}

/** The embedding of a text: unit norm, the same bytes on every machine. White space alone gives zeros, any other text does not. */
export function encode(table: StaticTable, text: string): Float32Array {
  const { dimensions, vocabulary, buckets, scales, packed } = table;
  const sum = new Float64Array(dimensions);
  for (const word of words(text)) {
    const name = entry(word);
    const row = vocabulary.get(name);
    if (row !== undefined) {
      addRow(sum, packed, row, scales[row] as number);
      continue;
    }
    const factor = 1 / Math.sqrt(subwordCount(name));
    eachSubword(name, buckets, (bucket) => {
      const at = vocabulary.size + bucket;
      addRow(sum, packed, at, factor * (scales[at] as number));
    });
  }
  let squares = 0;
  for (let j = 0; j < dimensions; j++) squares += (sum[j] as number) ** 2;
  const norm = Math.sqrt(squares) || 1;
  const embedding = new Float32Array(dimensions);
  for (let j = 0; j < dimensions; j++) embedding[j] = (sum[j] as number) / norm;
  return embedding;
}

function addRow(sum: Float64Array, packed: Uint8Array, row: number, scale: number): void {
  const bytes = sum.length >> 1;
  for (let i = 0, at = row * bytes; i < bytes; i++, at++) {
    const pair = packed[at] as number;
    sum[2 * i] = (sum[2 * i] as number) + scale * ((pair & 15) - 8);
    sum[2 * i + 1] = (sum[2 * i + 1] as number) + scale * ((pair >> 4) - 8);
  }
}

/** IEEE 754 binary16. */
function fromHalf(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}
