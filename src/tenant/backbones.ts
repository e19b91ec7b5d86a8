/** A tenant's fine-tuned backbones: which there are, and the bytes of what training changed. */
import { fail, ok, type Result } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { schedule } from "./due.ts";

/** A revision of a backbone, as a job made it. */
export interface FineTunedRecord {
  /** `ft:<base>:<suffix or job>`; the same again is its next revision. */
  readonly id: string;
  /** The SHA-256 of the delta's bytes; that of the base where nothing was changed of it. */
  readonly revision: string;
  readonly base: { readonly id: string; readonly revision: string };
  /** Of the delta; null: the backbone is the base under another name. */
  readonly sha256: string | null;
  readonly bytes: number;
  /** How many numbers were trained. */
  readonly parameters: number;
  readonly dimensions: number;
}

export interface StoredBackbone extends FineTunedRecord {
  readonly created_at: number;
}

interface Row extends Record<string, SqlStorageValue> {
  number: number;
  record: string;
  created_at: number;
}

const toRecord = ({ record, created_at }: Row): StoredBackbone => ({
  ...(JSON.parse(record) as FineTunedRecord),
  created_at,
});

/** Of every backbone its newest revision, the newest first. */
export function listBackbones(sql: SqlStorage): StoredBackbone[] {
  const newest = "SELECT max(number) FROM backbones GROUP BY id";
  return sql
    .exec<Row>(`SELECT * FROM backbones WHERE number IN (${newest}) ORDER BY number DESC`)
    .toArray()
    .map(toRecord);
}

/** The newest revision of a backbone. */
export function findBackbone(sql: SqlStorage, id: string): Result<StoredBackbone> {
  const row = sql.exec<Row>("SELECT * FROM backbones WHERE id = ? ORDER BY number DESC LIMIT 1", id).toArray()[0];
  return row ? ok(toRecord(row)) : fail("not_found", `No model '${id}'. GET /v1/models lists those that exist.`);
}

export function countBackbones(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(DISTINCT id) AS n FROM backbones").one().n;
}

/** Why no backbone of this id can be added, or null. */
export function beyondBackbones(sql: SqlStorage, id: string): Result<null> {
  const count = countBackbones(sql);
  if (count < limits.fine_tuned_backbones || findBackbone(sql, id).ok) return ok(null);
  const limit = limits.fine_tuned_backbones;
  return fail(
    "limit_exceeded",
    `A tenant has at most ${limit} fine-tuned models. Delete some, or use a suffix again.`,
    {
      details: { limit, actual: count },
    },
  );
}

/**
 * Adds a revision whose bytes are stored already. Revisions before it that no head needs are gone with that. Call it in a
 * transaction, after the head that needs it.
 */
export function commitBackbone(sql: SqlStorage, record: FineTunedRecord, now: number): void {
  sql.exec("DELETE FROM backbones WHERE id = ? AND revision = ?", record.id, record.revision);
  sql.exec(
    "INSERT INTO backbones (id, revision, sha256, record, created_at) VALUES (?, ?, ?, ?, ?)",
    record.id,
    record.revision,
    record.sha256,
    JSON.stringify(record),
    now,
  );
  if (record.sha256 !== null) schedule(sql, "publish_head", record.sha256, now * 1000);
  const older = sql
    .exec<{ revision: string }>(
      "SELECT revision FROM backbones WHERE id = ? AND revision <> ?",
      record.id,
      record.revision,
    )
    .toArray();
  for (const { revision } of older)
    if (headsOn(sql, record.id, revision).length === 0) drop(sql, record.id, revision, now);
}

/** Removes a backbone with all its revisions; refused while a head stands on one. `now` in seconds. */
export function deleteBackbone(
  sql: SqlStorage,
  id: string,
  now: number,
): Result<{ id: string; object: "model"; deleted: true }> {
  const found = findBackbone(sql, id);
  if (!found.ok) return found;
  const heads = headsOn(sql, id);
  if (heads.length > 0)
    return fail(
      "model_in_use",
      `The model '${id}' is needed by ${heads.map((name) => `'${name}'`).join(", ")}. Delete these heads first.`,
    );
  for (const { revision } of sql
    .exec<{ revision: string }>("SELECT revision FROM backbones WHERE id = ?", id)
    .toArray())
    drop(sql, id, revision, now);
  return ok({ id, object: "model", deleted: true });
}

function drop(sql: SqlStorage, id: string, revision: string, now: number): void {
  const dropped = sql
    .exec<{ sha256: string | null }>(
      "DELETE FROM backbones WHERE id = ? AND revision = ? RETURNING sha256",
      id,
      revision,
    )
    .toArray();
  // What still needs these bytes is asked when it is due.
  for (const { sha256 } of dropped) if (sha256 !== null) schedule(sql, "delete_bytes", sha256, now * 1000);
}

/** Heads that have a version on a backbone, or on one revision of it, at most ten. */
function headsOn(sql: SqlStorage, id: string, revision: string | null = null): string[] {
  return sql
    .exec<{ name: string }>(
      `SELECT DISTINCT name FROM heads JOIN head_versions ON head_versions.head = heads.id
       WHERE json_extract(record, '$.backbone.id') = ? AND coalesce(?, json_extract(record, '$.backbone.revision')) = json_extract(record, '$.backbone.revision')
       ORDER BY name LIMIT 10`,
      id,
      revision,
    )
    .toArray()
    .map(({ name }) => name);
}
