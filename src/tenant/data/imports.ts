/**
 * An import stages its rows while its body is read, and a merge makes them visible together (merge.ts). Staged rows count
 * towards the limits, and go with the connection of their import. Without one they expire.
 */

import { RpcTarget } from "cloudflare:workers";
import type { StagedExample } from "../../api/examples.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { shortHash } from "../../lib/hash.ts";
import { toSeconds } from "../../lib/time.ts";
import { EARLIEST_RUN_AT, schedule } from "../tasks/tasks.ts";
import { deleteRowsOf } from "./bounded-deletion.ts";
import { type DatasetRow, findDataset, selectDataset } from "./datasets.ts";
import { countLabels, hasLabel, labelLimitFailure, labelsOf } from "./label-counts.ts";
import type { StagedKeys } from "./staged-keys.ts";

const IMPORT_TTL_MS = 3_600_000;
/** About what a staged row takes in the ledger besides its input and its target, in bytes. */
const ROW_OVERHEAD_BYTES = 200;

/** A row of `imports`. */
export interface ImportRow extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  dataset: number;
  /** Valid rows of the body, those counted that are not staged, because they repeat another. */
  rows: number;
  /** Staged rows that have an id of the caller's own. */
  rows_with_id: number;
  /** Staged rows that no example had the id or the content of when they came. */
  new_rows: number;
  /** Labels of staged rows that no example had when they came. */
  new_labels: number;
  bytes: number;
  /** Rows that a later one of the same id replaced. */
  superseded: number;
  /** What the merge has done so far. */
  added: number;
  updated: number;
  /** The revision that the merge makes; null while the body is read. */
  revision: number | null;
  /** Where the merge is: rows with an id are merged in the first pass, the others in the second. */
  pass: number;
  line: number;
}

export interface OpenImport {
  readonly row: ImportRow;
  readonly dataset: DatasetRow;
}

/** Held by the request that imports. The platform disposes of it when that request has ended, however it did. */
export class ImportConnection extends RpcTarget {
  readonly #onEnd: () => void;
  constructor(onEnd: () => void) {
    super();
    this.#onEnd = onEnd;
  }
  [Symbol.dispose](): void {
    this.#onEnd();
  }
}

export function beginImport(sql: SqlStorage, name: string, id: string, now: number): Result<DatasetRow> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  sql.exec("INSERT INTO imports (id, dataset, created_at) VALUES (?, ?, ?)", id, dataset.value.id, toSeconds(now));
  schedule(sql, "expire_import", id, now + IMPORT_TTL_MS);
  return dataset;
}

export const importEnded = fail(
  "not_found",
  "The dataset was deleted, or the import took longer than an hour. Import again.",
);

export function findImport(sql: SqlStorage, id: string): Result<OpenImport> {
  const row = sql.exec<ImportRow>("SELECT * FROM imports WHERE id = ?", id).toArray()[0];
  const dataset = row === undefined ? null : selectDataset(sql, "id", row.dataset);
  return row && dataset ? ok({ row, dataset }) : importEnded;
}

/**
 * Stages rows. Of several rows with one id the last counts; the same input and target without an id is staged once. Fails
 * as soon as the dataset would be too large with all rows that are staged for it. Call it in a transaction that is rolled
 * back on failure; the import is lost then, since its keys are not.
 */
export function stageRows(sql: SqlStorage, id: string, keys: StagedKeys, rows: readonly StagedExample[]): Result<null> {
  const found = findImport(sql, id);
  if (!found.ok) return found;
  const { row: open, dataset } = found.value;
  const labels = new Set<string>();
  let [rowsWithId, superseded, bytes] = [0, 0, 0];
  const newLines = new Set<number>();
  for (const row of rows) {
    const hash = row.id === null ? row.contentHash : shortHash("id", row.id);
    const content = new DataView(row.contentHash.buffer, row.contentHash.byteOffset).getUint32(8);
    const previous = keys.replace(hash, { line: row.line, content });
    if (previous === null) {
      newLines.add(row.line);
      if (row.id !== null) rowsWithId++;
    } else {
      if (row.id === null) continue;
      if (previous.content !== content) superseded++;
      if (newLines.delete(previous.line)) newLines.add(row.line);
      sql.exec("DELETE FROM staged WHERE import = ? AND line = ?", open.number, previous.line);
    }
    stageRow(sql, open.number, row);
    bytes += row.input.length + row.target.length + ROW_OVERHEAD_BYTES;
    for (const label of labelsOf(dataset.task, row.target)) labels.add(label);
  }
  sql.exec(
    `UPDATE imports SET rows = rows + ?, rows_with_id = rows_with_id + ?, new_rows = new_rows + ?, new_labels = new_labels + ?,
       bytes = bytes + ?, superseded = superseded + ? WHERE number = ?`,
    rows.length,
    rowsWithId,
    dataset.examples === 0 ? newLines.size : countNewRows(sql, open, [...newLines]),
    stageLabels(sql, open, labels),
    bytes,
    superseded,
    open.number,
  );
  return checkSize(sql, open.number, dataset);
}

