import type { Example, StoredExample } from "../../api/examples.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { toHex } from "../../lib/hash.ts";
import { beginChanges, commitChanges, eraseExample, updateExample } from "./changes.ts";
import { type DatasetRow, findDataset, selectDataset } from "./datasets.ts";
import { findRevision, rowsAt, scanRows } from "./revisions.ts";

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

/** An export reads about so many characters at a time. */
const MAX_CHARACTERS_PER_READ = 250_000;
export const EXAMPLE_COLUMNS = "position, id, input, target, created_at";

/**
 * The next examples above a position at a revision, for export: oldest first, a bounded number of characters of them,
 * and an empty list at the end. Fails if the dataset no longer exists.
 */
export function readExamples(
  sql: SqlStorage,
  { id }: DatasetRow,
  afterPosition: number,
  revision?: number,
): Result<{ examples: Example[]; last: number }> {
  const dataset = selectDataset(sql, "id", id);
  if (dataset === null) return fail("not_found", "The dataset was deleted while it was read.");
  const storedRevision = findRevision(sql, dataset, revision ?? dataset.revision);
  if (!storedRevision.ok) return storedRevision;
  const examples: Example[] = [];
  let lastPosition = afterPosition;
  let size = 0;
  const rows = scanRows<ExampleRow>(sql, dataset, revision ?? dataset.revision, EXAMPLE_COLUMNS, afterPosition);
  for (const row of rows) {
    examples.push(toExample(dataset.task, row));
    lastPosition = row.position;
    size += row.id.length + row.target.length;
    size += typeof row.input === "string" ? row.input.length : row.input.byteLength * 5;
    if (size > MAX_CHARACTERS_PER_READ) break;
  }
  return ok({ examples, last: lastPosition });
}

/** An example with the hash of its content, by which a later change checks that no other change came between. */
export interface ExampleWithHash extends ExampleRow {
  content_hash: ArrayBuffer;
}

function findExample(sql: SqlStorage, dataset: DatasetRow, id: string): ExampleWithHash | undefined {
  const columns = `${EXAMPLE_COLUMNS}, content_hash`;
  return sql
    .exec<ExampleWithHash>(rowsAt(dataset, dataset.revision, columns, "id = ?3"), dataset.id, dataset.revision, id)
    .toArray()[0];
}

/** Where the example with an id is, or was until it was deleted; null if none is known. */
export function findExamplePosition(sql: SqlStorage, dataset: DatasetRow, id: string): number | null {
  const present = findExample(sql, dataset, id);
  if (present !== undefined) return present.position;
  const query = "SELECT position FROM past_examples WHERE dataset = ? AND id = ? ORDER BY removed DESC LIMIT 1";
  return sql.exec<{ position: number }>(query, dataset.id, id).toArray()[0]?.position ?? null;
}

export function getExample(sql: SqlStorage, dataset: DatasetRow, id: string): Result<ExampleWithHash> {
  const row = findExample(sql, dataset, id);
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
  { id: number, name }: DatasetRow,
  { id, expectedHash, example }: ExampleReplacement,
  now: number,
): Result<Example> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok || dataset.value.id !== number) return fail("not_found", `No dataset '${name}'.`);
  const row = getExample(sql, dataset.value, id);
  if (!row.ok) return row;
  const { position, content_hash } = row.value;
  if (isEqual(content_hash, example.contentHash)) return ok(toExample(dataset.value.task, row.value));
  if (!isEqual(content_hash, expectedHash))
    return fail("dataset_changed", `Example '${id}' was changed by another request meanwhile. Send the change again.`, {
      retryAfter: 1,
    });
  const changes = beginChanges(dataset.value);
  updateExample(sql, changes, position, id, example);
  const committed = commitChanges(sql, changes, now);
  if (!committed.ok) return committed;
  const updatedRow = getExample(sql, { ...dataset.value, revision: changes.revision }, id);
  return updatedRow.ok ? ok(toExample(dataset.value.task, updatedRow.value)) : updatedRow;
}

function isEqual(left: ArrayBuffer | Uint8Array, right: ArrayBuffer | Uint8Array): boolean {
  return toHex(new Uint8Array(left)) === toHex(new Uint8Array(right));
}

/** Deletes an example, from earlier revisions too. Answers where it was. */
export function deleteExample(
  sql: SqlStorage,
  name: string,
  id: string,
  now: number,
): Result<{ readonly dataset: number; readonly position: number }> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  const row = getExample(sql, dataset.value, id);
  if (!row.ok) return row;
  const changes = beginChanges(dataset.value);
  eraseExample(sql, changes, row.value.position, id, now);
  const committed = commitChanges(sql, changes, now);
  return committed.ok ? ok({ dataset: dataset.value.id, position: row.value.position }) : committed;
}
