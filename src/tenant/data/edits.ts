/**
 * Edits: changes of many examples that a filter selects, in steps of a few milliseconds, as a merge makes them (merge.ts).
 * The steps write rows of the next revision, which no reader sees, and one transaction then makes it the dataset's. An edit
 * that is cut off goes on where it was.
 */
import type { DatasetChange } from "../../api/dataset-changes.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { deleteCapturedExamples, deleteCapturedText, listQueues } from "../heads/capture-deletion.ts";
import { scheduleDueRetrainings } from "../heads/retraining-context.ts";
import { describeVersions, findVersionsWithRemoved, findVersionsWithVectors } from "../heads/vectors.ts";
import type { ChangeReference } from "../idempotency.ts";
import { schedule } from "../tasks/tasks.ts";
import type { Transactions } from "../transactions.ts";
import { beginChanges, type Changes, changeTarget, eraseVersions, removeExample, saveStep } from "./changes.ts";
import { type DatasetRow, findDataset, selectDataset, toDataset } from "./datasets.ts";
import { commitLabelCounts, hasLabel, labelsOf } from "./label-counts.ts";
import { changeDataset } from "./merge.ts";
import { commitRevision, discardRevision } from "./revisions.ts";
import { checkFilter, type ExampleFilter, searchExamples, searchStep } from "./search.ts";

/** What an edit does; stored as JSON. */
export type Edit =
  | { readonly kind: "delete"; readonly filter: ExampleFilter }
  | { readonly kind: "rename"; readonly filter: ExampleFilter & { readonly label: string }; readonly to: string };

interface EditRow extends Record<string, SqlStorageValue> {
  dataset: number;
  edit: string;
  /** The request's claim of its `Idempotency-Key`. */
  claim: string | null;
  /** Examples at this position and above are done. */
  below: number;
  updated: number;
  deleted: number;
}

/** When an edit goes on whose object was lost. */
const RESUME_MS = 5_000;

/** Edits a dataset. Readers see all of it or nothing. */
export async function editDataset(
  ledger: Transactions,
  claim: string | null,
  name: string,
  edit: Edit,
): Promise<Result<DatasetChange>> {
  const begun = await changeDataset(ledger, name, (sql, now) => beginEdit(sql, name, edit, claim, now));
  return begun.ok ? runEdit(ledger, begun.value) : begun;
}

/** Counts the examples that a deletion would delete. */
export async function previewDeletion(
  ledger: Transactions,
  name: string,
  filter: ExampleFilter,
): Promise<Result<DatasetChange>> {
  const dataset = ledger.read((sql) => findDataset(sql, name));
  if (!dataset.ok) return dataset;
  const checked = checkFilter(dataset.value, filter);
  if (!checked.ok) return checked;
  const { examples, next_position } = dataset.value;
  const found = await searchExamples(ledger, dataset.value, filter, { below: next_position, limit: examples });
  if (!found.ok) return found;
  const counts = { updated: 0, deleted: found.value.length };
  const versions = await findVersionsWithVectors(ledger, dataset.value.id, new Set(found.value));
  return ledger.read((sql, now) =>
    ok({ ...toChange(sql, dataset.value, { ...counts, versions }, now), dry_run: true as const }),
  );
}

type ChangeCounts = Pick<DatasetChange, "updated" | "deleted"> & {
  /** Of versions with embeddings of what was deleted. */
  readonly versions: readonly number[];
};

function toChange(sql: SqlStorage, row: DatasetRow, { versions, ...counts }: ChangeCounts, now: number): DatasetChange {
  const withVectors = describeVersions(sql, versions);
  return { object: "dataset.change", id: row.name, ...counts, ...withVectors, dataset: toDataset(sql, row, now) };
}

/** Refers to a change, in the place of an answer that shows the dataset with all its labels. */
function referToChange(versions: ChangeCounts["versions"]) {
  return (sql: SqlStorage, { id, updated, deleted }: DatasetChange): ChangeReference => ({
    kind: "dataset_change",
    dataset: selectDataset(sql, "name", id)?.id ?? 0,
    updated,
    deleted,
    versions,
  });
}

/** A change that an answer refers to, with the dataset as it is now. */
export function getReferencedChange(
  sql: SqlStorage,
  { kind: _kind, dataset, versions = [], ...counts }: ChangeReference,
  now: number,
): Result<DatasetChange> {
  const row = selectDataset(sql, "id", dataset);
  if (row) return ok(toChange(sql, row, { ...counts, versions }, now));
  return fail("not_found", "The dataset that the first request with this Idempotency-Key changed was deleted.");
}

