/** The life of a fine-tuning job, case by case. Invariants of any order of events are in job-properties.test.ts. */
import { describe, expect, it } from "vitest";
import {
  decodeJobState,
  directiveOf,
  dueAt,
  encodeJobState,
  hasAccess,
  hasEnded,
  isCurrentAttempt,
  type JobEvent,
  type PromotionMode,
  refusalReason,
  shouldPromote,
  shouldPromoteTested,
} from "../../src/core/lifecycle/job.ts";
import {
  applyEvents,
  attemptEvents,
  better,
  cancel,
  invalid,
  MINUTE,
  newSimulatedJob,
  pause,
  resume,
  rules,
  type SimulatedJob,
  validated,
} from "./job-simulation.ts";

const first = attemptEvents(1);
const second = attemptEvents(2);
const third = attemptEvents(3);
const queued = applyEvents(newSimulatedJob(), validated);
const submitted = applyEvents(queued, first.submitting);
const running = applyEvents(submitted, first.accepted);
const evaluated = applyEvents(running, first.better);

/** The messages that these steps add to the log. */
function messagesAfter(job: SimulatedJob, ...steps: readonly (JobEvent | number)[]): readonly string[] {
  return applyEvents(job, ...steps).log.slice(job.log.length);
}

it("is stored under the keys that it has always had", () => {
  const stored =
    '{"status":"running","promote":"if_better","validated":true,"attempt":2,"live":true,"lost":1,"endpointDeaths":2,"unanswered":0,"submitAt":5,"heardAt":7,"stopAt":0,"checkpoint":{"sha256":"ab","bytes":9},"judgement":{"test_examples":200,"head_accuracy":0.8,"fine_tuned_accuracy":0.9,"only_head":5,"only_fine_tuned":25},"refit":"fine_tuned","version":null,"promoted":false,"error":null,"finishedAt":null}';
  const state = decodeJobState(stored);
  expect(state).toMatchObject({ attempt: 2, inFlight: true, failedAttempts: 1, endpointDeaths: 2, comparison: better });
  expect(Object.keys(state)).toEqual(Object.keys(newSimulatedJob().state));
  expect(encodeJobState(state)).toBe(stored);
  expect(Object.keys(JSON.parse(encodeJobState(evaluated.state)))).toEqual(Object.keys(JSON.parse(stored)));
});

it("is read as older builds stored it, without the deaths of its endpoint", () => {
  const { endpointDeaths: _, ...older } = running.state;
  expect(decodeJobState(JSON.stringify(older))).toEqual(running.state);
});

describe("an undisturbed job", () => {
  it("is validated, submitted, run, evaluated and promoted", () => {
    const { state, log } = applyEvents(
      newSimulatedJob(),
      1,
      validated,
      1,
      first.submitting,
      1,
      first.accepted,
      1,
      first.better,
      1,
      first.finished,
    );
    expect(log).toEqual([
      "info: The examples are valid, and the job is queued.",
      "info: Attempt 1 is running at the batch endpoint.",
      "info: On 200 held-out examples the frozen head has 0.800, the fine-tuned model 0.900: better (expected gain 0.100, chance of a loss 0.000). The fine-tuned model is kept, and the frozen head is not.",
      "info: The job has made version 3, which is active now.",
    ]);
    expect(state).toMatchObject({
      status: "succeeded",
      version: 3,
      promoted: true,
      refit: "fine_tuned",
      failedAttempts: 0,
    });
    expect(state).toMatchObject({ inFlight: false, attempt: 1, error: null, finishedAt: 5 });
    expect(hasEnded(state)).toBe(true);
    expect(dueAt(state, rules)).toBeNull();
  });

  it("is due for validation at once, then for its submission, then when it has been silent", () => {
    expect(dueAt(newSimulatedJob().state, rules)).toBe(0);
    expect(dueAt(queued.state, rules)).toBeNull();
    expect(dueAt(submitted.state, rules)).toBeNull();
    expect(dueAt(applyEvents(queued, 7, first.submitting, 8, first.accepted).state, rules)).toBe(15 + 10 * MINUTE);
    expect(dueAt(applyEvents(running, 9, first.heartbeat).state, rules)).toBe(9 + 10 * MINUTE);
  });

  it("runs once its attempt sends a message, even if the submission got no answer", () => {
    for (const sign of [first.heartbeat, first.checkpoint, first.better]) {
      const { state, log } = applyEvents(submitted, sign);
      expect(state).toMatchObject({ status: "running", inFlight: true });
      expect(log[1]).toBe("info: Attempt 1 is running at the batch endpoint.");
    }
  });

  it("fails if its examples cannot be trained on, before anything is submitted", () => {
    const { state, log } = applyEvents(newSimulatedJob(), invalid);
    expect(state).toMatchObject({ status: "failed", error: { code: "too_few_examples", param: "training_file" } });
    expect(log).toEqual(["error: Training needs at least two examples."]);
    expect(applyEvents(queued, invalid)).toEqual(queued);
  });
});

