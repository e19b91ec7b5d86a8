import type { Example, StoredExample } from "../../api/examples.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { scheduleDueRetrainings } from "../heads/retraining-context.ts";
import { paginate } from "../page.ts";
import { checkLabelLimit, type DatasetRow, findDataset, incrementRevision } from "./datasets.ts";

export interface ExampleRow extends Record<string, SqlStorageValue> {
  position: number;
  id: string;
  input: string | ArrayBuffer;
  target: string;
  created_at: number;
}

export function toExample(task: Task, row: ExampleRow): Example {
  const target = JSON.parse(row.target);
  return {
    object: "example",
    id: row.id,
    ...(typeof row.input === "string" ? { text: row.input } : { embedding: Array.from(new Float32Array(row.input)) }),
    ...(task === "single_label" ? { label: target } : task === "multi_label" ? { labels: target } : { value: target }),
    created_at: row.created_at,
  };
}

function findPosition(sql: SqlStorage, dataset: number, id: string): number | null {
  const rows = sql
    .exec<{ position: number }>("SELECT position FROM examples WHERE dataset = ? AND id = ?", dataset, id)
    .toArray();
  return rows[0]?.position ?? null;
}

export function listExamples(
  sql: SqlStorage,
  name: string,
  label: string | undefined,
  request: PageRequest,
): Result<List<Example>> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const { id, task } = dataset.value;
  // A single label finds the index on `target`. One of several labels is searched for in the JSON.
  const where =
    label === undefined
      ? "? IS NULL"
      : task === "single_label"
        ? "target = json_quote(?)"
        : "EXISTS (SELECT 1 FROM json_each(target) WHERE value = ?)";
  return paginate(request, {
    findPosition: (example) => findPosition(sql, id, example),
    readRows: (cursor, count) =>
      sql.exec<ExampleRow>(
        `SELECT position, id, input, target, created_at FROM examples WHERE dataset = ? AND position < ? AND ${where} ORDER BY position DESC LIMIT ?`,
        id,
        cursor,
        label ?? null,
        count,
      ),
    toObject: (row) => toExample(task, row),
  });
}

/**
 * The next examples above a position, for export: oldest first, about a million characters of them, and an empty list at
 * the end. Fails if the dataset no longer exists.
 */
export function readExamples(
  sql: SqlStorage,
  dataset: number,
  task: Task,
  afterPosition: number,
): Result<{ examples: Example[]; last: number }> {
  const examples: Example[] = [];
  let lastPosition = afterPosition;
  let size = 0;
  const cursor = sql.exec<ExampleRow>(
    "SELECT position, id, input, target, created_at FROM examples WHERE dataset = ? AND position > ? ORDER BY position LIMIT 5000",
    dataset,
    afterPosition,
  );
  for (const row of cursor) {
    examples.push(toExample(task, row));
    lastPosition = row.position;
    size += row.id.length + row.target.length;
    size += typeof row.input === "string" ? row.input.length : row.input.byteLength * 5;
    if (size > 1_000_000) break;
  }
  if (examples.length === 0 && sql.exec("SELECT 1 FROM datasets WHERE id = ?", dataset).toArray().length === 0)
    return fail("not_found", "The dataset was deleted while it was read.");
  return ok({ examples, last: lastPosition });
}

/** An example with the hash of its content, by which a later change checks that no other change came between. */
export interface ExampleWithHash extends ExampleRow {
  content_hash: ArrayBuffer;
}

export function getExample(sql: SqlStorage, dataset: DatasetRow, id: string): Result<ExampleWithHash> {
  const row = sql
    .exec<ExampleWithHash>(
      "SELECT position, id, input, target, created_at, content_hash FROM examples WHERE dataset = ? AND id = ?",
      dataset.id,
      id,
    )
    .toArray()[0];
  return row ? ok(row) : fail("not_found", `No example '${id}' in dataset '${dataset.name}'.`);
}

export interface ExampleReplacement {
  readonly id: string;
  /** The content hash of the example that the change was made from. */
  readonly expectedHash: ArrayBuffer;
  readonly example: StoredExample;
}

/**
 * Replaces an example, if it still has the expected content hash. An equal example changes nothing. Call it in a
 * transaction that is rolled back on failure.
 */
export function replaceExample(
  sql: SqlStorage,
  dataset: DatasetRow,
  { id, expectedHash, example }: ExampleReplacement,
  now: number,
): Result<Example> {
  const row = getExample(sql, dataset, id);
  if (!row.ok) return row;
  const { position } = row.value;
  const query = "SELECT 1 FROM examples WHERE dataset = ? AND position = ? AND content_hash = ?";
  const hasHash = (hash: ArrayBuffer | Uint8Array) => sql.exec(query, dataset.id, position, hash).toArray().length > 0;
  if (hasHash(example.contentHash)) return ok(toExample(dataset.task, row.value));
  if (!hasHash(expectedHash))
    return fail("dataset_changed", `Example '${id}' was changed by another request meanwhile. Send the change again.`, {
      retryAfter: 1,
    });
  sql.exec(
    "UPDATE examples SET input_hash = ?, group_hash = ?, content_hash = ?, input = ?, target = ?, revision = (SELECT revision + 1 FROM datasets WHERE id = ?6) WHERE dataset = ?6 AND position = ?7",
    example.inputHash,
    example.groupHash,
    example.contentHash,
    example.input,
    example.target,
    dataset.id,
    position,
  );
  const labels = example.target === row.value.target ? ok(null) : checkLabelLimit(sql, dataset);
  if (!labels.ok) return labels;
  incrementRevision(sql, dataset.id, now);
  scheduleDueRetrainings(sql, dataset.id, now);
  const updatedRow = getExample(sql, dataset, id);
  return updatedRow.ok ? ok(toExample(dataset.task, updatedRow.value)) : updatedRow;
}

export function deleteExample(
  sql: SqlStorage,
  name: string,
  id: string,
  now: number,
): Result<{ id: string; object: "example"; deleted: true }> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const row = getExample(sql, dataset.value, id);
  if (!row.ok) return row;
  sql.exec("DELETE FROM examples WHERE dataset = ? AND position = ?", dataset.value.id, row.value.position);
  incrementRevision(sql, dataset.value.id, now);
  return ok({ id, object: "example", deleted: true });
}
