/**
 * Stored blocks of embeddings. Each starts with a four-byte magic number whose last byte is the version; a version that is
 * not known counts as a missing block. Numbers are little-endian.
 *
 *   "GEB2" | u32 dimensions | u32 rows | rows × 16 bytes of input hash | rows × dimensions f32
 *   "GEB3" | u32 dimensions | u32 rows | rows × 16 bytes of input hash | rows f32 scales | rows × dimensions i8
 *          a row is its integers times its scale
 *   "GEB1" is as "GEB2", of texts with their invisible characters. It counts as missing, so they are embedded again.
 */

const FLOAT_MAGIC = 0x32424547;
const INTEGER_MAGIC = 0x33424547;
const HEADER_BYTES = 12;
/** Bytes of an input's hash: the first 128 bits of its SHA-256. */
export const HASH_BYTES = 16;
const MAX_LEVEL = 127;
/** The low bits of a 32-bit float that a scale leaves 0, so that its product with any level is exact. */
const FREE_BITS = 7;
/** The least scale: the least 32-bit float that has all its bits. A row that would need less is kept as zeros. */
const MIN_SCALE = 2 ** -126;

export type BlockPrecision = "float32" | "int8";

/** Embeddings of up to about a thousand rows of a dataset, and the hash of each row's input. */
export interface Block {
  readonly dimensions: number;
  /** rows × HASH_BYTES */
  readonly hashes: Uint8Array;
  /** rows × dimensions, row-major */
  readonly rows: Float32Array;
}

/** The bytes of a block. With "int8" its rows are rounded as by `roundRows`; rounding them before changes no byte. */
export function encodeBlock({ dimensions, hashes, rows }: Block, precision: BlockPrecision): Uint8Array<ArrayBuffer> {
  const count = hashes.length / HASH_BYTES;
  const rowsOffset = HEADER_BYTES + hashes.length;
  const rowBytes = precision === "int8" ? 4 + dimensions : 4 * dimensions;
  const bytes = new Uint8Array(rowsOffset + count * rowBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, precision === "int8" ? INTEGER_MAGIC : FLOAT_MAGIC, true);
  view.setUint32(4, dimensions, true);
  view.setUint32(8, count, true);
  bytes.set(hashes, HEADER_BYTES);
  if (precision === "float32") {
    new Float32Array(bytes.buffer, rowsOffset, rows.length).set(rows);
    return bytes;
  }
  const scales = new Float32Array(bytes.buffer, rowsOffset, count);
  const levels = new Int8Array(bytes.buffer, rowsOffset + 4 * count);
  for (let row = 0; row < count; row++) {
    const [start, end] = [row * dimensions, (row + 1) * dimensions];
    const scale = rowScale(rows, start, end);
    scales[row] = scale;
    for (let i = start; i < end; i++) levels[i] = toLevel(rows[i] ?? 0, scale);
  }
  return bytes;
}

/** The block in `bytes`. Null unless they are a complete block of a known version with these dimensions. */
export function decodeBlock(bytes: Uint8Array, dimensions: number): Block | null {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  if (aligned.length < HEADER_BYTES) return null;
  const view = new DataView(aligned.buffer, aligned.byteOffset, aligned.byteLength);
  const magic = view.getUint32(0, true);
  if ((magic !== FLOAT_MAGIC && magic !== INTEGER_MAGIC) || view.getUint32(4, true) !== dimensions) return null;
  const count = view.getUint32(8, true);
  const rowBytes = magic === INTEGER_MAGIC ? 4 + dimensions : 4 * dimensions;
  if (aligned.length !== HEADER_BYTES + count * (HASH_BYTES + rowBytes)) return null;
  const hashes = aligned.subarray(HEADER_BYTES, HEADER_BYTES + count * HASH_BYTES);
  const rowsOffset = aligned.byteOffset + HEADER_BYTES + hashes.length;
  if (magic === FLOAT_MAGIC)
    return { dimensions, hashes, rows: new Float32Array(aligned.buffer, rowsOffset, count * dimensions) };
  const scales = new Float32Array(aligned.buffer, rowsOffset, count);
  const levels = new Int8Array(aligned.buffer, rowsOffset + 4 * count, count * dimensions);
  const rows = new Float32Array(count * dimensions);
  for (let row = 0, i = 0; row < count; row++) {
    const scale = scales[row] ?? 0;
    for (const end = i + dimensions; i < end; i++) rows[i] = (levels[i] ?? 0) * scale;
  }
  return { dimensions, hashes, rows };
}

/** Rounds rows, in place, to what an "int8" block keeps of them. Rows that are rounded already stay as they are. */
export function roundRows(rows: Float32Array, dimensions: number): void {
  for (let start = 0; start < rows.length; start += dimensions) {
    const end = start + dimensions;
    const scale = rowScale(rows, start, end);
    // Adding 0 turns a −0 into what an integer 0 becomes.
    for (let i = start; i < end; i++) rows[i] = toLevel(rows[i] ?? 0, scale) * scale + 0;
  }
}

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/**
 * The least scale at which the largest number of a row has a level, rounded up to few enough bits that the product of
 * scale and level is exact. So the largest number of a rounded row, divided by its level, is the same scale again. It is 0
 * for a row without a number of 127 · 2^-126 or more.
 */
function rowScale(rows: Float32Array, start: number, end: number): number {
  let maxAbs = 0;
  for (let i = start; i < end; i++) maxAbs = Math.max(maxAbs, Math.abs(rows[i] ?? 0));
  if (maxAbs < MAX_LEVEL * MIN_SCALE) return 0;
  scratch[0] = maxAbs / MAX_LEVEL;
  const mask = (1 << FREE_BITS) - 1;
  scratchBits[0] = ((scratchBits[0] ?? 0) + mask) & ~mask;
  return scratch[0];
}

/** The integer that stands for a number of a row. */
function toLevel(value: number, scale: number): number {
  return scale === 0 ? 0 : Math.floor(value / scale + 0.5);
}
