import fc from "fast-check";
import { describe, expect, it, test } from "vitest";
import { predict } from "../../src/core/head.ts";
import { LABEL_TEXT_L2, LABEL_TEXT_TEMPERATURE } from "../../src/core/linear/label-texts.ts";
import { train } from "../../src/core/linear/train.ts";
import { textsOfLabel, wordsOfName } from "../../src/core/text/label-texts.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";

const tensors = await nodeTensorBackend();

test.each([
  ["AddToPlaylist", "add to playlist"],
  ["book_restaurant", "book restaurant"],
  ["account/close-now", "account close now"],
  ["HTTPError", "http error"],
  ["C++", "c++"],
  ["où_est", "où est"],
  ["--", "--"],
])("the words of %s are '%s'", (name, words) => {
  expect(wordsOfName(name)).toBe(words);
});

test("a label's texts are its name, what one would want, and its description", () => {
  expect(textsOfLabel({ name: "BookFlight" })).toEqual(["book flight", "I want to book flight"]);
  expect(textsOfLabel({ name: "x", description: "Asks for X." })).toEqual(["x", "I want to x", "Asks for X."]);
});

test("the words of any name are not empty, and those of words are the same", () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1, unit: "grapheme" }), (name) => {
      const words = wordsOfName(name);
      expect(words).not.toBe("");
      expect(wordsOfName(words).length).toBeLessThanOrEqual(2 * words.length);
    }),
  );
});

/** Rows of two numbers, and so many texts of labels after them. */
function trainOn(
  rows: readonly (readonly [x: number, y: number, label: number])[],
  labelTexts: number,
  detail?: "full",
) {
  const features = tensors.matrix(rows.length, 2, Float32Array.from(rows.flatMap((row) => row.slice(0, 2))));
  const trainingSet = {
    task: "single_label" as const,
    dimensions: 2,
    labels: ["a", "b"],
    features: [features],
    targets: { kind: "single" as const, indices: Int32Array.from(rows, ([, , label]) => label) },
    groups: Int32Array.from(rows.keys()),
    labelTexts,
  };
  const steps = train(tensors, trainingSet, {
    l2: "auto",
    classWeight: null,
    seed: 1,
    evaluation: { method: "auto", detail: detail ?? "summary" },
    budget: { bytes: 1e9, operations: 1e14 },
  });
  let step = steps.next();
  while (!step.done) step = steps.next();
  tensors.free(features);
  if (!step.value.ok) throw new Error(step.value.failure.message);
  return step.value.value;
}

const texts = [
  [1, 0, 0],
  [0.9, 0.1, 0],
  [0, 1, 1],
  [0.1, 0.9, 1],
] as const;

describe("a head of texts of labels", () => {
  it("tells the labels apart without an example, modestly, and is not evaluated", () => {
    const { head, training, evaluation } = trainOn(texts, 4);
    expect(training).toMatchObject({ examples: 0, temperature: LABEL_TEXT_TEMPERATURE });
    expect(head.temperature).toBe(LABEL_TEXT_TEMPERATURE);
    expect(evaluation).toEqual({
      method: "none",
      detail: "summary",
      examples: 0,
      reason: "There are no examples, so none can be held out.",
    });
    expect(head.scope).toBeNull();
    expect(head.outOfScopeThreshold).toBeNull();
    const [a, b] = [predict(head, Float32Array.of(1, 0)), predict(head, Float32Array.of(0, 1))];
    expect(a[0]).toBeCloseTo(b[1] as number, 5);
    expect(a[0]).toBeGreaterThan(0.6);
    // σ² of these rows, by which the penalty is scaled.
    expect(training.l2 / LABEL_TEXT_L2).toBeCloseTo(0.41, 2);
  });

  it("is evaluated on examples alone, and follows them where they say otherwise", () => {
    const noise = (i: number) => 0.05 * Math.sin(7 * i);
    const opposite = Array.from({ length: 40 }, (_, i) =>
      i % 2 === 0 ? ([noise(i), 1 + noise(i + 1), 0] as const) : ([1 + noise(i), noise(i + 1), 1] as const),
    );
    const { head, training, evaluation } = trainOn([...opposite, ...texts], 4, "full");
    expect(training.examples).toBe(40);
    expect(evaluation.examples).toBe(40);
    expect(evaluation.accuracy).toBe(1);
    // The texts of the labels, which are wrong here, are no part of it.
    expect(evaluation.train_accuracy).toBe(1);
    expect(evaluation.learning_curve?.at(-1)?.examples).toBe(32);
    expect(predict(head, Float32Array.of(0, 1))[0]).toBeGreaterThan(0.5);
  });
});
