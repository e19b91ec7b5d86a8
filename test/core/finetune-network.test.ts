import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WINDOW } from "../../src/core/fine-tuning-cost.ts";
import { seededRandom } from "../../src/core/random.ts";
import { makeWorkspace } from "../../src/finetune/kernels.ts";
import { makeNetwork, type Network, type Rates } from "../../src/finetune/network.ts";

const d = 32;
const filters = 8;
const zeroRates: Rates = { rows: 1e-30, layers: 0, weightDecay: 0, anchorDecay: 0 };

function buildNetwork(
  wordCount: number,
  outputs: number,
  batchSize: number,
  seed: number,
  trainedCount = wordCount,
): Network {
  const network = makeNetwork(
    makeWorkspace(),
    { dimensions: d, filters, outputs, wordCount, trainedCount, batchSize },
    seed,
  );
  const random = seededRandom(seed);
  const rows = network.rows();
  for (let i = 0; i < rows.length; i++) rows[i] = random() - 0.5;
  network.setAnchor();
  return network;
}

/** The formula at the top of network.ts, in 64-bit floats. */
function reference(network: Network, text: Int32Array, keep: (f: number) => number) {
  const rows = network.rows();
  const { kernel, weights, filterBias, bias } = network.layers();
  const x = (t: number, j: number) => (t < 0 || t >= text.length ? 0 : (rows[(text[t] as number) * d + j] as number));
  const features = Array.from({ length: filters }, (_, f) => {
    let maximum = Number.NEGATIVE_INFINITY;
    for (let t = 0; t < text.length; t++) {
      let sum = 0;
      for (let o = 0; o < WINDOW; o++)
        for (let j = 0; j < d; j++) sum += (kernel[(f * WINDOW + o) * d + j] as number) * x(t + o - 1, j);
      maximum = Math.max(maximum, sum);
    }
    return keep(f) * Math.max(0, maximum + (filterBias[f] as number));
  });
  const logits = Array.from({ length: network.shape.outputs }, (_, k) =>
    features.reduce((sum, h, f) => sum + h * (weights[k * filters + f] as number), bias[k] as number),
  );
  return { features, logits };
}

const textBatches = (words: number) =>
  fc.array(
    fc.array(fc.nat(words - 1), { minLength: 1, maxLength: 9 }).map((text) => Int32Array.from(text)),
    { minLength: 1, maxLength: 7 },
  );

