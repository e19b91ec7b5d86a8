/**
 * The merge of an import into its dataset: in steps of a few milliseconds, between which the ledger serves other calls. The
 * steps write rows of the next revision, which no reader sees, and the last one makes it the dataset's revision. A merge
 * that is cut off goes on where it was: its rows are staged, and what a step has merged is no longer among them. Other
 * changes of the same dataset wait until it has ended.
 */
import type { DatasetImport } from "../../api/imports.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { toSeconds } from "../../lib/time.ts";
import { scheduleDueRetrainings } from "../heads/retraining-context.ts";
import { emit } from "../hooks/events.ts";
import { schedule, setNextAlarm } from "../tasks/tasks.ts";
import type { IdempotentResponse, Transactions } from "../transactions.ts";
import { saveStep, VERSION_BYTES } from "./changes.ts";
import { type DatasetRow, selectDataset, toDataset } from "./datasets.ts";
import { checkSize, endImport, findImport, type ImportRow, IS_NEW, type OpenImport } from "./imports.ts";
import { commitLabelCounts, countTarget } from "./label-counts.ts";
import { commitRevision, discardRevision } from "./revisions.ts";

/** The counts and the dataset; what the body was is the caller's to add. */
export type ImportResult = Pick<DatasetImport, "added" | "updated" | "unchanged" | "dataset">;

/** Bounds of one step: some milliseconds. */
const MAX_STEP_ROWS = 250;
const MAX_STEP_BYTES = 250_000;
/** When a merge goes on whose object was lost. */
const RESUME_MS = 5_000;
const POLL_MS = 10;
/** How long a change waits for a merge into the same dataset; another import waits longer, since its body has been read. */
const CHANGE_WAIT_MS = 10_000;
const MERGE_WAIT_MS = 60_000;

/** Waits until no merge into a dataset is under way. What follows at once, without `await`, finds it so. */
async function waitForMerge(ledger: Transactions, dataset: string, timeout: number): Promise<Result<null>> {
  const query = "SELECT 1 FROM datasets WHERE name = ? AND pending_revision IS NOT NULL";
  const isMerging = () => ledger.exists && ledger.storage.sql.exec(query, dataset).toArray().length > 0;
  for (const startedAt = Date.now(); isMerging(); await scheduler.wait(POLL_MS))
    if (Date.now() - startedAt > timeout)
      return fail(
        "capacity_exceeded",
        `An import is being merged into dataset '${dataset}'. Try again in a few seconds.`,
        { retryAfter: 2 },
      );
  return ok(null);
}

/** Runs a change of a dataset's examples when no merge into it is under way. */
export async function changeDataset<T>(
  ledger: Transactions,
  dataset: string,
  change: (sql: SqlStorage, now: number) => Result<T>,
  response?: IdempotentResponse<T>,
): Promise<Result<T>> {
  const free = await waitForMerge(ledger, dataset, CHANGE_WAIT_MS);
  return free.ok ? ledger.change(change, response) : free;
}

/** Merges an import, or goes on with its merge. */
export async function mergeImport(ledger: Transactions, id: string): Promise<Result<ImportResult>> {
  const open = ledger.read((sql) => findImport(sql, id));
  if (!open.ok) return open;
  if (open.value.row.revision === null) {
    const free = await waitForMerge(ledger, open.value.dataset.name, MERGE_WAIT_MS);
    if (!free.ok) return free;
  }
  const { number } = open.value.row;
  ledger.stagedKeys.delete(id);
  ledger.activeMerges.add(number);
  try {
    // The first and the last step schedule tasks.
    for (let isFirst = true; ; isFirst = false) {
      const runStep = (sql: SqlStorage, now: number) => {
        const begun = beginMerge(sql, id, now);
        return begun.ok ? ok(mergeStep(sql, begun.value, now)) : begun;
      };
      const result = isFirst ? await ledger.change(runStep) : ledger.changeNow(runStep);
      if (!result.ok) return result;
      if (result.value !== null) {
        if (!isFirst) await setNextAlarm(ledger.storage);
        return ok(result.value);
      }
      await scheduler.wait(0);
    }
  } finally {
    ledger.activeMerges.delete(number);
  }
}

