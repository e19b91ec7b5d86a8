/** The CSV reader against csv-parse, on what both can read, however it is cut into chunks. */
import { parse } from "csv-parse/sync";
import fc from "fast-check";
import { expect, it } from "vitest";
import { type Delimiter, delimiters } from "../../src/api/imports.ts";
import { csvRecords } from "../../src/ingest/csv.ts";
import { splitLines } from "../../src/ingest/lines.ts";

async function readRecords(text: string, chunk: number, delimiter: Delimiter = ","): Promise<string[][]> {
  const bytes = new TextEncoder().encode(text);
  async function* body() {
    for (let offset = 0; offset < bytes.length; offset += chunk) yield bytes.subarray(offset, offset + chunk);
  }
  const records: string[][] = [];
  for await (const chunkRecords of csvRecords(splitLines(body(), "any"), delimiter)) {
    for (const record of chunkRecords) {
      if (record === null) continue;
      if ("error" in record) throw new Error(record.error);
      records.push([...record.fields]);
    }
  }
  return records;
}

const quotedCell = fc
  .string({ unit: fc.constantFrom("a", "é", "😀", " ", ",", ";", "|", "\t", '"', "\n", "\r\n", "x\r") })
  .map((text) => `"${text.replaceAll('"', '""')}"`);
const plainCell = fc.string({ unit: fc.constantFrom("a", "é", "😀", " ", "'") });
const table = fc.array(fc.array(fc.oneof(quotedCell, plainCell), { minLength: 2, maxLength: 4 }), {
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
      fc.constantFrom(...delimiters),
      async (rows, lineBreak, endsWithBreak, chunk, delimiter) => {
        const text = rows.map((row) => row.join(delimiter)).join(lineBreak) + (endsWithBreak ? lineBreak : "");
        const libraryRecords = parse(text, {
          delimiter,
          record_delimiter: lineBreak,
          relax_column_count: true,
          skip_empty_lines: true,
        });
        expect(await readRecords(text, chunk, delimiter)).toEqual(libraryRecords);
      },
    ),
    { numRuns: 500 },
  );
});

it("reads any line breaks, also mixed", async () => {
  expect(await readRecords('a,b\r\nc,"d\ne"\rf,g\nh,i', 2)).toEqual([
    ["a", "b"],
    ["c", "d\ne"],
    ["f", "g"],
    ["h", "i"],
  ]);
});
