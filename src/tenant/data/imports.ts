/**
 * An import stages its rows apart from the data set while its body is read, and becomes visible as a whole by one
 * merge. An import that never ends leaves staged rows, which expire.
 */

import type { DatasetImport, StagedExample } from "../../api/examples.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { scheduleDueRetrainings } from "../heads/policies.ts";
import { emit } from "../hooks/events.ts";
import { schedule } from "../tasks/tasks.ts";
import { checkLabelLimit, type DatasetRow, findDataset, incrementRevision, toDataset } from "./datasets.ts";

const IMPORT_TTL_MS = 3_600_000;

export function beginImport(sql: SqlStorage, name: string, id: string, now: number): Result<DatasetRow> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  sql.exec("INSERT INTO imports (id, dataset, created_at) VALUES (?, ?, ?)", id, dataset.value.id, toSeconds(now));
  schedule(sql, "expire_import", id, now + IMPORT_TTL_MS);
  return dataset;
}

function findImportDataset(sql: SqlStorage, id: string): Result<DatasetRow> {
  const row = sql
    .exec<DatasetRow>(
      "SELECT datasets.* FROM imports JOIN datasets ON datasets.id = imports.dataset WHERE imports.id = ?",
      id,
    )
    .toArray()[0];
  return row
    ? ok(row)
    : fail("not_found", "The dataset was deleted, or the import took longer than an hour. Import again.");
}

export function stageRows(sql: SqlStorage, id: string, rows: readonly StagedExample[]): Result<null> {
  const dataset = findImportDataset(sql, id);
  if (!dataset.ok) return dataset;
  for (const row of rows) {
    sql.exec(
      "INSERT INTO staged (import, line, id, input_hash, group_hash, content_hash, input, target) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
      id,
      row.line,
      row.id,
      row.inputHash,
      row.groupHash,
      row.contentHash,
      row.input,
      row.target,
    );
  }
  return ok(null);
}

/** Forgets an import and what it staged. */
export function dropImport(sql: SqlStorage, id: string): void {
  sql.exec("DELETE FROM staged WHERE import = ?", id);
  sql.exec("DELETE FROM imports WHERE id = ?", id);
  sql.exec("DELETE FROM due WHERE kind = 'expire_import' AND ref = ?", id);
}

/**
 * Merges what was staged into the data set. Rows with an id update the example of that id or add one, the last of an
 * id winning; rows without are added unless the same input and target stands there already. Call it in a transaction
 * that is rolled back on failure.
 */
export function mergeImport(
  sql: SqlStorage,
  id: string,
  now: number,
): Result<Omit<DatasetImport, "object" | "id" | "rejected" | "errors">> {
  const found = findImportDataset(sql, id);
  if (!found.ok) return found;
  const dataset = found.value;
  const count = (query: string, ...bindings: SqlStorageValue[]) => sql.exec<{ n: number }>(query, ...bindings).one().n;
  const staged = count("SELECT count(*) AS n FROM staged WHERE import = ?", id);
  const countBefore = count("SELECT count(*) AS n FROM examples WHERE dataset = ?", dataset.id);

  // With max(), SQLite takes the other columns from the row that holds the maximum: the last row of each id.
  const superseded = count(
    `SELECT count(*) AS n FROM staged AS s
     JOIN (SELECT id, content_hash, max(line) FROM staged WHERE import = ?1 AND id IS NOT NULL GROUP BY id) AS last ON last.id = s.id
     WHERE s.import = ?1 AND s.content_hash <> last.content_hash`,
    id,
  );
  sql.exec(
    `DELETE FROM staged WHERE import = ?1
     AND line NOT IN (SELECT max(line) FROM staged WHERE import = ?1 AND id IS NOT NULL GROUP BY id)
     AND line NOT IN (SELECT min(line) FROM staged WHERE import = ?1 AND id IS NULL GROUP BY content_hash)`,
    id,
  );
  const replaced = count(
    "SELECT count(*) AS n FROM staged AS s JOIN examples AS e ON e.dataset = ? AND e.id = s.id WHERE s.import = ? AND s.id IS NOT NULL AND e.content_hash <> s.content_hash",
    dataset.id,
    id,
  );
  if (replaced > 0) {
    sql.exec(
      "UPDATE examples SET input_hash = s.input_hash, group_hash = s.group_hash, content_hash = s.content_hash, input = s.input, target = s.target, revision = ? FROM staged AS s WHERE s.import = ? AND examples.dataset = ? AND examples.id = s.id AND examples.content_hash <> s.content_hash",
      dataset.revision + 1,
      id,
      dataset.id,
    );
  }
  const insert = (condition: string, position: number) =>
    sql.exec(
      `INSERT INTO examples (dataset, position, id, input_hash, group_hash, content_hash, input, target, created_at, revision)
       SELECT ?1, ?2 + row_number() OVER (ORDER BY s.line) - 1, coalesce(s.id, 'ex_' || substr(?3, 8) || '_' || s.line),
              s.input_hash, s.group_hash, s.content_hash, s.input, s.target, ?4, ?5
       FROM staged AS s WHERE s.import = ?3 AND ${condition}`,
      dataset.id,
      position,
      id,
      toSeconds(now),
      dataset.revision + 1,
    );
  const nextPosition = () =>
    count("SELECT coalesce(max(position) + 1, 0) AS n FROM examples WHERE dataset = ?", dataset.id);
  insert(
    "s.id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM examples AS e WHERE e.dataset = ?1 AND e.id = s.id)",
    Math.max(dataset.next_position, nextPosition()),
  );
  insert(
    "s.id IS NULL AND NOT EXISTS (SELECT 1 FROM examples AS e WHERE e.dataset = ?1 AND e.content_hash = s.content_hash)",
    Math.max(dataset.next_position, nextPosition()),
  );

  const countAfter = count("SELECT count(*) AS n FROM examples WHERE dataset = ?", dataset.id);
  if (countAfter > limits.examples_per_dataset) {
    return fail(
      "limit_exceeded",
      `A dataset holds at most ${limits.examples_per_dataset} examples; with this import it would hold ${countAfter}.`,
      {
        details: { limit: limits.examples_per_dataset, actual: countAfter },
      },
    );
  }
  const labels = checkLabelLimit(sql, dataset);
  if (!labels.ok) return labels;
  const added = countAfter - countBefore;
  const updated = replaced + superseded;
  if (added + updated > 0) {
    // Positions are never given out twice, so a block of embeddings always speaks of the same rows.
    sql.exec(
      "UPDATE datasets SET next_position = ? WHERE id = ?",
      Math.max(dataset.next_position, nextPosition()),
      dataset.id,
    );
    incrementRevision(sql, dataset.id, now);
  }
  dropImport(sql, id);
  const updatedRow = findDataset(sql, dataset.name);
  if (!updatedRow.ok) return updatedRow;
  const counts = { added, updated, unchanged: staged - added - updated };
  const datasetObject = toDataset(sql, updatedRow.value);
  if (added + updated > 0) {
    const { name, revision, examples } = datasetObject;
    emit(
      sql,
      "dataset.imported",
      { object: "dataset.import", id, dataset: { name, revision, examples }, ...counts },
      now,
    );
    scheduleDueRetrainings(sql, dataset.id, now);
  }
  return ok({ ...counts, dataset: datasetObject });
}
