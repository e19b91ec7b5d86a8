/** Which runs on test sets are kept, and the deletion of the others. */
import { limits } from "../../core/limits.ts";
import { schedule } from "../tasks/tasks.ts";

/** Keeps the newest runs, as many as the limits allow: at least the newest one. */
export function deleteOldRuns(sql: SqlStorage, now: number): void {
  const old = `SELECT number FROM (
      SELECT number, row_number() OVER newest AS place, sum(bytes) OVER newest AS total FROM evaluations
      WINDOW newest AS (ORDER BY number DESC)
    ) WHERE place > 1 AND (place > ?1 OR total > ?2)`;
  deleteRuns(sql, `number IN (${old})`, [limits.evaluations, limits.evaluation_bytes], now);
}

/** Deletes the runs of a head. */
export function deleteRunsOfHead(sql: SqlStorage, head: number, now: number): void {
  deleteRuns(sql, "head = ?1", [head], now);
}

/** Deletes the runs on a dataset. */
export function deleteRunsOfDataset(sql: SqlStorage, dataset: number, now: number): void {
  deleteRuns(sql, "dataset = ?1", [dataset], now);
}

/** Nothing finds the errors of a deleted run any more; a task deletes them. */
function deleteRuns(sql: SqlStorage, where: string, bindings: readonly number[], now: number): void {
  const deleted = sql.exec(`DELETE FROM evaluations WHERE ${where} RETURNING 1`, ...bindings).toArray();
  if (deleted.length > 0) schedule(sql, "delete_evaluation_errors", "", now);
}

const MAX_ROWS_PER_DELETION = 200;

/** Deletes a bounded number of the errors of deleted runs. Answers whether some may be left. */
export function deleteEvaluationErrors(sql: SqlStorage): boolean {
  const batch =
    "SELECT run, first_position FROM evaluation_errors WHERE run NOT IN (SELECT number FROM evaluations) LIMIT ?";
  const deleted = sql
    .exec(`DELETE FROM evaluation_errors WHERE (run, first_position) IN (${batch}) RETURNING 1`, MAX_ROWS_PER_DELETION)
    .toArray();
  return deleted.length === MAX_ROWS_PER_DELETION;
}

export function countRuns(sql: SqlStorage): { evaluations: number; evaluation_bytes: number } {
  return sql
    .exec<{ evaluations: number; evaluation_bytes: number }>(
      "SELECT count(*) AS evaluations, coalesce(sum(bytes), 0) AS evaluation_bytes FROM evaluations",
    )
    .one();
}
