/**
 * Revisions of a dataset. A row of `examples` has the revision at which its present content came; `past_examples` has what
 * it replaced, with the revision at which it went. So the examples at a revision r are the rows of both tables that came
 * at r or before and went after r, and a revision costs what it changes.
 *
 * A change in steps (merge.ts) writes rows of a revision that is not yet the dataset's, which no reader sees. One small
 * transaction then makes it the dataset's revision.
 */
import { fail, ok, type Result } from "../../core/failure.ts";
import { toSeconds } from "../../lib/time.ts";
import { schedule } from "../tasks/tasks.ts";
import type { DatasetRow } from "./datasets.ts";
import { scheduleEmbedding } from "./embedding.ts";

/** What a new revision changes in the dataset's row. */
export interface RevisionChange {
  readonly revision: number;
  readonly examples: number;
  readonly nextPosition: number;
  readonly historyBytes: number;
}

/** How long after a change it is checked whether the past has grown too large. */
const HISTORY_CHECK_MS = 60_000;

/** Makes a revision the dataset's, so that readers see it, and has its texts embedded. */
export function commitRevision(sql: SqlStorage, dataset: number, change: RevisionChange, now: number): void {
  const { revision, examples, nextPosition, historyBytes } = change;
  sql.exec(
    `UPDATE datasets SET revision = ?, pending_revision = NULL, examples = ?, next_position = ?,
       history_bytes = history_bytes + ?, updated_at = ? WHERE id = ?`,
    revision,
    examples,
    nextPosition,
    historyBytes,
    toSeconds(now),
    dataset,
  );
  scheduleEmbedding(sql, dataset, now);
  if (historyBytes > 0) schedule(sql, "expire_history", "", now + HISTORY_CHECK_MS);
  sql.exec(
    "INSERT INTO revisions (dataset, revision, examples, created_at) VALUES (?, ?, ?, ?)",
    dataset,
    revision,
    examples,
    toSeconds(now),
  );
}

/** Ends a change in steps that changed nothing. Meanwhile the dataset was not embedded. */
export function discardRevision(sql: SqlStorage, dataset: number, now: number): void {
  sql.exec("UPDATE datasets SET pending_revision = NULL WHERE id = ?", dataset);
  scheduleEmbedding(sql, dataset, now);
}

/**
 * SQL for the rows of a dataset at a revision, with ?1 for the dataset's number and ?2 for the revision. `columns` and
 * `where` are of the columns that `examples` and `past_examples` share. Rows that were deleted by request are left out.
 */
export function rowsAt(dataset: DatasetRow, revision: number, columns: string, where: string): string {
  const isCurrent = revision === dataset.revision;
  const present = `SELECT ${columns} FROM examples WHERE dataset = ?1 AND revision <= ?2 AND ${where}`;
  if (isCurrent && dataset.pending_revision === null) return present;
  // While a merge makes the next revision, what it has replaced is found by the index. In older revisions there may be
  // many versions of a row, of which any may be the one.
  const past = isCurrent
    ? "past_examples INDEXED BY past_examples_removed WHERE dataset = ?1 AND removed = ?2 + 1"
    : "past_examples WHERE dataset = ?1 AND removed > ?2";
  return `${present} UNION ALL SELECT ${columns} FROM ${past} AND revision <= ?2 AND input IS NOT NULL AND ${where}`;
}

const POSITIONS_PER_SCAN = 5_000;

/** The rows of a dataset at a revision above a position, oldest first. The caller may stop at any of them. */
export function* scanRows<Row extends Record<string, SqlStorageValue>>(
  sql: SqlStorage,
  dataset: DatasetRow,
  revision: number,
  columns: string,
  afterPosition: number,
): Generator<Row, void> {
  const query = `${rowsAt(dataset, revision, columns, "position > ?3 AND position <= ?4")} ORDER BY position`;
  // Among many past versions few may be of this revision, so a search for the next row has to be bounded.
  for (let start = afterPosition; start < dataset.next_position; start += POSITIONS_PER_SCAN)
    yield* sql.exec<Row>(
      query,
      dataset.id,
      revision,
      start,
      Math.min(start + POSITIONS_PER_SCAN, dataset.next_position - 1),
    );
}

/** The number of rows of a dataset at a revision; the count ends at `max`. */
export function countRows(sql: SqlStorage, dataset: DatasetRow, revision: number, max: number): number {
  let count = 0;
  for (const _row of scanRows(sql, dataset, revision, "position", -1)) {
    count++;
    if (count === max) break;
  }
  return count;
}

/** How many examples a revision had when it was made; some may have been deleted since. Fails if it is not kept. */
export function findRevision(
  sql: SqlStorage,
  dataset: DatasetRow,
  revision: number,
): Result<{ readonly examples: number }> {
  const row = sql
    .exec<{ examples: number }>(
      "SELECT examples FROM revisions WHERE dataset = ? AND revision = ?",
      dataset.id,
      revision,
    )
    .toArray()[0];
  return row
    ? ok(row)
    : fail("not_found", `Revision ${revision} of dataset '${dataset.name}' is not kept.`, {
        param: "dataset_revision",
      });
}
