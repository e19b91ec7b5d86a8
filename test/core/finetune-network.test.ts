import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { makeWorkspace } from "../../src/finetune/kernels.ts";
import { makeNetwork, type Network, type Rates, WINDOW } from "../../src/finetune/network.ts";

const d = 32;
const filters = 8;
const still: Rates = { rows: 1e-30, layers: 0, weightDecay: 0, pull: 0 };

function network(words: number, outputs: number, batch: number, seed: number, trained = words): Network {
  const made = makeNetwork(makeWorkspace(), { dimensions: d, filters, outputs, words, trained, batch }, seed);
  const random = seededRandom(seed);
  const rows = made.rows();
  for (let i = 0; i < rows.length; i++) rows[i] = random() - 0.5;
  made.anchor();
  return made;
}

/** The formula at the top of network.ts, in 64-bit floats. */
function reference(made: Network, text: Int32Array, keep: (f: number) => number) {
  const rows = made.rows();
  const { kernel, weights, filterBias, bias } = made.layers();
  const x = (t: number, j: number) => (t < 0 || t >= text.length ? 0 : (rows[(text[t] as number) * d + j] as number));
  const features = Array.from({ length: filters }, (_, f) => {
    let most = Number.NEGATIVE_INFINITY;
    for (let t = 0; t < text.length; t++) {
      let sum = 0;
      for (let o = 0; o < WINDOW; o++)
        for (let j = 0; j < d; j++) sum += (kernel[(f * WINDOW + o) * d + j] as number) * x(t + o - 1, j);
      most = Math.max(most, sum);
    }
    return keep(f) * Math.max(0, most + (filterBias[f] as number));
  });
  const logits = Array.from({ length: made.shape.outputs }, (_, k) =>
    features.reduce((sum, h, f) => sum + h * (weights[k * filters + f] as number), bias[k] as number),
  );
  return { features, logits };
}

const textsOf = (words: number) =>
  fc.array(
    fc.array(fc.nat(words - 1), { minLength: 1, maxLength: 9 }).map((text) => Int32Array.from(text)),
    { minLength: 1, maxLength: 7 },
  );

