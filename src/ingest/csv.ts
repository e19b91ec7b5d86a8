/**
 * Reads a CSV (RFC 4180; any separator, any line breaks, also mixed). A record that cannot be read is an error of that
 * record alone: reading continues at the next line. So a quote that is never closed costs at most the size of one record.
 */
import type { Delimiter } from "../api/imports.ts";
import { limits } from "../core/limits.ts";
import type { Line } from "./lines.ts";

/** A record with the line on which it begins, from 1: its fields, or why they cannot be read. Null for an empty line. */
export type CsvRecord =
  | { readonly line: number; readonly fields: readonly string[] }
  | { readonly line: number; readonly error: string }
  | null;

/** A record of which not all lines may have been read. */
interface OpenRecord {
  readonly line: number;
  readonly fields: string[];
  /** The content so far of a quoted field that continues in the next line. */
  quoted: string | null;
  bytes: number;
  utf8: boolean;
}

export interface CsvReader {
  /** The record that this line ends, if it ends one. */
  add(line: Line): CsvRecord | undefined;
  /** The record that the end of the file cuts off, if it does. */
  end(): CsvRecord | undefined;
}

export function createCsvReader(delimiter: Delimiter): CsvReader {
  let openRecord: OpenRecord | null = null;
  let lineNumber = 0;
  return {
    add({ text, bytes, lineBreak, utf8 }) {
      lineNumber++;
      if (openRecord === null && text === "") return null;
      const record = openRecord ?? { line: lineNumber, fields: [], quoted: null, bytes: 0, utf8: true };
      const tooLong = record.bytes + bytes > limits.import_line_bytes;
      record.bytes += bytes + lineBreak.length;
      record.utf8 &&= utf8;
      const state = tooLong || text === null ? "too long" : readLine(record, text, lineBreak, delimiter);
      openRecord = state === "open" ? record : null;
      if (state === "open") return undefined;
      if (state === "whole" && record.utf8) return { line: record.line, fields: record.fields };
      return badRecord(record, lineNumber, state);
    },
    end: () => (openRecord === null ? undefined : badRecord(openRecord, lineNumber, "open")),
  };
}

/** The records of each chunk of lines together. The caller reads them before it asks for the next. */
export async function* csvRecords(
  chunks: AsyncIterable<Iterable<Line>>,
  delimiter: Delimiter,
): AsyncGenerator<Iterable<CsvRecord>, void> {
  const reader = createCsvReader(delimiter);
  function* readLines(lines: Iterable<Line>): Generator<CsvRecord> {
    for (const line of lines) {
      const record = reader.add(line);
      if (record !== undefined) yield record;
    }
  }
  for await (const lines of chunks) yield readLines(lines);
  const last = reader.end();
  if (last !== undefined) yield [last];
}

function badRecord({ line }: OpenRecord, lastLine: number, state: "whole" | "open" | "broken" | "too long"): CsvRecord {
  const location = lastLine === line ? `line ${line}` : `lines ${line} to ${lastLine}`;
  const reasons = {
    whole: "is not UTF-8; save it as UTF-8",
    open: "has a quote that is never closed; double a quote inside quotes",
    broken: "has quotes that do not fit; double a quote inside quotes",
    "too long": `has more than ${limits.import_line_bytes} bytes${lastLine === line ? "" : "; a quote may not be closed"}`,
  };
  return { line, error: `The row on ${location} ${reasons[state]}.` };
}

/** Reads a line's fields into its record. The record is then whole, or open (it continues in the next line), or broken. */
function readLine(
  record: OpenRecord,
  text: string,
  lineBreak: string,
  delimiter: Delimiter,
): "whole" | "open" | "broken" {
  for (let start = 0, end = 0; ; start = end + 1) {
    const isContinued = record.quoted !== null;
    if (isContinued || text[start] === '"') {
      const contentStart = isContinued ? start : start + 1;
      const quote = findClosingQuote(text, contentStart);
      const part = text.slice(contentStart, quote);
      const value = (record.quoted ?? "") + (part.includes('""') ? part.replaceAll('""', '"') : part);
      record.quoted = quote === text.length ? value + lineBreak : null;
      if (record.quoted !== null) return "open";
      end = indexOrEnd(text, delimiter, quote + 1);
      const isClosed = end === quote + 1;
      // A stray quote may have opened a field that spans lines. Those must not become one row.
      if (!isClosed && isContinued) return "broken";
      record.fields.push(isClosed ? value : text.slice(start, end));
    } else {
      end = indexOrEnd(text, delimiter, start);
      record.fields.push(text.slice(start, end));
    }
    if (end === text.length) return "whole";
  }
}

/** The index of the first quote that is not doubled, or the text's length. */
function findClosingQuote(text: string, fromIndex: number): number {
  let index = indexOrEnd(text, '"', fromIndex);
  while (text[index + 1] === '"') index = indexOrEnd(text, '"', index + 2);
  return index;
}

function indexOrEnd(text: string, search: string, fromIndex: number): number {
  const index = text.indexOf(search, fromIndex);
  return index < 0 ? text.length : index;
}