describe("a submission", () => {
  it("is repeated as long as nobody answers, with a single warning", () => {
    const outcomes = applyEvents(queued, first.unanswered, 1_000, first.submitting, first.unanswered);
    expect(outcomes.state).toMatchObject({
      status: "queued",
      attempt: 1,
      unanswered: 2,
      submitAt: 2_000,
      failedAttempts: 0,
    });
    expect(messagesAfter(queued, first.submitting, first.unanswered, first.unanswered)).toEqual([
      "warn: The batch endpoint did not take the job: no answer in time.",
    ]);
    expect(applyEvents(outcomes, 60 * MINUTE, first.silent).state).toEqual(outcomes.state);
    expect(applyEvents(outcomes, first.accepted).state).toMatchObject({ status: "running", unanswered: 0 });
    expect(applyEvents(outcomes, first.failed).state).toMatchObject({ status: "queued", attempt: 2, unanswered: 0 });
  });

  it("waits as long as a busy endpoint asks, without a log entry", () => {
    const waitingJob = applyEvents(submitted, 100, { ...first.busy, retryAfter: 30_000 });
    expect(waitingJob.state).toMatchObject({ status: "queued", attempt: 1, submitAt: 30_100, failedAttempts: 0 });
    expect(waitingJob.log).toEqual(submitted.log);
    expect(applyEvents(waitingJob, 30_000, first.submitting, first.accepted).state.status).toBe("running");
  });

  it("ends the job if the endpoint refuses it", () => {
    const { state, log } = applyEvents(submitted, first.rejected);
    const message = "The batch endpoint refused the job: no such backbone.";
    expect(state).toMatchObject({ status: "failed", inFlight: false, error: { code: "batch_rejected", message } });
    expect(log.at(-1)).toBe(`error: ${message}`);
  });

  it("does not affect an attempt whose own messages came first", () => {
    for (const answer of [first.busy, first.unanswered, first.rejected])
      expect(applyEvents(running, answer)).toEqual(running);
  });

  it("that one machine of the endpoint calls busy may still run on another", () => {
    const uncertainJob = applyEvents(submitted, first.unanswered, 1_000, first.submitting, first.busy);
    expect(applyEvents(uncertainJob, first.heartbeat).state.status).toBe("running");
    for (const [command, action] of [
      [pause, "pause"],
      [cancel, "end"],
    ] as const) {
      const { state, now } = applyEvents(uncertainJob, command);
      expect(dueAt(state, rules)).toBe(now);
      expect(directiveOf(state)).toBe(action);
      expect(isCurrentAttempt(state, 1)).toBe(true);
    }
  });

  it.each(["busy", "rejected"] as const)("whose answer is %s too late does not end an attempt that runs", (answer) => {
    for (const command of [pause, cancel]) {
      const stopping = applyEvents(running, command, first[answer]);
      expect(stopping.state).toEqual(applyEvents(running, command).state);
      expect(applyEvents(stopping, first.stopped).state).toMatchObject({ inFlight: false, attempt: 2 });
    }
  });
});

