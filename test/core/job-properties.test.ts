/** Invariants of a fine-tuning job under any events in any order. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  directiveOf,
  dueAt,
  hasAccess,
  hasEnded,
  isCurrentAttempt,
  type JobEvent,
  type JobState,
  newComparisonState,
  newJobState,
  refusalReason,
} from "../../src/core/lifecycle/job.ts";
import { advance } from "../../src/core/lifecycle/job-transitions.ts";
import { attemptEvents, cancel, invalid, MINUTE, pause, resume, rules, validated } from "./job-simulation.ts";

const STOP_AGAIN = 15_000;

type AttemptEventName = keyof ReturnType<typeof attemptEvents>;
const attemptEventNames = Object.keys(attemptEvents(1)) as AttemptEventName[];
const commands = { validated, invalid, cancel, pause, resume };
type Command = keyof typeof commands;

/** A random step: after so many milliseconds, an event of the job, or of an attempt so far from the current one. */
interface Step {
  readonly delay: number;
  readonly eventName: AttemptEventName | Command;
  readonly offset: number;
}

const delay = fc.oneof(
  { weight: 4, arbitrary: fc.nat(2_000) },
  { weight: 1, arbitrary: fc.nat(2 * rules.heartbeatTimeout) },
  { weight: 1, arbitrary: fc.constantFrom(0, rules.heartbeatTimeout - 1, rules.heartbeatTimeout) },
);
const anyStep: fc.Arbitrary<Step> = fc.record({
  delay,
  eventName: fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom<AttemptEventName[]>(...attemptEventNames) },
    { weight: 4, arbitrary: fc.constantFrom<AttemptEventName[]>("submitting", "accepted", "better", "heartbeat") },
    { weight: 2, arbitrary: fc.constantFrom<AttemptEventName[]>("silent", "endpointLost", "silentWithEndpoint") },
    { weight: 3, arbitrary: fc.constantFrom<Command[]>("validated", "pause", "resume") },
    { weight: 1, arbitrary: fc.constantFrom<Command[]>("resume", "validated") },
  ),
  offset: fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: -3, max: 3 }) }),
});
/** Events that end most jobs come late, so that others come before them. */
const finalStep: fc.Arbitrary<Step> = fc.record({
  delay,
  eventName: fc.constantFrom<(AttemptEventName | Command)[]>(
    "cancel",
    "invalid",
    "hopeless",
    "rejected",
    "finished",
    "finishedHead",
  ),
  offset: fc.constant(0),
});
const finalEvents: ReadonlySet<string> = new Set(["hopeless", "rejected", "finished", "finishedHead"]);
const nonFinalStep = anyStep.filter(({ eventName }) => !finalEvents.has(eventName));
/** Attempts that are lost, one after another, as many as a job may lose and more. */
const losses: fc.Arbitrary<Step[]> = fc
  .array(fc.constantFrom<AttemptEventName[]>("failed", "endpointLost", "silent", "silentWithEndpoint"), {
    maxLength: 8,
    size: "max",
  })
  .map((names) =>
    names.flatMap((name) => {
      const delay = name.startsWith("silent") ? rules.heartbeatTimeout : 0;
      const step = (eventName: AttemptEventName): Step => ({ delay: 0, eventName, offset: 0 });
      return [step("submitting"), step("accepted"), { ...step(name), delay }];
    }),
  );
const steps = fc
  .tuple(
    fc.array(nonFinalStep, { maxLength: 40 }),
    fc.oneof({ weight: 3, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: losses }),
    fc.array(finalStep, { maxLength: 2 }),
    fc.array(anyStep, { maxLength: 10 }),
  )
  .map((parts) => parts.flat());
const promote = fc.constantFrom("if_better", "always", "never");
const isComparison = fc.oneof(
  { weight: 3, arbitrary: fc.constant(false) },
  { weight: 1, arbitrary: fc.constant(true) },
);

function toEvent({ eventName, offset }: Step, state: JobState): JobEvent {
  return eventName in commands
    ? commands[eventName as Command]
    : attemptEvents(state.attempt + offset)[eventName as AttemptEventName];
}

interface Transition {
  readonly before: JobState;
  readonly event: JobEvent;
  readonly now: number;
  readonly state: JobState;
}

