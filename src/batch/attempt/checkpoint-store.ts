/** The results that an attempt has so far, and their checkpoints at the Worker. */
import { artifactOf, download, upload } from "./artifact.ts";
import { valueOrNull } from "./cancellation.ts";
import {
  type Checkpoint,
  decodeCheckpoint,
  emptyCheckpoint,
  encodeCheckpoint,
  submissionFingerprint,
} from "./checkpoint.ts";
import type { AttemptContext } from "./context.ts";
import type { Examples } from "./examples.ts";
import type { Reporter } from "./reporter.ts";

export interface CheckpointStore {
  /** The results so far. Whoever adds one saves it. */
  results(): Checkpoint;
  /**
   * Takes over the results of an earlier attempt, if it left a checkpoint of the same job on the same data. Answers whether
   * it did. To be called before the first save.
   */
  restore(examples: Pick<Examples, "digest" | "targets">, signal: AbortSignal): Promise<boolean>;
  /**
   * Uploads the results, if any are new, and reports that. If the upload fails, the attempt goes on without it. Throws the
   * reason of an aborted signal.
   */
  save(signal: AbortSignal): Promise<void>;
}

export function makeCheckpointStore(
  { submission, workerClient, cancellation, maxSingleUploadBytes, log }: AttemptContext,
  reporter: Reporter,
): CheckpointStore {
  let results = emptyCheckpoint();
  let fingerprint = "";
  let savedSha256: string | null = null;
  return {
    results: () => results,
    async restore({ digest, targets }, signal) {
      fingerprint = submissionFingerprint(submission, digest, targets.length);
      const artifact = submission.checkpoint;
      if (artifact === null) return false;
      const bytes = await download(workerClient, artifact, signal);
      const restored = bytes && decodeCheckpoint(bytes, fingerprint, submission.dimensions);
      if (restored === null) return false;
      results = restored;
      savedSha256 = artifact.sha256;
      return true;
    },
    async save(signal) {
      const parts = encodeCheckpoint(results, fingerprint);
      if (parts === null) return;
      const artifact = artifactOf(parts);
      if (artifact.sha256 === savedSha256) return;
      const outcome = await upload(workerClient, parts, artifact, maxSingleUploadBytes, signal);
      if (valueOrNull(outcome, cancellation, signal) === null) return log("checkpoint_lost", { reason: outcome.type });
      await reporter.send({ type: "checkpoint", step: reporter.nextStep(), artifact, metrics: {} }, signal);
      savedSha256 = artifact.sha256;
    },
  };
}
