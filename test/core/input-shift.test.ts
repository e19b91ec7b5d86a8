/** Live inputs against held-out ones: the test, and how often it is right and wrong on simulated traffic. */
import { describe, expect, it } from "vitest";
import { chiSquareTail } from "../../src/core/evaluation/gamma.ts";
import {
  addInputCounts,
  binScores,
  COUNTED_LABELS,
  countPredictions,
  type InputCounts,
  noInputs,
  SCORE_BINS,
  UNKNOWN_WORD_BINS,
  unknownWordBin,
} from "../../src/core/evaluation/input-counts.ts";
import { compareInputs, type FigureShift, MIN_REFERENCE_INPUTS } from "../../src/core/evaluation/input-shift.ts";
import { argmax } from "../../src/core/evaluation/probability.ts";
import { predict } from "../../src/core/head.ts";
import {
  countInputs,
  findMoved,
  initialShiftState,
  type ShiftState,
  windowSize,
} from "../../src/core/lifecycle/input-shift.ts";
import { seededRandom } from "../../src/core/random.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { makeClusters, type TrainingData, trainOn, unwrapTrained } from "../contract/training-data.ts";

describe("the tail of a chi-square distribution", () => {
  it.each([0.01, 0.5, 2, 7, 30, 120, 700])("is its closed form for even degrees of freedom, at %d", (x) => {
    let [term, sum] = [1, 0];
    for (let degrees = 2; degrees <= 40; degrees += 2) {
      sum += term;
      const expected = Math.exp(-x / 2) * sum;
      const tail = chiSquareTail(x, degrees);
      // Near 1 the tail is one less a small number.
      expect(Math.abs(tail - expected)).toBeLessThan(1e-12 + 1e-10 * expected);
      term *= x / degrees;
    }
  });

  it("is that of a squared normal deviate for one degree", () => {
    expect(chiSquareTail(1.959963984540054 ** 2, 1)).toBeCloseTo(0.05, 12);
    expect(chiSquareTail(2.5758293035489004 ** 2, 1)).toBeCloseTo(0.01, 12);
    expect(chiSquareTail(0, 3)).toBe(1);
  });
});

it.each([
  [0, 9, 0],
  [1, 10, 1],
  [2, 10, 2],
  [1, 3, 4],
  [5, 10, 4],
  [4, 4, 5],
  [0, 0, 0],
])("%d of %d unknown words are bin %d", (unknown, words, bin) => {
  expect(unknownWordBin(unknown, words)).toBe(bin);
});

const random = seededRandom(1);
/** Traffic of a source: labels of falling frequency, scores towards 1 by `certainty`, and texts with unknown words. */
function drawInputs(
  count: number,
  { certainty = 4, labels = 8, first = 0, unknown = 0.3, scope = 1 } = {},
): InputCounts {
  const predictions = Array.from({ length: count }, () => ({
    label: (first + Math.floor(labels * random() ** 3)) % labels,
    top: 1 - random() ** certainty,
  }));
  const words = new Array<number>(UNKNOWN_WORD_BINS).fill(0);
  const scopes = new Array<number>(SCORE_BINS).fill(0);
  for (let i = 0; i < count; i++) {
    const bin = random() < unknown ? 1 + Math.floor((UNKNOWN_WORD_BINS - 1) * random()) : 0;
    words[bin] = (words[bin] ?? 0) + 1;
    const scopeBin = Math.floor(SCORE_BINS * random() ** scope);
    scopes[scopeBin] = (scopes[scopeBin] ?? 0) + 1;
  }
  return { ...countPredictions(predictions), unknown_words: words, scope: scopes };
}

const movedIn = (reference: InputCounts, live: InputCounts, labels = 8) =>
  findMoved(compareInputs(reference, live, labels), 1).map(({ figure }) => figure);

