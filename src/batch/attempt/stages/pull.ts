/** Stage 1: the examples, as the Worker sends them. */
import type { Result } from "../../../core/failure.ts";
import type { Submission } from "../../../jobs/protocol.ts";
import { type Outcome, type WorkerClient, withRetries } from "../../client/worker-client.ts";
import { type Examples, readExamples } from "../examples.ts";

/**
 * Fetches the examples, again if they are not whole. The result is a failure if they are invalid or take more than
 * `maxBytes`.
 */
export function pullExamples(
  workerClient: WorkerClient,
  submission: Submission,
  maxBytes: number,
  signal: AbortSignal,
): Promise<Outcome<Result<Examples>>> {
  return withRetries(workerClient.retryPolicy, signal, () =>
    workerClient.getStream("data", (chunks) => readExamples(chunks, submission, maxBytes), signal),
  );
}
