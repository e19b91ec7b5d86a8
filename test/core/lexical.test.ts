import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hasLexicalRoom, type Lexical, lexicalBuckets, lexicalFeatures, readLexical } from "../../src/core/text/lexical.ts";
import { words } from "../../src/core/text/words.ts";

/** A feature as what it is of, and the kind whose hashes it has. */
type Named = readonly [kind: "word" | "pair" | "gram", of: readonly (string | number)[]];

const STARTS = { word: 0x811c9dc5n, pair: 0x9dc5811cn, gram: 0x01234567n };
const LOW = 2n ** 32n;

function hash(kind: keyof typeof STARTS, units: readonly number[]): bigint {
  let h = STARTS[kind];
  for (const unit of units) h = ((h ^ BigInt(unit)) * 0x01000193n) % LOW;
  return h;
}

function finalise(hashed: bigint): bigint {
  let h = ((hashed ^ (hashed >> 16n)) * 0x85ebca6bn) % LOW;
  h = ((h ^ (h >> 13n)) * 0xc2b2ae35n) % LOW;
  return h ^ (h >> 16n);
}

const unitsOf = (text: string) => Array.from({ length: text.length }, (_, i) => text.charCodeAt(i));

/** Every word, pair and n-gram of a text, as substrings, one a time that it is there. */
function named(text: string): Named[] {
  const found = words(text);
  const all: Named[] = found.map((word) => ["word", [word]]);
  for (const [i, word] of found.slice(1).entries()) all.push(["pair", [found[i] as string, word]]);
  for (const word of found) {
    const bounded = `<${word}>`;
    for (const n of [2, 3, 4])
      for (let i = 0; i + n <= bounded.length; i++) all.push(["gram", [bounded.slice(i, i + n)]]);
  }
  return all;
}

function bucketOf([kind, of]: Named, buckets: number): number {
  const units =
    kind === "pair" ? of.map((word) => Number(hash("word", unitsOf(word as string)))) : unitsOf(of[0] as string);
  return (kind === "gram" ? buckets : 0) + Number(finalise(hash(kind, units)) % BigInt(buckets));
}

function countsOf(text: string, buckets: number): Map<number, number> {
  const counts = new Map<number, number>();
  for (const each of named(text)) {
    const bucket = bucketOf(each, buckets);
    counts.set(bucket, (counts.get(bucket) ?? 0) + 1);
  }
  return counts;
}

/** Features by bucket, from the formula at the top of lexical.ts. */
function reference(examples: readonly string[], buckets: number, text: string): Map<number, number> {
  const having = examples.map((each) => countsOf(each, buckets));
  const weights = new Map<number, number>();
  for (const [bucket, times] of countsOf(text, buckets)) {
    const seen = having.filter((counts) => counts.has(bucket)).length;
    if (seen > 0) weights.set(bucket, (1 + Math.log(times)) * (Math.log((1 + examples.length) / (1 + seen)) + 1));
  }
  const norm = (ofWords: boolean) =>
    Math.hypot(...[...weights].filter(([bucket]) => bucket < buckets === ofWords).map(([, weight]) => weight));
  const norms = [norm(false), norm(true)];
  const scale = examples.length <= 640 ? 0.5 : 1;
  return new Map(
    [...weights].map(([bucket, weight]) => [bucket, (scale * weight) / (norms[Number(bucket < buckets)] as number)]),
  );
}

function fitted(examples: readonly string[], buckets: number) {
  const reader = readLexical(buckets);
  for (const text of examples) reader.add(text);
  const entries = reader.entries();
  const features = reader.fit();
  expect(features.entries).toBe(entries);
  return { ...features, rows: features.takeRows() };
}

