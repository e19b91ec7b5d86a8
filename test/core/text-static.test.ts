import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { textStatic } from "../../src/backbones/node.ts";

const file = (name: string) => readFileSync(join(import.meta.dirname, "../../models/text-static-1", name));

it("text-static-1 is named by what its files hold: run `npm run backbone:vectors` when they have changed", () => {
  const hash = createHash("sha256").update(file("vocabulary.txt")).update(file("table.bin"));
  expect(textStatic.revision).toBe(hash.digest("hex").slice(0, 12));
  expect(textStatic.bytes).toBe(file("vocabulary.txt").length + file("table.bin").length);
});
