/** What the attempts at a job report, and what they are told to do. */
import { fail, ok, type Result } from "../../core/failure.ts";
import { directiveOf, hasAccess, type JobEvent, type JobRules, shouldPromote } from "../../core/lifecycle/job.ts";
import type { Directive, Manifest, Message } from "../../jobs/protocol.ts";
import { TOLERANCE_SECONDS } from "../../jobs/sign.ts";
import { toSeconds } from "../../lib/time.ts";
import { addBackbone, checkBackboneLimit, type FineTunedBackbone, fineTunedId } from "../heads/backbones.ts";
import { commitHead, getHead, type NewHead } from "../heads/heads.ts";
import { schedule } from "../tasks/tasks.ts";
import { findJob, hasNamedHead, type JobRow, type JobSpec } from "./jobs.ts";
import { applyEvent, checkSource } from "./lifecycle.ts";
import { addRecord } from "./log.ts";

/** The job, if this attempt at it may read and write. */
export function getCurrentAttempt(sql: SqlStorage, id: string, attempt: number): Result<JobRow> {
  const job = findJob(sql, id);
  if (!job.ok) return job;
  if (hasAccess(job.value.state, attempt)) return job;
  return fail("attempt_ended", `Attempt ${attempt} at this job is over: what it says has no effect any more.`);
}

/** What a job is to train on. If the examples no longer exist, the job fails and the answer is null. */
export function checkJobData(sql: SqlStorage, job: JobRow, now: number, rules: JobRules): JobSpec | null {
  const source = checkSource(sql, job.spec);
  if (source.ok) return job.spec;
  const { message } = source.failure;
  applyEvent(sql, job, { type: "attempt_failed", attempt: job.state.attempt, message, retryable: false }, now, rules);
  return null;
}

/** Refuses a message whose id came before. Ids are kept for as long as a signature is valid. */
function rejectReplay(sql: SqlStorage, messageId: string, now: number): Result<null> {
  sql.exec("DELETE FROM batch_messages WHERE received_at < ?", toSeconds(now) - 2 * TOLERANCE_SECONDS);
  const insertedRows = sql
    .exec("INSERT OR IGNORE INTO batch_messages (id, received_at) VALUES (?, ?) RETURNING 1", messageId, toSeconds(now))
    .toArray();
  return insertedRows.length > 0
    ? ok(null)
    : fail("message_replayed", "A message with this webhook-id has come before.");
}

/** Whose attempt speaks, in which signed message. */
interface Sender {
  readonly job: string;
  readonly attempt: number;
  readonly messageId: string;
}

export interface AttemptMessage extends Sender {
  readonly event: JobEvent;
  readonly message: Message;
}

/** Applies a message of an attempt, unless it came before; `finishJob` takes the attempt's result. */
export function receiveMessage(
  sql: SqlStorage,
  { job: id, attempt, messageId, event, message }: AttemptMessage,
  now: number,
  rules: JobRules,
): Result<Directive> {
  const job = getCurrentAttempt(sql, id, attempt);
  if (!job.ok) return job;
  const replayCheck = rejectReplay(sql, messageId, now);
  if (!replayCheck.ok) return replayCheck;
  const updatedJob = applyEvent(sql, job.value, event, now, rules);
  if (message.type === "progress") {
    const { step, metrics, message: text } = message;
    const record = { level: "info", message: text, type: "metrics", data: { step, ...metrics } } as const;
    addRecord(sql, updatedJob, { kind: "event", key: `${attempt}:${step}`, record }, now);
  }
  if (message.type === "checkpoint") {
    const { step, metrics, artifact } = message;
    const key = `${attempt}:${step}:${artifact.sha256}`;
    addRecord(sql, updatedJob, { kind: "checkpoint", key, record: { step, metrics } }, now);
  }
  return ok(toDirective(updatedJob, attempt));
}

/** The trained layers of a job's backbone. */
export type TrainedLayers = Pick<FineTunedBackbone, "bytes" | "parameters" | "dimensions"> & {
  readonly sha256: string;
};

export interface AttemptResult extends Sender {
  readonly candidate: Manifest["candidate"];
  readonly head: NewHead;
  /** Null if the layers are those of the shared backbone. */
  readonly layers: TrainedLayers | null;
  /** Positions of the examples whose embeddings the head's bytes hold. */
  readonly vectors?: Uint32Array | null;
}

/**
 * Ends a job with the result of its attempt: adds the version of the head, promotes it if the job names a head and says
 * so, and adds the fine-tuned backbone. If the ledger refuses the version, for example because there are too many, the job fails. Call it
 * in a transaction.
 */
export function finishJob(
  sql: SqlStorage,
  { job: id, attempt, messageId, candidate, head, layers, vectors = null }: AttemptResult,
  now: number,
  rules: JobRules,
): Result<Directive> {
  const job = getCurrentAttempt(sql, id, attempt);
  if (!job.ok) return job;
  const { state } = job.value;
  // A job that was paused takes no result.
  if (directiveOf(state) !== "continue") return ok(toDirective(job.value, attempt));
  if (state.refit !== candidate)
    return fail(
      "invalid_artifact",
      `The candidate to train on all examples is ${state.refit ?? "not chosen yet"}, not ${candidate}.`,
      { param: "manifest.candidate" },
    );
  const replayCheck = rejectReplay(sql, messageId, now);
  if (!replayCheck.ok) return replayCheck;
  const currentHead = getHead(sql, head.id, null);
  const hasActiveVersion = currentHead.ok && currentHead.value.active_version !== null;
  const { backbone: base, suffix, dimensions } = job.value.spec;
  const model = base && fineTunedId(base.id, suffix, id);
  const limitCheck = model !== null && layers !== null ? checkBackboneLimit(sql, model) : ok(null);
  const { test_dataset: testDataset = null } = job.value.spec;
  // Under 'if_better' a test set decides, after the job.
  const isUndecided = testDataset !== null && state.promote === "if_better";
  const promoted = hasNamedHead(job.value) && !isUndecided && shouldPromote(state, hasActiveVersion);
  const committed = limitCheck.ok ? commitHead(sql, head, promoted, now, vectors) : limitCheck;
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
    ? {
        type: "finished",
        attempt,
        candidate,
        version: committed.value.version,
        promoted: committed.value.active_version === committed.value.version,
      }
    : { type: "attempt_failed", attempt, message: committed.failure.message, retryable: false };
  if (committed.ok && testDataset !== null) schedule(sql, "test_version", id, now);
  return ok(toDirective(applyEvent(sql, job.value, event, now, rules), attempt));
}

/**
 * Has the attempt save a checkpoint and hand the job back, while its tenant is suspended. The job is queued then, and goes
 * on from the checkpoint once the tenant is active again.
 */
export function pauseAttempt(result: Result<Directive>): Result<Directive> {
  return result.ok && result.value.directive === "continue" ? ok({ ...result.value, directive: "pause" }) : result;
}

/** What an attempt is told to do: to end, if it is no longer the current one. */
function toDirective({ state }: JobRow, attempt: number): Directive {
  const directive = hasAccess(state, attempt) ? directiveOf(state) : "end";
  return { object: "batch.directive", directive, refit: state.refit };
}