describe("the network", () => {
  it("computes its formula for texts of any length and batches of any size", () => {
    fc.assert(
      fc.property(textsOf(20), fc.integer({ min: 1, max: 11 }), fc.nat(99), (texts, outputs, seed) => {
        const made = network(20, outputs, 7, seed);
        const { features, logits, stride } = made.forward(texts);
        texts.forEach((text, i) => {
          const wanted = reference(made, text, () => 1);
          for (const [f, value] of wanted.features.entries()) expect(features[i * filters + f]).toBeCloseTo(value, 4);
          for (const [k, value] of wanted.logits.entries()) expect(logits[i * stride + k]).toBeCloseTo(value, 4);
        });
      }),
      { numRuns: 40 },
    );
  });

  it("has the gradient of its formula, in every layer and for every word", () => {
    fc.assert(
      fc.property(textsOf(12), fc.integer({ min: 1, max: 6 }), fc.nat(99), (texts, outputs, seed) => {
        const made = network(12, outputs, 7, seed);
        const random = seededRandom(seed + 1);
        const keep = Float32Array.from({ length: texts.length * filters }, () => (random() < 0.3 ? 0 : 1.5));
        const targets = texts.map(() => Array.from({ length: outputs }, () => random() - 0.5));
        // Half the squared distance from the targets, whose gradient in z is the distance.
        const loss = () =>
          texts.reduce((sum, text, i) => {
            const { logits } = reference(made, text, (f) => keep[i * filters + f] as number);
            return sum + logits.reduce((all, z, k) => all + (z - (targets[i]?.[k] as number)) ** 2 / 2, 0);
          }, 0);
        made.step(
          texts,
          keep,
          (logits, stride) => {
            targets.forEach((of, i) => {
              of.forEach((target, k) => {
                logits[i * stride + k] = (logits[i * stride + k] as number) - target;
              });
            });
          },
          still,
        );
        const found = made.gradients();
        const check = (values: Float32Array, at: number, gradient: number) => {
          const held = values[at] as number;
          const difference = (h: number) => {
            values[at] = held + h;
            const up = loss();
            values[at] = held - h;
            const down = loss();
            values[at] = held;
            return (up - down) / (2 * h);
          };
          const [fine, coarse] = [difference(1e-3), difference(4e-3)];
          // Where another word or the other side of 0 takes over the maximum there is no gradient to compare.
          if (Math.abs(fine - coarse) < 0.02) expect(gradient).toBeCloseTo(fine, 1.5);
        };
        const some = (count: number) => Math.floor(random() * count);
        const layers = made.layers();
        for (let n = 0; n < 6; n++) {
          const inKernel = some(layers.kernel.length);
          check(layers.kernel, inKernel, found.kernel[inKernel] as number);
          const inWeights = some(outputs * filters);
          check(layers.weights, inWeights, found.weights[inWeights] as number);
          const filter = some(filters);
          check(layers.filterBias, filter, found.filterBias[filter] as number);
          const output = some(outputs);
          check(layers.bias, output, found.bias[output] as number);
          const text = some(texts.length);
          const word = texts[text]?.[0] as number;
          const number = some(d);
          let place = 0;
          let ofWord = 0;
          for (const each of texts) {
            each.forEach((other, t) => {
              if (other === word) ofWord += found.words[(place + 1 + t) * d + number] as number;
            });
            place += each.length + 1;
          }
          check(made.rows(), word * d + number, ofWord);
        }
      }),
      { numRuns: 15 },
    );
  });

  it("trains the rows that a batch has, of those that are to be trained, and no other", () => {
    const made = network(10, 2, 4, 3, 6);
    const before = made.rows().slice();
    const texts = [Int32Array.of(1, 8), Int32Array.of(5, 1)];
    made.step(texts, new Float32Array(2 * filters).fill(1), (z) => void z.fill(1), {
      ...still,
      rows: 0.1,
      layers: 0.1,
    });
    const changed = Array.from({ length: 10 }, (_, row) =>
      made
        .rows()
        .subarray(row * d, (row + 1) * d)
        .some((value, j) => value !== before[row * d + j]),
    );
    expect(changed.flatMap((is, row) => (is ? [row] : []))).toEqual([1, 5]);
  });

  it("pulls rows back to where they were, and shrinks weights", () => {
    const made = network(4, 2, 4, 3);
    const before = made.rows().slice();
    made.rows().fill(2, 0, d);
    const texts = [Int32Array.of(0)];
    made.step(texts, new Float32Array(filters), (z) => void z.fill(0), {
      rows: 0.5,
      layers: 0.5,
      weightDecay: 0.5,
      pull: 1,
    });
    for (let j = 0; j < d; j++) expect(made.rows()[j]).toBeCloseTo(2 + 0.5 * ((before[j] as number) - 2), 5);
    const other = network(4, 2, 4, 3);
    for (const [i, value] of made.layers().kernel.entries())
      expect(value).toBeCloseTo(0.75 * (other.layers().kernel[i] as number), 6);
  });

  it("goes back to a snapshot, and does the same steps from the same seed", () => {
    const run = () => {
      const made = network(6, 3, 4, 5);
      const kept = made.snapshot();
      const rates: Rates = { rows: 0.01, layers: 0.01, weightDecay: 0.01, pull: 0.1 };
      for (let n = 0; n < 3; n++)
        made.step([Int32Array.of(n, 2, 3)], new Float32Array(filters).fill(1), (z) => void z.fill(0.5), rates);
      const after = made.snapshot();
      made.restore(kept);
      return { kept, after, restored: made.snapshot() };
    };
    const [once, again] = [run(), run()];
    expect(once.restored).toEqual(once.kept);
    expect(once.after).not.toEqual(once.kept);
    expect(again.after).toEqual(once.after);
  });
});
