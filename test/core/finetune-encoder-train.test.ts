import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { textStatic, textUse } from "../../src/backbones/node.ts";
import { textUseBackbone } from "../../src/backbones/text-use.ts";
import type { Targets } from "../../src/core/linear/targets.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { TrainingState } from "../../src/finetune/encoder/state.ts";
import { type EncoderTrainingOptions, fineTuneEncoder } from "../../src/finetune/encoder/train.ts";
import type { Epoch } from "../../src/finetune/train.ts";
import { linearHead } from "../contract/linear-head.ts";
import { makeWeights, shape } from "./small-encoder.ts";

const config = { ...shape, id: "small", revision: "1", license: "MIT", parameters: 1 };
const vocabulary = readFileSync(join(import.meta.dirname, "../../models/text-use-1/vocabulary.txt"), "utf8");
const { kernels } = textUse.encoder();
const base = textUseBackbone(textStatic, config, vocabulary, () => ({ kernels, weights: makeWeights(5) }));
const outputs = 3;
const COUNT = 50;

/** Texts that say the label, but for those whose label is drawn: a part `noise` of them. */
function makeData(heldOutCount: number, noise: number) {
  const random = seededRandom(3);
  const indices = Int32Array.from({ length: COUNT }, (_, i) => i % outputs);
  const inputs = Array.from(indices, (label) => ({
    tokens: [label, 5 + Math.floor(30 * random()), 5 + Math.floor(30 * random())],
    besides: Float32Array.from({ length: textStatic.dimensions }, (_, i) => (i === label ? 1 : random() / 20)),
  }));
  const targets: Targets = {
    kind: "single",
    indices: indices.map((label) => (random() < noise ? Math.floor(outputs * random()) : label)),
  };
  return {
    inputs,
    targets,
    outputs,
    weights: new Float64Array(COUNT).fill(1),
    heldOut: Array.from({ length: heldOutCount }, (_, i) => 4 * i),
    frozenHead: linearHead({
      task: "single_label",
      labels: ["a", "b", "c"],
      dimensions: base.dimensions,
      weights: Float32Array.from({ length: outputs * base.dimensions }, () => random() / 10),
      bias: new Float32Array(outputs),
    }),
    lexicalOutputs: null,
  };
}

/** Trains, from a state if one is given. `states` are those after each epoch, `resumedAt` the epoch it went on from. */
function train(
  data: ReturnType<typeof makeData>,
  overrides: Partial<EncoderTrainingOptions>,
  state: TrainingState | null = null,
) {
  const states: TrainingState[] = [];
  const epochs: Epoch[] = [];
  const operations: number[] = [];
  let resumedAt: number | null = null;
  const steps = fineTuneEncoder(base, data, {
    epochs: 8,
    batchSize: 16,
    learningRateMultiplier: "auto",
    seed: 1,
    plan: null,
    layers: 4,
    onEpoch: (epoch) => epochs.push(epoch),
    states: {
      stored: () => state,
      onResume: (epoch) => {
        resumedAt = epoch;
      },
      onEpochEnd: (takeState, count) => {
        states.push(takeState());
        operations.push(count);
      },
    },
    ...overrides,
  });
  for (;;) {
    const step = steps.next();
    if (!step.done) continue;
    const { network, plan, steps: stepCount } = step.value;
    return { numbers: network.snapshot(), plan, steps: stepCount, epochs, states, operations, resumedAt };
  }
}

const plan = { totalEpochs: 4, epochs: 4, headTemperature: 1, layersTemperature: 1 };

describe("a training of an encoder's layers", () => {
  it.each([
    ["all layers, with nothing held out", makeData(0, 0), { epochs: 5 }, 5],
    ["all layers, with texts held out", makeData(10, 0), { epochs: 5 }, 5],
    ["all layers, which stops early", makeData(10, 1), { epochs: 12, learningRateMultiplier: 5 }, null],
    ["two layers, by a plan", makeData(0, 0), { layers: 2, plan }, 4],
    ["the last layer, whose inputs are computed once", makeData(10, 0), { layers: 1, epochs: 4 }, 4],
  ] as const)("of %s gives the same numbers from the state of any epoch", (_, data, options, epochCount) => {
    const whole = train(data, options);
    if (epochCount === null) expect(whole.epochs.length).toBeLessThan(options.epochs ?? 0);
    else expect(whole.epochs).toHaveLength(epochCount);
    expect(whole.states.map(({ epoch }) => epoch)).toEqual([...whole.epochs.keys()].slice(1));
    expect(new Set(whole.operations).size).toBe(1);
    for (const state of whole.states) {
      const rest = train(data, options, state);
      expect(rest.resumedAt).toBe(state.epoch);
      expect(rest.epochs).toEqual(whole.epochs.slice(state.epoch));
      expect(rest.states).toEqual(whole.states.slice(state.epoch));
      expect([rest.numbers, rest.plan, rest.steps]).toEqual([whole.numbers, whole.plan, whole.steps]);
    }
  });

  it("begins anew where the state is that of another training", () => {
    const data = makeData(10, 0);
    const whole = train(data, { epochs: 3 });
    const state = whole.states[1] as TrainingState;
    const { arrays, best } = state;
    const shorter = arrays.map((array, i) => (i === 1 ? array.slice(1) : array));
    const others: [Partial<EncoderTrainingOptions>, TrainingState][] = [
      [{ layers: 2 }, state],
      [{ batchSize: 8 }, state],
      [{ epochs: 2 }, state],
      [{}, { ...state, steps: state.steps + 1 }],
      [{}, { ...state, arrays: arrays.slice(1) }],
      [{}, { ...state, arrays: shorter }],
      [{}, { ...state, best: best && { ...best, snapshot: shorter } }],
    ];
    for (const [options, other] of others) {
      const anew = train(data, { epochs: 3, ...options }, other);
      expect(anew.resumedAt).toBeNull();
      expect(anew.numbers).toEqual(train(data, { epochs: 3, ...options }).numbers);
    }
  });

  it("takes the texts in another order in each epoch and for each seed", () => {
    const data = makeData(0, 0);
    const numbers = (seed: number) => train(data, { epochs: 2, seed }).numbers;
    expect(numbers(1)).toEqual(numbers(1));
    expect(numbers(2)).not.toEqual(numbers(1));
  });
});
