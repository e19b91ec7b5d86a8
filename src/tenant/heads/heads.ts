import type { Head } from "../../api/heads.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { findListPosition } from "../deleted-positions.ts";
import { emit } from "../hooks/events.ts";
import type { HeadReference } from "../idempotency.ts";
import { paginate } from "../page.ts";
import { schedule } from "../tasks/tasks.ts";
import { deleteUnusedBackbones } from "./backbones.ts";
import { deleteCapture } from "./capture-deletion.ts";
import { deleteRunsOfHead } from "./evaluation-deletion.ts";
import { clearShares, mayPromote } from "./traffic.ts";
import { deleteHeadTraffic } from "./traffic-counts.ts";
import { recordVectors } from "./vectors.ts";

/** A version of a head as it is stored, without `active_version`, which moves. */
export type HeadRecord = Omit<Head, "active_version">;
export type NewHead = Omit<HeadRecord, "object" | "version" | "created_at">;

interface HeadRow extends Record<string, SqlStorageValue> {
  id: number;
  name: string;
  active_version: number | null;
  last_version: number;
}

interface VersionRow extends HeadRow {
  version: number;
  record: string;
}

function findHead(sql: SqlStorage, name: string): Result<HeadRow> {
  const row = sql.exec<HeadRow>("SELECT * FROM heads WHERE name = ?", name).toArray()[0];
  return row ? ok(row) : fail("not_found", `No head '${name}'.`);
}

function toHead(row: VersionRow): Head {
  return { ...(JSON.parse(row.record) as HeadRecord), active_version: row.active_version };
}

/** A version in a list: without the parts of its training and its evaluation that grow with the labels. */
function toSummary(row: VersionRow): Head {
  const full = toHead(row);
  const { labels: _labels, ...training } = full.training;
  const head = { ...full, training };
  if (head.evaluation === null) return head;
  const {
    per_class: _perClass,
    confusion: _confusion,
    confused: _confused,
    reliability: _reliability,
    more_examples: _moreExamples,
    held_out_inputs: _inputs,
    ...evaluation
  } = head.evaluation;
  return { ...head, evaluation };
}

const SELECT_VERSIONS =
  "SELECT heads.*, version, record FROM heads JOIN head_versions ON head_versions.head = heads.id";

/** A version of a head; by default the active one, or the newest if none is active. */
export function getHead(sql: SqlStorage, name: string, version: number | null): Result<Head> {
  const head = findHead(sql, name);
  if (!head.ok) return head;
  const versionNumber = version ?? head.value.active_version ?? head.value.last_version;
  const row = sql
    .exec<VersionRow>(`${SELECT_VERSIONS} WHERE heads.id = ? AND version = ?`, head.value.id, versionNumber)
    .toArray()[0];
  return row ? ok(toHead(row)) : fail("not_found", `No version ${versionNumber} of head '${name}'.`);
}

/** Refers to a version, in the place of an answer that shows it. */
export function referToHead(sql: SqlStorage, { id, version, active_version }: Head): HeadReference {
  const { id: head } = sql.exec<HeadRow>("SELECT * FROM heads WHERE name = ?", id).one();
  return { kind: "head", head, version, active_version };
}

/** The version as it was when an answer referred to it. */
export function getReferencedHead(sql: SqlStorage, { head, version, active_version }: HeadReference): Result<Head> {
  const row = sql.exec<VersionRow>(`${SELECT_VERSIONS} WHERE heads.id = ? AND version = ?`, head, version).toArray()[0];
  if (row !== undefined) return ok({ ...toHead(row), active_version });
  return fail("not_found", "The head that the first request with this Idempotency-Key made or promoted was deleted.");
}

/** Refuses a version of another task under a head's name. `param` is where the request names the head. */
export function checkHeadTask(sql: SqlStorage, name: string, task: Task, param: "name" | "head"): Result<null> {
  const row = sql
    .exec<{ task: Task }>(
      "SELECT json_extract(record, '$.task') AS task FROM heads JOIN head_versions ON head = heads.id WHERE name = ? AND version = coalesce(active_version, last_version)",
      name,
    )
    .toArray()[0];
  if (row === undefined || row.task === task) return ok(null);
  const message = `Head '${name}' is for the task '${row.task}', and a name keeps its task: this training is for '${task}'. Use another name, or delete the head first.`;
  return fail("task_mismatch", message, { param, status: 409 });
}

/**
 * Adds the next version of a head, whose bytes are in R2, and promotes it if `promote`. While the head has shares it waits
 * for that.
 *
 * @param vectors positions of the examples whose embeddings its bytes hold
 */
