/** Reads the body of an import in any of the three formats as rows: valid, invalid or empty. It is never whole in memory. */
import { isUtf8 } from "node:buffer";
import type { RowError, StagedExample, StoredExample } from "../api/examples.ts";
import { formatPath } from "../api/validation.ts";
import type { ErrorCode, Result } from "../core/failure.ts";
import { targetField } from "../core/head.ts";
import { limits } from "../core/limits.ts";
import { BodyError, bodyError, limitBytes, notUtf8Failure, parseJson } from "./body.ts";
import { csvRecords } from "./csv.ts";
import { type ExampleShape, parseExample } from "./example.ts";
import { splitLines } from "./lines.ts";

export interface GoodRow {
  readonly row: StagedExample;
}
export interface BadRow {
  readonly error: RowError;
  readonly param: string | undefined;
}
/** null is an empty line. It is counted, because it takes time to read too. */
export type ImportRow = GoodRow | BadRow | null;

/** The error of an import with too many rows. */
export function tooManyRowsError(actual: number): BodyError {
  const limit = limits.import_rows;
  const message = `An import has at most ${limit} rows, good or bad; this one has more. Split it into several.`;
  return bodyError("limit_exceeded", message, { details: { limit, actual } });
}

function toRow(parsed: Result<StoredExample>, line: number): GoodRow | BadRow {
  if (parsed.ok) return { row: { ...parsed.value, line } };
  return { error: { line, code: parsed.failure.code, message: parsed.failure.message }, param: parsed.failure.param };
}

function badRow(line: number, code: ErrorCode, message: string): BadRow {
  return { error: { line, code, message }, param: undefined };
}

function limitImportBytes(body: ReadableStream<Uint8Array> | null): AsyncGenerator<Uint8Array> {
  const limit = limits.import_body_bytes;
  return limitBytes(body, limit, `An import has at most ${limit} bytes. Split it into several.`);
}

/** How many rows' errors an import shows. */
export const MAX_ERRORS_SHOWN = 100;

/** The reader for a content type, or null. A JSON body is read whole, within its own limit. */
export function getImportReader(
  contentType: string,
): ((body: ReadableStream<Uint8Array> | null, shape: ExampleShape) => AsyncGenerator<ImportRow>) | null {
  const type = contentType.split(";")[0]?.trim().toLowerCase();
  if (type === "application/json") return readJson;
  if (type === "application/x-ndjson" || type === "application/jsonl") return readNdjsonImport;
  if (type === "text/csv") return readCsv;
  return null;
}

async function* readJson(body: ReadableStream<Uint8Array> | null, shape: ExampleShape): AsyncGenerator<ImportRow> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of limitImportBytes(body)) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  if (!isUtf8(bytes)) throw new BodyError(notUtf8Failure);
  const parsed = parseJson(new TextDecoder().decode(bytes));
  if (!parsed.ok) throw new BodyError(parsed.failure);
  if (typeof parsed.value !== "object" || parsed.value === null || Array.isArray(parsed.value))
    throw bodyError("missing_parameter", 'The body must be an object: {"examples": […]}.', { param: "examples" });
  const { examples, ...unknownFields } = parsed.value as Record<string, unknown>;
  const [field] = Object.keys(unknownFields);
  const unknown = field === undefined ? undefined : formatPath([field]);
  if (unknown !== undefined)
    throw bodyError("unknown_parameter", `There is no parameter '${unknown}' here.`, { param: unknown });
  if (examples === undefined) throw bodyError("missing_parameter", "'examples' is required.", { param: "examples" });
  if (!Array.isArray(examples))
    throw bodyError("invalid_parameter", "'examples' must be a list.", { param: "examples" });
  for (const [index, raw] of examples.entries()) yield toRow(parseExample(raw, shape, `examples[${index}]`), index + 1);
}

