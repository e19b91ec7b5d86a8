/**
 * A sentence encoder that was fine-tuned for a tenant, as a delta over the shared one's weights. A trained matrix is that of
 * the base plus four-bit integers times a scale for each row; of the table of sub-words, only rows that changed are there.
 * The other numbers of a trained layer (biases, normalisations) stand as they are.
 *
 *   delta   "GFE1" | u32 bytes of JSON | JSON, padded with spaces to a multiple of 4 | tensors of the trained layers
 *   matrix  a static table of n-gram rows alone (text-static.ts)
 *   table   u32 rows | rows × u32 number | a matrix of these rows
 *           little-endian, in the order of sentence-encoder/layout.ts
 *
 * The sums are rounded to eight bits a row again, so that an embedding takes no longer than the base's.
 */
import type { Backbone } from "./backbone.ts";
import { padTo4Bytes } from "./fine-tuned-static.ts";
import { quantise } from "./quantise.ts";
import {
  type EncoderShape,
  encoderLayout,
  type FloatTensor,
  floatReader,
  floatTensors,
  type Layout,
  layerNames,
  scalesOf,
} from "./sentence-encoder/layout.ts";
import { encoderNetwork } from "./sentence-encoder/network.ts";
import { readTable, type StaticTable } from "./text-static.ts";
import { type EncoderBackbone, embedByNetwork } from "./text-use.ts";

const MAGIC = 0x31454647;
const HEADER_BYTES = 8;
const MAX_LEVEL = 127;
const TABLE = "table.weights";

interface DeltaHeader {
  readonly base: { readonly id: string; readonly revision: string };
  /** How many layers were trained, from the last. */
  readonly layers: number;
}

export interface EncoderDelta extends DeltaHeader {
  /** The tensors, from the header's end. */
  readonly tensors: Uint8Array;
}

export interface EncoderWeights extends DeltaHeader {
  readonly shape: EncoderShape;
  /** A tensor's numbers before and after training. */
  readonly before: (name: string) => Float32Array;
  readonly after: (name: string) => Float32Array;
}

export function encodeEncoderDelta({ base, layers, shape, before, after }: EncoderWeights): Uint8Array {
  const header: DeltaHeader = { base: { id: base.id, revision: base.revision }, layers };
  const json = padTo4Bytes(JSON.stringify(header));
  const start = Buffer.alloc(HEADER_BYTES);
  start.writeUInt32LE(MAGIC, 0);
  start.writeUInt32LE(json.length, 4);
  const parts = floatTensors(shape, layers).flatMap(({ name, width }) => {
    const values = after(name);
    if (width === null) return [new Uint8Array(values.buffer, values.byteOffset, values.byteLength)];
    const differences = before(name).map((value, i) => (values[i] as number) - value);
    const encode = (rows: Float32Array) =>
      quantise(rows, { dimensions: width, vocabulary: 0, buckets: rows.length / width });
    if (name !== TABLE) return [encode(differences)];
    const rowOf = (row: number) => differences.subarray(row * width, (row + 1) * width);
    const changed = Array.from({ length: differences.length / width }, (_, row) => row).filter((row) =>
      rowOf(row).some((value) => value !== 0),
    );
    const rows = new Float32Array(changed.length * width);
    for (const [i, row] of changed.entries()) rows.set(rowOf(row), i * width);
    return [new Uint8Array(Uint32Array.from([changed.length, ...changed]).buffer), encode(rows)];
  });
  return new Uint8Array(Buffer.concat([start, json, ...parts]));
}

/** Reads a delta's header; null if it has none. Its tensors are checked when it is applied. */
export function decodeEncoderDelta(bytes: Uint8Array): EncoderDelta | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER_BYTES || view.getUint32(0, true) !== MAGIC) return null;
  const end = HEADER_BYTES + view.getUint32(4, true);
  try {
    const json = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(HEADER_BYTES, end));
    const { base, layers } = JSON.parse(json) as DeltaHeader;
    const isHeader = typeof base?.id === "string" && typeof base.revision === "string" && Number.isInteger(layers);
    return isHeader ? { base, layers, tensors: bytes.subarray(end) } : null;
  } catch {
    return null;
  }
}

/** The weights file of a base with a delta. null if the delta's tensors are not those of the shape, or not finite. */
export function applyEncoderDelta(shape: EncoderShape, base: Uint8Array, delta: EncoderDelta): Uint8Array | null {
  if (delta.layers < 1 || delta.layers > layerNames(shape).length) return null;
  const { offsets } = encoderLayout(shape);
  const weights = base.slice();
  const read = makeReader(delta.tensors);
  try {
    for (const tensor of floatTensors(shape, delta.layers)) {
      if (tensor.width === null)
        weights.set(new Uint8Array(read.floats(tensor.length).buffer), offsets.get(tensor.name));
      else if (tensor.name === TABLE) addRows(offsets, weights, tensor, read.numbers(), read.table);
      else addRows(offsets, weights, tensor, null, read.table);
    }
  } catch {
    // A reader throws where bytes are missing, or are another table's than the layout says.
    return null;
  }
  return read.isAtEnd() ? weights : null;
}