/** Goes on with a merge whose object was lost. Answers when to look again, or null when it has ended. */
export async function resumeMerge(ledger: Transactions, id: string): Promise<number | null> {
  const open = ledger.read((sql) => findImport(sql, id));
  if (open.ok && ledger.activeMerges.has(open.value.row.number)) return Date.now() + RESUME_MS;
  await mergeImport(ledger, id);
  return null;
}

/** Reserves the dataset's next revision for an import, unless it has it already. */
function beginMerge(sql: SqlStorage, id: string, now: number): Result<OpenImport> {
  const open = findImport(sql, id);
  if (!open.ok || open.value.row.revision !== null) return open;
  const { row, dataset } = open.value;
  const size = checkSize(sql, row.number, dataset);
  if (!size.ok) return size;
  const revision = dataset.revision + 1;
  sql.exec("UPDATE datasets SET pending_revision = ? WHERE id = ?", revision, dataset.id);
  const pass = row.rows_with_id > 0 ? 1 : 2;
  sql.exec("UPDATE imports SET revision = ?, pass = ? WHERE number = ?", revision, pass, row.number);
  schedule(sql, "merge_import", id, now + RESUME_MS);
  return findImport(sql, id);
}

/** A part of the staged rows. */
interface Step {
  readonly open: OpenImport;
  readonly revision: number;
  /** The lines above `after` up to `last`. */
  readonly after: number;
  readonly last: number;
  readonly labels: Map<string, number>;
  historyBytes: number;
}

/** Merges the next rows, or ends the merge after the last of them. */
function mergeStep(sql: SqlStorage, open: OpenImport, now: number): ImportResult | null {
  const { row, dataset } = open;
  const lines = nextLines(sql, row);
  const step: Step = {
    open,
    revision: dataset.revision + 1,
    after: row.line,
    last: lines.last,
    labels: new Map(),
    historyBytes: 0,
  };
  const updated = row.pass === 1 && dataset.examples > 0 ? replaceExamples(sql, step) : 0;
  const added = addExamples(sql, step, now);
  const merged = "import = ? AND line > ? AND line <= ? AND (id IS NOT NULL) = (? = 1)";
  sql.exec(`DELETE FROM staged WHERE ${merged}`, row.number, step.after, step.last, row.pass);
  saveStep(sql, { dataset, labels: step.labels, historyBytes: step.historyBytes });
  const [pass, line] = lines.areAll ? [row.pass + 1, 0] : [row.pass, step.last];
  sql.exec(
    "UPDATE imports SET pass = ?, line = ?, added = added + ?, updated = updated + ? WHERE number = ?",
    pass,
    line,
    added,
    updated,
    row.number,
  );
  if (pass <= 2 && !isMerged(sql, row)) return null;
  return commitMerge(sql, { ...row, added: row.added + added, updated: row.updated + updated }, now);
}

function isMerged(sql: SqlStorage, { number }: ImportRow): boolean {
  return sql.exec("SELECT 1 FROM staged WHERE import = ? LIMIT 1", number).toArray().length === 0;
}

/** The last of the next staged lines that one step may merge, and whether none follows. */
export function nextLines(
  sql: SqlStorage,
  { number, line }: Pick<ImportRow, "number" | "line">,
): { last: number; areAll: boolean } {
  const rows = sql
    .exec<{ line: number; bytes: number }>(
      "SELECT line, octet_length(input) AS bytes FROM staged WHERE import = ? AND line > ? ORDER BY line LIMIT ?",
      number,
      line,
      MAX_STEP_ROWS,
    )
    .toArray();
  let [bytes, count] = [0, 0];
  for (const row of rows) {
    bytes += row.bytes;
    if (bytes > MAX_STEP_BYTES && count > 0) break;
    count++;
  }
  return { last: rows[count - 1]?.line ?? line, areAll: count === rows.length && count < MAX_STEP_ROWS };
}

/** SQL: the staged rows of a step whose id an example has with another content. */
const REPLACED = `
  FROM staged AS s CROSS JOIN examples AS e
  WHERE s.import = ?3 AND s.line > ?4 AND s.line <= ?5 AND s.id IS NOT NULL
    AND e.dataset = ?1 AND e.id = s.id AND e.content_hash <> s.content_hash`;