describe("the network", () => {
  it("computes its formula for texts of any length and batches of any size", () => {
    fc.assert(
      fc.property(textBatches(20), fc.integer({ min: 1, max: 11 }), fc.nat(99), (texts, outputs, seed) => {
        const network = buildNetwork(20, outputs, 7, seed);
        const { features, logits, stride } = network.forward(texts);
        texts.forEach((text, i) => {
          const expected = reference(network, text, () => 1);
          for (const [f, value] of expected.features.entries()) expect(features[i * filters + f]).toBeCloseTo(value, 4);
          for (const [k, value] of expected.logits.entries()) expect(logits[i * stride + k]).toBeCloseTo(value, 4);
        });
      }),
      { numRuns: 40 },
    );
  });

  it("has the gradient of its formula, in every layer and for every word", () => {
    fc.assert(
      fc.property(textBatches(12), fc.integer({ min: 1, max: 6 }), fc.nat(99), (texts, outputs, seed) => {
        const network = buildNetwork(12, outputs, 7, seed);
        const random = seededRandom(seed + 1);
        const dropoutMask = Float32Array.from({ length: texts.length * filters }, () => (random() < 0.3 ? 0 : 1.5));
        const targets = texts.map(() => Array.from({ length: outputs }, () => random() - 0.5));
        // Half the squared distance from the targets, whose gradient in z is the distance.
        const loss = () =>
          texts.reduce((sum, text, i) => {
            const { logits } = reference(network, text, (f) => dropoutMask[i * filters + f] as number);
            return sum + logits.reduce((all, z, k) => all + (z - (targets[i]?.[k] as number)) ** 2 / 2, 0);
          }, 0);
        network.step(
          texts,
          dropoutMask,
          (logits, stride) => {
            targets.forEach((target, i) => {
              target.forEach((target, k) => {
                logits[i * stride + k] = (logits[i * stride + k] as number) - target;
              });
            });
          },
          zeroRates,
        );
        const gradients = network.gradients();
        const check = (values: Float32Array, index: number, gradient: number) => {
          const original = values[index] as number;
          const lossAt = (value: number) => {
            values[index] = value;
            return loss();
          };
          const h = 1e-3;
          const [below, here, above] = [lossAt(original - h), lossAt(original), lossAt(original + h)];
          values[index] = original;
          // Where another word or the other side of 0 takes over the maximum, the slopes differ: there is no gradient.
          if (Math.abs(above - here - (here - below)) < 0.02 * h)
            expect(gradient).toBeCloseTo((above - below) / (2 * h), 1.5);
        };
        const some = (count: number) => Math.floor(random() * count);
        const layers = network.layers();
        for (let n = 0; n < 6; n++) {
          const inKernel = some(layers.kernel.length);
          check(layers.kernel, inKernel, gradients.kernel[inKernel] as number);
          const inWeights = some(outputs * filters);
          check(layers.weights, inWeights, gradients.weights[inWeights] as number);
          const filter = some(filters);
          check(layers.filterBias, filter, gradients.filterBias[filter] as number);
          const output = some(outputs);
          check(layers.bias, output, gradients.bias[output] as number);
          const text = some(texts.length);
          const word = texts[text]?.[0] as number;
          const number = some(d);
          let position = 0;
          let ofWord = 0;
          for (const text of texts) {
            text.forEach((other, t) => {
              if (other === word) ofWord += gradients.words[(position + 1 + t) * d + number] as number;
            });
            position += text.length + 1;
          }
          check(network.rows(), word * d + number, ofWord);
        }
      }),
      { numRuns: 15 },
    );
  });

  it("trains the rows that a batch has, of those that are to be trained, and no other", () => {
    const network = buildNetwork(10, 2, 4, 3, 6);
    const before = network.rows().slice();
    const texts = [Int32Array.of(1, 8), Int32Array.of(5, 1)];
    network.step(texts, new Float32Array(2 * filters).fill(1), (z) => void z.fill(1), {
      ...zeroRates,
      rows: 0.1,
      layers: 0.1,
    });
    const isChanged = Array.from({ length: 10 }, (_, row) =>
      network
        .rows()
        .subarray(row * d, (row + 1) * d)
        .some((value, j) => value !== before[row * d + j]),
    );
    expect(isChanged.flatMap((isRowChanged, row) => (isRowChanged ? [row] : []))).toEqual([1, 5]);
  });

  it("pulls rows back to where they were, and shrinks weights", () => {
    const network = buildNetwork(4, 2, 4, 3);
    const before = network.rows().slice();
    network.rows().fill(2, 0, d);
    const texts = [Int32Array.of(0)];
    network.step(texts, new Float32Array(filters), (z) => void z.fill(0), {
      rows: 0.5,
      layers: 0.5,
      weightDecay: 0.5,
      anchorDecay: 1,
    });
    for (let j = 0; j < d; j++) expect(network.rows()[j]).toBeCloseTo(2 + 0.5 * ((before[j] as number) - 2), 5);
    const other = buildNetwork(4, 2, 4, 3);
    for (const [i, value] of network.layers().kernel.entries())
      expect(value).toBeCloseTo(0.75 * (other.layers().kernel[i] as number), 6);
  });

  it("goes back to a snapshot, and does the same steps from the same seed", () => {
    const run = () => {
      const network = buildNetwork(6, 3, 4, 5);
      const snapshot = network.snapshot();
      const rates: Rates = { rows: 0.01, layers: 0.01, weightDecay: 0.01, anchorDecay: 0.1 };
      for (let n = 0; n < 3; n++)
        network.step([Int32Array.of(n, 2, 3)], new Float32Array(filters).fill(1), (z) => void z.fill(0.5), rates);
      const laterSnapshot = network.snapshot();
      network.restore(snapshot);
      return { kept: snapshot, after: laterSnapshot, restored: network.snapshot() };
    };
    const [first, second] = [run(), run()];
    expect(first.restored).toEqual(first.kept);
    expect(first.after).not.toEqual(first.kept);
    expect(second.after).toEqual(first.after);
  });
});
