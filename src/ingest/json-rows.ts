/** Reads rows of JSON: one a line, the elements of a list, or those of a document, which is the API's own or a tool's. */
import { isUtf8 } from "node:buffer";
import { formatPath } from "../api/validation.ts";
import { ok } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { arrayElements, findArray, type Span } from "../lib/json-shape.ts";
import { createAnnotationReader } from "./annotation.ts";
import { BodyError, bodyError, checkJsonShape, notUtf8Failure, parseJson, parseJsonKeepingDigits } from "./body.ts";
import {
  badRow,
  failedRow,
  type ImportRow,
  mapRows,
  type ReaderContext,
  type RowChunks,
  taskOf,
  toCheckedRow,
} from "./checked-row.ts";
import { type Element, jsonElements } from "./elements.ts";
import { findJsonError } from "./json-error.ts";
import { type Line, splitLines } from "./lines.ts";
import { createRecordReader, type RecordReader } from "./records.ts";
import { readProject } from "./systems.ts";

/** A document of JSON that is no list is parsed whole, as every other JSON body is. */
const MAX_DOCUMENT_BYTES = limits.json_body_bytes;

export async function* readNdjson(context: ReaderContext, bytes: AsyncIterable<Uint8Array>): RowChunks {
  const readRecord = createRecordReader(context.options, context.readAnnotation, context.report);
  let line = 0;
  const toRow = ({ text, utf8 }: Line) => jsonRow(context, readRecord, text, utf8, ++line, "A line");
  for await (const lines of splitLines(bytes, "\n")) yield mapRows(lines, toRow);
}

export async function* readJsonList(context: ReaderContext, bytes: AsyncIterable<Uint8Array>): RowChunks {
  const readRecord = createRecordReader(context.options, context.readAnnotation, context.report);
  let index = 0;
  const toRow = ({ text, utf8 }: Element) => jsonRow(context, readRecord, text, utf8, ++index, "A row");
  for await (const elements of jsonElements(bytes)) yield mapRows(elements, toRow);
}

function jsonRow(
  context: ReaderContext,
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
export async function* readDocument(context: ReaderContext, bytes: AsyncIterable<Uint8Array>): RowChunks {
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

function exampleRow(context: ReaderContext, text: string, index: number): ImportRow {
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
