import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encode, readTable, type StaticTable, staticBackbone } from "../../src/backbones/text-static.ts";
import { splitWords } from "../../src/core/text/words.ts";
import { loadTextStatic } from "./runtime.ts";
import { revision, vectors } from "./text-static-1.ts";

const DIMENSIONS = 16;
const BUCKETS = 11;
const WORDS = ["refund", "my", "?", "<n2>", "don't", "мой"];
const ROWS = WORDS.length + BUCKETS;
const CONFIG = {
  id: "small",
  revision: "1",
  license: "none",
  dimensions: DIMENSIONS,
  vocabulary: WORDS.length,
  buckets: BUCKETS,
};

/** A table as plain numbers. Scales are sixteenths, which half precision holds. */
interface PlainTable {
  readonly scales: readonly number[];
  readonly halves: readonly (readonly number[])[];
}

const plainTable: fc.Arbitrary<PlainTable> = fc.record({
  scales: fc.array(
    fc.integer({ min: 0, max: 64 }).map((n) => n / 16),
    { minLength: ROWS, maxLength: ROWS },
  ),
  halves: fc.array(fc.array(fc.nat(15), { minLength: DIMENSIONS, maxLength: DIMENSIONS }), {
    minLength: ROWS,
    maxLength: ROWS,
  }),
});

const waveTable: PlainTable = {
  scales: Array.from({ length: ROWS }, (_, row) => (1 + row) / 16),
  halves: Array.from({ length: ROWS }, (_, row) =>
    Array.from({ length: DIMENSIONS }, (_, j) => (7 * row + 5 * j) % 16),
  ),
};

function encodeTable({ scales, halves }: PlainTable): Uint8Array {
  const bytes = halves.flatMap((row) =>
    Array.from({ length: DIMENSIONS / 2 }, (_, i) => (row[2 * i] ?? 0) + 16 * (row[2 * i + 1] ?? 0)),
  );
  return new Uint8Array([
    ...new TextEncoder().encode("GST1"),
    ...new Uint8Array(Uint32Array.of(DIMENSIONS, WORDS.length, BUCKETS).buffer),
    ...new Uint8Array(Float16Array.from(scales).buffer),
    ...bytes,
  ]);
}

const vocabulary = `${WORDS.join("\n")}\n`;
const tableOf = (plain: PlainTable): StaticTable => readTable(vocabulary, encodeTable(plain));

/** The n-grams of "<word>", each hashed by FNV-1a into one of `rows`. */
function grams(word: string, rows: number): number[] {
  const bounded = `<${word}>`;
  return [3, 4, 5].flatMap((n) =>
    Array.from({ length: Math.max(0, bounded.length - n + 1) }, (_, start) => {
      let hash = 0x811c9dc5n;
      for (let i = 0; i < n; i++) hash = ((hash ^ BigInt(bounded.charCodeAt(start + i))) * 0x01000193n) % 2n ** 32n;
      return Number(hash % BigInt(rows));
    }),
  );
}

/** The formula, word by word and number by number. */
function reference({ scales, halves }: PlainTable, text: string): number[] {
  const row = (index: number) => (halves[index] ?? []).map((half) => (half - 8) * (scales[index] ?? 0));
  const add = (a: readonly number[], b: readonly number[]) => a.map((value, j) => value + (b[j] ?? 0));
  const zeros = Array<number>(DIMENSIONS).fill(0);
  const vector = (word: string) => {
    const name = /^\p{N}+$/u.test(word) ? `<n${word.length}>` : word;
    const known = WORDS.indexOf(name);
    if (known >= 0) return row(known);
    const parts = grams(name, BUCKETS).map((bucket) => row(WORDS.length + bucket));
    return parts.reduce(add, zeros).map((value) => value / Math.sqrt(parts.length));
  };
  let sum = splitWords(text).map(vector).reduce(add, zeros);
  if (sum.every((value) => value === 0) && text.trim() !== "") {
    const dimensions = grams(text, DIMENSIONS);
    sum = sum.map((_, j) => Number(dimensions.includes(j)));
  }
  const norm = Math.hypot(...sum) || 1;
  return sum.map((value) => value / norm);
}

const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 80 }),
  fc.string({ unit: "grapheme", maxLength: 80 }),
  fc
    .array(fc.oneof(fc.constantFrom(...WORDS, "42", "7", "Refund", "Don’t", "返金"), fc.string({ unit: "grapheme" })))
    .map((parts) => parts.join(" ")),
);

function expectClose(actual: Float32Array, expected: readonly number[]) {
  expect(actual).toHaveLength(expected.length);
  actual.forEach((value, j) => {
    expect(Math.abs(value - (expected[j] ?? Number.NaN))).toBeLessThan(1e-6);
  });
}

