import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Backbone } from "../../src/backbones/backbone.ts";
import { loadDelta, readDelta } from "../../src/backbones/deltas.ts";
import { explainInputs } from "../../src/backbones/explain.ts";
import { baseReader, encodeEncoderDelta } from "../../src/backbones/fine-tuned-encoder.ts";
import { encodeDelta } from "../../src/backbones/fine-tuned-static.ts";
import { hashText } from "../../src/backbones/hash-text.ts";
import { textStatic, textUse } from "../../src/backbones/node.ts";
import { divideIntoSpans, explain, occlude } from "../../src/core/explanation.ts";
import { type Head, logitsOf, type Task } from "../../src/core/head.ts";
import { seededRandom } from "../../src/core/random.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { createLexicalReader } from "../../src/core/text/lexical-reader.ts";
import { locateWords, splitWords } from "../../src/core/text/words.ts";

const readTexts = ["where is my parcel", "refund my invoice, please", "I cannot log in", "my card was charged twice"];

/** A head of random numbers on embeddings of so many dimensions, with lexical features or without. */
function makeHead(seed: number, dimensions: number, isLexical: boolean, task: Task = "single_label"): Head {
  const random = seededRandom(seed);
  const outputs = task === "regression" ? 1 : 3;
  const numbers = (count: number) => Float32Array.from({ length: count }, () => 4 * random() - 2);
  const reader = createLexicalReader(256);
  for (const text of readTexts) reader.add(text);
  const { vocabulary } = reader.fit();
  const weights = Int8Array.from({ length: vocabulary.seenBuckets.length * outputs }, () => 254 * random() - 127);
  return {
    task,
    labels: task === "regression" ? [] : ["a", "b", "c"],
    dimensions,
    weights: numbers(outputs * dimensions),
    bias: numbers(outputs),
    lexical: isLexical ? { ...vocabulary, weights, scales: numbers(outputs).map((scale) => scale / 127) } : null,
    visibleText: true,
    offset: task === "regression" ? 3 : 0,
    temperature: task === "regression" ? 1 : 0.5 + random(),
    outOfScopeThreshold: null,
    scope: null,
    thresholds: [],
    valueRange: null,
    conformal: new Float32Array(0),
    sections: [],
  };
}

const noPause = async () => null;

async function explainText(backbone: Backbone, head: Head, text: string) {
  const { rows } = await backbone.embed([text]);
  const embedding = rows[0] as Float32Array;
  const explained = await explainInputs(head, backbone, [{ text, embedding }], noPause);
  const explanation = explained.ok ? explained.value[0] : undefined;
  if (explanation === undefined) throw new Error("There is no explanation.");
  const features = head.lexical === null ? null : createLexicalVectorizer(head.lexical)(text);
  return { explanation, embedding, logits: logitsOf(head, embedding, features) };
}

const words = fc.constantFrom(
  ...[
    "where",
    "is",
    "my",
    "parcel",
    "refund",
    "Parcell",
    "not",
    "twice",
    "ﬁne",
    "½",
    "naïve",
    "日本語",
    "42",
    "!",
    "👍",
  ],
);
const texts = fc.oneof(
  fc.array(words, { maxLength: 20 }).map((list) => list.join(" ")),
  fc.string({ unit: "grapheme", maxLength: 30 }),
);

const fineTunedStatic = (() => {
  const random = seededRandom(3);
  const { id, revision, dimensions } = textStatic;
  const floats = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5);
  const delta = encodeDelta({
    base: { id, revision },
    dimensions,
    scale: 1,
    vocabulary: ["refund", "parcel"],
    rows: floats(2 * dimensions),
    kernel: floats(8 * 3 * dimensions),
    bias: floats(8),
  });
  return load(textStatic, delta);
})();

const fineTunedEncoder = (() => {
  const before = baseReader(textUse);
  const random = seededRandom(4);
  const after = (name: string) => before(name).map((value) => value * (0.9 + random() / 5));
  const { id, revision, shape } = textUse;
  return load(textUse, encodeEncoderDelta({ base: { id, revision }, layers: 1, shape, before, after }));
})();

function load(base: Parameters<typeof loadDelta>[0], bytes: Uint8Array): Backbone {
  const delta = readDelta(bytes);
  const loaded = delta && loadDelta(base, { id: "ft:x", revision: "1" }, delta, bytes.length);
  if (!loaded) throw new Error("These are no layers.");
  return loaded.backbone;
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, value) => total + value, 0);

