/**
 * The section "sketch" of a head (codec.ts): the embeddings of some of the examples that it was trained on, in 4 bits a
 * number, to find those that an input is most like.
 *
 *   "GSK1" | header {dimensions} | positions u32 | codes, two a byte, the first in the lower half
 *   | centroid positions u32: further examples whose embedding is a centroid of the section "scope"
 *
 *   similarity of x and the code c = x·c / (‖x‖ ‖c‖)        c = the numbers times 7 / their largest, rounded
 */
import type { Head } from "./head.ts";
import { decodeSections, encodeSections, type Section } from "./sections.ts";

export const SKETCH = "sketch";
const SKETCH_V1_MAGIC = 0x314b5347;
const MAX_CODE = 7;
/** A code is stored as a number that is not negative. */
const CODE_OFFSET = 8;
/** Of the positions and codes. */
export const MAX_SKETCH_BYTES = 256 * 1024;
const MAX_EXAMPLES = 1_000;

/** Rows of a training set with their embeddings. */
export interface RowSketch {
  readonly dimensions: number;
  /** Ascending. */
  readonly rows: Uint32Array;
  /** As they are stored, `rowBytes` for each row. */
  readonly codes: Uint8Array;
  /** Ascending; none of `rows`. */
  readonly centroidRows: Uint32Array;
}

export interface Sketch {
  readonly dimensions: number;
  /** Of the examples in their dataset. */
  readonly positions: Uint32Array;
  /** positions × dimensions */
  readonly codes: Int8Array;
  /** ‖c‖ of each. */
  readonly norms: Float64Array;
  /** Which codes are above 0, 32 in a number, the same count of numbers for each. */
  readonly signs: Uint32Array;
}

/** The bytes of a row's codes. */
export function rowBytes(dimensions: number): number {
  return Math.ceil(dimensions / 2);
}

/** How many examples of so many dimensions a sketch has at most. */
export function sketchCapacity(dimensions: number): number {
  return Math.min(MAX_EXAMPLES, Math.floor(MAX_SKETCH_BYTES / (rowBytes(dimensions) + 4)));
}

/** Writes the codes of an embedding. */
export function writeCodes(embedding: Float32Array, codes: Uint8Array): void {
  let largest = 0;
  for (let j = 0; j < embedding.length; j++) largest = Math.max(largest, Math.abs(embedding[j] as number));
  const factor = largest === 0 ? 0 : MAX_CODE / largest;
  codes.fill(0);
  for (let j = 0; j < embedding.length; j++) {
    const code = Math.round((embedding[j] as number) * factor) + CODE_OFFSET;
    codes[j >> 1] = (codes[j >> 1] as number) | (code << (4 * (j & 1)));
  }
}

/**
 * The head with a sketch of examples. `positionOf` answers the position of a row's example; rows of no stored example are
 * left out, and without any the head stays as it is.
 */
export function withSketch(
  head: Head,
  { dimensions, rows, codes, centroidRows }: RowSketch,
  positionOf: (row: number) => number | undefined,
): Head {
  const stored = Array.from(rows.keys()).filter((i) => positionOf(rows[i] as number) !== undefined);
  const positionsOf = (list: readonly number[]) => Uint32Array.from(list.flatMap((row) => positionOf(row) ?? []));
  const positions = positionsOf(stored.map((i) => rows[i] as number));
  const centroidPositions = positionsOf(Array.from(centroidRows));
  if (positions.length + centroidPositions.length === 0) return head;
  const width = rowBytes(dimensions);
  const storedCodes = new Uint8Array(stored.length * width);
  for (const [to, i] of stored.entries()) storedCodes.set(codes.subarray(i * width, (i + 1) * width), to * width);
  const section = (name: string, { buffer, byteOffset, byteLength }: Uint8Array | Uint32Array): Section => ({
    name,
    bytes: new Uint8Array(buffer, byteOffset, byteLength),
    required: true,
  });
  const bytes = encodeSections(SKETCH_V1_MAGIC, {
    header: { dimensions },
    sections: [
      section("positions", positions),
      section("codes", storedCodes),
      section("centroid_positions", centroidPositions),
    ],
  });
  return { ...head, sections: [...head.sections, { name: SKETCH, bytes, required: false }] };
}

interface Parts {
  readonly dimensions: number;
  readonly positions: Uint32Array;
  readonly codes: Uint8Array;
  readonly centroidPositions: Uint32Array;
}

function readParts(bytes: Uint8Array): Parts | null {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const magic = aligned.length < 8 ? 0 : new DataView(aligned.buffer, aligned.byteOffset).getUint32(0, true);
  const container = magic === SKETCH_V1_MAGIC ? decodeSections(aligned) : null;
  if (container === null) return null;
  const { dimensions } = container.header;
  const part = (name: string) => container.sections.find((section) => section.name === name)?.bytes ?? null;
  const [positions, codes, others] = [part("positions"), part("codes"), part("centroid_positions")];
  if (typeof dimensions !== "number" || !Number.isInteger(dimensions) || dimensions < 1) return null;
  if (positions === null || codes === null || others === null) return null;
  if (positions.length % 4 !== 0 || others.length % 4 !== 0) return null;
  if (codes.length !== (positions.length / 4) * rowBytes(dimensions)) return null;
  const toNumbers = ({ buffer, byteOffset, length }: Uint8Array) => new Uint32Array(buffer, byteOffset, length / 4);
  return { dimensions, positions: toNumbers(positions), codes, centroidPositions: toNumbers(others) };
}

