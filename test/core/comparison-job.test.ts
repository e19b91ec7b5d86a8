/** The life of a job that ends with its comparison: each event once, twice, late and out of order. */
import { expect, it } from "vitest";
import {
  decodeJobState,
  directiveOf,
  dueAt,
  encodeJobState,
  hasAccess,
  hasEnded,
  type JobEvent,
  newComparisonState,
} from "../../src/core/lifecycle/job.ts";
import {
  applyEvents,
  attemptEvents,
  better,
  cancel,
  MINUTE,
  notBetter,
  pause,
  resume,
  rules,
  validated,
} from "./job-simulation.ts";

const first = attemptEvents(1);
const second = attemptEvents(2);
const { cost } = first.compared;
const compared = (attempt: number, comparison = better): JobEvent => ({
  ...attemptEvents(attempt).compared,
  comparison,
});
const created = { state: newComparisonState(0), log: [], now: 0 };
const running = applyEvents(created, validated, first.submitting, first.accepted);
const succeeded = applyEvents(running, MINUTE, compared(1));

it("succeeds with the comparison, without a version", () => {
  expect(succeeded.state).toMatchObject({
    status: "succeeded",
    comparison: better,
    comparisonCost: cost,
    refit: null,
    version: null,
    promoted: false,
    inFlight: false,
    finishedAt: MINUTE,
  });
  expect(directiveOf(succeeded.state)).toBe("end");
  expect(hasAccess(succeeded.state, 1)).toBe(false);
  expect(dueAt(succeeded.state, rules)).toBe(null);
  expect(decodeJobState(encodeJobState(succeeded.state))).toEqual(succeeded.state);
});

it("ends once, whatever comes after", () => {
  const after = [compared(1), compared(1, notBetter), first.finished, first.finishedHead, first.better, cancel, pause];
  const more = [resume, first.heartbeat, first.failed, first.silent, first.stopped, second.accepted, compared(2)];
  for (const event of [...after, ...more]) {
    const { state, log } = applyEvents(succeeded, MINUTE, event, event);
    expect(state, event.type).toEqual(succeeded.state);
    expect(log).toEqual(succeeded.log);
  }
});

it("takes the comparison of an attempt whose acceptance was lost, and none of an older or a cancelled one", () => {
  const submitted = applyEvents(created, validated, first.submitting);
  expect(applyEvents(submitted, compared(1)).state.status).toBe("succeeded");
  const next = applyEvents(running, first.failed, second.submitting, second.accepted);
  expect(applyEvents(next, compared(1)).state).toEqual(next.state);
  expect(applyEvents(next, compared(2)).state).toMatchObject({ status: "succeeded", attempt: 2 });
  const cancelled = applyEvents(running, cancel);
  expect(applyEvents(cancelled, compared(1)).state).toMatchObject({ status: "cancelled", comparison: null });
});

it("fails as every job does after three attempts, and at an endpoint that knows no samples", () => {
  const third = attemptEvents(3);
  const lost = applyEvents(running, first.failed, second.submitting, second.failed, third.submitting, third.failed);
  expect(lost.state).toMatchObject({ status: "failed", error: { code: "attempts_failed" }, comparison: null });
  const older = applyEvents(running, first.better);
  expect(older.state).toMatchObject({ status: "failed", error: { code: "not_available" }, comparison: null });
  expect(hasEnded(older.state)).toBe(true);
  expect(applyEvents(older, first.better, compared(1)).state).toEqual(older.state);
});
