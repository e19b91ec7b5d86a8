/** The lists of a job: its events and its checkpoints. */
import type { List, PageRequest } from "../../api/lists.ts";
import type { Result } from "../../core/failure.ts";
import type { JobLogEntry } from "../../core/lifecycle/job.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { paginate } from "../page.ts";
import { findVisibleJob, type JobRow, toJob } from "./jobs.ts";

/** Adds a message of the job itself to its events. */
export function addLogRecord(sql: SqlStorage, job: JobRow, { level, message }: JobLogEntry, now: number): void {
  addRecord(sql, job, { kind: "event", key: null, record: { level, message, type: "message", data: null } }, now);
}

interface EventRecord {
  readonly level: JobLogEntry["level"];
  readonly message: string;
  readonly type: "message" | "metrics";
  readonly data: Readonly<Record<string, number>> | null;
}

interface CheckpointRecord {
  readonly step: number;
  readonly metrics: Readonly<Record<string, number>>;
}

type NewRecord =
  | { readonly kind: "event"; readonly key: string | null; readonly record: EventRecord }
  | { readonly kind: "checkpoint"; readonly key: string; readonly record: CheckpointRecord };

/** Adds a record to a list of a job, unless the list has one with the same key. */
export function addRecord(sql: SqlStorage, job: JobRow, { kind, key, record }: NewRecord, now: number): void {
  // Nobody sees the lists of a job that measures.
  if (job.spec.measurement !== undefined) return;
  const { n } = sql.exec<{ n: number }>("SELECT count(*) AS n FROM job_events WHERE job = ?", job.number).one();
  // Records without a key are the job's own messages. They are few, and never dropped.
  if (key !== null && n >= limits.events_per_job) return;
  sql.exec(
    "INSERT OR IGNORE INTO job_events (job, kind, key, record, created_at) VALUES (?, ?, ?, ?, ?)",
    job.number,
    kind,
    key,
    JSON.stringify(record),
    toSeconds(now),
  );
}

interface StoredRecord extends Record<string, SqlStorageValue> {
  number: number;
  record: string;
  created_at: number;
}

function listRecords<T extends { readonly id: string }>(
  sql: SqlStorage,
  job: JobRow,
  list: { readonly kind: NewRecord["kind"]; readonly prefix: string; toObject(id: string, row: StoredRecord): T },
  request: PageRequest,
): Result<List<T>> {
  const { kind, prefix, toObject } = list;
  return paginate(request, {
    findPosition(id) {
      const digits = id.startsWith(prefix) ? id.slice(prefix.length) : "";
      const number = /^\d{1,15}$/.test(digits) ? Number(digits) : 0;
      const query = "SELECT 1 FROM job_events WHERE number = ? AND job = ? AND kind = ?";
      return sql.exec(query, number, job.number, kind).toArray().length > 0 ? number : null;
    },
    readRows: (cursor, count) =>
      sql.exec<StoredRecord>(
        "SELECT number, record, created_at FROM job_events WHERE job = ? AND kind = ? AND number < ? ORDER BY number DESC LIMIT ?",
        job.number,
        kind,
        cursor,
        count,
      ),
    toObject: (row) => toObject(`${prefix}${row.number}`, row),
  });
}

export function listJobEvents(sql: SqlStorage, id: string, request: PageRequest) {
  const job = findVisibleJob(sql, id);
  if (!job.ok) return job;
  const toEvent = (id: string, { record, created_at }: StoredRecord) => ({
    object: "fine_tuning.job.event" as const,
    id,
    created_at,
    ...(JSON.parse(record) as EventRecord),
  });
  return listRecords(sql, job.value, { kind: "event", prefix: "ftevent-", toObject: toEvent }, request);
}

export function listCheckpoints(sql: SqlStorage, id: string, request: PageRequest) {
  const job = findVisibleJob(sql, id);
  if (!job.ok) return job;
  const toCheckpoint = (id: string, { record, created_at }: StoredRecord) => {
    const { step, metrics } = JSON.parse(record) as CheckpointRecord;
    return {
      object: "fine_tuning.job.checkpoint" as const,
      id,
      created_at,
      fine_tuning_job_id: job.value.id,
      fine_tuned_model_checkpoint: `${toJob(job.value).model}:${id}`,
      step_number: step,
      metrics: { step, ...metrics },
    };
  };
  return listRecords(sql, job.value, { kind: "checkpoint", prefix: "ftckpt-", toObject: toCheckpoint }, request);
}
