/** Deliveries: the schedule step by step, and invariants of any order of events. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type AttemptOutcome,
  advance,
  type Delivery,
  type DeliveryEvent,
  newDelivery,
  outcomeOf,
  RETRY_SCHEDULE,
} from "../../src/core/lifecycle/delivery.ts";

const [SECOND, MINUTE, HOUR, DAY] = [1_000, 60_000, 3_600_000, 86_400_000];
const LEASE = 25 * SECOND;
const begin: DeliveryEvent = { type: "begin", lease: LEASE };
const success: AttemptOutcome = { type: "succeeded" };
const failure: AttemptOutcome = { type: "failed", busy: false, retryAfter: null };
const busy = (retryAfter: number | null): AttemptOutcome => ({ type: "failed", busy: true, retryAfter });
const endedEvent = (attempt: number, outcome: AttemptOutcome): DeliveryEvent => ({ type: "ended", attempt, outcome });

/** Fails every attempt until none is due. Returns when each attempt began, counted from the first. */
function failAll(first: Delivery, random: number, outcome = failure): number[] {
  const attemptTimes: number[] = [];
  let state = first;
  while (state.dueAt !== null) {
    const now = state.dueAt;
    attemptTimes.push(now - (first.dueAt ?? 0));
    state = advance(state, begin, now, random);
    state = advance(state, endedEvent(state.attempt, outcome), now, random);
  }
  expect(state).toMatchObject({ status: "failed", inFlight: false });
  return attemptTimes;
}