function byBucket(
  lexical: Lexical,
  { columns, values }: { columns: Uint16Array; values: Float32Array },
): Map<number, number> {
  const found = new Map(Array.from(columns, (column, m) => [lexical.seen[column] as number, values[m] as number]));
  expect(found.size).toBe(columns.length);
  return found;
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
  it("are those of the formula, of n-grams as substrings and hashes as whole numbers", () => {
    fc.assert(
      fc.property(
        fc.array(anyText, { minLength: 1, maxLength: 8 }),
        fc.array(anyText, { maxLength: 4 }),
        anyBuckets,
        (examples, others, buckets) => {
          const { lexical } = fitted(examples, buckets);
          const features = lexicalFeatures(lexical);
          for (const text of [...examples, ...others])
            expectSame(byBucket(lexical, features(text)), reference(examples, buckets, text));
        },
      ),
      { numRuns: 200 },
    );
  });

  it("of a text are the very row that the fit made of it", () => {
    fc.assert(
      fc.property(fc.array(anyText, { minLength: 1, maxLength: 8 }), anyBuckets, (examples, buckets) => {
        const { lexical, rows, columns, entries } = fitted(examples, buckets);
        expect(rows.starts).toHaveLength(examples.length + 1);
        expect([rows.starts.at(-1), rows.columns.length, rows.values.length]).toEqual([entries, entries, entries]);
        expect(columns).toBe(lexical.seen.length);
        const features = lexicalFeatures(lexical);
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

  it("have columns for the buckets that examples have, ascending, and nothing for any other", () => {
    fc.assert(
      fc.property(
        fc.array(anyText, { minLength: 1, maxLength: 6 }),
        anyText,
        anyBuckets,
        (examples, other, buckets) => {
          const { lexical } = fitted(examples, buckets);
          const seen = new Set(examples.flatMap((text) => [...countsOf(text, buckets).keys()]));
          expect([...lexical.seen]).toEqual([...seen].sort((a, b) => a - b));
          expect(lexical.idf).toHaveLength(seen.size);
          const { columns } = lexicalFeatures(lexical)(other);
          const known = [...countsOf(other, buckets).keys()].filter((bucket) => seen.has(bucket));
          expect(columns).toHaveLength(known.length);
        },
      ),
    );
  });

  it("have a norm of the scale in words and pairs, and in n-grams: a half for few examples, one for many", () => {
    fc.assert(
      fc.property(anyText, fc.constantFrom(1, 640, 641), (text, count) => {
        const { lexical, rows } = fitted(Array(count).fill(text), 256);
        const scale = count <= 640 ? 0.5 : 1;
        expect(lexical.scale).toBe(scale);
        const found = byBucket(lexical, lexicalFeatures(lexical)(text));
        for (const ofWords of [true, false]) {
          const block = [...found].filter(([bucket]) => bucket < 256 === ofWords).map(([, value]) => value);
          expect(Math.hypot(...block)).toBeCloseTo(text.trim() === "" ? 0 : scale, 5);
        }
        expect(rows.values.every(Number.isFinite)).toBe(true);
      }),
      { numRuns: 30 },
    );
  });

  it("tell kinds apart that are spelt alike, and the order of words", () => {
    const buckets = 8192;
    const bucket = (...each: Named) => bucketOf(each, buckets) % buckets;
    expect(bucket("word", ["<a"])).not.toBe(bucket("gram", ["<a"]));
    expect(bucket("pair", ["a", "b"])).not.toBe(bucket("pair", ["b", "a"]));
    const { lexical } = fitted(["pay me back", "back me pay"], buckets);
    const [one, two] = ["pay me back", "back me pay"].map((text) => byBucket(lexical, lexicalFeatures(lexical)(text)));
    expect([...(one?.keys() ?? [])].filter((each) => !two?.has(each))).toHaveLength(2);
  });

  it("fold what the words fold", () => {
    const { lexical } = fitted(["Où est mon café ? I don’t know"], 256);
    const features = lexicalFeatures(lexical);
    expect(features("OU EST MON CAFE ? i DON'T know")).toEqual(features("Où est mon café ? I don’t know"));
  });

  it("of texts without any word are none", () => {
    for (const examples of [[""], ["", " \n"], [" ", "word"]]) {
      const { lexical, rows } = fitted(examples, 16);
      const features = lexicalFeatures(lexical);
      for (const blank of ["", " ", "\t\n\u3000"]) expect(features(blank).values).toHaveLength(0);
      expect(rows.starts[1]).toBe(0);
    }
    expect(fitted([""], 16)).toMatchObject({ columns: 0, entries: 0 });
  });

  it("of examples that fill more than one array of the reader are as those of few", () => {
    const texts = Array.from({ length: 300 }, (_, i) =>
      Array.from({ length: 120 }, (_, j) => `w${(i * 31 + j * j) % 997}`).join(" "),
    );
    const { lexical, rows, entries } = fitted(texts, 8192);
    expect(entries).toBeGreaterThan(2 * 65_536);
    const features = lexicalFeatures(lexical);
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
      const { lexical } = fitted([part.repeat(100)], 8192);
      const features = lexicalFeatures(lexical);
      const milliseconds = (length: number) => {
        const text = part.repeat(Math.ceil(length / part.length)).slice(0, length);
        let least = Number.POSITIVE_INFINITY;
        for (let i = 0; i < 5; i++) {
          const before = performance.now();
          features(text);
          least = Math.min(least, performance.now() - before);
        }
        return least;
      };
      const short = milliseconds(2048);
      // Sixteen times as long; a square would take 256 times as long.
      expect(milliseconds(32_768)).toBeLessThan(100 * Math.max(short, 0.1));
    },
  );

  it("are those of half as many buckets from the beginning, whenever they are halved", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(anyText, fc.nat(2)), { minLength: 1, maxLength: 12 }),
        fc.constantFrom(16, 256, 8192),
        (steps, most) => {
          const reader = readLexical(most);
          for (const [text, halvings] of steps) {
            reader.add(text);
            for (let i = 0; i < halvings && reader.buckets() > 1; i++) reader.halve();
          }
          const whole = fitted(
            steps.map(([text]) => text),
            reader.buckets(),
          );
          const { lexical, columns, entries, takeRows } = reader.fit();
          expect({ lexical, columns, entries, rows: takeRows() }).toEqual({
            lexical: whole.lexical,
            columns: whole.columns,
            entries: whole.entries,
            rows: whole.rows,
          });
        },
      ),
    );
  });

  it("are those of half as many buckets also where they fill more than one array of the reader", () => {
    const texts = Array.from({ length: 120 }, (_, i) =>
      Array.from({ length: 300 }, (_, j) => `w${(i * 31 + j * j * j) % 4999}`).join(" "),
    );
    const reader = readLexical(8192);
    for (const [i, text] of texts.entries()) {
      reader.add(text);
      if (i === 99) expect(reader.entries()).toBeGreaterThan(65_536);
      if (i === 99 || i === 110) reader.halve();
    }
    const { lexical, takeRows } = reader.fit();
    const whole = fitted(texts, 2048);
    expect({ lexical, rows: takeRows() }).toEqual({ lexical: whole.lexical, rows: whole.rows });
  });

  it("are given away once", () => {
    const reader = readLexical(16);
    reader.add("a");
    const features = reader.fit();
    features.takeRows();
    expect(() => features.takeRows()).toThrow();
  });
});

describe("the number of buckets", () => {
  it("is a power of two from 256 to 32,768, the most of which the weights stay within 160,000", () => {
    for (let outputs = 1; outputs <= 10_000; outputs++) {
      const buckets = lexicalBuckets(outputs);
      expect([256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768]).toContain(buckets);
      if (buckets > 256) expect(2 * buckets * outputs).toBeLessThanOrEqual(160_000);
      if (buckets < 32_768) expect(4 * buckets * outputs).toBeGreaterThan(160_000);
      expect(hasLexicalRoom(outputs)).toBe(2 * buckets * outputs <= 160_000);
    }
    expect([hasLexicalRoom(312), hasLexicalRoom(313)]).toEqual([true, false]);
  });
});
