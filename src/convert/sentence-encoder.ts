/**
 * Universal Sentence Encoder lite, from TensorFlow.js's graph model to the weights file of src/backbones/sentence-encoder.
 */
import { ALIGNMENT, type EncoderShape, encoderLayout, MAGIC } from "../backbones/sentence-encoder/layout.ts";
import type { WeightReader } from "./graph-weights.ts";

const MAX_LEVEL = 127;

/** The shape of Universal Sentence Encoder lite. */
export const shape: EncoderShape = {
  vocabulary: 8002,
  widths: [256, 512, 512],
  heads: 4,
  hidden: 1536,
  maxTokens: 128,
};

const ENCODE = "KonaTransformer/Encode";

/** Where the graph has each linear layer: its weights, `inputs` × `outputs`, and its bias. */
function linearLayers({ widths, hidden }: EncoderShape) {
  const last = widths.at(-1) ?? 0;
  const layers = [
    {
      name: "tanh",
      inputs: last,
      outputs: last,
      weights: "hidden_layers/tanh_layer_0/weights",
      bias: "hidden_layers/tanh_layer_0/bias",
    },
  ];
  for (const [layer, outputs] of widths.slice(1).entries()) {
    const inputs = widths[layer] ?? 0;
    const layerPath = `${ENCODE}/Layer_${layer}/TransformerLayer`;
    const stackPath = `${ENCODE}/TransformerStack/Layer_${layer}/TransformerLayer`;
    const add = (name: string, inputs: number, outputs: number, weights: string, bias: string) =>
      layers.push({
        name: `layers.${layer}.${name}`,
        inputs,
        outputs,
        weights,
        bias: `${layerPath}/${bias}/bias/ConcatPartitions/concat`,
      });
    if (inputs !== outputs)
      add("residual", inputs, outputs, `${layerPath}/dense/kernel/ConcatPartitions/concat`, "dense");
    for (const [name, part, width] of [
      ["attention.projections", "qkv_transform_single", 3 * inputs],
      ["attention.output", "output_transform_single", outputs],
    ] as const)
      add(name, inputs, width, `${layerPath}/MultiheadAttention/${part}/kernel/part_0`, `MultiheadAttention/${part}`);
    add("feedforward.hidden", outputs, hidden, `${stackPath}/FFN/conv1/Tensordot/Reshape_1`, "FFN/conv1");
    add("feedforward.output", hidden, outputs, `${stackPath}/FFN/conv2/Tensordot/Reshape_1`, "FFN/conv2");
  }
  return layers;
}

/** Rounds rows of `width` numbers to 8 bits: x ≈ scale · integer, with the row's largest magnitude at 127. */
function quantiseRows(x: Float32Array, width: number): { integers: Int8Array; scales: Float32Array } {
  const integers = new Int8Array(x.length);
  const scales = new Float32Array(x.length / width);
  for (const row of scales.keys()) {
    const values = x.subarray(row * width, (row + 1) * width);
    const scale = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / MAX_LEVEL || 1;
    scales[row] = scale;
    integers.set(
      values.map((value) => Math.round(value / scale)),
      row * width,
    );
  }
  return { integers, scales };
}

/** `rows` × `columns` to `columns` × `rows`. */
function transpose(x: Float32Array, rows: number, columns: number): Float32Array {
  return Float32Array.from({ length: x.length }, (_, index) => {
    const column = Math.floor(index / rows);
    return x[(index % rows) * columns + column] ?? 0;
  });
}

/** sin and cos of position / timescale, each half of the width (Vaswani et al. 2017, "Attention is all you need", 3.5). */
function timingSignals({ maxTokens, widths }: EncoderShape, inverseTimescales: Float32Array): Float32Array {
  const [width = 0] = widths;
  return Float32Array.from({ length: maxTokens * width }, (_, index) => {
    const [position, j] = [Math.floor(index / width), index % width];
    const angle = position * (inverseTimescales[j % (width / 2)] ?? 0);
    return j < width / 2 ? Math.sin(angle) : Math.cos(angle);
  });
}

/** The weights file. */
export function convertWeights(weights: WeightReader): Uint8Array {
  const tensors = new Map<string, Int8Array | Float32Array>();
  const [tableWidth = 0] = shape.widths;
  const table = quantiseRows(weights("module/Embeddings_en"), tableWidth);
  tensors.set("table.weights", table.integers).set("table.scales", table.scales);
  tensors.set("timing", timingSignals(shape, weights("AddTimingSignal/TimingSignal/ExpandDims_1")));
  for (const { name, inputs, outputs, weights: kernel, bias } of linearLayers(shape)) {
    const { integers, scales } = quantiseRows(transpose(weights(kernel), inputs, outputs), inputs);
    const sums = scales.map(
      (scale, row) => scale * integers.subarray(row * inputs, (row + 1) * inputs).reduce((sum, w) => sum + w, 0),
    );
    tensors.set(`${name}.weights`, integers).set(`${name}.scales`, scales);
    tensors.set(`${name}.sums`, sums).set(`${name}.bias`, weights(bias));
  }
  for (const layer of shape.widths.slice(1).keys()) {
    for (const [name, part] of [
      ["attention", "TransformerLayer/layer_prepostprocess"],
      ["feedforward", "TransformerLayer/FFN/layer_prepostprocess"],
    ] as const) {
      for (const kind of ["scale", "bias"]) {
        const constant = `${ENCODE}/Layer_${layer}/${part}/layer_norm/layer_norm_${kind}/ConcatPartitions/concat`;
        tensors.set(`layers.${layer}.${name}.norm.${kind}`, weights(constant));
      }
    }
  }
  return writeWeights(tensors);
}

function writeWeights(values: ReadonlyMap<string, Int8Array | Float32Array>): Uint8Array {
  const { tensors, offsets, bytes } = encoderLayout(shape);
  const file = new Uint8Array(bytes);
  new Uint32Array(file.buffer, 0, ALIGNMENT / 4).set([MAGIC, bytes]);
  for (const { name, length } of tensors) {
    const tensor = values.get(name);
    if (tensor?.length !== length) throw new Error(`${name} has ${tensor?.length} numbers, not ${length}.`);
    file.set(new Uint8Array(tensor.buffer, tensor.byteOffset, tensor.byteLength), offsets.get(name));
  }
  return file;
}
