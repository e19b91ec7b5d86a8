import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeHead, encodeHead } from "../../src/core/codec.ts";
import { type Head, predict, quantiseLexical } from "../../src/core/head.ts";
import { seededRandom } from "../../src/core/random.ts";
import { createLexicalVectorizer, type LexicalVocabulary, type SparseVector } from "../../src/core/text/lexical.ts";
import { createLexicalReader } from "../../src/core/text/lexical-reader.ts";

const DIMENSIONS = 3;
const TEXTS = ["where is my refund", "I cannot log in", "the parcel is late", "log in, please", "refund the parcel"];

function lexicalOf(texts: readonly string[]): LexicalVocabulary {
  const reader = createLexicalReader(256);
  for (const text of texts) reader.add(text);
  return reader.fit().vocabulary;
}

const lexical = lexicalOf(TEXTS);
const readFeatures = createLexicalVectorizer(lexical);

/** A head of random weights with lexical features, and its lexical weights before quantisation. */
function makeHead(outputs: number, task: Head["task"], spread: number, seed: number) {
  const random = seededRandom(seed);
  const numbers = (length: number) => Float32Array.from({ length }, () => 2 * random() - 1);
  const columns = lexical.seenBuckets.length;
  // Outputs of different sizes, and one of zeros.
  const exact = Float64Array.from({ length: columns * outputs }, (_, i) => spread * (i % outputs) * (random() - 0.5));
  const head: Head = {
    task,
    labels: task === "regression" ? [] : Array.from({ length: outputs }, (_, k) => `label ${k}`),
    dimensions: DIMENSIONS,
    weights: numbers(outputs * DIMENSIONS),
    bias: numbers(outputs),
    lexical: quantiseLexical(lexical, exact, outputs),
    offset: 0,
    temperature: task === "regression" ? 1 : 0.5 + random(),
    outOfScopeThreshold: null,
    scope: null,
    thresholds: [],
    valueRange: null,
    visibleText: true,
    sections: [],
    conformal: numbers(0),
  };
  return { head, exact, embedding: numbers(DIMENSIONS) };
}

/** The formula's sum over the lexical features, with the weights before quantisation. */
function featureSums({ columns, values }: SparseVector, weights: Float64Array, outputs: number): number[] {
  return Array.from({ length: outputs }, (_, k) =>
    columns.reduce((sum, column, m) => sum + (values[m] as number) * (weights[column * outputs + k] as number), 0),
  );
}

describe("a head with lexical weights of eight bits", () => {
  it("is off by at most half a step per feature, for weights of any size", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }),
        fc.constantFrom(1e-6, 1, 1e3),
        fc.constantFrom(...TEXTS, "my refund is late", "quite unseen"),
        fc.nat(),
        (outputs, spread, text, seed) => {
          const { head, exact, embedding } = makeHead(outputs, "regression", spread, seed);
          const features = readFeatures(text);
          const denseOutput = predict({ ...head, lexical: null }, embedding);
          const featureSum = featureSums(features, exact, outputs);
          const size = features.values.reduce((sum, value) => sum + Math.abs(value), 0);
          predict(head, embedding, features).forEach((logit, k) => {
            const step = head.lexical?.scales[k] as number;
            const error = Math.abs(logit - (denseOutput[k] as number) - (featureSum[k] as number));
            expect(error).toBeLessThanOrEqual((step / 2) * size * (1 + 1e-6) + 1e-9);
          });
        },
      ),
    );
  });

  it("uses all eight bits, and no weight exceeds them", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 5 }), fc.constantFrom(1e-6, 1, 1e6), fc.nat(), (outputs, spread, seed) => {
        const { head } = makeHead(outputs, "multi_label", spread, seed);
        for (let k = 0; k < outputs; k++) {
          const outputWeights = Array.from(head.lexical?.weights ?? []).filter((_, i) => i % outputs === k);
          expect(Math.max(...outputWeights.map(Math.abs))).toBe(k === 0 ? 0 : 127);
        }
      }),
    );
  });

  it.each(["single_label", "multi_label"] as const)("adds them before the temperature: %s", (task) => {
    const { head, embedding } = makeHead(3, task, 1, 5);
    const features = readFeatures("where is the parcel");
    const totals = Float64Array.from(
      head.lexical?.weights ?? [],
      (weight, i) => weight * (head.lexical?.scales[i % 3] ?? 0),
    );
    const added = featureSums(features, totals, 3);
    const bias = head.bias.map((value, k) => value + (added[k] as number));
    const expected = predict({ ...head, bias, lexical: null }, embedding);
    predict(head, embedding, features).forEach((p, k) => {
      expect(p).toBeCloseTo(expected[k] as number, 6);
    });
  });

  it("needs the features, which may be empty", () => {
    const { head, embedding } = makeHead(3, "single_label", 1, 5);
    expect(() => predict(head, embedding)).toThrow();
    expect(predict(head, embedding, readFeatures(" "))).toEqual(predict({ ...head, lexical: null }, embedding));
  });

  it("is read as it was written, at any offset in a buffer", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }),
        fc.constantFrom("single_label", "multi_label", "regression"),
        fc.integer({ min: 0, max: 7 }),
        fc.nat(),
        (count, task, offset, seed) => {
          const outputs = task === "regression" ? 1 : count;
          const { head } = makeHead(outputs, task, 1, seed);
          const bytes = encodeHead(head);
          expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe("GHD3");
          const shifted = new Uint8Array(bytes.length + offset);
          shifted.set(bytes, offset);
          expect(decodeHead(shifted.subarray(offset))).toEqual(head);
        },
      ),
    );
  });

  it("is null if bytes are missing or left over", () => {
    const bytes = encodeHead(makeHead(3, "single_label", 1, 1).head);
    for (let length = 0; length < bytes.length; length++) expect(decodeHead(bytes.subarray(0, length))).toBeNull();
    expect(decodeHead(new Uint8Array([...bytes, 0]))).toBeNull();
    // What version 2 would take it for.
    const second = bytes.slice();
    second[3] = "2".charCodeAt(0);
    expect(decodeHead(second)).toBeNull();
  });

  it("without columns is read as it was written", () => {
    const none = lexicalOf([" "]);
    const { head } = makeHead(2, "single_label", 1, 1);
    const empty: Head = { ...head, lexical: quantiseLexical(none, new Float64Array(0), 2) };
    expect(decodeHead(encodeHead(empty))).toEqual(empty);
    expect(predict(empty, new Float32Array(DIMENSIONS), createLexicalVectorizer(none)("a text"))).toHaveLength(2);
  });
});

it("writes a head without lexical features as version 2, which earlier versions of the Worker can read", () => {
  const { head } = makeHead(3, "single_label", 1, 1);
  const denseHead: Head = { ...head, lexical: null };
  const bytes = encodeHead(denseHead);
  expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe("GHD2");
  expect(new TextDecoder().decode(bytes.subarray(8))).not.toContain("lexical");
  expect(decodeHead(bytes)).toEqual(denseHead);
});
