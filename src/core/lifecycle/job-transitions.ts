/**
 * The life of a fine-tuning job, as a pure state machine: `advance` returns the next state and the entries to add to
 * the job's log. An event may come twice, late or out of order. If it does not apply to the state, it changes nothing.
 *
 *   validating_files → queued → running ⇄ paused → succeeded | failed | cancelled
 *
 * A job is run in attempts at the batch endpoint. The attempt's number is a fencing token: it rises whenever an attempt
 * is given up, handed back or resumed, and messages with a lower number have no effect.
 */
import { type Candidate, type Comparison, compare, type Decision, hasTestExamples } from "../evaluation/comparison.ts";
import {
  type AttemptEvent,
  awaitsTest,
  type ComparisonCost,
  hasEnded,
  isCurrentAttempt,
  isSilent,
  type JobError,
  type JobEvent,
  type JobLogEntry,
  type JobRules,
  type JobState,
  type JobStatus,
  type JobTest,
} from "./job.ts";

export interface Transition {
  readonly state: JobState;
  readonly log: readonly JobLogEntry[];
}

/** After an attempt was handed back, because the endpoint that ran it is shutting down. */
const HANDBACK_DELAY_MS = 1_000;
/** How long the batch endpoint has to stop an attempt before it is asked again. */
const STOP_RETRY_MS = 15_000;

/** The next state, and what to add to the job's log. Times are in milliseconds. */
export function advance(state: JobState, event: JobEvent, now: number, rules: JobRules): Transition {
  switch (event.type) {
    case "validated":
      if (state.validated || hasEnded(state)) return unchanged(state);
      if (state.status === "paused") return transition(state, { validated: true }, info("The examples are valid."));
      return transition(
        state,
        { validated: true, submitAt: now, status: "queued" },
        info("The examples are valid, and the job is queued."),
      );
    case "invalid":
      return state.validated || hasEnded(state) ? unchanged(state) : fail(state, now, event.error);
    case "cancel":
      if (hasEnded(state)) return unchanged(state);
      return end(
        state,
        now,
        { status: "cancelled", inFlight: state.inFlight, stopAt: now },
        info("The job was cancelled."),
      );
    case "pause":
      if (hasEnded(state) || state.status === "paused") return unchanged(state);
      return transition(state, { status: "paused", stopAt: now }, info("The job was paused."));
    case "resume":
      return state.status === "paused" ? resume(state, now) : unchanged(state);
    case "tested":
      return awaitsTest(state) ? recordTest(state, event.test, event.promoted) : unchanged(state);
    case "submitting":
      if (state.status !== "queued" || event.attempt !== state.attempt) return unchanged(state);
      return transition(state, { inFlight: true, heardAt: now });
    default:
      return isCurrentAttempt(state, event.attempt) ? advanceAttempt(state, event, now, rules) : unchanged(state);
  }
}

