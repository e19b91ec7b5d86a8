/**
 * The state of a fine-tuning job, its events and its stored form. `job-transitions.ts` has the state machine. Times are
 * in milliseconds.
 */
import { type Candidate, type Comparison, hasTestExamples, isBetter } from "../evaluation/comparison.ts";
import type { TestOutcome } from "./policy.ts";
import { storedJson } from "./stored-json.ts";

export type JobStatus = "validating_files" | "queued" | "running" | "paused" | "succeeded" | "failed" | "cancelled";
export type PromotionMode = "if_better" | "always" | "never";

export interface JobArtifact {
  readonly sha256: string;
  readonly bytes: number;
}

export interface JobError {
  readonly code: string;
  readonly message: string;
  readonly param: string | null;
}

/** What a comparison has cost: floating-point operations, and the attempt's time. */
export interface ComparisonCost {
  readonly operations: number;
  readonly milliseconds: number;
}

/** How a job's version did on a test set; the id of the run, or why there is none. */
export interface JobTest {
  readonly dataset: string;
  readonly evaluation: string | null;
  readonly accuracy: number | null;
  readonly failure: { readonly code: string; readonly message: string } | null;
}

export interface JobState {
  readonly status: JobStatus;
  readonly promote: PromotionMode;
  readonly validated: boolean;
  /** The number of the current attempt. */
  readonly attempt: number;
  /** Whether the current attempt may be running, even if it has sent nothing yet. */
  readonly inFlight: boolean;
  /** Attempts that failed or fell silent. */
  readonly failedAttempts: number;
  /** Attempts that were lost because the batch endpoint ended under them. */
  readonly endpointDeaths: number;
  /** Submissions in a row that got no answer, or an error. */
  readonly unanswered: number;
  /** A queued job is not submitted before this. */
  readonly submitAt: number;
  /** When the current attempt sent its last message, or was submitted. */
  readonly heardAt: number;
  /** When the batch endpoint is next asked to stop the attempt. */
  readonly stopAt: number;
  readonly checkpoint: JobArtifact | null;
  readonly comparison: Comparison | null;
  /** The job ends with the comparison, and makes no version. Not there for other jobs. */
  readonly onlyCompares?: true;
  /** Not there before such a job has compared. */
  readonly comparisonCost?: ComparisonCost;
  /** The better candidate, which is trained again on all examples. */
  readonly refit: Candidate | null;
  readonly version: number | null;
  readonly promoted: boolean;
  /** How the version did on the test set. Not there before it was tested, after the job's end. */
  readonly test?: JobTest;
  readonly error: JobError | null;
  readonly finishedAt: number | null;
}

export type JobEvent =
  | { readonly type: "validated" }
  | { readonly type: "invalid"; readonly error: JobError }
  | { readonly type: "cancel" }
  | { readonly type: "pause" }
  | { readonly type: "resume" }
  /** The job's version was tested. `promoted`: whether it is active now because of that. */
  | { readonly type: "tested"; readonly test: JobTest; readonly promoted: boolean }
  /** The attempt is about to be submitted. */
  | { readonly type: "submitting"; readonly attempt: number }
  | AttemptEvent;

/** What the batch endpoint says of an attempt. It counts only if that is the current one. */
export type AttemptEvent =
  | { readonly type: "accepted"; readonly attempt: number }
  | { readonly type: "busy"; readonly attempt: number; readonly retryAfter: number }
  | { readonly type: "unanswered"; readonly attempt: number; readonly reason: string; readonly retryAfter: number }
  | { readonly type: "rejected"; readonly attempt: number; readonly message: string }
  | { readonly type: "heartbeat"; readonly attempt: number }
  | { readonly type: "checkpoint"; readonly attempt: number; readonly artifact: JobArtifact }
  /** `cost`: older batch endpoints do not send it. */
  | {
      readonly type: "evaluated";
      readonly attempt: number;
      readonly comparison: Comparison;
      readonly cost?: ComparisonCost | undefined;
    }
  /** `version`: the version that the job has made; `promoted`: whether it is active now. */
  | {
      readonly type: "finished";
      readonly attempt: number;
      readonly candidate: Candidate;
      readonly version: number;
      readonly promoted: boolean;
    }
  | { readonly type: "attempt_failed"; readonly attempt: number; readonly message: string; readonly retryable: boolean }
  /** The endpoint that ran the attempt has ended, and the attempt with it. */
  | { readonly type: "endpoint_lost"; readonly attempt: number; readonly message: string }
  /** Nothing was heard of the attempt. `endpointLost`: because the endpoint that ran it has ended. */
  | { readonly type: "silent"; readonly attempt: number; readonly endpointLost: boolean }
  | { readonly type: "stopped"; readonly attempt: number }
  | { readonly type: "stop_requested"; readonly attempt: number };

