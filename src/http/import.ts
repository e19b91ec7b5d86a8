/** Reads the body of an import, of any of the three formats, as rows that are good, bad or empty, never whole in memory. */
import { Readable } from "node:stream";
import { type CsvError, parse } from "csv-parse";
import { type Code, type Failure, fail, ok, type Result } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import type { StagedExample } from "../tenant/imports.ts";
import { formatPath } from "./errors.ts";
import { type ExampleShape, parseExample } from "./example-input.ts";

export interface RowError {
  readonly line: number;
  readonly code: Code;
  readonly message: string;
}
interface BadRow {
  readonly error: RowError;
  readonly param: string | undefined;
}
/** null: a line with nothing on it, which costs time to read all the same. */
type ImportRow = { readonly row: StagedExample } | BadRow | null;

/** Thrown while a body is read: the import as a whole cannot go on. */
export class ImportFailed extends Error {
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.code);
    this.failure = failure;
  }
}

function stop(...args: Parameters<typeof fail>): ImportFailed {
  return new ImportFailed(fail(...args).failure);
}

/** Why an import of so many rows is not read on. */
export function tooManyRows(actual: number): ImportFailed {
  const limit = limits.import_rows;
  const message = `An import has at most ${limit} rows, good or bad; this one has more. Split it into several.`;
  return stop("limit_exceeded", message, { details: { limit, actual } });
}

function toRow(raw: unknown, shape: ExampleShape, line: number, at = ""): ImportRow {
  const parsed = parseExample(raw, shape, at);
  if (parsed.ok) return { row: { ...parsed.value, line } };
  return { error: { line, code: parsed.failure.code, message: parsed.failure.message }, param: parsed.failure.param };
}

function badRow(line: number, code: Code, message: string): BadRow {
  return { error: { line, code, message }, param: undefined };
}

/** Passes a body on, counted: past the limit, or where the connection ends early, it throws. */
async function* countBytes(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  let actual = 0;
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw stop(
          "upload_incomplete",
          "The connection ended before the whole body had come. The dataset is as it was; import again.",
        );
      });
      if (done) return;
      actual += value.byteLength;
      if (actual > limits.import_body_bytes) {
        const details = { limit: limits.import_body_bytes, actual };
        throw stop(
          "body_too_large",
          `An import has at most ${limits.import_body_bytes} bytes. Split it into several.`,
          { details },
        );
      }
      yield value;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** How many rows' errors an import shows. */
export const ERRORS_SHOWN = 100;

/** Which reader a content type has; JSON bodies are read whole, within their own limit. */
export function importReader(
  contentType: string,
): ((body: ReadableStream<Uint8Array>, shape: ExampleShape) => AsyncGenerator<ImportRow>) | null {
  const type = contentType.split(";")[0]?.trim().toLowerCase();
  if (type === "application/json") return readJson;
  if (type === "application/x-ndjson" || type === "application/jsonl") return readNdjson;
  if (type === "text/csv") return readCsv;
  return null;
}

async function* readJson(body: ReadableStream<Uint8Array>, shape: ExampleShape): AsyncGenerator<ImportRow> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of countBytes(body)) chunks.push(chunk);
  const parsed = parseJson(new TextDecoder().decode(Buffer.concat(chunks)));
  if (!parsed.ok) throw new ImportFailed(parsed.failure);
  if (typeof parsed.value !== "object" || parsed.value === null || Array.isArray(parsed.value))
    throw stop("missing_parameter", 'The body must be an object: {"examples": […]}.', { param: "examples" });
  const { examples, ...rest } = parsed.value as Record<string, unknown>;
  const [field] = Object.keys(rest);
  const unknown = field === undefined ? undefined : formatPath([field]);
  if (unknown !== undefined)
    throw stop("unknown_parameter", `There is no parameter '${unknown}' here.`, { param: unknown });
  if (examples === undefined) throw stop("missing_parameter", "'examples' is required.", { param: "examples" });
  if (!Array.isArray(examples)) throw stop("invalid_parameter", "'examples' must be a list.", { param: "examples" });
  for (const [index, raw] of examples.entries()) yield toRow(raw, shape, index + 1, `examples[${index}]`);
}

function parseJson(text: string): Result<unknown> {
  try {
    return ok(JSON.parse(text));
  } catch {
    return fail("invalid_json", "The body is not valid JSON. Check quotes, commas and brackets.");
  }
}

