/** One attempt at a job, to its end, and what is told of that. */
import type { Backbone } from "../../backbones/backbone.ts";
import { type Failure, fail } from "../../core/failure.ts";
import type { Cost } from "../../core/linear/types.ts";
import type { TensorBackend } from "../../core/tensors.ts";
import type { Message, Submission } from "../../jobs/protocol.ts";
import type { WorkerClient } from "../client/worker-client.ts";
import { type Log, redactedStack } from "../log.ts";
import { artifactOf, upload } from "./artifact.ts";
import type { Cancellation } from "./cancellation.ts";
import { type Checkpoint, emptyCheckpoint, encodeCheckpoint } from "./checkpoint.ts";
import { makeReporter, type Reporter } from "./reporter.ts";
import { runPipeline } from "./stages.ts";

export interface AttemptContext {
  readonly submission: Submission;
  readonly workerClient: WorkerClient;
  readonly cancellation: Cancellation;
  readonly tensors: TensorBackend;
  /** null where the inputs are embeddings. */
  readonly backbone: Backbone | null;
  /** What an attempt may hold in memory, and a training may compute. */
  readonly budget: Cost;
  /** An artifact of more bytes is uploaded in parts. */
  readonly maxSingleUploadBytes: number;
  readonly log: Log;
}

/** What an attempt has done so far. */
export interface AttemptProgress {
  checkpoint: Checkpoint;
  /** Names what the stages are of; empty while that is not known. */
  fingerprint: string;
  /** SHA-256 of the last checkpoint. */
  lastCheckpointSha256: string | null;
}

/** Another attempt may do better. */
const RETRYABLE_CODES: ReadonlySet<string> = new Set<Failure["code"]>([
  "backend_unavailable",
  "backend_timeout",
  "backend_rate_limited",
  "storage_unavailable",
  "internal_error",
]);

const MAX_MESSAGE_LENGTH = 1000;
/** A part of the longest silence, so that a message which takes its time is not too late. */
const HEARTBEAT_FRACTION = 0.75;

/** Runs an attempt and tells how it ended, which is the answer too, for the log. */
export async function runAttempt(attempt: AttemptContext): Promise<"finished" | "failed" | "stopped" | "end"> {
  const { submission, workerClient, cancellation, log } = attempt;
  const reporter = makeReporter(workerClient, cancellation, log);
  const heartbeat = reporter.startHeartbeat(submission.heartbeat_seconds * 1000 * HEARTBEAT_FRACTION);
  const progress: AttemptProgress = {
    checkpoint: emptyCheckpoint(),
    fingerprint: "",
    lastCheckpointSha256: submission.checkpoint?.sha256 ?? null,
  };
  /** Null where the attempt is told to end meanwhile. */
  const nullIfCancelled = async <T>(run: () => Promise<T>) => {
    try {
      return await run();
    } catch (error) {
      if (cancellation.requestedMode() !== null) return null;
      log("error", { stack: redactedStack(error) });
      return fail("internal_error", "The batch endpoint ran into an error of its own.");
    }
  };
  try {
    const outcome = await nullIfCancelled(() => runPipeline(attempt, reporter, progress));
    if (outcome?.ok) return "finished";
    const retryable = outcome !== null && RETRYABLE_CODES.has(outcome.failure.code);
    if (retryable || (outcome === null && cancellation.requestedMode() === "pause"))
      await nullIfCancelled(() => saveCheckpoint(attempt, reporter, progress, cancellation.signals.cancel));
    if (cancellation.requestedMode() === "end") return "end";
    const lastMessage: Message =
      outcome === null
        ? { type: "stopped" }
        : { type: "failed", message: outcome.failure.message.slice(0, MAX_MESSAGE_LENGTH), retryable };
    await nullIfCancelled(() => reporter.send(lastMessage, cancellation.signals.end));
    return lastMessage.type;
  } finally {
    heartbeat.stop();
  }
}

/**
 * Uploads what has been done as a checkpoint, and tells of it, where there is anything new in it. Where that fails the
 * attempt goes on: another one has more to do again.
 */
export async function saveCheckpoint(
  attempt: AttemptContext,
  reporter: Reporter,
  progress: AttemptProgress,
  signal: AbortSignal,
): Promise<void> {
  const parts = encodeCheckpoint(progress.checkpoint, progress.fingerprint);
  if (parts === null) return;
  const artifact = artifactOf(parts);
  if (artifact.sha256 === progress.lastCheckpointSha256) return;
  const outcome = await upload(attempt.workerClient, parts, artifact, attempt.maxSingleUploadBytes, signal);
  if (outcome.type === "ended") return;
  if (outcome.type !== "answer") return attempt.log("checkpoint_lost", { reason: outcome.type });
  await reporter.send({ type: "checkpoint", step: reporter.nextStep(), artifact, metrics: {} }, signal);
  progress.lastCheckpointSha256 = artifact.sha256;
}
