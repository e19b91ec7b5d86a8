import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { countCharacters, isLongerThan, truncateText } from "../../src/core/text/characters.ts";

const text = fc.string({ unit: fc.constantFrom("a", " ", "\n", "é", "😀", "\ud83d", "\ude00", "返") });

test("characters are code points", () => {
  fc.assert(
    fc.property(text, fc.nat(20), (value, limit) => {
      expect(countCharacters(value)).toBe([...value].length);
      expect(isLongerThan(value, limit)).toBe([...value].length > limit);
    }),
  );
});

describe("a truncated text", () => {
  test("is a beginning of it, within the limit, and splits no character", () => {
    fc.assert(
      fc.property(text, fc.nat(20), (value, limit) => {
        const cut = truncateText(value, limit);
        expect(value.startsWith(cut)).toBe(true);
        expect([...cut].length).toBeLessThanOrEqual(limit);
        if ([...value].length <= limit) expect(cut).toBe(value);
        expect([...value].slice(0, [...cut].length).join("")).toBe(cut);
      }),
    );
  });

  test.each([
    [15, "where is my parcel", "where is my"],
    [14, "parcels parcels", "parcels"],
    [18, "where is my parcel", "where is my parcel"],
    [11, "where is my parcel", "where is my"],
    [5, "parcels", "parce"],
    [20, `${"x".repeat(19)}  yy`, "x".repeat(19)],
  ])("of %i characters ends with a word, if words are not too long: %s", (limit, value, expected) => {
    expect(truncateText(value, limit)).toBe(expected);
  });
});