/** The states that a job goes through, one after the other. */
const histories: fc.Arbitrary<Transition[]> = fc.tuple(promote, isComparison, steps).map((history) => {
  const [promotePolicy, onlyCompares, allSteps] = history;
  let now = 1_000_000;
  let state = onlyCompares ? newComparisonState(now) : newJobState(promotePolicy, now);
  return allSteps.map((step) => {
    now += step.delay;
    const before = state;
    const event = toEvent(step, before);
    state = advance(before, event, now, rules).state;
    return { before, event, now, state };
  });
});

function forEveryTransition(check: (transition: Transition) => void): void {
  fc.assert(
    fc.property(histories, (history) => history.forEach(check)),
    { numRuns: 500 },
  );
}

it("is tested in every state, and with every kind of failure", () => {
  const all = fc.sample(histories, { numRuns: 2_000, seed: 1 }).flat();
  const has = (predicate: (moment: Transition) => boolean) => all.some(predicate);
  expect(new Set(all.map(({ state }) => state.status)).size).toBe(7);
  expect(new Set(all.map(({ state }) => state.error?.code))).toEqual(
    new Set([
      undefined,
      "too_few_examples",
      "batch_rejected",
      "training_failed",
      "attempts_failed",
      "endpoint_lost",
      "not_available",
    ]),
  );
  expect(has(({ state }) => state.promoted)).toBe(true);
  expect(has(({ state }) => state.status === "succeeded" && !state.promoted)).toBe(true);
  for (const status of ["queued", "paused", "cancelled"])
    for (const isLive of [true, false])
      expect(has(({ state }) => state.status === status && state.inFlight === isLive)).toBe(true);
});

describe("an event", () => {
  it("that comes twice has the effect of one, and is logged once", () => {
    // Unanswered submissions are counted, each of them.
    const effect = ({ unanswered, ...rest }: JobState) => rest;
    forEveryTransition(({ event, now, state }) => {
      const again = advance(state, event, now, rules);
      expect(effect(again.state)).toEqual(effect(state));
      if (event.type !== "unanswered") expect(again.state.unanswered).toBe(state.unanswered);
      expect(again.log).toEqual([]);
    });
  });

  it("that comes again later changes at most times", () => {
    const comparableState = ({ unanswered, heardAt, submitAt, stopAt, ...rest }: JobState) => rest;
    fc.assert(
      fc.property(histories, fc.nat(20 * MINUTE), (history, delay) => {
        for (const { event, now, state } of history) {
          if (event.type === "silent") continue;
          const again = advance(state, event, now + delay, rules);
          expect(comparableState(again.state)).toEqual(comparableState(state));
          expect(again.log).toEqual([]);
        }
      }),
    );
  });

  it("of an older or a future attempt changes nothing", () => {
    fc.assert(
      fc.property(histories, fc.nat(20 * MINUTE), (history, delay) => {
        for (const { now, state } of history) {
          for (let attempt = 1; attempt <= state.attempt + 2; attempt++) {
            if (attempt === state.attempt) continue;
            expect(isCurrentAttempt(state, attempt)).toBe(false);
            for (const event of Object.values(attemptEvents(attempt))) {
              const lateState = advance(state, event, now + delay, rules);
              expect(lateState.state).toBe(state);
              expect(lateState.log).toEqual([]);
            }
          }
        }
      }),
      { numRuns: 50 },
    );
  });

  it("of the current attempt counts only if that may be running", () => {
    forEveryTransition(({ now, state }) => {
      if (isCurrentAttempt(state, state.attempt)) return;
      for (const event of Object.values(attemptEvents(state.attempt)))
        expect(advance(state, event, now, rules).state, event.type).toBe(state);
    });
  });
});

