import { describe, expect, it } from "vitest";
import { decodeDelta, fineTunedBackbone } from "../../src/backbones/fine-tuned-static.ts";
import { textStatic } from "../../src/backbones/node.ts";
import { encode } from "../../src/backbones/text-static.ts";
import type { Head } from "../../src/core/head.ts";
import type { Targets } from "../../src/core/linear/targets.ts";
import { seededRandom } from "../../src/core/random.ts";
import { composeModel } from "../../src/finetune/compose.ts";
import { makeLoss } from "../../src/finetune/loss.ts";
import {
  type Epoch,
  type FineTuningOptions,
  fineTune,
  fineTuningOperations,
  meanPlan,
} from "../../src/finetune/train.ts";
import { linearHead } from "../contract/linear-head.ts";

const table = textStatic.table();
const things = ["parcel", "invoice", "refund", "password"];

/** What a sum of words cannot tell: which of two things is asked for and which is only named. */
function makeOrderTexts(count: number, seed: number) {
  const random = seededRandom(seed);
  const pick = () => Math.floor(random() * things.length);
  return Array.from({ length: count }, () => {
    const [orderedThing, mentionedThing] = [pick(), pick()];
    return { text: `send ${things[orderedThing]} but keep ${things[mentionedThing]}`, label: orderedThing };
  });
}

function trainRows(
  rows: ReturnType<typeof makeOrderTexts>,
  targets: Targets,
  outputs: number,
  overrides: Partial<FineTuningOptions> = {},
) {
  const heldOut = overrides.plan ? [] : rows.flatMap((_, i) => (i % 5 === 0 ? [i] : []));
  const epochs: Epoch[] = [];
  const steps = fineTune(
    table,
    {
      texts: rows.map(({ text }) => text),
      targets,
      outputs,
      weights: new Float64Array(rows.length).fill(1),
      heldOut,
      // A head that knows nothing.
      headLogits: new Float32Array(heldOut.length * outputs),
      headTemperature: 1,
    },
    {
      epochs: 12,
      batchSize: 32,
      learningRateMultiplier: "auto",
      trainRows: true,
      seed: 1,
      plan: null,
      onEpoch: (epoch) => epochs.push(epoch),
      ...overrides,
    },
  );
  let operations = 0;
  for (;;) {
    const step = steps.next();
    if (step.done) return { tuned: step.value, epochs, operations };
    operations += step.value;
  }
}

const single = (rows: ReturnType<typeof makeOrderTexts>): Targets => ({
  kind: "single",
  indices: Int32Array.from(rows, ({ label }) => label),
});