describe("the parts of an explanation", () => {
  const backbones: [string, Backbone, number][] = [
    ["text-static-1", textStatic, 200],
    ["text-use-1", textUse, 20],
    ["a fine-tuned text-static-1", fineTunedStatic, 60],
    ["a fine-tuned text-use-1", fineTunedEncoder, 20],
    ["hash-text-1", hashText, 60],
  ];
  it.each(backbones)("add up to the logits of the label and the runner-up on %s", async (_name, backbone, numRuns) => {
    await fc.assert(
      fc.asyncProperty(texts, fc.nat(), fc.boolean(), async (text, seed, isLexical) => {
        const head = makeHead(seed, backbone.dimensions, isLexical);
        const { explanation, logits } = await explainText(backbone, head, text);
        const [label, runnerUp] = explanation.outputs;
        expect(Array.from(logits.toSorted((a, b) => b - a).slice(0, 2))).toEqual(
          [label, runnerUp].map((k) => logits[k as number]),
        );
        for (const [o, k] of explanation.outputs.entries()) {
          const parts = explanation.terms.map(({ parts }) => parts[o] as number);
          const rest = [explanation.intercept, explanation.otherTerms, explanation.unexplained].map((part) => part[o]);
          expect(sum([...parts, ...(rest as number[])])).toBeCloseTo((logits[k] as number) / head.temperature, 6);
          expect(explanation.logits[o]).toBe((logits[k] as number) / head.temperature);
        }
        expect(explanation.terms.every(({ text: term }) => term !== "")).toBe(true);
      }),
      { numRuns },
    );
  });

  it("are exact for words of text-static-1 and lexical features: nothing is left unexplained", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(words, { maxLength: 20 }), fc.nat(), fc.boolean(), async (list, seed, isLexical) => {
        const head = makeHead(seed, textStatic.dimensions, isLexical);
        const { explanation } = await explainText(textStatic, head, list.join(" "));
        for (const part of explanation.unexplained) expect(Math.abs(part)).toBeLessThan(1e-4);
      }),
    );
  });

  it("are of a word what its vector and its features add", async () => {
    const head = makeHead(1, textStatic.dimensions, true);
    const text = "Refund my parcel";
    const { explanation, embedding } = await explainText(textStatic, head, text);
    const shown = ["Refund", "Refund my", "my", "my parcel", "parcel"];
    expect(shown).toEqual(expect.arrayContaining(explanation.terms.map((term) => term.text)));
    expect(explanation.terms.map((term) => term.text)).toEqual(expect.arrayContaining(["Refund", "my", "parcel"]));
    // Without the features of the embedding, a pair has but its own feature.
    const { lexical, labels } = head;
    const label = explanation.outputs[0] as number;
    const features = createLexicalVectorizer(lexical as NonNullable<typeof lexical>)(text);
    const pairs = explain(
      { ...head, weights: new Float32Array(head.weights.length) },
      [label],
      {
        text,
        words: locateWords(text),
        embedding,
        features,
        summedDimensions: 0,
        wordProducts: null,
        occlusions: [],
      },
      99,
    );
    const { weights, scales } = lexical as NonNullable<typeof lexical>;
    const expected = Array.from(features.columns, (column, m) => {
      const weight = (scales[label] as number) * (weights[column * labels.length + label] as number);
      return (weight * (features.values[m] as number)) / head.temperature;
    });
    expect(sum(pairs.terms.map(({ parts }) => parts[0] as number))).toBeCloseTo(sum(expected), 9);
    expect(pairs.unexplained[0]).toBeCloseTo(0, 9);
  });

  it("of occlusions are what is lost without a word, scaled down to all that the embedding adds", async () => {
    const head = makeHead(8, hashText.dimensions, false);
    const one = await explainText(hashText, head, "parcel");
    expect(one.explanation.terms[0]?.parts[0]).toBeCloseTo(
      (one.explanation.logits[0] as number) - (one.explanation.intercept[0] as number),
      6,
    );
    const { explanation, logits } = await explainText(hashText, head, "where parcel");
    const label = explanation.outputs[0] as number;
    const share = (logits[label] as number) - (head.bias[label] as number);
    const losses = await Promise.all(
      ["parcel", "where "].map(async (text) => {
        const { rows } = await hashText.embed([text]);
        return (logits[label] as number) - (logitsOf(head, rows[0] as Float32Array, null)[label] as number);
      }),
    );
    const scale = sum(losses) / share > 1 ? share / sum(losses) : 1;
    const partOf = (text: string) => explanation.terms.find((term) => term.text === text)?.parts[0];
    expect(partOf("where")).toBeCloseTo(((losses[0] as number) * scale) / head.temperature, 6);
    expect(partOf("parcel")).toBeCloseTo(((losses[1] as number) * scale) / head.temperature, 6);
  });

  it("of a value add up to it, and have no runner-up; of any number of labels neither", async () => {
    for (const task of ["regression", "multi_label"] as const) {
      const head = makeHead(5, textStatic.dimensions, true, task);
      const { explanation, logits } = await explainText(textStatic, head, "where is my parcel");
      expect(explanation.outputs).toHaveLength(1);
      const k = explanation.outputs[0] as number;
      expect(logits[k]).toBe(Math.max(...logits));
      const parts = explanation.terms.map(({ parts }) => parts[0] as number);
      expect(sum([...parts, explanation.intercept[0] as number])).toBeCloseTo(
        (logits[k] as number) / head.temperature,
        4,
      );
    }
  });

  it("beyond the terms that are shown are given as a sum, the terms that make most difference first", async () => {
    const head = makeHead(6, textStatic.dimensions, true);
    const { explanation } = await explainText(
      textStatic,
      head,
      Array.from({ length: 60 }, (_, i) => `word${i} is`).join(" "),
    );
    expect(explanation.terms).toHaveLength(32);
    const effects = explanation.terms.map(({ parts: [a = 0, b = 0] }) => Math.abs(a - b));
    expect(effects).toEqual(effects.toSorted((a, b) => b - a));
    expect(explanation.otherTerms[0]).not.toBe(0);
  });

  it("say nothing of occlusions where a backbone is remote, and refuse too much text", async () => {
    const head = makeHead(7, hashText.dimensions, false);
    const remote = { ...hashText, cost: "remote" as const };
    const { explanation } = await explainText(remote, head, "where is my parcel");
    expect(explanation.terms).toEqual([]);
    expect(explanation.unexplained[0]).not.toBe(0);
    const text = "a long text ".repeat(20_000);
    const embedding = new Float32Array(hashText.dimensions);
    const refused = await explainInputs(head, hashText, [{ text, embedding }], noPause);
    expect(refused).toMatchObject({ ok: false, failure: { code: "limit_exceeded", param: "input" } });
  });
});

