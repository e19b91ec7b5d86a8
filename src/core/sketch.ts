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
  for (let i = 0; i < positions.length; i++) {
    let squares = 0;
    for (let j = 0; j < dimensions; j++) {
      const code = (((packed[i * rowBytes(dimensions) + (j >> 1)] as number) >> (4 * (j & 1))) & 15) - CODE_OFFSET;
      codes[i * dimensions + j] = code;
      squares += code * code;
    }
    norms[i] = Math.sqrt(squares);
  }
  return { dimensions, positions: positions.slice(), codes, norms };
}

/** The positions of all examples whose embeddings a head holds, ascending; null if it has no sketch. */
export function heldPositions({ sections }: Pick<Head, "sections">): Uint32Array | null {
  const section = sections.find(({ name }) => name === SKETCH);
  const parts = section === undefined ? null : readParts(section.bytes);
  return parts && Uint32Array.from([...parts.positions, ...parts.centroidPositions]).sort();
}

/** The examples whose embeddings have the largest cosines with one, the largest first. None of an embedding of zeros. */
export function findNearest(
  { dimensions, positions, codes, norms }: Sketch,
  embedding: Float32Array,
  count: number,
): { readonly position: number; readonly similarity: number }[] {
  let squares = 0;
  for (let j = 0; j < embedding.length; j++) squares += (embedding[j] as number) ** 2;
  const norm = Math.sqrt(squares);
  if (norm === 0 || embedding.length !== dimensions) return [];
  const nearest: { position: number; similarity: number }[] = [];
  for (let i = 0; i < positions.length; i++) {
    const product = productWith(embedding, codes, i * dimensions);
    const similarity = norms[i] === 0 ? 0 : product / (norm * (norms[i] as number));
    if (nearest.length === count && similarity <= (nearest.at(-1)?.similarity ?? 0)) continue;
    let rank = nearest.length;
    while (rank > 0 && (nearest[rank - 1]?.similarity ?? 0) < similarity) rank--;
    nearest.splice(rank, 0, { position: positions[i] as number, similarity });
    nearest.length = Math.min(nearest.length, count);
  }
  return nearest;
}

/** x·c from `first` on. Four sums at once, because one would wait for each addition before the next. */
function productWith(x: Float32Array, codes: Int8Array, first: number): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = x.length - (x.length % 4);
  let j = 0;
  for (let at = first; j < whole; j += 4, at += 4) {
    a += (x[j] as number) * (codes[at] as number);
    b += (x[j + 1] as number) * (codes[at + 1] as number);
    c += (x[j + 2] as number) * (codes[at + 2] as number);
    d += (x[j + 3] as number) * (codes[at + 3] as number);
  }
  for (; j < x.length; j++) a += (x[j] as number) * (codes[first + j] as number);
  return a + b + c + d;
}