/** The sketch in the bytes of its section. Null unless they are complete, and of a known version. */
export function decodeSketch(bytes: Uint8Array): Sketch | null {
  const parts = readParts(bytes);
  if (parts === null) return null;
  const { dimensions, positions, codes: packed } = parts;
  const codes = new Int8Array(positions.length * dimensions);
  const norms = new Float64Array(positions.length);
  const signs = new Uint32Array(positions.length * signWords(dimensions));
  for (let i = 0; i < positions.length; i++) {
    let squares = 0;
    for (let j = 0; j < dimensions; j++) {
      const code = (((packed[i * rowBytes(dimensions) + (j >> 1)] as number) >> (4 * (j & 1))) & 15) - CODE_OFFSET;
      codes[i * dimensions + j] = code;
      squares += code * code;
    }
    norms[i] = Math.sqrt(squares);
    writeSigns(codes.subarray(i * dimensions, (i + 1) * dimensions), signs, i * signWords(dimensions));
  }
  return { dimensions, positions: positions.slice(), codes, norms, signs };
}

/** The positions of all examples whose embeddings a head holds, ascending; null if it has no sketch. */
export function heldPositions({ sections }: Pick<Head, "sections">): Uint32Array | null {
  const section = sections.find(({ name }) => name === SKETCH);
  const parts = section === undefined ? null : readParts(section.bytes);
  return parts && Uint32Array.from([...parts.positions, ...parts.centroidPositions]).sort();
}

function signWords(dimensions: number): number {
  return Math.ceil(dimensions / 32);
}

function writeSigns(values: Int8Array | Int32Array, signs: Uint32Array, first: number): void {
  for (let j = 0; j < values.length; j++)
    if ((values[j] as number) > 0) signs[first + (j >> 5)] = (signs[first + (j >> 5)] as number) | (1 << (j & 31));
}

/** Rows whose cosines are computed, as their signs differ least from the query's; more where many differ as much. */
const MIN_COMPARED = 128;

/** The rows whose signs differ least from those of a query. */
function likelyRows({ dimensions, positions, signs }: Sketch, query: Int32Array): number[] {
  const rows = Array.from(positions.keys());
  if (rows.length <= MIN_COMPARED) return rows;
  const width = signWords(dimensions);
  const own = new Uint32Array(width);
  writeSigns(query, own, 0);
  const differences = new Uint16Array(rows.length);
  const counts = new Uint32Array(dimensions + 1);
  for (let i = 0, at = 0; i < rows.length; i++) {
    let difference = 0;
    for (let w = 0; w < width; w++, at++) difference += countBits((signs[at] as number) ^ (own[w] as number));
    differences[i] = difference;
    counts[difference] = (counts[difference] as number) + 1;
  }
  let [most, total] = [-1, 0];
  while (total < MIN_COMPARED) total += counts[++most] as number;
  return rows.filter((i) => (differences[i] as number) <= most);
}

/** Bits that are 1 (Warren 2012, Hacker's Delight, section 5-1). */
function countBits(bits: number): number {
  let count = bits - ((bits >>> 1) & 0x55555555);
  count = (count & 0x33333333) + ((count >>> 2) & 0x33333333);
  return Math.imul((count + (count >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/**
 * The examples whose embeddings have the largest cosines with one, which is rounded to eight bits, the largest first. None
 * of an embedding of zeros. Of many examples only those are compared whose signs differ least.
 */
export function findNearest(
  sketch: Sketch,
  embedding: Float32Array,
  count: number,
): { readonly position: number; readonly similarity: number }[] {
  const { dimensions, positions, codes, norms } = sketch;
  const largest = embedding.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (largest === 0 || embedding.length !== dimensions) return [];
  const query = Int32Array.from(embedding, (value) => Math.round((value * MAX_QUERY) / largest));
  const norm = Math.sqrt(query.reduce((sum, value) => sum + value * value, 0));
  const nearest: { position: number; similarity: number }[] = [];
  for (const i of likelyRows(sketch, query)) {
    const product = productWith(query, codes, i * dimensions);
    const similarity = norms[i] === 0 ? 0 : product / (norm * (norms[i] as number));
    if (nearest.length === count && similarity <= (nearest.at(-1)?.similarity ?? 0)) continue;
    let rank = nearest.length;
    while (rank > 0 && (nearest[rank - 1]?.similarity ?? 0) < similarity) rank--;
    nearest.splice(rank, 0, { position: positions[i] as number, similarity });
    nearest.length = Math.min(nearest.length, count);
  }
  return nearest;
}

const MAX_QUERY = 127;

/** q·c from `first` on, in integers. Four sums at once, because one would wait for each addition before the next. */
function productWith(q: Int32Array, codes: Int8Array, first: number): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = q.length - (q.length % 4);
  let j = 0;
  for (let at = first; j < whole; j += 4, at += 4) {
    a = (a + Math.imul(q[j] as number, codes[at] as number)) | 0;
    b = (b + Math.imul(q[j + 1] as number, codes[at + 1] as number)) | 0;
    c = (c + Math.imul(q[j + 2] as number, codes[at + 2] as number)) | 0;
    d = (d + Math.imul(q[j + 3] as number, codes[at + 3] as number)) | 0;
  }
  for (; j < q.length; j++) a = (a + Math.imul(q[j] as number, codes[first + j] as number)) | 0;
  return a + b + c + d;
}