/** Replaces the examples whose ids the rows of a step have, and keeps what they were. Answers how many. */
function replaceExamples(sql: SqlStorage, step: Step): number {
  const { open, revision, after, last, labels } = step;
  const { task, id: dataset } = open.dataset;
  const bindings = [dataset, revision, open.row.number, after, last];
  const replaced = sql
    .exec<{ target: string; bytes: number }>(
      `INSERT INTO past_examples (dataset, position, removed, revision, id, input_hash, group_hash, content_hash, created_at, target, input)
       SELECT e.dataset, e.position, ?2, e.revision, e.id, e.input_hash, e.group_hash, e.content_hash, e.created_at, e.target, e.input
       ${REPLACED} RETURNING target, ${VERSION_BYTES} AS bytes`,
      ...bindings,
    )
    .toArray();
  if (replaced.length === 0) return 0;
  for (const { target, bytes } of replaced) {
    countTarget(labels, task, target, -1);
    step.historyBytes += bytes;
  }
  const updated = sql.exec<{ target: string }>(
    `UPDATE examples SET input_hash = s.input_hash, group_hash = s.group_hash, content_hash = s.content_hash,
       input = s.input, target = s.target, revision = ?2
     FROM staged AS s WHERE s.import = ?3 AND s.line > ?4 AND s.line <= ?5 AND s.id IS NOT NULL
       AND examples.dataset = ?1 AND examples.id = s.id AND examples.content_hash <> s.content_hash
     RETURNING target`,
    ...bindings,
  );
  for (const { target } of updated) countTarget(labels, task, target, 1);
  return replaced.length;
}

/** Adds the rows of a step that are new to the dataset. Answers how many. */
function addExamples(sql: SqlStorage, { open, revision, after, last, labels }: Step, now: number): number {
  const { row, dataset } = open;
  // The different rows of one import without ids are all new to an empty dataset.
  const isNew = dataset.examples === 0 && row.rows_with_id === 0 ? "TRUE" : IS_NEW;
  const added = sql
    .exec<{ target: string }>(
      `INSERT INTO examples (dataset, position, id, input_hash, group_hash, content_hash, input, target, created_at, revision)
       SELECT ?1, ?2 + row_number() OVER (ORDER BY s.line) - 1, coalesce(s.id, 'ex_' || substr(?3, 8) || '_' || s.line),
              s.input_hash, s.group_hash, s.content_hash, s.input, s.target, ?4, ?5
       FROM staged AS s WHERE s.import = ?6 AND s.line > ?7 AND s.line <= ?8 AND (s.id IS NOT NULL) = (?9 = 1) AND ${isNew}
       RETURNING target`,
      dataset.id,
      dataset.next_position + row.added,
      row.id,
      toSeconds(now),
      revision,
      row.number,
      after,
      last,
      row.pass,
    )
    .toArray();
  for (const { target } of added) countTarget(labels, dataset.task, target, 1);
  return added.length;
}

/** Ends a merge: its revision becomes the dataset's. */
function commitMerge(sql: SqlStorage, row: ImportRow, now: number): ImportResult {
  const { id, number, added, superseded } = row;
  const updated = row.updated + superseded;
  const isChanged = added + row.updated > 0;
  const dataset = selectDataset(sql, "id", row.dataset) as DatasetRow;
  const counts = { added, updated, unchanged: row.rows - added - updated };
  if (isChanged) {
    commitLabelCounts(sql, dataset.id);
    const { revision, examples, next_position } = dataset;
    const change = {
      revision: revision + 1,
      examples: examples + added,
      nextPosition: next_position + added,
      historyBytes: 0,
    };
    if (row.updated > 0) schedule(sql, "expire_history", "", now);
    commitRevision(sql, dataset.id, change, now);
  } else discardRevision(sql, dataset.id, now);
  sql.exec("DELETE FROM imports WHERE number = ?", number);
  endImport(sql, id, number, now);
  const datasetObject = toDataset(sql, selectDataset(sql, "id", dataset.id) as DatasetRow, now);
  if (isChanged) {
    const { name, revision, examples } = datasetObject;
    const data = { object: "dataset.import", id, dataset: { name, revision, examples }, ...counts };
    emit(sql, "dataset.imported", data, now);
    scheduleDueRetrainings(sql, dataset.id, now);
  }
  return { ...counts, dataset: datasetObject };
}
