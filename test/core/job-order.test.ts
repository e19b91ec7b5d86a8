/** The order of waiting jobs, and which of a tenant's queued jobs is submitted when. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { estimateJobCost, type JobSize } from "../../src/core/job-cost.ts";
import { compareJobs, nextSubmission, type QueuedJob, type WaitingJob } from "../../src/core/lifecycle/job-order.ts";

const waitingJob: fc.Arbitrary<WaitingJob> = fc.record({
  operations: fc.option(fc.integer({ min: 1, max: 1e15 })),
  createdAt: fc.integer({ min: 0, max: 1e9 }),
});

describe("of waiting jobs", () => {
  it("the shorter goes first, unless the longer has waited longer for each of its operations", () => {
    const short = { operations: 1e9, createdAt: 90_000 };
    const long = { operations: 1e13, createdAt: 0 };
    expect(compareJobs(short, long, 90_000)).toBeGreaterThan(0);
    expect(compareJobs(short, long, 90_010)).toBeLessThan(0);
    expect(compareJobs({ ...short, createdAt: 0 }, long, 0)).toBeLessThan(0);
    expect(compareJobs({ ...long, operations: null }, { ...long, operations: 1e12 }, 5)).toBe(0);
  });

  it("one is never passed by a job that has waited less in relation to its work", () => {
    fc.assert(
      fc.property(waitingJob, waitingJob, fc.integer({ min: 0, max: 1e9 }), (a, b, now) => {
        if (compareJobs(a, b, now) >= 0) return;
        const wait = (job: WaitingJob) => Math.max(0, now - job.createdAt) / (job.operations ?? 1e12);
        expect(wait(a)).toBeGreaterThanOrEqual(wait(b));
      }),
    );
  });

  it("there is one order", () => {
    fc.assert(
      fc.property(fc.tuple(waitingJob, waitingJob, waitingJob), fc.integer({ min: 0, max: 1e9 }), (jobs, now) => {
        const [a, b, c] = jobs.toSorted((x, y) => compareJobs(x, y, now)) as [WaitingJob, WaitingJob, WaitingJob];
        expect(compareJobs(a, c, now)).toBeLessThanOrEqual(0);
        expect(Math.sign(compareJobs(a, b, now)) + Math.sign(compareJobs(b, a, now))).toBe(0);
      }),
    );
  });

  it("a long one is not starved by short ones that keep coming", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1_000, max: 10_000 }),
        fc.integer({ min: 10, max: 500 }),
        fc.float({ min: Math.fround(0.5), max: Math.fround(0.99), noNaN: true }),
        (seconds, factor, load) => {
          // A short job takes `seconds` of the machine's time, and one comes whenever `load` of that has passed.
          const operationsPerMs = 12e6;
          const longMs = factor * seconds;
          let waiting: WaitingJob[] = [{ operations: longMs * operationsPerMs, createdAt: 0 }];
          const [long] = waiting;
          let now = 0;
          let nextArrival = 0;
          for (;;) {
            for (; nextArrival <= now; nextArrival += seconds / load)
              waiting.push({ operations: seconds * operationsPerMs, createdAt: nextArrival });
            const next = waiting.toSorted((a, b) => compareJobs(a, b, now))[0];
            if (next === long) break;
            waiting = waiting.filter((job) => job !== next);
            now = next === undefined ? nextArrival : now + seconds;
            // It has waited as long as it runs, and a little more.
            expect(now).toBeLessThan(longMs + 3 * seconds);
          }
        },
      ),
    );
  });
});

const SECOND = 1_000;
interface Params {
  readonly name: string;
  readonly operations?: number;
  readonly createdAt?: number;
  readonly state?: Partial<QueuedJob["state"]>;
}
const queuedJob = ({ name, operations = 1e12, createdAt = 0, state = {} }: Params) => ({
  name,
  operations,
  createdAt,
  state: { inFlight: false, unanswered: 0, submitAt: 0, heardAt: 0, ...state },
});
const refused = (until: number, heardAt = 0) => ({ inFlight: true, submitAt: until, heardAt });
const next = (queue: readonly ReturnType<typeof queuedJob>[], now: number) => {
  const submission = nextSubmission(queue, now);
  return submission && [submission.job.name, submission.at];
};

describe("the next submission", () => {
  it("is of none where none is queued", () => {
    expect(next([], 0)).toBeNull();
  });

  it("is of the first that is due, in the order of jobs, and of creation where they are alike", () => {
    const [a, b] = [queuedJob({ name: "a" }), queuedJob({ name: "b" })];
    expect(next([a, b], 5)).toEqual(["a", 0]);
    expect(next([a, queuedJob({ name: "short", operations: 1e9 })], 5)).toEqual(["short", 0]);
    expect(next([queuedJob({ name: "later", state: { submitAt: 9 } }), b], 5)).toEqual(["b", 0]);
    expect(next([queuedJob({ name: "later", state: { submitAt: 9 } })], 5)).toEqual(["later", 9]);
  });

  it("waits where the endpoint had no room for a job that is not larger, and not where that was larger", () => {
    const long = queuedJob({ name: "long", state: refused(10 * SECOND) });
    expect(next([long, queuedJob({ name: "same" })], SECOND)).toEqual(["long", 10 * SECOND]);
    expect(next([long, queuedJob({ name: "longer", operations: 2e12 })], SECOND)).toEqual(["long", 10 * SECOND]);
    expect(next([long, queuedJob({ name: "short", operations: 1e9 })], SECOND)).toEqual(["short", 0]);
    const short = queuedJob({ name: "short", operations: 1e9, state: refused(3 * SECOND) });
    expect(next([long, short], SECOND)).toEqual(["short", 3 * SECOND]);
  });

  it("waits no longer than 30 seconds for another job, however long that asks for", () => {
    const patient = queuedJob({ name: "patient", state: refused(600 * SECOND, 5 * SECOND) });
    const other = queuedJob({ name: "other", operations: 2e12 });
    expect(next([patient, other], 10 * SECOND)).toEqual(["other", 35 * SECOND]);
    expect(next([patient, other], 35 * SECOND)).toEqual(["other", 35 * SECOND]);
  });

  it("does not wait for a job that nobody answered, and takes that last", () => {
    const unanswered = queuedJob({ name: "bad", operations: 1, state: { ...refused(60 * SECOND), unanswered: 3 } });
    const other = queuedJob({ name: "other" });
    expect(next([unanswered, other], SECOND)).toEqual(["other", 0]);
    expect(next([{ ...unanswered, state: { ...unanswered.state, submitAt: 0 } }, other], SECOND)).toEqual(["other", 0]);
  });

  it("comes for every job in the end, and never before the job may be submitted", () => {
    const job = fc
      .record({
        operations: fc.integer({ min: 1, max: 1e13 }),
        createdAt: fc.nat(100 * SECOND),
        state: fc.record({
          inFlight: fc.boolean(),
          unanswered: fc.nat(2),
          submitAt: fc.nat(600 * SECOND),
          heardAt: fc.nat(100 * SECOND),
        }),
      })
      .map((fields) => queuedJob({ name: "", ...fields }));
    fc.assert(
      fc.property(fc.array(job, { minLength: 1, maxLength: 20 }), (jobs) => {
        let now = 100 * SECOND;
        for (let queue = jobs; queue.length > 0; ) {
          const submission = nextSubmission(queue, now);
          if (submission === null) throw new Error("nothing follows");
          expect(submission.at).toBeGreaterThanOrEqual(submission.job.state.submitAt);
          expect(submission.at).toBeLessThanOrEqual(Math.max(now, ...queue.map(({ state }) => state.submitAt)));
          now = Math.max(now, submission.at);
          queue = queue.filter((each) => each !== submission.job);
        }
      }),
    );
  });
});

describe("what a job is estimated to cost", () => {
  const size: JobSize = {
    task: "single_label",
    examples: 60,
    labels: 4,
    dimensions: 256,
    textBytes: 4_000,
    layers: null,
  };
  const options = { l2: "auto", evaluation: { method: "auto" }, lexical: "auto" } as const;
  const estimate = (change: Partial<JobSize>) => estimateJobCost({ ...size, ...change }, options);
  const layers = { epochs: "auto", batchSize: "auto", encoder: null } as const;
  const encoder = { widths: [256, 512, 512], hidden: 1536, layers: 4 };

  it("grows with examples, labels, dimensions, text, layers and epochs", () => {
    const { operations } = estimate({});
    for (const change of [{ examples: 120 }, { labels: 8 }, { dimensions: 512 }, { textBytes: 8_000 }, { layers }])
      expect(estimate(change).operations).toBeGreaterThan(operations);
    const withEpochs = (epochs: number) => estimate({ layers: { ...layers, epochs } }).operations;
    expect(withEpochs(50)).toBeGreaterThan(5 * withEpochs(5));
  });

  it("is seconds for 60 texts and many minutes for 30,000 over 50 epochs, at 12 GFLOP a second", () => {
    expect(estimate({ layers }).operations / 12e9).toBeLessThan(5);
    const large = estimate({ examples: 30_000, textBytes: 30_000 * 72, layers: { ...layers, epochs: 50 } });
    expect(large.operations / 12e9).toBeGreaterThan(600);
    expect(large.bytes).toBeGreaterThan(30_000 * 256 * 4);
  });

  it("is the more, the more layers of an encoder are trained", () => {
    const withLayers = (count: number) => estimate({ layers: { ...layers, encoder: { ...encoder, layers: count } } });
    const operations = [1, 2, 3].map((count) => withLayers(count).operations);
    expect(operations).toEqual(operations.toSorted((a, b) => a - b));
    expect(new Set(operations).size).toBe(3);
    // Twice the examples with the same number of epochs, 6.
    const twice = estimate({ examples: 120, textBytes: 8_000, layers: { ...layers, encoder } }).operations;
    expect(twice / withLayers(4).operations).toBeCloseTo(2, 1);
  });

  it("is a whole number, also where nothing is known of the examples", () => {
    for (const change of [
      { examples: 0, labels: 0, textBytes: 0 },
      { examples: 0, labels: 0, textBytes: 0, layers },
    ]) {
      const { operations, bytes } = estimate(change);
      expect(Number.isSafeInteger(operations) && Number.isSafeInteger(bytes)).toBe(true);
    }
    expect(estimate({ layers: { ...layers, epochs: 1e300 } }).operations).toBe(Number.MAX_SAFE_INTEGER);
  });
});
