/** What holds of a fine-tuning job whatever happens to it, in any order. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  advance,
  directiveOf,
  dueAt,
  hasEnded,
  isCurrent,
  type JobEvent,
  type JobState,
  newJobState,
  refusal,
} from "../../src/core/lifecycle/job.ts";
import { cancel, clock, invalid, MINUTE, of, pause, resume, rules, validated } from "./job-life.ts";

const STOP_AGAIN = 15_000;

type Said = keyof ReturnType<typeof of>;
const said = Object.keys(of(1)) as Said[];
const commands = { validated, invalid, clock, cancel, pause, resume };
type Command = keyof typeof commands;

/** What happens: after so many milliseconds, something of an attempt so far from the current one, or of none. */
interface Step {
  readonly after: number;
  readonly what: Said | Command;
  readonly offset: number;
}

const after = fc.oneof(
  { weight: 4, arbitrary: fc.nat(2_000) },
  { weight: 1, arbitrary: fc.nat(2 * rules.silence) },
  { weight: 1, arbitrary: fc.constantFrom(0, rules.silence - 1, rules.silence) },
);
const step: fc.Arbitrary<Step> = fc.record({
  after,
  what: fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom<Said[]>(...said) },
    { weight: 4, arbitrary: fc.constantFrom<Said[]>("submitting", "accepted", "better", "heard") },
    { weight: 3, arbitrary: fc.constantFrom<Command[]>("validated", "clock", "pause", "resume") },
    { weight: 1, arbitrary: fc.constantFrom<Command[]>("clock", "resume", "validated") },
  ),
  offset: fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: -3, max: 3 }) }),
});
/** What ends most jobs comes late, so that there is a life before it. */
const ending: fc.Arbitrary<Step> = fc.record({
  after,
  what: fc.constantFrom<(Said | Command)[]>("cancel", "invalid", "hopeless", "rejected", "finished", "finishedHead"),
  offset: fc.constant(0),
});
const ends: ReadonlySet<string> = new Set(["hopeless", "rejected", "finished", "finishedHead"]);
const calm = step.filter(({ what }) => !ends.has(what));
const steps = fc
  .tuple(fc.array(calm, { maxLength: 40 }), fc.array(ending, { maxLength: 2 }), fc.array(step, { maxLength: 10 }))
  .map((parts) => parts.flat());
const promote = fc.constantFrom("if_better", "always", "never");

function eventOf({ what, offset }: Step, state: JobState): JobEvent {
  return what in commands ? commands[what as Command] : of(state.attempt + offset)[what as Said];
}

interface Moment {
  readonly before: JobState;
  readonly event: JobEvent;
  readonly now: number;
  readonly state: JobState;
}

/** Everything that happens to a job, one after the other. */
const lives: fc.Arbitrary<Moment[]> = fc.tuple(promote, steps).map(([how, all]) => {
  let now = 1_000_000;
  let state = newJobState(how, now);
  return all.map((each) => {
    now += each.after;
    const before = state;
    const event = eventOf(each, before);
    state = advance(before, event, now, rules).state;
    return { before, event, now, state };
  });
});

function always(check: (moment: Moment) => void): void {
  fc.assert(
    fc.property(lives, (life) => life.forEach(check)),
    { numRuns: 500 },
  );
}

it("is tried in every state, and by every way to fail", () => {
  const all = fc.sample(lives, { numRuns: 2_000, seed: 1 }).flat();
  const has = (test: (moment: Moment) => boolean) => all.some(test);
  expect(new Set(all.map(({ state }) => state.status)).size).toBe(7);
  expect(new Set(all.map(({ state }) => state.error?.code))).toEqual(
    new Set([undefined, "too_few_examples", "batch_rejected", "training_failed", "attempts_failed"]),
  );
  expect(has(({ state }) => state.promoted)).toBe(true);
  expect(has(({ state }) => state.status === "succeeded" && !state.promoted)).toBe(true);
  for (const status of ["queued", "paused", "cancelled"])
    for (const live of [true, false])
      expect(has(({ state }) => state.status === status && state.live === live)).toBe(true);
});