describe("a job", () => {
  it("that is paused and resumed ignores the attempt before", () => {
    forEveryTransition(({ now, state }) => {
      if (hasEnded(state) || !state.inFlight) return;
      const resumedState = [pause, resume].reduce((from, event) => advance(from, event, now, rules).state, state);
      expect(isCurrentAttempt(resumedState, state.attempt)).toBe(false);
    });
  });

  it("that waits in the queue is not given up, however long that takes", () => {
    forEveryTransition(({ now, state }) => {
      const { silent } = attemptEvents(state.attempt);
      if (state.status === "queued") expect(advance(state, silent, now + 1e9, rules).state).toBe(state);
    });
  });

  it("that has ended does not change", () => {
    fc.assert(
      fc.property(histories, (history) => {
        const [endState, ...laterStates] = history.map(({ state }) => state).filter(hasEnded);
        fc.pre(endState !== undefined);
        const { status, version, promoted, error, finishedAt } = endState;
        for (const state of laterStates) expect(state).toMatchObject({ status, version, promoted, error, finishedAt });
      }),
    );
  });

  it("is promoted at most once, with its one version", () => {
    fc.assert(
      fc.property(histories, (history) => {
        const versionChanges = history.filter(({ before, state }) => before.version !== state.version);
        const promotions = history.filter(({ before, state }) => before.promoted !== state.promoted);
        expect(versionChanges.length).toBeLessThanOrEqual(1);
        for (const promotion of promotions) expect(promotion).toBe(versionChanges[0]);
      }),
    );
  });

  it("never goes back to an earlier attempt, and is validated for good", () => {
    forEveryTransition(({ before, state }) => {
      expect(state.attempt - before.attempt).toBeOneOf([0, 1]);
      expect(Number(state.validated)).toBeGreaterThanOrEqual(Number(before.validated));
    });
  });

  it("loses three attempts at most, and fails with the third", () => {
    forEveryTransition(({ before, state }) => {
      expect(state.failedAttempts - before.failedAttempts).toBeOneOf([0, 1]);
      expect(state.failedAttempts).toBeLessThanOrEqual(3);
      const hasLostAll = state.error?.code === "attempts_failed";
      expect(state.failedAttempts === 3).toBe(hasLostAll);
      if (hasLostAll) expect(state.status).toBe("failed");
    });
  });

  it("loses its endpoint five times at most, and fails with the fifth; neither loss counts as the other", () => {
    forEveryTransition(({ before, event, state }) => {
      const [failures, deaths] = [
        state.failedAttempts - before.failedAttempts,
        state.endpointDeaths - before.endpointDeaths,
      ];
      expect(deaths).toBeOneOf([0, 1]);
      expect(failures + deaths).toBeLessThanOrEqual(1);
      expect(state.endpointDeaths).toBeLessThanOrEqual(5);
      expect(state.endpointDeaths === 5).toBe(state.error?.code === "endpoint_lost");
      const isEndpointLost = event.type === "endpoint_lost" || (event.type === "silent" && event.endpointLost);
      if (deaths === 1) expect(isEndpointLost).toBe(true);
      if (failures === 1) expect(isEndpointLost).toBe(false);
    });
  });

  it("that has ended gives no attempt access, and takes nothing that one reports", () => {
    const reports = ["heartbeat", "checkpoint", "better", "notBetter", "compared", "finished", "finishedHead"] as const;
    forEveryTransition(({ now, state }) => {
      expect(hasAccess(state, state.attempt)).toBe(!hasEnded(state) && isCurrentAttempt(state, state.attempt));
      if (!hasEnded(state)) return;
      const events = attemptEvents(state.attempt);
      for (const name of reports) expect(advance(state, events[name], now, rules).state, name).toBe(state);
    });
  });

  it("is always in a consistent state", () => {
    forEveryTransition(({ before, event, now, state }) => {
      const { status, refit, version, onlyCompares = false } = state;
      const isEnded = hasEnded(state);
      if (status === "queued" || status === "running" || status === "succeeded") expect(state.validated).toBe(true);
      if (status === "validating_files") expect(state.validated).toBe(false);
      if (status === "running") expect(state.inFlight).toBe(true);
      if (status === "succeeded" || status === "failed") expect(state.inFlight).toBe(false);
      expect(status === "succeeded" && !onlyCompares).toBe(version !== null);
      if (onlyCompares) expect(status === "succeeded").toBe(state.comparison !== null && "comparisonCost" in state);
      else if (status === "succeeded") expect(refit).not.toBeNull();
      expect(refit === null).toBe(onlyCompares || state.comparison === null);
      if (status !== "succeeded") expect(state.promoted).toBe(false);
      expect(status === "failed").toBe(state.error !== null);
      expect(isEnded).toBe(state.finishedAt !== null);
      if (isEnded && !hasEnded(before)) expect(state.finishedAt).toBe(now);
      if (status === "cancelled" && before.status !== "cancelled") expect(event.type).toBe("cancel");
      if (status === "paused" && before.status !== "paused") expect(event.type).toBe("pause");
      if (before.status === "paused" && status !== "paused")
        expect(event.type).toBeOneOf(["resume", "cancel", "invalid"]);
    });
  });

  it("is cancelled by cancel and paused by pause at once, in any state", () => {
    forEveryTransition(({ now, state }) => {
      if (hasEnded(state)) return;
      for (const [command, status] of [
        [cancel, "cancelled"],
        [pause, "paused"],
      ] as const) {
        const stoppedState = advance(state, command, now, rules).state;
        expect(stoppedState.status).toBe(status);
        // An attempt that may be running is asked to stop at once.
        if (state.inFlight && status !== state.status) expect(dueAt(stoppedState, rules)).toBe(now);
      }
    });
  });

  it("refuses exactly those commands that do not apply", () => {
    forEveryTransition(({ now, state }) => {
      for (const command of ["cancel", "pause", "resume"] as const) {
        const nextState = advance(state, { type: command }, now, rules).state;
        const isObeyed = {
          cancel: nextState.status === "cancelled",
          pause: nextState.status === "paused",
          resume: !hasEnded(nextState) && nextState.status !== "paused",
        };
        expect(refusalReason(state, command) === null).toBe(isObeyed[command]);
        if (refusalReason(state, command) !== null) expect(nextState).toBe(state);
      }
    });
  });

  it("is directed to continue exactly if it may end with a version", () => {
    forEveryTransition(({ state }) => {
      const isActive = !hasEnded(state) && state.status !== "paused";
      expect(directiveOf(state)).toBe(isActive ? "continue" : hasEnded(state) ? "end" : "pause");
    });
  });
});

