/** Simulates jobs, event by event. */

import type { Comparison } from "../../src/core/evaluation/comparison.ts";
import {
  type JobEvent,
  type JobRules,
  type JobState,
  newJobState,
  type PromotionMode,
} from "../../src/core/lifecycle/job.ts";
import { advance } from "../../src/core/lifecycle/job-transitions.ts";

export const MINUTE = 60_000;
export const rules: JobRules = { heartbeatTimeout: 10 * MINUTE, maxAttempts: 3, maxEndpointDeaths: 5 };

/** The events of an attempt. */
export function attemptEvents(attempt: number) {
  return {
    submitting: { type: "submitting", attempt },
    accepted: { type: "accepted", attempt },
    busy: { type: "busy", attempt, retryAfter: 5_000 },
    unanswered: { type: "unanswered", attempt, reason: "no answer in time.", retryAfter: 1_000 },
    rejected: { type: "rejected", attempt, message: "The batch endpoint refused the job: no such backbone." },
    heartbeat: { type: "heartbeat", attempt },
    checkpoint: { type: "checkpoint", attempt, artifact: { sha256: String(attempt).repeat(64), bytes: 9 } },
    better: { type: "evaluated", attempt, comparison: better },
    notBetter: { type: "evaluated", attempt, comparison: notBetter },
    compared: { type: "evaluated", attempt, comparison: better, cost: { operations: 5e9, milliseconds: 1_500 } },
    finished: { type: "finished", attempt, candidate: "fine_tuned", version: 3, promoted: true },
    finishedHead: { type: "finished", attempt, candidate: "head", version: 3, promoted: false },
    failed: { type: "attempt_failed", attempt, message: "The machine is out of memory.", retryable: true },
    hopeless: { type: "attempt_failed", attempt, message: "The examples have one label.", retryable: false },
    endpointLost: { type: "endpoint_lost", attempt, message: "The batch endpoint stopped before this attempt ended." },
    silent: { type: "silent", attempt, endpointLost: false },
    silentWithEndpoint: { type: "silent", attempt, endpointLost: true },
    stopped: { type: "stopped", attempt },
    stopRequested: { type: "stop_requested", attempt },
  } as const satisfies Record<string, JobEvent>;
}

export const better: Comparison = {
  test_examples: 200,
  head_accuracy: 0.8,
  fine_tuned_accuracy: 0.9,
  only_head: 5,
  only_fine_tuned: 25,
};
export const notBetter: Comparison = { ...better, fine_tuned_accuracy: 0.75, only_head: 25, only_fine_tuned: 15 };

export const invalid: JobEvent = {
  type: "invalid",
  error: { code: "too_few_examples", message: "Training needs at least two examples.", param: "training_file" },
};
export const [validated, cancel, pause, resume] = (["validated", "cancel", "pause", "resume"] as const).map(
  (type): JobEvent => ({ type }),
) as [JobEvent, JobEvent, JobEvent, JobEvent];

export interface SimulatedJob {
  readonly state: JobState;
  /** "level: message" */
  readonly log: readonly string[];
  readonly now: number;
}

export function newSimulatedJob(promote: PromotionMode = "if_better"): SimulatedJob {
  return { state: newJobState(promote, 0), log: [], now: 0 };
}

/** A job after these events in this order. A number lets so many milliseconds pass. */
export function applyEvents({ state, log, now }: SimulatedJob, ...steps: readonly (JobEvent | number)[]): SimulatedJob {
  const fullLog = [...log];
  for (const step of steps) {
    if (typeof step === "number") {
      now += step;
      continue;
    }
    const next = advance(state, step, now, rules);
    state = next.state;
    for (const { level, message } of next.log) fullLog.push(`${level}: ${message}`);
  }
  return { state, log: fullLog, now };
}
