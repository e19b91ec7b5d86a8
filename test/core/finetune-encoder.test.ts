import { describe, expect, it } from "vitest";
import { type EncoderShape, floatTensors, layerNames } from "../../src/backbones/sentence-encoder/layout.ts";
import { seededRandom } from "../../src/core/random.ts";
import { type EncoderRates, makeEncoderNetwork } from "../../src/finetune/encoder/network.ts";
import { makeWorkspace } from "../../src/finetune/kernels.ts";
import { encoderLogits } from "./encoder-reference.ts";

const shape: EncoderShape = { vocabulary: 12, widths: [16, 32, 32], heads: 2, hidden: 48, maxTokens: 8 };
const [besides, outputs] = [8, 3];
const texts = [[3, 7, 1, 7, 2], [5], [], [9, 9, 4, 11, 0, 1, 2, 8, 6]];

/** Random numbers of the size that trained ones have. */
function makeTensors(seed: number): Map<string, Float32Array> {
  const random = seededRandom(seed);
  const values = (length: number, scale: number, centre: number) =>
    Float32Array.from({ length }, () => centre + scale * (2 * random() - 1));
  const tensors = new Map([["timing", values(shape.maxTokens * (shape.widths[0] ?? 0), 1, 0)]]);
  for (const { name, length } of floatTensors(shape))
    tensors.set(name, values(length, 0.3, name.endsWith("norm.scale") ? 1 : 0));
  return tensors;
}

function setUp(trainedLayers: number) {
  const tensors = makeTensors(7);
  const random = seededRandom(8);
  const inputs = texts.map((tokens) => ({
    tokens,
    besides: Float32Array.from({ length: besides }, () => 2 * random() - 1),
  }));
  const workspace = makeWorkspace();
  const size = { maxTexts: 4, maxBatchTokens: 24 };
  const network = makeEncoderNetwork(
    workspace,
    { ...shape, ...size, trainedLayers, besides, outputs },
    (name) => tensors.get(name) ?? new Float32Array(0),
  );
  const head = {
    weights: network.head.weights().map(() => 4 * random() - 2),
    bias: network.head.bias().map(() => random()),
  };
  network.head.weights().set(head.weights);
  network.head.bias().set(head.bias);
  return { tensors, inputs, workspace, network, head };
}

/** A loss with a gradient that differs from logit to logit: Σ_ik c_ik z_ik, c_ik = sin(3 i + k + 1). */
const coefficient = (i: number, k: number) => Math.sin(3 * i + k + 1);
function toLossGradient(logits: Float32Array, stride: number): void {
  for (let i = 0; i < texts.length; i++)
    for (let k = 0; k < stride; k++) logits[i * stride + k] = k < outputs ? coefficient(i, k) : 0;
}
const lossOf = (rows: readonly number[][]) =>
  rows.reduce((sum, row, i) => sum + row.reduce((part, z, k) => part + coefficient(i, k) * z, 0), 0);

