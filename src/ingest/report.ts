/** What a reader finds out about a file, filled in while it is read. */
import type { Detected } from "../api/imports.ts";

const MAX_IGNORED_COLUMNS = 100;

export interface ReadReport {
  detected: Detected;
  /** Names of columns and fields that are no part of an example. */
  readonly ignoredColumns: ReadonlySet<string>;
  ignore(column: string): void;
  /** Rows that the file itself marks as no example, by the reason. */
  readonly skipped: ReadonlyMap<string, number>;
  skip(reason: string): void;
  trimmed: number;
  truncated: number;
  /** Labels that were whole numbers in the file. */
  numericLabels: number;
}

export function createReport(): ReadReport {
  const ignoredColumns = new Set<string>();
  const skipped = new Map<string, number>();
  return {
    detected: { format: "ndjson", system: null, encoding: "utf-8", delimiter: null, header: null, columns: {} },
    ignoredColumns,
    ignore(column) {
      if (ignoredColumns.size < MAX_IGNORED_COLUMNS) ignoredColumns.add(column);
    },
    skipped,
    skip: (reason) => void skipped.set(reason, (skipped.get(reason) ?? 0) + 1),
    trimmed: 0,
    truncated: 0,
    numericLabels: 0,
  };
}
