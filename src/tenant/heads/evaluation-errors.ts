/**
 * The examples that the lists of a run show. Their texts are read when a list is asked for, so what was deleted is in none.
 */
import {
  type EvaluationError,
  type EvaluationErrorPageRequest,
  type EvaluationErrorType,
  evaluationErrorTypes,
} from "../../api/evaluations.ts";
import type { List } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { selectDataset } from "../data/datasets.ts";
import { EXAMPLE_COLUMNS, type ExampleRow, findExamplePosition, toExample } from "../data/examples.ts";
import { rowsAt } from "../data/revisions.ts";
import { paginate } from "../page.ts";
import type { Transactions } from "../transactions.ts";
import { findRun, type RunRow, type StoredError, type StoredPrediction, toRun } from "./evaluations.ts";
import { getHead } from "./heads.ts";

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
  const errors: EvaluationError[] = [];
  for (let below: number | null = view.below; below !== null && errors.length <= request.limit; ) {
    const from: number = below;
    const step = ledger.read((sql) => readErrors(sql, view, type, from, request.limit + 1 - errors.length));
    if (!step.ok) return step;
    errors.push(...step.value.errors);
    below = step.value.below;
    await scheduler.wait(0);
  }
  return paginate(request, { findPosition: () => view.below, readRows: () => errors, toObject: (error) => error });
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
