import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { joinRows } from "../../src/core/linear/sparse.ts";
import { hasLexicalRoom, lexicalBucketCount } from "../../src/core/text/buckets.ts";
import { createLexicalVectorizer, type LexicalVocabulary } from "../../src/core/text/lexical.ts";
import { createLexicalReader } from "../../src/core/text/lexical-reader.ts";
import { splitWords } from "../../src/core/text/words.ts";

/** A feature as what it is of, and the kind whose hashes it has. */
type NamedFeature = readonly [kind: "word" | "pair" | "gram", of: readonly (string | number)[]];

const STARTS = { word: 0x811c9dc5n, pair: 0x9dc5811cn, gram: 0x01234567n };
const LOW = 2n ** 32n;

function hash(kind: keyof typeof STARTS, units: readonly number[]): bigint {
  let h = STARTS[kind];
  for (const unit of units) h = ((h ^ BigInt(unit)) * 0x01000193n) % LOW;
  return h;
}

function finalise(hashValue: bigint): bigint {
  let mixed = ((hashValue ^ (hashValue >> 16n)) * 0x85ebca6bn) % LOW;
  mixed = ((mixed ^ (mixed >> 13n)) * 0xc2b2ae35n) % LOW;
  return mixed ^ (mixed >> 16n);
}

const codeUnits = (text: string) => Array.from({ length: text.length }, (_, i) => text.charCodeAt(i));

/** Every word, pair and n-gram of a text, as substrings, one a time that it is there. */
function listFeatures(text: string): NamedFeature[] {
  const textWords = splitWords(text);
  const all: NamedFeature[] = textWords.map((word) => ["word", [word]]);
  for (const [i, word] of textWords.slice(1).entries()) all.push(["pair", [textWords[i] as string, word]]);
  for (const word of textWords) {
    const bounded = `<${word}>`;
    for (const n of [2, 3, 4])
      for (let i = 0; i + n <= bounded.length; i++) all.push(["gram", [bounded.slice(i, i + n)]]);
  }
  return all;
}

function bucketOf([kind, parts]: NamedFeature, buckets: number): number {
  const units =
    kind === "pair"
      ? parts.map((word) => Number(hash("word", codeUnits(word as string))))
      : codeUnits(parts[0] as string);
  return (kind === "gram" ? buckets : 0) + Number(finalise(hash(kind, units)) % BigInt(buckets));
}

function countBuckets(text: string, buckets: number): Map<number, number> {
  const counts = new Map<number, number>();
  for (const feature of listFeatures(text)) {
    const bucket = bucketOf(feature, buckets);
    counts.set(bucket, (counts.get(bucket) ?? 0) + 1);
  }
  return counts;
}

/** Features by bucket, from the formula at the top of lexical.ts. */
function referenceWeights(examples: readonly string[], buckets: number, text: string): Map<number, number> {
  const documentCounts = examples.map((text) => countBuckets(text, buckets));
  const weights = new Map<number, number>();
  for (const [bucket, count] of countBuckets(text, buckets)) {
    const documentFrequency = documentCounts.filter((counts) => counts.has(bucket)).length;
    if (documentFrequency > 0)
      weights.set(bucket, (1 + Math.log(count)) * (Math.log((1 + examples.length) / (1 + documentFrequency)) + 1));
  }
  const norm = (ofWords: boolean) =>
    Math.hypot(...[...weights].filter(([bucket]) => bucket < buckets === ofWords).map(([, weight]) => weight));
  const norms = [norm(false), norm(true)];
  const scale = examples.length <= 640 ? 0.5 : 1;
  return new Map(
    [...weights].map(([bucket, weight]) => [bucket, (scale * weight) / (norms[Number(bucket < buckets)] as number)]),
  );
}

function fitLexical(examples: readonly string[], buckets: number) {
  const reader = createLexicalReader(buckets);
  for (const text of examples) reader.add(text);
  const entries = reader.entries();
  const features = reader.fit();
  expect(features.entries).toBe(entries);
  return { ...features, rows: joinRows([...features.takeBlocks([examples.length])]) };
}

function weightsByBucket(
  lexical: LexicalVocabulary,
  { columns, values }: { columns: Uint16Array; values: Float32Array },
): Map<number, number> {
  const weights = new Map(
    Array.from(columns, (column, m) => [lexical.seenBuckets[column] as number, values[m] as number]),
  );
  expect(weights.size).toBe(columns.length);
  return weights;
}

function expectSame(actual: Map<number, number>, expected: Map<number, number>): void {
  expect([...actual.keys()].sort((a, b) => a - b)).toEqual([...expected.keys()].sort((a, b) => a - b));
  for (const [bucket, value] of actual) expect(Math.abs(value - (expected.get(bucket) as number))).toBeLessThan(1e-6);
}

