/**
 * Changes of a dataset's examples in one transaction. They make the dataset's next revision. The versions of examples
 * that they replace or remove are kept in `past_examples`, with the revision at which each came and went, so that earlier
 * revisions can be read (revisions.ts).
 */
import type { StoredExample } from "../../api/examples.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { shortHash } from "../../lib/hash.ts";
import { toSeconds } from "../../lib/time.ts";
import { deleteCapturedExamples } from "../heads/capture-deletion.ts";
import { scheduleDueRetrainings } from "../heads/retraining-context.ts";
import type { DatasetRow } from "./datasets.ts";
import { changeLabelCounts, checkLabelLimit, countTarget } from "./label-counts.ts";
import { commitRevision } from "./revisions.ts";

/** What has changed so far, before it is committed. */
export interface Changes {
  readonly dataset: DatasetRow;
  /** The revision that the changes make. */
  readonly revision: number;
  readonly labels: Map<string, number>;
  /** How many examples more the dataset has. */
  added: number;
  nextPosition: number;
  historyBytes: number;
  isEmpty: boolean;
}

/** Begins changes of a dataset. No change in steps may be pending. */
export function beginChanges(dataset: DatasetRow): Changes {
  const { revision, next_position } = dataset;
  return {
    dataset,
    revision: revision + 1,
    labels: new Map(),
    added: 0,
    nextPosition: next_position,
    historyBytes: 0,
    isEmpty: true,
  };
}

export function addExample(sql: SqlStorage, changes: Changes, id: string, example: StoredExample, now: number): void {
  const { dataset, revision, labels } = changes;
  sql.exec(
    "INSERT INTO examples (dataset, position, id, input_hash, group_hash, content_hash, input, target, created_at, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    dataset.id,
    changes.nextPosition++,
    id,
    example.inputHash,
    example.groupHash,
    example.contentHash,
    example.input,
    example.target,
    toSeconds(now),
    revision,
  );
  countTarget(labels, dataset.task, example.target, 1);
  changes.added++;
  changes.isEmpty = false;
}

/** Gives the example at a position another content. It keeps its place, so that the embedding of an equal input stays valid. */
export function updateExample(
  sql: SqlStorage,
  changes: Changes,
  position: number,
  id: string,
  example: StoredExample,
): void {
  const { dataset, revision, labels } = changes;
  countTarget(labels, dataset.task, keepVersion(sql, changes, position), -1);
  countTarget(labels, dataset.task, example.target, 1);
  sql.exec(
    "UPDATE examples SET id = ?, input_hash = ?, group_hash = ?, content_hash = ?, input = ?, target = ?, revision = ? WHERE dataset = ? AND position = ?",
    id,
    example.inputHash,
    example.groupHash,
    example.contentHash,
    example.input,
    example.target,
    revision,
    dataset.id,
    position,
  );
  changes.isEmpty = false;
}

interface ContentRow extends Record<string, SqlStorageValue> {
  id: string;
  input: string | ArrayBuffer;
  input_hash: ArrayBuffer;
  group_hash: ArrayBuffer;
  target: string;
}

/** Gives an example another target, as JSON; its id and its input stay. */
export function changeTarget(
  sql: SqlStorage,
  changes: Changes,
  position: number,
  toTarget: (target: string) => string,
): void {
  const query = "SELECT id, input, input_hash, group_hash, target FROM examples WHERE dataset = ? AND position = ?";
  const row = sql.exec<ContentRow>(query, changes.dataset.id, position).one();
  const input = typeof row.input === "string" ? row.input : new Uint8Array(row.input);
  const target = toTarget(row.target);
  updateExample(sql, changes, position, row.id, {
    id: row.id,
    inputHash: new Uint8Array(row.input_hash),
    groupHash: new Uint8Array(row.group_hash),
    contentHash: shortHash(input, target),
    input,
    target,
  });
}

/** Removes an example that another one replaces. Earlier revisions still have it. */
export function removeExample(sql: SqlStorage, changes: Changes, position: number): void {
  const { dataset, labels } = changes;
  countTarget(labels, dataset.task, keepVersion(sql, changes, position), -1);
  sql.exec("DELETE FROM examples WHERE dataset = ? AND position = ?", dataset.id, position);
  changes.added--;
  changes.isEmpty = false;
}

