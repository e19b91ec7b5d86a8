/**
 * Runs of versions on test sets. A run keeps its figures, and of each example that a list shows its position and what was
 * predicted: no texts. The list reads the texts when it is asked for, so what was deleted is in none.
 */

import type { DatasetModality } from "../../api/datasets.ts";
import {
  type EvaluationError,
  type EvaluationErrorPageRequest,
  type EvaluationErrorType,
  type EvaluationRun,
  type EvaluationRunPageRequest,
  evaluationErrorTypes,
} from "../../api/evaluations.ts";
import type { Head } from "../../api/heads.ts";
import type { List } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { selectDataset } from "../data/datasets.ts";
import { EXAMPLE_COLUMNS, type ExampleRow, findExamplePosition, toExample } from "../data/examples.ts";
import { rowsAt } from "../data/revisions.ts";
import { findListPosition } from "../deleted-positions.ts";
import { paginate } from "../page.ts";
import type { Transactions } from "../transactions.ts";
import { deleteOldRuns } from "./evaluation-deletion.ts";
import { commitHead, getHead, type NewHead } from "./heads.ts";

/** What a version predicts of an example: indices of labels or a value, a label's score, and whether it is in scope. */
export type StoredPrediction = readonly [values: readonly number[], score: number | null, inScope: boolean | null];

/** An example that a list of a run shows. `types`: the sum of 2 ** i of its types in `evaluationErrorTypes`. */
export type StoredError = readonly [
  position: number,
  types: number,
  prediction: StoredPrediction,
  other: StoredPrediction | null,
];

/** A run before it is stored. */
export interface NewRun {
  readonly run: Omit<EvaluationRun, "object" | "head" | "version" | "created_at">;
  /** The dataset's number. */
  readonly dataset: number;
  /** By rising positions. */
  readonly errors: readonly StoredError[];
}

/** The version of a run. A head that was deleted and made again has other bytes. */
export interface RunVersion {
  readonly head: string;
  readonly version: number;
  readonly sha256: string;
}

interface RunRow extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  head: number;
  version: number;
  other_version: number | null;
  dataset: number;
  revision: number;
  record: string;
  created_at: number;
}

/** Errors in one row of the ledger. */
const ERRORS_PER_ROW = 500;

/** A version that is not stored yet, with its test; `run` is null if it was not tested, or the test failed. */
export interface TestedVersion {
  readonly head: NewHead;
  readonly run: NewRun | null;
}

/** The version with its test as far as that can be stored: the test set may be gone by now. */
export function checkTest(sql: SqlStorage, head: NewHead, run: NewRun | null): TestedVersion {
  if (run === null || head.test === undefined) return { head, run };
  const check = checkRun(sql, run);
  if (check.ok) return { head, run };
  const { code, message } = check.failure;
  return {
    head: { ...head, test: { ...head.test, evaluation: null, accuracy: null, failure: { code, message } } },
    run: null,
  };
}

/** Adds a version with its test, and promotes it if `promote`. */
export function commitTestedHead(
  sql: SqlStorage,
  { head, run }: TestedVersion,
  promote: boolean,
  now: number,
): Result<Head> {
  const committed = commitHead(sql, head, promote, now);
  if (!committed.ok || run === null) return committed;
  const { version, sha256 } = committed.value;
  const added = addRun(sql, { head: head.id, version, sha256 }, run, now);
  return added.ok ? committed : added;
}

/** What a head is for. */
export interface TestedShape {
  readonly task: Task;
  readonly modality: DatasetModality | "image";
}

/** Refuses a dataset as a test set for what another one trains, or for a head: it has to be of that task and modality. */
export function checkTestDataset(sql: SqlStorage, name: string, trained: TestedShape | null): Result<null> {
  const param = "test_dataset";
  const dataset = selectDataset(sql, "name", name);
  if (dataset === null) return fail("not_found", `No dataset '${name}'.`, { param });
  if (trained === null) return ok(null);
  if (dataset.task !== trained.task)
    return fail("task_mismatch", `Dataset '${name}' is for the task '${dataset.task}', not '${trained.task}'.`, {
      param,
    });
  if (dataset.modality === trained.modality) return ok(null);
  return fail(
    "modality_mismatch",
    `Dataset '${name}' has the modality '${dataset.modality}', not '${trained.modality}'.`,
    {
      param,
    },
  );
}

