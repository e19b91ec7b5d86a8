/** Runs one attempt at a job to its end, and sends its last message. */
import { type Failure, fail } from "../../core/failure.ts";
import type { Message } from "../../jobs/protocol.ts";
import { redactedStack } from "../log.ts";
import { makeCheckpointStore } from "./checkpoint-store.ts";
import type { AttemptContext } from "./context.ts";
import { runPipeline } from "./pipeline.ts";
import { makeReporter } from "./reporter.ts";

/** With one of these failures, another attempt may succeed. */
const RETRYABLE_CODES: ReadonlySet<string> = new Set<Failure["code"]>([
  "backend_unavailable",
  "backend_timeout",
  "backend_rate_limited",
  "storage_unavailable",
  "internal_error",
]);

const MAX_MESSAGE_LENGTH = 1000;
/** A part of the longest allowed silence, so that a heartbeat that takes long still arrives in time. */
const HEARTBEAT_FRACTION = 0.75;

/** Runs an attempt and answers how it ended, for the log. `end`: the Worker had ended it before. */
export async function runAttempt(attempt: AttemptContext): Promise<"finished" | "failed" | "stopped" | "end"> {
  const { submission, workerClient, cancellation, log } = attempt;
  const reporter = makeReporter(workerClient, cancellation, log);
  const store = makeCheckpointStore(attempt, reporter);
  const heartbeat = reporter.startHeartbeat(submission.heartbeat_seconds * 1000 * HEARTBEAT_FRACTION);
  /** Null if the attempt was asked to end meanwhile: the work throws then. */
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
    const outcome = await nullIfCancelled(() => runPipeline(attempt, reporter, store));
    if (outcome?.ok) return "finished";
    const retryable = outcome !== null && RETRYABLE_CODES.has(outcome.failure.code);
    if (retryable || (outcome === null && cancellation.requestedMode() === "pause"))
      await nullIfCancelled(() => store.save(cancellation.signals.cancel));
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
