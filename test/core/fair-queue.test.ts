import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { makeFairQueue, type Request } from "../../src/batch/server/fair-queue.ts";

const job = (tenant: string, name: string, createdAt = 0): Request => ({ tenant, job: `${tenant}/${name}`, createdAt });
const granted = { granted: true };
const wait = (retryAfter: number) => ({ granted: false, retryAfter });

describe("the line", () => {
  it("serves whoever asks while there is room", () => {
    const queue = makeFairQueue();
    expect(queue.acquireSlot(job("a", "1"), 2, 0)).toEqual(granted);
    expect(queue.acquireSlot(job("b", "1"), 1, 0)).toEqual(granted);
    expect(queue.acquireSlot(job("a", "2"), 0, 0)).toEqual(wait(1));
  });

  it("goes round the tenants, and takes the oldest job of each", () => {
    const queue = makeFairQueue();
    queue.acquireSlot(job("a", "0"), 1, 0);
    for (const each of [job("a", "2", 2), job("a", "1", 1), job("b", "1", 9)]) queue.acquireSlot(each, 0, 0);
    expect(queue.acquireSlot(job("a", "1", 1), 1, 1)).toEqual(wait(1));
    expect(queue.acquireSlot(job("b", "1", 9), 1, 1)).toEqual(granted);
    expect(queue.acquireSlot(job("a", "2", 2), 1, 2)).toEqual(wait(1));
    expect(queue.acquireSlot(job("a", "1", 1), 1, 2)).toEqual(granted);
    expect(queue.acquireSlot(job("a", "2", 2), 1, 3)).toEqual(granted);
  });

  it("lets as many in as there is room for, whoever of them asks first", () => {
    const queue = makeFairQueue();
    for (const tenant of ["a", "b", "c"]) queue.acquireSlot(job(tenant, "1"), 0, 0);
    expect(queue.acquireSlot(job("c", "1"), 2, 1)).toEqual(wait(1));
    expect(queue.acquireSlot(job("b", "1"), 2, 1)).toEqual(granted);
    expect(queue.acquireSlot(job("c", "1"), 1, 1)).toEqual(wait(1));
    expect(queue.acquireSlot(job("a", "1"), 1, 1)).toEqual(granted);
  });

  it("forgets who has not asked again in time, or has left", () => {
    const queue = makeFairQueue();
    queue.acquireSlot(job("a", "1"), 0, 0);
    queue.acquireSlot(job("b", "1"), 0, 100);
    expect(queue.acquireSlot(job("b", "1"), 1, 3_000)).toEqual(wait(1));
    expect(queue.acquireSlot(job("b", "1"), 1, 3_001)).toEqual(granted);
    queue.acquireSlot(job("a", "1"), 0, 4_000);
    queue.remove("a/1");
    expect(queue.acquireSlot(job("c", "1"), 1, 4_000)).toEqual(granted);
    expect(queue.size()).toBe(0);
  });

  it("asks those far behind to come back later, after 30 seconds at most", () => {
    const queue = makeFairQueue();
    const answers = Array.from({ length: 60 }, (_, i) => queue.acquireSlot(job("a", String(i), i), 0, 0));
    const seconds = answers.map((answer) => (answer.granted ? 0 : answer.retryAfter));
    expect(seconds.slice(0, 7)).toEqual([1, 1, 1, 1, 2, 3, 4]);
    expect(seconds).toEqual([...seconds].sort((a, b) => a - b));
    expect(seconds.at(-1)).toBe(30);
  });
});

/** Tenants with jobs, who ask again when they were told to, and hold the room that they get for a while. */
interface Scenario {
  readonly capacity: number;
  /** For each tenant, for each of its jobs: when it comes, and how long it runs. */
  readonly tenants: readonly (readonly { readonly arrivesAt: number; readonly duration: number }[])[];
}

const scenarios: fc.Arbitrary<Scenario> = fc.record({
  capacity: fc.integer({ min: 1, max: 4 }),
  tenants: fc.array(
    fc.array(
      fc.record({ arrivesAt: fc.integer({ min: 0, max: 60_000 }), duration: fc.integer({ min: 1, max: 20_000 }) }),
      {
        minLength: 1,
        maxLength: 12,
      },
    ),
    { minLength: 1, maxLength: 6 },
  ),
});

/** Plays a world to its end; answers who was served when, in order, and the most that ran at once. */
function simulate({ capacity, tenants }: Scenario) {
  const queue = makeFairQueue();
  const requests = tenants.flatMap((jobs, t) =>
    jobs.map(({ arrivesAt, duration }, j) => ({ job: job(`t${t}`, String(j), arrivesAt), time: arrivesAt, duration })),
  );
  const running: number[] = [];
  const servedRequests: { readonly tenant: string; readonly time: number }[] = [];
  let maxRunning = 0;
  let rounds = 0;
  while (requests.length > 0) {
    requests.sort((a, b) => a.time - b.time);
    const request = requests.shift() as (typeof requests)[number];
    const unfinished = running.filter((end) => end > request.time);
    running.splice(0, running.length, ...unfinished);
    const slot = queue.acquireSlot(request.job, capacity - running.length, request.time);
    if (slot.granted) {
      running.push(request.time + request.duration);
      servedRequests.push({ tenant: request.job.tenant, time: request.time });
      maxRunning = Math.max(maxRunning, running.length);
    } else {
      requests.push({ ...request, time: request.time + slot.retryAfter * 1000 });
    }
    if (++rounds > 100_000) throw new Error("Somebody is never served.");
  }
  return { served: servedRequests, most: maxRunning, waiting: queue.size() };
}

describe("any tenants that keep asking", () => {
  it("are all served, and never more at once than there is room for", () => {
    fc.assert(
      fc.property(scenarios, (scenario) => {
        const { served, most, waiting } = simulate(scenario);
        expect(served.length).toBe(scenario.tenants.flat().length);
        expect(most).toBeLessThanOrEqual(scenario.capacity);
        expect(waiting).toBe(0);
      }),
    );
  });

  it("are served in turn while all of them wait", () => {
    const counts = fc.array(fc.integer({ min: 1, max: 10 }), { minLength: 2, maxLength: 8 });
    fc.assert(
      fc.property(counts, fc.integer({ min: 1, max: 5_000 }), (jobs, duration) => {
        const tenants = jobs.map((count) => Array.from({ length: count }, () => ({ arrivesAt: 0, duration })));
        // The first is served before the others have asked.
        const order = simulate({ capacity: 1, tenants }).served.slice(1);
        const times = new Map<string, number>();
        const waitingJobs = new Map(jobs.map((count, t) => [`t${t}`, t === 0 ? count - 1 : count]));
        for (const { tenant } of order) {
          const servedCount = times.get(tenant) ?? 0;
          // Nobody who still waits has had fewer turns, but that the first of all had one more.
          for (const [other, jobsLeft] of waitingJobs)
            if (jobsLeft > 0)
              expect(times.get(other) ?? 0).toBeGreaterThanOrEqual(servedCount - (tenant === "t0" ? 0 : 1));
          times.set(tenant, servedCount + 1);
          waitingJobs.set(tenant, (waitingJobs.get(tenant) ?? 0) - 1);
        }
      }),
    );
  });
});