/** The next state after a message about the current attempt. */
function advanceAttempt(state: JobState, event: AttemptEvent, now: number, rules: JobRules): Transition {
  const isQueued = state.status === "queued";
  const isActive = isQueued || state.status === "running";
  switch (event.type) {
    case "accepted":
      return markRunning(state, now, {});
    case "heartbeat":
      return hasEnded(state) ? unchanged(state) : markRunning(state, now, {});
    case "busy":
      // The attempt may run nonetheless: the answer to an earlier submission may be lost, or another machine may have
      // it.
      return isQueued ? transition(state, { submitAt: now + event.retryAfter, unanswered: 0 }) : unchanged(state);
    case "unanswered":
      return isQueued ? retrySubmission(state, event.reason, now + event.retryAfter) : unchanged(state);
    case "rejected":
      if (!isQueued) return unchanged(state);
      return fail(state, now, { code: "batch_rejected", message: event.message, param: null });
    case "checkpoint":
      return hasEnded(state) ? unchanged(state) : markRunning(state, now, { checkpoint: event.artifact });
    case "evaluated":
      if (hasEnded(state)) return unchanged(state);
      if (!isActive) return transition(state, { heardAt: now });
      return state.onlyCompares
        ? endWithComparison(state, event.comparison, event.cost, now)
        : recordComparison(state, event.comparison, now);
    case "finished": {
      if (!isActive || event.candidate !== state.refit) return unchanged(state);
      const { version, promoted } = event;
      const message = `The job has made version ${version}, which ${promoted ? "is active now" : "was not promoted"}.`;
      return end(state, now, { status: "succeeded", version, promoted }, info(message));
    }
    case "attempt_failed":
      if (event.retryable || !isActive) return abandonAttempt(state, event.message, now, rules);
      return fail(state, now, { code: "training_failed", message: event.message, param: null });
    case "endpoint_lost":
      return abandonWithEndpoint(state, event.message, now, rules);
    case "silent": {
      if (!isSilent(state, now, rules)) return unchanged(state);
      const cause = `nothing was heard of it for ${Math.round((now - state.heardAt) / 1000)} seconds.`;
      return (event.endpointLost ? abandonWithEndpoint : abandonAttempt)(state, cause, now, rules);
    }
    case "stopped":
      if (!isActive) return transition(state, nextAttempt(state));
      return transition(
        state,
        { ...nextAttempt(state), status: "queued", submitAt: now + HANDBACK_DELAY_MS, unanswered: 0 },
        info(`Attempt ${state.attempt} was handed back by the batch endpoint. Attempt ${state.attempt + 1} follows.`),
      );
    case "stop_requested":
      if (isActive) return unchanged(state);
      return transition(state, { stopAt: Math.min(now + STOP_RETRY_MS, state.heardAt + rules.heartbeatTimeout) });
  }
}

function unchanged(state: JobState): Transition {
  return { state, log: [] };
}

function transition(state: JobState, change: Partial<JobState>, ...log: JobLogEntry[]): Transition {
  return { state: { ...state, ...change }, log };
}

function info(message: string): JobLogEntry {
  return { level: "info", message };
}

function end(
  state: JobState,
  now: number,
  change: Partial<JobState> & { readonly status: JobStatus },
  ...log: JobLogEntry[]
): Transition {
  return transition(state, { inFlight: false, ...change, finishedAt: now }, ...log);
}

function fail(state: JobState, now: number, error: JobError): Transition {
  return end(state, now, { status: "failed", error }, { level: "error", message: error.message });
}

function recordTest(state: JobState, test: JobTest, promoted: boolean): Transition {
  const version = `Version ${state.version}`;
  const change = { test, promoted: state.promoted || promoted };
  if (test.failure !== null) {
    const message = `${version} could not be tested on '${test.dataset}': ${test.failure.message}`;
    return transition(state, change, { level: "warn", message });
  }
  const outcome = change.promoted ? "is active now" : "was not promoted";
  return transition(state, change, info(`${version} was tested on '${test.dataset}', and ${outcome}.`));
}

function nextAttempt(state: JobState): Partial<JobState> {
  return { inFlight: false, attempt: state.attempt + 1 };
}

function resume(state: JobState, now: number): Transition {
  // An attempt that may still run is superseded: its messages no longer count.
  const attempt = state.inFlight ? nextAttempt(state) : {};
  const status = state.validated ? "queued" : "validating_files";
  return transition(state, { ...attempt, status, submitAt: now, unanswered: 0 }, info("The job was resumed."));
}

function retrySubmission(state: JobState, reason: string, submitAt: number): Transition {
  const message = `The batch endpoint did not take the job: ${reason}`;
  const log: JobLogEntry[] = state.unanswered === 0 ? [{ level: "warn", message }] : [];
  return transition(state, { unanswered: state.unanswered + 1, submitAt }, ...log);
}

/** The attempt has ended without a result. */
function abandonAttempt(state: JobState, cause: string, now: number, rules: JobRules): Transition {
  const failedAttempts = state.failedAttempts + 1;
  return abandon(state, now, {
    count: { failedAttempts },
    reason: `Attempt ${state.attempt} was given up: ${toSentence(cause)}`,
    final: failedAttempts >= rules.maxAttempts ? "attempts_failed" : null,
    finalReason: `No further attempt follows after ${failedAttempts}.`,
  });
}