describe("an attempt", () => {
  it("that is silent for ten minutes is given up, and another one starts", () => {
    expect(applyEvents(running, 10 * MINUTE - 1, first.silent).state).toEqual(running.state);
    const retriedJob = applyEvents(running, first.checkpoint, 10 * MINUTE, first.silent);
    expect(retriedJob.state).toMatchObject({
      status: "queued",
      attempt: 2,
      inFlight: false,
      failedAttempts: 1,
      submitAt: retriedJob.now,
    });
    expect(retriedJob.state.checkpoint).toEqual(first.checkpoint.artifact);
    expect(retriedJob.log.at(-1)).toBe(
      "warn: Attempt 1 was given up: nothing was heard of it for 600 seconds. Attempt 2 follows.",
    );
  });

  it("is the last if it is the third in a row that is silent", () => {
    const { state, log } = applyEvents(
      running,
      ...[10 * MINUTE, first.silent, second.submitting, second.accepted],
      ...[10 * MINUTE, second.silent, third.submitting, third.accepted],
      ...[10 * MINUTE, third.silent],
    );
    const message =
      "Attempt 3 was given up: nothing was heard of it for 600 seconds. No further attempt follows after 3.";
    expect(log.slice(2)).toEqual([
      "warn: Attempt 1 was given up: nothing was heard of it for 600 seconds. Attempt 2 follows.",
      "info: Attempt 2 is running at the batch endpoint.",
      "warn: Attempt 2 was given up: nothing was heard of it for 600 seconds. Attempt 3 follows.",
      "info: Attempt 3 is running at the batch endpoint.",
      `error: ${message}`,
    ]);
    expect(state).toMatchObject({
      status: "failed",
      failedAttempts: 3,
      error: { code: "attempts_failed", message, param: null },
    });
    expect(state).toMatchObject({ inFlight: false, finishedAt: 30 * MINUTE });
  });

  it.each([
    ["reports", [], "endpointLost", "The batch endpoint stopped before this attempt ended."],
    ["is silent about", [10 * MINUTE], "silentWithEndpoint", "nothing was heard of it for 600 seconds."],
  ] as const)(
    "that is lost because its endpoint ended, as that %s, does not count as failed",
    (_, wait, name, cause) => {
      const log: string[] = [];
      let job: SimulatedJob = { ...queued, log };
      for (let n = 1; n <= 5; n++) {
        const events = attemptEvents(n);
        job = applyEvents(job, events.submitting, events.accepted, ...wait);
        const lost = applyEvents(job, events[name], events[name]);
        expect(lost.state).toMatchObject({ failedAttempts: 0, endpointDeaths: n });
        const message = `Attempt ${n} was lost with the batch endpoint: ${cause}`;
        const last = "The batch endpoint has ended 5 times under this job. No further attempt follows.";
        expect(lost.log.slice(job.log.length)).toEqual([
          n < 5 ? `warn: ${message} Attempt ${n + 1} follows.` : `error: ${message} ${last}`,
        ]);
        job = lost;
      }
      expect(job.state).toMatchObject({ status: "failed", inFlight: false, error: { code: "endpoint_lost" } });
    },
  );

  it("whose message comes while the endpoint is asked about its silence goes on", () => {
    const late = applyEvents(running, 10 * MINUTE, first.heartbeat);
    for (const silent of [first.silent, first.silentWithEndpoint]) expect(applyEvents(late, silent)).toEqual(late);
  });

  it("that fails is repeated if that may help, at most three times", () => {
    const { state, log } = applyEvents(
      running,
      first.failed,
      second.submitting,
      second.failed,
      third.submitting,
      third.failed,
    );
    expect(log.slice(2)).toEqual([
      "warn: Attempt 1 was given up: The machine is out of memory. Attempt 2 follows.",
      "warn: Attempt 2 was given up: The machine is out of memory. Attempt 3 follows.",
      "error: Attempt 3 was given up: The machine is out of memory. No further attempt follows after 3.",
    ]);
    expect(state).toMatchObject({ status: "failed", error: { code: "attempts_failed" } });
  });

  it("may report its failure without a full stop", () => {
    expect(messagesAfter(running, { ...first.failed, message: "out of memory" })).toEqual([
      "warn: Attempt 1 was given up: out of memory. Attempt 2 follows.",
    ]);
  });

  it("that fails for good ends the job", () => {
    const { state, log } = applyEvents(running, first.hopeless);
    const error = { code: "training_failed", message: "The examples have one label.", param: null };
    expect(state).toMatchObject({ status: "failed", failedAttempts: 0, error });
    expect(log.at(-1)).toBe("error: The examples have one label.");
  });

  it("that its machine hands back does not count as failed, however often", () => {
    const stoppedJob = applyEvents(running, first.checkpoint, first.stopped);
    expect(stoppedJob.log.at(-1)).toBe("info: Attempt 1 was handed back by the batch endpoint. Attempt 2 follows.");
    expect(stoppedJob.state).toMatchObject({ status: "queued", attempt: 2, inFlight: false, failedAttempts: 0 });
    expect(stoppedJob.state.checkpoint).toEqual(first.checkpoint.artifact);
    let job = stoppedJob;
    for (let n = 2; n < 9; n++)
      job = applyEvents(job, attemptEvents(n).submitting, attemptEvents(n).accepted, attemptEvents(n).stopped);
    expect(job.state).toMatchObject({ status: "queued", attempt: 9, failedAttempts: 0 });
  });

  it("with a lower number has no effect once another has started, even if it finishes", () => {
    const retriedJob = applyEvents(evaluated, 10 * MINUTE, first.silent, second.submitting, second.accepted);
    for (const lateEvent of Object.values(first)) expect(applyEvents(retriedJob, lateEvent)).toEqual(retriedJob);
    expect(isCurrentAttempt(retriedJob.state, 1)).toBe(false);
    expect(isCurrentAttempt(retriedJob.state, 2)).toBe(true);
  });

  it("is evaluated anew after an earlier one was", () => {
    const retriedJob = applyEvents(evaluated, first.failed, second.submitting, second.accepted, second.notBetter);
    expect(retriedJob.state).toMatchObject({ refit: "head", comparison: second.notBetter.comparison });
    expect(retriedJob.log.at(-1)).toBe(
      "info: On 200 held-out examples the frozen head has 0.800, the fine-tuned model 0.750: not_better (expected gain -0.050, chance of a loss 0.920). The frozen head is kept, and the fine-tuned model is not.",
    );
    // It must have refitted the better candidate.
    expect(applyEvents(retriedJob, second.finished)).toEqual(retriedJob);
    expect(applyEvents(retriedJob, second.finishedHead).state).toMatchObject({ status: "succeeded", promoted: false });
    const resubmittedJob = applyEvents(evaluated, first.failed, second.submitting, second.accepted);
    expect(messagesAfter(resubmittedJob, second.better)).toEqual([]);
    expect(applyEvents(resubmittedJob, second.better, second.finished).state).toMatchObject({
      status: "succeeded",
      attempt: 2,
    });
  });

  it("makes no version before it is evaluated", () => {
    expect(applyEvents(running, first.finished)).toEqual(running);
    expect(applyEvents(running, first.finishedHead)).toEqual(running);
  });
});

