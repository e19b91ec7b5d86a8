/**
 * The life of a fine-tuning job, as a pure state machine: `advance` takes a state and an event to the next state and to
 * what its events tell. Any event may come twice, late or out of order: where it has no place it changes nothing.
 *
 *   validating_files → queued → running ⇄ paused → succeeded | failed | cancelled
 *
 * A job is run in attempts at the batch endpoint. Their number is a fencing token: it rises whenever an attempt is given
 * up, hands back or is resumed, and what a lower number says has no effect. `live` says that the current attempt may be
 * running, though nothing may have been heard of it. Times are in milliseconds.
 */
import { type Candidate, type Comparison, compare } from "../evaluation/comparison.ts";

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

export interface JobState {
  readonly status: JobStatus;
  readonly promote: PromotionMode;
  readonly validated: boolean;
  readonly attempt: number;
  readonly live: boolean;
  /** Attempts that failed or fell silent. */
  readonly lost: number;
  /** Submissions in a row that no answer came to, or an error. */
  readonly unanswered: number;
  /** Not before this is a queued job submitted. */
  readonly submitAt: number;
  /** When the current attempt gave a sign of life last, or was submitted. */
  readonly heardAt: number;
  /** When the batch endpoint is told next that the attempt is to stop. */
  readonly stopAt: number;
  readonly checkpoint: JobArtifact | null;
  readonly judgement: Comparison | null;
  /** The winner, which is trained on all examples. */
  readonly refit: Candidate | null;
  readonly version: number | null;
  readonly promoted: boolean;
  readonly error: JobError | null;
  readonly finishedAt: number | null;
}

export type JobEvent =
  | { readonly type: "validated" }
  | { readonly type: "invalid"; readonly error: JobError }
  /** The attempt is about to be submitted. */
  | { readonly type: "submitting"; readonly attempt: number }
  | { readonly type: "accepted"; readonly attempt: number }
  | { readonly type: "busy"; readonly attempt: number; readonly retryAfter: number }
  | { readonly type: "unanswered"; readonly attempt: number; readonly reason: string; readonly retryAfter: number }
  | { readonly type: "rejected"; readonly attempt: number; readonly message: string }
  | { readonly type: "heard"; readonly attempt: number }
  | { readonly type: "checkpoint"; readonly attempt: number; readonly artifact: JobArtifact }
  | { readonly type: "evaluated"; readonly attempt: number; readonly comparison: Comparison }
  /** `version`: what its head has become; `serves`: whether another version of it was active. */
  | {
      readonly type: "finished";
      readonly attempt: number;
      readonly candidate: Candidate;
      readonly version: number;
      readonly hasActiveVersion: boolean;
    }
  | { readonly type: "attempt_failed"; readonly attempt: number; readonly message: string; readonly retryable: boolean }
  | { readonly type: "stopped"; readonly attempt: number }
  | { readonly type: "told_to_stop"; readonly attempt: number }
  /** Time has passed. */
  | { readonly type: "clock" }
  | { readonly type: "cancel" }
  | { readonly type: "pause" }
  | { readonly type: "resume" };

export interface JobRules {
  /** How long an attempt may be silent. */
  readonly heartbeatTimeout: number;
  readonly maxAttempts: number;
}

export interface JobLogEntry {
  readonly level: "info" | "warn" | "error";
  readonly message: string;
}

export interface Transition {
  readonly state: JobState;
  readonly log: readonly JobLogEntry[];
}

/** After an attempt was handed back: to where that is going away. */
const HANDBACK_DELAY_MS = 1_000;
/** How long the batch endpoint has to act on being told to stop before it is told again. */
const STOP_RETRY_MS = 15_000;
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
    live: false,
    lost: 0,
    unanswered: 0,
    submitAt: now,
    heardAt: now,
    stopAt: now,
    checkpoint: null,
    judgement: null,
    refit: null,
    version: null,
    promoted: false,
    error: null,
    finishedAt: null,
  };
}

/** Whether a job trains layers of its backbone. The head is the last of them, and every job trains it. */
export function hasTrainableLayers(trainable: "all" | "head" | { readonly last_layers: number }): boolean {
  return typeof trainable === "string" ? trainable === "all" : trainable.last_layers > 1;
}

