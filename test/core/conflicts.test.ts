import { createHash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { createConflictFinder } from "../../src/ingest/conflicts.ts";

const hash = (text: string) => new Uint8Array(createHash("sha256").update(text).digest()).subarray(0, 16);

test("each input with several targets is found once, when the second comes", () => {
  const rows = fc.array(fc.tuple(fc.nat(2_000), fc.nat(2)), { minLength: 1, maxLength: 5_000 });
  fc.assert(
    fc.property(rows, (pairs) => {
      const finder = createConflictFinder();
      const targets = new Map<number, Set<number>>();
      for (const [input, target] of pairs) {
        const known = targets.get(input) ?? new Set();
        const isSecond = known.size === 1 && !known.has(target);
        targets.set(input, known.add(target));
        expect(finder.add(hash(`${input}`), hash(`${input} ${target}`))).toBe(isSecond);
      }
    }),
    { numRuns: 20 },
  );
});