describe("what a job makes", () => {
  const cases: [PromotionMode, "better" | "notBetter", boolean, "head" | "fine_tuned", boolean][] = [
    ["if_better", "better", true, "fine_tuned", true],
    ["if_better", "better", false, "fine_tuned", true],
    ["if_better", "notBetter", true, "head", false],
    ["if_better", "notBetter", false, "head", true],
    ["always", "better", true, "fine_tuned", true],
    ["always", "better", false, "fine_tuned", true],
    ["always", "notBetter", true, "fine_tuned", true],
    ["always", "notBetter", false, "fine_tuned", true],
    ["never", "better", true, "fine_tuned", false],
    ["never", "better", false, "fine_tuned", false],
    ["never", "notBetter", true, "fine_tuned", false],
    ["never", "notBetter", false, "fine_tuned", false],
  ];
  it.each(cases)("promote %s, %s, another version active: %s", (promote, verdict, serves, candidate, promoted) => {
    const evaluatedJob = applyEvents(
      newSimulatedJob(promote),
      validated,
      first.submitting,
      first.accepted,
      first[verdict],
    );
    expect(evaluatedJob.state.refit).toBe(candidate);
    expect(shouldPromote(evaluatedJob.state, serves)).toBe(promoted);
    const { state, log } = applyEvents(evaluatedJob, { ...first.finished, candidate, promoted });
    expect(state).toMatchObject({ status: "succeeded", version: 3, promoted });
    expect(log.at(-1)).toBe(
      promoted
        ? "info: The job has made version 3, which is active now."
        : "info: The job has made version 3, which was not promoted.",
    );
  });

  it("is the frozen head if nothing could be compared, with a warning, and 'if_better' promotes it nowhere", () => {
    const none = { test_examples: 0, head_accuracy: 0, fine_tuned_accuracy: 0, only_head: 0, only_fine_tuned: 0 };
    const { state, log } = applyEvents(running, { type: "evaluated", attempt: 1, comparison: none });
    expect(state.refit).toBe("head");
    expect(log.at(-1)).toMatch(
      /^warn: Nothing could be compared: .* The frozen head is kept, and the fine-tuned model is not/,
    );
    for (const hasActiveVersion of [true, false]) {
      expect(shouldPromote(state, hasActiveVersion)).toBe(false);
      expect(shouldPromote({ ...state, promote: "always" }, hasActiveVersion)).toBe(true);
    }
  });
});

