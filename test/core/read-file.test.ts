/** Reading files of any bytes, however they are cut and whatever the caller says about them. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { delimiters, encodings, fileFormats, type ReadOptions } from "../../src/api/imports.ts";
import { BodyError } from "../../src/ingest/body.ts";
import type { ImportRow } from "../../src/ingest/checked-row.ts";
import { readFileRows } from "../../src/ingest/rows.ts";

const shape = { task: "single_label", modality: "text", dimensions: null } as const;
const mediaTypes = ["text/csv", "application/json", "application/x-ndjson", "application/yaml", ""];

/** The rows, and what ended them if it was not the end of the file. */
async function readAll(bytes: Uint8Array, chunkBytes: number, mediaType: string, options: Partial<ReadOptions>) {
  async function* chunks() {
    for (let offset = 0; offset < bytes.length; offset += chunkBytes) yield bytes.subarray(offset, offset + chunkBytes);
  }
  const { rows, report } = readFileRows({
    chunks: chunks(),
    mediaType,
    shape,
    options: { truncate: false, ...options },
  });
  const found: ImportRow[] = [];
  try {
    for await (const row of rows) found.push(row);
  } catch (error) {
    if (!(error instanceof BodyError)) throw error;
    return { found, failure: error.failure, report };
  }
  return { found, failure: null, report };
}

const pieces = fc.oneof(
  fc.constantFrom(
    "text",
    "label",
    ",",
    ";",
    "\t",
    "|",
    "\n",
    "\r\n",
    '"',
    "sep=;\n",
    "__label__x ",
    "nlu:\n",
    "- intent: a\n",
  ),
  fc.constantFrom(
    "  examples: |\n    - b\n",
    '{"text":"a","label":["x"]}',
    "[",
    "]",
    "{",
    "}",
    '"text":',
    "é",
    "\ufeff",
    "*a",
    "&a",
  ),
  fc.string({ unit: "binary", maxLength: 4 }),
  fc.json({ maxDepth: 3 }),
);
const bytes = fc.oneof(
  fc.array(pieces, { maxLength: 30 }).map((parts) => new Uint8Array(Buffer.from(parts.join("")))),
  fc.array(pieces, { maxLength: 10 }).map((parts) => new Uint8Array(Buffer.from(parts.join(""), "utf16le"))),
  fc.uint8Array({ maxLength: 60 }),
);
const column = fc.option(fc.constantFrom("text", "0", "1", "2", "/text", "/a/0/b", "/", "__proto__"), {
  nil: undefined,
});
const options = fc.record({
  format: fc.option(fc.constantFrom(...fileFormats), { nil: undefined }),
  delimiter: fc.option(fc.constantFrom(...delimiters), { nil: undefined }),
  encoding: fc.option(fc.constantFrom(...encodings), { nil: undefined }),
  text: column,
  label: column,
  id: column,
  label_names: fc.option(fc.constantFrom("a|b", "|"), { nil: undefined }),
  truncate: fc.boolean(),
});

test("ends in rows or in a failure, the same however the bytes are cut", async () => {
  await fc.assert(
    fc.asyncProperty(bytes, fc.constantFrom(...mediaTypes), options, async (content, mediaType, given) => {
      const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
      const whole = await readAll(content, 1 << 16, mediaType, defined);
      const cut = await readAll(content, 1, mediaType, defined);
      expect(cut.found).toEqual(whole.found);
      expect(cut.failure).toEqual(whole.failure);
      expect(cut.report.detected).toEqual(whole.report.detected);
      const lines = whole.found.flatMap((row) => (row !== null && "row" in row ? [row.row.line] : []));
      expect(new Set(lines).size).toBe(lines.length);
    }),
    { numRuns: 600 },
  );
});

test.each(["utf-16le", "utf-16be"] as const)("reads %s by its mark and by its name", async (encoding) => {
  const text = "text,label\nSchön 😀,x\n";
  const units = Buffer.from(`\ufeff${text}`, "utf16le");
  const content = new Uint8Array(encoding === "utf-16be" ? units.swap16() : units);
  for (const [body, given] of [
    [content, {}],
    [content.subarray(2), { encoding }],
  ] as const) {
    const { found, report } = await readAll(body, 3, "text/csv", given);
    expect(report.detected.encoding).toBe(encoding);
    expect(found.at(-1)).toMatchObject({ row: { input: "Schön 😀" } });
  }
});

test("an encoding is decided by most of the first bytes beyond ASCII", async () => {
  const line = (text: string) => `text,label\n${text},x\n`;
  const latin1 = (text: string) => new Uint8Array(Buffer.from(text, "latin1"));
  const detect = async (body: Uint8Array) => (await readAll(body, 5, "text/csv", {})).report.detected.encoding;
  expect(await detect(latin1(line("caf\xe9")))).toBe("windows-1252");
  // One character of UTF-8 by chance, among many that are none.
  expect(await detect(latin1(line("\xc3\xa9 \xfc \xe4 \xf6")))).toBe("windows-1252");
  expect(await detect(new Uint8Array(Buffer.from(line("café"))))).toBe("utf-8");
  // A broken character in a file of UTF-8.
  expect(await detect(new Uint8Array(Buffer.concat([Buffer.from(line("é ü ä")), Buffer.of(0xff, 10)])))).toBe("utf-8");
  expect(await detect(new Uint8Array(Buffer.from(line("plain"))))).toBe("utf-8");
});
