/** The numbers of the convolution and of the output layer, with their gradients and optimiser state. */
import { WINDOW } from "../core/fine-tuning-cost.ts";
import { seededRandom } from "../core/random.ts";
import { ADAM } from "./adam.ts";
import type { Workspace } from "./kernels.ts";

export interface LayerShape {
  readonly dimensions: number;
  readonly filters: number;
  readonly outputs: number;
}

/** filters × 3 dimensions, outputs (padded) × filters, filters, outputs (padded). */
export interface LayerValues {
  readonly kernel: Float32Array;
  readonly weights: Float32Array;
  readonly filterBias: Float32Array;
  readonly bias: Float32Array;
}

/** The same as byte offsets into the workspace. */
export type LayerOffsets = Readonly<Record<keyof LayerValues, number>>;

export interface LayerParameters {
  readonly values: LayerOffsets;
  readonly gradients: LayerOffsets;
  /** Views of the values or of the gradients. */
  view(offsets: LayerOffsets): LayerValues;
  snapshot(): Float32Array;
  restore(snapshot: Float32Array): void;
  /** A step of AdamW. `rate` is corrected for bias; `decay` is the part that kernel and weights lose. */
  update(rate: number, decay: number): void;
}

/** The outputs, padded to what the kernels need. */
export function paddedOutputs({ outputs }: LayerShape): number {
  return Math.ceil(outputs / 8) * 8;
}

/** Kernel, weights and filter biases are drawn by `seed`; biases are zero. */
export function makeLayerParameters(workspace: Workspace, shape: LayerShape, seed: number): LayerParameters {
  const { filters, outputs } = shape;
  const { kernels, floats } = workspace;
  const width = WINDOW * shape.dimensions;
  const stride = paddedOutputs(shape);
  const decayed = filters * width + stride * filters;
  const count = decayed + filters + stride;
  // One stretch of memory for all, so that one kernel call updates them.
  const reserve = (): LayerOffsets => {
    const kernel = workspace.reserve(count);
    const weights = kernel + 4 * filters * width;
    const filterBias = weights + 4 * stride * filters;
    return { kernel, weights, filterBias, bias: filterBias + 4 * filters };
  };
  const values = reserve();
  const gradients = reserve();
  const [means, squares] = [workspace.reserve(count), workspace.reserve(count)];

  const random = seededRandom(seed);
  const fillUniform = (offset: number, length: number, bound: number) => {
    const numbers = floats(offset, length);
    for (let i = 0; i < length; i++) numbers[i] = (2 * random() - 1) * bound;
  };
  fillUniform(values.kernel, filters * width, 1 / Math.sqrt(width));
  fillUniform(values.weights, outputs * filters, 1 / Math.sqrt(filters));
  fillUniform(values.filterBias, filters, 1 / Math.sqrt(width));

  return {
    values,
    gradients,
    view: (offsets) => ({
      kernel: floats(offsets.kernel, filters * width),
      weights: floats(offsets.weights, stride * filters),
      filterBias: floats(offsets.filterBias, filters),
      bias: floats(offsets.bias, stride),
    }),
    snapshot: () => floats(values.kernel, count).slice(),
    restore: (snapshot) => floats(values.kernel, count).set(snapshot),
    update(rate, decay) {
      kernels.shrink(values.kernel, decayed, 1 - decay);
      kernels.adam(values.kernel, means, squares, gradients.kernel, count, rate, ...ADAM);
    },
  };
}
