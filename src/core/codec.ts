/**
 * Stored formats. Each starts with a four-byte magic number whose last byte is the version. A decoder returns null for
 * a version that it does not know, and callers treat that as a missing value. Numbers are little-endian.
 *
 *   head   "GHD2" | u32 length of JSON | JSON in ASCII, padded with spaces to a multiple of 4 | weights, bias, conformal f32
 *          "GHD1" is the same without `offset`, which is 0 then
 *          The JSON may have `thresholds` and `value_range`; builds that do not know them predict without
 *          "GHD3" adds `lexical` ({buckets, columns}) to the JSON, and at the end
 *          | idf, scale, scales f32 | seen buckets u16 | lexical weights i8
 *   block  "GEB1" | u32 dimensions | u32 rows | rows × 16 bytes of input hash | rows × dimensions f32
 */
import type { ValueRange } from "./evaluation/value-range.ts";
import type { Head, Task } from "./head.ts";

const HEAD_V1_MAGIC = 0x31444847;
const HEAD_V2_MAGIC = 0x32444847;
const HEAD_V3_MAGIC = 0x33444847;
const BLOCK_MAGIC = 0x31424547;
/** Bytes of an input's hash: the first 128 bits of its SHA-256. */
export const HASH_BYTES = 16;

interface HeadHeader {
  task: Task;
  labels: readonly string[];
  dimensions: number;
  offset: number;
  temperature: number;
  out_of_scope_threshold: number | null;
  conformal: number;
  /** One a label, or left out. */
  thresholds?: readonly number[];
  value_range?: ValueRange;
  lexical?: { buckets: number; columns: number };
}

/** A head without lexical features is written as "GHD2", which earlier versions can read. */
export function encodeHead(head: Head): Uint8Array<ArrayBuffer> {
  const { lexical } = head;
  const header: HeadHeader = {
    task: head.task,
    labels: head.labels,
    dimensions: head.dimensions,
    offset: head.offset,
    temperature: head.temperature,
    out_of_scope_threshold: head.outOfScopeThreshold,
    conformal: head.conformal.length,
    ...(head.thresholds.length === 0 ? {} : { thresholds: head.thresholds }),
    ...(head.valueRange === null ? {} : { value_range: head.valueRange }),
    ...(lexical === null ? {} : { lexical: { buckets: lexical.buckets, columns: lexical.seenBuckets.length } }),
  };
  const json = asciiJson(header);
  const paddedLength = Math.ceil(json.length / 4) * 4;
  const floats = [
    head.weights,
    head.bias,
    head.conformal,
    ...(lexical === null ? [] : [lexical.idf, Float32Array.of(lexical.scale), lexical.scales]),
  ];
  const tailBytes = lexical === null ? 0 : lexical.seenBuckets.byteLength + lexical.weights.length;
  const bytes = new Uint8Array(8 + paddedLength + floats.reduce((sum, array) => sum + array.byteLength, tailBytes));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, lexical === null ? HEAD_V2_MAGIC : HEAD_V3_MAGIC, true);
  view.setUint32(4, paddedLength, true);
  bytes.fill(0x20, 8, 8 + paddedLength);
  for (let i = 0; i < json.length; i++) bytes[8 + i] = json.charCodeAt(i);
  let offset = 8 + paddedLength;
  for (const array of floats) {
    new Float32Array(bytes.buffer, offset, array.length).set(array);
    offset += array.byteLength;
  }
  if (lexical !== null) {
    new Uint16Array(bytes.buffer, offset, lexical.seenBuckets.length).set(lexical.seenBuckets);
    new Int8Array(bytes.buffer, offset + lexical.seenBuckets.byteLength).set(lexical.weights);
  }
  return bytes;
}