describe("the first 200 inputs", () => {
  it("of the same source raise an alarm in less than one case in a hundred, whatever was held out", () => {
    const rounds = 250;
    for (const heldOut of [60, 200, 1_000, 5_000]) {
      let alarms = 0;
      for (let i = 0; i < rounds; i++) {
        const reference = {
          ...drawInputs(heldOut),
          scope: binScores(Array.from({ length: heldOut }, (_, i) => (i + 0.5) / heldOut)),
        };
        if (movedIn(reference, drawInputs(200)).length > 0) alarms++;
      }
      expect(alarms / rounds, `${heldOut} held out`).toBeLessThan(0.01);
    }
  });

  it("of another source raise it, each by what is unlike", () => {
    const sources = {
      confidence: { certainty: 1 },
      labels: { first: 4 },
      unknown_words: { unknown: 0.8 },
      scope: { scope: 4 },
    } as const;
    for (const heldOut of [200, 1_000])
      for (const [figure, source] of Object.entries(sources))
        for (let i = 0; i < 20; i++) expect(movedIn(drawInputs(heldOut), drawInputs(200, source))).toEqual([figure]);
  });

  it("of which the head is more certain, as it has been trained on more, raise none", () => {
    expect(movedIn(drawInputs(500, { certainty: 1.5 }), drawInputs(200, { certainty: 6 }))).toEqual([]);
  });

  it("are compared with none where few were held out, and by no figure that either has not", () => {
    expect(compareInputs(drawInputs(MIN_REFERENCE_INPUTS - 1), drawInputs(200), 8)).toEqual([]);
    const without = { ...drawInputs(200), unknown_words: noInputs.unknown_words, scope: noInputs.scope };
    const figures = (reference: InputCounts, live: InputCounts) =>
      compareInputs(reference, live, 8).map(({ figure }) => figure);
    expect(figures(without, drawInputs(200))).toEqual(["confidence", "labels"]);
    expect(figures(drawInputs(200), without)).toEqual(["confidence", "labels"]);
    expect(figures(noInputs, noInputs)).toEqual([]);
  });

  it("name the labels that moved most, and the means before and after", () => {
    const [labels] = compareInputs(drawInputs(500), drawInputs(200, { first: 4 }), 8).filter(
      ({ figure }) => figure === "labels",
    ) as [FigureShift];
    expect(labels.labels).toHaveLength(5);
    expect(
      labels.labels
        ?.slice(0, 2)
        .map(({ index }) => index)
        .sort(),
    ).toEqual([0, 4]);
    const [words] = compareInputs(drawInputs(500), drawInputs(200, { unknown: 0.8 }), 8).filter(
      ({ figure }) => figure === "unknown_words",
    ) as [FigureShift];
    expect(words.before).toBeLessThan(0.5);
    expect(words.after).toBeGreaterThan(0.7);
  });

  it("may have more labels than are counted", () => {
    const tops = (label: number) => Array.from({ length: 200 }, () => ({ label, top: 0.5 }));
    const [a, b] = [countPredictions(tops(COUNTED_LABELS)), countPredictions(tops(COUNTED_LABELS + 7))];
    expect(a.labels).toEqual(b.labels);
    expect(movedIn(a, b, COUNTED_LABELS + 8)).toEqual([]);
    expect(movedIn(a, countPredictions(tops(3)), COUNTED_LABELS + 8)).toEqual(["labels"]);
  });
});

