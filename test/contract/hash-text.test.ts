import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encode, hashText } from "../../src/backbones/hash-text.ts";
import { vectors } from "./hash-text-1.ts";

const cosine = (a: string, b: string) => {
  const other = encode(b);
  return encode(a).reduce((sum, value, i) => sum + value * (other[i] ?? 0), 0);
};

describe("hash-text-1", () => {
  it.each(vectors)("agrees with the Python implementation on %s", (text, embedding) => {
    const expected = new Map(embedding.split(" ").map((entry) => entry.split(":").map(Number) as [number, number]));
    encode(text).forEach((value, i) => {
      expect(value).toBeCloseTo(expected.get(i) ?? 0, 6);
    });
  });

  it("still gives the bytes of revision 1", () => {
    const hash = createHash("sha256");
    for (const [text] of vectors) hash.update(new Uint8Array(encode(text).buffer));
    expect([hashText.revision, hash.digest("hex")]).toEqual([
      "1",
      "e053b10c0e5e72ae91fad58b546b8d838f18a7cdfddead89e162c8d409b4e78e",
    ]);
  });

  it("folds case, accents and compatibility forms", () => {
    for (const variant of [
      "crème brûlée",
      "CRÈME BRÛLÉE",
      "creme brulee",
      "ｃｒｅｍｅ ｂｒｕｌｅｅ",
      "  creme\tbrulee\n",
    ]) {
      expect(encode(variant)).toEqual(encode("Creme Brulee"));
    }
    expect(encode("ΟΔΟΣ")).toEqual(encode("οδός"));
    expect(encode("STRASSE")).toEqual(encode("straße"));
  });

  it("keeps the vowel signs that spell Indic words", () => {
    expect(encode("की")).not.toEqual(encode("का"));
  });

  it("hears the order of words", () => {
    expect(encode("dog bites man")).not.toEqual(encode("man bites dog"));
  });

  it("puts a misspelling nearer than another word", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("refund", "delivery", "password", "account", "cancel"),
        fc.nat(5),
        (word, position) => {
          const misspelt = word.slice(0, position) + word.slice(position + 1);
          expect(cosine(word, misspelt)).toBeGreaterThan(cosine(word, "umbrella"));
        },
      ),
    );
  });
});
