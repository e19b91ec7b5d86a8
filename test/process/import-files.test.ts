/** Files of labelling tools and spreadsheets, each with the same three examples: docs/importing.md says what becomes of each. */
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { readOptions } from "../../src/api/imports.ts";
import { BodyError } from "../../src/ingest/body.ts";
import { readFileRows } from "../../src/ingest/rows.ts";

const root = resolve(import.meta.dirname, "../..");
const folder = join(root, "test/process/files");

const examples = [
  ["Where is my parcel?", "delivery"],
  ["I was charged twice, please refund it", "billing"],
  ["Der Käufer möchte zurücktreten", "cancellation"],
];

const types: Readonly<Record<string, string>> = {
  csv: "text/csv",
  txt: "text/csv",
  tsv: "text/tab-separated-values",
  json: "application/json",
  jsonl: "application/jsonl",
  ndjson: "application/x-ndjson",
  yml: "application/yaml",
};

async function readFile(name: string, query: string, chunkBytes: number, mediaType: string) {
  const bytes = readFileSync(join(folder, name));
  async function* chunks() {
    for (let offset = 0; offset < bytes.length; offset += chunkBytes) yield bytes.subarray(offset, offset + chunkBytes);
  }
  const { truncate, ...options } = readOptions.parse(Object.fromEntries(new URLSearchParams(query)));
  const shape = { task: "single_label", modality: "text", dimensions: null } as const;
  const { rows, report } = readFileRows({
    chunks: chunks(),
    mediaType,
    shape,
    options: { ...options, truncate: truncate === "true" },
  });
  const found: unknown[] = [];
  const errors: string[] = [];
  try {
    for await (const row of rows) {
      if (row === null) continue;
      if ("error" in row) errors.push(row.error.message);
      else found.push([row.row.input, JSON.parse(row.row.target)]);
    }
  } catch (error) {
    if (!(error instanceof BodyError)) throw error;
    errors.push(error.failure.message);
  }
  return { found, errors, report };
}

const document = readFileSync(join(root, "docs/importing.md"), "utf8");
const table = [...document.matchAll(/^\| (.+) \| \[([\w.-]+)\]\(\.\.\/test\/process\/files\/\2\) \| (.+) \|$/gm)].map(
  ([, system = "", file = "", result = ""]) => [system, file, result.replaceAll("\\|", "|")] as const,
);

describe("docs/importing.md", () => {
  test("names every file", () => {
    expect(new Set(table.map(([, file]) => file))).toEqual(new Set(readdirSync(folder)));
  });

  test.each(table)("a file of %s, %s: %s", async (_system, file, result) => {
    const query = /^with `\?(.*)`$/.exec(result)?.[1] ?? "";
    const refusal = /^refused: `(.*)`$/.exec(result)?.[1];
    expect(query !== "" || refusal !== undefined || result.startsWith("as it is")).toBe(true);
    const ownType = types[file.split(".").at(-1) ?? ""] ?? "";
    // What the bytes say counts more than a media type.
    const otherTypes = query === "" && refusal === undefined ? ["", "text/csv"] : [];
    for (const mediaType of [ownType, ...otherTypes]) {
      for (const chunkBytes of [1, 7, 1 << 20]) {
        const { found, errors, report } = await readFile(file, query, chunkBytes, mediaType);
        if (refusal === undefined) {
          expect(errors, mediaType).toEqual([]);
          expect(found).toEqual(examples);
          expect(report.skipped.size > 0).toBe(result.endsWith("are skipped"));
        } else {
          expect(found).toEqual([]);
          expect(errors[0]).toContain(refusal);
        }
      }
    }
  });
});
