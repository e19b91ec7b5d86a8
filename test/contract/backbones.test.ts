import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { makeBackbones } from "../../src/backbones/index.ts";
import { loadBundledBackbones } from "./runtime.ts";

const table = makeBackbones(await loadBundledBackbones(), undefined, () => undefined, undefined);
const local = table.ok ? [...table.value.values()].filter(({ cost }) => cost !== "remote") : [];

/** Any text, lone surrogates and NUL included. */
const anyText = fc.oneof(fc.string({ unit: "binary", maxLength: 200 }), fc.string({ unit: "grapheme", maxLength: 60 }));
const scripts = [
  "Where is my refund?",
  "Où est mon remboursement ?",
  "Πού είναι τα χρήματά μου;",
  "मेरा पैसा कहाँ है",
  "أين أموالي؟",
  "返金はどこですか",
  "환불은 어디에 있나요",
  "👩‍💻🙂",
  "?!",
  "\u0301",
  "\ud800",
  "\0",
];

it("has three backbones without any configuration", () => {
  expect(local.map(({ id }) => id)).toEqual(["text-static-1", "text-use-1", "hash-text-1"]);
});

describe.each(local)("$id", (backbone) => {
  const embed = async (inputs: readonly string[]) => {
    const { rows, failure } = await backbone.embed(inputs);
    expect(failure).toBeNull();
    expect(rows).toHaveLength(inputs.length);
    return rows.map((row) => {
      if (row === undefined) throw new Error("A row is missing without a failure.");
      return row;
    });
  };

  it("names itself so that embeddings can be cached under id and revision", () => {
    expect(`${backbone.id}@${backbone.revision}`).toMatch(/^[a-zA-Z0-9._-]+@[a-zA-Z0-9._-]+$/);
  });

  it("embeds nothing as nothing", async () => {
    expect(await embed([])).toEqual([]);
  });

  it("gives a unit vector of its dimensions for every text that is not blank", async () => {
    await fc.assert(
      fc.asyncProperty(anyText, async (text) => {
        const [row] = await embed([text]);
        expect(row).toHaveLength(backbone.dimensions);
        expect(Math.hypot(...(row ?? []))).toBeCloseTo(text.trim() === "" ? 0 : 1, 5);
      }),
    );
    for (const row of await embed(scripts)) expect(Math.hypot(...row)).toBeCloseTo(1, 5);
  });

  it("gives the same bytes for the same input, in any batch and order", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(anyText, { maxLength: 8 }), async (texts) => {
        const batch = await embed(texts);
        const backwards = (await embed(texts.toReversed())).toReversed();
        const single = await Promise.all(texts.map(async (text) => (await embed([text]))[0]));
        expect(backwards).toEqual(batch);
        expect(single).toEqual(batch);
      }),
    );
  });

  it("does not share memory between answers", async () => {
    const [first] = await embed(["refund"]);
    const before = first?.slice();
    await embed(["shipping", "refund"]);
    expect(first).toEqual(before);
  });

  it("takes a text of a megabyte", async () => {
    const [row] = await embed(["ab c".repeat(262_144)]);
    expect(Math.hypot(...(row ?? []))).toBeCloseTo(1, 5);
  });

  it("tells texts apart", async () => {
    const rows = await embed(scripts);
    expect(new Set(rows.map((row) => row.join())).size).toBe(scripts.length);
  });
});