/** Reads a delta's tensors one after another. Throws a RangeError beyond the end, or where a number is not finite. */
function makeReader(bytes: Uint8Array) {
  let offset = 0;
  const take = (length: number) => {
    if (offset + length > bytes.length) throw new RangeError("The delta is too short.");
    offset += length;
    return bytes.subarray(offset - length, offset);
  };
  const words = (count: number) => take(4 * count).slice().buffer;
  const finite = (values: Float32Array) => {
    if (!values.every(Number.isFinite)) throw new RangeError("A number is not finite.");
    return values;
  };
  return {
    floats: (count: number) => finite(new Float32Array(words(count))),
    numbers: () => new Uint32Array(words(new Uint32Array(words(1))[0] as number)),
    table(rows: number, width: number): StaticTable {
      const header = 16;
      const table = readTable("", take(header + rows * (2 + width / 2)));
      finite(table.scales);
      if (table.dimensions !== width || table.buckets !== rows) throw new RangeError("This is another table.");
      return table;
    },
    isAtEnd: () => offset === bytes.length,
  };
}

/** Adds rows to those of a matrix with the numbers `rowNumbers`, or to all, and rounds the sums to eight bits again. */
function addRows(
  offsets: Layout["offsets"],
  weights: Uint8Array,
  { name, length, width }: FloatTensor,
  rowNumbers: Uint32Array | null,
  readRows: (rows: number, width: number) => StaticTable,
): void {
  const columns = width ?? length;
  const view = new DataView(weights.buffer, weights.byteOffset, weights.byteLength);
  const matrix = new Int8Array(weights.buffer, weights.byteOffset + (offsets.get(name) ?? 0), length);
  const scalesStart = offsets.get(scalesOf(name)) ?? 0;
  const sumsStart = offsets.get(name.replace(/weights$/, "sums"));
  const rows = rowNumbers ?? Uint32Array.from({ length: length / columns }, (_, row) => row);
  const { packed, scales } = readRows(rows.length, columns);
  const sum = new Float32Array(columns);
  for (const [i, row] of rows.entries()) {
    if (row * columns >= length) throw new RangeError("The base has no such row.");
    const codes = matrix.subarray(row * columns, (row + 1) * columns);
    const scale = view.getFloat32(scalesStart + 4 * row, true);
    const step = scales[i] as number;
    let [least, most] = [0, 0];
    for (let j = 0; j < columns; j++) {
      const eight = packed[(i * columns + j) >> 3] as number;
      const value = scale * (codes[j] as number) + step * (((eight >>> (4 * (j & 7))) & 15) - 8);
      sum[j] = value;
      if (value > most) most = value;
      if (value < least) least = value;
    }
    const newScale = Math.fround(Math.max(most, -least) / MAX_LEVEL || 1);
    const factor = 1 / newScale;
    let codeSum = 0;
    for (let j = 0; j < columns; j++) {
      const value = (sum[j] as number) * factor;
      // Rounds half away from zero; Math.round takes three times as long.
      const code = (value + (value < 0 ? -0.5 : 0.5)) | 0;
      codes[j] = code;
      codeSum += code;
    }
    view.setFloat32(scalesStart + 4 * row, newScale, true);
    if (sumsStart !== undefined) view.setFloat32(sumsStart + 4 * row, newScale * codeSum, true);
  }
}

/** The backbone of a delta over the base that it names; null if it is not of its shape. `bytes` is the delta's size. */
export function fineTunedEncoder(
  base: EncoderBackbone,
  { id, revision }: Pick<Backbone, "id" | "revision">,
  delta: EncoderDelta,
  bytes: number,
): Backbone | null {
  const { kernels, network } = base.encoder();
  const weights = applyEncoderDelta(base.shape, network.weights(), delta);
  if (weights === null) return null;
  const tunedNetwork = encoderNetwork(kernels, base.shape, weights);
  return {
    id,
    revision,
    modality: "text",
    dimensions: base.dimensions,
    kind: "fine_tuned",
    license: base.license,
    parameters: base.parameters,
    bytes,
    cost: base.cost,
    embed: (inputs) => embedByNetwork(base, tunedNetwork, inputs),
    wordSum: base.wordSum,
  };
}

/** Reads the numbers of a base's tensors. */
export function baseReader({ shape, encoder }: EncoderBackbone): (name: string) => Float32Array {
  return floatReader(shape, encoder().network.weights());
}