export interface JobRules {
  /** How long an attempt may be silent. */
  readonly heartbeatTimeout: number;
  readonly maxAttempts: number;
  readonly maxEndpointDeaths: number;
}

export interface JobLogEntry {
  readonly level: "info" | "warn" | "error";
  readonly message: string;
}

const ENDED_STATUSES: ReadonlySet<JobStatus> = new Set(["succeeded", "failed", "cancelled"]);

export function hasEnded({ status }: Pick<JobState, "status">): boolean {
  return ENDED_STATUSES.has(status);
}

export function newJobState(promote: PromotionMode, now: number): JobState {
  return {
    status: "validating_files",
    promote,
    validated: false,
    attempt: 1,
    inFlight: false,
    failedAttempts: 0,
    endpointDeaths: 0,
    unanswered: 0,
    submitAt: now,
    heardAt: now,
    stopAt: now,
    checkpoint: null,
    comparison: null,
    refit: null,
    version: null,
    promoted: false,
    error: null,
    finishedAt: null,
  };
}

/** The state of a job that ends with its comparison. */
export function newComparisonState(now: number): JobState {
  return { ...newJobState("never", now), onlyCompares: true };
}

/** A job's state as the ledger stores it. */
const stored = storedJson<JobState>({ inFlight: "live", failedAttempts: "lost", comparison: "judgement" });
export const encodeJobState = stored.encode;

/** Older builds stored no `endpointDeaths`. */
export function decodeJobState(json: string): JobState {
  const state = stored.decode(json);
  return { ...state, endpointDeaths: state.endpointDeaths ?? 0 };
}

/** Whether a job trains layers of its backbone. Every job trains the head, which is none of them. */
export function hasTrainableLayers(trainable: "all" | "head" | { readonly last_layers: number }): boolean {
  return trainable !== "head";
}

/** Whether this attempt is the current one and may be running. */
export function isCurrentAttempt(state: JobState, attempt: number): boolean {
  return state.attempt === attempt && (state.inFlight || state.status === "queued");
}

/** Whether this attempt may read and write: it is the current one, and its job has not ended. */
export function hasAccess(state: JobState, attempt: number): boolean {
  return isCurrentAttempt(state, attempt) && !hasEnded(state);
}

/** Whether nothing was heard of the current attempt for as long as it may be silent. */
export function isSilent(state: JobState, now: number, rules: JobRules): boolean {
  return state.inFlight && state.status !== "queued" && now >= state.heardAt + rules.heartbeatTimeout;
}

/** What the current attempt must do. */
export function directiveOf(state: JobState): "continue" | "pause" | "end" {
  if (state.status === "paused") return "pause";
  return hasEnded(state) ? "end" : "continue";
}

/** Why a job in this state refuses a command; null if it takes it, or has done so before. */
export function refusalReason(state: JobState, command: "cancel" | "pause" | "resume"): string | null {
  if (!hasEnded(state) || (command === "cancel" && state.status === "cancelled")) return null;
  return `This job has ${state.status === "cancelled" ? "been cancelled" : state.status}, and cannot be ${{ cancel: "cancelled", pause: "paused", resume: "resumed" }[command]} any more.`;
}

/** When work for the job is due, apart from its submission, which waits in the tenant's queue; null if none is. */
export function dueAt(state: JobState, rules: JobRules): number | null {
  if (state.status === "validating_files") return state.submitAt;
  if (!state.inFlight || state.status === "queued") return null;
  return state.status === "running" ? state.heardAt + rules.heartbeatTimeout : state.stopAt;
}

/** Whether to promote the version that a job made. `hasActiveVersion`: whether the head has an active version now. */
export function shouldPromote(state: JobState, hasActiveVersion: boolean): boolean {
  if (state.promote !== "if_better") return state.promote === "always";
  if (state.comparison === null || !hasTestExamples(state.comparison)) return false;
  // A head without an active version takes the better candidate, whichever it is.
  return state.refit === "fine_tuned" || !hasActiveVersion;
}

/** Whether the job's version waits for its test on a test set. */
export function awaitsTest({ status, version, test }: JobState): boolean {
  return status === "succeeded" && version !== null && test === undefined;
}

/**
 * Whether to promote a job's version after its test, under `if_better`: it is better than the active version on the same
 * examples, as `compare` says it (comparison.ts), or none is active. A test that failed, or was against another version,
 * promotes nothing. The other modes do not wait for a test.
 */
export function shouldPromoteTested(
  { promote }: Pick<JobState, "promote">,
  test: TestOutcome | null,
  activeVersion: number | null,
): boolean {
  if (promote !== "if_better" || test === null) return false;
  if (activeVersion === null) return true;
  const { comparison } = test;
  return comparison?.version === activeVersion && isBetter(comparison);
}
