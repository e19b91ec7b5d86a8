/**
 * A tenant's fine-tuned backbones, `ft:<shared backbone>:<suffix or job>`. An id means its newest revision. An older
 * revision stays while a version of a head needs it. If the job trained no layers, the row has no bytes and is the
 * unchanged shared backbone.
 */
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { schedule } from "../tasks/tasks.ts";

export interface FineTunedBackbone extends Record<string, SqlStorageValue> {
  readonly id: string;
  /** The SHA-256 of its bytes, or the revision of the shared backbone. */
  readonly revision: string;
  /** The id of the shared backbone. */
  readonly base: string;
  readonly base_revision: string;
  readonly job: string;
  readonly sha256: string | null;
  readonly bytes: number;
  /** How many parameters were trained. */
  readonly parameters: number;
  readonly dimensions: number;
  readonly created_at: number;
}

const COLUMNS = "id, revision, base, base_revision, job, sha256, bytes, parameters, dimensions, created_at";
const IS_NEWEST = "number = (SELECT max(number) FROM backbones AS other WHERE other.id = backbones.id)";
/** Written exactly as in the index that it uses. */
const IS_USED_BY_HEAD = `EXISTS (
  SELECT 1 FROM head_versions
  WHERE json_extract(record, '$.backbone.id') = backbones.id AND json_extract(record, '$.backbone.revision') = backbones.revision
)`;
const MAX_HEADS_IN_MESSAGE = 10;

/** The id of the backbone that a job fine-tunes. */
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

/** The newest revision of each backbone, newest first. */
export function listBackbones(sql: SqlStorage): FineTunedBackbone[] {
  return sql
    .exec<FineTunedBackbone>(`SELECT ${COLUMNS} FROM backbones WHERE ${IS_NEWEST} ORDER BY number DESC`)
    .toArray();
}

/** How many backbones have trained layers. */
export function countBackbones(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(DISTINCT id) AS n FROM backbones WHERE sha256 IS NOT NULL").one().n;
}

/** Checks that one more backbone may have trained layers, unless this id has some. */
export function checkBackboneLimit(sql: SqlStorage, id: string): Result<null> {
  const known = sql.exec("SELECT 1 FROM backbones WHERE id = ? AND sha256 IS NOT NULL LIMIT 1", id).toArray();
  const actual = countBackbones(sql);
  if (known.length > 0 || actual < limits.fine_tuned_backbones) return ok(null);
  const limit = limits.fine_tuned_backbones;
  const message = `A tenant has at most ${limit} fine-tuned backbones; this one has ${actual}. Delete some, or fine-tune one of them again by its suffix.`;
  return fail("limit_exceeded", message, { details: { limit, actual } });
}

/** Adds a revision, whose bytes, if any, are in R2. Call it after the version of the head that needs it was added. */
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

/** Deletes older revisions that no head needs. Tasks delete their bytes. */
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
    // The sweep deletes the KV values of these blocks.
    sql.exec("DELETE FROM blocks WHERE backbone = ?", name);
    if (sha256 !== null && !isBackboneReferenced(sql, sha256)) schedule(sql, "delete_backbone", sha256, now);
  }
}

/** Deletes a backbone with all its revisions, unless a head needs one of them. */
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

/** Refuses a head whose fine-tuned backbone was deleted or replaced during its training. */
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
