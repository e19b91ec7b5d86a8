/** One attempt at a job, to its end, and what is told of that. */
import type { Backbone } from "../../backbones/backbone.ts";
import type { Cost } from "../../core/linear/cost.ts";
import { type Failure, fail } from "../../core/failure.ts";
import type { Tensors } from "../../core/tensors.ts";
import type { Message, Submission } from "../../jobs/protocol.ts";
import { artifactOf, upload } from "./artifact.ts";
import { encodeStages, noStages, type Stages } from "./checkpoint.ts";
import type { Edge } from "../client/worker-client.ts";
import type { Ending } from "./cancellation.ts";
import { framesOf, type Log } from "../log.ts";
import { makeReport, type Report } from "./report.ts";
import { runStages } from "./stages.ts";

export interface Work {
  readonly submission: Submission;
  readonly edge: Edge;
  readonly ending: Ending;
  readonly tensors: Tensors;
  /** null where the inputs are embeddings. */
  readonly backbone: Backbone | null;
  /** What an attempt may hold in memory, and a training may compute. */
  readonly budget: Cost;
  /** An artifact of more bytes is uploaded in parts. */
  readonly largestSingle: number;
  readonly log: Log;
}

/** What an attempt has done so far. */
export interface Progress {
  stages: Stages;
  /** Names what the stages are of; empty while that is not known. */
  of: string;
  /** SHA-256 of the last checkpoint. */
  kept: string | null;
}

/** Another attempt may do better. */
const MAY_PASS: ReadonlySet<string> = new Set<Failure["code"]>([
  "backend_unavailable",
  "backend_timeout",
  "backend_rate_limited",
  "storage_unavailable",
  "internal_error",
]);

const MOST_CHARACTERS = 1000;
/** A part of the longest silence, so that a message which takes its time is not too late. */
const BEAT = 0.75;

/** Runs an attempt and tells how it ended, which is the answer too, for the log. */
export async function runAttempt(work: Work): Promise<"finished" | "failed" | "stopped" | "end"> {
  const { submission, edge, ending, log } = work;
  const report = makeReport(edge, ending, log);
  const beats = report.beat(submission.heartbeat_seconds * 1000 * BEAT);
  const progress: Progress = { stages: noStages(), of: "", kept: submission.checkpoint?.sha256 ?? null };
  /** Null where the attempt is told to end meanwhile. */
  const unlessEnded = async <T>(run: () => Promise<T>) => {
    try {
      return await run();
    } catch (error) {
      if (ending.asked() !== null) return null;
      log("error", { at: framesOf(error) });
      return fail("internal_error", "The batch endpoint ran into an error of its own.");
    }
  };
  try {
    const outcome = await unlessEnded(() => runStages(work, report, progress));
    if (outcome?.ok) return "finished";
    const retryable = outcome !== null && MAY_PASS.has(outcome.failure.code);
    if (retryable || (outcome === null && ending.asked() === "pause"))
      await unlessEnded(() => keep(work, report, progress, ending.signals.cancel));
    if (ending.asked() === "end") return "end";
    const last: Message =
      outcome === null
        ? { type: "stopped" }
        : { type: "failed", message: outcome.failure.message.slice(0, MOST_CHARACTERS), retryable };
    await unlessEnded(() => report.tell(last, ending.signals.end));
    return last.type;
  } finally {
    beats.stop();
  }
}

/**
 * Uploads what has been done as a checkpoint, and tells of it, where there is anything new in it. Where that fails the
 * attempt goes on: another one has more to do again.
 */
export async function keep(work: Work, report: Report, progress: Progress, signal: AbortSignal): Promise<void> {
  const parts = encodeStages(progress.stages, progress.of);
  if (parts === null) return;
  const artifact = artifactOf(parts);
  if (artifact.sha256 === progress.kept) return;
  const outcome = await upload(work.edge, parts, artifact, work.largestSingle, signal);
  if (outcome.type === "over") return work.ending.ask("end");
  if (outcome.type !== "answer") return work.log("checkpoint_lost", { why: outcome.type });
  await report.tell({ type: "checkpoint", step: report.nextStep(), artifact, metrics: {} }, signal);
  progress.kept = artifact.sha256;
}
