/**
 * Both processes are killed at every step of a job's way, and then at random times while several jobs run: 30 times in
 * all. CRASH_POINTS=all kills before and after the answer of each step.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { ended, type System, type Tenant } from "./batch-system.ts";
import { checkJob, checkStorage, createJob, killAt, killAtRandom, killsAtSteps, startChaos } from "./chaos.ts";

let system: System;
let tenants: Tenant[];
beforeAll(async () => {
  ({ system, tenants } = await startChaos(3));
});
afterAll(() => system.close());

describe("kill -9 at a step", () => {
  for (const kill of killsAtSteps(process.env.CRASH_POINTS === "all")) {
    const { side, step, answered } = kill;
    test(`of the ${side}, ${answered ? `${step} answered` : `before ${step}`}`, async () => {
      const tenant = tenants[0] as Tenant;
      const back = killAt(system, kill);
      const id = await createJob(tenant, `${side}-${step}-${answered}`);
      await back;
      const job = await ended(tenant, id);
      expect(job.status).toBe("succeeded");
      await checkJob(tenant, job);
    });
  }
});

test("kill -9 at random times, while jobs of several tenants run", async () => {
  const { jobs, succeeded, failed, wrong } = await killAtRandom(system, tenants, 16, seededRandom(4));
  expect(wrong).toEqual([]);
  expect(succeeded + failed).toBe(jobs);
  expect(succeeded).toBeGreaterThan(0);
});

test("afterwards R2 holds what the ledgers need, and nothing else", async () => {
  for (const tenant of tenants) expect(await checkStorage(system, tenant)).toEqual({ orphans: [], missing: [] });
});