describe("a static table", () => {
  it("embeds by the formula, whatever the text", () => {
    const table = tableOf(waveTable);
    fc.assert(
      fc.property(anyText, (text) => expectClose(encode(table, text), reference(waveTable, text))),
      { numRuns: 500 },
    );
  });

  it("embeds by the formula, whatever the numbers", () => {
    fc.assert(
      fc.property(
        plainTable,
        fc.constantFrom("my refund", "my 42 refunds?", "quite unknown", "мой", "🙂"),
        (plain, text) => expectClose(encode(tableOf(plain), text), reference(plain, text)),
      ),
    );
  });

  it("embeds texts of more rows than are summed at once", () => {
    for (const text of ["my refund? ".repeat(200), "unknown ".repeat(40), "返金はどこですか".repeat(100)])
      expectClose(encode(tableOf(waveTable), text), reference(waveTable, text));
  });

  it("gives zeros for white space alone, also where rows are zeros or cancel", () => {
    const zeroTable = { ...waveTable, scales: waveTable.scales.map(() => 0) };
    const [first = [], , ...others] = waveTable.halves;
    const opposite = first.map((half) => 16 - Math.max(1, half));
    const cancellingTable = {
      scales: waveTable.scales.map(() => 1),
      halves: [first.map((half) => Math.max(1, half)), opposite, ...others],
    };
    for (const plain of [waveTable, zeroTable, cancellingTable]) {
      const table = tableOf(plain);
      for (const blank of ["", " ", "\t\n\u3000"]) expect(encode(table, blank)).toEqual(new Float32Array(DIMENSIONS));
      for (const text of ["my refund", "unknown", "?", "\u0301", "\ud800", "\0"]) {
        const embedding = encode(table, text);
        expect(Math.hypot(...embedding)).toBeCloseTo(1, 6);
        expectClose(embedding, reference(plain, text));
      }
    }
  });

  it("is read from any place in a buffer", () => {
    const bytes = encodeTable(waveTable);
    for (const offset of [1, 2, 3, 4]) {
      const shifted = new Uint8Array(bytes.length + offset);
      shifted.set(bytes, offset);
      for (const view of [shifted.subarray(offset), Buffer.from(shifted.buffer, offset)])
        expect(encode(readTable(vocabulary, view), "my unknown refund")).toEqual(
          encode(tableOf(waveTable), "my unknown refund"),
        );
    }
  });

  it.each<[string, string, Uint8Array]>([
    ["nothing", vocabulary, new Uint8Array()],
    ["a header cut off", vocabulary, encodeTable(waveTable).subarray(0, 12)],
    ["another format", vocabulary, encodeTable(waveTable).fill(0x32, 3, 4)],
    ["a table cut off", vocabulary, encodeTable(waveTable).subarray(0, -1)],
    ["a table with more behind it", vocabulary, new Uint8Array([...encodeTable(waveTable), 0])],
    ["other dimensions than it says", vocabulary, encodeTable(waveTable).fill(DIMENSIONS + 8, 4, 5)],
    ["an odd number of dimensions", vocabulary, encodeTable(waveTable).fill(DIMENSIONS + 1, 4, 5)],
    ["a word too few", WORDS.slice(1).join("\n"), encodeTable(waveTable)],
    ["a word too many", `${vocabulary}more\n`, encodeTable(waveTable)],
    ["a word twice", vocabulary.replace("my", "refund"), encodeTable(waveTable)],
  ])("is refused where it is %s", async (_what, message, bytes) => {
    expect(() => readTable(message, bytes)).toThrow();
    await expect(staticBackbone(CONFIG, message, bytes).embed(["my"])).rejects.toThrow();
  });

  it("is refused where it is not the configuration's", async () => {
    await expect(
      staticBackbone({ ...CONFIG, dimensions: 8 }, vocabulary, encodeTable(waveTable)).embed(["my"]),
    ).rejects.toThrow();
  });
});

describe("text-static-1", async () => {
  const backbone = await loadTextStatic();
  const embed = async (text: string) => {
    const [row] = (await backbone.embed([text])).rows;
    if (row === undefined) throw new Error("There is no embedding.");
    return row;
  };

  it("says what it is", () => {
    expect(backbone).toMatchObject({
      id: "text-static-1",
      modality: "text",
      dimensions: 256,
      kind: "static",
      license: "CC-BY-SA-4.0",
      parameters: 90_000 * 256,
      cost: "local",
    });
    expect(backbone.bytes).toBeGreaterThan((90_000 * 256) / 2);
  });

  it("has the revision that its embeddings were checked at", () => {
    expect(backbone.revision).toBe(revision);
  });

  it.each(vectors)("gives the very bytes of the Python implementation for %j", async (text, embedding) => {
    expect(Buffer.from((await embed(text)).buffer).toString("base64")).toBe(embedding);
  });

  it("folds case, accents and compatibility forms", async () => {
    for (const variant of ["crème brûlée", "CRÈME BRÛLÉE", "ｃｒｅｍｅ ｂｒｕｌｅｅ", "  creme\tbrulee\n"])
      expect(await embed(variant)).toEqual(await embed("creme brulee"));
    expect(await embed("I can’t")).toEqual(await embed("i can't"));
  });

  it("puts a word that it does not know near one that shares most of its parts", async () => {
    const cosine = async (a: string, b: string) => {
      const other = await embed(b);
      return (await embed(a)).reduce((sum, value, j) => sum + value * (other[j] ?? 0), 0);
    };
    expect(await cosine("返金はどこですか", "返金はどこ")).toBeGreaterThan(
      await cosine("返金はどこですか", "ありがとう"),
    );
    expect(await cosine("gromblewits", "gromblewit")).toBeGreaterThan(await cosine("gromblewits", "quixnarbled"));
  });

  it("takes the longest word", async () => {
    for (const letter of ["x", "返", "\u0301", "🙂", "7"])
      expect(Math.hypot(...(await embed(letter.repeat(32_768))))).toBeCloseTo(1, 5);
  });
});
