/** The rows of uploaded training files. Their bytes are in R2 under their ids, which are never reused. */

import type { DatasetModality } from "../../api/datasets.ts";
import type { File, FileListRequest } from "../../api/files.ts";
import type { List } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { findListPosition } from "../deleted-positions.ts";
import { paginate } from "../page.ts";
import { schedule } from "../tasks/tasks.ts";

/** A file as its upload was checked. */
export type NewFile = Pick<File, "id" | "filename" | "bytes"> & File["graft"];

interface Row extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  filename: string;
  bytes: number;
  task: Task;
  modality: DatasetModality;
  dimensions: number | null;
  examples: number;
  labels: number;
  created_at: number;
}

function toFile({ id, bytes, created_at, filename, ...row }: Row): File {
  const { task, modality, dimensions, examples, labels } = row;
  return {
    object: "file",
    id,
    bytes,
    created_at,
    filename,
    purpose: "fine-tune",
    status: "processed",
    status_details: null,
    expires_at: null,
    graft: { task, modality, dimensions, examples, labels },
  };
}

/** Adds a file whose bytes are in R2. */
export function addFile(sql: SqlStorage, file: NewFile, now: number): Result<File> {
  const count = countFiles(sql);
  if (count >= limits.files) {
    return fail(
      "limit_exceeded",
      `A tenant has at most ${limits.files} files; this one has ${count}. Delete one first.`,
      {
        details: { limit: limits.files, actual: count },
      },
    );
  }
  sql.exec(
    "INSERT INTO files (id, filename, bytes, task, modality, dimensions, examples, labels, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    file.id,
    file.filename,
    file.bytes,
    file.task,
    file.modality,
    file.dimensions,
    file.examples,
    file.labels,
    toSeconds(now),
  );
  return getFile(sql, file.id);
}

function findFile(sql: SqlStorage, id: string): Row | undefined {
  return sql.exec<Row>("SELECT * FROM files WHERE id = ?", id).toArray()[0];
}

export function getFile(sql: SqlStorage, id: string): Result<File> {
  const row = findFile(sql, id);
  return row ? ok(toFile(row)) : fail("not_found", `No file '${id}'.`);
}

/** Whether a file exists, so that its bytes are needed. */
export function isFileReferenced(sql: SqlStorage, id: string): boolean {
  return findFile(sql, id) !== undefined;
}

export function countFiles(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM files").one().n;
}

export function listFiles(sql: SqlStorage, request: FileListRequest): Result<List<File>> {
  // A page lists falling numbers. With negated numbers the oldest come first.
  const sign = request.order === "asc" ? -1 : 1;
  return paginate(request, {
    findPosition: (id) => {
      const number = findListPosition(sql, "files", id);
      return number && sign * number;
    },
    readRows: (cursor, count) =>
      sql.exec<Row>(
        "SELECT * FROM files WHERE ?1 * number < ?2 ORDER BY ?1 * number DESC LIMIT ?3",
        sign,
        cursor,
        count,
      ),
    toObject: toFile,
  });
}

/** Deletes a file. A task deletes its bytes. */
export function deleteFile(
  sql: SqlStorage,
  id: string,
  now: number,
): Result<{ id: string; object: "file"; deleted: true }> {
  const file = getFile(sql, id);
  if (!file.ok) return file;
  sql.exec("DELETE FROM files WHERE id = ?", id);
  schedule(sql, "delete_file", id, now);
  return ok({ id, object: "file", deleted: true });
}
