/** What is due for fine-tuning jobs: validating, submitting to the batch endpoint, stopping, and giving up what is silent. */
import type { JobEvent, JobRules } from "../../core/lifecycle/job.ts";
import { dueAt } from "../../core/lifecycle/job.ts";
import { edgeBudget } from "../../core/limits.ts";
import { type BatchEndpoint, stopAttempt, submitAttempt } from "../../jobs/client.ts";
import type { Submission } from "../../jobs/protocol.ts";
import { makeToken } from "../../jobs/token.ts";
import { applyEvent, checkSource, findJob, firstQueued, type JobRow } from "./jobs.ts";

const HEARTBEATS_IN_SILENCE = 10;
const LONGEST_HEARTBEAT_SECONDS = 15;
const ATTEMPTS = 3;
/** Between submissions that nobody answered, doubled each time. */
const FIRST_BACKOFF_MS = 1_000;
const LAST_BACKOFF_MS = 60_000;
/** Where a busy batch endpoint does not say when to ask again. */
const BUSY_MS = 5_000;
const LONGEST_RETRY_AFTER_MS = 600_000;

export function jobRules(env: Cloudflare.Env): JobRules {
  return { silence: (Number(env.BATCH_SILENCE_SECONDS) || 600) * 1000, attempts: ATTEMPTS };
}

/** The batch endpoint that the Worker is configured with, or null: one at BATCH_URL, or a container for each job. */
export function batchEndpoint(env: Cloudflare.Env): BatchEndpoint | null {
  const { BATCH_URL: url, BATCH: containers, BATCH_SECRET: secret } = env;
  if (!secret) return null;
  const timeoutMs = (Number(env.BATCH_TIMEOUT_SECONDS) || 10) * 1000;
  if (url) return { send: (path, init) => fetch(url.replace(/\/+$/, "") + path, init), secret, timeoutMs };
  if (!containers || !env.GRAFT_URL) return null;
  // A path begins with /v1/jobs/{id}.
  const containerOf = (path: string) => containers.getByName(path.split("/")[3] ?? "");
  return { send: (path, init) => containerOf(path).fetch(`http://batch${path}`, init), secret, timeoutMs };
}

/** Work on the job `id`; answers when it is due again in milliseconds, or null. Submissions are `submitNext`'s. */
export async function runJob(env: Cloudflare.Env, storage: DurableObjectStorage, id: string): Promise<number | null> {
  const rules = jobRules(env);
  const { sql } = storage;
  const tell = (event: JobEvent): JobRow | null =>
    storage.transactionSync(() => {
      const job = findJob(sql, id);
      return job.ok ? applyEvent(sql, job.value, event, Date.now(), rules) : null;
    });
  let job = tell({ type: "clock" });
  if (job?.state.status === "validating_files") {
    const checked = checkSource(sql, job.spec);
    if (checked.ok) job = tell({ type: "validated" });
    else {
      const { code, message, param = null } = checked.failure;
      job = tell({ type: "invalid", error: { code, message, param } });
    }
  }
  const stopping = job?.state.status === "paused" || job?.state.status === "cancelled";
  const endpoint = batchEndpoint(env);
  if (job?.state.live && stopping) {
    const { attempt, status } = job.state;
    const action = status === "paused" ? "pause" : "cancel";
    const ended = endpoint !== null && (await stopAttempt(endpoint, { object: "batch.stop", id, attempt, action }));
    job = tell({ type: ended ? "stopped" : "told_to_stop", attempt });
  }
  return job === null ? null : dueAt(job.state, rules);
}

/**
 * Submits the job whose turn it is in the tenant's line, one at a time; answers when to go on, in milliseconds, or null
 * where none is queued. `random` gives numbers uniform in [0, 1).
 */
export async function submitNext(
  env: Cloudflare.Env,
  storage: DurableObjectStorage,
  now: number,
  random: () => number,
): Promise<number | null> {
  const { sql } = storage;
  const rules = jobRules(env);
  const next = firstQueued(sql);
  if (next === null) return null;
  if (next.state.submitAt > now) return next.state.submitAt;
  const { attempt } = next.state;
  const tell = (event: JobEvent) =>
    storage.transactionSync(() => {
      const job = findJob(sql, next.id);
      if (job.ok) applyEvent(sql, job.value, event, Date.now(), rules);
    });
  tell({ type: "submitting", attempt });
  const endpoint = batchEndpoint(env);
  const answer =
    endpoint === null
      ? { type: "unanswered" as const, reason: "none is configured.", retryAfter: LAST_BACKOFF_MS }
      : await submitAttempt(endpoint, toSubmission(env, next));
  switch (answer.type) {
    case "accepted":
      tell({ type: "accepted", attempt });
      break;
    case "ended":
      tell({ type: "attempt_failed", attempt, message: "it ended without a word.", retryable: true });
      break;
    case "rejected":
      tell({ type: "rejected", attempt, message: answer.message });
      break;
    case "busy": {
      const asked = Math.min(answer.retryAfter ?? BUSY_MS, LONGEST_RETRY_AFTER_MS);
      tell({ type: "busy", attempt, retryAfter: Math.max(asked, FIRST_BACKOFF_MS) });
      break;
    }
    case "unanswered": {
      const doubled = Math.min(FIRST_BACKOFF_MS * 2 ** next.state.unanswered, LAST_BACKOFF_MS);
      const asked = Math.min(answer.retryAfter ?? 0, LONGEST_RETRY_AFTER_MS);
      const retryAfter = Math.max(doubled * (0.75 + 0.5 * random()), asked);
      tell({ type: "unanswered", attempt, reason: answer.reason, retryAfter });
    }
  }
  const following = firstQueued(sql);
  return following === null ? null : Math.max(following.state.submitAt, Date.now());
}

function toSubmission(env: Cloudflare.Env, { id, spec, state, created_at }: JobRow): Submission {
  const { attempt, checkpoint } = state;
  const { n_epochs, batch_size, learning_rate_multiplier } = spec.hyperparameters;
  const silence = jobRules(env).silence / 1000;
  return {
    object: "batch.job",
    id,
    attempt,
    tenant: spec.tenant,
    token: makeToken(env.SERVER_KEY, { tenant: spec.tenant, job: id, attempt }),
    created_at,
    task: spec.task,
    modality: spec.modality,
    backbone: spec.backbone,
    dimensions: spec.dimensions,
    out_of_scope_label: spec.out_of_scope_label,
    trainable: spec.trainable,
    hyperparameters: { ...spec.training, epochs: n_epochs, batch_size, learning_rate_multiplier, seed: spec.seed },
    evaluation: spec.evaluation,
    edge_budget: edgeBudget,
    checkpoint,
    heartbeat_seconds: Math.min(LONGEST_HEARTBEAT_SECONDS, silence / HEARTBEATS_IN_SILENCE),
  };
}