function readNdjsonImport(body: ReadableStream<Uint8Array> | null, shape: ExampleShape): AsyncGenerator<ImportRow> {
  return readNdjson(limitImportBytes(body), (raw) => parseExample(raw, shape, ""));
}

/** Reads lines of JSON as rows. `parse` checks each of them. */
export async function* readNdjson(
  body: AsyncIterable<Uint8Array>,
  parse: (raw: unknown) => Result<StoredExample>,
): AsyncGenerator<ImportRow> {
  let line = 0;
  for await (const chunk of splitLines(body, "\n")) {
    for (const { text, utf8 } of chunk) yield ndjsonRow(text, utf8, ++line, parse);
  }
}

function ndjsonRow(
  text: string | null,
  utf8: boolean,
  line: number,
  parse: (raw: unknown) => Result<StoredExample>,
): ImportRow {
  if (text === null) return badRow(line, "input_too_long", `A line has at most ${limits.import_line_bytes} bytes.`);
  if (!utf8) return badRow(line, "invalid_json", "The line is not UTF-8, as JSON must be.");
  if (text.trim() === "") return null;
  const json = parseJson(text.replace(/^\uFEFF/, ""));
  return json.ok ? toRow(parse(json.value), line) : badRow(line, "invalid_json", "The line is not valid JSON.");
}

async function* readCsv(body: ReadableStream<Uint8Array> | null, shape: ExampleShape): AsyncGenerator<ImportRow> {
  if (shape.modality !== "text")
    throw bodyError("modality_mismatch", "A CSV holds texts. Send embeddings as NDJSON.", { param: "content-type" });
  const target = targetField[shape.task];
  let columns: string[] | null = null;
  for await (const record of csvRecords(splitLines(limitImportBytes(body), "any"))) {
    if (record === null) yield null;
    else if (columns === null) {
      if ("error" in record) throw bodyError("invalid_csv", `The CSV's header cannot be read. ${record.error}`);
      columns = checkHeader(record.fields, target);
    } else if ("error" in record) yield badRow(record.line, "invalid_csv", record.error);
    // Usually there is an unquoted comma, so the fields are shifted.
    else if (record.fields.length > columns.length) {
      const message = `The row has ${record.fields.length} fields where the header has ${columns.length}. Quote what holds a comma.`;
      yield badRow(record.line, "invalid_csv", message);
    } else yield toRow(parseExample(csvExample(columns, record.fields), shape, ""), record.line);
  }
  if (columns === null) checkHeader([], target);
}

function checkHeader(header: readonly string[], target: string): string[] {
  const names = header.map((column) => formatPath([column.trim().toLowerCase()]));
  const missing = ["text", target].find((column) => !names.includes(column));
  if (missing !== undefined) {
    throw bodyError(
      "invalid_csv",
      `The CSV's first line must name the columns, with 'text' and '${target}'; '${missing}' is missing.`,
      { param: missing },
    );
  }
  const unknown = names.find(
    (column, index) => !["id", "text", target].includes(column) || names.indexOf(column) !== index,
  );
  if (unknown !== undefined)
    throw bodyError("invalid_csv", `The CSV's column '${unknown}' is unknown or there twice; take it out.`, {
      param: unknown,
    });
  return names;
}

/** Narrower than what JavaScript reads as a number: in a table `0x10` is not a number. */
const DECIMAL = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;

/** A field that a short row lacks is missing. An empty id counts as no id. */
function csvExample(columns: readonly string[], fields: readonly string[]): Record<string, unknown> {
  const { id, text, label, labels, value } = Object.fromEntries(columns.map((column, i) => [column, fields[i]]));
  return {
    ...(id ? { id } : {}),
    ...(text === undefined ? {} : { text }),
    ...(label === undefined ? {} : { label }),
    ...(labels === undefined ? {} : { labels: labels.split("|").filter((one) => one !== "") }),
    ...(value === undefined ? {} : { value: DECIMAL.test(value.trim()) ? Number(value) : value }),
  };
}
