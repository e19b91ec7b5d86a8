/**
 * Runs of versions on test sets. A run keeps its figures, and of each example that a list shows its position and what was
 * predicted: no texts. The list reads the texts when it is asked for, so what was deleted is in none.
 */
import type { DatasetModality } from "../../api/datasets.ts";
import type { EvaluationRun, EvaluationRunPageRequest } from "../../api/evaluations.ts";
import type { Head } from "../../api/heads.ts";
import type { List } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { selectDataset } from "../data/datasets.ts";
import { findListPosition } from "../deleted-positions.ts";
import { paginate } from "../page.ts";
import { deleteOldRuns } from "./evaluation-deletion.ts";
import { commitHead, type NewHead } from "./heads.ts";

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

export interface RunRow extends Record<string, SqlStorageValue> {
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
  vectors: Uint32Array | null,
): Result<Head> {
  const committed = commitHead(sql, head, promote, now, vectors);
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

export function findRun(sql: SqlStorage, id: string): Result<RunRow> {
  const row = sql.exec<RunRow>("SELECT * FROM evaluations WHERE id = ?", id).toArray()[0];
  return row ? ok(row) : fail("not_found", `No evaluation '${id}'.`);
}

export function toRun({ record }: Pick<RunRow, "record">): EvaluationRun {
  return JSON.parse(record) as EvaluationRun;
}

export function getRun(sql: SqlStorage, id: string): Result<EvaluationRun> {
  const row = findRun(sql, id);
  return row.ok ? ok(toRun(row.value)) : row;
}

/** A run in a list: without the parts of its evaluation that grow with the labels. */
function toSummary(row: RunRow): EvaluationRun {
  const run = toRun(row);
  const { per_class: _perClass, confusion: _confusion, reliability: _reliability, ...evaluation } = run.evaluation;
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
