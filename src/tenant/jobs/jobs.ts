/** Fine-tuning jobs: what each is to do, where it is in its life (core/job.ts), and what its events tell. */

import type { DatasetModality } from "../../api/datasets.ts";
import type { FineTuningHyperparameters, FineTuningJob } from "../../api/jobs.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { compare } from "../../core/evaluation/comparison.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import type { EventType } from "../../core/lifecycle/event.ts";
import {
  decodeJobState,
  directiveOf,
  dueAt,
  encodeJobState,
  hasEnded,
  hasTrainableLayers,
  isCurrentAttempt,
  type JobEvent,
  type JobLogEntry,
  type JobRules,
  type JobState,
  newJobState,
  type PromotionMode,
  refusalReason,
  shouldPromote,
} from "../../core/lifecycle/job.ts";
import { advance } from "../../core/lifecycle/job-transitions.ts";
import { limits } from "../../core/limits.ts";
import type { Directive, Manifest, Message, Submission } from "../../jobs/protocol.ts";
import { TOLERANCE_SECONDS } from "../../jobs/sign.ts";
import { toSeconds } from "../../lib/time.ts";
import { countLabels, findDataset } from "../data/datasets.ts";
import { deleteFile, getFile } from "../data/files.ts";
import { addBackbone, checkBackboneLimit, type FineTunedBackbone, fineTunedId } from "../heads/backbones.ts";
import { commitHead, getHead, type NewHead } from "../heads/heads.ts";
import { emit } from "../hooks/events.ts";
import { paginate } from "../page.ts";
import { schedule } from "../tasks/tasks.ts";

/** What a job is to do; never changed. */
export interface JobSpec {
  readonly tenant: string;
  readonly source:
    | { readonly kind: "dataset"; readonly name: string; readonly id: number }
    /** `own`: made for this job, and gone with its end. */
    | { readonly kind: "file"; readonly id: string; readonly own: boolean };
  readonly validation_file: string | null;
  readonly task: Task;
  readonly modality: DatasetModality;
  readonly dimensions: number;
  readonly out_of_scope_label: string | null;
  /** null where the inputs are embeddings. */
  readonly backbone: { readonly id: string; readonly revision: string } | null;
  readonly head: string;
  readonly promote: PromotionMode;
  readonly trainable: Submission["trainable"];
  readonly suffix: string | null;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly seed: number;
  /** As the caller gave them; they are for training the backbone's layers. */
  readonly hyperparameters: FineTuningHyperparameters;
  readonly training: Pick<Submission["hyperparameters"], "l2" | "class_weight" | "lexical">;
  readonly evaluation: Submission["evaluation"];
}

export interface JobRow {
  readonly number: number;
  readonly id: string;
  readonly spec: JobSpec;
  readonly state: JobState;
  readonly created_at: number;
}

interface StoredJob extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  spec: string;
  state: string;
  created_at: number;
}

function toRow({ number, id, spec, state, created_at }: StoredJob): JobRow {
  return { number, id, created_at, spec: JSON.parse(spec) as JobSpec, state: decodeJobState(state) };
}

/** A job in OpenAI's shape. */
export function toJob({ id, spec, state, created_at }: JobRow): FineTuningJob {
  const { comparison } = state;
  const model = spec.backbone?.id ?? "embedding";
  return {
    object: "fine_tuning.job",
    id,
    model,
    status: state.status,
    error: state.error,
    created_at,
    finished_at: state.finishedAt === null ? null : toSeconds(state.finishedAt),
    estimated_finish: null,
    fine_tuned_model: state.status === "succeeded" ? fineTunedId(model, spec.suffix, id) : null,
    training_file: spec.source.kind === "dataset" ? `dataset:${spec.source.name}` : spec.source.id,
    validation_file: spec.validation_file,
    hyperparameters: spec.hyperparameters,
    method: { type: "supervised", supervised: { hyperparameters: spec.hyperparameters } },
    seed: spec.seed,
    metadata: spec.metadata,
    integrations: [],
    organization_id: spec.tenant,
    result_files: [],
    trained_tokens: null,
    graft: {
      head: spec.head,
      version: state.version,
      promoted: state.promoted,
      promote: spec.promote,
      trainable: spec.trainable,
      attempt: state.attempt,
      comparison:
        comparison === null
          ? null
          : {
              head_accuracy: comparison.head_accuracy,
              fine_tuned_accuracy: comparison.fine_tuned_accuracy,
              test_examples: comparison.test_examples,
              ...compare(comparison),
            },
    },
  };
}