async function* readNdjson(body: ReadableStream<Uint8Array>, shape: ExampleShape): AsyncGenerator<ImportRow> {
  let line = 0;
  for await (const text of lines(body)) {
    line++;
    if (text === null) {
      yield badRow(line, "input_too_long", `A line has at most ${limits.import_line_bytes} bytes.`);
      continue;
    }
    if (text.trim() === "") {
      yield null;
      continue;
    }
    const parsed = parseJson(text);
    yield parsed.ok ? toRow(parsed.value, shape, line) : badRow(line, "invalid_json", "The line is not valid JSON.");
  }
}

/** The lines of a body; null for one that is too long, which is dropped as it comes. */
async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string | null> {
  let kept: Uint8Array[] = [];
  let size = 0;
  const end = () => {
    const whole =
      size > limits.import_line_bytes
        ? null
        : Buffer.concat(kept)
            .toString("utf8")
            .replace(/^\uFEFF/, "");
    kept = [];
    size = 0;
    return whole;
  };
  for await (const chunk of countBytes(body)) {
    let start = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, start)) {
      size += at - start;
      if (size <= limits.import_line_bytes) kept.push(chunk.subarray(start, at));
      yield end();
      start = at + 1;
    }
    size += chunk.length - start;
    if (size <= limits.import_line_bytes) kept.push(chunk.subarray(start));
    else kept = [];
  }
  if (size > 0) yield end();
}

const targetColumn = { single_label: "label", multi_label: "labels", regression: "value" } as const;

async function* readCsv(body: ReadableStream<Uint8Array>, shape: ExampleShape): AsyncGenerator<ImportRow> {
  if (shape.modality !== "text")
    throw stop("modality_mismatch", "A CSV holds texts. Send embeddings as NDJSON.", { param: "content-type" });
  const skipped: BadRow[] = [];
  // Where nothing but bad rows comes, nobody takes them out: beyond those that can be shown they are counted.
  let furtherSkipped = 0;
  const parser = parse({
    bom: true,
    columns: (header: string[]) => checkHeader(header, targetColumn[shape.task]),
    info: true,
    max_record_size: limits.import_line_bytes,
    // A row with too many fields mostly holds an unquoted comma, so its fields are not what they seem.
    relax_column_count_less: true,
    // Else one stray quote takes every row after it along.
    relax_quotes: true,
    skip_empty_lines: true,
    skip_records_with_error: true,
    on_skip: (error: CsvError | undefined) => {
      const actual = skipped.length + furtherSkipped + 1;
      if (actual > limits.import_rows) parser.destroy(tooManyRows(actual));
      else if (skipped.length === ERRORS_SHOWN) furtherSkipped++;
      else
        skipped.push(badRow(Number(error?.lines ?? 0), "invalid_csv", error?.message ?? "The row is not valid CSV."));
      return undefined;
    },
  });
  const source = Readable.from(countBytes(body));
  source.on("error", (error) => parser.destroy(error));
  source.pipe(parser);
  for await (const { record, info } of parser as AsyncIterable<{
    record: Record<string, string>;
    info: { lines: number };
  }>) {
    // The parser runs ahead of its reader, so what it has skipped may stand further down.
    for (let next = skipped[0]; next !== undefined && next.error.line < info.lines; next = skipped[0]) {
      skipped.shift();
      yield next;
    }
    yield toRow(csvExample(record), shape, info.lines);
  }
  yield* skipped;
  for (; furtherSkipped > 0; furtherSkipped--) yield badRow(0, "invalid_csv", "The row is not valid CSV.");
}

function checkHeader(header: readonly string[], target: string): string[] {
  const names = header.map((column) => formatPath([column.trim().toLowerCase()]));
  const missing = ["text", target].find((column) => !names.includes(column));
  if (missing !== undefined) {
    throw stop(
      "invalid_csv",
      `The CSV's first line must name the columns, with 'text' and '${target}'; '${missing}' is missing.`,
      { param: missing },
    );
  }
  const unknown = names.find(
    (column, index) => !["id", "text", target].includes(column) || names.indexOf(column) !== index,
  );
  if (unknown !== undefined)
    throw stop("invalid_csv", `The CSV's column '${unknown}' is unknown or there twice; take it out.`, {
      param: unknown,
    });
  return names;
}

/** A field left out by a short row is missing; an empty id is none. */
function csvExample({
  id,
  text,
  label,
  labels,
  value,
  ...rest
}: Record<string, string | undefined>): Record<string, unknown> {
  return {
    ...rest,
    ...(id ? { id } : {}),
    ...(text === undefined ? {} : { text }),
    ...(label === undefined ? {} : { label }),
    ...(labels === undefined ? {} : { labels: labels.split("|").filter((one) => one !== "") }),
    ...(value === undefined ? {} : { value: value.trim() === "" ? value : Number(value) }),
  };
}
