/** Which revisions of a dataset are kept, and for how long. */
import type { List, PageRequest } from "../../api/lists.ts";
import type { Revision } from "../../api/revisions.ts";
import type { Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { paginate } from "../page.ts";
import { DAY_MS } from "../tasks/tasks.ts";
import { VERSION_BYTES } from "./changes.ts";
import { findDataset } from "./datasets.ts";

/** A revision that nothing names is kept for so long after the next one was made. */
const RETENTION_MS = 30 * DAY_MS;
/** Past versions that one transaction deletes, and revisions. */
const MAX_ROWS_PER_DELETION = 500;

/** SQL: whether something names the revision of the row `r` of `revisions`. */
const IS_PINNED = `(
  EXISTS (SELECT 1 FROM head_versions AS v WHERE v.dataset = r.dataset AND v.revision = r.revision)
  OR EXISTS (SELECT 1 FROM evaluations AS e WHERE e.dataset = r.dataset AND e.revision = r.revision)
  OR EXISTS (SELECT 1 FROM jobs
    WHERE json_extract(spec, '$.source.id') = r.dataset AND json_extract(spec, '$.source.revision') = r.revision))`;

interface RevisionRow extends Record<string, SqlStorageValue> {
  revision: number;
  examples: number;
  created_at: number;
  pinned: number;
}

export function listRevisions(sql: SqlStorage, name: string, request: PageRequest): Result<List<Revision>> {
  const dataset = findDataset(sql, name);
  if (!dataset.ok) return dataset;
  return paginate(request, {
    // A page goes on after a revision that is not kept any more.
    findPosition: (revision) => (/^\d{1,15}$/.test(revision) ? Number(revision) : null),
    readRows: (cursor, count) =>
      sql.exec<RevisionRow>(
        `SELECT revision, examples, created_at, ${IS_PINNED} AS pinned FROM revisions AS r
         WHERE dataset = ? AND revision < ? ORDER BY revision DESC LIMIT ?`,
        dataset.value.id,
        cursor,
        count,
      ),
    toObject: ({ revision, examples, created_at, pinned }) => ({
      object: "dataset.revision" as const,
      id: String(revision),
      revision,
      examples,
      pinned: pinned === 1,
      created_at,
    }),
  });
}

export function countHistoryBytes(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT coalesce(sum(history_bytes), 0) AS n FROM datasets").one().n;
}

interface Candidate extends Record<string, SqlStorageValue> {
  dataset: number;
  revision: number;
}

/**
 * Deletes a bounded part of the revisions that are kept no longer: those that have expired, and if the tenant has too many
 * bytes of past versions, the oldest ones of the dataset that has most, first those that nothing names. Answers whether
 * some may be left.
 */
export function expireHistory(sql: SqlStorage, now: number): boolean {
  const expired = findExpired(sql, now);
  let rowsLeft = MAX_ROWS_PER_DELETION;
  for (const candidate of expired) {
    rowsLeft -= deleteRevision(sql, candidate, rowsLeft);
    if (rowsLeft <= 0) return true;
  }
  if (expired.length > 0) return true;
  if (countHistoryBytes(sql) <= limits.history_bytes) return false;
  const oldest = findOldest(sql);
  if (oldest === null) return false;
  deleteRevision(sql, oldest, rowsLeft);
  return true;
}

/** The next revision of an expired one is as old, so the index finds those that may have expired. */
function findExpired(sql: SqlStorage, now: number): Candidate[] {
  return sql
    .exec<Candidate>(
      `SELECT dataset, revision FROM revisions AS r WHERE created_at <= ?1 AND
         (SELECT created_at FROM revisions AS n WHERE n.dataset = r.dataset AND n.revision > r.revision ORDER BY n.revision LIMIT 1) <= ?1
         AND NOT ${IS_PINNED} LIMIT ?2`,
      toSeconds(now - RETENTION_MS),
      MAX_ROWS_PER_DELETION,
    )
    .toArray();
}

/** The oldest revision, but for the present one, of the dataset with most bytes of past versions. */
function findOldest(sql: SqlStorage): Candidate | null {
  const query = `SELECT r.dataset, r.revision FROM revisions AS r
    WHERE r.dataset = (SELECT id FROM datasets ORDER BY history_bytes DESC LIMIT 1)
      AND r.revision < (SELECT revision FROM datasets WHERE id = r.dataset)`;
  const first = (where: string) => sql.exec<Candidate>(`${query} ${where} ORDER BY r.revision LIMIT 1`).toArray()[0];
  return first(`AND NOT ${IS_PINNED}`) ?? first("") ?? null;
}

/**
 * Deletes a revision with the versions that no other kept revision has: they came after the one before it and went before
 * the one after it. Deletes at most `limit` of them, and the revision itself after the last. Answers how many rows.
 */
function deleteRevision(sql: SqlStorage, { dataset, revision }: Candidate, limit: number): number {
  const { previous, next } = sql
    .exec<{ previous: number | null; next: number | null }>(
      `SELECT (SELECT max(revision) FROM revisions WHERE dataset = ?1 AND revision < ?2) AS previous,
              (SELECT min(revision) FROM revisions WHERE dataset = ?1 AND revision > ?2) AS next`,
      dataset,
      revision,
    )
    .one();
  if (next === null) return 0;
  const versions = sql
    .exec<{ bytes: number | null }>(
      `DELETE FROM past_examples WHERE dataset = ?1 AND (position, removed) IN (
         SELECT position, removed FROM past_examples INDEXED BY past_examples_removed
         WHERE dataset = ?1 AND removed > ?2 AND removed <= ?3 AND revision > ?4 LIMIT ?5)
       RETURNING ${VERSION_BYTES} AS bytes`,
      dataset,
      revision,
      next,
      previous ?? -1,
      limit,
    )
    .toArray();
  const bytes = versions.reduce((sum, row) => sum + (row.bytes ?? 0), 0);
  if (bytes > 0) sql.exec("UPDATE datasets SET history_bytes = history_bytes - ? WHERE id = ?", bytes, dataset);
  if (versions.length === limit) return limit;
  sql.exec("DELETE FROM revisions WHERE dataset = ? AND revision = ?", dataset, revision);
  return versions.length + 1;
}
