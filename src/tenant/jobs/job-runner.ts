/** The tasks of fine-tuning jobs: validating a job, submitting it to the batch endpoint, stopping an attempt, giving up a silent one. */

import type { JobEvent, JobRules } from "../../core/lifecycle/job.ts";
import { dueAt, isSilent } from "../../core/lifecycle/job.ts";
import { edgeBudget } from "../../core/limits.ts";
import { type BatchEndpoint, stopAttempt, submitAttempt } from "../../jobs/client.ts";
import type { Submission } from "../../jobs/protocol.ts";
import { makeAttemptToken } from "../../jobs/token.ts";
import { toMilliseconds } from "../../lib/time.ts";
import { findJob, findNextSubmission, type JobRow } from "./jobs.ts";
import { applyEvent, checkSource } from "./lifecycle.ts";

const HEARTBEATS_PER_TIMEOUT = 10;
const MAX_HEARTBEAT_SECONDS = 15;
const MAX_ATTEMPTS = 3;
/** An endpoint that ends under a job five times may be ended by it, for example because its machine is out of memory. */
const MAX_ENDPOINT_DEATHS = 5;
/** Wait between unanswered submissions; it doubles each time. */
const INITIAL_BACKOFF_MS = 1_000;
const MAX_BACKOFF_MS = 60_000;
/** If a busy batch endpoint sends no Retry-After. */
const DEFAULT_BUSY_RETRY_MS = 5_000;
const MAX_RETRY_AFTER_MS = 600_000;

function heartbeatTimeoutSeconds(env: Cloudflare.Env): number {
  return Number(env.BATCH_SILENCE_SECONDS) || 600;
}

export function getJobRules(env: Cloudflare.Env): JobRules {
  return {
    heartbeatTimeout: toMilliseconds(heartbeatTimeoutSeconds(env)),
    maxAttempts: MAX_ATTEMPTS,
    maxEndpointDeaths: MAX_ENDPOINT_DEATHS,
  };
}

/** The configured batch endpoint, at BATCH_URL or in one container per job; null if none is configured. */
export function getBatchEndpoint(env: Cloudflare.Env): BatchEndpoint | null {
  const { BATCH_URL: url, BATCH: containers, BATCH_SECRET: secret } = env;
  if (!secret) return null;
  const timeoutMs = toMilliseconds(Number(env.BATCH_TIMEOUT_SECONDS) || 10);
  if (url) return { send: (path, init) => fetch(url.replace(/\/+$/, "") + path, init), secret, timeoutMs };
  if (!containers || !env.GRAFT_URL) return null;
  // A path begins with /v1/jobs/{id}.
  const getContainer = (path: string) => containers.getByName(path.split("/")[3] ?? "");
  return { send: (path, init) => getContainer(path).fetch(`http://batch${path}`, init), secret, timeoutMs };
}

/** Runs the task `job`: all but the submission. Answers when it is due again, or null. */
export async function runJob(env: Cloudflare.Env, storage: DurableObjectStorage, id: string): Promise<number | null> {
  const rules = getJobRules(env);
  const { sql } = storage;
  const applyJobEvent = (event: JobEvent): JobRow | null =>
    storage.transactionSync(() => {
      const job = findJob(sql, id);
      return job.ok ? applyEvent(sql, job.value, event, Date.now(), rules) : null;
    });
  const endpoint = getBatchEndpoint(env);
  const found = findJob(sql, id);
  let job = found.ok ? found.value : null;
  if (job !== null && isSilent(job.state, Date.now(), rules)) {
    const { attempt } = job.state;
    const endpointLost = job.state.status === "running" && (await isEndpointLost(endpoint, id, attempt));
    job = applyJobEvent({ type: "silent", attempt, endpointLost });
  }
  if (job?.state.status === "validating_files") {
    const checked = checkSource(sql, job.spec);
    if (checked.ok) job = applyJobEvent({ type: "validated" });
    else {
      const { code, message, param = null } = checked.failure;
      job = applyJobEvent({ type: "invalid", error: { code, message, param } });
    }
  }
  const isStopping = job?.state.status === "paused" || job?.state.status === "cancelled";
  if (job?.state.inFlight && isStopping) {
    const { attempt, status } = job.state;
    const action = status === "paused" ? "pause" : "cancel";
    const result = endpoint && (await stopAttempt(endpoint, { object: "batch.stop", id, attempt, action }));
    const isStopped = result === "ended" || result === "endpoint_lost";
    job = applyJobEvent({ type: isStopped ? "stopped" : "stop_requested", attempt });
  }
  return job === null ? null : dueAt(job.state, rules);
}

