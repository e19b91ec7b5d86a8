/** Reads the rows of a CSV as examples. */
import type { Delimiter, ReadOptions } from "../api/imports.ts";
import type { Failure } from "../core/failure.ts";
import { type Task, targetField } from "../core/head.ts";
import { type Annotation, splitLabels } from "./annotation.ts";
import { type BodyError, bodyError } from "./body.ts";
import { findTableColumns, quoteNames, shortName, type TableColumns } from "./columns.ts";
import type { CsvRecord } from "./csv.ts";
import type { ReadReport } from "./report.ts";

/** A row: an annotation, an error, or null where it is empty or the header. */
export type TableRow =
  | { readonly line: number; readonly annotation: Annotation }
  | { readonly line: number; readonly error: string }
  | null;

/** Reads records one after another. Throws a BodyError if the header does not fit. */
export interface TableReader {
  read(record: CsvRecord): TableRow;
  /** Throws if there was no header. */
  end(): void;
}

export function createTableReader(
  delimiter: Delimiter,
  task: Task,
  options: ReadOptions,
  report: ReadReport,
): TableReader {
  let columns: TableColumns | null = null;
  let width = 0;
  const trim = (cell: string) => {
    const trimmed = cell.trim();
    if (trimmed.length !== cell.length) report.trimmed++;
    return trimmed;
  };
  const toAnnotation = (fields: readonly string[], { text, target, id }: TableColumns): Annotation => {
    const textCell = fields[text];
    const targetCell = fields[target];
    const idCell = id === null ? undefined : fields[id];
    return {
      ...(idCell === undefined ? {} : { id: trim(idCell) }),
      ...(textCell === undefined ? {} : { text: trim(textCell) }),
      ...(targetCell === undefined ? {} : readTarget(trim(targetCell), task, options.labels_separator)),
    };
  };
  return {
    read(record) {
      if (record === null) return null;
      const first = columns === null;
      if ("error" in record) {
        if (first) throw bodyError("invalid_csv", `The CSV's header cannot be read. ${record.error}`);
        return record;
      }
      columns ??= openTable(record.fields, delimiter, task, options, report);
      if (first) width = record.fields.length;
      if (first && columns.header) return null;
      // Usually there is an unquoted separator, so the fields are shifted.
      if (record.fields.length > width && record.fields.slice(width).some((field) => field.trim() !== "")) {
        const error = `The row has ${record.fields.length} fields where the first has ${width}. Quote what holds ${nameOf(delimiter)}.`;
        return { line: record.line, error };
      }
      return { line: record.line, annotation: toAnnotation(record.fields, columns) };
    },
    end() {
      if (columns === null) openTable([], delimiter, task, options, report);
    },
  };
}

/** A field that a short row lacks is missing. */
function readTarget(cell: string, task: Task, separator: string | undefined): Pick<Annotation, "labels" | "value"> {
  if (task === "regression") return { value: cell };
  return { labels: task === "multi_label" ? splitLabels(cell, separator) : cell };
}

const delimiterNames = { ",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar" } as const;
const nameOf = (delimiter: Delimiter) => delimiterNames[delimiter];

function openTable(
  first: readonly string[],
  delimiter: Delimiter,
  task: Task,
  options: ReadOptions,
  report: ReadReport,
): TableColumns {
  const result = findTableColumns(first, task, options);
  if (!result.ok) throw headerError(result.failure, first, delimiter, targetField[task]);
  const columns = result.value;
  const used = {
    text: columns.text,
    [targetField[task]]: columns.target,
    ...(columns.id === null ? {} : { id: columns.id }),
  };
  const nameAt = (index: number) => (columns.header && shortName((first[index] ?? "").trim())) || index + 1;
  report.detected = {
    ...report.detected,
    header: columns.header,
    columns: Object.fromEntries(Object.entries(used).map(([field, index]) => [field, nameAt(index)])),
  };
  const isUsed = new Set<number>(Object.values(used));
  for (const index of first.keys()) if (!isUsed.has(index)) report.ignore(String(nameAt(index)));
  return columns;
}

/** Says what the first line has, and what would be accepted. */
function headerError(
  { message, param }: Failure,
  first: readonly string[],
  delimiter: Delimiter,
  target: string,
): BodyError {
  const names = first.map((name) => name.trim());
  const firstLine =
    names.length === 0
      ? "The CSV has no line"
      : `The CSV's first line has ${quoteNames(names)}, separated by ${nameOf(delimiter)}`;
  const accepted = `Accepted is a header with 'text' and '${target}' or their usual names, or a mapping: by names, such as ?text=body&${target}=category, or by positions where there is no header, such as ?text=1&${target}=2. '?delimiter=' sets another separator.`;
  return bodyError("invalid_csv", `${firstLine}. ${message} ${accepted}`, {
    ...(param === undefined ? {} : { param }),
    details: { columns: names.slice(0, 100).map(shortName), delimiter },
  });
}
