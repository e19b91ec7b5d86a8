import type { Dataset, DatasetModality } from "../../api/datasets.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { findListPosition } from "../deleted-positions.ts";
import { paginate } from "../page.ts";
import { schedule } from "../tasks/tasks.ts";

/** A dataset as it is created. */
export type NewDataset = Pick<Dataset, "name" | "task" | "modality" | "dimensions" | "out_of_scope_label">;

export interface DatasetRow extends Record<string, SqlStorageValue> {
  id: number;
  name: string;
  task: Task;
  modality: DatasetModality;
  dimensions: number | null;
  out_of_scope_label: string | null;
  revision: number;
  next_position: number;
  created_at: number;
  updated_at: number;
}

export function findDataset(sql: SqlStorage, name: string): Result<DatasetRow> {
  const row = sql.exec<DatasetRow>("SELECT * FROM datasets WHERE name = ?", name).toArray()[0];
  return row ? ok(row) : fail("not_found", `No dataset '${name}'.`);
}

/** How many examples have each label, in alphabetical order; empty for regression. */
export function countLabels(sql: SqlStorage, dataset: DatasetRow): Record<string, number> {
  if (dataset.task === "regression") return {};
  const query =
    dataset.task === "single_label"
      ? "SELECT json_extract(target, '$') AS label, count(*) AS n FROM examples WHERE dataset = ? GROUP BY target"
      : "SELECT value AS label, count(*) AS n FROM examples, json_each(target) WHERE dataset = ? GROUP BY value";
  const rows = sql.exec<{ label: string; n: number }>(query, dataset.id).toArray();
  rows.sort((a, b) => (a.label < b.label ? -1 : 1));
  return Object.fromEntries(rows.map((row) => [row.label, row.n]));
}

/** Refuses a change that gave the dataset too many labels. Call it in a transaction that is rolled back on failure. */
export function checkLabelLimit(sql: SqlStorage, dataset: DatasetRow): Result<null> {
  const labels = Object.keys(countLabels(sql, dataset)).length;
  if (labels <= limits.labels_per_dataset) return ok(null);
  return fail(
    "limit_exceeded",
    `A dataset has at most ${limits.labels_per_dataset} labels; with this change it would have ${labels}.`,
    { details: { limit: limits.labels_per_dataset, actual: labels } },
  );
}

export function toDataset(sql: SqlStorage, row: DatasetRow): Dataset {
  return {
    object: "dataset",
    id: row.name,
    name: row.name,
    task: row.task,
    modality: row.modality,
    dimensions: row.dimensions,
    out_of_scope_label: row.out_of_scope_label,
    examples: sql.exec<{ n: number }>("SELECT count(*) AS n FROM examples WHERE dataset = ?", row.id).one().n,
    labels: countLabels(sql, row),
    revision: row.revision,
    created_at: row.created_at,
    updated_at: row.updated_at,
  };
}

export function createDataset(sql: SqlStorage, dataset: NewDataset, now: number): Result<Dataset> {
  if (findDataset(sql, dataset.name).ok) {
    return fail(
      "already_exists",
      `A dataset '${dataset.name}' exists already. Choose another name, or delete that one first.`,
      { param: "name" },
    );
  }
  const count = countDatasets(sql);
  if (count >= limits.datasets)
    return fail("limit_exceeded", `A tenant has at most ${limits.datasets} datasets; this one has ${count}.`, {
      details: { limit: limits.datasets, actual: count },
    });
  sql.exec(
    "INSERT INTO datasets (name, task, modality, dimensions, out_of_scope_label, revision, next_position, created_at, updated_at) VALUES (?, ?, ?, ?, ?, 0, 0, ?, ?)",
    dataset.name,
    dataset.task,
    dataset.modality,
    dataset.dimensions,
    dataset.out_of_scope_label,
    toSeconds(now),
    toSeconds(now),
  );
  const row = findDataset(sql, dataset.name);
  return row.ok ? ok(toDataset(sql, row.value)) : row;
}

export function countDatasets(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM datasets").one().n;
}

export function listDatasets(sql: SqlStorage, request: PageRequest): Result<List<Dataset>> {
  return paginate(request, {
    findPosition: (name) => findListPosition(sql, "datasets", name),
    readRows: (cursor, count) =>
      sql.exec<DatasetRow>("SELECT * FROM datasets WHERE id < ? ORDER BY id DESC LIMIT ?", cursor, count).toArray(),
    toObject: (row) => toDataset(sql, row),
    getId: ({ id }) => id,
    // Counting its labels takes as long as sending a few characters of each example.
    getSize: (dataset) => JSON.stringify(dataset.labels).length + 5 * dataset.examples,
  });
}

/** Deletes a dataset with all its rows. A task deletes its published embeddings. */
export function deleteDataset(
  sql: SqlStorage,
  name: string,
  now: number,
): Result<{ id: string; object: "dataset"; deleted: true }> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const id = dataset.value.id;
  for (const row of sql.exec<{ id: string }>("SELECT id FROM imports WHERE dataset = ?", id).toArray()) {
    sql.exec("DELETE FROM staged WHERE import = ?", row.id);
  }
  sql.exec("DELETE FROM imports WHERE dataset = ?", id);
  sql.exec("DELETE FROM examples WHERE dataset = ?", id);
  sql.exec("DELETE FROM blocks WHERE dataset = ?", id);
  sql.exec("DELETE FROM datasets WHERE id = ?", id);
  schedule(sql, "delete_blocks", String(id), now);
  return ok({ id: name, object: "dataset", deleted: true });
}

/** Counts a change of a dataset's examples. */
export function incrementRevision(sql: SqlStorage, id: number, now: number): void {
  sql.exec("UPDATE datasets SET revision = revision + 1, updated_at = ? WHERE id = ?", toSeconds(now), id);
}
