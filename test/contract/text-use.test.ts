import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { unigramTokenizer } from "../../src/backbones/sentence-encoder/tokenizer.ts";
import { loadBundledBackbones } from "./runtime.ts";
import { revision, vectors } from "./text-use-1.ts";

const [textStatic, textUse] = await loadBundledBackbones();
if (textStatic === undefined || textUse === undefined) throw new Error("A bundled backbone is missing.");

async function embed(backbone: typeof textUse, texts: readonly string[]): Promise<Float32Array[]> {
  const { rows } = await (backbone ?? expect.fail()).embed(texts);
  return rows.map((row) => row ?? expect.fail());
}

function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const dot = (x: ArrayLike<number>, y: ArrayLike<number>) =>
    Array.from(x).reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

describe("text-use-1", () => {
  it("is of the revision that the vectors are of", () => {
    expect(textUse.revision).toBe(`${textStatic.revision}-${revision}`);
  });

  it("has the static embedding, and beside it the one of the graph that its weights come from", async () => {
    const texts = vectors.map(([text]) => text);
    const rows = await embed(textUse, texts);
    const staticRows = await embed(textStatic, texts);
    const cosines: number[] = [];
    for (const [i, row] of rows.entries()) {
      const expected = new Float32Array(new Uint8Array(Buffer.from(vectors[i]?.[1] ?? "", "base64")).buffer);
      expect(cosine(row.subarray(0, textStatic.dimensions), staticRows[i] ?? [])).toBeCloseTo(1, 6);
      cosines.push(cosine(row.subarray(textStatic.dimensions), expected));
    }
    // Its weights have 8 bits, and its activations 7.
    expect(Math.min(...cosines)).toBeGreaterThan(0.997);
    expect(cosines.reduce((sum, value) => sum + value) / cosines.length).toBeGreaterThan(0.9985);
  });

  it("tells texts apart that differ in the order of their words", async () => {
    const [a, b, again] = await embed(textUse, ["not good, bad", "not bad, good", "not good, bad"]);
    expect(cosine(a ?? [], again ?? [])).toBeCloseTo(1, 6);
    expect(cosine(a ?? [], b ?? [])).toBeLessThan(0.99);
  });

  it("reads a misspelt word as the one that is meant, alone and among other texts", async () => {
    const [expected] = await embed(textUse, ["please cancel my order"]);
    const [alone] = await embed(textUse, ["please cancle my order"]);
    const [, among] = await embed(textUse, ["where is it", "please cancle my order", "Pleaes cancel it"]);
    expect(alone).toEqual(expected);
    expect(among).toEqual(expected);
  });

  it("reads 128 sub-words, and white space in a row as one space", async () => {
    const long = "My parcel has not arrived. ".repeat(40);
    const rows = await embed(textUse, [long, `${long} Never mind.`, " where  is\tit\n", "where is it"]);
    const encoderParts = rows.map((row) => Array.from(row.subarray(textStatic.dimensions)));
    expect(encoderParts[1]).toEqual(encoderParts[0]);
    expect(encoderParts[2]).toEqual(encoderParts[3]);
  });
});

describe("unigramTokenizer", () => {
  /** A vocabulary as the file has it, behind its six reserved lines. */
  const tokenizer = (pieces: ReadonlyMap<string, number>) =>
    unigramTokenizer(["?\t0\n".repeat(6), ...[...pieces].map(([piece, score]) => `${piece}\t${score}\n`)].join(""));

  /** The highest sum of scores over all ways to cut a text into pieces. */
  function bestScore(text: string, pieces: ReadonlyMap<string, number>): number {
    if (text === "") return 0;
    let best = Number.NEGATIVE_INFINITY;
    for (let length = 1; length <= text.length; length++) {
      const score = pieces.get(text.slice(0, length));
      if (score !== undefined) best = Math.max(best, score + bestScore(text.slice(length), pieces));
    }
    return best;
  }

  it("finds the cut with the highest score", () => {
    const piece = fc.string({ unit: fc.constantFrom("a", "b", "\u2581"), minLength: 2, maxLength: 4 });
    const score = fc.integer({ min: -99, max: -1 });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(piece, score), { maxLength: 12 }),
        fc.array(fc.constantFrom("a", "b"), { minLength: 1, maxLength: 9 }),
        (entries, characters) => {
          const pieces = new Map([["a", -50], ["b", -60], ["\u2581", -40], ...entries] as [string, number][]);
          const names = [...pieces.keys()];
          const text = characters.join("");
          const cut = tokenizer(pieces)(text).map((id) => names[id - 6] ?? "?");
          expect(cut.join("")).toBe(`\u2581${text}`);
          const sum = cut.reduce((total, name) => total + (pieces.get(name) ?? Number.NaN), 0);
          expect(sum).toBe(bestScore(`\u2581${text}`, pieces));
        },
      ),
    );
  });

  it("has one unknown sub-word for characters in a row that it does not know", () => {
    const tokenize = tokenizer(
      new Map([
        ["\u2581a", -1],
        ["b", -1],
      ]),
    );
    expect(tokenize("a??b")).toEqual([6, 0, 7]);
    expect(tokenize(" \n")).toEqual([]);
  });
});
