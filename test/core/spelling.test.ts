import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { textStatic } from "../../src/backbones/node.ts";
import { MAX_CHARACTERS } from "../../src/backbones/sentence-encoder/tokenizer.ts";
import { correctSpelling } from "../../src/backbones/spelling.ts";
import { splitWords } from "../../src/core/text/words.ts";

const { vocabulary } = textStatic.table();
const correct = (text: string) => correctSpelling(text, vocabulary);

describe("correctSpelling", () => {
  it.each([
    ["a letter too many", "please canccel my order", "please cancel my order"],
    ["a letter missing", "please cancl my order", "please cancel my order"],
    ["a wrong letter", "please camcel my order", "please cancel my order"],
    ["two letters swapped", "please cacnel my order", "please cancel my order"],
    ["the first word", "Pleaes cancel my order", "Please cancel my order"],
    ["a sentence's first word", "Thanks!  Pleaes cancel my order", "Thanks!  Please cancel my order"],
    [
      "two words among many",
      "please cancle my order and send me the refnud today",
      "please cancel my order and send me the refund today",
    ],
    ["a word before a full stop", "my order is misssing.", "my order is missing."],
    ["a word alone", "refnud", "refund"],
  ])("corrects %s", (_, text, corrected) => {
    expect(correct(text)).toBe(corrected);
  });

  it.each([
    ["words of three letters", "cancel my crd"],
    ["words of four letters that resemble no very common word", "send me the iban"],
    ["names", "a song by Lohan"],
    ["words in capitals", "the key is QUEXT"],
    ["codes", "my order is refnud7, x-refnud, refnud_id and #1refnud"],
    ["addresses", "write to refnud@example.com or at refnud.com"],
    ["accents", "the refnüd of my order"],
    ["other languages", "me han cobrado dos veces en la misma factura"],
    ["other scripts", "返金はどこですか refnud"],
    ["words that are two edits away", "my refxxnd"],
    ["words that are too long", `my ${"refund".repeat(3)}`],
  ])("leaves %s alone", (_, text) => {
    expect(correct(text)).toBe(text);
  });

  it("chooses the most frequent of several entries, among common ones", () => {
    const choose = (...ranks: [string, number][]) => correctSpelling("waten", new Map(ranks));
    expect(choose(["water", 3], ["eaten", 700])).toBe("water");
    expect(choose(["water", 700], ["eaten", 3])).toBe("eaten");
    expect(choose(["water", 7999])).toBe("water");
    expect(choose(["water", 8000])).toBe("waten");
  });

  it("prefers a letter that is missing or swapped to one that is wrong or too many", () => {
    const choose = (word: string, ...ranks: [string, number][]) => correctSpelling(word, new Map(ranks));
    expect(choose("inot", ["into", 50], ["not", 10])).toBe("into");
    expect(choose("alet", ["let", 100], ["alert", 1000])).toBe("alert");
    expect(choose("alet", ["let", 10], ["alert", 1000])).toBe("let");
  });

  it("changes no more than unknown words of a text, each into a word of the vocabulary, and the same the second time", () => {
    const word = fc.oneof(
      fc.constantFrom("please", "refund", "ordre", "acount", "Yelow", "cancle", "QX7", "naïve", "don't", "...", "a/b"),
      fc.string({ unit: fc.constantFrom(..."aeinorst"), minLength: 1, maxLength: 8 }),
    );
    fc.assert(
      fc.property(fc.array(word, { maxLength: 12 }), fc.constantFrom(" ", "\n", ", "), (words, separator) => {
        const text = words.join(separator);
        const corrected = correct(text).split(separator);
        expect(corrected).toHaveLength(text.split(separator).length);
        for (const [i, before] of text.split(separator).entries()) {
          const after = corrected[i] ?? "";
          if (after === before) continue;
          expect(vocabulary.has(before.toLowerCase())).toBe(false);
          expect(splitWords(after).every((each) => !/^\p{L}/u.test(each) || vocabulary.has(each))).toBe(true);
        }
        expect(correct(correct(text))).toBe(correct(text));
      }),
    );
  });

  it("leaves a text of known words as it is", () => {
    const known = [...vocabulary.keys()].filter((word) => !word.startsWith("<"));
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...known), { maxLength: 20 }), (words) => {
        expect(correct(words.join(" "))).toBe(words.join(" "));
      }),
    );
  });

  it("reads the beginning of a text", () => {
    const long = "where is my order ".repeat(60);
    expect(long.length).toBeGreaterThan(MAX_CHARACTERS);
    expect(correct(`refnud ${long} refnud`)).toBe(`refund ${long} refnud`);
  });
});
