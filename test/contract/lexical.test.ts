/** Lexical features against the Python reference of docs/lexical-features.md, in Node and in workerd. */
import { describe, expect, it } from "vitest";
import { type Features, lexicalFeatures, readLexical } from "../../src/core/text/lexical.ts";
import { buckets, examples, idf, seen, vectors } from "./lexical.ts";

const bytesOf = (base64: string) => Uint8Array.from(Buffer.from(base64, "base64")).buffer;
const floats = (base64: string) => [...new Float32Array(bytesOf(base64))];
const integers = (base64: string) => [...new Uint16Array(bytesOf(base64))];

const reader = readLexical(buckets);
for (const [text] of vectors.slice(0, examples)) reader.add(text);
const fitted = reader.fit();
const { lexical } = fitted;
const features = lexicalFeatures(lexical);

function ascending({ columns, values }: Features): [number, number][] {
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
    expect(lexical.buckets).toBe(buckets);
    expect(lexical.scale).toBe(0.5);
    expect([...lexical.seen]).toEqual(integers(seen));
    expectClose([...lexical.idf], floats(idf));
  });

  it.each(vectors)("are those of the Python reference for %j", (text, columns, values) => {
    const found = ascending(features(text));
    expect(found.map(([column]) => column)).toEqual(integers(columns));
    expectClose(
      found.map(([, value]) => value),
      floats(values),
    );
  });
});
