/** Both processes are killed at every step of a job's way, and then at random times while several jobs run. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { ended, type System, type Tenant } from "./batch-system.ts";
import { checkJob, checkStorage, createJob, everyKill, killAt, startChaos } from "./chaos.ts";

let system: System;
let tenants: Tenant[];
beforeAll(async () => {
  ({ system, tenants } = await startChaos(3));
});
afterAll(() => system.close());

describe("kill -9 at a step", () => {
  for (const kill of everyKill()) {
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
  const random = seededRandom(4);
  const ids = await Promise.all(
    tenants.flatMap((tenant) => [1, 2, 3].map(async (n) => ({ tenant, id: await createJob(tenant, `random-${n}`) }))),
  );
  for (let kills = 0; kills < 10; kills++) {
    await new Promise((resolve) => setTimeout(resolve, 1_500 * random()));
    const side = random() < 0.5 ? "worker" : "batch";
    await system.kill(side);
    await system.start(side);
  }
  for (const { tenant, id } of ids) await checkJob(tenant, await ended(tenant, id));
});

test("afterwards R2 holds what the ledgers need, and nothing else", async () => {
  for (const tenant of tenants) await checkStorage(system, tenant);
});
