/**
 * Reads a file of examples, of any format, as rows: valid, invalid or empty. The file is never whole in memory, but for a
 * document of JSON that is no list.
 */
import type { FileFormat, ReadOptions } from "../api/imports.ts";
import { limits } from "../core/limits.ts";
import { createAnnotationReader, splitLabels } from "./annotation.ts";
import { BodyError, bodyError } from "./body.ts";
import {
  badRow,
  type FileRequest,
  type ImportRow,
  mapRows,
  type ReaderContext,
  type RowChunks,
  taskOf,
  toAnnotatedRow,
  toCheckedRow,
} from "./checked-row.ts";
import { checkMapping, inferTask } from "./columns.ts";
import { type CsvRecord, csvRecords } from "./csv.ts";
import { detectDelimiter, detectFormat, formatOfType, type Head, readFirstNames } from "./detect.ts";
import { toUtf8 } from "./encoding.ts";
import type { ExampleShape } from "./example.ts";
import { readFastText } from "./fasttext.ts";
import { readDocument, readJsonList, readNdjson } from "./json-rows.ts";
import { type Line, splitLines } from "./lines.ts";
import { rasaRows } from "./rasa.ts";
import { createRecordReader } from "./records.ts";
import { createReport, type ReadReport } from "./report.ts";
import { createTableReader } from "./tables.ts";

/** The error of an import with too many rows. */
export function tooManyRowsError(actual: number): BodyError {
  const limit = limits.import_rows;
  const message = `An import has at most ${limit} rows, good or bad; this one has more. Split it into several.`;
  return bodyError("limit_exceeded", message, { details: { limit, actual } });
}

/** How many rows' errors an import shows. */
export const MAX_ERRORS_SHOWN = 100;
/** So much of a file shows what it is. */
const HEAD_BYTES = 64 * 1024;

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
  const context: ReaderContext = {
    ...request,
    report,
    readAnnotation: createAnnotationReader(namesOf(request), report),
  };
  return { rows: readRows(context), report, shape: () => context.shape };
}

function namesOf({ options: { label_names, labels_separator } }: FileRequest): readonly string[] | null {
  return label_names === undefined ? null : splitLabels(label_names, labels_separator);
}

async function* readRows(context: ReaderContext): AsyncGenerator<ImportRow> {
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
    const bytes = concatenate(blocks, utf8);
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

function openFormat(
  format: FileFormat,
  context: ReaderContext,
  bytes: AsyncIterable<Uint8Array>,
  head: Head,
): RowChunks {
  if (format === "csv") return readCsv(context, bytes, head);
  if (format === "ndjson") return readNdjson(context, bytes);
  if (format === "fasttext") return readFastTextLines(context, bytes);
  if (format === "rasa") return readRasa(context, bytes);
  return head.text.trimStart().startsWith("[") ? readJsonList(context, bytes) : readDocument(context, bytes);
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

async function* concatenate(
  first: readonly Uint8Array[],
  others: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  yield* first;
  yield* others;
}

async function* readCsv(context: ReaderContext, bytes: AsyncIterable<Uint8Array>, head: Head): RowChunks {
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

async function* readFastTextLines(context: ReaderContext, bytes: AsyncIterable<Uint8Array>): RowChunks {
  let line = 0;
  const toRow = ({ text, utf8 }: Line) => {
    line++;
    if (text === null) return badRow(line, "input_too_long", `A line has at most ${limits.import_line_bytes} bytes.`);
    if (!utf8) return badRow(line, "invalid_parameter", "The line is not UTF-8; save it as UTF-8.");
    return text.trim() === "" ? null : toAnnotatedRow(context, readFastText(text), line);
  };
  for await (const lines of splitLines(bytes, "\n")) yield mapRows(lines, toRow);
}

async function* readRasa(context: ReaderContext, bytes: AsyncIterable<Uint8Array>): RowChunks {
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