export function commitHead(
  sql: SqlStorage,
  head: NewHead,
  promote: boolean,
  now: number,
  vectors: Uint32Array | null,
): Result<Head> {
  const taskCheck = checkHeadTask(sql, head.id, head.task, "name");
  if (!taskCheck.ok) return taskCheck;
  if (!findHead(sql, head.id).ok) {
    const count = countHeads(sql);
    if (count >= limits.heads)
      return fail("limit_exceeded", `A tenant has at most ${limits.heads} heads; this one has ${count}.`, {
        details: { limit: limits.heads, actual: count },
      });
    sql.exec("INSERT INTO heads (name, active_version, last_version) VALUES (?, NULL, 0)", head.id);
  }
  const row = findHead(sql, head.id);
  if (!row.ok) return row;
  const version = row.value.last_version + 1;
  const versionCount = sql
    .exec<{ n: number }>("SELECT count(*) AS n FROM head_versions WHERE head = ?", row.value.id)
    .one().n;
  if (versionCount >= limits.versions_per_head) {
    return fail(
      "limit_exceeded",
      `A head has at most ${limits.versions_per_head} versions. Delete the head, or train under another name.`,
      { details: { limit: limits.versions_per_head, actual: versionCount } },
    );
  }
  const record: HeadRecord = { object: "head", ...head, version, created_at: toSeconds(now) };
  sql.exec(
    `INSERT INTO head_versions (head, version, record, sha256, bytes, dataset, revision)
     VALUES (?1, ?2, ?3, ?4, ?5, (SELECT id FROM datasets WHERE name = ?6 AND revision >= ?7), ?7)`,
    row.value.id,
    version,
    JSON.stringify(record),
    head.sha256,
    head.bytes,
    head.dataset.name,
    head.dataset.revision,
  );
  recordVectors(sql, row.value.id, version, vectors);
  const isPromoted = promote && mayPromote(sql, row.value.id, version);
  const active = isPromoted ? version : row.value.active_version;
  sql.exec("UPDATE heads SET last_version = ?, active_version = ? WHERE id = ?", version, active, row.value.id);
  schedule(sql, "publish_head", head.sha256, now);
  const headObject = { ...record, active_version: active };
  emit(sql, "head.trained", headEventData(headObject), now);
  if (isPromoted) emit(sql, "head.promoted", headEventData(headObject), now);
  return ok(headObject);
}

/** A version of a head in the data of an event. */
function headEventData({ object, id, version, active_version, task, dataset, training, evaluation }: Head) {
  const { accuracy = null, macro_f1 = null } = evaluation ?? {};
  const { method, examples } = training;
  return { object, id, version, active_version, task, dataset, training: { method, examples }, accuracy, macro_f1 };
}

export function countHeads(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM heads").one().n;
}

/** Makes a version the active one, and ends the shares that the head had. */
export function promoteHead(sql: SqlStorage, name: string, version: number, now: number): Result<Head> {
  const head = getHead(sql, name, version);
  if (!head.ok) return head;
  const promoted = { ...head.value, active_version: version };
  const { id } = sql.exec<{ id: number }>("SELECT id FROM heads WHERE name = ?", name).one();
  clearShares(sql, id, version);
  if (head.value.active_version === version) return ok(promoted);
  sql.exec("UPDATE heads SET active_version = ? WHERE name = ?", version, name);
  emit(sql, "head.promoted", headEventData(promoted), now);
  return ok(promoted);
}

export function listHeads(sql: SqlStorage, request: PageRequest): Result<List<Head>> {
  return paginate(request, {
    findPosition: (name) => findListPosition(sql, "heads", name),
    readRows: (cursor, count) =>
      sql.exec<VersionRow>(
        `${SELECT_VERSIONS} WHERE version = coalesce(active_version, last_version) AND heads.id < ? ORDER BY heads.id DESC LIMIT ?`,
        cursor,
        count,
      ),
    toObject: toSummary,
  });
}

export function listVersions(sql: SqlStorage, name: string, request: PageRequest): Result<List<Head>> {
  const head = findHead(sql, name);
  if (!head.ok) return head;
  return paginate(request, {
    findPosition: (version) =>
      sql
        .exec<{ version: number }>(
          "SELECT version FROM head_versions WHERE head = ? AND version = ?",
          head.value.id,
          /^\d{1,9}$/.test(version) ? Number(version) : 0,
        )
        .toArray()[0]?.version ?? null,
    readRows: (cursor, count) =>
      sql.exec<VersionRow>(
        `${SELECT_VERSIONS} WHERE heads.id = ? AND version < ? ORDER BY version DESC LIMIT ?`,
        head.value.id,
        cursor,
        count,
      ),
    toObject: toSummary,
    getId: ({ version }) => String(version),
  });
}

/** Deletes a head with all its versions. Tasks delete the bytes that no other version needs. */
export function deleteHead(
  sql: SqlStorage,
  name: string,
  now: number,
): Result<{ id: string; object: "head"; deleted: true }> {
  const head = findHead(sql, name);
  if (!head.ok) return head;
  const hashes = sql
    .exec<{ sha256: string }>("SELECT DISTINCT sha256 FROM head_versions WHERE head = ?", head.value.id)
    .toArray();
  sql.exec("DELETE FROM head_versions WHERE head = ?", head.value.id);
  sql.exec("DELETE FROM version_vectors WHERE head = ?", head.value.id);
  sql.exec("DELETE FROM heads WHERE id = ?", head.value.id);
  sql.exec("DELETE FROM head_learning WHERE head = ?", head.value.id);
  sql.exec("DELETE FROM judged_examples WHERE head = ?", head.value.id);
  deleteHeadTraffic(sql, head.value.id);
  deleteCapture(sql, head.value.id);
  sql.exec("DELETE FROM due WHERE kind = 'retrain' AND ref = ?", name);
  deleteRunsOfHead(sql, head.value.id, now);
  for (const { sha256 } of hashes) if (!isHeadReferenced(sql, sha256)) schedule(sql, "delete_bytes", sha256, now);
  deleteUnusedBackbones(sql, now);
  return ok({ id: name, object: "head", deleted: true });
}

/** Whether a version has these bytes. */
export function isHeadReferenced(sql: SqlStorage, sha256: string): boolean {
  return sql.exec("SELECT 1 FROM head_versions WHERE sha256 = ? LIMIT 1", sha256).toArray().length > 0;
}
