/** The forward pass of a sentence encoder: its kernels (src/kernels/encoder.ts) over the weights in one WASM memory. */
import { ALIGNMENT, align, type EncoderShape, encoderLayout, MAGIC, widestRow } from "./layout.ts";

/** Tokens of one pass. More would not be faster, and would take longer between two yields. */
export const BLOCK_TOKENS = 128;
const PAGE_BYTES = 65_536;
/** The kernels' own data lie at the start of the memory. */
const FIRST_BYTE = 4096;

/** How a product is stored: in place of the output, added to it, or in place of it where it is above 0. */
const REPLACE = 0;
const ADD = 1;
const RELU = 2;

type Kernel = (...values: number[]) => void;
type Kernels = Record<"embed" | "normalise" | "quantise" | "product" | "attend" | "pool" | "tanhUnit", Kernel>;

export interface EncoderNetwork {
  readonly maxTokens: number;
  /** The weights file that it computes with: a view of the network's memory. */
  weights(): Uint8Array;
  /**
   * The embeddings of tokenized texts, unit norm, in their order. A text is cut at `maxTokens`; one without tokens has
   * zeros. All texts together have at most `BLOCK_TOKENS` tokens.
   */
  encode(texts: readonly (readonly number[])[]): Float32Array[];
}

/** About what a network takes in memory, its weights included. */
export function networkBytes(shape: EncoderShape): number {
  const dimensions = shape.widths.at(-1) ?? 0;
  return encoderLayout(shape).bytes + (BLOCK_TOKENS + 2) * (5 * widestRow(shape) + 12 * dimensions);
}

/** Throws if the weights are not those of the shape. */
export function encoderNetwork(kernels: WebAssembly.Module, shape: EncoderShape, weights: Uint8Array): EncoderNetwork {
  const { widths, heads, hidden, maxTokens } = shape;
  const [tableWidth = 0] = widths;
  const layout = encoderLayout(shape);
  const header = new DataView(weights.buffer, weights.byteOffset, weights.byteLength);
  if (weights.length !== layout.bytes || header.getUint32(0, true) !== MAGIC)
    throw new Error("The weights and the encoder's shape do not belong together.");
  const dimensions = widths.at(-1) ?? 0;
  const widest = widestRow(shape);
  // Rows come in pairs, so each buffer has one to spare.
  const rows = BLOCK_TOKENS + 2;
  let bytes = FIRST_BYTE + layout.bytes;
  const reserve = (size: number) => {
    const start = bytes;
    bytes = align(bytes + size);
    return start;
  };
  const lookups = reserve(8 * rows);
  const spans = reserve(8 * rows);
  const states = [reserve(4 * rows * dimensions), reserve(4 * rows * dimensions)] as const;
  const normalised = reserve(4 * rows * dimensions);
  const wide = reserve(4 * rows * widest);
  const codes = reserve(rows * widest);
  const ranges = reserve(8 * rows);
  const scores = reserve(4 * maxTokens + ALIGNMENT);
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE_BYTES) });
  const run = new WebAssembly.Instance(kernels, { env: { memory } }).exports as Kernels;
  new Uint8Array(memory.buffer).set(weights, FIRST_BYTE);

  const offset = (name: string) => FIRST_BYTE + (layout.offsets.get(name) ?? Number.NaN);
  const product = (name: string, count: number, inputs: number, outputs: number, mode: number, out: number) =>
    run.product(
      count,
      inputs,
      outputs,
      codes,
      ranges,
      ...["weights", "scales", "sums", "bias"].map((part) => offset(`${name}.${part}`)),
      mode,
      out,
    );
  const normalise = (name: string, count: number, width: number, x: number) => {
    run.normalise(count, width, x, offset(`${name}.scale`), offset(`${name}.bias`), normalised);
    run.quantise(count, width, normalised, codes, ranges);
  };

  /** One transformer layer: x + attention(norm(x)), then + feed-forward(norm(·)). Answers where its output is. */
  function applyLayer(layer: number, texts: number, count: number, x: number): number {
    const name = `layers.${layer}`;
    const [input = 0, width = 0] = widths.slice(layer);
    let y = x;
    if (input !== width) {
      y = x === states[0] ? states[1] : states[0];
      run.quantise(count, input, x, codes, ranges);
      product(`${name}.residual`, count, input, width, REPLACE, y);
    }
    normalise(`${name}.attention.norm`, count, input, x);
    product(`${name}.attention.projections`, count, input, 3 * input, REPLACE, wide);
    run.attend(texts, spans, heads, input / heads, wide, scores, normalised);
    run.quantise(count, input, normalised, codes, ranges);
    product(`${name}.attention.output`, count, input, width, ADD, y);
    normalise(`${name}.feedforward.norm`, count, width, y);
    product(`${name}.feedforward.hidden`, count, width, hidden, RELU, wide);
    run.quantise(count, hidden, wide, codes, ranges);
    product(`${name}.feedforward.output`, count, hidden, width, ADD, y);
    return y;
  }

  function encode(texts: readonly (readonly number[])[]): Float32Array[] {
    const lookup = new Int32Array(memory.buffer, lookups, 2 * rows);
    const span = new Int32Array(memory.buffer, spans, 2 * rows);
    let tokens = 0;
    let count = 0;
    for (const text of texts) {
      const length = Math.min(text.length, maxTokens);
      if (length === 0) continue;
      if (tokens + length > BLOCK_TOKENS) throw new Error("The texts have more tokens than a block.");
      span.set([tokens, length], 2 * count++);
      for (let position = 0; position < length; position++) lookup.set([text[position] ?? 0, position], 2 * tokens++);
    }
    // A pair's second row, where the number of rows is odd, computes what is not read.
    const evenRows = tokens + (tokens & 1);
    run.embed(
      tokens,
      lookups,
      offset("table.weights"),
      offset("table.scales"),
      offset("timing"),
      tableWidth,
      states[0],
    );
    let x: number = states[0];
    for (let layer = 0; layer + 1 < widths.length; layer++) x = applyLayer(layer, count, evenRows, x);
    const pooled = normalised;
    run.pool(count, spans, dimensions, x, pooled);
    const evenTexts = count + (count & 1);
    run.quantise(evenTexts, dimensions, pooled, codes, ranges);
    product("tanh", evenTexts, dimensions, dimensions, REPLACE, wide);
    run.tanhUnit(count, dimensions, wide);
    let row = 0;
    return texts.map((text) =>
      text.length === 0
        ? new Float32Array(dimensions)
        : new Float32Array(memory.buffer, wide + 4 * dimensions * row++, dimensions).slice(),
    );
  }

  return { maxTokens, weights: () => new Uint8Array(memory.buffer, FIRST_BYTE, layout.bytes), encode };
}