describe("pause", () => {
  it.each([
    ["while the examples are validated", newSimulatedJob(), "validating_files", 1, false],
    ["while it is queued", queued, "queued", 1, false],
    ["while its submission is under way", submitted, "queued", 2, true],
    ["while nobody answers", applyEvents(submitted, first.unanswered), "queued", 2, true],
    ["while it runs", running, "queued", 2, true],
    ["after it was evaluated", evaluated, "queued", 2, true],
  ] as const)("takes effect at once, and resume goes on: %s", (_, job, status, attempt, stops) => {
    const paused = applyEvents(job, 7, pause);
    expect(paused.state).toMatchObject({ status: "paused", inFlight: stops, attempt: 1, finishedAt: null });
    expect(directiveOf(paused.state)).toBe("pause");
    expect(dueAt(paused.state, rules)).toBe(stops ? 7 : null);
    const resumed = applyEvents(paused, 7, resume);
    expect(resumed.state).toMatchObject({
      status,
      attempt,
      inFlight: false,
      failedAttempts: 0,
      unanswered: 0,
      submitAt: 14,
    });
    expect(resumed.log.slice(job.log.length)).toEqual(["info: The job was paused.", "info: The job was resumed."]);
  });

  it("keeps the checkpoint that the attempt uploads before it stops", () => {
    const paused = applyEvents(running, pause, first.checkpoint, first.stopped);
    expect(paused.state).toMatchObject({ status: "paused", inFlight: false, attempt: 2 });
    expect(dueAt(paused.state, rules)).toBeNull();
    const resumed = applyEvents(paused, resume);
    expect(resumed.state).toMatchObject({ status: "queued", attempt: 2, checkpoint: first.checkpoint.artifact });
  });

  it("ignores an attempt that still runs after resume", () => {
    const resumed = applyEvents(evaluated, pause, resume);
    for (const lateEvent of Object.values(first)) expect(applyEvents(resumed, lateEvent)).toEqual(resumed);
    expect(applyEvents(resumed, second.submitting, second.accepted, second.better, second.finished).state.status).toBe(
      "succeeded",
    );
  });

  it("ignores results, failures and comparisons of the attempt that must pause", () => {
    const paused = applyEvents(evaluated, pause);
    expect(applyEvents(paused, first.finished)).toEqual(paused);
    expect(applyEvents(paused, first.notBetter).state.refit).toBe("fine_tuned");
    for (const failed of [first.failed, first.hopeless]) {
      expect(applyEvents(paused, failed).state).toMatchObject({
        status: "paused",
        inFlight: false,
        attempt: 2,
        failedAttempts: 0,
      });
    }
    const { state } = applyEvents(paused, 10 * MINUTE, first.silent);
    expect(state).toMatchObject({ status: "paused", inFlight: false, attempt: 2, failedAttempts: 0 });
  });

  it("lets the validation continue, and does not queue the job", () => {
    const paused = applyEvents(newSimulatedJob(), pause);
    expect(messagesAfter(paused, validated)).toEqual(["info: The examples are valid."]);
    expect(applyEvents(paused, validated, resume).state.status).toBe("queued");
    expect(applyEvents(paused, invalid).state).toMatchObject({ status: "failed", error: { code: "too_few_examples" } });
    expect(applyEvents(paused, resume, validated).log.at(-1)).toBe(
      "info: The examples are valid, and the job is queued.",
    );
  });

  it("is sent to the batch endpoint every 15 seconds until the attempt has stopped or was silent for too long", () => {
    const stoppingJob = applyEvents(running, 1_000, pause, first.stopRequested);
    expect(dueAt(stoppingJob.state, rules)).toBe(16_000);
    expect(dueAt(applyEvents(stoppingJob, 15_000, first.heartbeat, first.stopRequested).state, rules)).toBe(31_000);
    const silentJob = applyEvents(stoppingJob, 10 * MINUTE - 2_000, first.stopRequested);
    expect(dueAt(silentJob.state, rules)).toBe(10 * MINUTE);
    expect(applyEvents(silentJob, 1_000, first.silent).state).toMatchObject({
      status: "paused",
      inFlight: false,
      attempt: 2,
    });
  });

  it("is sent for an attempt that was just submitted, even if the job had waited longer than an attempt may be silent", () => {
    for (const command of [pause, cancel]) {
      const stopping = applyEvents(queued, 60 * MINUTE, first.submitting, 1_000, command, first.silent);
      expect(stopping.state.inFlight).toBe(true);
      expect(dueAt(stopping.state, rules)).toBe(stopping.now);
      expect(dueAt(applyEvents(stopping, first.stopRequested).state, rules)).toBe(stopping.now + 15_000);
    }
  });
});