describe("a job is never stuck:", () => {
  /** Runs a job to success. */
  function runToSuccess(state: JobState, now: number): JobState {
    const apply = (from: JobState, event: JobEvent) => advance(from, event, now, rules).state;
    const readyState = [resume, validated].reduce(apply, state);
    const { submitting, accepted, compared, finished } = attemptEvents(readyState.attempt);
    const comparedState = [submitting, accepted, compared].reduce(apply, readyState);
    return apply(comparedState, { ...finished, candidate: comparedState.refit ?? "head" });
  }

  it("whatever has happened, it can still succeed", () => {
    forEveryTransition(({ now, state }) => {
      const version = state.onlyCompares ? null : 3;
      if (!hasEnded(state)) expect(runToSuccess(state, now)).toMatchObject({ status: "succeeded", version });
    });
  });

  it("it is due, or waits in the queue, unless it is paused", () => {
    forEveryTransition(({ now, state }) => {
      if (hasEnded(state) || state.status === "paused") return;
      if (state.status !== "queued") expect(dueAt(state, rules)).not.toBeNull();
      // No wait is longer than requested.
      else expect(state.submitAt).toBeLessThanOrEqual(now + attemptEvents(1).busy.retryAfter);
    });
  });

  it("the batch endpoint is asked within 15 seconds to stop an attempt", () => {
    forEveryTransition(({ now, state }) => {
      if (!state.inFlight || (state.status !== "paused" && state.status !== "cancelled")) return;
      expect(dueAt(state, rules)).not.toBeNull();
      expect(dueAt(state, rules)).toBeLessThanOrEqual(now + STOP_AGAIN);
    });
  });

  it("an attempt that stays silent is given up exactly when its time is over", () => {
    forEveryTransition(({ now: from, state: start }) => {
      if (!start.inFlight || start.status === "queued") return;
      const giveUpAt = Math.max(from, start.heardAt + rules.heartbeatTimeout);
      let [state, now] = [start, from];
      // Due work is done, and no message arrives.
      for (let round = 0; state.inFlight; round++) {
        expect(round).toBeLessThan(2 + rules.heartbeatTimeout / STOP_AGAIN);
        now = Math.max(now, dueAt(state, rules) ?? Number.POSITIVE_INFINITY);
        expect(now).toBeLessThanOrEqual(giveUpAt);
        state = advance(state, attemptEvents(start.attempt).silent, now, rules).state;
        expect(state.inFlight).toBe(now < giveUpAt);
        state = advance(state, attemptEvents(start.attempt).stopRequested, now, rules).state;
      }
      if (start.status === "running") expect(state).toMatchObject({ failedAttempts: start.failedAttempts + 1 });
      else
        expect(state).toMatchObject({
          status: start.status,
          failedAttempts: start.failedAttempts,
          attempt: start.attempt + 1,
        });
    });
  });
});
