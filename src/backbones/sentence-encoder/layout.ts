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
