/** Deliveries and the health of endpoints: the schedule step by step, and what holds whatever happens. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type AttemptOutcome,
  advance,
  canDispatch,
  type Delivery,
  type DeliveryEvent,
  disableReason,
  type EndpointHealth,
  type EndpointLoad,
  newDelivery,
  newEndpointHealth,
  outcomeOf,
  RETRY_SCHEDULE,
  recordOutcome,
  SLOW_ATTEMPT_MS,
} from "../../src/core/lifecycle/delivery.ts";

const [SECOND, MINUTE, HOUR, DAY] = [1_000, 60_000, 3_600_000, 86_400_000];
const LEASE = 25 * SECOND;
const begin: DeliveryEvent = { type: "begin", lease: LEASE };
const success: AttemptOutcome = { type: "succeeded" };
const failure: AttemptOutcome = { type: "failed", busy: false, retryAfter: null };
const busy = (retryAfter: number | null): AttemptOutcome => ({ type: "failed", busy: true, retryAfter });
const endedEvent = (attempt: number, outcome: AttemptOutcome): DeliveryEvent => ({ type: "ended", attempt, outcome });

/** Fails until nothing is due any more; when each attempt began, since the first. */
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

  test("is due again where an attempt was cut off, and fails where the last was", () => {
    let state = newDelivery(true, 0);
    for (let attempt = 1; attempt <= RETRY_SCHEDULE.length; attempt++) {
      const now = state.dueAt ?? Number.NaN;
      expect(now).toBe((attempt - 1) * LEASE);
      state = advance(state, begin, now, 0.5);
      expect(state).toMatchObject({ attempt, inFlight: true, dueAt: now + LEASE });
    }
    expect(advance(state, begin, state.dueAt ?? 0, 0.5)).toMatchObject({ status: "failed", attempt: 10, dueAt: null });
  });

  test("to a disabled endpoint has failed before it began, and can be asked for", () => {
    const failed = newDelivery(false, 5);
    expect(failed).toEqual({ status: "failed", attempt: 0, scheduleStart: 0, inFlight: false, dueAt: null });
    expect(advance(failed, begin, 5, 0)).toBe(failed);
    expect(failAll(advance(failed, { type: "redeliver" }, 100, 0), 0.5)).toHaveLength(10);
  });

  test("that was made can be asked for again, with the whole schedule before it", () => {
    const first = advance(newDelivery(true, 0), begin, 0, 0);
    const deliveredState = advance(first, endedEvent(1, success), 10, 0);
    expect(deliveredState).toEqual({ status: "succeeded", attempt: 1, scheduleStart: 0, inFlight: false, dueAt: null });
    const again = advance(deliveredState, { type: "redeliver" }, 500, 0);
    expect(again).toEqual({ status: "pending", attempt: 1, scheduleStart: 1, inFlight: false, dueAt: 500 });
    expect(failAll(again, 0.5)).toHaveLength(10);
  });

  test("asked for while an attempt is under way waits for its end", () => {
    const inFlightDelivery = advance(newDelivery(true, 0), begin, 0, 0);
    const redeliveredState = advance(inFlightDelivery, { type: "redeliver" }, 10, 0);
    expect(redeliveredState).toMatchObject({ inFlight: true, dueAt: LEASE });
    expect(advance(redeliveredState, endedEvent(1, success), 20, 0).status).toBe("succeeded");
    expect(advance(redeliveredState, endedEvent(1, failure), 20, 0)).toMatchObject({ status: "pending", dueAt: 20 });
  });

  test("whose endpoint is disabled has failed, unless what was under way arrives", () => {
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

  test("whatever happens, twice and out of order: nothing is lost, and one way leads to success", () => {
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
          // Twice is as once, but for a begin whose lease is over.
          if (event.type !== "begin") expect(advance(nextDelivery, event, now, random)).toEqual(nextDelivery);
          // Numbers rise one by one, and each ends at most once.
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
          // Success is left only where it is asked for again.
          if (state.status === "succeeded" && nextDelivery.status !== "succeeded") expect(event.type).toBe("redeliver");
          // What is pending always has a time; what is not has none.
          expect(nextDelivery.dueAt !== null).toBe(nextDelivery.status === "pending");
          if (nextDelivery.dueAt !== null) expect(Number.isFinite(nextDelivery.dueAt)).toBe(true);
          // It fails only after the whole schedule, or with its endpoint.
          if (nextDelivery.status === "failed" && state.status === "pending")
            expect(event.type === "disable" || state.attempt - state.scheduleStart >= RETRY_SCHEDULE.length).toBe(true);
          state = nextDelivery;
        }
        // Left to itself it ends: delivered by an endpoint that answers.
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
])("an answer %s with Retry-After %s", (status, retryAfter, outcome) => {
  expect(outcomeOf(status, retryAfter)).toEqual(outcome);
});

describe("an endpoint's health", () => {
  const recordOutcomes = (outcomes: readonly AttemptOutcome[], health = newEndpointHealth, now = 0) =>
    outcomes.reduce((before, outcome) => recordOutcome(before, outcome, now), health);

  test("more is sent at once the more has arrived, up to four; after a failure one", () => {
    const windows = [1, 2, 3, 4, 5, 6].map((count) => recordOutcomes(Array(count).fill(success)).window);
    expect(windows).toEqual([2, 3, 4, 4, 4, 4]);
    expect(recordOutcomes([success, success, failure])).toMatchObject({ window: 1, proven: true, failures: 1 });
    expect(recordOutcomes([success, success, failure, success])).toMatchObject({
      window: 2,
      failures: 0,
      failingSince: null,
    });
  });

  test("after five failures in a row it is left alone, for 30 s and then longer, up to 10 min, until one arrives", () => {
    let health = recordOutcomes(Array(4).fill(failure));
    expect(health).toMatchObject({ openUntil: 0, failures: 4 });
    const pauses: number[] = [];
    let now = 0;
    for (let i = 0; i < 8; i++) {
      health = recordOutcome(health, failure, now);
      pauses.push((health.openUntil - now) / SECOND);
      now = health.openUntil;
    }
    expect(pauses).toEqual([30, 60, 120, 240, 480, 600, 600, 600]);
    health = recordOutcome(health, success, now);
    expect(health).toMatchObject({ failures: 0, openings: 0, window: 2 });
    expect(recordOutcome(health, failure, now).openUntil).toBeLessThanOrEqual(now);
  });

  test("what was under way when it was put off does not put it off further", () => {
    const openHealth = recordOutcomes(Array(5).fill(failure));
    expect(recordOutcomes([failure, failure, failure], openHealth, 10)).toMatchObject({
      openUntil: openHealth.openUntil,
      openings: 1,
    });
  });

  test("it is left alone for as long as it asks, at most a day, by whatever answer", () => {
    expect(recordOutcomes([busy(90_000)]).openUntil).toBe(90_000);
    expect(recordOutcomes([{ type: "failed", busy: false, retryAfter: 90_000 }]).openUntil).toBe(90_000);
    expect(recordOutcomes([busy(100 * DAY)]).openUntil).toBe(DAY);
    expect(recordOutcomes([busy(0)]).openUntil).toBe(0);
    expect(recordOutcomes([busy(90_000), busy(10_000)]).openUntil).toBe(90_000);
    expect(recordOutcomes([busy(90_000), success]).openUntil).toBe(90_000);
    // After five failures a short wait is no longer enough.
    expect(recordOutcome(recordOutcomes(Array(4).fill(failure)), busy(1_000), 0).openUntil).toBe(30_000);
  });

  test("where it says that it is busy, but not for how long, it is left alone for 30 s", () => {
    expect(recordOutcomes([busy(null)]).openUntil).toBe(30_000);
    expect(recordOutcomes([busy(null), busy(null)], newEndpointHealth, 30_000).openUntil).toBe(60_000);
  });

  test("it is disabled where it is gone, or after five days of nothing but failures", () => {
    expect(disableReason(newEndpointHealth, { type: "gone" }, 0)).toBe("gone");
    let health = recordOutcome(newEndpointHealth, failure, 1);
    expect(health.failingSince).toBe(1);
    health = recordOutcome(health, failure, 5 * DAY);
    expect(disableReason(health, failure, 5 * DAY)).toBeNull();
    expect(disableReason(health, failure, 5 * DAY + 1)).toBe("failing");
    health = recordOutcome(health, success, 5 * DAY + 1);
    expect(disableReason(health, success, 5 * DAY + 1)).toBeNull();
  });
});

describe("what may begin beside what is under way", () => {
  const good: EndpointHealth = { ...newEndpointHealth, proven: true, window: 4 };
  const bad: EndpointHealth = { ...newEndpointHealth, failures: 3, failingSince: 0 };
  const makeLoad = (health: EndpointHealth, ...startTimes: number[]): EndpointLoad => ({
    health,
    attemptStarts: startTimes,
  });
  const NOW = 100_000;
  const canStart = (endpoint: EndpointLoad, ...others: EndpointLoad[]) =>
    canDispatch(endpoint, [endpoint, ...others], NOW);

  test("an endpoint has at most its window, and nothing while it is left alone", () => {
    expect(canStart(makeLoad(good, NOW, NOW, NOW))).toBe(true);
    expect(canStart(makeLoad(good, NOW, NOW, NOW, NOW))).toBe(false);
    expect(canStart(makeLoad(newEndpointHealth, NOW))).toBe(false);
    expect(canStart(makeLoad({ ...good, openUntil: NOW + 1 }))).toBe(false);
    expect(canStart(makeLoad({ ...good, openUntil: NOW }))).toBe(true);
  });

  test("failing endpoints have one attempt all together, new ones two", () => {
    expect(canStart(makeLoad(bad), makeLoad(newEndpointHealth, NOW), makeLoad(good, NOW))).toBe(true);
    expect(canStart(makeLoad(bad), makeLoad(bad, NOW))).toBe(false);
    expect(canStart(makeLoad(newEndpointHealth), makeLoad(newEndpointHealth, NOW), makeLoad(bad, NOW))).toBe(true);
    expect(
      canStart(makeLoad(newEndpointHealth), makeLoad(newEndpointHealth, NOW), makeLoad(newEndpointHealth, NOW)),
    ).toBe(false);
  });

  test("what is slow counts as failing, and makes room for others", () => {
    const slowLoad = makeLoad(newEndpointHealth, NOW - SLOW_ATTEMPT_MS);
    expect(canStart(makeLoad(newEndpointHealth), slowLoad, slowLoad)).toBe(true);
    expect(canStart(makeLoad(bad), slowLoad)).toBe(false);
    expect(canStart(makeLoad(newEndpointHealth), slowLoad, slowLoad, slowLoad, slowLoad)).toBe(false);
    expect(canStart(makeLoad(good), slowLoad, slowLoad, slowLoad, slowLoad)).toBe(true);
    expect(canStart(makeLoad(good, NOW - SLOW_ATTEMPT_MS, NOW))).toBe(false);
  });

  test("six at once, of which the last is for an endpoint that has none", () => {
    const fullLoad = makeLoad(good, NOW, NOW, NOW, NOW);
    expect(canStart(makeLoad(good, NOW), fullLoad)).toBe(false);
    expect(canStart(makeLoad(good), fullLoad, makeLoad(good, NOW))).toBe(true);
    expect(canStart(makeLoad(good), fullLoad, makeLoad(good, NOW), makeLoad(good, NOW))).toBe(false);
  });

  test("in any order: six at most, and new or failing endpoints never leave fewer than two to the others", () => {
    const health = fc.constantFrom(good, bad, newEndpointHealth, { ...good, failures: 1, window: 1 });
    const choice = fc.record({ which: fc.nat(100), after: fc.nat(1_500), ends: fc.boolean() });
    fc.assert(
      fc.property(
        fc.array(health, { minLength: 1, maxLength: 12 }),
        fc.array(choice, { maxLength: 80 }),
        (healths, choices) => {
          const all = healths.map((health) => ({ health: health, attemptStarts: [] as number[] }));
          let now = 0;
          for (const { which, after, ends } of choices) {
            now += after;
            const endpoint = all[which % all.length] as (typeof all)[number];
            if (ends) endpoint.attemptStarts.shift();
            else if (canDispatch(endpoint, all, now)) endpoint.attemptStarts.push(now);
            const count = (endpointLoads: typeof all) =>
              endpointLoads.reduce((sum, { attemptStarts }) => sum + attemptStarts.length, 0);
            expect(count(all)).toBeLessThanOrEqual(6);
            expect(count(all.filter((one) => one.health === bad))).toBeLessThanOrEqual(1);
            expect(count(all.filter(({ health: { proven } }) => !proven))).toBeLessThanOrEqual(4);
            for (const { health: known, attemptStarts: since } of all)
              expect(since.length).toBeLessThanOrEqual(known.window);
          }
        },
      ),
      { numRuns: 1_000 },
    );
  });
});
