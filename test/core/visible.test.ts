import { describe, expect, test } from "vitest";
import { encode as hashEncode } from "../../src/backbones/hash-text.ts";
import { countBuckets } from "../../src/core/text/buckets.ts";
import { isBlank, visibleText } from "../../src/core/text/visible.ts";

describe("a text's visible characters", () => {
  test.each([
    ["par\u00adcel", "parcel"],
    ["par\u200bcel\u2060s", "parcels"],
    ["\ufeffwith a mark", "with a mark"],
    ["a\u200db \u200e\u202econtrol\u202c", "ab control"],
    ["\u00ad\u200b\u2064\ufeff", ""],
    ["plain, naïve 返金", "plain, naïve 返金"],
  ])("of %j are %j", (text, expected) => {
    expect(visibleText(text)).toBe(expected);
  });

  test.each([
    ["a family", "\u{1f468}\u200d\u{1f469}\u200d\u{1f467}"],
    ["a colour and a profession", "\u{1f469}\u{1f3fd}\u200d\u{1f4bb}"],
    ["a heart on fire", "\u2764\ufe0f\u200d\u{1f525}"],
    ["a flag of tags", "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}"],
  ])("are all of an emoji: %s", (_what, emoji) => {
    expect(visibleText(`a ${emoji}\u200b b`)).toBe(`a ${emoji} b`);
  });

  test("give the same features", () => {
    const [plain, divided] = ["the parcel is late", "the par\u00adcel is\u200b late"];
    expect(hashEncode(visibleText(divided))).toEqual(hashEncode(plain));
    expect(countBuckets(visibleText(divided), 256)).toEqual(countBuckets(plain, 256));
    expect(countBuckets(divided, 256)).not.toEqual(countBuckets(plain, 256));
  });
});

test.each(["", " \t\n", "\u00ad", " \u200b\ufeff\u2060 ", "\u200d\ufe0f", "\u{e0061}\u{e007f}"])(
  "%j is blank",
  (text) => {
    expect(isBlank(text)).toBe(true);
  },
);

test.each(["a", "\u200bx", "  荷", "\u00ad😀\u200d", "\ufffd", "."])("%j is not blank", (text) => {
  expect(isBlank(text)).toBe(false);
});