const ACTIVE = "status NOT IN ('succeeded', 'failed', 'cancelled')";

export function findJob(sql: SqlStorage, id: string): Result<JobRow> {
  const row = sql.exec<StoredJob>("SELECT * FROM jobs WHERE id = ?", id).toArray()[0];
  return row ? ok(toRow(row)) : fail("not_found", `No fine-tuning job '${id}'.`);
}

/** Why the examples that a job names cannot be trained on, or null. */
export function checkSource(sql: SqlStorage, spec: JobSpec): Result<null> {
  const { source, validation_file } = spec;
  const param = "training_file";
  if (validation_file !== null) {
    const file = getFile(sql, validation_file);
    if (!file.ok) return { ok: false, failure: { ...file.failure, param: "validation_file" } };
  }
  if (source.kind === "file") {
    const file = getFile(sql, source.id);
    return file.ok ? ok(null) : { ok: false, failure: { ...file.failure, param } };
  }
  const dataset = findDataset(sql, source.name);
  if (!dataset.ok || dataset.value.id !== source.id)
    return fail("not_found", `No dataset '${source.name}'.`, { param });
  const { n } = sql.exec<{ n: number }>("SELECT count(*) AS n FROM examples WHERE dataset = ?", source.id).one();
  if (n < 2)
    return fail("too_few_examples", `Training needs at least two examples; '${source.name}' has ${n}.`, { param });
  if (spec.task === "regression") return ok(null);
  const labels = Object.keys(countLabels(sql, dataset.value)).filter((label) => label !== spec.out_of_scope_label);
  const minLabels = spec.task === "single_label" ? 2 : 1;
  if (labels.length >= minLabels) return ok(null);
  return fail(
    "too_few_labels",
    `Training needs at least ${minLabels === 1 ? "one label" : "two labels"}; '${source.name}' has ${labels.length}.`,
    { param },
  );
}

export function createJob(sql: SqlStorage, id: string, spec: JobSpec, now: number): Result<FineTuningJob> {
  const checked = checkSource(sql, spec);
  if (!checked.ok) return checked;
  const active = countActiveJobs(sql);
  if (active >= limits.active_jobs)
    return fail(
      "limit_exceeded",
      `A tenant has at most ${limits.active_jobs} jobs that have not ended. Wait for some to end, or cancel some.`,
      {
        details: { limit: limits.active_jobs, actual: active },
      },
    );
  if (spec.backbone !== null && hasTrainableLayers(spec.trainable)) {
    const limitCheck = checkBackboneLimit(sql, fineTunedId(spec.backbone.id, spec.suffix, id));
    if (!limitCheck.ok) return limitCheck;
  }
  deleteOldJobs(sql);
  const state = newJobState(spec.promote, now);
  sql.exec(
    "INSERT INTO jobs (id, status, spec, state, created_at) VALUES (?, ?, ?, ?, ?)",
    id,
    state.status,
    JSON.stringify(spec),
    encodeJobState(state),
    toSeconds(now),
  );
  const job = findJob(sql, id);
  if (!job.ok) return job;
  addLogRecord(sql, job.value, { level: "info", message: "The job was created." }, now);
  emit(sql, "fine_tuning.job.created", jobEventData(job.value), now);
  schedule(sql, "job", id, now);
  return ok(toJob(job.value));
}

export function countActiveJobs(sql: SqlStorage): number {
  return sql.exec<{ n: number }>(`SELECT count(*) AS n FROM jobs WHERE ${ACTIVE}`).one().n;
}