it("a trained head's confidence and labels tell most other sources by 200 inputs, and mistake its own in less than one case in a hundred", () => {
  const dimensions = 6;
  const slice = ({ features }: TrainingData, from: number, to: number) =>
    features.subarray(from * dimensions, to * dimensions);
  let alarms = 0;
  let missed = 0;
  const [heads, windows] = [8, 14];
  for (let seed = 0; seed < heads; seed++) {
    const [examples, classes] = [100 + 20 * seed, 3 + (seed % 4)];
    const data = makeClusters(examples + 200 * windows, dimensions, classes, 0.8, seed);
    const { indices } = data.targets as { indices: Int32Array };
    const { head, evaluation } = unwrapTrained(
      trainOn(plainTensorBackend(), {
        ...data,
        features: slice(data, 0, examples),
        targets: { kind: "single", indices: indices.slice(0, examples) },
      }),
    );
    const count = (features: Float32Array) =>
      countPredictions(
        Array.from({ length: features.length / dimensions }, (_, i) => {
          const probabilities = predict(head, features.subarray(i * dimensions, (i + 1) * dimensions));
          const label = argmax(probabilities);
          return { label, top: probabilities[label] as number };
        }),
      );
    const reference = evaluation.held_out_inputs ?? noInputs;
    expect(reference.inputs).toBe(evaluation.examples);
    for (let i = 0; i < windows; i++) {
      const start = examples + 200 * i;
      if (movedIn(reference, count(slice(data, start, start + 200)), classes).length > 0) alarms++;
    }
    for (let source = 1; source <= 3; source++) {
      // Other centres: what the head was not trained on.
      const other = makeClusters(200, dimensions, classes, 0.8, 1_000 * source + seed);
      if (movedIn(reference, count(other.features), classes).length === 0) missed++;
    }
  }
  expect(alarms / (heads * windows)).toBeLessThan(0.01);
  expect(missed / (3 * heads)).toBeLessThan(0.2);
});

describe("windows of inputs", () => {
  const reference = drawInputs(1_000);
  const feed = (state: ShiftState, inputs: InputCounts, now = 1) => countInputs(state, inputs, reference, 8, now);
  const alike = (count: number) => drawInputs(count);
  const unlike = (count: number) => drawInputs(count, { certainty: 1, first: 4 });

  it("end after 200, 400, 800 … inputs, and then after every 3,200", () => {
    const sizes = Array.from({ length: 8 }, (_, i) => windowSize(i));
    expect(sizes).toEqual([200, 200, 400, 800, 1_600, 3_200, 3_200, 3_200]);
  });

  it("of the same source raise an alarm in less than one case in a hundred, however long it is served", () => {
    let alarms = 0;
    const heads = 150;
    for (let i = 0; i < heads; i++) {
      let state = initialShiftState;
      const own = drawInputs(500);
      let told = false;
      for (let k = 0; k < 7; k++) {
        const step = countInputs(state, drawInputs(windowSize(k)), own, 8, 0);
        state = step.state;
        told ||= step.isNew;
      }
      if (told) alarms++;
    }
    expect(alarms / heads).toBeLessThan(0.01);
  });

  it("are told of once, until the inputs are again like those that were held out", () => {
    let { state, isNew } = feed(initialShiftState, unlike(199));
    expect([isNew, state.windows]).toEqual([false, 0]);
    ({ state, isNew } = feed(state, unlike(1), 7));
    expect([isNew, state.windows, state.shift?.since]).toEqual([true, 1, 7]);
    expect(state.shift?.moved.map(({ figure }) => figure)).toEqual(["confidence", "labels"]);
    expect(state.open).toEqual(noInputs);
    ({ state, isNew } = feed(state, unlike(200), 8));
    expect([isNew, state.shift?.since]).toEqual([false, 7]);
    ({ state, isNew } = feed(state, alike(400), 9));
    expect([isNew, state.shift]).toEqual([false, null]);
    // Late, after thousands of inputs like the examples, they are told of again.
    for (let k = 3; k < 8; k++) ({ state, isNew } = feed(state, alike(windowSize(k)), 10));
    expect([isNew, state.shift]).toEqual([false, null]);
    ({ state, isNew } = feed(state, unlike(3_200), 11));
    expect([isNew, state.shift?.since]).toEqual([true, 11]);
  });

  it("come to the same whatever order their counts arrive in", () => {
    const parts = [alike(60), unlike(70), alike(50), unlike(30)];
    const run = (order: readonly InputCounts[]) =>
      order.reduce((state, part) => feed(state, part, 5).state, initialShiftState);
    expect(run([...parts].reverse())).toEqual(run(parts));
    expect(run([parts.reduce(addInputCounts, noInputs)])).toEqual(run(parts));
  });
});
