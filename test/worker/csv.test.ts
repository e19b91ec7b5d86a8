/** The CSV reader against csv-parse, on what both can read, however it is cut into chunks. */
import { parse } from "csv-parse/sync";
import fc from "fast-check";
import { expect, it } from "vitest";
import { csvRecords } from "../../src/ingest/csv.ts";
import { lines } from "../../src/ingest/lines.ts";

async function read(text: string, chunk: number): Promise<string[][]> {
  const bytes = new TextEncoder().encode(text);
  async function* body() {
    for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk);
  }
  const records: string[][] = [];
  for await (const record of csvRecords(lines(body(), "any"))) {
    if (record === null) continue;
    if ("problem" in record) throw new Error(record.problem);
    records.push([...record.fields]);
  }
  return records;
}

const quoted = fc
  .string({ unit: fc.constantFrom("a", "é", "😀", " ", ",", '"', "\n", "\r\n", "x\r") })
  .map((text) => `"${text.replaceAll('"', '""')}"`);
const plain = fc.string({ unit: fc.constantFrom("a", "é", "😀", " ", "\t", "'") });
const table = fc.array(fc.array(fc.oneof(quoted, plain), { minLength: 2, maxLength: 4 }), {
  minLength: 1,
  maxLength: 8,
});

it("reads what csv-parse reads", async () => {
  await fc.assert(
    fc.asyncProperty(
      table,
      fc.constantFrom("\n", "\r\n"),
      fc.boolean(),
      fc.integer({ min: 1, max: 9 }),
      async (rows, lineBreak, ends, chunk) => {
        const text = rows.map((row) => row.join(",")).join(lineBreak) + (ends ? lineBreak : "");
        const theirs = parse(text, { record_delimiter: lineBreak, relax_column_count: true, skip_empty_lines: true });
        expect(await read(text, chunk)).toEqual(theirs);
      },
    ),
    { numRuns: 500 },
  );
});

it("reads any line breaks, also mixed", async () => {
  expect(await read('a,b\r\nc,"d\ne"\rf,g\nh,i', 2)).toEqual([
    ["a", "b"],
    ["c", "d\ne"],
    ["f", "g"],
    ["h", "i"],
  ]);
});