describe("the words of a text with their places", () => {
  it("are those that features are of, in parts of the text", () => {
    fc.assert(
      fc.property(texts, (text) => {
        const located = locateWords(text);
        expect(located.map(({ word }) => word)).toEqual(splitWords(text));
        for (const { start, end } of located) expect(0 <= start && start < end && end <= text.length).toBe(true);
        for (const [i, { start }] of located.slice(1).entries())
          expect(start).toBeGreaterThanOrEqual(located[i]?.start ?? 0);
      }),
    );
    expect(locateWords("Don’t PANIC!").map(({ word, start, end }) => [word, start, end])).toEqual([
      ["don't", 0, 5],
      ["panic", 6, 11],
      ["!", 11, 12],
    ]);
  });

  it("are divided into at most so many spans, which take in each word once", () => {
    fc.assert(
      fc.property(texts, fc.integer({ min: 1, max: 16 }), (text, maxSpans) => {
        const located = locateWords(text);
        const spans = divideIntoSpans(located, maxSpans, text.length);
        expect(spans.length).toBeLessThanOrEqual(maxSpans);
        const indices = spans.flatMap(({ first, last }) =>
          Array.from({ length: last - first + 1 }, (_, i) => first + i),
        );
        expect(indices).toEqual([...located.keys()]);
      }),
    );
  });

  it("are taken out of the text with the space behind them", () => {
    const text = "Where is it, please?";
    const located = locateWords(text);
    const spans = divideIntoSpans(located, 16, text.length);
    expect(spans.map((span) => occlude(text, located, span))).toEqual([
      "is it, please?",
      "Where it, please?",
      "Where is please?",
      "Where is it, ",
    ]);
    expect(divideIntoSpans(located, 16, 7)).toEqual(spans.slice(0, 2));
  });
});