/** Whether an attempt is the one that runs, or may run: what it says counts. */
export function isCurrentAttempt(state: JobState, attempt: number): boolean {
  return state.attempt === attempt && (state.live || state.status === "queued");
}

/** What the current attempt is to do. */
export function directiveOf(state: JobState): "continue" | "pause" | "cancel" | "end" {
  if (state.status === "paused") return "pause";
  if (state.status === "cancelled") return "cancel";
  return hasEnded(state) ? "end" : "continue";
}

/** Why a command of the caller's has no place in this state; null where it has, or was obeyed before. */
export function refusalReason(state: JobState, command: "cancel" | "pause" | "resume"): string | null {
  if (!hasEnded(state) || (command === "cancel" && state.status === "cancelled")) return null;
  return `This job has ${state.status === "cancelled" ? "been cancelled" : state.status}, and cannot be ${{ cancel: "cancelled", pause: "paused", resume: "resumed" }[command]} any more.`;
}

/** When work for the job is due, its submission apart, which waits in the tenant's line; null where none is. */
export function dueAt(state: JobState, rules: JobRules): number | null {
  if (state.status === "validating_files") return state.submitAt;
  if (!state.live || state.status === "queued") return null;
  return state.status === "running" ? state.heardAt + rules.heartbeatTimeout : state.stopAt;
}

/** Whether the version that a job made serves from now on; `serves`: whether another does now. */
export function shouldPromote(state: JobState, hasActiveVersion: boolean): boolean {
  if (state.promote !== "if_better") return state.promote === "always";
  // Where nothing serves, the winner does, whichever it is.
  return state.refit === "fine_tuned" || !hasActiveVersion;
}

