/** Lexical features against the Python reference of docs/lexical-features.md, in Node and in workerd. */
import { describe, expect, it } from "vitest";
import { createLexicalVectorizer, type SparseVector } from "../../src/core/text/lexical.ts";
import { createLexicalReader } from "../../src/core/text/lexical-reader.ts";
import { visibleText } from "../../src/core/text/visible.ts";
import { buckets, fittedCount, idf, seen, vectors } from "./lexical.ts";

const bytesOf = (base64: string) => Uint8Array.from(Buffer.from(base64, "base64")).buffer;
const floats = (base64: string) => [...new Float32Array(bytesOf(base64))];
const integers = (base64: string) => [...new Uint16Array(bytesOf(base64))];

const reader = createLexicalReader(buckets);
for (const [text] of vectors.slice(0, fittedCount)) reader.add(visibleText(text));
const fittedFeatures = reader.fit();
const { vocabulary } = fittedFeatures;
const features = createLexicalVectorizer(vocabulary);

function sortedPairs({ columns, values }: SparseVector): [number, number][] {
  return Array.from(columns, (column, m): [number, number] => [column, values[m] as number]).sort(([a], [b]) => a - b);
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length);
  actual.forEach((value, i) => {
    expect(Math.abs(value - (expected[i] as number))).toBeLessThan(1e-6);
  });
}

describe("lexical features", () => {
  it("keep the buckets and frequencies that the Python reference keeps", () => {
    expect(vocabulary.buckets).toBe(buckets);
    expect(vocabulary.scale).toBe(0.5);
    expect([...vocabulary.seenBuckets]).toEqual(integers(seen));
    expectClose([...vocabulary.idf], floats(idf));
  });

  it.each(vectors)("are those of the Python reference for %j", (text, columns, values) => {
    const pairs = sortedPairs(features(visibleText(text)));
    expect(pairs.map(([column]) => column)).toEqual(integers(columns));
    expectClose(
      pairs.map(([, value]) => value),
      floats(values),
    );
  });
});
