/**
 * The numbers of a sentence encoder that fine-tuning trains, in groups from the first layer to the last. A group is one
 * stretch of memory, so that one kernel call updates it.
 */
import { align, type EncoderShape, floatTensors, layerNames } from "../../backbones/sentence-encoder/layout.ts";
import type { Workspace } from "../kernels.ts";

/** Byte offsets of a group's numbers, of their gradients, and of what Adam keeps. Those of frozen groups are 0. */
export interface Group {
  readonly name: string;
  readonly trained: boolean;
  readonly count: number;
  readonly values: number;
  readonly gradients: number;
  readonly means: number;
  readonly squares: number;
  /** The pre-trained numbers; null: the group has none. */
  readonly anchors: number | null;
}

/** Where a tensor of 32-bit floats lies, and its gradient. */
export interface TensorOffsets {
  readonly values: number;
  readonly gradients: number;
  readonly length: number;
}

export interface Parameters {
  /** From the first layer to the last. */
  readonly groups: readonly Group[];
  tensor(name: string): TensorOffsets;
  /** The timing signals, which are not trained. */
  readonly timing: number;
}

/** The parameters of an encoder, its last `trainedLayers` layers with room for their training. */
export function makeParameters(
  workspace: Workspace,
  shape: EncoderShape,
  readTensor: (name: string) => Float32Array,
  trainedLayers: number,
): Parameters {
  const { reserve, floats } = workspace;
  const tensors = floatTensors(shape);
  const trainedNames = new Set(layerNames(shape).slice(0, trainedLayers));
  const offsets = new Map<string, TensorOffsets>();
  const groups = layerNames(shape)
    .reverse()
    .map((name): Group => {
      const ownTensors = tensors.filter((tensor) => tensor.name.startsWith(`${name}.`));
      const count = ownTensors.reduce((sum, { length }) => sum + align(length), 0);
      const trained = trainedNames.has(name);
      const values = reserve(count);
      const [gradients = 0, means = 0, squares = 0, anchors = 0] = trained
        ? [0, 0, 0, 0].map(() => reserve(count))
        : [];
      let offset = 0;
      for (const tensor of ownTensors) {
        const at = { values: values + 4 * offset, gradients: gradients + 4 * offset, length: tensor.length };
        offsets.set(tensor.name, at);
        offset += align(tensor.length);
      }
      return { name, trained, count, values, gradients, means, squares, anchors };
    });
  const timingValues = readTensor("timing");
  const timing = reserve(timingValues.length);
  floats(timing, timingValues.length).set(timingValues);
  for (const { name, length } of tensors) floats(offsets.get(name)?.values ?? 0, length).set(readTensor(name));
  for (const { trained, values, anchors, count } of groups)
    if (trained && anchors !== null) floats(anchors, count).set(floats(values, count));
  return {
    groups,
    timing,
    tensor(name) {
      const tensor = offsets.get(name);
      if (tensor === undefined) throw new Error(`An encoder has no ${name}.`);
      return tensor;
    },
  };
}