/** The next state, and what the job's events tell of it. */
export function advance(state: JobState, event: JobEvent, now: number, rules: JobRules): Transition {
  const unchanged: Transition = { state, log: [] };
  const transition = (change: Partial<JobState>, ...log: JobLogEntry[]): Transition => ({
    state: { ...state, ...change },
    log,
  });
  const info = (message: string): JobLogEntry => ({ level: "info", message });
  const end = (status: JobStatus, change: Partial<JobState>, ...log: JobLogEntry[]) =>
    transition({ live: false, ...change, status, finishedAt: now }, ...log);
  const fail = (error: JobError) => end("failed", { error }, { level: "error", message: error.message });
  const nextAttempt = { live: false, attempt: state.attempt + 1 };
  /** The attempt is over without a result: another one, or the end. */
  const abandonAttempt = (cause: string): Transition => {
    if (state.status === "paused" || hasEnded(state)) return transition(nextAttempt);
    const failedAttempts = state.lost + 1;
    const reason = `Attempt ${state.attempt} was given up: ${/[.!?]$/.test(cause) ? cause : `${cause}.`}`;
    if (failedAttempts >= rules.maxAttempts) {
      const message = `${reason} No further attempt follows after ${failedAttempts}.`;
      return end(
        "failed",
        { lost: failedAttempts, error: { code: "attempts_failed", message, param: null } },
        { level: "error", message },
      );
    }
    return transition(
      { ...nextAttempt, status: "queued", lost: failedAttempts, submitAt: now, unanswered: 0 },
      { level: "warn", message: `${reason} Attempt ${state.attempt + 1} follows.` },
    );
  };
  const markRunning = (change: Partial<JobState>, ...log: JobLogEntry[]): Transition => {
    const started = state.status === "queued";
    const startEntries = started ? [info(`Attempt ${state.attempt} is running at the batch endpoint.`)] : [];
    return transition(
      { ...(started ? { status: "running", unanswered: 0 } : {}), live: true, heardAt: now, ...change },
      ...startEntries,
      ...log,
    );
  };

  switch (event.type) {
    case "validated":
      if (state.validated || hasEnded(state)) return unchanged;
      if (state.status === "paused") return transition({ validated: true }, info("The examples are valid."));
      return transition(
        { validated: true, submitAt: now, status: "queued" },
        info("The examples are valid, and the job is queued."),
      );
    case "invalid":
      return state.validated || hasEnded(state) ? unchanged : fail(event.error);
    case "cancel":
      if (hasEnded(state)) return unchanged;
      return end("cancelled", { live: state.live, stopAt: now }, info("The job was cancelled."));
    case "pause":
      if (hasEnded(state) || state.status === "paused") return unchanged;
      return transition({ status: "paused", stopAt: now }, info("The job was paused."));
    case "resume": {
      if (state.status !== "paused") return unchanged;
      const status = state.validated ? "queued" : "validating_files";
      // What may still run of the attempt before has no say any more.
      return transition(
        { ...(state.live ? nextAttempt : {}), status, submitAt: now, unanswered: 0 },
        info("The job was resumed."),
      );
    }
    case "clock":
      if (!state.live || state.status === "queued" || now < state.heardAt + rules.heartbeatTimeout) return unchanged;
      return abandonAttempt(`nothing was heard of it for ${Math.round((now - state.heardAt) / 1000)} seconds.`);
    case "submitting":
      if (state.status !== "queued" || event.attempt !== state.attempt) return unchanged;
      return transition({ live: true, heardAt: now });
  }

  // All that is left is said of an attempt, and counts where that is the current one.
  if (!isCurrentAttempt(state, event.attempt)) return unchanged;
  const isActive = state.status === "queued" || state.status === "running";
  switch (event.type) {
    case "accepted":
    case "heard":
      return markRunning({});
    case "busy":
      // Whether it runs nonetheless is not known: its answer to a submission before may be lost, or another machine have it.
      return state.status === "queued" ? transition({ submitAt: now + event.retryAfter, unanswered: 0 }) : unchanged;
    case "unanswered":
      if (state.status !== "queued") return unchanged;
      return transition(
        { unanswered: state.unanswered + 1, submitAt: now + event.retryAfter },
        ...(state.unanswered === 0
          ? [{ level: "warn", message: `The batch endpoint did not take the job: ${event.reason}` } as const]
          : []),
      );
    case "rejected":
      if (state.status !== "queued") return unchanged;
      return fail({ code: "batch_rejected", message: event.message, param: null });
    case "checkpoint":
      return markRunning({ checkpoint: event.artifact });
    case "evaluated": {
      if (!isActive) return transition({ heardAt: now });
      const { comparison } = event;
      const { verdict } = compare(comparison);
      const refit = state.promote !== "if_better" || verdict === "better" ? "fine_tuned" : "head";
      const isRepeat = state.refit === refit && JSON.stringify(state.judgement) === JSON.stringify(comparison);
      const { test_examples, head_accuracy, fine_tuned_accuracy } = comparison;
      const message =
        test_examples === 0
          ? "No held-out examples can tell which candidate is better."
          : `On ${test_examples} held-out examples the frozen head has ${head_accuracy.toFixed(3)}, the fine-tuned model ${fine_tuned_accuracy.toFixed(3)}: ${verdict}.`;
      return markRunning({ judgement: comparison, refit }, ...(isRepeat ? [] : [info(message)]));
    }
    case "finished": {
      if (!isActive || event.candidate !== state.refit) return unchanged;
      const promoted = shouldPromote(state, event.hasActiveVersion);
      const message = `The job has made version ${event.version}, which ${promoted ? "is active now" : "was not promoted"}.`;
      return end("succeeded", { version: event.version, promoted }, info(message));
    }
    case "attempt_failed":
      if (event.retryable || !isActive) return abandonAttempt(event.message);
      return fail({ code: "training_failed", message: event.message, param: null });
    case "stopped":
      if (!isActive) return transition(nextAttempt);
      return transition(
        { ...nextAttempt, status: "queued", submitAt: now + HANDBACK_DELAY_MS, unanswered: 0 },
        info(`Attempt ${state.attempt} was handed back by the batch endpoint. Attempt ${state.attempt + 1} follows.`),
      );
    case "told_to_stop":
      return isActive
        ? unchanged
        : transition({ stopAt: Math.min(now + STOP_RETRY_MS, state.heardAt + rules.heartbeatTimeout) });
  }
}
