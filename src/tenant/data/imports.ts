/**
 * An import stages its rows while its body is read, and one merge makes them visible together. The staged rows of an
 * import that never ends expire.
 */

import type { StagedExample } from "../../api/examples.ts";
import type { DatasetImport } from "../../api/imports.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { scheduleDueRetrainings } from "../heads/retraining-context.ts";
import { emit } from "../hooks/events.ts";
import { schedule } from "../tasks/tasks.ts";
import { checkLabelLimit, type DatasetRow, findDataset, incrementRevision, toDataset } from "./datasets.ts";

/** The counts and the dataset; what the body was is the caller's to add. */
export type ImportResult = Pick<DatasetImport, "added" | "updated" | "unchanged" | "dataset">;

const IMPORT_TTL_MS = 3_600_000;

export function beginImport(sql: SqlStorage, name: string, id: string, now: number): Result<DatasetRow> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  sql.exec("INSERT INTO imports (id, dataset, created_at) VALUES (?, ?, ?)", id, dataset.value.id, toSeconds(now));
  schedule(sql, "expire_import", id, now + IMPORT_TTL_MS);
  return dataset;
}

function findImportDataset(sql: SqlStorage, id: string): Result<DatasetRow> {
  const row = sql
    .exec<DatasetRow>(
      "SELECT datasets.* FROM imports JOIN datasets ON datasets.id = imports.dataset WHERE imports.id = ?",
      id,
    )
    .toArray()[0];
  return row
    ? ok(row)
    : fail("not_found", "The dataset was deleted, or the import took longer than an hour. Import again.");
}

export function stageRows(sql: SqlStorage, id: string, rows: readonly StagedExample[]): Result<null> {
  const dataset = findImportDataset(sql, id);
  if (!dataset.ok) return dataset;
  for (const row of rows) {
    sql.exec(
      "INSERT INTO staged (import, line, id, input_hash, group_hash, content_hash, input, target) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
      id,
      row.line,
      row.id,
      row.inputHash,
      row.groupHash,
      row.contentHash,
      row.input,
      row.target,
    );
  }
  return ok(null);
}

/** Deletes an import and its staged rows. */
export function dropImport(sql: SqlStorage, id: string): void {
  sql.exec("DELETE FROM staged WHERE import = ?", id);
  sql.exec("DELETE FROM imports WHERE id = ?", id);
  sql.exec("DELETE FROM due WHERE kind = 'expire_import' AND ref = ?", id);
}

/** Staged rows whose id has a later row with another content. */
const COUNT_SUPERSEDED = `
  SELECT count(*) AS n FROM staged AS s
  -- With max(), SQLite takes the other columns from the row that holds the maximum: the last row of each id.
  JOIN (SELECT id, content_hash, max(line) FROM staged WHERE import = ?1 AND id IS NOT NULL GROUP BY id) AS last ON last.id = s.id
  WHERE s.import = ?1 AND s.content_hash <> last.content_hash`;
/** Leaves the last row of each id, and the first of equal rows without an id. */
const DELETE_REPEATED = `
  DELETE FROM staged WHERE import = ?1
  AND line NOT IN (SELECT max(line) FROM staged WHERE import = ?1 AND id IS NOT NULL GROUP BY id)
  AND line NOT IN (SELECT min(line) FROM staged WHERE import = ?1 AND id IS NULL GROUP BY content_hash)`;
const COUNT_REPLACED = `
  SELECT count(*) AS n FROM staged AS s JOIN examples AS e ON e.dataset = ? AND e.id = s.id
  WHERE s.import = ? AND s.id IS NOT NULL AND e.content_hash <> s.content_hash`;
const REPLACE_EXAMPLES = `
  UPDATE examples SET input_hash = s.input_hash, group_hash = s.group_hash, content_hash = s.content_hash,
    input = s.input, target = s.target, revision = ?
  FROM staged AS s WHERE s.import = ? AND examples.dataset = ? AND examples.id = s.id AND examples.content_hash <> s.content_hash`;
