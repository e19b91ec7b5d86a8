/**
 * Both processes are killed at every step of a job's way, and then at random times while several jobs run: 30 times in
 * all. CRASH_POINTS=all kills before and after the answer of each step.
 */
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import {
  createJob,
  findStorageErrors,
  killAtStep,
  killRandomly,
  listKillPoints,
  startChaosSystem,
  verifyJob,
} from "./chaos.ts";
import { type System, type TenantClient, waitForJobEnd } from "./processes.ts";

let system: System;
let tenants: TenantClient[];
beforeAll(async () => {
  ({ system, tenants } = await startChaosSystem(3, 3, inject("bundles").crashing));
});
afterAll(() => system.close());

describe("kill -9 at a step", () => {
  for (const kill of listKillPoints(process.env.CRASH_POINTS === "all")) {
    const { side, step, afterAnswer: answered } = kill;
    test(`of the ${side}, ${answered ? `${step} answered` : `before ${step}`}`, async () => {
      const tenant = tenants[0] as TenantClient;
      const restart = killAtStep(system, kill);
      const id = await createJob(tenant, `${side}-${step}-${answered}`);
      await restart;
      const job = await waitForJobEnd(tenant, id);
      expect(job.status, JSON.stringify(job.error)).toBe("succeeded");
      await verifyJob(tenant, job);
    });
  }
});

test("kill -9 at random times, while jobs of several tenants run", { timeout: 240_000 }, async () => {
  const { jobs, succeeded, failed, errors: wrong } = await killRandomly(system, tenants, 8, seededRandom(4));
  expect(wrong).toEqual([]);
  expect(succeeded + failed).toBe(jobs);
  expect(succeeded).toBeGreaterThan(0);
});

test("afterwards R2 holds what the ledgers need, and nothing else", async () => {
  for (const tenant of tenants) expect(await findStorageErrors(system, tenant)).toEqual({ orphans: [], missing: [] });
});