/** Refuses a run that cannot be stored. */
function checkRun(sql: SqlStorage, { run, dataset }: NewRun): Result<null> {
  if (selectDataset(sql, "id", dataset) === null)
    return fail("not_found", `Dataset '${run.dataset.name}' was deleted.`, { param: "dataset" });
  const [limit, actual] = [limits.head_record_bytes, Buffer.byteLength(JSON.stringify(run))];
  if (actual <= limit) return ok(null);
  const message = `The figures of a run have at most ${limit} bytes as JSON; these have ${actual}. Use fewer or shorter labels.`;
  return fail("limit_exceeded", message, { details: { limit, actual } });
}

/** Stores a run of a version that exists. The oldest runs go where there are too many. */
export function addRun(
  sql: SqlStorage,
  { head: name, version, sha256 }: RunVersion,
  { run, dataset, errors }: NewRun,
  now: number,
): Result<EvaluationRun> {
  const head = sql
    .exec<{ id: number }>(
      "SELECT id FROM heads JOIN head_versions ON head = heads.id WHERE name = ? AND version = ? AND sha256 = ?",
      name,
      version,
      sha256,
    )
    .toArray()[0];
  if (head === undefined) return fail("not_found", `Version ${version} of head '${name}' was deleted.`);
  const check = checkRun(sql, { run, dataset, errors });
  if (!check.ok) return check;
  const object: EvaluationRun = {
    object: "evaluation.run",
    head: name,
    version,
    ...run,
    created_at: toSeconds(now),
  };
  const record = JSON.stringify(object);
  const recordBytes = Buffer.byteLength(record);
  const { number } = sql
    .exec<{ number: number }>(
      `INSERT INTO evaluations (id, head, version, other_version, dataset, revision, record, bytes, created_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING number`,
      object.id,
      head.id,
      version,
      run.comparison?.version ?? null,
      dataset,
      run.dataset.revision,
      record,
      recordBytes,
      object.created_at,
    )
    .one();
  let bytes = recordBytes;
  for (let start = 0; start < errors.length; start += ERRORS_PER_ROW) {
    const rows = errors.slice(start, start + ERRORS_PER_ROW);
    const json = JSON.stringify(rows);
    bytes += json.length;
    sql.exec(
      "INSERT INTO evaluation_errors (run, first_position, errors) VALUES (?, ?, ?)",
      number,
      rows[0]?.[0] ?? 0,
      json,
    );
  }
  sql.exec("UPDATE evaluations SET bytes = ? WHERE number = ?", bytes, number);
  deleteOldRuns(sql, now);
  return ok(object);
}

function findRun(sql: SqlStorage, id: string): Result<RunRow> {
  const row = sql.exec<RunRow>("SELECT * FROM evaluations WHERE id = ?", id).toArray()[0];
  return row ? ok(row) : fail("not_found", `No evaluation '${id}'.`);
}

function toRun({ record }: Pick<RunRow, "record">): EvaluationRun {
  return JSON.parse(record) as EvaluationRun;
}

export function getRun(sql: SqlStorage, id: string): Result<EvaluationRun> {
  const row = findRun(sql, id);
  return row.ok ? ok(toRun(row.value)) : row;
}

/** A run in a list: without the parts of its evaluation that grow with the labels. */
function toSummary(row: RunRow): EvaluationRun {
  const run = toRun(row);
  const { per_class: _perClass, confusion: _confusion, ...evaluation } = run.evaluation;
  return { ...run, evaluation };
}

/** Lists runs, of one head or on one dataset if these are named. A name that nothing has finds none. */
export function listRuns(
  sql: SqlStorage,
  { head, dataset, ...request }: EvaluationRunPageRequest,
): Result<List<EvaluationRun>> {
  const where = `number < ?1
    AND (?3 IS NULL OR head = (SELECT id FROM heads WHERE name = ?3))
    AND (?4 IS NULL OR dataset = (SELECT id FROM datasets WHERE name = ?4))`;
  return paginate(request, {
    findPosition: (id) => findListPosition(sql, "evaluations", id),
    readRows: (cursor, count) =>
      sql.exec<RunRow>(
        `SELECT * FROM evaluations WHERE ${where} ORDER BY number DESC LIMIT ?2`,
        cursor,
        count,
        head ?? null,
        dataset ?? null,
      ),
    toObject: toSummary,
  });
}

/** What the rows of a run's errors are shown with. */
interface ErrorView {
  readonly run: RunRow;
  readonly task: Task;
  readonly labels: readonly string[];
  readonly otherLabels: readonly string[];
  /** Errors stand below this position. */
  readonly below: number;
}