describe("a delivery", () => {
  test("is attempted ten times, over three days, and has failed then", () => {
    const sums = RETRY_SCHEDULE.map((_, i) => RETRY_SCHEDULE.slice(0, i + 1).reduce((sum, wait) => sum + wait, 0));
    expect(RETRY_SCHEDULE).toEqual([
      0,
      5 * SECOND,
      5 * MINUTE,
      30 * MINUTE,
      2 * HOUR,
      5 * HOUR,
      10 * HOUR,
      14 * HOUR,
      20 * HOUR,
      DAY,
    ]);
    expect(failAll(newDelivery(true, 7_000), 0.5)).toEqual(sums);
    expect(failAll(newDelivery(true, 7_000), 0)[1]).toBe(4_500);
    expect(failAll(newDelivery(true, 7_000), 1)[1]).toBe(5_500);
  });

  test("is due again if an attempt was cut off, and fails if the last one was", () => {
    let state = newDelivery(true, 0);
    for (let attempt = 1; attempt <= RETRY_SCHEDULE.length; attempt++) {
      const now = state.dueAt ?? Number.NaN;
      expect(now).toBe((attempt - 1) * LEASE);
      state = advance(state, begin, now, 0.5);
      expect(state).toMatchObject({ attempt, inFlight: true, dueAt: now + LEASE });
    }
    expect(advance(state, begin, state.dueAt ?? 0, 0.5)).toMatchObject({ status: "failed", attempt: 10, dueAt: null });
  });

  test("to a disabled endpoint has failed before its first attempt, and can be requested again", () => {
    const failed = newDelivery(false, 5);
    expect(failed).toEqual({ status: "failed", attempt: 0, scheduleStart: 0, inFlight: false, dueAt: null });
    expect(advance(failed, begin, 5, 0)).toBe(failed);
    expect(failAll(advance(failed, { type: "redeliver" }, 100, 0), 0.5)).toHaveLength(10);
  });

  test("that succeeded can be requested again, with the whole schedule ahead", () => {
    const first = advance(newDelivery(true, 0), begin, 0, 0);
    const deliveredState = advance(first, endedEvent(1, success), 10, 0);
    expect(deliveredState).toEqual({ status: "succeeded", attempt: 1, scheduleStart: 0, inFlight: false, dueAt: null });
    const again = advance(deliveredState, { type: "redeliver" }, 500, 0);
    expect(again).toEqual({ status: "pending", attempt: 1, scheduleStart: 1, inFlight: false, dueAt: 500 });
    expect(failAll(again, 0.5)).toHaveLength(10);
  });

  test("requested while an attempt is in flight waits for its end", () => {
    const inFlightDelivery = advance(newDelivery(true, 0), begin, 0, 0);
    const redeliveredState = advance(inFlightDelivery, { type: "redeliver" }, 10, 0);
    expect(redeliveredState).toMatchObject({ inFlight: true, dueAt: LEASE });
    expect(advance(redeliveredState, endedEvent(1, success), 20, 0).status).toBe("succeeded");
    expect(advance(redeliveredState, endedEvent(1, failure), 20, 0)).toMatchObject({ status: "pending", dueAt: 20 });
  });

  test("whose endpoint is disabled has failed, unless the attempt in flight succeeds", () => {
    const inFlightDelivery = advance(newDelivery(true, 0), begin, 0, 0);
    const disabled = advance(inFlightDelivery, { type: "disable" }, 10, 0);
    expect(disabled).toMatchObject({ status: "failed", dueAt: null });
    expect(advance(disabled, endedEvent(1, failure), 20, 0)).toMatchObject({
      status: "failed",
      inFlight: false,
      dueAt: null,
    });
    expect(advance(disabled, endedEvent(1, success), 20, 0)).toMatchObject({
      status: "succeeded",
      inFlight: false,
      dueAt: null,
    });
  });

  const outcome = fc.constantFrom<AttemptOutcome[]>(success, failure, busy(null), busy(5_000), { type: "gone" });
  const step = fc.record({
    after: fc.oneof(fc.nat(10 * SECOND), fc.nat(2 * DAY), fc.constantFrom(0, LEASE)),
    what: fc.constantFrom("begin", "begin", "ended", "ended", "late", "redeliver", "disable"),
    outcome,
    random: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
  });

  test("in any order, with repeated events: nothing is lost, and only its own success ends it well", () => {
    fc.assert(
      fc.property(fc.boolean(), fc.array(step, { maxLength: 60 }), (enabled, steps) => {
        let now = 0;
        let state = newDelivery(enabled, now);
        let hasArrived = false;
        const usedAttempts = new Set<number>();
        for (const { after, what, outcome, random } of steps) {
          now += after;
          const event: DeliveryEvent =
            what === "begin"
              ? begin
              : what === "ended" || what === "late"
                ? endedEvent(state.attempt - (what === "late" ? 1 : 0), outcome)
                : { type: what as "redeliver" | "disable" };
          const nextDelivery = advance(state, event, now, random);
          // A repeated event changes nothing, except a `begin` after the lease.
          if (event.type !== "begin") expect(advance(nextDelivery, event, now, random)).toEqual(nextDelivery);
          // Attempt numbers rise one by one, and each attempt ends at most once.
          expect(nextDelivery.attempt - state.attempt).toBe(
            event.type === "begin" && nextDelivery.attempt !== state.attempt ? 1 : 0,
          );
          if (nextDelivery.attempt > state.attempt) {
            expect(state).toMatchObject({ status: "pending" });
            expect(state.dueAt ?? Number.POSITIVE_INFINITY).toBeLessThanOrEqual(now);
          }
          if (nextDelivery.status === "succeeded" && state.status !== "succeeded") {
            expect(event).toEqual(endedEvent(state.attempt, success));
            expect(state.inFlight).toBe(true);
            expect(usedAttempts.has(state.attempt)).toBe(false);
            usedAttempts.add(state.attempt);
            hasArrived = true;
          }
          // Only a new request leaves success.
          if (state.status === "succeeded" && nextDelivery.status !== "succeeded") expect(event.type).toBe("redeliver");
          // Exactly the pending ones have a due time.
          expect(nextDelivery.dueAt !== null).toBe(nextDelivery.status === "pending");
          if (nextDelivery.dueAt !== null) expect(Number.isFinite(nextDelivery.dueAt)).toBe(true);
          // It fails only after the whole schedule, or when its endpoint is disabled.
          if (nextDelivery.status === "failed" && state.status === "pending")
            expect(event.type === "disable" || state.attempt - state.scheduleStart >= RETRY_SCHEDULE.length).toBe(true);
          state = nextDelivery;
        }
        // An endpoint that accepts every attempt ends it.
        if (state.status === "pending") {
          for (let tries = 0; state.status === "pending" && tries < 12; tries++) {
            now = Math.max(now, state.dueAt ?? now);
            state = advance(state, begin, now, 0.5);
            state = advance(state, endedEvent(state.attempt, success), now, 0.5);
          }
          expect(state.status === "succeeded" || state.attempt - state.scheduleStart >= RETRY_SCHEDULE.length).toBe(
            true,
          );
        } else if (state.status === "succeeded") expect(hasArrived).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });
});

test.each<[number | null, number | null, AttemptOutcome]>([
  [200, null, success],
  [299, 5, success],
  [199, null, failure],
  [301, null, failure],
  [304, null, failure],
  [400, null, failure],
  [410, null, { type: "gone" }],
  [410, 7, { type: "gone" }],
  [429, null, busy(null)],
  [429, 1_000, busy(1_000)],
  [500, null, failure],
  [500, 1_000, { type: "failed", busy: false, retryAfter: 1_000 }],
  [502, null, busy(null)],
  [503, null, busy(null)],
  [504, null, busy(null)],
  [null, null, failure],
])("a response %s with Retry-After %s", (status, retryAfter, outcome) => {
  expect(outcomeOf(status, retryAfter)).toEqual(outcome);
});
