import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type FreeSlots, makeFairQueue, type Request } from "../../src/batch/server/fair-queue.ts";
import { countFreeSlots, isSmallJob } from "../../src/batch/server/slots.ts";

const job = (tenant: string, name: string, createdAt = 0, operations = 1e12): Request => ({
  tenant,
  job: `${tenant}/${name}`,
  createdAt,
  operations,
  isSmall: operations <= 1e11,
});
/** As many free slots for jobs of any size, and none for small ones. */
const free = (any: number, small = 0): FreeSlots => ({ any, small });
const granted = { granted: true };
const wait = (retryAfter: number) => ({ granted: false, retryAfter });

describe("the line", () => {
  it("serves whoever asks while there is room", () => {
    const queue = makeFairQueue();
    expect(queue.acquireSlot(job("a", "1"), free(2), 0)).toEqual(granted);
    expect(queue.acquireSlot(job("b", "1"), free(1), 0)).toEqual(granted);
    expect(queue.acquireSlot(job("a", "2"), free(0), 0)).toEqual(wait(1));
  });

  it("takes a tenant's short job before its long one, which waits no shorter for its work", () => {
    const queue = makeFairQueue();
    const [long, short] = [job("a", "long", 0, 1e13), job("a", "short", 50_000, 1e12)];
    for (const each of [long, short]) queue.acquireSlot(each, free(0), 60_000);
    expect(queue.acquireSlot(long, free(1), 60_000)).toEqual(wait(1));
    expect(queue.acquireSlot(short, free(1), 60_000)).toEqual(granted);
    // By now the long one has waited longer for each of its operations.
    queue.acquireSlot(job("a", "shorter", 60_000, 1e11), free(0), 60_100);
    expect(queue.acquireSlot(job("a", "shorter", 60_000, 1e11), free(1), 60_100)).toEqual(wait(1));
    expect(queue.acquireSlot(long, free(1), 60_100)).toEqual(granted);
  });

  it("lets small jobs alone into their slots, in turn, and into others like any job", () => {
    const queue = makeFairQueue();
    const [large, small, other] = [job("a", "large"), job("a", "small", 0, 1e9), job("b", "small", 0, 1e10)];
    for (const each of [large, small, other]) queue.acquireSlot(each, free(0), 0);
    expect(queue.acquireSlot(large, free(0, 1), 1)).toEqual(wait(1));
    expect(queue.acquireSlot(other, free(0, 1), 1)).toEqual(wait(1));
    expect(queue.acquireSlot(small, free(0, 1), 1)).toEqual(granted);
    expect(queue.acquireSlot(other, free(0, 1), 1)).toEqual(granted);
    expect(queue.acquireSlot(large, free(0, 1), 2)).toEqual(wait(1));
    expect(queue.acquireSlot(large, free(1), 2)).toEqual(granted);
    expect(queue.acquireSlot(job("c", "small", 0, 1e9), free(1), 3)).toEqual(granted);
  });

  it("goes round the tenants, and takes the oldest job of each", () => {
    const queue = makeFairQueue();
    queue.acquireSlot(job("a", "0"), free(1), 0);
    for (const each of [job("a", "2", 2), job("a", "1", 1), job("b", "1", 9)]) queue.acquireSlot(each, free(0), 0);
    expect(queue.acquireSlot(job("a", "1", 1), free(1), 1)).toEqual(wait(1));
    expect(queue.acquireSlot(job("b", "1", 9), free(1), 1)).toEqual(granted);
    expect(queue.acquireSlot(job("a", "2", 2), free(1), 2)).toEqual(wait(1));
    expect(queue.acquireSlot(job("a", "1", 1), free(1), 2)).toEqual(granted);
    expect(queue.acquireSlot(job("a", "2", 2), free(1), 3)).toEqual(granted);
  });

  it("lets as many in as there is room for, whoever of them asks first", () => {
    const queue = makeFairQueue();
    for (const tenant of ["a", "b", "c"]) queue.acquireSlot(job(tenant, "1"), free(0), 0);
    expect(queue.acquireSlot(job("c", "1"), free(2), 1)).toEqual(wait(1));
    expect(queue.acquireSlot(job("b", "1"), free(2), 1)).toEqual(granted);
    expect(queue.acquireSlot(job("c", "1"), free(1), 1)).toEqual(wait(1));
    expect(queue.acquireSlot(job("a", "1"), free(1), 1)).toEqual(granted);
  });

  it("forgets who has not asked again in time, or has left", () => {
    const queue = makeFairQueue();
    queue.acquireSlot(job("a", "1"), free(0), 0);
    queue.acquireSlot(job("b", "1"), free(0), 100);
    expect(queue.acquireSlot(job("b", "1"), free(1), 3_000)).toEqual(wait(1));
    expect(queue.acquireSlot(job("b", "1"), free(1), 3_001)).toEqual(granted);
    queue.acquireSlot(job("a", "1"), free(0), 4_000);
    queue.remove("a/1");
    expect(queue.acquireSlot(job("c", "1"), free(1), 4_000)).toEqual(granted);
    expect(queue.size()).toBe(0);
  });

  it("asks those far behind to come back later, after 30 seconds at most", () => {
    const queue = makeFairQueue();
    const answers = Array.from({ length: 60 }, (_, i) => queue.acquireSlot(job("a", String(i), i), free(0), 0));
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
    const slot = queue.acquireSlot(request.job, free(capacity - running.length), request.time);
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

describe("free slots", () => {
  const small = { estimate: { operations: 1e9, bytes: 1e6 } };
  const large = { estimate: { operations: 1e13, bytes: 1e6 } };
  const plenty = () => 4e9;
  const limits = { capacity: 2, smallCapacity: 1, availableMemory: plenty };

  it("are for any job, and one more for small ones", () => {
    expect(countFreeSlots([], limits)).toEqual({ any: 2, small: 1 });
    expect(countFreeSlots([small], limits)).toEqual({ any: 2, small: 0 });
    expect(countFreeSlots([small, small], limits)).toEqual({ any: 1, small: 0 });
    expect(countFreeSlots([large, large], limits)).toEqual({ any: 0, small: 1 });
    expect(countFreeSlots([large, large, small], limits)).toEqual({ any: 0, small: 0 });
    expect(countFreeSlots([large, large], { ...limits, smallCapacity: 0 })).toEqual({ any: 0, small: 0 });
  });

  it("beyond the capacity need memory that is left, whichever job came first", () => {
    const scarce = { ...limits, capacity: 1, availableMemory: () => 512 * 2 ** 20 - 1 };
    expect(countFreeSlots([], scarce)).toEqual({ any: 1, small: 1 });
    for (const running of [small, large]) expect(countFreeSlots([running], scarce)).toEqual({ any: 0, small: 0 });
    expect(countFreeSlots([large], { ...scarce, availableMemory: () => 512 * 2 ** 20 })).toEqual({ any: 0, small: 1 });
  });

  it("are small for jobs of little work and little memory, by an estimate", () => {
    expect(isSmallJob(small)).toBe(true);
    expect(isSmallJob({ estimate: { operations: 1e9, bytes: 1e9 } })).toBe(false);
    for (const each of [large, {}]) expect(isSmallJob(each)).toBe(false);
  });

  it("never let more run than there are, or a large job into a slot for small ones", () => {
    const job = fc.constantFrom(small, large);
    fc.assert(
      fc.property(fc.array(job, { maxLength: 60 }), fc.nat(3), fc.nat(3), (jobs, capacity, smallCapacity) => {
        const slots = { capacity: capacity + 1, smallCapacity, availableMemory: plenty };
        const running: (typeof jobs)[number][] = [];
        for (const each of jobs) {
          const free = countFreeSlots(running, slots);
          expect(Math.min(free.any, free.small)).toBeGreaterThanOrEqual(0);
          if (free.any > 0 || (each === small && free.small > 0)) running.push(each);
        }
        expect(running.length).toBeLessThanOrEqual(capacity + 1 + smallCapacity);
        expect(running.filter((each) => each === large).length).toBeLessThanOrEqual(capacity + 1);
      }),
    );
  });
});
