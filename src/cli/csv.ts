/** Reads a CSV of labelled texts for the demo, and holds some rows out of it. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { parse } from "csv-parse";
import { UsageError } from "../lib/usage-error.ts";
import { truncate } from "./terminal.ts";

export interface HeldOutRow {
  readonly text: string;
  readonly label: string;
  /** The row's bytes in the file: from the first offset to before the second. */
  readonly bytes: readonly [number, number];
}

export interface CsvSummary {
  readonly rows: number;
  readonly labels: number;
  /** Up to five rows, each of another label. Each text occurs only once in the file. */
  readonly heldOutRows: readonly HeldOutRow[];
}

/** Reads a CSV once, as a stream. Throws a UsageError if no head could be trained on it. */
export async function inspectCsv(file: string): Promise<CsvSummary> {
  const fileStats = await stat(file).catch(() => null);
  if (fileStats === null) throw new UsageError(`There is no file '${file}'.`);
  if (!fileStats.isFile()) throw new UsageError(`'${file}' is not a file.`);
  if (fileStats.size === 0) throw new UsageError(`'${file}' is empty.`);
  const parser = createReadStream(file).pipe(
    parse({
      bom: true,
      columns: checkHeader,
      info: true,
      // A file may mix line breaks, as it may in an import.
      record_delimiter: ["\r\n", "\n", "\r"],
      relax_column_count: true,
      skip_empty_lines: true,
      skip_records_with_error: true,
    }),
  );
  const labels = new Map<string, number>();
  const texts = new Map<string, number>();
  const candidates: HeldOutRow[] = [];
  let rows = 0;
  let start = 0;
  for await (const { record, info } of parser as AsyncIterable<{
    record: { text?: string; label?: string };
    info: { bytes: number };
  }>) {
    const bytes = [start, info.bytes] as const;
    start = info.bytes;
    const { text = "", label = "" } = record;
    if (text.trim() === "" || label === "") continue;
    rows++;
    const normalised = text.trim().toLowerCase();
    texts.set(normalised, (texts.get(normalised) ?? 0) + 1);
    const count = (labels.get(label) ?? 0) + 1;
    labels.set(label, count);
    // The third of its label: at least two others remain for training.
    if (count === 3 && !/[\r\n]/.test(text)) candidates.push({ text, label, bytes });
  }
  if (rows === 0) throw new UsageError(`'${file}' has no rows with both a text and a label.`);
  if (labels.size === 1) {
    throw new UsageError(
      `All ${rows} rows of '${file}' have the label '${[...labels.keys()][0]}'; a head needs at least 2.`,
    );
  }
  const unique = candidates.filter(({ text }) => texts.get(text.trim().toLowerCase()) === 1);
  const heldOutCount = Math.min(5, Math.max(1, Math.floor(rows / 10)), unique.length);
  const heldOutRows = Array.from(
    { length: heldOutCount },
    (_, i) => unique[Math.floor((i * unique.length) / heldOutCount)] as HeldOutRow,
  );
  return { rows, labels: labels.size, heldOutRows };
}

function checkHeader(header: readonly string[]): string[] {
  const columns = header.map((column) => column.trim().toLowerCase());
  const missing = ["text", "label"].filter((column) => !columns.includes(column)).map((column) => `'${column}'`);
  if (missing.length === 0) return columns;
  const columnNames = header.slice(0, 6).map((column) => `'${truncate(column, 30)}'`);
  throw new UsageError(
    `The CSV's first line must name the columns 'text' and 'label'; it lacks ${missing.join(" and ")} and has ${columnNames.join(", ")}.`,
  );
}

/** The file's bytes without the given rows. Their line breaks stay, so that line numbers in messages are those of the file. */
export async function* readWithoutRows(file: string, rows: readonly HeldOutRow[]): AsyncGenerator<Uint8Array> {
  let position = 0;
  for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
    const chunkStart = position;
    position += chunk.length;
    const overlapping = rows.filter(({ bytes: [from, to] }) => from < position && to > chunkStart);
    if (overlapping.length === 0) yield chunk;
    else {
      const isInside = (offset: number) => overlapping.some(({ bytes: [from, to] }) => offset >= from && offset < to);
      yield chunk.filter((byte, i) => byte === 10 || byte === 13 || !isInside(chunkStart + i));
    }
  }
}
