import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeDelta, encodeDelta, type FineTuned, fineTunedBackbone } from "../../src/backbones/fine-tuned.ts";
import { textStatic } from "../../src/backbones/node.ts";
import { entry } from "../../src/backbones/subwords.ts";
import { encode, wordVector } from "../../src/backbones/text-static.ts";
import { seededRandom } from "../../src/core/random.ts";
import { words } from "../../src/core/text/words.ts";
import { makeWorkspace } from "../../src/finetune/kernels.ts";
import { makeNetwork } from "../../src/finetune/network.ts";
import { fillRows, numberWords } from "../../src/finetune/words.ts";

const base = { id: textStatic.id, revision: textStatic.revision };
const d = textStatic.dimensions;
const table = textStatic.table();

function tuned(names: readonly string[], filters: number, seed: number): FineTuned {
  const random = seededRandom(seed);
  const draw = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5);
  return {
    base,
    dimensions: d,
    scale: 0.4,
    names,
    rows: draw(names.length * d),
    kernel: draw(filters * 3 * d),
    bias: draw(filters),
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
    const given = tuned(["parcel", "naïve", "<n3>"], 8, 1);
    const decoded = decodeDelta(encodeDelta(given));
    expect(decoded).toMatchObject({ base, scale: 0.4, dimensions: d, filters: 8 });
    expect([...(decoded?.rows.vocabulary.keys() ?? [])]).toEqual(["parcel", "naïve", "<n3>"]);
    for (const [i, value] of given.kernel.entries()) expect(decoded?.kernel[i]).toBeCloseTo(value, 2);
    expect(decoded?.bias).toEqual(given.bias);
    const read = decoded && wordVector(decoded.rows, "naïve");
    for (let j = 0; j < d; j++) expect(read?.[j]).toBeCloseTo(given.rows[d + j] as number, 0.9);
  });

  it("is none where a byte is missing, there is one more, or a number in it is not finite", () => {
    const whole = encodeDelta(tuned(["a", "b"], 8, 2));
    fc.assert(
      fc.property(fc.nat(whole.length - 1), (length) => {
        expect(decodeDelta(whole.subarray(0, length))).toBeNull();
      }),
    );
    expect(decodeDelta(new Uint8Array([...whole, 0]))).toBeNull();
    const given = tuned(["a"], 8, 2);
    given.bias[3] = Number.NaN;
    expect(decodeDelta(encodeDelta(given))).toBeNull();
    expect(decodeDelta(encodeDelta({ ...tuned(["a"], 8, 2), scale: Number.POSITIVE_INFINITY }))).toBeNull();
  });

  it("never makes reading it throw, whatever its bytes are", () => {
    const whole = encodeDelta(tuned(["a", "b"], 8, 3));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
        (changes) => {
          const bytes = whole.slice();
          for (const [at, value] of changes) bytes[at] = value;
          expect(() => decodeDelta(bytes)).not.toThrow();
        },
      ),
    );
  });
});

describe("a fine-tuned backbone", () => {
  it("gives the base's embedding, and beside it the network's features", async () => {
    const texts = ["my parcel is wrong", "Parcel", "xyzzyplugh 42", "one two three four five six seven eight"];
    const numbered = numberWords(table, [...texts, ...texts], () => true);
    const filters = 16;
    const shape = {
      dimensions: d,
      filters,
      outputs: 2,
      words: numbered.names.length,
      trained: numbered.trained,
      batch: 4,
    };
    const network = makeNetwork(makeWorkspace(), shape, 7);
    fillRows(network.rows(), table, numbered);
    const { kernel, filterBias } = network.layers();
    const names = numbered.names.slice(0, 3);
    const delta = encodeDelta({
      base,
      dimensions: d,
      scale: numbered.scale,
      names,
      rows: network.rows().slice(0, names.length * d),
      kernel,
      bias: filterBias,
    });
    const rows = await embed(delta, texts);
    const { features } = network.forward(texts.map((_, i) => numbered.text(i)));
    rows.forEach((row, i) => {
      expect(row.subarray(0, d)).toEqual(encode(table, texts[i] as string));
      for (let f = 0; f < filters; f++) expect(row[d + f]).toBeCloseTo(features[i * filters + f] as number, 1);
    });
  });

  it("embeds any text, the same alone and among others, and white space as zeros", async () => {
    const delta = encodeDelta(tuned(["a", "parcel"], 8, 4));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.string({ unit: "grapheme", maxLength: 40 }), { maxLength: 5 }), async (texts) => {
        const together = await embed(delta, texts);
        for (const [i, text] of texts.entries()) {
          const [alone] = await embed(delta, [text]);
          expect(together[i]).toEqual(alone);
          expect(alone?.every(Number.isFinite)).toBe(true);
        }
      }),
      { numRuns: 30 },
    );
    const [nothing] = await embed(delta, [" \n "]);
    expect(nothing?.every((value) => value === 0)).toBe(true);
  });
});

describe("the words of a training", () => {
  it("have rows that are trained where two of its texts have them, the most frequent first", () => {
    const texts = ["red apple", "red pear", "red pear tree", "a tree held out", "tree"];
    const { names, trained, text } = numberWords(table, texts, (text) => text < 3);
    expect(names.slice(0, trained)).toEqual(["red", "pear"]);
    texts.forEach((each, i) => {
      expect(Array.from(text(i), (word) => names[word])).toEqual(words(each).map(entry));
    });
  });

  it("begin with the base's rows at a mean length of 4", () => {
    const numbered = numberWords(table, ["red apple", "green pear"], () => true);
    const rows = new Float32Array(numbered.names.length * d);
    fillRows(rows, table, numbered);
    const lengths = numbered.names.map((_, i) => Math.hypot(...rows.subarray(i * d, (i + 1) * d)));
    expect(lengths.reduce((sum, each) => sum + each / lengths.length, 0)).toBeCloseTo(4, 3);
  });
});