describe("fine-tuning", () => {
  it("learns what the order of words says", () => {
    const rows = makeOrderTexts(400, 1);
    const { epochs, tuned } = trainRows(rows, single(rows), things.length);
    expect(Math.max(...epochs.map(({ validAccuracy }) => validAccuracy ?? 0))).toBeGreaterThan(0.97);
    expect(tuned.plan.epochs).toBeGreaterThan(1);
  });

  it("keeps the epoch that was best on what is held out, and another training of that plan ends there", () => {
    const rows = makeOrderTexts(200, 2);
    // Labels that nothing explains: the longer, the worse.
    const random = seededRandom(9);
    const targets: Targets = { kind: "single", indices: Int32Array.from(rows, () => Math.floor(2 * random())) };
    const { epochs, tuned } = trainRows(rows, targets, 2, { epochs: 40 });
    const losses = epochs.map(({ validLoss }) => validLoss as number);
    const lateLosses = losses.slice(13);
    expect(tuned.plan.epochs).toBe(14 + lateLosses.indexOf(Math.min(...lateLosses)));
    expect(epochs.length).toBeLessThan(40);
    const refittedModel = trainRows(rows, targets, 2, { epochs: 40, plan: tuned.plan });
    expect(refittedModel.epochs).toHaveLength(tuned.plan.epochs);
    expect(refittedModel.tuned.plan).toEqual(tuned.plan);
    const shorter = trainRows(rows, targets, 2, { epochs: 20, plan: tuned.plan });
    expect(shorter.epochs).toHaveLength(Math.round(tuned.plan.epochs / 2));
  });

  it("on all examples follows the mean plan of trainings on parts", () => {
    const plan = { totalEpochs: 24, epochs: 12, headTemperature: 0.5, layersTemperature: 4 };
    const other = { totalEpochs: 24, epochs: 15, headTemperature: 2, layersTemperature: 1 };
    expect(meanPlan([plan, other])).toEqual({
      totalEpochs: 24,
      epochs: 13.5,
      headTemperature: expect.closeTo(1),
      layersTemperature: expect.closeTo(2),
    });
    expect(meanPlan([plan])).toEqual({ ...plan, headTemperature: expect.closeTo(0.5), layersTemperature: 4 });
  });

  it("gives the same numbers for the same seed, and others for another", () => {
    const rows = makeOrderTexts(60, 3);
    const run = (seed: number) =>
      trainRows(rows, single(rows), things.length, { epochs: 2, seed }).tuned.network.snapshot();
    expect(run(4)).toEqual(run(4));
    expect(run(5)).not.toEqual(run(4));
  });

  it("leaves the rows as they are where the last layers alone are trained", () => {
    const rows = makeOrderTexts(60, 3);
    const { tuned } = trainRows(rows, single(rows), things.length, { epochs: 2, trainRows: false });
    expect(tuned.network.shape.trainedCount).toBe(0);
  });

  it("takes no more operations than it was said to", () => {
    const rows = makeOrderTexts(100, 5);
    const { operations } = trainRows(rows, single(rows), things.length, { epochs: 3 });
    const options = {
      epochs: 3,
      batchSize: 32,
      learningRateMultiplier: "auto",
      trainRows: true,
      seed: 1,
      plan: null,
    } as const;
    const texts = rows.map(({ text }) => text);
    const maxOperations = fineTuningOperations(
      { dimensions: table.dimensions, outputs: things.length, texts },
      options,
    );
    expect(operations).toBeGreaterThan(0.5 * maxOperations);
    expect(operations).toBeLessThan(1.2 * maxOperations);
  });

  it("learns any number of labels, and values far from zero", () => {
    const rows = makeOrderTexts(300, 6);
    const multi: Targets = { kind: "multi", indices: rows.map(({ label }) => (label === 0 ? [] : [0, label])) };
    expect(trainRows(rows, multi, things.length).epochs.at(-1)?.validAccuracy).toBeGreaterThan(0.9);
    const value: Targets = { kind: "value", values: Float64Array.from(rows, ({ label }) => 1e6 + 100 * label) };
    const { tuned, epochs } = trainRows(rows, value, 1);
    expect(tuned.mean).toBeGreaterThan(1e6);
    // The head that knows nothing says 0, and its half of the answer spoils it: what the layers learn is in their own loss.
    expect(epochs.at(-1)?.trainLoss).toBeLessThan(0.2);
  });
});