const NEW_IDS = "s.id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM examples AS e WHERE e.dataset = ?1 AND e.id = s.id)";
const NEW_CONTENTS =
  "s.id IS NULL AND NOT EXISTS (SELECT 1 FROM examples AS e WHERE e.dataset = ?1 AND e.content_hash = s.content_hash)";

/**
 * Merges the staged rows into the dataset. A row with an id replaces the example with that id or adds one; of several
 * rows with one id the last counts. A row without an id is added, unless an example has the same input and target. Call
 * it in a transaction that is rolled back on failure.
 */
export function mergeImport(sql: SqlStorage, id: string, now: number): Result<ImportResult> {
  const found = findImportDataset(sql, id);
  if (!found.ok) return found;
  const dataset = found.value;
  const countBefore = countExamples(sql, dataset.id);
  const { staged, updated } = mergeRows(sql, dataset, id, now);
  const countAfter = countExamples(sql, dataset.id);
  if (countAfter > limits.examples_per_dataset) {
    const message = `A dataset holds at most ${limits.examples_per_dataset} examples; with this import it would hold ${countAfter}.`;
    return fail("limit_exceeded", message, { details: { limit: limits.examples_per_dataset, actual: countAfter } });
  }
  const labels = checkLabelLimit(sql, dataset);
  if (!labels.ok) return labels;
  const added = countAfter - countBefore;
  if (added + updated > 0) {
    // Positions are never reused, so a block of embeddings is always of the same rows.
    sql.exec("UPDATE datasets SET next_position = ? WHERE id = ?", nextPosition(sql, dataset), dataset.id);
    incrementRevision(sql, dataset.id, now);
  }
  dropImport(sql, id);
  const updatedRow = findDataset(sql, dataset.name);
  if (!updatedRow.ok) return updatedRow;
  const counts = { added, updated, unchanged: staged - added - updated };
  const datasetObject = toDataset(sql, updatedRow.value);
  if (added + updated > 0) {
    const { name, revision, examples } = datasetObject;
    const data = { object: "dataset.import", id, dataset: { name, revision, examples }, ...counts };
    emit(sql, "dataset.imported", data, now);
    scheduleDueRetrainings(sql, dataset.id, now);
  }
  return ok({ ...counts, dataset: datasetObject });
}

/** Replaces and adds examples. Answers how many rows were staged, and how many of them replaced an example or a row. */
function mergeRows(sql: SqlStorage, dataset: DatasetRow, id: string, now: number): { staged: number; updated: number } {
  const staged = count(sql, "SELECT count(*) AS n FROM staged WHERE import = ?", id);
  const superseded = count(sql, COUNT_SUPERSEDED, id);
  sql.exec(DELETE_REPEATED, id);
  const replaced = count(sql, COUNT_REPLACED, dataset.id, id);
  if (replaced > 0) sql.exec(REPLACE_EXAMPLES, dataset.revision + 1, id, dataset.id);
  for (const condition of [NEW_IDS, NEW_CONTENTS]) {
    sql.exec(
      `INSERT INTO examples (dataset, position, id, input_hash, group_hash, content_hash, input, target, created_at, revision)
       SELECT ?1, ?2 + row_number() OVER (ORDER BY s.line) - 1, coalesce(s.id, 'ex_' || substr(?3, 8) || '_' || s.line),
              s.input_hash, s.group_hash, s.content_hash, s.input, s.target, ?4, ?5
       FROM staged AS s WHERE s.import = ?3 AND ${condition}`,
      dataset.id,
      nextPosition(sql, dataset),
      id,
      toSeconds(now),
      dataset.revision + 1,
    );
  }
  return { staged, updated: replaced + superseded };
}

function count(sql: SqlStorage, query: string, ...bindings: SqlStorageValue[]): number {
  return sql.exec<{ n: number }>(query, ...bindings).one().n;
}

function countExamples(sql: SqlStorage, dataset: number): number {
  return count(sql, "SELECT count(*) AS n FROM examples WHERE dataset = ?", dataset);
}

function nextPosition(sql: SqlStorage, { id, next_position }: DatasetRow): number {
  const query = "SELECT coalesce(max(position) + 1, 0) AS n FROM examples WHERE dataset = ?";
  return Math.max(next_position, count(sql, query, id));
}