describe("an event", () => {
  it("that comes twice has the effect of once, and is told of once", () => {
    // How often nobody answered is counted, call by call.
    const effect = ({ unanswered, ...rest }: JobState) => rest;
    always(({ event, now, state }) => {
      const again = advance(state, event, now, rules);
      expect(effect(again.state)).toEqual(effect(state));
      if (event.type !== "unanswered") expect(again.state.unanswered).toBe(state.unanswered);
      expect(again.log).toEqual([]);
    });
  });

  it("that comes again later moves times at most", () => {
    const effect = ({ unanswered, heardAt, submitAt, stopAt, ...rest }: JobState) => rest;
    fc.assert(
      fc.property(lives, fc.nat(20 * MINUTE), (life, later) => {
        for (const { event, now, state } of life) {
          if (event.type === "clock") continue;
          const again = advance(state, event, now + later, rules);
          expect(effect(again.state)).toEqual(effect(state));
          expect(again.log).toEqual([]);
        }
      }),
    );
  });

  it("of an older or a future attempt changes nothing at all", () => {
    fc.assert(
      fc.property(lives, fc.nat(20 * MINUTE), (life, later) => {
        for (const { now, state } of life) {
          for (let attempt = 1; attempt <= state.attempt + 2; attempt++) {
            if (attempt === state.attempt) continue;
            expect(isCurrent(state, attempt)).toBe(false);
            for (const event of Object.values(of(attempt))) {
              const late = advance(state, event, now + later, rules);
              expect(late.state).toBe(state);
              expect(late.log).toEqual([]);
            }
          }
        }
      }),
      { numRuns: 50 },
    );
  });

  it("of the current attempt counts only where that may be running", () => {
    always(({ now, state }) => {
      if (isCurrent(state, state.attempt)) return;
      for (const event of Object.values(of(state.attempt)))
        expect(advance(state, event, now, rules).state, event.type).toBe(state);
    });
  });
});

describe("a job", () => {
  it("that is paused and resumed listens no more to what ran before", () => {
    always(({ now, state }) => {
      if (hasEnded(state) || !state.live) return;
      const resumed = [pause, resume].reduce((from, event) => advance(from, event, now, rules).state, state);
      expect(isCurrent(resumed, state.attempt)).toBe(false);
    });
  });

  it("that waits in line is not given up, however long that takes", () => {
    always(({ now, state }) => {
      if (state.status === "queued") expect(advance(state, clock, now + 1e9, rules).state).toBe(state);
    });
  });

  it("that has ended stays what it is", () => {
    fc.assert(
      fc.property(lives, (life) => {
        const [end, ...rest] = life.map(({ state }) => state).filter(hasEnded);
        fc.pre(end !== undefined);
        const { status, version, promoted, error, finishedAt } = end;
        for (const state of rest) expect(state).toMatchObject({ status, version, promoted, error, finishedAt });
      }),
    );
  });

  it("is promoted at most once, with its one version", () => {
    fc.assert(
      fc.property(lives, (life) => {
        const made = life.filter(({ before, state }) => before.version !== state.version);
        const promotions = life.filter(({ before, state }) => before.promoted !== state.promoted);
        expect(made.length).toBeLessThanOrEqual(1);
        for (const promotion of promotions) expect(promotion).toBe(made[0]);
      }),
    );
  });

  it("never goes back to an earlier attempt, and is validated for good", () => {
    always(({ before, state }) => {
      expect(state.attempt - before.attempt).toBeOneOf([0, 1]);
      expect(Number(state.validated)).toBeGreaterThanOrEqual(Number(before.validated));
    });
  });

  it("loses three attempts at most, and fails with the third", () => {
    always(({ before, state }) => {
      expect(state.lost - before.lost).toBeOneOf([0, 1]);
      expect(state.lost).toBeLessThanOrEqual(3);
      const allLost = state.error?.code === "attempts_failed";
      expect(state.lost === 3).toBe(allLost);
      if (allLost) expect(state.status).toBe("failed");
    });
  });

  it("is in no state that contradicts itself", () => {
    always(({ before, event, now, state }) => {
      const { status, refit, version } = state;
      const ended = hasEnded(state);
      if (status === "queued" || status === "running" || status === "succeeded") expect(state.validated).toBe(true);
      if (status === "validating_files") expect(state.validated).toBe(false);
      if (status === "running") expect(state.live).toBe(true);
      if (status === "succeeded" || status === "failed") expect(state.live).toBe(false);
      expect(status === "succeeded").toBe(version !== null);
      if (status === "succeeded") expect(refit).not.toBeNull();
      expect(refit === null).toBe(state.judgement === null);
      if (status !== "succeeded") expect(state.promoted).toBe(false);
      expect(status === "failed").toBe(state.error !== null);
      expect(ended).toBe(state.finishedAt !== null);
      if (ended && !hasEnded(before)) expect(state.finishedAt).toBe(now);
      if (status === "cancelled" && before.status !== "cancelled") expect(event.type).toBe("cancel");
      if (status === "paused" && before.status !== "paused") expect(event.type).toBe("pause");
      if (before.status === "paused" && status !== "paused")
        expect(event.type).toBeOneOf(["resume", "cancel", "invalid"]);
    });
  });

  it("is cancelled by cancel and paused by pause at once, wherever it is", () => {
    always(({ now, state }) => {
      if (hasEnded(state)) return;
      for (const [command, status] of [
        [cancel, "cancelled"],
        [pause, "paused"],
      ] as const) {
        const stopped = advance(state, command, now, rules).state;
        expect(stopped.status).toBe(status);
        // An attempt that may be running is told at once.
        if (state.live && status !== state.status) expect(dueAt(stopped, rules)).toBe(now);
      }
    });
  });

  it("refuses exactly those commands that have no place", () => {
    always(({ now, state }) => {
      for (const command of ["cancel", "pause", "resume"] as const) {
        const next = advance(state, { type: command }, now, rules).state;
        const obeyed = {
          cancel: next.status === "cancelled",
          pause: next.status === "paused",
          resume: !hasEnded(next) && next.status !== "paused",
        };
        expect(refusal(state, command) === null).toBe(obeyed[command]);
        if (refusal(state, command) !== null) expect(next).toBe(state);
      }
    });
  });

  it("is told to continue exactly where it may end with a version", () => {
    always(({ state }) => {
      const goesOn = !hasEnded(state) && state.status !== "paused";
      expect(directiveOf(state) === "continue").toBe(goesOn);
    });
  });
});

