import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { decodeDelta, encodeDelta, fineTunedBackbone, residentBytes } from "../../src/backbones/fine-tuned-static.ts";
import type { StaticBackbone } from "../../src/backbones/text-static.ts";
import { seededRandom } from "../../src/core/random.ts";
import { loadTextStatic } from "./runtime.ts";

const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex").slice(0, 16);

describe("a fine-tuned backbone", () => {
  it("is of the same bytes and embeds to the same numbers in every runtime", async () => {
    const base = (await loadTextStatic()) as StaticBackbone;
    const random = seededRandom(1);
    const numbers = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5);
    const vocabulary = ["refund", "parcel", "мой"];
    const filters = 8;
    const bytes = encodeDelta({
      base: { id: base.id, revision: "1" },
      dimensions: base.dimensions,
      scale: 0.5,
      vocabulary,
      rows: numbers(vocabulary.length * base.dimensions),
      kernel: numbers(filters * 3 * base.dimensions),
      bias: numbers(filters),
    });
    const delta = decodeDelta(bytes);
    if (delta === null) throw new Error("It cannot be read.");
    const backbone = fineTunedBackbone(base, { id: "ft:x", revision: "1" }, delta, bytes.length);
    const { rows } = await backbone.embed(["Refund my parcel!", "мой заказ", "qwxz", "   "]);
    const embedded = Buffer.concat(rows.map((row) => new Uint8Array((row ?? new Float32Array()).buffer)));
    expect([digest(bytes), digest(embedded)]).toEqual(["8b22ea77dbc318fe", "ec214f23e610af7d"]);
    // All that it holds, and room for the words that it comes to keep.
    expect(residentBytes(delta, bytes.length)).toBeGreaterThan(bytes.length + 4 * 1024 * 3 * filters);
  });
});
