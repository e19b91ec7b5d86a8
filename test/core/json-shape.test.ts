import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { arrayElements, findArray, measureJson } from "../../src/lib/json-shape.ts";

/** What a parsed value holds. */
function walk(value: unknown): { depth: number; nodes: number; longest: number } {
  if (typeof value !== "object" || value === null) return { depth: 0, nodes: 0, longest: 1 };
  const children = Object.values(value);
  const inner = children.map(walk);
  return {
    depth: 1 + Math.max(0, ...inner.map(({ depth }) => depth)),
    nodes: 1 + (Array.isArray(value) ? 0 : children.length) + inner.reduce((sum, { nodes }) => sum + nodes, 0),
    longest: Math.max(1, children.length, ...inner.map(({ longest }) => longest)),
  };
}

/** Texts with what a scanner may stumble over. */
const text = fc.string({ unit: fc.constantFrom(...'"\\[]{},: \n\u2028é😀ab') });
const json = fc.json({ maxDepth: 6 });
const tricky = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 5 },
    text,
    fc.double(),
    fc.constantFrom(null, true, false),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(text, tie("value"), { maxKeys: 4 }),
  ),
})).value;

describe("measureJson", () => {
  test("counts what JSON.parse makes of a text, however it is spaced", () => {
    fc.assert(fc.property(json, (source) => void expect(measureJson(source)).toEqual(walk(JSON.parse(source)))));
    fc.assert(
      fc.property(tricky, fc.constantFrom(undefined, 1, "\t"), (value, indent) => {
        const source = JSON.stringify(value, null, indent);
        expect(measureJson(source)).toEqual(walk(JSON.parse(source)));
      }),
    );
  });

  test("is linear, also where every quote is escaped, and survives what is not JSON", () => {
    const startedAt = performance.now();
    for (const source of [`"${"\\".repeat(4e6)}"`, `"${'\\"'.repeat(2e6)}"`, "[".repeat(4e6), "]".repeat(4e6)])
      measureJson(source);
    expect(performance.now() - startedAt).toBeLessThan(2_000);
    expect(measureJson(`${"[".repeat(1_000)}1,2,3${"]".repeat(1_000)}`)).toMatchObject({ depth: 1_000, nodes: 1_000 });
    fc.assert(fc.property(text, (source) => void expect(measureJson(source).longest).toBeGreaterThan(0)));
  });
});

describe("an array", () => {
  /** The array of a field as its elements and the rest of the object, put together again. */
  function parseByElements(source: string, field: string): unknown {
    const array = findArray(source, field);
    if (array === null) return JSON.parse(source);
    const rest = JSON.parse(`${source.slice(0, array.start)}[]${source.slice(array.end)}`);
    const elements = [...arrayElements(source, array.start)].map(({ start, end }) =>
      JSON.parse(source.slice(start, end)),
    );
    return { ...rest, [field]: elements };
  }

  test("is the same taken element by element as parsed at once", () => {
    const withField = fc.tuple(fc.array(tricky), fc.dictionary(text, tricky), fc.constantFrom(undefined, 2));
    fc.assert(
      fc.property(withField, ([list, others, indent]) => {
        const source = JSON.stringify({ a: 1, ...others, list, z: [list] }, null, indent);
        expect(parseByElements(source, "list")).toEqual(JSON.parse(source));
      }),
    );
  });

  test.each([
    '{"list":[]}',
    '{"list": [ \n ] , "a":[1]}',
    '{"l\\u0069st":[1,[2,3],{"list":[4]}]}',
    '{"list":[1],"list":[2,3]}',
    '{"list":[1],"list":7}',
    '{"list":"[1]"}',
    '{"a":{"list":[1]}}',
    '[{"list":[1]}]',
    '"list"',
  ])("is found where JSON.parse has it: %s", (source) => {
    expect(parseByElements(source, "list")).toEqual(JSON.parse(source));
  });

  test("is refused wherever JSON.parse refuses the text", () => {
    const base = '{"list":[1,{"a":"]"},[2]],"b":{"c":[]}}';
    const edit = fc.record({
      at: fc.nat(base.length),
      remove: fc.nat(2),
      insert: fc.constantFrom("", ...'[]{},:"\\1 '),
    });
    const tryParse = (parse: () => unknown) => {
      try {
        return parse();
      } catch {
        return "refused";
      }
    };
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 3 }), (edits) => {
        const source = edits.reduce(
          (t, { at, remove, insert }) => t.slice(0, at) + insert + t.slice(at + remove),
          base,
        );
        expect(tryParse(() => parseByElements(source, "list"))).toEqual(tryParse(() => JSON.parse(source)));
      }),
      { numRuns: 5_000 },
    );
  });
});