function deleteOldJobs(sql: SqlStorage): void {
  const old = `SELECT number FROM jobs WHERE NOT (${ACTIVE}) ORDER BY number DESC LIMIT -1 OFFSET ${limits.ended_jobs}`;
  sql.exec(`DELETE FROM job_events WHERE job IN (${old})`);
  sql.exec(`DELETE FROM jobs WHERE number IN (${old})`);
}

/**
 * Takes an event into account, and schedules what follows from it. Answers the job as it is then;
 * call it in a transaction.
 */
export function applyEvent(sql: SqlStorage, job: JobRow, event: JobEvent, now: number, rules: JobRules): JobRow {
  const { state, log } = advance(job.state, event, now, rules);
  for (const entry of log) addLogRecord(sql, job, entry, now);
  if (state === job.state) return job;
  sql.exec("UPDATE jobs SET status = ?, state = ? WHERE number = ?", state.status, encodeJobState(state), job.number);
  const eventType = statusEventType(state.status);
  if (eventType !== null && state.status !== job.state.status)
    emit(sql, eventType, jobEventData({ ...job, state }), now);
  const due = dueAt(state, rules);
  if (due !== null) schedule(sql, "job", job.id, due);
  if (state.status === "queued") schedule(sql, "submit_jobs", "", state.submitAt);
  const { source } = job.spec;
  if (hasEnded(state) && source.kind === "file" && source.own) deleteFile(sql, source.id, now);
  // An attempt that is told to stop may still upload something.
  if (hasEnded(state) && (!hasEnded(job.state) || (job.state.inFlight && !state.inFlight)))
    schedule(sql, "delete_artifacts", job.id, now);
  const previousCheckpoint = job.state.checkpoint?.sha256;
  if (previousCheckpoint !== undefined && previousCheckpoint !== state.checkpoint?.sha256)
    schedule(sql, "delete_artifacts", `${job.id}/${previousCheckpoint}`, now);
  return { ...job, state };
}

/** The event that tells of a job's new status; null where none does. */
function statusEventType(status: JobState["status"]): EventType | null {
  return status === "validating_files" || status === "queued" ? null : `fine_tuning.job.${status}`;
}

/** What events tell of a job. */
function jobEventData(row: JobRow) {
  const { object, id, status, model, fine_tuned_model, training_file, error, graft } = toJob(row);
  const { head, version, promoted, comparison } = graft;
  return { object, id, status, model, fine_tuned_model, training_file, error, head, version, promoted, comparison };
}

/** Whether a job needs what is stored for it under this name. */
export function isArtifactReferenced(sql: SqlStorage, id: string, sha256: string): boolean {
  const job = findJob(sql, id);
  return job.ok && !hasEnded(job.value.state) && job.value.state.checkpoint?.sha256 === sha256;
}

/** Whether attempts at a job may still upload something. */
export function isActiveJob(sql: SqlStorage, id: string): boolean {
  const job = findJob(sql, id);
  return job.ok && !hasEnded(job.value.state);
}

/** The job whose turn it is to be submitted: of those that went unanswered least often, the oldest. */
export function findNextQueuedJob(sql: SqlStorage): JobRow | null {
  const row = sql
    .exec<StoredJob>(
      "SELECT * FROM jobs WHERE status = 'queued' ORDER BY json_extract(state, '$.unanswered'), number LIMIT 1",
    )
    .toArray()[0];
  return row ? toRow(row) : null;
}

export function commandJob(
  sql: SqlStorage,
  id: string,
  command: "cancel" | "pause" | "resume",
  now: number,
  rules: JobRules,
): Result<FineTuningJob> {
  const job = findJob(sql, id);
  if (!job.ok) return job;
  const refusalMessage = refusalReason(job.value.state, command);
  if (refusalMessage !== null) return fail("job_ended", refusalMessage);
  return ok(toJob(applyEvent(sql, job.value, { type: command }, now, rules)));
}

/** The job of an attempt that runs, or may; refused where another attempt, or none, is the current one. */
export function getCurrentAttempt(sql: SqlStorage, id: string, attempt: number): Result<JobRow> {
  const job = findJob(sql, id);
  if (!job.ok) return job;
  if (isCurrentAttempt(job.value.state, attempt)) return job;
  return fail("attempt_ended", `Attempt ${attempt} at this job is over: what it says has no effect any more.`);
}