/** Deletes an example from every revision, and equal inputs from the queues of live inputs. */
export function eraseExample(sql: SqlStorage, changes: Changes, position: number, id: string, now: number): void {
  deleteCapturedExamples(sql, changes.dataset.id, [position], now);
  removeExample(sql, changes, position);
  eraseVersions(sql, changes, position, id);
}

/** Erases what is kept of a position and of an id: of each version only the id stays, and when it came and went. */
export function eraseVersions(sql: SqlStorage, changes: Changes, position: number, id: string): void {
  const { dataset } = changes;
  const rows = sql
    .exec<{ position: number; removed: number; bytes: number }>(
      `SELECT position, removed, ${VERSION_BYTES} AS bytes FROM past_examples
       WHERE dataset = ?1 AND input IS NOT NULL AND (position = ?2 OR id = ?3)`,
      dataset.id,
      position,
      id,
    )
    .toArray();
  for (const { position, removed, bytes } of rows) {
    sql.exec(
      `UPDATE past_examples SET input_hash = NULL, group_hash = NULL, content_hash = NULL, target = NULL, input = NULL
       WHERE dataset = ? AND position = ? AND removed = ?`,
      dataset.id,
      position,
      removed,
    );
    changes.historyBytes -= bytes;
  }
}

/** About what a version takes in the ledger, in bytes, as SQL. An erased version counts as none. */
export const VERSION_BYTES = "octet_length(input) + octet_length(target) + 200";

/** Copies the example at a position to the past, unless it came with these changes. Answers its target. */
function keepVersion(sql: SqlStorage, changes: Changes, position: number): string {
  const { dataset, revision } = changes;
  const { target, came, bytes } = sql
    .exec<{ target: string; came: number; bytes: number }>(
      `SELECT target, revision AS came, ${VERSION_BYTES} AS bytes FROM examples WHERE dataset = ? AND position = ?`,
      dataset.id,
      position,
    )
    .one();
  if (came === revision) return target;
  sql.exec(
    `INSERT INTO past_examples (dataset, position, removed, revision, id, input_hash, group_hash, content_hash, created_at, target, input)
     SELECT dataset, position, ?3, revision, id, input_hash, group_hash, content_hash, created_at, target, input
     FROM examples WHERE dataset = ?1 AND position = ?2`,
    dataset.id,
    position,
    revision,
  );
  changes.historyBytes += bytes;
  return target;
}

/** Saves the counts of one step of a change in steps: those of labels until its revision is committed. */
export function saveStep(
  sql: SqlStorage,
  { dataset, labels, historyBytes }: Pick<Changes, "dataset" | "labels" | "historyBytes">,
): void {
  changeLabelCounts(sql, dataset.id, labels, "pending");
  if (historyBytes !== 0)
    sql.exec("UPDATE datasets SET history_bytes = history_bytes + ? WHERE id = ?", historyBytes, dataset.id);
}

/**
 * Makes the changes the dataset's next revision, and schedules the retraining that is due then. Fails if the dataset is
 * too large then. Call it in a transaction that is rolled back on failure.
 */
export function commitChanges(sql: SqlStorage, changes: Changes, now: number): Result<null> {
  if (changes.isEmpty) return ok(null);
  const { dataset, revision, labels, added, nextPosition, historyBytes } = changes;
  const examples = dataset.examples + added;
  const limit = limits.examples_per_dataset;
  if (added > 0 && examples > limit) {
    const message = `A dataset holds at most ${limit} examples; with these it would hold ${examples}.`;
    return fail("limit_exceeded", message, { details: { limit, actual: examples } });
  }
  changeLabelCounts(sql, dataset.id, labels, "examples");
  const labelCheck = [...labels.values()].some((difference) => difference > 0)
    ? checkLabelLimit(sql, dataset.id)
    : ok(null);
  if (!labelCheck.ok) return labelCheck;
  commitRevision(sql, dataset.id, { revision, examples, nextPosition, historyBytes }, now);
  scheduleDueRetrainings(sql, dataset.id, now);
  return ok(null);
}
