import type { Dataset, DatasetModality } from "../../api/datasets.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { findListPosition } from "../deleted-positions.ts";
import { deleteCaptureOfDataset } from "../heads/capture-deletion.ts";
import { deleteRunsOfDataset } from "../heads/evaluation-deletion.ts";
import { paginate } from "../page.ts";
import { schedule } from "../tasks/tasks.ts";
import { countEmbedded } from "./blocks.ts";
import { deleteRowsOf } from "./bounded-deletion.ts";
import { countStoredExamples, readLabelCounts } from "./label-counts.ts";
import { deleteRecommendationsOfDataset } from "./recommendations.ts";

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
  /** Above the positions of all examples; they are never reused, so a block of embeddings is always of the same rows. */
  next_position: number;
  examples: number;
  /** The revision that a change in steps is making; null if there is none. */
  pending_revision: number | null;
  created_at: number;
  updated_at: number;
}

export function findDataset(sql: SqlStorage, name: string): Result<DatasetRow> {
  const row = selectDataset(sql, "name", name);
  return row ? ok(row) : fail("not_found", `No dataset '${name}'.`);
}

/** A dataset by its number or name, with its examples counted. */
export function selectDataset(sql: SqlStorage, column: "id" | "name", value: number | string): DatasetRow | null {
  const select = () => sql.exec<DatasetRow>(`SELECT * FROM datasets WHERE ${column} = ?`, value).toArray()[0] ?? null;
  const row = select();
  // An earlier build has not counted them.
  if (row === null || (row.examples as number | null) !== null) return row;
  countStoredExamples(sql, row.id, row.task);
  return select();
}

export function toDataset(sql: SqlStorage, row: DatasetRow, now: number): Dataset {
  return {
    object: "dataset",
    id: row.name,
    name: row.name,
    task: row.task,
    modality: row.modality,
    dimensions: row.dimensions,
    out_of_scope_label: row.out_of_scope_label,
    examples: row.examples,
    labels: readLabelCounts(sql, row.id),
    embedded: countEmbedded(sql, row.id, now),
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
    "INSERT INTO datasets (name, task, modality, dimensions, out_of_scope_label, revision, next_position, examples, created_at, updated_at) VALUES (?, ?, ?, ?, ?, 0, 0, 0, ?, ?)",
    dataset.name,
    dataset.task,
    dataset.modality,
    dataset.dimensions,
    dataset.out_of_scope_label,
    toSeconds(now),
    toSeconds(now),
  );
  const row = findDataset(sql, dataset.name);
  if (row.ok)
    sql.exec(
      "INSERT INTO revisions (dataset, revision, examples, created_at) VALUES (?, 0, 0, ?)",
      row.value.id,
      toSeconds(now),
    );
  return row.ok ? ok(toDataset(sql, row.value, now)) : row;
}

export function countDatasets(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM datasets").one().n;
}

export function listDatasets(sql: SqlStorage, request: PageRequest, now: number): Result<List<Dataset>> {
  return paginate(request, {
    findPosition: (name) => findListPosition(sql, "datasets", name),
    readRows: (cursor, count) =>
      sql
        .exec<{ name: string }>("SELECT name FROM datasets WHERE id < ? ORDER BY id DESC LIMIT ?", cursor, count)
        .toArray(),
    toObject: ({ name }) => toDataset(sql, selectDataset(sql, "name", name) as DatasetRow, now),
    getId: ({ id }) => id,
  });
}

/** Deletes a dataset. Tasks delete the rest of its rows, which nothing finds any more, and its published embeddings. */
export function deleteDataset(
  sql: SqlStorage,
  name: string,
  now: number,
): Result<{ id: string; object: "dataset"; deleted: true }> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const { id } = dataset.value;
  for (const row of sql
    .exec<{ number: number }>("DELETE FROM imports WHERE dataset = ? RETURNING number", id)
    .toArray())
    schedule(sql, "delete_staged", String(row.number), now);
  sql.exec("DELETE FROM edits WHERE dataset = ?", id);
  sql.exec("DELETE FROM blocks WHERE dataset = ?", id);
  sql.exec("DELETE FROM datasets WHERE id = ?", id);
  sql.exec("DELETE FROM issue_lists WHERE dataset = ?", id);
  deleteRunsOfDataset(sql, id, now);
  deleteCaptureOfDataset(sql, id);
  deleteRecommendationsOfDataset(sql, id);
  if (deleteDatasetRows(sql, id)) schedule(sql, "delete_examples", String(id), now);
  schedule(sql, "delete_blocks", String(id), now);
  return ok({ id: name, object: "dataset", deleted: true });
}

/** Deletes a bounded number of the rows of a deleted dataset. Answers whether some may be left. */
export function deleteDatasetRows(sql: SqlStorage, dataset: number): boolean {
  return deleteRowsOf(sql, "dataset", dataset, {
    issues: "number",
    resolved_issues: "id",
    examples: "position",
    past_examples: "position, removed",
    label_counts: "label",
    revisions: "revision",
  });
}