/** What a job trains on, where that is still there; else null, and the job fails. */
export function checkJobData(sql: SqlStorage, job: JobRow, now: number, rules: JobRules): JobSpec | null {
  const source = checkSource(sql, job.spec);
  if (source.ok) return job.spec;
  const { message } = source.failure;
  applyEvent(sql, job, { type: "attempt_failed", attempt: job.state.attempt, message, retryable: false }, now, rules);
  return null;
}

/** Remembers a message's id as long as its signature is good; refused where it came before. */
function rejectReplay(sql: SqlStorage, messageId: string, now: number): Result<null> {
  sql.exec("DELETE FROM batch_messages WHERE received_at < ?", toSeconds(now) - 2 * TOLERANCE_SECONDS);
  const insertedRows = sql
    .exec("INSERT OR IGNORE INTO batch_messages (id, received_at) VALUES (?, ?) RETURNING 1", messageId, toSeconds(now))
    .toArray();
  return insertedRows.length > 0
    ? ok(null)
    : fail("message_replayed", "A message with this webhook-id has come before.");
}

/** Takes what an attempt tells, its end with a head apart. Told twice it has the effect of once. */
export function receiveMessage(
  sql: SqlStorage,
  id: string,
  attempt: number,
  messageId: string,
  event: JobEvent,
  message: Message,
  now: number,
  rules: JobRules,
): Result<JobRow> {
  const job = getCurrentAttempt(sql, id, attempt);
  if (!job.ok) return job;
  const replayCheck = rejectReplay(sql, messageId, now);
  if (!replayCheck.ok) return replayCheck;
  const updatedJob = applyEvent(sql, job.value, event, now, rules);
  if (message.type === "progress") {
    const { step, metrics, message: text } = message;
    const data = { step, ...metrics };
    addRecord(
      sql,
      updatedJob,
      "event",
      `${attempt}:${step}`,
      { level: "info", message: text, type: "metrics", data },
      now,
    );
  }
  if (message.type === "checkpoint") {
    const { step, metrics, artifact } = message;
    addRecord(sql, updatedJob, "checkpoint", `${attempt}:${step}:${artifact.sha256}`, { step, metrics }, now);
  }
  return ok(updatedJob);
}

/** What an attempt has trained of its job's backbone. */
export type TrainedLayers = Pick<FineTunedBackbone, "bytes" | "parameters" | "dimensions"> & {
  readonly sha256: string;
};

/**
 * Ends a job with the version that its attempt made: adds it, and promotes it where the job says so, and adds the backbone
 * that came with it (null: its layers are as they were). What the ledger does not take, such as one version too many, ends
 * the job as failed. Call it in a transaction.
 */
export function finishJob(
  sql: SqlStorage,
  id: string,
  attempt: number,
  messageId: string,
  manifest: Manifest,
  head: NewHead,
  layers: TrainedLayers | null,
  now: number,
  rules: JobRules,
): Result<Directive> {
  const job = getCurrentAttempt(sql, id, attempt);
  if (!job.ok) return job;
  const { state } = job.value;
  // A job that is to pause or was cancelled takes no result.
  if (directiveOf(state) !== "continue") return ok(toDirective(job.value, attempt));
  if (state.refit !== manifest.candidate)
    return fail(
      "invalid_artifact",
      `The candidate to train on all examples is ${state.refit ?? "not chosen yet"}, not ${manifest.candidate}.`,
      { param: "manifest.candidate" },
    );
  const replayCheck = rejectReplay(sql, messageId, now);
  if (!replayCheck.ok) return replayCheck;
  const currentHead = getHead(sql, head.id, null);
  const hasActiveVersion = currentHead.ok && currentHead.value.active_version !== null;
  const { backbone: base, suffix, dimensions } = job.value.spec;
  const model = base && fineTunedId(base.id, suffix, id);
  const limitCheck = model !== null && layers !== null ? checkBackboneLimit(sql, model) : ok(null);
  const committed = limitCheck.ok ? commitHead(sql, head, shouldPromote(state, hasActiveVersion), now) : limitCheck;
  if (committed.ok && base !== null && model !== null) {
    const unchanged = { sha256: null, revision: base.revision, bytes: 0, parameters: 0, dimensions };
    const layerFields = layers === null ? unchanged : { ...layers, revision: head.backbone.revision };
    const backboneFields = {
      id: model,
      base: base.id,
      base_revision: base.revision,
      job: id,
      created_at: toSeconds(now),
    };
    addBackbone(sql, { ...backboneFields, ...layerFields }, now);
  }
  const event: JobEvent = committed.ok
    ? { type: "finished", attempt, candidate: manifest.candidate, version: committed.value.version, hasActiveVersion }
    : { type: "attempt_failed", attempt, message: committed.failure.message, retryable: false };
  return ok(toDirective(applyEvent(sql, job.value, event, now, rules), attempt));
}

