import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { BUFFER_GROWTH, miniflareFile } from "../../src/server/miniflare.ts";

test("Miniflare has the constant that is changed, once", () => {
  expect(readFileSync(miniflareFile, "utf8").split(BUFFER_GROWTH)).toHaveLength(2);
});
