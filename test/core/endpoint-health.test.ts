/** The health of webhook endpoints, its stored form, and the share of the connections that each endpoint gets. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { AttemptOutcome } from "../../src/core/lifecycle/delivery.ts";
import {
  canDispatch,
  decodeEndpointHealth,
  disableReason,
  type EndpointHealth,
  type EndpointLoad,
  encodeEndpointHealth,
  newEndpointHealth,
  recordOutcome,
  SLOW_ATTEMPT_MS,
} from "../../src/core/lifecycle/endpoint-health.ts";

const [SECOND, DAY] = [1_000, 86_400_000];
const success: AttemptOutcome = { type: "succeeded" };
const failure: AttemptOutcome = { type: "failed", busy: false, retryAfter: null };
const busy = (retryAfter: number | null): AttemptOutcome => ({ type: "failed", busy: true, retryAfter });

test("health is stored under the keys that it has always had", () => {
  const stored =
    '{"proven":true,"window":1,"failures":6,"openings":2,"openUntil":1790000060000,"failingSince":1790000000000}';
  const health = decodeEndpointHealth(stored);
  expect(health).toEqual({
    proven: true,
    window: 1,
    failures: 6,
    circuitTrips: 2,
    circuitOpenUntil: 1_790_000_060_000,
    failingSince: 1_790_000_000_000,
  });
  expect(encodeEndpointHealth(health)).toBe(stored);
  expect(encodeEndpointHealth(newEndpointHealth)).toBe(
    '{"proven":false,"window":1,"failures":0,"openings":0,"openUntil":0,"failingSince":null}',
  );
});

describe("an endpoint's health", () => {
  const recordOutcomes = (outcomes: readonly AttemptOutcome[], health = newEndpointHealth, now = 0) =>
    outcomes.reduce((before, outcome) => recordOutcome(before, outcome, now), health);

  test("the window grows with each success, up to four attempts at once, and is one after a failure", () => {
    const windows = [1, 2, 3, 4, 5, 6].map((count) => recordOutcomes(Array(count).fill(success)).window);
    expect(windows).toEqual([2, 3, 4, 4, 4, 4]);
    expect(recordOutcomes([success, success, failure])).toMatchObject({ window: 1, proven: true, failures: 1 });
    expect(recordOutcomes([success, success, failure, success])).toMatchObject({
      window: 2,
      failures: 0,
      failingSince: null,
    });
  });

  test("five failures in a row open the circuit for 30 s, then longer, up to 10 min, until a success", () => {
    let health = recordOutcomes(Array(4).fill(failure));
    expect(health).toMatchObject({ circuitOpenUntil: 0, failures: 4 });
    const pauses: number[] = [];
    let now = 0;
    for (let i = 0; i < 8; i++) {
      health = recordOutcome(health, failure, now);
      pauses.push((health.circuitOpenUntil - now) / SECOND);
      now = health.circuitOpenUntil;
    }
    expect(pauses).toEqual([30, 60, 120, 240, 480, 600, 600, 600]);
    health = recordOutcome(health, success, now);
    expect(health).toMatchObject({ failures: 0, circuitTrips: 0, window: 2 });
    expect(recordOutcome(health, failure, now).circuitOpenUntil).toBeLessThanOrEqual(now);
  });

  test("attempts that were in flight when the circuit opened do not open it for longer", () => {
    const openHealth = recordOutcomes(Array(5).fill(failure));
    expect(recordOutcomes([failure, failure, failure], openHealth, 10)).toMatchObject({
      circuitOpenUntil: openHealth.circuitOpenUntil,
      circuitTrips: 1,
    });
  });

  test("nothing is sent for as long as it asks, at most a day, whatever the status", () => {
    expect(recordOutcomes([busy(90_000)]).circuitOpenUntil).toBe(90_000);
    expect(recordOutcomes([{ type: "failed", busy: false, retryAfter: 90_000 }]).circuitOpenUntil).toBe(90_000);
    expect(recordOutcomes([busy(100 * DAY)]).circuitOpenUntil).toBe(DAY);
    expect(recordOutcomes([busy(0)]).circuitOpenUntil).toBe(0);
    expect(recordOutcomes([busy(90_000), busy(10_000)]).circuitOpenUntil).toBe(90_000);
    expect(recordOutcomes([busy(90_000), success]).circuitOpenUntil).toBe(90_000);
    // After five failures a short wait is no longer enough.
    expect(recordOutcome(recordOutcomes(Array(4).fill(failure)), busy(1_000), 0).circuitOpenUntil).toBe(30_000);
  });

  test("an overloaded endpoint that does not say for how long is left alone for 30 s", () => {
    expect(recordOutcomes([busy(null)]).circuitOpenUntil).toBe(30_000);
    expect(recordOutcomes([busy(null), busy(null)], newEndpointHealth, 30_000).circuitOpenUntil).toBe(60_000);
  });

  test("it is disabled if it is gone, or after five days of failures without a success", () => {
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

describe("which endpoint may be sent another attempt", () => {
  const good: EndpointHealth = { ...newEndpointHealth, proven: true, window: 4 };
  const bad: EndpointHealth = { ...newEndpointHealth, failures: 3, failingSince: 0 };
  const makeLoad = (health: EndpointHealth, ...startTimes: number[]): EndpointLoad => ({
    health,
    attemptStarts: startTimes,
  });
  const NOW = 100_000;
  const canStart = (endpoint: EndpointLoad, ...others: EndpointLoad[]) =>
    canDispatch(endpoint, [endpoint, ...others], NOW);

  test("at most its window, and none while its circuit is open", () => {
    expect(canStart(makeLoad(good, NOW, NOW, NOW))).toBe(true);
    expect(canStart(makeLoad(good, NOW, NOW, NOW, NOW))).toBe(false);
    expect(canStart(makeLoad(newEndpointHealth, NOW))).toBe(false);
    expect(canStart(makeLoad({ ...good, circuitOpenUntil: NOW + 1 }))).toBe(false);
    expect(canStart(makeLoad({ ...good, circuitOpenUntil: NOW }))).toBe(true);
  });

  test("failing endpoints share one attempt, unproven ones two", () => {
    expect(canStart(makeLoad(bad), makeLoad(newEndpointHealth, NOW), makeLoad(good, NOW))).toBe(true);
    expect(canStart(makeLoad(bad), makeLoad(bad, NOW))).toBe(false);
    expect(canStart(makeLoad(newEndpointHealth), makeLoad(newEndpointHealth, NOW), makeLoad(bad, NOW))).toBe(true);
    expect(
      canStart(makeLoad(newEndpointHealth), makeLoad(newEndpointHealth, NOW), makeLoad(newEndpointHealth, NOW)),
    ).toBe(false);
  });

  test("a slow endpoint counts as failing, and leaves room for others", () => {
    const slowLoad = makeLoad(newEndpointHealth, NOW - SLOW_ATTEMPT_MS);
    expect(canStart(makeLoad(newEndpointHealth), slowLoad, slowLoad)).toBe(true);
    expect(canStart(makeLoad(bad), slowLoad)).toBe(false);
    expect(canStart(makeLoad(newEndpointHealth), slowLoad, slowLoad, slowLoad, slowLoad)).toBe(false);
    expect(canStart(makeLoad(good), slowLoad, slowLoad, slowLoad, slowLoad)).toBe(true);
    expect(canStart(makeLoad(good, NOW - SLOW_ATTEMPT_MS, NOW))).toBe(false);
  });

  test("six at once, and the last one only for an endpoint without an attempt", () => {
    const fullLoad = makeLoad(good, NOW, NOW, NOW, NOW);
    expect(canStart(makeLoad(good, NOW), fullLoad)).toBe(false);
    expect(canStart(makeLoad(good), fullLoad, makeLoad(good, NOW))).toBe(true);
    expect(canStart(makeLoad(good), fullLoad, makeLoad(good, NOW), makeLoad(good, NOW))).toBe(false);
  });

  test("in any order: six at most, and unproven or failing endpoints always leave two to the others", () => {
    const health = fc.constantFrom(good, bad, newEndpointHealth, { ...good, failures: 1, window: 1 });
    const choice = fc.record({ which: fc.nat(100), after: fc.nat(1_500), ends: fc.boolean() });
    fc.assert(
      fc.property(
        fc.array(health, { minLength: 1, maxLength: 12 }),
        fc.array(choice, { maxLength: 80 }),
        (healths, choices) => {
          const all = healths.map((health) => ({ health, attemptStarts: [] as number[] }));
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