/** Reserves the dataset's next revision for an edit. No other change in steps may be pending. */
function beginEdit(sql: SqlStorage, name: string, edit: Edit, claim: string | null, now: number): Result<number> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const { id, revision, next_position } = dataset.value;
  const checked = checkFilter(dataset.value, edit.filter);
  if (!checked.ok) return checked;
  sql.exec("UPDATE datasets SET pending_revision = ? WHERE id = ?", revision + 1, id);
  sql.exec(
    "INSERT INTO edits (dataset, edit, claim, below) VALUES (?, ?, ?, ?)",
    id,
    JSON.stringify(edit),
    claim,
    next_position,
  );
  schedule(sql, "edit_dataset", String(id), now + RESUME_MS);
  return ok(id);
}

/** Refuses to change a label that no example has. */
export function checkLabel(sql: SqlStorage, name: string, label: string): Result<null> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const checked = checkFilter(dataset.value, { label });
  if (!checked.ok || hasLabel(sql, dataset.value.id, label)) return checked;
  return fail("not_found", `No example of dataset '${name}' has the label '${label.slice(0, 100)}'.`, {
    param: "label",
  });
}

const datasetDeleted = fail("not_found", "The dataset was deleted while it was changed.");

function findEdit(sql: SqlStorage, id: number): Result<{ readonly row: EditRow; readonly dataset: DatasetRow }> {
  const row = sql.exec<EditRow>("SELECT * FROM edits WHERE dataset = ?", id).toArray()[0];
  const dataset = selectDataset(sql, "id", id);
  return row && dataset ? ok({ row, dataset }) : datasetDeleted;
}

/** Runs an edit from where it is to its end. What it deletes is erased from earlier revisions, too. */
async function runEdit(ledger: Transactions, id: number): Promise<Result<DatasetChange>> {
  ledger.activeEdits.add(id);
  try {
    for (;;) {
      const isLast = ledger.changeNow((sql, now) => editStep(sql, id, now));
      if (!isLast.ok) return isLast;
      if (isLast.value) break;
      await scheduler.wait(0);
    }
    await deleteCapturedTexts(ledger, id);
    const found = ledger.read((sql) => findEdit(sql, id));
    if (!found.ok) return found;
    const { row, dataset } = found.value;
    const deletes = (JSON.parse(row.edit) as Edit).kind === "delete";
    const versions = deletes ? await findVersionsWithRemoved(ledger, id, dataset.revision + 1) : [];
    const commit = (sql: SqlStorage, now: number) => commitEdit(sql, id, versions, now);
    const committed = await ledger.change(commit, { claim: row.claim, status: 200, refer: referToChange(versions) });
    // Another request may have taken the key over. The steps are done all the same.
    const result = committed.ok ? committed : await ledger.change(commit);
    if (result.ok && result.value.deleted > 0) await eraseDeleted(ledger, id, result.value.dataset.revision);
    return result;
  } finally {
    ledger.activeEdits.delete(id);
  }
}

/** What deletes examples by a part of their texts deletes the live inputs that have it, queue by queue. */
async function deleteCapturedTexts(ledger: Transactions, id: number): Promise<void> {
  const queues = ledger.read((sql) => {
    const found = findEdit(sql, id);
    if (!found.ok) return found;
    const { kind, filter } = JSON.parse(found.value.row.edit) as Edit;
    const { contains } = filter;
    return ok(kind === "delete" && contains !== undefined ? { contains, heads: listQueues(sql, id) } : null);
  });
  if (!queues.ok || queues.value === null) return;
  const { contains, heads } = queues.value;
  for (const head of heads) {
    ledger.changeNow((sql, now) => ok(deleteCapturedText(sql, head, contains, now)));
    await scheduler.wait(0);
  }
}

/** Goes on with an edit whose object was lost. Answers when to look again, or null when it has ended. */
export async function resumeEdit(ledger: Transactions, id: number): Promise<number | null> {
  if (ledger.activeEdits.has(id)) return Date.now() + RESUME_MS;
  await runEdit(ledger, id);
  return null;
}