describe("a sentence encoder in training", () => {
  it("has the logits of the reference in double precision", () => {
    const { tensors, inputs, network, head } = setUp(4);
    const expected = encoderLogits(shape, tensors, head, inputs, outputs);
    const { logits, stride } = network.forward(inputs);
    for (const [i, row] of expected.entries())
      for (const [k, z] of row.entries()) expect(logits[i * stride + k]).toBeCloseTo(z, 4);
  });

  it("has the gradients of finite differences, of every tensor", () => {
    const { tensors, inputs, workspace, network, head } = setUp(4);
    network.gradients(inputs, toLossGradient);
    const random = seededRandom(9);
    for (const { name, length } of floatTensors(shape)) {
      const { gradients } = network.parameters.tensor(name);
      const gradient = workspace.floats(gradients, length).slice();
      const values = tensors.get(name) as Float32Array;
      // Along random directions.
      for (let n = 0; n < 3; n++) {
        const direction = Float64Array.from(values, () => 2 * random() - 1);
        const lossAt = (step: number) => {
          const moved = new Map<string, ArrayLike<number>>(tensors);
          moved.set(
            name,
            Float64Array.from(values, (value, i) => value + step * (direction[i] as number)),
          );
          return lossOf(encoderLogits(shape, moved, head, inputs, outputs));
        };
        const expected = (lossAt(1e-5) - lossAt(-1e-5)) / 2e-5;
        const actual = gradient.reduce((sum, value, i) => sum + value * (direction[i] as number), 0);
        expect(Math.abs(actual - expected), name).toBeLessThan(2e-3 * Math.max(1, Math.abs(expected)));
      }
    }
  });

  it.each([0, 1, 2, 3, 4])("changes the last %i layers alone, and lowers the loss", (trainedLayers) => {
    const { tensors, inputs, network } = setUp(trainedLayers);
    const trainedNames = layerNames(shape).slice(0, trainedLayers);
    const rates: EncoderRates = {
      rates: new Map(["head", ...trainedNames].map((name) => [name, 1e-3])),
      pull: 0,
      dropout: 0.1,
      seed: 1,
    };
    const lossNow = () => {
      const { logits, stride } = network.forward(inputs);
      return lossOf(inputs.map((_, i) => [...logits.subarray(i * stride, i * stride + outputs)]));
    };
    const before = lossNow();
    for (let step = 0; step < 10; step++) network.step(inputs, toLossGradient, { ...rates, seed: step });
    expect(lossNow()).toBeLessThan(before);
    for (const { name } of floatTensors(shape)) {
      const isTrained = trainedNames.some((layer) => name.startsWith(`${layer}.`));
      expect(
        network.tensor(name).some((value, i) => value !== tensors.get(name)?.[i]),
        name,
      ).toBe(isTrained);
    }
  });

  it("trains the tanh layer the same on what the transformer has made of the texts before", () => {
    const steps = (isPooled: boolean) => {
      const { inputs, network } = setUp(1);
      const pooled = network.pool(inputs);
      const all = isPooled ? inputs.map((input, i) => ({ ...input, pooled: pooled[i] as Float32Array })) : inputs;
      const rates = {
        rates: new Map([
          ["head", 1e-3],
          ["tanh", 1e-3],
        ]),
        pull: 0.01,
        dropout: 0.1,
        seed: 1,
      };
      for (let step = 0; step < 3; step++) network.step(all, toLossGradient, rates);
      return network.forward(inputs).logits.slice();
    };
    expect(steps(true)).toEqual(steps(false));
  });

  it("changes no row of the table that no text has", () => {
    const { tensors, inputs, network } = setUp(4);
    const rates = {
      rates: new Map([
        ["head", 1e-3],
        ["table", 1e-3],
      ]),
      pull: 0.01,
      dropout: 0,
      seed: 1,
    };
    for (let step = 0; step < 3; step++) network.step(inputs, toLossGradient, rates);
    const row = (values: Float32Array | undefined, i: number) => values?.subarray(16 * i, 16 * (i + 1));
    const after = network.tensor("table.weights");
    const read = new Set(texts.flatMap((tokens) => tokens.slice(0, shape.maxTokens)));
    for (let i = 0; i < shape.vocabulary; i++)
      if (read.has(i)) expect(row(after, i)).not.toEqual(row(tensors.get("table.weights"), i));
      else expect(row(after, i)).toEqual(row(tensors.get("table.weights"), i));
  });

  it("goes back to a snapshot", () => {
    const { inputs, network } = setUp(3);
    const snapshot = network.snapshot();
    const before = network.forward(inputs).logits.slice();
    const rates = new Map(["head", ...layerNames(shape)].map((name) => [name, 1e-2]));
    network.step(inputs, toLossGradient, { rates, pull: 0, dropout: 0, seed: 1 });
    expect(network.forward(inputs).logits).not.toEqual(before);
    network.restore(snapshot);
    expect(network.forward(inputs).logits).toEqual(before);
  });

  it("drops about as many numbers as asked, and the same for the same seed", () => {
    const { kernels, reserve, floats } = makeWorkspace();
    const count = 100_000;
    const at = reserve(count);
    const drop = (seed: number) => {
      floats(at, count).fill(1);
      kernels.dropOut(count, at, seed, Math.round(0.1 * 2 ** 32) | 0, 1 / 0.9);
      return floats(at, count).slice();
    };
    const first = drop(1);
    const dropped = first.filter((value) => value === 0).length;
    expect(dropped / count).toBeGreaterThan(0.095);
    expect(dropped / count).toBeLessThan(0.105);
    expect(new Set(first)).toEqual(new Set([0, Math.fround(1 / 0.9)]));
    expect(drop(1)).toEqual(first);
    expect(drop(2)).not.toEqual(first);
  });
});
