/**
 * The records of a CSV as it comes (RFC 4180; any line breaks, also mixed). What cannot be read costs that record alone:
 * reading goes on at the next line, so that a quote which is never closed takes at most a record's size along.
 */
import { limits } from "../core/limits.ts";
import type { Line } from "./lines.ts";

/** A record by the line on which it begins, from 1: its fields, or why they cannot be read. */
export type CsvRecord =
  | { readonly line: number; readonly fields: readonly string[] }
  | { readonly line: number; readonly problem: string };

/** A record while its lines are read. */
interface Begun {
  readonly line: number;
  readonly fields: string[];
  /** What a quoted field that goes on in the next line holds so far. */
  quoted: string | null;
  bytes: number;
  utf8: boolean;
}

/** null stands for an empty line. */
export async function* csvRecords(chunks: AsyncIterable<Iterable<Line>>): AsyncGenerator<CsvRecord | null> {
  let begun: Begun | null = null;
  let line = 0;
  for await (const lines of chunks) {
    for (const read of lines) {
      line++;
      const text = line === 1 ? (read.text?.replace(/^\uFEFF/, "") ?? null) : read.text;
      if (begun === null && text === "") {
        yield null;
        continue;
      }
      const record: Begun = begun ?? { line, fields: [], quoted: null, bytes: 0, utf8: true };
      const tooLong = record.bytes + read.bytes > limits.import_line_bytes;
      record.bytes += read.bytes + read.lineBreak.length;
      record.utf8 &&= read.utf8;
      const state = tooLong || text === null ? "too long" : readLine(record, text, read.lineBreak);
      begun = state === "open" ? record : null;
      if (state === "whole" && record.utf8) yield { line: record.line, fields: record.fields };
      else if (state !== "open") yield bad(record, line, state);
    }
  }
  if (begun !== null) yield bad(begun, line, "open");
}

function bad({ line }: Begun, last: number, state: "whole" | "open" | "broken" | "too long"): CsvRecord {
  const where = last === line ? `line ${line}` : `lines ${line} to ${last}`;
  const what = {
    whole: "is not UTF-8; save it as UTF-8",
    open: "has a quote that is never closed; double a quote inside quotes",
    broken: "has quotes that do not fit; double a quote inside quotes",
    "too long": `has more than ${limits.import_line_bytes} bytes${last === line ? "" : "; a quote may not be closed"}`,
  };
  return { line, problem: `The row on ${where} ${what[state]}.` };
}

/** Reads a line's fields into its record, which is whole then, or goes on in the next line, or cannot be read. */
function readLine(record: Begun, text: string, lineBreak: string): "whole" | "open" | "broken" {
  for (let start = 0, end = 0; ; start = end + 1) {
    const goesOn = record.quoted !== null;
    if (goesOn || text[start] === '"') {
      const from = goesOn ? start : start + 1;
      const quote = closingQuote(text, from);
      const part = text.slice(from, quote);
      const held = (record.quoted ?? "") + (part.includes('""') ? part.replaceAll('""', '"') : part);
      record.quoted = quote === text.length ? held + lineBreak : null;
      if (record.quoted !== null) return "open";
      end = find(text, ",", quote + 1);
      const closed = end === quote + 1;
      // A stray quote may have opened a field that took lines along, which must not become one row.
      if (!closed && goesOn) return "broken";
      record.fields.push(closed ? held : text.slice(start, end));
    } else {
      end = find(text, ",", start);
      record.fields.push(text.slice(start, end));
    }
    if (end === text.length) return "whole";
  }
}

/** The place of the first quote that is not one of two, or the text's end. */
function closingQuote(text: string, from: number): number {
  let at = find(text, '"', from);
  while (text[at + 1] === '"') at = find(text, '"', at + 2);
  return at;
}

function find(text: string, what: string, from: number): number {
  const at = text.indexOf(what, from);
  return at < 0 ? text.length : at;
}