/** The head in `bytes`. Null unless they are a complete head of a known version. */
export function decodeHead(bytes: Uint8Array): Head | null {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const view = new DataView(aligned.buffer, aligned.byteOffset, aligned.byteLength);
  const magic = aligned.length < 8 ? 0 : view.getUint32(0, true);
  if (magic !== HEAD_V1_MAGIC && magic !== HEAD_V2_MAGIC && magic !== HEAD_V3_MAGIC) return null;
  const paddedLength = view.getUint32(4, true);
  if (8 + paddedLength > aligned.length) return null;
  const header = parseHeader(aligned.subarray(8, 8 + paddedLength));
  if (header === null) return null;
  const outputs = header.task === "regression" ? 1 : header.labels.length;
  const { buckets, columns } = (magic === HEAD_V3_MAGIC && header.lexical) || { buckets: 0, columns: 0 };
  const lexicalLengths = buckets === 0 ? [0, 0, 0] : [columns, 1, outputs];
  const lengths = [outputs * header.dimensions, outputs, header.conformal, ...lexicalLengths];
  if (!lengths.every((length) => Number.isInteger(length) && length >= 0)) return null;
  const floatCount = lengths.reduce((sum, length) => sum + length, 0);
  const lexicalBytes = 2 * columns + columns * outputs;
  if (aligned.length !== 8 + paddedLength + 4 * floatCount + lexicalBytes) return null;
  let position = aligned.byteOffset + 8 + paddedLength;
  const [weights, bias, conformal, idf, scale, scales] = lengths.map((length) => {
    const array = new Float32Array(aligned.buffer, position, length);
    position += array.byteLength;
    return array;
  }) as [Float32Array, Float32Array, Float32Array, Float32Array, Float32Array, Float32Array];
  return {
    task: header.task,
    labels: header.labels,
    dimensions: header.dimensions,
    weights,
    bias,
    conformal,
    lexical:
      buckets === 0
        ? null
        : {
            buckets,
            scale: scale[0] ?? 1,
            seenBuckets: new Uint16Array(aligned.buffer, position, columns),
            idf,
            scales,
            weights: new Int8Array(aligned.buffer, position + 2 * columns, columns * outputs),
          },
    offset: magic === HEAD_V1_MAGIC ? 0 : header.offset,
    temperature: header.temperature,
    outOfScopeThreshold: header.out_of_scope_threshold,
    thresholds: header.thresholds ?? [],
    valueRange: header.value_range ?? null,
  };
}

function asciiJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[\u0080-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function parseHeader(ascii: Uint8Array): HeadHeader | null {
  let json = "";
  for (const byte of ascii) json += String.fromCharCode(byte);
  try {
    const header = JSON.parse(json) as HeadHeader;
    return Array.isArray(header.labels) && hasValidOptions(header) ? header : null;
  } catch {
    return null;
  }
}

function hasValidOptions({ labels, thresholds = [], value_range = [0, 0] }: HeadHeader): boolean {
  if (!Array.isArray(thresholds) || !Array.isArray(value_range)) return false;
  if (thresholds.length > 0 && thresholds.length !== labels.length) return false;
  return value_range.length === 2 && [...thresholds, ...value_range].every(Number.isFinite);
}

/** Embeddings of up to about a thousand rows of a dataset, and the hash of each row's input. */
export interface Block {
  readonly dimensions: number;
  /** rows × HASH_BYTES */
  readonly hashes: Uint8Array;
  /** rows × dimensions, row-major */
  readonly rows: Float32Array;
}

export function encodeBlock(block: Block): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12 + block.hashes.length + block.rows.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, BLOCK_MAGIC, true);
  view.setUint32(4, block.dimensions, true);
  view.setUint32(8, block.hashes.length / HASH_BYTES, true);
  bytes.set(block.hashes, 12);
  new Float32Array(bytes.buffer, 12 + block.hashes.length, block.rows.length).set(block.rows);
  return bytes;
}

/** The block in `bytes`. Null unless they are a complete block of a known version with these dimensions. */
export function decodeBlock(bytes: Uint8Array, dimensions: number): Block | null {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const view = new DataView(aligned.buffer, aligned.byteOffset, aligned.byteLength);
  if (aligned.length < 12 || view.getUint32(0, true) !== BLOCK_MAGIC || view.getUint32(4, true) !== dimensions)
    return null;
  const rows = view.getUint32(8, true);
  if (aligned.length !== 12 + rows * (HASH_BYTES + 4 * dimensions)) return null;
  const rowsOffset = aligned.byteOffset + 12 + rows * HASH_BYTES;
  return {
    dimensions,
    hashes: aligned.subarray(12, 12 + rows * HASH_BYTES),
    rows: new Float32Array(aligned.buffer, rowsOffset, rows * dimensions),
  };
}