/**
 * Whether a silent attempt was lost with its endpoint: that has ended and knows nothing of the attempt, or is not there.
 * An endpoint that is there and still has the attempt, or saw it end, is told to end it.
 */
async function isEndpointLost(endpoint: BatchEndpoint | null, id: string, attempt: number): Promise<boolean> {
  if (endpoint === null) return true;
  const result = await stopAttempt(endpoint, { object: "batch.stop", id, attempt, action: "cancel" });
  return result === "endpoint_lost" || result === "unanswered";
}

/**
 * Submits the tenant's next queued job. Answers when to submit the next one, or null if none is queued. `random` is
 * uniform in [0, 1).
 */
export async function submitNextJob(
  env: Cloudflare.Env,
  storage: DurableObjectStorage,
  now: number,
  random: () => number,
): Promise<number | null> {
  const { sql } = storage;
  const rules = getJobRules(env);
  const submission = findNextSubmission(sql, now);
  if (submission === null) return null;
  if (submission.at > now) return submission.at;
  const next = submission.job;
  const { attempt } = next.state;
  const applyJobEvent = (event: JobEvent) =>
    storage.transactionSync(() => {
      const job = findJob(sql, next.id);
      if (job.ok) applyEvent(sql, job.value, event, Date.now(), rules);
    });
  applyJobEvent({ type: "submitting", attempt });
  const endpoint = getBatchEndpoint(env);
  const response =
    endpoint === null
      ? { type: "unanswered" as const, reason: "none is configured.", retryAfter: MAX_BACKOFF_MS }
      : await submitAttempt(endpoint, toSubmission(env, next));
  switch (response.type) {
    case "accepted":
      applyJobEvent({ type: "accepted", attempt });
      break;
    case "ended": {
      const message = "it ended without a word.";
      applyJobEvent(
        response.endpointRestarted
          ? { type: "endpoint_lost", attempt, message }
          : { type: "attempt_failed", attempt, message, retryable: true },
      );
      break;
    }
    case "rejected":
      applyJobEvent({ type: "rejected", attempt, message: response.message });
      break;
    case "busy": {
      const requestedDelay = Math.min(response.retryAfter ?? DEFAULT_BUSY_RETRY_MS, MAX_RETRY_AFTER_MS);
      applyJobEvent({ type: "busy", attempt, retryAfter: Math.max(requestedDelay, INITIAL_BACKOFF_MS) });
      break;
    }
    case "unanswered": {
      const backoff = Math.min(INITIAL_BACKOFF_MS * 2 ** next.state.unanswered, MAX_BACKOFF_MS);
      const requestedDelay = Math.min(response.retryAfter ?? 0, MAX_RETRY_AFTER_MS);
      const retryAfter = Math.max(backoff * (0.75 + 0.5 * random()), requestedDelay);
      applyJobEvent({ type: "unanswered", attempt, reason: response.reason, retryAfter });
    }
  }
  const following = findNextSubmission(sql, Date.now());
  return following && Math.max(following.at, Date.now());
}

function toSubmission(env: Cloudflare.Env, { id, spec, state, created_at }: JobRow): Submission {
  const { attempt, checkpoint } = state;
  const { n_epochs, batch_size, learning_rate_multiplier } = spec.hyperparameters;
  return {
    object: "batch.job",
    id,
    attempt,
    tenant: spec.tenant,
    token: makeAttemptToken(env.SERVER_KEY, { tenant: spec.tenant, job: id, attempt }),
    created_at,
    task: spec.task,
    modality: spec.modality,
    backbone: spec.backbone,
    dimensions: spec.dimensions,
    out_of_scope_label: spec.out_of_scope_label,
    trainable: spec.trainable,
    hyperparameters: { ...spec.training, epochs: n_epochs, batch_size, learning_rate_multiplier, seed: spec.seed },
    clamp: spec.clamp ?? false,
    ...(spec.in_scope_recall === undefined ? {} : { in_scope_recall: spec.in_scope_recall }),
    evaluation: spec.evaluation,
    comparison: spec.validation_file === null && !spec.measurement?.test ? "cross_fit" : "held_out",
    ...(spec.measurement === undefined ? {} : { sample: spec.measurement.examples }),
    edge_budget: edgeBudget,
    estimate: spec.estimate,
    checkpoint,
    heartbeat_seconds: Math.min(MAX_HEARTBEAT_SECONDS, heartbeatTimeoutSeconds(env) / HEARTBEATS_PER_TIMEOUT),
  };
}