/** A page of the examples of a type: those that still are as the run has seen them, newest first. */
export async function listErrors(
  ledger: Transactions,
  id: string,
  { type, ...request }: EvaluationErrorPageRequest,
): Promise<Result<List<EvaluationError>>> {
  const begun = ledger.read((sql) => beginErrorList(sql, id, type, request.after));
  if (!begun.ok) return begun;
  const view = begun.value;
  const found: EvaluationError[] = [];
  for (let below: number | null = view.below; below !== null && found.length <= request.limit; ) {
    const from: number = below;
    const step = ledger.read((sql) => readErrors(sql, view, type, from, request.limit + 1 - found.length));
    if (!step.ok) return step;
    found.push(...step.value.errors);
    below = step.value.below;
    await scheduler.wait(0);
  }
  return paginate(request, { findPosition: () => view.below, readRows: () => found, toObject: (error) => error });
}

function beginErrorList(
  sql: SqlStorage,
  id: string,
  type: EvaluationErrorType,
  after: string | undefined,
): Result<ErrorView> {
  const run = findRun(sql, id);
  if (!run.ok) return run;
  const { other_version, version, dataset: datasetId, revision } = run.value;
  if (other_version === null && (type === "fixed" || type === "broken"))
    return fail(
      "invalid_parameter",
      `'${type}' is of two versions, and this run has one. Run it with 'compare_with'.`,
      {
        param: "type",
      },
    );
  const dataset = selectDataset(sql, "id", datasetId);
  const { head: headName } = toRun(run.value);
  const head = getHead(sql, headName, version);
  if (!head.ok) return head;
  const other = other_version === null ? null : getHead(sql, headName, other_version);
  if (other?.ok === false) return other;
  if (dataset === null) return fail("not_found", "The dataset of this evaluation was deleted.");
  const { task, labels } = head.value;
  const position =
    after === undefined
      ? Number.MAX_SAFE_INTEGER
      : (sql
          .exec<{ position: number }>(rowsAt(dataset, revision, "position", "id = ?3"), datasetId, revision, after)
          .toArray()[0]?.position ?? findExamplePosition(sql, dataset, after));
  if (position === null)
    return fail("invalid_parameter", `No object '${after}' in this list to continue after.`, { param: "after" });
  return ok({ run: run.value, task, labels, otherLabels: other?.value.labels ?? [], below: position });
}

/** The next errors below a position: those of one row of the ledger. */
function readErrors(
  sql: SqlStorage,
  { run, task, labels, otherLabels }: ErrorView,
  type: EvaluationErrorType,
  below: number,
  count: number,
): Result<{ readonly errors: readonly EvaluationError[]; readonly below: number | null }> {
  const dataset = selectDataset(sql, "id", run.dataset);
  if (dataset === null) return fail("not_found", "The dataset of this evaluation was deleted.");
  const row = sql
    .exec<{ first_position: number; errors: string }>(
      "SELECT first_position, errors FROM evaluation_errors WHERE run = ? AND first_position < ? ORDER BY first_position DESC LIMIT 1",
      run.number,
      below,
    )
    .toArray()[0];
  if (row === undefined) return ok({ errors: [], below: null });
  const bit = 2 ** evaluationErrorTypes.indexOf(type);
  const stored = (JSON.parse(row.errors) as StoredError[]).filter(
    ([position, types]) => position < below && (types & bit) !== 0,
  );
  const query = rowsAt(dataset, run.revision, EXAMPLE_COLUMNS, "position = ?3");
  const errors: EvaluationError[] = [];
  for (const [position, , prediction, other] of stored.toReversed()) {
    if (errors.length === count) break;
    const example = sql.exec<ExampleRow>(query, run.dataset, run.revision, position).toArray()[0];
    if (example === undefined) continue;
    const { created_at: _createdAt, ...shown } = toExample(task, example);
    errors.push({
      ...shown,
      object: "evaluation.error",
      prediction: showPrediction(task, labels, prediction),
      other_prediction: other && showPrediction(task, otherLabels, other),
    });
  }
  return ok({ errors, below: row.first_position });
}

function showPrediction(
  task: Task,
  labels: readonly string[],
  [values, score, inScope]: StoredPrediction,
): EvaluationError["prediction"] {
  if (task === "regression") return { value: values[0] ?? 0 };
  const names = values.map((index) => labels[index] ?? "");
  if (task === "multi_label") return { labels: names };
  return { label: names[0] ?? "", score: score ?? 0, in_scope: inScope ?? true };
}