/** What an attempt is to do; one that is over, by what it has just told among others, is to end. */
export function toDirective({ state }: JobRow, attempt: number): Directive {
  const directive = isCurrentAttempt(state, attempt) ? directiveOf(state) : "end";
  return { object: "batch.directive", directive, refit: state.refit };
}

function addLogRecord(sql: SqlStorage, job: JobRow, { level, message }: JobLogEntry, now: number): void {
  addRecord(sql, job, "event", null, { level, message, type: "message", data: null }, now);
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

/** Adds what a job's lists show; a record with a key is kept once. */
function addRecord(
  sql: SqlStorage,
  job: JobRow,
  kind: "event" | "checkpoint",
  key: string | null,
  record: EventRecord | CheckpointRecord,
  now: number,
): void {
  const { n } = sql.exec<{ n: number }>("SELECT count(*) AS n FROM job_events WHERE job = ?", job.number).one();
  // What a job itself tells is never left out: a few lines an attempt.
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

export function listJobs(sql: SqlStorage, request: PageRequest): Result<List<FineTuningJob>> {
  return paginate(
    request,
    (id) => sql.exec<{ number: number }>("SELECT number FROM jobs WHERE id = ?", id).toArray()[0]?.number ?? null,
    (cursor, count) =>
      sql.exec<StoredJob>("SELECT * FROM jobs WHERE number < ? ORDER BY number DESC LIMIT ?", cursor, count),
    (row) => toJob(toRow(row)),
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
  kind: "event" | "checkpoint",
  prefix: string,
  request: PageRequest,
  toObject: (id: string, row: StoredRecord) => T,
): Result<List<T>> {
  return paginate(
    request,
    (id) => {
      const number =
        id.startsWith(prefix) && /^\d{1,15}$/.test(id.slice(prefix.length)) ? Number(id.slice(prefix.length)) : 0;
      const found = sql.exec(
        "SELECT 1 FROM job_events WHERE number = ? AND job = ? AND kind = ?",
        number,
        job.number,
        kind,
      );
      return found.toArray().length > 0 ? number : null;
    },
    (cursor, count) =>
      sql.exec<StoredRecord>(
        "SELECT number, record, created_at FROM job_events WHERE job = ? AND kind = ? AND number < ? ORDER BY number DESC LIMIT ?",
        job.number,
        kind,
        cursor,
        count,
      ),
    (row) => toObject(`${prefix}${row.number}`, row),
  );
}

export function listJobEvents(sql: SqlStorage, id: string, request: PageRequest) {
  const job = findJob(sql, id);
  if (!job.ok) return job;
  return listRecords(sql, job.value, "event", "ftevent-", request, (id, { record, created_at }) => ({
    object: "fine_tuning.job.event" as const,
    id,
    created_at,
    ...(JSON.parse(record) as EventRecord),
  }));
}

export function listCheckpoints(sql: SqlStorage, id: string, request: PageRequest) {
  const job = findJob(sql, id);
  if (!job.ok) return job;
  return listRecords(sql, job.value, "checkpoint", "ftckpt-", request, (id, { record, created_at }) => {
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
  });
}
