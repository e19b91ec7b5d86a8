/** Jobs' lives, event by event. */
import { advance, type JobEvent, type JobRules, type JobState, newJobState, type Promote } from "../../src/core/lifecycle/job.ts";
import type { Judgement } from "../../src/core/evaluation/comparison.ts";

export const MINUTE = 60_000;
export const rules: JobRules = { silence: 10 * MINUTE, attempts: 3 };

/** What is said of an attempt. */
export function of(attempt: number) {
  return {
    submitting: { type: "submitting", attempt },
    accepted: { type: "accepted", attempt },
    busy: { type: "busy", attempt, retryAfter: 5_000 },
    unanswered: { type: "unanswered", attempt, reason: "no answer in time.", retryAfter: 1_000 },
    rejected: { type: "rejected", attempt, message: "The batch endpoint refused the job: no such backbone." },
    heard: { type: "heard", attempt },
    checkpoint: { type: "checkpoint", attempt, artifact: { sha256: String(attempt).repeat(64), bytes: 9 } },
    better: { type: "evaluated", attempt, judgement: better },
    notBetter: { type: "evaluated", attempt, judgement: notBetter },
    finished: { type: "finished", attempt, candidate: "fine_tuned", version: 3, serves: true },
    finishedHead: { type: "finished", attempt, candidate: "head", version: 3, serves: true },
    failed: { type: "attempt_failed", attempt, message: "The machine is out of memory.", retryable: true },
    hopeless: { type: "attempt_failed", attempt, message: "The examples have one label.", retryable: false },
    stopped: { type: "stopped", attempt },
    toldToStop: { type: "told_to_stop", attempt },
  } as const satisfies Record<string, JobEvent>;
}

export const better: Judgement = {
  test_examples: 200,
  head_accuracy: 0.8,
  fine_tuned_accuracy: 0.9,
  only_head: 5,
  only_fine_tuned: 25,
};
export const notBetter: Judgement = { ...better, fine_tuned_accuracy: 0.75, only_head: 25, only_fine_tuned: 15 };

export const invalid: JobEvent = {
  type: "invalid",
  error: { code: "too_few_examples", message: "Training needs at least two examples.", param: "training_file" },
};
export const [validated, clock, cancel, pause, resume] = (
  ["validated", "clock", "cancel", "pause", "resume"] as const
).map((type): JobEvent => ({ type })) as [JobEvent, JobEvent, JobEvent, JobEvent, JobEvent];

export interface Life {
  readonly state: JobState;
  /** "level: message" */
  readonly log: readonly string[];
  readonly now: number;
}

export function born(promote: Promote = "if_better"): Life {
  return { state: newJobState(promote, 0), log: [], now: 0 };
}

/** What becomes of a job by events in this order; a number lets so many milliseconds pass. */
export function live({ state, log, now }: Life, ...steps: readonly (JobEvent | number)[]): Life {
  const all = [...log];
  for (const step of steps) {
    if (typeof step === "number") {
      now += step;
      continue;
    }
    const next = advance(state, step, now, rules);
    state = next.state;
    for (const { level, message } of next.log) all.push(`${level}: ${message}`);
  }
  return { state, log: all, now };
}
