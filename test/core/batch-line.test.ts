import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Asking, makeLine } from "../../src/batch/server/fair-queue.ts";

const job = (tenant: string, name: string, createdAt = 0): Asking => ({ tenant, job: `${tenant}/${name}`, createdAt });
const granted = { granted: true };
const wait = (retryAfter: number) => ({ granted: false, retryAfter });

describe("the line", () => {
  it("serves whoever asks while there is room", () => {
    const line = makeLine();
    expect(line.ask(job("a", "1"), 2, 0)).toEqual(granted);
    expect(line.ask(job("b", "1"), 1, 0)).toEqual(granted);
    expect(line.ask(job("a", "2"), 0, 0)).toEqual(wait(1));
  });

  it("goes round the tenants, and takes the oldest job of each", () => {
    const line = makeLine();
    line.ask(job("a", "0"), 1, 0);
    for (const each of [job("a", "2", 2), job("a", "1", 1), job("b", "1", 9)]) line.ask(each, 0, 0);
    expect(line.ask(job("a", "1", 1), 1, 1)).toEqual(wait(1));
    expect(line.ask(job("b", "1", 9), 1, 1)).toEqual(granted);
    expect(line.ask(job("a", "2", 2), 1, 2)).toEqual(wait(1));
    expect(line.ask(job("a", "1", 1), 1, 2)).toEqual(granted);
    expect(line.ask(job("a", "2", 2), 1, 3)).toEqual(granted);
  });

  it("lets as many in as there is room for, whoever of them asks first", () => {
    const line = makeLine();
    for (const tenant of ["a", "b", "c"]) line.ask(job(tenant, "1"), 0, 0);
    expect(line.ask(job("c", "1"), 2, 1)).toEqual(wait(1));
    expect(line.ask(job("b", "1"), 2, 1)).toEqual(granted);
    expect(line.ask(job("c", "1"), 1, 1)).toEqual(wait(1));
    expect(line.ask(job("a", "1"), 1, 1)).toEqual(granted);
  });

  it("forgets who has not asked again in time, or has left", () => {
    const line = makeLine();
    line.ask(job("a", "1"), 0, 0);
    line.ask(job("b", "1"), 0, 100);
    expect(line.ask(job("b", "1"), 1, 3_000)).toEqual(wait(1));
    expect(line.ask(job("b", "1"), 1, 3_001)).toEqual(granted);
    line.ask(job("a", "1"), 0, 4_000);
    line.leave("a/1");
    expect(line.ask(job("c", "1"), 1, 4_000)).toEqual(granted);
    expect(line.waiting()).toBe(0);
  });

  it("asks those far behind to come back later, after 30 seconds at most", () => {
    const line = makeLine();
    const told = Array.from({ length: 60 }, (_, i) => line.ask(job("a", String(i), i), 0, 0));
    const seconds = told.map((place) => (place.granted ? 0 : place.retryAfter));
    expect(seconds.slice(0, 7)).toEqual([1, 1, 1, 1, 2, 3, 4]);
    expect(seconds).toEqual([...seconds].sort((a, b) => a - b));
    expect(seconds.at(-1)).toBe(30);
  });
});

/** Tenants with jobs, who ask again when they were told to, and hold the room that they get for a while. */
interface World {
  readonly capacity: number;
  /** For each tenant, for each of its jobs: when it comes, and how long it runs. */
  readonly tenants: readonly (readonly { readonly comes: number; readonly runs: number }[])[];
}

const world: fc.Arbitrary<World> = fc.record({
  capacity: fc.integer({ min: 1, max: 4 }),
  tenants: fc.array(
    fc.array(fc.record({ comes: fc.integer({ min: 0, max: 60_000 }), runs: fc.integer({ min: 1, max: 20_000 }) }), {
      minLength: 1,
      maxLength: 12,
    }),
    { minLength: 1, maxLength: 6 },
  ),
});

/** Plays a world to its end; answers who was served when, in order, and the most that ran at once. */
function play({ capacity, tenants }: World) {
  const line = makeLine();
  const asks = tenants.flatMap((jobs, t) =>
    jobs.map(({ comes, runs }, j) => ({ asking: job(`t${t}`, String(j), comes), at: comes, runs })),
  );
  const running: number[] = [];
  const served: { readonly tenant: string; readonly at: number }[] = [];
  let most = 0;
  let rounds = 0;
  while (asks.length > 0) {
    asks.sort((a, b) => a.at - b.at);
    const next = asks.shift() as (typeof asks)[number];
    const still = running.filter((end) => end > next.at);
    running.splice(0, running.length, ...still);
    const place = line.ask(next.asking, capacity - running.length, next.at);
    if (place.granted) {
      running.push(next.at + next.runs);
      served.push({ tenant: next.asking.tenant, at: next.at });
      most = Math.max(most, running.length);
    } else {
      asks.push({ ...next, at: next.at + place.retryAfter * 1000 });
    }
    if (++rounds > 100_000) throw new Error("Somebody is never served.");
  }
  return { served, most, left: line.waiting() };
}

describe("any tenants that keep asking", () => {
  it("are all served, and never more at once than there is room for", () => {
    fc.assert(
      fc.property(world, (given) => {
        const { served, most, left } = play(given);
        expect(served.length).toBe(given.tenants.flat().length);
        expect(most).toBeLessThanOrEqual(given.capacity);
        expect(left).toBe(0);
      }),
    );
  });

  it("are served in turn while all of them wait", () => {
    const counts = fc.array(fc.integer({ min: 1, max: 10 }), { minLength: 2, maxLength: 8 });
    fc.assert(
      fc.property(counts, fc.integer({ min: 1, max: 5_000 }), (jobs, runs) => {
        const tenants = jobs.map((count) => Array.from({ length: count }, () => ({ comes: 0, runs })));
        // The first is served before the others have asked.
        const order = play({ capacity: 1, tenants }).served.slice(1);
        const times = new Map<string, number>();
        const left = new Map(jobs.map((count, t) => [`t${t}`, t === 0 ? count - 1 : count]));
        for (const { tenant } of order) {
          const before = times.get(tenant) ?? 0;
          // Nobody who still waits has had fewer turns, but that the first of all had one more.
          for (const [other, jobsLeft] of left)
            if (jobsLeft > 0) expect(times.get(other) ?? 0).toBeGreaterThanOrEqual(before - (tenant === "t0" ? 0 : 1));
          times.set(tenant, before + 1);
          left.set(tenant, (left.get(tenant) ?? 0) - 1);
        }
      }),
    );
  });
});