describe("a job is never stuck:", () => {
  /** What happens where everything goes well. */
  function onwards(state: JobState, now: number): JobState {
    const go = (from: JobState, event: JobEvent) => advance(from, event, now, rules).state;
    const ready = [resume, validated].reduce(go, state);
    const { submitting, accepted, better, finished } = of(ready.attempt);
    const judged = [submitting, accepted, better].reduce(go, ready);
    return go(judged, { ...finished, candidate: judged.refit ?? "head" });
  }

  it("whatever has happened, it can still succeed", () => {
    always(({ now, state }) => {
      if (!hasEnded(state)) expect(onwards(state, now)).toMatchObject({ status: "succeeded", version: 3 });
    });
  });

  it("it is due, or waits in line, unless it is paused", () => {
    always(({ now, state }) => {
      if (hasEnded(state) || state.status === "paused") return;
      if (state.status !== "queued") expect(dueAt(state, rules)).not.toBeNull();
      // Nobody waits for longer than they were asked to.
      else expect(state.submitAt).toBeLessThanOrEqual(now + of(1).busy.retryAfter);
    });
  });

  it("where its attempt is to stop, that is due to be told within 15 seconds", () => {
    always(({ now, state }) => {
      if (!state.live || (state.status !== "paused" && state.status !== "cancelled")) return;
      expect(dueAt(state, rules)).not.toBeNull();
      expect(dueAt(state, rules)).toBeLessThanOrEqual(now + STOP_AGAIN);
    });
  });

  it("an attempt that stays silent is given up, no sooner and no later than it may be silent for", () => {
    always(({ now: from, state: start }) => {
      if (!start.live || start.status === "queued") return;
      const givenUp = Math.max(from, start.heardAt + rules.silence);
      let [state, now] = [start, from];
      // What is due is done, and nothing is heard.
      for (let turn = 0; state.live; turn++) {
        expect(turn).toBeLessThan(2 + rules.silence / STOP_AGAIN);
        now = Math.max(now, dueAt(state, rules) ?? Number.POSITIVE_INFINITY);
        expect(now).toBeLessThanOrEqual(givenUp);
        state = advance(state, clock, now, rules).state;
        expect(state.live).toBe(now < givenUp);
        state = advance(state, of(start.attempt).toldToStop, now, rules).state;
      }
      if (start.status === "running") expect(state).toMatchObject({ lost: start.lost + 1 });
      else expect(state).toMatchObject({ status: start.status, lost: start.lost, attempt: start.attempt + 1 });
    });
  });
});
