/**
 * The order in which waiting jobs of one tenant are run: that which has waited longest in relation to its estimated work
 * goes first (Brinch Hansen 1971, "highest response ratio next"). So a short job soon passes a long one, and a long one is
 * passed only by jobs that have waited at least as long for each of their operations: its turn comes. Times are in
 * milliseconds.
 */
import type { JobState } from "./job.ts";

export interface WaitingJob {
  /** The estimated work; null if a build made the job that estimated none. */
  readonly operations: number | null;
  readonly createdAt: number;
}

/** About a minute and a half of computation. */
const UNKNOWN_OPERATIONS = 1e12;

function operationsOf({ operations }: WaitingJob): number {
  return Math.max(1, operations ?? UNKNOWN_OPERATIONS);
}

/** Negative if `a` goes before `b`. Of jobs that have waited equally long for their work, the shorter goes first. */
export function compareJobs(a: WaitingJob, b: WaitingJob, now: number): number {
  const waitPerOperation = (job: WaitingJob) => Math.max(0, now - job.createdAt) / operationsOf(job);
  return waitPerOperation(b) - waitPerOperation(a) || operationsOf(a) - operationsOf(b) || a.createdAt - b.createdAt;
}

/** A queued job as its ledger has it. */
export interface QueuedJob extends WaitingJob {
  readonly state: Pick<JobState, "inFlight" | "unanswered" | "submitAt" | "heardAt">;
}

/** A job that asks to be submitted again only after a long time holds back others no longer than this. */
const MAX_HOLD_MS = 30_000;

/**
 * The job of a queue to submit next, and when; null if the queue is empty. Of the jobs that are due, those whose submissions
 * went unanswered least often go first. An endpoint that had no room for a job has none for a larger one: those wait until
 * the first may be submitted again, but a smaller job does not.
 */
export function nextSubmission<T extends QueuedJob>(queue: readonly T[], now: number): { job: T; at: number } | null {
  const submissions = queue.map((job) => ({ job, at: readyAt(job, queue) }));
  const due = submissions.filter(({ at }) => at <= now);
  if (due.length === 0) return submissions.sort((a, b) => a.at - b.at)[0] ?? null;
  const compare = (a: T, b: T) => a.state.unanswered - b.state.unanswered || compareJobs(a, b, now);
  return due.sort((a, b) => compare(a.job, b.job))[0] ?? null;
}

function readyAt(job: QueuedJob, queue: readonly QueuedJob[]): number {
  const holds = queue
    .filter((other) => other !== job && wasRefused(other) && operationsOf(other) <= operationsOf(job))
    .map(({ state }) => Math.min(state.submitAt, state.heardAt + MAX_HOLD_MS));
  return Math.max(job.state.submitAt, ...holds);
}

/** Whether the job was submitted, and the endpoint answered that it had no room. */
function wasRefused({ state }: QueuedJob): boolean {
  return state.inFlight && state.unanswered === 0;
}