describe("the model of a head and layers", () => {
  const draw = (count: number, seed: number) => {
    const random = seededRandom(seed);
    return Float32Array.from({ length: count }, () => 4 * random() - 2);
  };
  const frozenHead = (task: Head["task"], labels: readonly string[]): Head => {
    const outputs = Math.max(1, labels.length);
    return {
      ...linearHead({
        task,
        labels,
        dimensions: table.dimensions,
        weights: draw(outputs * table.dimensions, 7),
        bias: draw(outputs, 8),
      }),
      offset: task === "regression" ? 50 : 0,
    };
  };

  const halfCertain = { totalEpochs: 2, epochs: 2, headTemperature: 2, layersTemperature: 0.5 };

  it.each([
    [40, 0.125],
    [80, 0.25],
    [160, 0.5],
    [200, 0.5],
  ])("of %i examples of four labels has %f of its answer from the layers", (count, layerShare) => {
    expect(
      trainRows(makeOrderTexts(count, 9), single(makeOrderTexts(count, 9)), 4, { epochs: 1, plan: halfCertain }).tuned
        .share,
    ).toBe(layerShare);
  });

  it.each(["single_label", "multi_label", "regression"] as const)(
    "says of %s what both say, each by its part and at its temperature",
    async (task) => {
      const rows = makeOrderTexts(100, 10);
      const value: Targets = { kind: "value", values: Float64Array.from(rows, ({ label }) => 30 + 5 * label) };
      const multi: Targets = { kind: "multi", indices: rows.map(({ label }) => [label]) };
      const targets = { single_label: single(rows), multi_label: multi, regression: value }[task];
      const outputs = task === "regression" ? 1 : things.length;
      const plan = task === "regression" ? { ...halfCertain, headTemperature: 1, layersTemperature: 1 } : halfCertain;
      const { tuned } = trainRows(rows, targets, outputs, { plan });
      const frozen = frozenHead(task, task === "regression" ? [] : things);
      const { delta, head } = composeModel({ id: textStatic.id, revision: textStatic.revision }, frozen, tuned, [
        ...rows.keys(),
      ]);
      const decoded = decodeDelta(delta);
      if (decoded === null) throw new Error("no delta");
      const backbone = fineTunedBackbone(textStatic, { id: "ft:x", revision: "1" }, decoded, delta.length);
      for (const text of [0, 1, 2]) {
        const { text: input } = rows[text] as { text: string };
        const [embedding] = (await backbone.embed([input])).rows as [Float32Array];
        const { logits } = tuned.network.forward([tuned.vocabulary.wordIds(text)]);
        const headLogits = computeLogits(frozen, encode(table, input));
        const expected = Array.from(headLogits, (z, k) => {
          const layerLogits = tuned.deviation * (logits[k] as number) + tuned.mean;
          return ((1 - tuned.share) * z) / plan.headTemperature + (tuned.share * layerLogits) / plan.layersTemperature;
        });
        // Rows have four bits a number.
        computeLogits(head, embedding).forEach((z, k) => {
          expect(Math.abs(z - (expected[k] as number))).toBeLessThan(0.15 * tuned.deviation);
        });
      }
    },
  );
});

function computeLogits({ weights, bias, offset, dimensions }: Head, embedding: Float32Array): number[] {
  return Array.from(bias, (start, k) =>
    embedding.reduce((sum, x, j) => sum + x * (weights[k * dimensions + j] as number), start + offset),
  );
}

describe("the loss", () => {
  const spread = { mean: 2, deviation: 3 };
  it.each<[string, Targets]>([
    ["one label", { kind: "single", indices: Int32Array.of(1, 2, 0) }],
    ["labels", { kind: "multi", indices: [[0, 2], [], [1]] }],
    ["a value", { kind: "value", values: Float64Array.of(1, 5, -3) }],
  ])("of %s has the gradient that it writes", (_, targets) => {
    const outputs = targets.kind === "value" ? 1 : 3;
    const weights = Float64Array.of(1, 0.5, 2);
    const random = seededRandom(3);
    const logits = Float32Array.from({ length: 3 * 4 }, () => 2 * random() - 1);
    const loss = makeLoss(targets, weights, outputs, spread);
    const lossAt = (values: Float32Array) => loss(values.slice(), 4, [0, 1, 2]) / 3;
    const gradient = logits.slice();
    loss(gradient, 4, [0, 1, 2]);
    for (let i = 0; i < 3; i++)
      for (let k = 0; k < outputs; k++) {
        const [up, down] = [logits.slice(), logits.slice()];
        up[4 * i + k] = (up[4 * i + k] as number) + 1e-2;
        down[4 * i + k] = (down[4 * i + k] as number) - 1e-2;
        expect(gradient[4 * i + k]).toBeCloseTo((lossAt(up) - lossAt(down)) / 2e-2, 3);
      }
  });
});
