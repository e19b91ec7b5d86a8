/**
 * The weights file of a sentence encoder: a header and its tensors, each at a multiple of 16 bytes, little-endian. The
 * kernels read them at the same offsets, so that loading is one copy.
 *
 *   "GSE1" | u32 bytes in all | zeros to 16 | tensors in the order of `tensors`
 *
 * A layer's weights are 8-bit integers, `outputs` rows of `inputs` numbers, each row with a scale. `sums` holds each row's
 * sum times its scale.
 */

/** The architecture: pre-layer-norm transformer layers over a table of sub-words, their mean, and a tanh layer. */
export interface EncoderShape {
  /** Rows of the table. */
  readonly vocabulary: number;
  /** The width of the table and of each layer's output, which is the next layer's input. */
  readonly widths: readonly number[];
  readonly heads: number;
  readonly hidden: number;
  readonly maxTokens: number;
}

export interface Tensor {
  readonly name: string;
  readonly type: "int8" | "float32";
  readonly length: number;
}

export interface Layout {
  /** Where each tensor begins, in bytes. */
  readonly offsets: ReadonlyMap<string, number>;
  readonly tensors: readonly Tensor[];
  readonly bytes: number;
}

export const MAGIC = 0x31455347;
export const ALIGNMENT = 16;

/** The next multiple of the alignment. */
export function align(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

function linear(name: string, inputs: number, outputs: number): Tensor[] {
  const perOutput = (part: string): Tensor => ({ name: `${name}.${part}`, type: "float32", length: outputs });
  return [
    { name: `${name}.weights`, type: "int8", length: inputs * outputs },
    perOutput("scales"),
    perOutput("sums"),
    perOutput("bias"),
  ];
}

function norm(name: string, width: number): Tensor[] {
  return ["scale", "bias"].map((part) => ({ name: `${name}.${part}`, type: "float32", length: width }));
}

/** The tensors of an encoder and where they lie. */
export function encoderLayout({ vocabulary, widths, hidden, maxTokens }: EncoderShape): Layout {
  const [table = 0] = widths;
  const tensors: Tensor[] = [
    { name: "table.weights", type: "int8", length: vocabulary * table },
    { name: "table.scales", type: "float32", length: vocabulary },
    { name: "timing", type: "float32", length: maxTokens * table },
  ];
  for (const [layer, width] of widths.slice(1).entries()) {
    const input = widths[layer] ?? 0;
    const name = `layers.${layer}`;
    if (input !== width) tensors.push(...linear(`${name}.residual`, input, width));
    tensors.push(
      ...norm(`${name}.attention.norm`, input),
      ...linear(`${name}.attention.projections`, input, 3 * input),
      ...linear(`${name}.attention.output`, input, width),
      ...norm(`${name}.feedforward.norm`, width),
      ...linear(`${name}.feedforward.hidden`, width, hidden),
      ...linear(`${name}.feedforward.output`, hidden, width),
    );
  }
  const last = widths.at(-1) ?? 0;
  tensors.push(...linear("tanh", last, last));
  let bytes = ALIGNMENT;
  const offsets = new Map<string, number>();
  for (const { name, type, length } of tensors) {
    offsets.set(name, bytes);
    bytes = align(bytes + (type === "int8" ? length : 4 * length));
  }
  return { offsets, tensors, bytes };
}

/** The most numbers that a layer computes of a token: those of a width, of the hidden units, or the projections. */
export function widestRow({ widths, hidden }: EncoderShape): number {
  return Math.max(...widths, hidden, 3 * Math.max(...widths.slice(0, -1)));
}

/** The layers of an encoder that can be trained, from the last. */
export function layerNames({ widths }: EncoderShape): string[] {
  const layers = widths.slice(1).map((_, layer) => `layers.${layer}`);
  return ["tanh", ...layers.reverse(), "table"];
}

/** A tensor of numbers, of which a weights file may hold integers, scales and sums. */
export interface FloatTensor {
  readonly name: string;
  readonly length: number;
  /** Numbers of a row; null of a tensor that is no matrix. */
  readonly width: number | null;
}

/** The tensors of an encoder as numbers, those of its last layers alone if `layers` says how many. */
export function floatTensors(shape: EncoderShape, layers = Number.POSITIVE_INFINITY): FloatTensor[] {
  const { tensors } = encoderLayout(shape);
  const lengths = new Map(tensors.map(({ name, length }) => [name, length]));
  const names = layerNames(shape).slice(0, layers);
  return tensors.flatMap(({ name, type, length }) => {
    const isOfLayers = names.some((layer) => name.startsWith(`${layer}.`));
    if (!isOfLayers || /\.(scales|sums)$/.test(name)) return [];
    const rows = lengths.get(scalesOf(name)) ?? 1;
    return [{ name, length, width: type === "int8" ? length / rows : null }];
  });
}

/** The name of the scales of a matrix's rows. */
export function scalesOf(matrix: string): string {
  return matrix.replace(/weights$/, "scales");
}

/** Reads the tensors of a weights file as 32-bit floats. */
export function floatReader(shape: EncoderShape, weights: Uint8Array): (name: string) => Float32Array {
  const { offsets, tensors } = encoderLayout(shape);
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const bytes = (name: string) => {
    const { type, length } = byName.get(name) ?? { type: "int8", length: 0 };
    const start = offsets.get(name) ?? 0;
    return weights.slice(start, start + (type === "int8" ? length : 4 * length));
  };
  return (name) => {
    if (byName.get(name)?.type === "float32") return new Float32Array(bytes(name).buffer);
    const scales = new Float32Array(bytes(scalesOf(name)).buffer);
    // Float32Array.from with a function takes forty times as long.
    const values = new Float32Array(new Int8Array(bytes(name).buffer));
    const width = values.length / scales.length;
    for (const [row, scale] of scales.entries())
      for (let i = row * width; i < (row + 1) * width; i++) values[i] = scale * (values[i] as number);
    return values;
  };
}
