/** How many examples of a dataset have each label. Every change of examples keeps the counts. */
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";

/** The labels of a stored target; none for regression. */
export function labelsOf(task: Task, target: string): string[] {
  if (task === "regression") return [];
  return task === "single_label" ? [JSON.parse(target) as string] : (JSON.parse(target) as string[]);
}

/** Adds `difference` to the count of each label of a target. */
export function countTarget(counts: Map<string, number>, task: Task, target: string, difference: number): void {
  for (const label of labelsOf(task, target)) counts.set(label, (counts.get(label) ?? 0) + difference);
}

/** How many examples have each label, in alphabetical order; empty for regression. */
export function readLabelCounts(sql: SqlStorage, dataset: number): Record<string, number> {
  const rows = sql
    .exec<{ label: string; examples: number }>(
      "SELECT label, examples FROM label_counts WHERE dataset = ? AND examples > 0",
      dataset,
    )
    .toArray();
  rows.sort((a, b) => (a.label < b.label ? -1 : 1));
  return Object.fromEntries(rows.map(({ label, examples }) => [label, examples]));
}

export function countLabels(sql: SqlStorage, dataset: number): number {
  const query = "SELECT count(*) AS n FROM label_counts WHERE dataset = ? AND examples > 0";
  return sql.exec<{ n: number }>(query, dataset).one().n;
}

/** Whether an example has this label. */
export function hasLabel(sql: SqlStorage, dataset: number, label: string): boolean {
  const query = "SELECT 1 FROM label_counts WHERE dataset = ? AND label = ? AND examples > 0";
  return sql.exec(query, dataset, label).toArray().length > 0;
}

/** Changes the counts: at once, or once the revision is committed that a merge is making. */
export function changeLabelCounts(
  sql: SqlStorage,
  dataset: number,
  counts: ReadonlyMap<string, number>,
  column: "examples" | "pending",
): void {
  for (const [label, difference] of counts) {
    if (difference === 0) continue;
    const [examples, pending] = column === "examples" ? [difference, 0] : [0, difference];
    sql.exec(
      `INSERT INTO label_counts (dataset, label, examples, pending) VALUES (?, ?, ?, ?)
       ON CONFLICT (dataset, label) DO UPDATE SET examples = examples + excluded.examples, pending = pending + excluded.pending`,
      dataset,
      label,
      examples,
      pending,
    );
    if (column === "examples" && difference < 0)
      sql.exec("DELETE FROM label_counts WHERE dataset = ? AND label = ? AND examples = 0", dataset, label);
  }
}

/** Makes the pending counts those of the dataset. There are at most twice as many as a dataset has labels. */
export function commitLabelCounts(sql: SqlStorage, dataset: number): void {
  sql.exec(
    "UPDATE label_counts SET examples = examples + pending, pending = 0 WHERE dataset = ? AND pending <> 0",
    dataset,
  );
  sql.exec("DELETE FROM label_counts WHERE dataset = ? AND examples = 0", dataset);
}

/** Counts the examples of a dataset that an earlier build of the Worker wrote. It happens once a dataset. */
export function countStoredExamples(sql: SqlStorage, id: number, task: Task): void {
  const counts = new Map<string, number>();
  let examples = 0;
  const rows = sql.exec<{ target: string; n: number }>(
    "SELECT target, count(*) AS n FROM examples WHERE dataset = ? GROUP BY target",
    id,
  );
  for (const { target, n } of rows) {
    examples += n;
    countTarget(counts, task, target, n);
  }
  changeLabelCounts(sql, id, counts, "examples");
  sql.exec(
    `UPDATE datasets SET examples = ?2,
       next_position = max(next_position, (SELECT coalesce(max(position) + 1, 0) FROM examples WHERE dataset = ?1))
     WHERE id = ?1`,
    id,
    examples,
  );
  sql.exec("UPDATE revisions SET examples = ? WHERE dataset = ?", examples, id);
}

export function labelLimitFailure(actual: number): Result<never> {
  const limit = limits.labels_per_dataset;
  const message = `A dataset has at most ${limit} labels; with this change it would have ${actual}.`;
  return fail("limit_exceeded", message, { details: { limit, actual } });
}

/** Refuses a change that gave the dataset too many labels. Call it in a transaction that is rolled back on failure. */
export function checkLabelLimit(sql: SqlStorage, dataset: number): Result<null> {
  const labels = countLabels(sql, dataset);
  return labels <= limits.labels_per_dataset ? ok(null) : labelLimitFailure(labels);
}