/** Changes the next examples. Answers whether they are the last. */
function editStep(sql: SqlStorage, id: number, now: number): Result<boolean> {
  const found = findEdit(sql, id);
  if (!found.ok) return found;
  const { row, dataset } = found.value;
  const edit = JSON.parse(row.edit) as Edit;
  const { positions, below } = searchStep(sql, dataset, dataset.revision, edit.filter, row.below);
  const changes = beginChanges(dataset);
  if (edit.kind === "delete") deleteCapturedExamples(sql, id, positions, now);
  for (const position of positions) {
    if (edit.kind === "delete") removeExample(sql, changes, position);
    else renameLabel(sql, changes, position, edit.filter.label, edit.to);
  }
  saveStep(sql, changes);
  sql.exec(
    "UPDATE edits SET below = ?, updated = updated + ?, deleted = deleted + ? WHERE dataset = ?",
    below ?? 0,
    edit.kind === "rename" ? positions.length : 0,
    edit.kind === "delete" ? positions.length : 0,
    id,
  );
  return ok(below === null);
}

function renameLabel(sql: SqlStorage, changes: Changes, position: number, label: string, to: string): void {
  changeTarget(sql, changes, position, (target) => renameInTarget(changes.dataset.task, target, label, to));
}

/** The JSON of a target with another label in the place of one. */
function renameInTarget(task: Task, target: string, label: string, to: string): string {
  const labels = labelsOf(task, target).map((one) => (one === label ? to : one));
  return JSON.stringify(task === "single_label" ? labels[0] : [...new Set(labels)].sort());
}

/** Ends an edit: its revision becomes the dataset's. */
function commitEdit(
  sql: SqlStorage,
  id: number,
  versions: ChangeCounts["versions"],
  now: number,
): Result<DatasetChange> {
  const found = findEdit(sql, id);
  if (!found.ok) return found;
  const { row, dataset } = found.value;
  const { updated, deleted } = row;
  const edit = JSON.parse(row.edit) as Edit;
  const revision = dataset.revision + 1;
  sql.exec("DELETE FROM edits WHERE dataset = ?", id);
  sql.exec("DELETE FROM due WHERE kind = 'edit_dataset' AND ref = ?", String(id));
  if (updated + deleted === 0) discardRevision(sql, id, now);
  else {
    if (edit.kind === "rename")
      sql.exec(
        "UPDATE datasets SET out_of_scope_label = ? WHERE id = ? AND out_of_scope_label = ?",
        edit.to,
        id,
        edit.filter.label,
      );
    commitLabelCounts(sql, id);
    const examples = dataset.examples - deleted;
    commitRevision(sql, id, { revision, examples, nextPosition: dataset.next_position, historyBytes: 0 }, now);
    schedule(sql, "expire_history", "", now);
    scheduleDueRetrainings(sql, id, now);
  }
  if (deleted > 0) schedule(sql, "erase_examples", `${id}:${revision}`, now + RESUME_MS);
  return ok(toChange(sql, selectDataset(sql, "id", id) as DatasetRow, { updated, deleted, versions }, now));
}

const MAX_ROWS_PER_ERASURE = 250;

/** Goes on with an erasure, whose task names dataset and revision. */
export async function resumeErasure(ledger: Transactions, ref: string): Promise<null> {
  const [dataset, revision] = ref.split(":").map(Number);
  await eraseDeleted(ledger, dataset ?? 0, revision ?? 0);
  return null;
}

/** Erases all versions of the examples that an edit has deleted: those that went with this revision. */
async function eraseDeleted(ledger: Transactions, id: number, revision: number): Promise<void> {
  for (let after: number | null = -1; after !== null; await scheduler.wait(0)) {
    const from: number = after;
    const step = ledger.changeNow((sql) => ok(eraseStep(sql, id, revision, from)));
    after = step.ok ? step.value : null;
  }
}

/** Erases the next examples above a position. Answers the last position, or null when all are erased. */
function eraseStep(sql: SqlStorage, id: number, revision: number, after: number): number | null {
  const dataset = selectDataset(sql, "id", id);
  const rows = sql
    .exec<{ position: number; id: string }>(
      `SELECT position, id FROM past_examples INDEXED BY past_examples_removed
       WHERE dataset = ? AND removed = ? AND position > ? ORDER BY position LIMIT ?`,
      id,
      revision,
      after,
      MAX_ROWS_PER_ERASURE,
    )
    .toArray();
  const last = rows.at(-1);
  if (dataset === null || last === undefined) {
    sql.exec("DELETE FROM due WHERE kind = 'erase_examples' AND ref = ?", `${id}:${revision}`);
    return null;
  }
  const changes = beginChanges(dataset);
  for (const row of rows) eraseVersions(sql, changes, row.position, row.id);
  saveStep(sql, changes);
  return last.position;
}
