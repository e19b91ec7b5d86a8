/** Rows of a file, checked as examples. */
import type { RowError, StagedExample } from "../api/examples.ts";
import type { ReadOptions } from "../api/imports.ts";
import type { ErrorCode, Failure, Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import type { Annotation, AnnotationReader } from "./annotation.ts";
import { type ExampleShape, inferShape, readExample } from "./example.ts";
import type { ReadReport } from "./report.ts";

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

export interface FileRequest {
  readonly chunks: AsyncIterable<Uint8Array>;
  /** Of the request; empty if nothing names it. Where the file's bytes say otherwise, those count. */
  readonly mediaType: string;
  /** What examples must be; null: as the first valid one is. */
  readonly shape: ExampleShape | null;
  readonly options: ReadOptions;
}

/** What the readers of formats share. */
export interface ReaderContext extends Omit<FileRequest, "shape"> {
  shape: ExampleShape | null;
  readonly report: ReadReport;
  readonly readAnnotation: AnnotationReader;
}

/** The rows of each chunk together, because one `await` for each of millions of rows would take longer than reading them. */
export type RowChunks = AsyncGenerator<Iterable<ImportRow>, void>;

export function* mapRows<T>(items: Iterable<T>, toRow: (item: T) => ImportRow): Generator<ImportRow> {
  for (const item of items) yield toRow(item);
}

/** Checks a row that was read, and counts what was done to it. */
export function toCheckedRow(context: ReaderContext, read: Result<unknown> | null, line: number, path = ""): ImportRow {
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

export function failedRow(line: number, { code, message, param }: Failure): BadRow {
  return { error: { line, code, message }, param };
}

export function badRow(line: number, code: ErrorCode, message: string): BadRow {
  return { error: { line, code, message }, param: undefined };
}

/** What the rows must be examples of; null before the first valid one, where nothing else says it. */
export function taskOf({ shape }: ReaderContext): Task | null {
  return shape?.task ?? null;
}

export function toAnnotatedRow(context: ReaderContext, annotation: Annotation, line: number): ImportRow {
  return toCheckedRow(context, context.readAnnotation(annotation, taskOf(context)), line);
}
