/**
 * A tenant's fine-tuned backbones, `ft:<shared backbone>:<suffix or job>`. Fine-tuned again under one id, a backbone has a
 * new revision, which the id means from then on; an older one stays as long as a version of a head needs it. One without
 * bytes is the shared backbone unchanged, because its job trained no layers.
 */
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { schedule } from "../tasks/tasks.ts";

export interface FineTunedBackbone extends Record<string, SqlStorageValue> {
  readonly id: string;
  /** The SHA-256, or that of the shared backbone. */
  readonly revision: string;
  /** The shared backbone that it was made of. */
  readonly base: string;
  readonly base_revision: string;
  readonly job: string;
  readonly sha256: string | null;
  readonly bytes: number;
  /** How many numbers were trained. */
  readonly parameters: number;
  readonly dimensions: number;
  readonly created_at: number;
}

const COLUMNS = "id, revision, base, base_revision, job, sha256, bytes, parameters, dimensions, created_at";
const IS_NEWEST = "number = (SELECT max(number) FROM backbones AS other WHERE other.id = backbones.id)";
/** In the words of its index. */
const IS_USED_BY_HEAD = `EXISTS (
  SELECT 1 FROM head_versions
  WHERE json_extract(record, '$.backbone.id') = backbones.id AND json_extract(record, '$.backbone.revision') = backbones.revision
)`;
const MAX_HEADS_IN_MESSAGE = 10;

/** The id of what a job makes of a shared backbone. */
export function fineTunedId(base: string, suffix: string | null, job: string): string {
  return `ft:${base}:${suffix ?? job}`;
}

/** The newest revision of a backbone. */
export function findBackbone(sql: SqlStorage, id: string): Result<FineTunedBackbone> {
  const row = sql
    .exec<FineTunedBackbone>(`SELECT ${COLUMNS} FROM backbones WHERE id = ? ORDER BY number DESC LIMIT 1`, id)
    .toArray()[0];
  return row ? ok(row) : fail("not_found", `No model '${id}'. GET /v1/models lists those that exist.`);
}

/** The newest revision of each, newest first. */
export function listBackbones(sql: SqlStorage): FineTunedBackbone[] {
  return sql
    .exec<FineTunedBackbone>(`SELECT ${COLUMNS} FROM backbones WHERE ${IS_NEWEST} ORDER BY number DESC`)
    .toArray();
}

/** How many have trained layers. */
export function countBackbones(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(DISTINCT id) AS n FROM backbones WHERE sha256 IS NOT NULL").one().n;
}

/** Whether there is room for trained layers under this id. */
export function checkBackboneLimit(sql: SqlStorage, id: string): Result<null> {
  const known = sql.exec("SELECT 1 FROM backbones WHERE id = ? AND sha256 IS NOT NULL LIMIT 1", id).toArray();
  const actual = countBackbones(sql);
  if (known.length > 0 || actual < limits.fine_tuned_backbones) return ok(null);
  const limit = limits.fine_tuned_backbones;
  const message = `A tenant has at most ${limit} fine-tuned backbones; this one has ${actual}. Delete some, or fine-tune one of them again by its suffix.`;
  return fail("limit_exceeded", message, { details: { limit, actual } });
}

/** Adds a revision, whose bytes are stored already, if it has any. The version of a head that came with it was added before. */
export function addBackbone(sql: SqlStorage, backbone: FineTunedBackbone, now: number): void {
  const { id, revision, base, base_revision, job, sha256, bytes, parameters, dimensions, created_at } = backbone;
  sql.exec(
    `INSERT OR REPLACE INTO backbones (${COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ...[id, revision, base, base_revision, job, sha256, bytes, parameters, dimensions, created_at],
  );
  if (sha256 !== null) schedule(sql, "publish_backbone", sha256, now);
  sql.exec(
    `DELETE FROM backbones WHERE sha256 IS NULL AND number <= (
       SELECT number FROM backbones WHERE sha256 IS NULL ORDER BY number DESC LIMIT 1 OFFSET ${limits.ended_jobs}
     )`,
  );
  deleteUnusedBackbones(sql, now);
}

/** Drops older revisions that no head needs; their bytes follow through the `due` table. */
export function deleteUnusedBackbones(sql: SqlStorage, now: number): void {
  cleanUpDeletedBackbones(
    sql,
    sql.exec<DeletedBackbone>(
      `DELETE FROM backbones WHERE NOT (${IS_NEWEST}) AND NOT ${IS_USED_BY_HEAD} ${RETURNING_DELETED}`,
    ),
    now,
  );
}

interface DeletedBackbone extends Record<string, SqlStorageValue> {
  name: string;
  sha256: string | null;
}
const RETURNING_DELETED = "RETURNING id || '@' || revision AS name, sha256";

function cleanUpDeletedBackbones(sql: SqlStorage, deletedRows: SqlStorageCursor<DeletedBackbone>, now: number): void {
  for (const { name, sha256 } of deletedRows.toArray()) {
    // The sweep finds the values that held these blocks.
    sql.exec("DELETE FROM blocks WHERE backbone = ?", name);
    if (sha256 !== null && !isBackboneReferenced(sql, sha256)) schedule(sql, "delete_backbone", sha256, now);
  }
}

/** Removes a backbone with all its revisions; refused while a head needs any of them. */
export function deleteBackbone(
  sql: SqlStorage,
  id: string,
  now: number,
): Result<{ id: string; object: "model"; deleted: true }> {
  const found = findBackbone(sql, id);
  if (!found.ok) return found;
  const heads = sql
    .exec<{ name: string }>(
      "SELECT DISTINCT name FROM head_versions JOIN heads ON heads.id = head WHERE json_extract(record, '$.backbone.id') = ? ORDER BY name",
      id,
    )
    .toArray()
    .map(({ name }) => name);
  if (heads.length > 0) {
    const shown = heads.slice(0, MAX_HEADS_IN_MESSAGE);
    const names = shown.map((name) => `'${name}'`).join(", ");
    const others = heads.length > shown.length ? ` and ${heads.length - shown.length} others` : "";
    const message = `Model '${id}' is needed by versions of the heads ${names}${others}. Delete those heads first.`;
    return fail("model_in_use", message, { param: "id", details: { heads: shown, count: heads.length } });
  }
  cleanUpDeletedBackbones(
    sql,
    sql.exec<DeletedBackbone>(`DELETE FROM backbones WHERE id = ? ${RETURNING_DELETED}`, id),
    now,
  );
  return ok({ id, object: "model", deleted: true });
}

/** Refuses a head whose fine-tuned backbone was deleted, or replaced, while it was trained. */
export function checkBackboneExists(sql: SqlStorage, backbone: { id: string; revision: string }): Result<null> {
  const { id, revision } = backbone;
  const findRow = () => sql.exec("SELECT 1 FROM backbones WHERE id = ? AND revision = ?", id, revision).toArray()[0];
  if (!id.startsWith("ft:") || findRow() !== undefined) return ok(null);
  return fail("not_available", `Model '${id}' was changed while the head was trained. Train again.`, {
    param: "backbone",
    retryAfter: 1,
  });
}

/** Whether a backbone has these bytes. */
export function isBackboneReferenced(sql: SqlStorage, sha256: string): boolean {
  return sql.exec("SELECT 1 FROM backbones WHERE sha256 = ? LIMIT 1", sha256).toArray().length > 0;
}