describe("cancel", () => {
  it.each([
    ["while the examples are validated", newSimulatedJob(), false],
    ["while it is queued", queued, false],
    ["while its submission is under way", submitted, true],
    ["while nobody answers", applyEvents(submitted, first.unanswered), true],
    ["while it runs", running, true],
    ["after it was evaluated", evaluated, true],
    ["while it is paused", applyEvents(evaluated, pause), true],
    ["while it is paused, and has stopped", applyEvents(evaluated, pause, first.stopped), false],
  ])("ends the job at once and asks the attempt to stop: %s", (_, job, stops) => {
    const cancelled = applyEvents(job, 7, cancel);
    expect(cancelled.state).toMatchObject({ status: "cancelled", inFlight: stops, finishedAt: 7, error: null });
    expect(cancelled.log.at(-1)).toBe("info: The job was cancelled.");
    expect(directiveOf(cancelled.state)).toBe("end");
    expect(hasAccess(cancelled.state, 1)).toBe(false);
    expect(dueAt(cancelled.state, rules)).toBe(stops ? 7 : null);
    const endedJob = applyEvents(cancelled, 10 * MINUTE, first.silent);
    expect(endedJob.state).toMatchObject({ status: "cancelled", inFlight: false, finishedAt: 7 });
    expect(dueAt(endedJob.state, rules)).toBeNull();
    expect(applyEvents(cancelled, validated, resume, pause, cancel, invalid)).toEqual(cancelled);
  });

  it("is still sent if the attempt is accepted late, whose messages do not count", () => {
    const cancelled = applyEvents(submitted, cancel, 1_000, first.accepted);
    expect(cancelled.state).toMatchObject({ status: "cancelled", inFlight: true, heardAt: 1_000 });
    expect(dueAt(cancelled.state, rules)).toBe(0);
    const { state } = applyEvents(cancelled, first.better, first.finished);
    expect(state).toMatchObject({ status: "cancelled", version: null, promoted: false, refit: null });
    expect(applyEvents(cancelled, first.stopped).state).toMatchObject({ status: "cancelled", inFlight: false });
  });

  it("comes too late for a job that has ended", () => {
    const succeeded = applyEvents(evaluated, first.finished);
    expect(applyEvents(succeeded, cancel)).toEqual(succeeded);
    expect(refusalReason(succeeded.state, "cancel")).toBe("This job has succeeded, and cannot be cancelled any more.");
    expect(refusalReason(applyEvents(running, first.hopeless).state, "pause")).toBe(
      "This job has failed, and cannot be paused any more.",
    );
    const cancelled = applyEvents(running, cancel);
    expect(refusalReason(cancelled.state, "cancel")).toBeNull();
    expect(refusalReason(cancelled.state, "resume")).toBe(
      "This job has been cancelled, and cannot be resumed any more.",
    );
  });
});

