/** What a file is, by its first block: its format, and the separator of its columns. */
import { type Delimiter, delimiters, type FileFormat, type ImportType, type ReadOptions } from "../api/imports.ts";
import type { Task } from "../core/head.ts";
import { parseJson } from "./body.ts";
import { findTableColumns } from "./columns.ts";
import { createCsvReader } from "./csv.ts";
import { isObject, readProject } from "./systems.ts";

/** The first block of a file. */
export interface Head {
  readonly text: string;
  /** Whether there is nothing after it. */
  readonly isWhole: boolean;
}

const formatByType: Readonly<Record<string, FileFormat>> = {
  "application/json": "json",
  "application/x-ndjson": "ndjson",
  "application/ndjson": "ndjson",
  "application/jsonl": "ndjson",
  "text/csv": "csv",
  "text/tab-separated-values": "csv",
  "application/yaml": "rasa",
} satisfies Readonly<Record<ImportType, FileFormat>>;

/** The format that a media type names; undefined if an import does not take it. */
export function formatOfType(mediaType: string): FileFormat | undefined {
  return Object.hasOwn(formatByType, mediaType) ? formatByType[mediaType] : undefined;
}

/** The format of a file. Where its first block leaves it open, what its media type says; and else NDJSON or CSV. */
export function detectFormat({ text, isWhole }: Head, declared: FileFormat | undefined): FileFormat {
  const start = text.trimStart();
  if (start === "") return declared ?? "ndjson";
  const first = start[0];
  if (first === "{" || first === "[") return detectJson(start, isWhole, declared);
  if (/^__label__\S/.test(start)) return "fasttext";
  if (/^(#|---|version|nlu|- )/.test(start) && /^(nlu:|\s*- intent:)/m.test(start)) return "rasa";
  return declared ?? "csv";
}

/** Text that begins like JSON: a document, or a document a line. */
function detectJson(start: string, isWhole: boolean, declared: FileFormat | undefined): FileFormat {
  const end = start.indexOf("\n");
  const firstLine = (end < 0 ? start : start.slice(0, end)).trim();
  const hasMore = end >= 0 && (start.slice(end).trim() !== "" || !isWhole);
  const parsed = end >= 0 || isWhole ? parseJson(firstLine) : null;
  if (parsed?.ok) {
    if (hasMore) return "ndjson";
    // One object alone is a document, or one line.
    const isDocument = declared === "json" || !isObject(parsed.value) || readProject(parsed.value) !== null;
    return isDocument || Array.isArray(parsed.value.examples) ? "json" : "ndjson";
  }
  // A line of a CSV may begin so: "[spam] buy now".
  if (declared === "csv" && !/^[[{]\s*(["{[]|$)/.test(firstLine)) return "csv";
  if (start.startsWith("[") || declared === "json") return "json";
  return firstLine === "{" && declared !== "ndjson" ? "json" : "ndjson";
}

const delimiterNames: Readonly<Record<string, Delimiter>> = { comma: ",", semicolon: ";", tab: "\t", pipe: "|" };

/** Excel's way to name the separator, on a line of its own before the header. */
const SEPARATOR_LINE = /^"?sep=([,;\t|])"?\r?(\n|\r|$)/i;

/** The names on the first line, whatever separates them. */
export function readFirstNames({ text }: Head): string[] {
  return (text.replace(SEPARATOR_LINE, "").split(/[\r\n]/, 1)[0] ?? "")
    .split(/[,;\t|]/)
    .map((name) => name.replaceAll('"', ""));
}

/** How many records show which separator a file has. */
const MAX_RECORDS = 20;

/** The separator of a CSV, and whether its first line does nothing but name it. */
export function detectDelimiter(
  head: Head,
  mediaType: string,
  task: Task,
  options: ReadOptions,
): { delimiter: Delimiter; hasSeparatorLine: boolean } {
  const named = SEPARATOR_LINE.exec(head.text);
  const hasSeparatorLine = named !== null;
  const text = hasSeparatorLine ? head.text.slice(named[0].length) : head.text;
  const requested = options.delimiter && (delimiterNames[options.delimiter] ?? (options.delimiter as Delimiter));
  const delimiter = requested ?? (named?.[1] as Delimiter | undefined);
  if (delimiter !== undefined) return { delimiter, hasSeparatorLine };
  const isTabbed = options.format === "tsv" || mediaType === "text/tab-separated-values";
  let best: { delimiter: Delimiter; score: number } = { delimiter: isTabbed ? "\t" : ",", score: 0 };
  for (const candidate of delimiters) {
    const score = scoreDelimiter(text, head.isWhole, candidate, task, options);
    if (score > best.score) best = { delimiter: candidate, score };
  }
  return { delimiter: best.delimiter, hasSeparatorLine };
}

/** 0 where it separates nothing. Rows of equal length speak for a separator, and still more so columns that are known. */
function scoreDelimiter(
  text: string,
  isWhole: boolean,
  delimiter: Delimiter,
  task: Task,
  options: ReadOptions,
): number {
  const reader = createCsvReader(delimiter);
  const rows: (readonly string[])[] = [];
  const lines = text.split(/\r\n|\n|\r/);
  // The last line may be cut off.
  if (!isWhole) lines.pop();
  for (const line of lines) {
    const record = reader.add({ text: line, lineBreak: "\n", bytes: line.length, utf8: true });
    if (record && "fields" in record) rows.push(record.fields);
    if (rows.length === MAX_RECORDS) break;
  }
  const width = rows[0]?.length ?? 0;
  if (width < 2) return 0;
  const isKnown = findTableColumns(rows[0] ?? [], task, options).ok;
  return (isKnown ? 2 : 0) + rows.filter((row) => row.length === width).length / rows.length;
}
