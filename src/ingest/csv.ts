/**
 * Reads a CSV as a stream (RFC 4180; any line breaks, also mixed). A record that cannot be read is an error of that record
 * alone: reading continues at the next line. So a quote that is never closed costs at most the size of one record.
 */
import { limits } from "../core/limits.ts";
import type { Line } from "./lines.ts";

/** A record with the line on which it begins, from 1: its fields, or why they cannot be read. */
export type CsvRecord =
  | { readonly line: number; readonly fields: readonly string[] }
  | { readonly line: number; readonly error: string };

/** A record of which not all lines may have been read. */
interface OpenRecord {
  readonly line: number;
  readonly fields: string[];
  /** The content so far of a quoted field that continues in the next line. */
  quoted: string | null;
  bytes: number;
  utf8: boolean;
}

/** Yields null for an empty line. */
export async function* csvRecords(chunks: AsyncIterable<Iterable<Line>>): AsyncGenerator<CsvRecord | null> {
  let openRecord: OpenRecord | null = null;
  let lineNumber = 0;
  for await (const lines of chunks) {
    for (const read of lines) {
      lineNumber++;
      const text = lineNumber === 1 ? (read.text?.replace(/^\uFEFF/, "") ?? null) : read.text;
      if (openRecord === null && text === "") {
        yield null;
        continue;
      }
      const record: OpenRecord = openRecord ?? { line: lineNumber, fields: [], quoted: null, bytes: 0, utf8: true };
      const tooLong = record.bytes + read.bytes > limits.import_line_bytes;
      record.bytes += read.bytes + read.lineBreak.length;
      record.utf8 &&= read.utf8;
      const state = tooLong || text === null ? "too long" : readLine(record, text, read.lineBreak);
      openRecord = state === "open" ? record : null;
      if (state === "whole" && record.utf8) yield { line: record.line, fields: record.fields };
      else if (state !== "open") yield badRecord(record, lineNumber, state);
    }
  }
  if (openRecord !== null) yield badRecord(openRecord, lineNumber, "open");
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
function readLine(record: OpenRecord, text: string, lineBreak: string): "whole" | "open" | "broken" {
  for (let start = 0, end = 0; ; start = end + 1) {
    const isContinued = record.quoted !== null;
    if (isContinued || text[start] === '"') {
      const contentStart = isContinued ? start : start + 1;
      const quote = findClosingQuote(text, contentStart);
      const part = text.slice(contentStart, quote);
      const value = (record.quoted ?? "") + (part.includes('""') ? part.replaceAll('""', '"') : part);
      record.quoted = quote === text.length ? value + lineBreak : null;
      if (record.quoted !== null) return "open";
      end = indexOrEnd(text, ",", quote + 1);
      const isClosed = end === quote + 1;
      // A stray quote may have opened a field that spans lines. Those must not become one row.
      if (!isClosed && isContinued) return "broken";
      record.fields.push(isClosed ? value : text.slice(start, end));
    } else {
      end = indexOrEnd(text, ",", start);
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