const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.string({ unit: "grapheme", maxLength: 40 }),
  fc
    .array(fc.constantFrom("refund", "Refund", "my", "a", "42", "don’t", "返金", "<a", "🙂", "?"), { maxLength: 12 })
    .map((parts) => parts.join(" ")),
);
const anyBuckets = fc.constantFrom(1, 2, 16, 256, 8192);

describe("lexical features", () => {
  it("follow the formula, with n-grams taken as substrings and hashes computed in integers", () => {
    fc.assert(
      fc.property(
        fc.array(anyText, { minLength: 1, maxLength: 8 }),
        fc.array(anyText, { maxLength: 4 }),
        anyBuckets,
        (examples, others, buckets) => {
          const { vocabulary } = fitLexical(examples, buckets);
          const features = createLexicalVectorizer(vocabulary);
          for (const text of [...examples, ...others])
            expectSame(weightsByBucket(vocabulary, features(text)), referenceWeights(examples, buckets, text));
        },
      ),
      { numRuns: 200 },
    );
  });

  it("of a text equal the row that the reader made of it", () => {
    fc.assert(
      fc.property(fc.array(anyText, { minLength: 1, maxLength: 8 }), anyBuckets, (examples, buckets) => {
        const { vocabulary, rows, columns, entries } = fitLexical(examples, buckets);
        expect(rows.starts).toHaveLength(examples.length + 1);
        expect([rows.starts.at(-1), rows.columns.length, rows.values.length]).toEqual([entries, entries, entries]);
        expect(columns).toBe(vocabulary.seenBuckets.length);
        const features = createLexicalVectorizer(vocabulary);
        for (const [i, text] of examples.entries()) {
          const [from, to] = [rows.starts[i] as number, rows.starts[i + 1] as number];
          expect(features(text)).toEqual({
            columns: rows.columns.slice(from, to),
            values: rows.values.slice(from, to),
          });
        }
      }),
    );
  });

  it("have one column for each bucket of the examples, ascending, and none for other buckets", () => {
    fc.assert(
      fc.property(
        fc.array(anyText, { minLength: 1, maxLength: 6 }),
        anyText,
        anyBuckets,
        (examples, other, buckets) => {
          const { vocabulary } = fitLexical(examples, buckets);
          const seenBuckets = new Set(examples.flatMap((text) => [...countBuckets(text, buckets).keys()]));
          expect([...vocabulary.seenBuckets]).toEqual([...seenBuckets].sort((a, b) => a - b));
          expect(vocabulary.idf).toHaveLength(seenBuckets.size);
          const { columns } = createLexicalVectorizer(vocabulary)(other);
          const knownBuckets = [...countBuckets(other, buckets).keys()].filter((bucket) => seenBuckets.has(bucket));
          expect(columns).toHaveLength(knownBuckets.length);
        },
      ),
    );
  });

  it("have the scale as norm of words and pairs, and of n-grams: a half for few examples, one for many", () => {
    fc.assert(
      fc.property(anyText, fc.constantFrom(1, 640, 641), (text, count) => {
        const { vocabulary, rows } = fitLexical(Array(count).fill(text), 256);
        const scale = count <= 640 ? 0.5 : 1;
        expect(vocabulary.scale).toBe(scale);
        const weights = weightsByBucket(vocabulary, createLexicalVectorizer(vocabulary)(text));
        for (const forWords of [true, false]) {
          const block = [...weights].filter(([bucket]) => bucket < 256 === forWords).map(([, value]) => value);
          expect(Math.hypot(...block)).toBeCloseTo(text.trim() === "" ? 0 : scale, 5);
        }
        expect(rows.values.every(Number.isFinite)).toBe(true);
      }),
      { numRuns: 30 },
    );
  });

  it("distinguish kinds that are spelt alike, and the order of words", () => {
    const buckets = 8192;
    const bucket = (...feature: NamedFeature) => bucketOf(feature, buckets) % buckets;
    expect(bucket("word", ["<a"])).not.toBe(bucket("gram", ["<a"]));
    expect(bucket("pair", ["a", "b"])).not.toBe(bucket("pair", ["b", "a"]));
    const { vocabulary } = fitLexical(["pay me back", "back me pay"], buckets);
    const [one, two] = ["pay me back", "back me pay"].map((text) =>
      weightsByBucket(vocabulary, createLexicalVectorizer(vocabulary)(text)),
    );
    expect([...(one?.keys() ?? [])].filter((key) => !two?.has(key))).toHaveLength(2);
  });

  it("normalise text as the words do", () => {
    const { vocabulary } = fitLexical(["Où est mon café ? I don’t know"], 256);
    const features = createLexicalVectorizer(vocabulary);
    expect(features("OU EST MON CAFE ? i DON'T know")).toEqual(features("Où est mon café ? I don’t know"));
  });

  it("of texts without words are empty", () => {
    for (const examples of [[""], ["", " \n"], [" ", "word"]]) {
      const { vocabulary, rows } = fitLexical(examples, 16);
      const features = createLexicalVectorizer(vocabulary);
      for (const blank of ["", " ", "\t\n\u3000"]) expect(features(blank).values).toHaveLength(0);
      expect(rows.starts[1]).toBe(0);
    }
    expect(fitLexical([""], 16)).toMatchObject({ columns: 0, entries: 0 });
  });

  it("of examples that fill several arrays of the reader equal those of few", () => {
    const texts = Array.from({ length: 300 }, (_, i) =>
      Array.from({ length: 120 }, (_, j) => `w${(i * 31 + j * j) % 997}`).join(" "),
    );
    const { vocabulary, rows, entries } = fitLexical(texts, 8192);
    expect(entries).toBeGreaterThan(2 * 65_536);
    const features = createLexicalVectorizer(vocabulary);
    for (const i of [0, 1, 140, 299]) {
      const [from, to] = [rows.starts[i] as number, rows.starts[i + 1] as number];
      expect(features(texts[i] as string)).toEqual({
        columns: rows.columns.slice(from, to),
        values: rows.values.slice(from, to),
      });
    }
  });

  it.each(["x", "x ", "返", "🙂", "\u0301", "7", "ab1?"])(
    "of the longest text of %j take time in proportion to its length",
    (part) => {
      const { vocabulary } = fitLexical([part.repeat(100)], 8192);
      const features = createLexicalVectorizer(vocabulary);
      // CPU time of this thread: what else runs on the machine does not count.
      const microseconds = (length: number) => {
        const text = part.repeat(Math.ceil(length / part.length)).slice(0, length);
        let minMicroseconds = Number.POSITIVE_INFINITY;
        for (let i = 0; i < 5; i++) {
          const before = process.threadCpuUsage();
          features(text);
          minMicroseconds = Math.min(minMicroseconds, process.threadCpuUsage(before).user);
        }
        return minMicroseconds;
      };
      const short = microseconds(2048);
      // The text is 16 times as long. Quadratic time would be 256 times as long.
      expect(microseconds(32_768)).toBeLessThan(100 * Math.max(short, 100));
    },
  );

  it("halved at any time equal those with half as many buckets from the start", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(anyText, fc.nat(2)), { minLength: 1, maxLength: 12 }),
        fc.constantFrom(16, 256, 8192),
        (steps, maximum) => {
          const reader = createLexicalReader(maximum);
          for (const [text, halvings] of steps) {
            reader.add(text);
            for (let i = 0; i < halvings && reader.buckets() > 1; i++) reader.halve();
          }
          const fitted = fitLexical(
            steps.map(([text]) => text),
            reader.buckets(),
          );
          const { vocabulary, columns, entries, takeBlocks } = reader.fit();
          const rows = joinRows([...takeBlocks(steps.map(() => 1))]);
          expect({ lexical: vocabulary, columns, entries, rows }).toEqual({
            lexical: fitted.vocabulary,
            columns: fitted.columns,
            entries: fitted.entries,
            rows: fitted.rows,
          });
        },
      ),
    );
  });

  it("halved across several arrays of the reader equal those with half as many buckets", () => {
    const texts = Array.from({ length: 120 }, (_, i) =>
      Array.from({ length: 300 }, (_, j) => `w${(i * 31 + j * j * j) % 4999}`).join(" "),
    );
    const reader = createLexicalReader(8192);
    for (const [i, text] of texts.entries()) {
      reader.add(text);
      if (i === 99) expect(reader.entries()).toBeGreaterThan(65_536);
      if (i === 99 || i === 110) reader.halve();
    }
    const { vocabulary, takeBlocks } = reader.fit();
    const rows = joinRows([...takeBlocks([50, 70])]);
    const fitted = fitLexical(texts, 2048);
    expect({ lexical: vocabulary, rows }).toEqual({ lexical: fitted.vocabulary, rows: fitted.rows });
  });

  it("are handed over once", () => {
    const reader = createLexicalReader(16);
    reader.add("a");
    const features = reader.fit();
    features.takeBlocks([1]);
    expect(() => features.takeBlocks([1])).toThrow();
  });
});

describe("the number of buckets", () => {
  it("is a power of two from 256 to 32,768, the most of which the weights stay within 160,000", () => {
    for (let outputs = 1; outputs <= 10_000; outputs++) {
      const buckets = lexicalBucketCount(outputs);
      expect([256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768]).toContain(buckets);
      if (buckets > 256) expect(2 * buckets * outputs).toBeLessThanOrEqual(160_000);
      if (buckets < 32_768) expect(4 * buckets * outputs).toBeGreaterThan(160_000);
      expect(hasLexicalRoom(outputs)).toBe(2 * buckets * outputs <= 160_000);
    }
    expect([hasLexicalRoom(312), hasLexicalRoom(313)]).toEqual([true, false]);
  });
});
