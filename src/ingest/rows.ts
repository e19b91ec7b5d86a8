/**
 * Reads a file of examples, of any format, as rows: valid, invalid or empty. The file is never whole in memory, but for a
 * document of JSON that is no list.
 */
import { isUtf8 } from "node:buffer";
import type { RowError, StagedExample } from "../api/examples.ts";
import type { FileFormat, ReadOptions } from "../api/imports.ts";
import { formatPath } from "../api/validation.ts";
import { type ErrorCode, type Failure, ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import { limits } from "../core/limits.ts";
import { arrayElements, findArray, type Span } from "../lib/json-shape.ts";
import { type Annotation, type AnnotationReader, createAnnotationReader, splitLabels } from "./annotation.ts";
import { BodyError, bodyError, checkJsonShape, notUtf8Failure, parseJson, parseJsonKeepingDigits } from "./body.ts";
import { checkMapping, inferTask } from "./columns.ts";
import { type CsvRecord, csvRecords } from "./csv.ts";
import { detectDelimiter, detectFormat, formatOfType, type Head, readFirstNames } from "./detect.ts";
import { type Element, jsonElements } from "./elements.ts";
import { toUtf8 } from "./encoding.ts";
import { type ExampleShape, inferShape, readExample } from "./example.ts";
import { readFastText } from "./fasttext.ts";
import { findJsonError } from "./json-error.ts";
import { type Line, splitLines } from "./lines.ts";
import { rasaRows } from "./rasa.ts";
import { createRecordReader, type RecordReader } from "./records.ts";
import { createReport, type ReadReport } from "./report.ts";
import { readProject } from "./systems.ts";
import { createTableReader } from "./tables.ts";

export interface GoodRow {
  readonly row: StagedExample;
  readonly labels: readonly string[];
  readonly truncated: boolean;
}
export interface BadRow {
  readonly error: RowError;
  readonly param: string | undefined;
}
/** null is an empty line, or a row that the file marks as no example. It is counted, because it takes time to read too. */
export type ImportRow = GoodRow | BadRow | null;

/** The error of an import with too many rows. */
export function tooManyRowsError(actual: number): BodyError {
  const limit = limits.import_rows;
  const message = `An import has at most ${limit} rows, good or bad; this one has more. Split it into several.`;
  return bodyError("limit_exceeded", message, { details: { limit, actual } });
}

/** How many rows' errors an import shows. */
export const MAX_ERRORS_SHOWN = 100;
/** A document of JSON that is no list is parsed whole, as every other JSON body is. */
const MAX_DOCUMENT_BYTES = limits.json_body_bytes;
/** So much of a file shows what it is. */
const HEAD_BYTES = 64 * 1024;

export interface FileRequest {
  readonly chunks: AsyncIterable<Uint8Array>;
  /** Of the request; empty if nothing names it. Where the file's bytes say otherwise, those count. */
  readonly mediaType: string;
  /** What examples must be; null: as the first valid one is. */
  readonly shape: ExampleShape | null;
  readonly options: ReadOptions;
}

export interface ReadFile {
  /** Throws a BodyError where the file cannot be read on. */
  readonly rows: AsyncGenerator<ImportRow>;
  /** Complete once the rows are read. */
  readonly report: ReadReport;
  /** The shape of the valid rows so far. */
  shape(): ExampleShape | null;
}

/** Reads the rows of a file, in order. */
export function readFileRows(request: FileRequest): ReadFile {
  const report = createReport();
  const context: Context = { ...request, report, readAnnotation: createAnnotationReader(namesOf(request), report) };
  return { rows: readRows(context), report, shape: () => context.shape };
}

/** What the readers of formats share. */
interface Context extends Omit<FileRequest, "shape"> {
  shape: ExampleShape | null;
  readonly report: ReadReport;
  readonly readAnnotation: AnnotationReader;
}

function namesOf({ options: { label_names, labels_separator } }: FileRequest): readonly string[] | null {
  return label_names === undefined ? null : splitLabels(label_names, labels_separator);
}

async function* readRows(context: Context): AsyncGenerator<ImportRow> {
  const { report, options, mediaType } = context;
  const mappingFailure = checkMapping(options);
  if (mappingFailure) throw new BodyError(mappingFailure);
  const declared = formatOfType(mediaType);
  const isApiJson = declared === "json" && options.format === undefined;
  const utf8 = toUtf8(withHead(context.chunks), {
    encoding: options.encoding ?? null,
    // What a program sends as JSON is UTF-8 (RFC 8259); what is not is a mistake of the program.
    fallback: isApiJson ? "utf-8" : "windows-1252",
    onDetect: (encoding) => {
      report.detected = { ...report.detected, encoding };
    },
  });
  try {
    const first = await utf8.next();
    const second = first.done ? first : await utf8.next();
    const blocks = [first, second].flatMap(({ done, value }) => (done ? [] : [value]));
    const bytes = restOf(blocks, utf8);
    const text = new TextDecoder().decode(blocks[0], { stream: true });
    const head = { text, isWhole: blocks[1] === undefined || blocks[1].length === 0 };
    const format = namedFormat(options.format) ?? detectFormat(head, declared);
    report.detected = { ...report.detected, format };
    for await (const rows of openFormat(format, context, bytes, head)) {
      for (const row of rows) yield row;
    }
  } finally {
    await utf8.return(undefined);
  }
}

/** The rows of each chunk together, because one `await` for each of millions of rows would take longer than reading them. */
type RowChunks = AsyncGenerator<Iterable<ImportRow>, void>;

function openFormat(format: FileFormat, context: Context, bytes: AsyncIterable<Uint8Array>, head: Head): RowChunks {
  if (format === "csv") return readCsv(context, bytes, head);
  if (format === "ndjson") return readNdjson(context, bytes);
  if (format === "fasttext") return readFastTextLines(context, bytes);
  if (format === "rasa") return readRasa(context, bytes);
  return head.text.trimStart().startsWith("[") ? readJsonList(context, bytes) : readDocument(context, bytes);
}

function* mapRows<T>(items: Iterable<T>, toRow: (item: T) => ImportRow): Generator<ImportRow> {
  for (const item of items) yield toRow(item);
}

function namedFormat(format: ReadOptions["format"]): FileFormat | undefined {
  if (format === "tsv") return "csv";
  return format === "jsonl" ? "ndjson" : format;
}

/** The same bytes, of which the first chunk is as large as is needed to see what they are. */
async function* withHead(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let head: Uint8Array[] | null = [];
  let size = 0;
  for await (const chunk of chunks) {
    if (head === null) {
      yield chunk;
      continue;
    }
    head.push(chunk);
    size += chunk.length;
    if (size < HEAD_BYTES) continue;
    yield Buffer.concat(head);
    head = null;
  }
  if (head !== null) yield Buffer.concat(head);
}

async function* restOf(blocks: readonly Uint8Array[], rest: AsyncGenerator<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* blocks;
  yield* rest;
}

/** Checks a row that was read, and counts what was done to it. */
function toCheckedRow(context: Context, read: Result<unknown> | null, line: number, path = ""): ImportRow {
  if (read === null) return null;
  if (!read.ok) return failedRow(line, read.failure);
  const { report, options } = context;
  const shape = context.shape ?? inferShape(Object(read.value));
  const parsed = readExample(read.value, shape, path, options.truncate);
  if (!parsed.ok) return failedRow(line, parsed.failure);
  context.shape = shape;
  const { example, labels, trimmed, truncated } = parsed.value;
  report.trimmed += trimmed;
  if (truncated) report.truncated++;
  return { row: { ...example, line }, labels, truncated };
}

function failedRow(line: number, { code, message, param }: Failure): BadRow {
  return { error: { line, code, message }, param };
}

function badRow(line: number, code: ErrorCode, message: string): BadRow {
  return { error: { line, code, message }, param: undefined };
}

const taskOf = ({ shape }: Context): Task | null => shape?.task ?? null;
const toAnnotatedRow = (context: Context, annotation: Annotation, line: number) =>
  toCheckedRow(context, context.readAnnotation(annotation, taskOf(context)), line);

async function* readNdjson(context: Context, bytes: AsyncIterable<Uint8Array>): RowChunks {
  const readRecord = createRecordReader(context.options, context.readAnnotation, context.report);
  let line = 0;
  const toRow = ({ text, utf8 }: Line) => jsonRow(context, readRecord, text, utf8, ++line, "A line");
  for await (const lines of splitLines(bytes, "\n")) yield mapRows(lines, toRow);
}

async function* readJsonList(context: Context, bytes: AsyncIterable<Uint8Array>): RowChunks {
  const readRecord = createRecordReader(context.options, context.readAnnotation, context.report);
  let index = 0;
  const toRow = ({ text, utf8 }: Element) => jsonRow(context, readRecord, text, utf8, ++index, "A row");
  for await (const elements of jsonElements(bytes)) yield mapRows(elements, toRow);
}

function jsonRow(
  context: Context,
  readRecord: RecordReader,
  text: string | null,
  utf8: boolean,
  line: number,
  what: "A line" | "A row",
): ImportRow {
  if (text === null) return badRow(line, "input_too_long", `${what} has at most ${limits.import_line_bytes} bytes.`);
  if (!utf8) return badRow(line, "invalid_json", "The line is not UTF-8, as JSON must be.");
  if (text.trim() === "" && what === "A line") return null;
  const json = parseJsonKeepingDigits(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
  if (!json.ok) {
    // Only JSON that is too large has figures.
    const isTooLarge = json.failure.details !== undefined;
    const notJson = () => `The line is not valid JSON: it breaks off at column ${findJsonError(text) + 1}.`;
    return badRow(line, "invalid_json", isTooLarge ? json.failure.message : notJson());
  }
  return toCheckedRow(context, readRecord(json.value, taskOf(context)), line);
}

/** A document of JSON: the API's own `{"examples": […]}`, or a tool's project. */
async function* readDocument(context: Context, bytes: AsyncIterable<Uint8Array>): RowChunks {
  const text = await readWhole(bytes);
  // The API's own examples are parsed one by one: all at once, they could take most of an isolate's memory.
  const list = findArray(text, "examples");
  const document = parseOrThrow(list === null ? text : `${text.slice(0, list.start)}[]${text.slice(list.end)}`);
  const project = readProject(document);
  let index = 0;
  if (project === null) {
    const { start } = checkExamples(document, list);
    yield mapRows(arrayElements(text, start), (span) => exampleRow(context, text.slice(span.start, span.end), index++));
    return;
  }
  const { options, report } = context;
  report.detected = { ...report.detected, system: project.system };
  const readAnnotation =
    project.labelNames === null || options.label_names !== undefined
      ? context.readAnnotation
      : createAnnotationReader(project.labelNames, report);
  const readRecord = createRecordReader(options, readAnnotation, report);
  yield mapRows(project.rows, (row) => toCheckedRow(context, readRecord(row, taskOf(context)), ++index));
}

function exampleRow(context: Context, text: string, index: number): ImportRow {
  const path = `examples[${index}]`;
  const failure = checkJsonShape(text);
  if (failure) return failedRow(index + 1, { ...failure, param: path });
  return toCheckedRow(context, ok(parseOrThrow(text)), index + 1, path);
}

function parseOrThrow(text: string): unknown {
  const parsed = parseJson(text);
  if (!parsed.ok) throw new BodyError(parsed.failure);
  return parsed.value;
}

async function readWhole(bytes: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = [];
  let actual = 0;
  for await (const chunk of bytes) {
    actual += chunk.length;
    if (actual > MAX_DOCUMENT_BYTES) {
      const message = `A JSON body has at most ${MAX_DOCUMENT_BYTES} bytes, unless it is one list. Send large data sets as NDJSON or CSV.`;
      throw bodyError("body_too_large", message, { details: { limit: MAX_DOCUMENT_BYTES, actual } });
    }
    chunks.push(chunk);
  }
  const whole = Buffer.concat(chunks);
  if (!isUtf8(whole)) throw new BodyError(notUtf8Failure);
  return whole.toString("utf8");
}

/** Checks the fields of the API's own body as those of every JSON body are. Returns where its list of examples is. */
function checkExamples(document: unknown, list: Span | null): Span {
  if (typeof document !== "object" || document === null || Array.isArray(document))
    throw bodyError("missing_parameter", 'The body must be an object: {"examples": […]}.', { param: "examples" });
  const { examples, ...unknownFields } = document as Record<string, unknown>;
  const [field] = Object.keys(unknownFields);
  const unknown = field === undefined ? undefined : formatPath([field]);
  if (unknown !== undefined)
    throw bodyError("unknown_parameter", `There is no parameter '${unknown}' here.`, { param: unknown });
  if (examples === undefined) throw bodyError("missing_parameter", "'examples' is required.", { param: "examples" });
  if (list === null) throw bodyError("invalid_parameter", "'examples' must be a list.", { param: "examples" });
  return list;
}

async function* readCsv(context: Context, bytes: AsyncIterable<Uint8Array>, head: Head): RowChunks {
  const { shape, options, mediaType, report } = context;
  if (shape !== null && shape.modality !== "text")
    throw bodyError("modality_mismatch", "A CSV holds texts. Send embeddings as NDJSON.", { param: "content-type" });
  const task = taskOf(context) ?? inferTask(readFirstNames(head));
  const { delimiter, hasSeparatorLine } = detectDelimiter(head, mediaType, task, options);
  report.detected = { ...report.detected, delimiter };
  const table = createTableReader(delimiter, task, options, report);
  let isSeparatorLine = hasSeparatorLine;
  const toRow = (record: CsvRecord) => {
    const row = isSeparatorLine ? null : table.read(record);
    isSeparatorLine = false;
    if (row === null) return null;
    if ("error" in row) return badRow(row.line, "invalid_csv", row.error);
    return toAnnotatedRow(context, row.annotation, row.line);
  };
  for await (const records of csvRecords(splitLines(bytes, "any"), delimiter)) yield mapRows(records, toRow);
  table.end();
}

async function* readFastTextLines(context: Context, bytes: AsyncIterable<Uint8Array>): RowChunks {
  let line = 0;
  const toRow = ({ text, utf8 }: Line) => {
    line++;
    if (text === null) return badRow(line, "input_too_long", `A line has at most ${limits.import_line_bytes} bytes.`);
    if (!utf8) return badRow(line, "invalid_parameter", "The line is not UTF-8; save it as UTF-8.");
    return text.trim() === "" ? null : toAnnotatedRow(context, readFastText(text), line);
  };
  for await (const lines of splitLines(bytes, "\n")) yield mapRows(lines, toRow);
}

async function* readRasa(context: Context, bytes: AsyncIterable<Uint8Array>): RowChunks {
  const { report, options, readAnnotation } = context;
  report.detected = { ...report.detected, system: "rasa" };
  const readRecord = createRecordReader(options, readAnnotation, report);
  for await (const rows of rasaRows(splitLines(bytes, "any")))
    yield mapRows(rows, (row) =>
      "error" in row
        ? badRow(row.line, "invalid_parameter", row.error)
        : toCheckedRow(context, readRecord(row.row, taskOf(context)), row.line),
    );
}