function stageRow(sql: SqlStorage, number: number, row: StagedExample): void {
  sql.exec(
    "INSERT INTO staged (import, line, id, input_hash, group_hash, content_hash, input, target) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    number,
    row.line,
    row.id,
    row.inputHash,
    row.groupHash,
    row.contentHash,
    row.input,
    row.target,
  );
}

/** How many of the staged lines are no example's id, or no example's content. */
function countNewRows(sql: SqlStorage, { number, dataset }: ImportRow, lines: readonly number[]): number {
  return sql
    .exec<{ n: number }>(
      `SELECT count(*) AS n FROM json_each(?3) JOIN staged AS s ON s.import = ?2 AND s.line = value WHERE ${IS_NEW}`,
      dataset,
      number,
      JSON.stringify(lines),
    )
    .one().n;
}

/** SQL: no example of the dataset ?1 has the id of the staged row `s`, or else its content. */
export const IS_NEW = `CASE WHEN s.id IS NULL
  THEN NOT EXISTS (SELECT 1 FROM examples AS e 
    WHERE e.dataset = ?1 AND e.input_hash = s.input_hash AND e.content_hash = s.content_hash)
  ELSE NOT EXISTS (SELECT 1 FROM examples AS e WHERE e.dataset = ?1 AND e.id = s.id) END`;

/** Notes the labels of an import. Answers how many of them are new to it and to its dataset. */
function stageLabels(sql: SqlStorage, { number, dataset }: ImportRow, labels: ReadonlySet<string>): number {
  let newLabels = 0;
  for (const label of labels) {
    const query = "INSERT OR IGNORE INTO staged_labels (import, label) VALUES (?, ?) RETURNING 1";
    const isFirst = sql.exec(query, number, label).toArray().length > 0;
    if (isFirst && !hasLabel(sql, dataset, label)) newLabels++;
  }
  return newLabels;
}

/** Refuses what is staged for a dataset as soon as it would be too large with it. */
export function checkSize(sql: SqlStorage, number: number, dataset: DatasetRow): Result<null> {
  const { new_rows, new_labels } = sql
    .exec<{ new_rows: number; new_labels: number }>("SELECT new_rows, new_labels FROM imports WHERE number = ?", number)
    .one();
  const sum = (column: "new_rows" | "bytes", where: string, ...bindings: number[]) =>
    sql.exec<{ n: number }>(`SELECT coalesce(sum(${column}), 0) AS n FROM imports WHERE ${where}`, ...bindings).one().n;
  const examples = dataset.examples + (new_rows === 0 ? 0 : sum("new_rows", "dataset = ?", dataset.id));
  if (examples > limits.examples_per_dataset) {
    const limit = limits.examples_per_dataset;
    const message = `A dataset holds at most ${limit} examples; with what is being imported it would hold ${examples} or more.`;
    return fail("limit_exceeded", message, { details: { limit, actual: examples } });
  }
  const labels = new_labels === 0 ? 0 : countLabels(sql, dataset.id) + new_labels;
  if (labels > limits.labels_per_dataset) return labelLimitFailure(labels);
  const bytes = sum("bytes", "1");
  if (bytes > limits.staged_bytes) {
    const limit = limits.staged_bytes;
    const message = `The imports of a tenant that are under way take at most ${limit} bytes; with this one it would be ${bytes}. Wait for one to end.`;
    return fail("limit_exceeded", message, { details: { limit, actual: bytes } });
  }
  return ok(null);
}

export function countStagedBytes(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT coalesce(sum(bytes), 0) AS n FROM imports").one().n;
}

/**
 * Makes the tasks due that end imports or go on with their merges. When an object starts, the connections of its imports
 * are lost. Answers whether there are any.
 */
export function hurryImports(sql: SqlStorage): boolean {
  const query = "UPDATE due SET run_at = ? WHERE kind IN ('expire_import', 'merge_import') RETURNING 1";
  return sql.exec(query, EARLIEST_RUN_AT).toArray().length > 0;
}

/** Drops an import whose merge has not begun. A task deletes its staged rows. */
export function dropImport(sql: SqlStorage, id: string, now: number): void {
  const query = "DELETE FROM imports WHERE id = ? AND revision IS NULL RETURNING number";
  const row = sql.exec<{ number: number }>(query, id).toArray()[0];
  if (row !== undefined) endImport(sql, id, row.number, now);
}

/** Deletes what is left of an import whose row is gone. */
export function endImport(sql: SqlStorage, id: string, number: number, now: number): void {
  sql.exec("DELETE FROM due WHERE kind IN ('expire_import', 'merge_import') AND ref = ?", id);
  if (deleteStagedRows(sql, number)) schedule(sql, "delete_staged", String(number), now);
}

/** Deletes a bounded number of staged rows. Answers whether some may be left. */
export function deleteStagedRows(sql: SqlStorage, number: number): boolean {
  return deleteRowsOf(sql, "import", number, { staged: "line", staged_labels: "label" });
}