describe("the test of a job's version", () => {
  const test = { dataset: "holdout", evaluation: "eval_1", accuracy: 0.9, failure: null };
  const tested = { type: "tested", test, promoted: true } as const;
  const succeeded = applyEvents(evaluated, first.finished);

  it("counts once, and only after the job's end", () => {
    for (const early of [newSimulatedJob(), queued, running, evaluated, applyEvents(running, cancel)])
      expect(applyEvents(early, tested).state).toBe(early.state);
    const done = applyEvents({ ...succeeded, state: { ...succeeded.state, promoted: false } }, tested);
    expect(done.state).toMatchObject({ status: "succeeded", test, promoted: true });
    const again = { ...tested, test: { ...test, evaluation: "eval_2" }, promoted: false };
    expect(applyEvents(done, again).state).toBe(done.state);
    expect(applyEvents(done, cancel, pause, resume, first.finished, first.failed).state).toEqual(done.state);
    expect(decodeJobState(encodeJobState(done.state))).toEqual(done.state);
  });

  it("that failed is told, and takes no promotion back", () => {
    const failure = { code: "not_found", message: "No dataset 'holdout'." };
    const failed = { ...tested, test: { ...test, evaluation: null, accuracy: null, failure }, promoted: false };
    const done = applyEvents(succeeded, failed);
    expect(done.state.promoted).toBe(succeeded.state.promoted);
    expect(done.log.at(-1)).toContain("could not be tested");
  });

  it.each([
    ["if_better", { version: 1, expected_gain: 0.1, chance_of_loss: 0.05 }, 1, true],
    ["if_better", { version: 1, expected_gain: 0.1, chance_of_loss: 0.2 }, 1, false],
    ["if_better", { version: 1, expected_gain: 0, chance_of_loss: 0 }, 1, false],
    ["if_better", { version: 1, expected_gain: 0.1, chance_of_loss: 0 }, 2, false],
    ["if_better", null, 1, false],
    ["if_better", null, null, true],
    ["always", { version: 1, expected_gain: 0.1, chance_of_loss: 0 }, 1, false],
    ["never", { version: 1, expected_gain: 0.1, chance_of_loss: 0 }, 1, false],
  ] as const)("under %s, with %j against version %s, promotes: %s", (promote, comparison, active, expected) => {
    expect(shouldPromoteTested({ promote }, { comparison }, active)).toBe(expected);
    expect(shouldPromoteTested({ promote }, null, active)).toBe(false);
  });
});