/** The endpoint has ended under the attempt. That is the job's fault only if it happens to it again and again. */
function abandonWithEndpoint(state: JobState, cause: string, now: number, rules: JobRules): Transition {
  const endpointDeaths = state.endpointDeaths + 1;
  return abandon(state, now, {
    count: { endpointDeaths },
    reason: `Attempt ${state.attempt} was lost with the batch endpoint: ${toSentence(cause)}`,
    final: endpointDeaths >= rules.maxEndpointDeaths ? "endpoint_lost" : null,
    finalReason: `The batch endpoint has ended ${endpointDeaths} times under this job. No further attempt follows.`,
  });
}

interface Loss {
  readonly count: Partial<JobState>;
  readonly reason: string;
  /** With this code the job fails; null: another attempt follows. */
  readonly final: "attempts_failed" | "endpoint_lost" | null;
  readonly finalReason: string;
}

function abandon(state: JobState, now: number, { count, reason, final, finalReason }: Loss): Transition {
  if (state.status === "paused" || hasEnded(state)) return transition(state, nextAttempt(state));
  if (final === null)
    return transition(
      state,
      { ...nextAttempt(state), ...count, status: "queued", submitAt: now, unanswered: 0 },
      { level: "warn", message: `${reason} Attempt ${state.attempt + 1} follows.` },
    );
  const message = `${reason} ${finalReason}`;
  const error = { code: final, message, param: null };
  return end(state, now, { ...count, status: "failed", error }, { level: "error", message });
}

function toSentence(cause: string): string {
  return /[.!?]$/.test(cause) ? cause : `${cause}.`;
}

/** The attempt has sent a message. A queued job is running from now on. */
function markRunning(state: JobState, now: number, change: Partial<JobState>, ...log: JobLogEntry[]): Transition {
  const heard = { inFlight: true, heardAt: now, ...change };
  if (state.status !== "queued") return transition(state, heard, ...log);
  const started = info(`Attempt ${state.attempt} is running at the batch endpoint.`);
  return transition(state, { status: "running", unanswered: 0, ...heard }, started, ...log);
}

const OUTCOMES = {
  head: "The frozen head is kept, and the fine-tuned model is not.",
  fine_tuned: "The fine-tuned model is kept, and the frozen head is not.",
} as const;

function describeComparison(comparison: Comparison, decision: Decision, refit: Candidate): JobLogEntry {
  const { test_examples, head_accuracy, fine_tuned_accuracy } = comparison;
  const { verdict, expected_gain, chance_of_loss } = decision;
  if (hasTestExamples(comparison))
    return info(
      `On ${test_examples} held-out examples the frozen head has ${head_accuracy.toFixed(3)}, the fine-tuned model ${fine_tuned_accuracy.toFixed(3)}: ${verdict} (expected gain ${expected_gain.toFixed(3)}, chance of a loss ${chance_of_loss.toFixed(3)}). ${OUTCOMES[refit]}`,
    );
  const message = `Nothing could be compared: no held-out example has labels that were trained. ${OUTCOMES[refit]} 'if_better' promotes neither.`;
  return { level: "warn", message };
}

/** The comparison decides which candidate is refitted on all examples. */
function recordComparison(state: JobState, comparison: Comparison, now: number): Transition {
  const decision = compare(comparison);
  const refit = state.promote !== "if_better" || decision.verdict === "better" ? "fine_tuned" : "head";
  const isRepeat = state.refit === refit && JSON.stringify(state.comparison) === JSON.stringify(comparison);
  if (isRepeat) return markRunning(state, now, { comparison, refit });
  return markRunning(state, now, { comparison, refit }, describeComparison(comparison, decision, refit));
}

/** A batch endpoint that says no cost is of a build that knows no samples: it has compared on all examples. */
function endWithComparison(
  state: JobState,
  comparison: Comparison,
  cost: ComparisonCost | undefined,
  now: number,
): Transition {
  if (cost !== undefined)
    return end(
      state,
      now,
      { status: "succeeded", comparison, comparisonCost: cost, heardAt: now },
      info("Both candidates were compared."),
    );
  const message = "The batch endpoint is of an older build, which cannot compare on a sample of the examples.";
  return fail(state, now, { code: "not_available", message, param: null });
}
