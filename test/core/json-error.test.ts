import fc from "fast-check";
import { expect, it } from "vitest";
import { findJsonError, invalidJson } from "../../src/ingest/json-error.ts";

it.each([
  ["", 0],
  ["  ", 2],
  ["{", 1],
  ['{"a":1,}', 7],
  ["{'a':1}", 1],
  ['{"a" 1}', 5],
  ['{"a":NaN}', 5],
  ['{"a":1 "b":2}', 7],
  ["[1,]", 3],
  ["[1 2]", 3],
  ["[1}", 2],
  ["{}{}", 2],
  ["01", 1],
  ["-", 0],
  ['"a', 2],
  ['"a\nb"', 2],
  ['"\\x"', 1],
  ['"\\u12"', 1],
  ["tru", 0],
  ["\ufeff1", 0],
])("%j is not JSON from character %i on", (text, offset) => {
  expect(() => JSON.parse(text)).toThrow();
  expect(findJsonError(text)).toBe(offset);
});

it("reads every JSON to its end, and finds where the rest of one begins", () => {
  const json = fc.json({ maxDepth: 4, stringUnit: "binary" });
  fc.assert(
    fc.property(json, json, (one, other) => {
      expect(findJsonError(one)).toBe(one.length);
      expect(findJsonError(` ${one}\n\t${other}`)).toBe(one.length + 3);
    }),
  );
});

it("agrees with JSON.parse where that says where", () => {
  const cut = fc.tuple(
    fc.json({ maxDepth: 3 }),
    fc.nat(),
    fc.constantFrom("", ",", "}", "]", '"', ":", "x", "[", "\\"),
  );
  fc.assert(
    fc.property(cut, ([text, position, inserted]) => {
      const at = position % (text.length + 1);
      const broken = text.slice(0, at) + inserted + text.slice(at + 1);
      let message = "";
      try {
        JSON.parse(broken);
      } catch (error) {
        message = String(error);
      }
      const offset = findJsonError(broken);
      if (message === "") expect(offset).toBe(broken.length);
      const said = /(?:Expected .*|after JSON) (?:in JSON )?at position (\d+)/.exec(message)?.[1];
      if (said !== undefined) expect(`${broken}: ${offset}`).toBe(`${broken}: ${said}`);
    }),
    { numRuns: 500 },
  );
});

it("reads 100,000 levels and long strings without recursion", () => {
  expect(findJsonError("[".repeat(100_000))).toBe(100_000);
  expect(findJsonError(`"${"a\\n".repeat(1_000_000)}`)).toBe(3_000_001);
  expect(findJsonError(`"${"a".repeat(10_000_000)}`)).toBe(10_000_001);
});

it("the failure names line and column", () => {
  expect(invalidJson('{\n  "a": 1,\n  "b": 2 "c": 3\n}').message).toBe(
    "The body is not valid JSON: it breaks off at line 3, column 10. Check quotes, commas and brackets.",
  );
  expect(invalidJson('{\n"a": [1').message).toContain("it ends too soon, at line 2, column 8");
});
