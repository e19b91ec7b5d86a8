/** What is deleted of the queues of live inputs: with their head or dataset, and where a person's texts are deleted. */
import type { CapturedDeletion, DeletedCaptured } from "../../api/capture.ts";
import { ok, type Result } from "../../core/failure.ts";
import { findHeadNumber, refuseEarlier, toNumber } from "./capture.ts";

const CONTAINS = "typeof(input) = 'text' AND instr(input, ?2) > 0";

/** Ends the capture of a head, and deletes its queue. */
export function deleteCapture(sql: SqlStorage, head: number): void {
  for (const table of ["head_capture", "captured_inputs"]) sql.exec(`DELETE FROM ${table} WHERE head = ?`, head);
}

/** The same of the heads whose active version was trained on a dataset: what they captured was to become its examples. */
export function deleteCaptureOfDataset(sql: SqlStorage, dataset: number): void {
  const query = "SELECT id FROM heads JOIN head_versions ON head = id AND version = active_version WHERE dataset = ?";
  for (const { id } of sql.exec<{ id: number }>(query, dataset).toArray()) deleteCapture(sql, id);
}

/** Deletes inputs of a head's queue. */
export function deleteCaptured(
  sql: SqlStorage,
  name: string,
  { ids, contains = "" }: CapturedDeletion,
  now: number,
): Result<DeletedCaptured> {
  const head = findHeadNumber(sql, name);
  if (!head.ok) return head;
  const matches = ids === undefined ? CONTAINS : "number IN (SELECT value FROM json_each(?2))";
  const deleted = deleteWhere(sql, head.value, matches, ids === undefined ? contains : toNumbers(ids), now);
  return ok({ object: "head.captured_deletion", id: name, deleted });
}

function toNumbers(ids: readonly string[]): string {
  return JSON.stringify(ids.map(toNumber).filter((number) => number !== null));
}

function deleteWhere(sql: SqlStorage, head: number, matches: string, binding: string, now: number): number {
  refuseEarlier(sql, head, now);
  const query = `DELETE FROM captured_inputs WHERE head = ?1 AND ${matches} RETURNING 1`;
  return sql.exec(query, head, binding).toArray().length;
}

/** The heads that have a version trained on a dataset, and that capture or have captured. */
export function listQueues(sql: SqlStorage, dataset: number): number[] {
  return sql
    .exec<{ head: number }>(
      `SELECT DISTINCT head FROM head_versions WHERE dataset = ?
       AND (head IN (SELECT head FROM head_capture) OR EXISTS (SELECT 1 FROM captured_inputs WHERE head = head_versions.head))`,
      dataset,
    )
    .toArray()
    .map(({ head }) => head);
}

/** Deletes from a head's queue the inputs whose text has this part. */
export function deleteCapturedText(sql: SqlStorage, head: number, contains: string, now: number): void {
  deleteWhere(sql, head, CONTAINS, contains, now);
}

/** Deletes from the queues of a dataset's heads the inputs of examples that are about to be deleted. */
export function deleteCapturedExamples(
  sql: SqlStorage,
  dataset: number,
  positions: readonly number[],
  now: number,
): void {
  const queues = positions.length === 0 ? [] : listQueues(sql, dataset);
  if (queues.length === 0) return;
  const chosen = `group_hash IN (SELECT group_hash FROM examples WHERE dataset = ${dataset} AND position IN (SELECT value FROM json_each(?2)))`;
  for (const head of queues) deleteWhere(sql, head, chosen, JSON.stringify(positions), now);
}
