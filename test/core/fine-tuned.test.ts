import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  decodeDelta,
  encodeDelta,
  type FineTunedWeights,
  fineTunedBackbone,
} from "../../src/backbones/fine-tuned-static.ts";
import { textStatic } from "../../src/backbones/node.ts";
import { vocabularyKey } from "../../src/backbones/subwords.ts";
import { encode, wordVector } from "../../src/backbones/text-static.ts";
import { seededRandom } from "../../src/core/random.ts";
import { splitWords } from "../../src/core/text/words.ts";
import { makeWorkspace } from "../../src/finetune/kernels.ts";
import { makeNetwork } from "../../src/finetune/network.ts";
import { buildVocabulary, initialiseRows } from "../../src/finetune/vocabulary.ts";

const base = { id: textStatic.id, revision: textStatic.revision };
const d = textStatic.dimensions;
const table = textStatic.table();

function makeFineTuned(vocabulary: readonly string[], filters: number, seed: number): FineTunedWeights {
  const random = seededRandom(seed);
  const randomFloats = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5);
  return {
    base,
    dimensions: d,
    scale: 0.4,
    vocabulary,
    rows: randomFloats(vocabulary.length * d),
    kernel: randomFloats(filters * 3 * d),
    bias: randomFloats(filters),
  };
}

const embed = async (delta: Uint8Array, texts: readonly string[]) => {
  const decoded = decodeDelta(delta);
  if (decoded === null) throw new Error("no delta");
  const backbone = fineTunedBackbone(textStatic, { id: "ft:x", revision: "1" }, decoded, delta.length);
  return (await backbone.embed(texts)).rows as Float32Array[];
};

describe("a delta", () => {
  it("is read as it was written, to eight bits of its kernel and four of its rows", () => {
    const fineTuned = makeFineTuned(["parcel", "naïve", "<n3>"], 8, 1);
    const decoded = decodeDelta(encodeDelta(fineTuned));
    expect(decoded).toMatchObject({ base, scale: 0.4, dimensions: d, filters: 8 });
    expect([...(decoded?.rows.vocabulary.keys() ?? [])]).toEqual(["parcel", "naïve", "<n3>"]);
    for (const [i, value] of fineTuned.kernel.entries()) expect(decoded?.kernel[i]).toBeCloseTo(value, 2);
    expect(decoded?.bias).toEqual(fineTuned.bias);
    const read = decoded && wordVector(decoded.rows, "naïve");
    for (let j = 0; j < d; j++) expect(read?.[j]).toBeCloseTo(fineTuned.rows[d + j] as number, 0.9);
  });

  it("is none where a byte is missing, there is one more, or a number in it is not finite", () => {
    const encodedDelta = encodeDelta(makeFineTuned(["a", "b"], 8, 2));
    fc.assert(
      fc.property(fc.nat(encodedDelta.length - 1), (length) => {
        expect(decodeDelta(encodedDelta.subarray(0, length))).toBeNull();
      }),
    );
    expect(decodeDelta(new Uint8Array([...encodedDelta, 0]))).toBeNull();
    const fineTuned = makeFineTuned(["a"], 8, 2);
    fineTuned.bias[3] = Number.NaN;
    expect(decodeDelta(encodeDelta(fineTuned))).toBeNull();
    expect(decodeDelta(encodeDelta({ ...makeFineTuned(["a"], 8, 2), scale: Number.POSITIVE_INFINITY }))).toBeNull();
  });

  it("never makes reading it throw, whatever its bytes are", () => {
    const encodedDelta = encodeDelta(makeFineTuned(["a", "b"], 8, 3));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(encodedDelta.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
        (changes) => {
          const bytes = encodedDelta.slice();
          for (const [offset, value] of changes) bytes[offset] = value;
          expect(() => decodeDelta(bytes)).not.toThrow();
        },
      ),
    );
  });
});

describe("a fine-tuned backbone", () => {
  it("gives the base's embedding, and beside it the network's features", async () => {
    const texts = ["my parcel is wrong", "Parcel", "xyzzyplugh 42", "one two three four five six seven eight"];
    const indexedTexts = buildVocabulary(table, [...texts, ...texts], () => true);
    const filters = 16;
    const shape = {
      dimensions: d,
      filters,
      outputs: 2,
      wordCount: indexedTexts.keys.length,
      trainedCount: indexedTexts.trainedCount,
      batchSize: 4,
    };
    const network = makeNetwork(makeWorkspace(), shape, 7);
    initialiseRows(network.rows(), table, indexedTexts);
    const { kernel, filterBias } = network.layers();
    const vocabulary = indexedTexts.keys.slice(0, 3);
    const delta = encodeDelta({
      base,
      dimensions: d,
      scale: indexedTexts.scale,
      vocabulary,
      rows: network.rows().slice(0, vocabulary.length * d),
      kernel,
      bias: filterBias,
    });
    const rows = await embed(delta, texts);
    const { features } = network.forward(texts.map((_, i) => indexedTexts.wordIds(i)));
    rows.forEach((row, i) => {
      expect(row.subarray(0, d)).toEqual(encode(table, texts[i] as string));
      for (let f = 0; f < filters; f++) expect(row[d + f]).toBeCloseTo(features[i * filters + f] as number, 1);
    });
  });

  it("embeds any text, the same alone and among others, and white space as zeros", async () => {
    const delta = encodeDelta(makeFineTuned(["a", "parcel"], 8, 4));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.string({ unit: "grapheme", maxLength: 40 }), { maxLength: 5 }), async (texts) => {
        const batchRows = await embed(delta, texts);
        for (const [i, text] of texts.entries()) {
          const [single] = await embed(delta, [text]);
          expect(batchRows[i]).toEqual(single);
          expect(single?.every(Number.isFinite)).toBe(true);
        }
      }),
      { numRuns: 30 },
    );
    const [empty] = await embed(delta, [" \n "]);
    expect(empty?.every((value) => value === 0)).toBe(true);
  });
});

describe("the words of a training", () => {
  it("have rows that are trained where two of its texts have them, the most frequent first", () => {
    const texts = ["red apple", "red pear", "red pear tree", "a tree held out", "tree"];
    const { keys, trainedCount, wordIds } = buildVocabulary(table, texts, (text) => text < 3);
    expect(keys.slice(0, trainedCount)).toEqual(["red", "pear"]);
    texts.forEach((otherText, i) => {
      expect(Array.from(wordIds(i), (word) => keys[word])).toEqual(splitWords(otherText).map(vocabularyKey));
    });
  });

  it("begin with the base's rows at a mean length of 4", () => {
    const numbered = buildVocabulary(table, ["red apple", "green pear"], () => true);
    const rows = new Float32Array(numbered.keys.length * d);
    initialiseRows(rows, table, numbered);
    const lengths = numbered.keys.map((_, i) => Math.hypot(...rows.subarray(i * d, (i + 1) * d)));
    expect(lengths.reduce((sum, length) => sum + length / lengths.length, 0)).toBeCloseTo(4, 3);
  });
});
