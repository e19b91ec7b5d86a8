/** What can go wrong between the Worker and the batch endpoint, each as it happens between two real processes. */
import { randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from "vitest";
import { sign } from "../../src/jobs/sign.ts";
import type { FineTuningJob } from "../../src/sdk/client.ts";
import { createJob, findStorageErrors, steps, verifyJob } from "./chaos.ts";
import type { Fault, ProxiedRequest, ProxiedResponse } from "./faulty-proxy.ts";
import { createDataset, type System, startSystem, type TenantClient, waitFor, waitForJobEnd } from "./processes.ts";

let system: System;
let acme: TenantClient;
let jobCount = 0;
const jobsOfTest: string[] = [];

beforeAll(async () => {
  system = await startSystem({
    bundle: inject("bundles").crashing,
    worker: { BATCH_SILENCE_SECONDS: "5", BATCH_TIMEOUT_SECONDS: "1" },
  });
  acme = await system.createTenant("acme");
  await createDataset(acme.graft, "tickets", 40);
});
afterEach(async () => {
  system.submissions.fault = null;
  system.callbacks.fault = null;
  // What a test that failed has left under way would still be stored at the end.
  for (const id of jobsOfTest.splice(0)) await acme.graft.jobs.cancel(id).catch(() => undefined);
});
afterAll(() => system.close());

const respondStatus = (code: number, headers: Record<string, string> = {}): ProxiedResponse => ({
  status: code,
  headers: { "content-type": "application/json", ...headers },
  body: Buffer.from('{"error":{"message":"not now"}}'),
});

/** A fault for so many requests of a kind; the others pass. */
function repeatFault(count: number, what: string, fault: Fault): Fault {
  let faultsLeft = count;
  return (request, forward) => {
    if (request.kind !== what || faultsLeft === 0) return forward();
    faultsLeft--;
    return fault(request, forward);
  };
}

const neverRespond: Fault = () => new Promise(() => undefined);

async function newJob(): Promise<string> {
  const id = await createJob(acme, `head-${++jobCount}`);
  jobsOfTest.push(id);
  return id;
}

async function expectSuccess(id: string, tenant = acme): Promise<FineTuningJob> {
  const job = await waitForJobEnd(tenant, id);
  expect(job.status, JSON.stringify(job.error)).toBe("succeeded");
  await verifyJob(tenant, job);
  return job;
}

async function listMessages(id: string): Promise<string[]> {
  const { data } = await acme.graft.jobs.events(id, { limit: 100 });
  return data.filter(({ type }) => type === "message").map(({ message }) => message);
}

describe("a submission", () => {
  const faults: Record<string, Fault> = {
    "answered 500": async () => respondStatus(500),
    "answered 429 with Retry-After": async () => respondStatus(429, { "retry-after": "1" }),
    "answered 429 without": async () => respondStatus(429),
    "answered 503 with Retry-After": async () => respondStatus(503, { "retry-after": "1" }),
    "answered with nonsense": async () => ({ status: 202, headers: {}, body: Buffer.from("<html>") }),
    "cut off": async () => null,
    hanging: neverRespond,
    "taken, the answer lost": async (_passing, forward) => {
      await forward();
      return null;
    },
    "delivered twice": async (_passing, forward) => {
      await forward();
      return forward();
    },
  };
  for (const [name, fault] of Object.entries(faults))
    test(`${name} is made again, and the job runs once`, async () => {
      system.submissions.fault = repeatFault(1, "submit", fault);
      const job = await expectSuccess(await newJob());
      expect(job.graft.attempt).toBe(1);
    });

  test("is not made again before Retry-After", async () => {
    const submissionTimes: number[] = [];
    system.submissions.fault = async (request, forward) => {
      if (request.kind === "submit") submissionTimes.push(Date.now());
      return submissionTimes.length === 1 ? respondStatus(429, { "retry-after": "2" }) : forward();
    };
    await expectSuccess(await newJob());
    expect((submissionTimes[1] as number) - (submissionTimes[0] as number)).toBeGreaterThanOrEqual(2_000);
  });

  test("that the batch endpoint refuses for good fails the job, and says why", async () => {
    system.submissions.fault = repeatFault(1, "submit", async () => ({ ...respondStatus(422) }));
    const job = await waitForJobEnd(acme, await newJob());
    expect(job).toMatchObject({ status: "failed", error: { code: "batch_rejected" } });
    expect(job.error?.message).toContain("not now");
  });

  test("waits while the batch endpoint is down, also where the Worker is restarted meanwhile", async () => {
    await system.kill("batch");
    const id = await newJob();
    await waitFor(
      async () => (await listMessages(id)).some((text) => text.includes("did not take the job")),
      "it is told",
    );
    await system.kill("worker");
    await system.start("worker");
    expect((await acme.graft.jobs.get(id)).status).toBe("queued");
    await system.start("batch");
    await expectSuccess(id);
  });
});

describe("a callback", () => {
  for (const what of steps.filter((step) => step !== "submit")) {
    test(`${what}: delivered twice has the effect of once`, async () => {
      system.callbacks.fault = async (request, forward) => {
        const isFirst = await forward();
        if (request.kind === what) await forward();
        return isFirst;
      };
      const { graft } = await expectSuccess(await newJob());
      expect(graft.attempt).toBe(1);
    });

    test(`${what}: answered 500, or cut in the middle, it is made again`, async () => {
      const faults: Fault[] = [async () => respondStatus(500), (_passing, forward) => forward(10)];
      system.callbacks.fault = async (request, forward) => {
        const fault = request.kind === what ? faults.pop() : undefined;
        return fault === undefined ? forward() : fault(request, forward);
      };
      const { graft } = await expectSuccess(await newJob());
      expect(graft.attempt).toBe(1);
    });
  }

  test("held back and delivered out of order changes nothing", async () => {
    const heldRequests: (() => Promise<unknown>)[] = [];
    system.callbacks.fault = async (request, forward) => {
      const isProgress = request.kind === "progress";
      if (isProgress) heldRequests.push(forward);
      const answer = await forward();
      // The oldest again, and late: after what it told was told.
      if (!isProgress) for (const release of heldRequests.splice(0).reverse()) await release();
      return answer;
    };
    await expectSuccess(await newJob());
  });
});

describe("an artifact", () => {
  test("whose bytes change on the way is refused and uploaded again", async () => {
    let refusals = 0;
    system.callbacks.fault = async (request, forward) => {
      if (request.kind !== "artifact" || refusals > 1) return forward();
      request.body.writeUInt8((request.body.readUInt8(20) + 1) % 256, 20);
      const answer = await forward();
      request.body.writeUInt8((request.body.readUInt8(20) + 255) % 256, 20);
      refusals++;
      expect(answer?.status).toBe(422);
      return answer;
    };
    await expectSuccess(await newJob());
    expect(refusals).toBe(2);
  });
});

describe("who is not the attempt", () => {
  /** What an attempt sends, caught on its way. */
  async function captureRequest(what: string): Promise<{ request: ProxiedRequest; id: string }> {
    let onRequest: ((passing: ProxiedRequest) => void) | undefined;
    const request = new Promise<ProxiedRequest>((resolve) => {
      onRequest = resolve;
    });
    system.callbacks.fault = async (incoming, forward) => {
      if (incoming.kind === what) onRequest?.(incoming);
      return forward();
    };
    const id = await newJob();
    return { request: await request, id };
  }
  const post = (path: string, headers: Record<string, string>, body: string) =>
    fetch(system.url + path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body });

  test("has no effect: forged, replayed, of another job, of a job that has ended", async () => {
    const { request: passing, id } = await captureRequest("evaluated");
    const { authorization = "" } = passing.headers;
    const body = passing.body.toString();
    const forged = sign(`whsec_${randomBytes(32).toString("base64")}`, body, "msg_forged", Date.now());
    expect((await post(passing.path, { authorization, ...forged }, body)).status).toBe(401);
    expect((await post(passing.path, { ...passing.headers, authorization: `${authorization}0` }, body)).status).toBe(
      401,
    );
    const other = await newJob();
    expect((await post(passing.path.replace(id, other), passing.headers, body)).status).toBe(401);
    await expectSuccess(id);
    await expectSuccess(other);
    const before = await listMessages(id);
    expect((await post(passing.path, passing.headers, body)).status).toBe(409);
    expect(await listMessages(id)).toEqual(before);
  });

  test("finds nothing once the tenant is deleted, and leaves nothing", async () => {
    const deletedTenant = await system.createTenant("gone");
    await createDataset(deletedTenant.graft, "tickets", 40);
    const answers: number[] = [];
    let deleted = false;
    system.callbacks.fault = async (request, forward) => {
      if (request.kind === "evaluated") {
        await system.operator.tenants.delete("gone");
        deleted = true;
      }
      const answer = await forward();
      if (deleted) answers.push(answer?.status ?? 0);
      return answer;
    };
    await createJob(deletedTenant, "head");
    await waitFor(async () => answers.length > 0, "its attempt is answered");
    await waitFor(async () => (await system.operator.tenants.get("gone")).status === "deleted", "it is deleted");
    expect(answers.every((code) => code === 404)).toBe(true);
    expect(await system.listStored("gone")).toEqual({ kv: [], r2: [] });
  });
});

describe("an attempt that falls silent", () => {
  test("is given up, and what it says late has no effect", async () => {
    let silenced: string | undefined;
    const lateRequests: (() => Promise<ProxiedResponse | null>)[] = [];
    system.callbacks.fault = async (request, forward) => {
      silenced ??= request.path.split("/").slice(0, 7).join("/");
      if (!request.path.startsWith(`${silenced}/`)) return forward();
      lateRequests.push(forward);
      return null;
    };
    const id = await newJob();
    const job = await expectSuccess(id);
    expect(job.graft.attempt).toBe(2);
    expect((await listMessages(id)).some((text) => text.includes("Attempt 1 was given up: nothing was heard"))).toBe(
      true,
    );
    for (const send of lateRequests.slice(0, 5)) expect((await send())?.status).toBe(409);
    expect(await acme.graft.jobs.get(id)).toEqual(job);
  });

  test("three times fails the job", async () => {
    system.callbacks.fault = async () => null;
    const job = await waitForJobEnd(acme, await newJob());
    expect(job).toMatchObject({ status: "failed", error: { code: "attempts_failed" }, graft: { version: null } });
    await verifyJob(acme, { ...job });
  });
});

describe("at each step", () => {
  for (const step of steps) {
    test(`${step}: a job that is cancelled ends so, and nothing more comes of it`, async () => {
      const created = newJob();
      system.submissions.fault = system.callbacks.fault = async (request, forward) => {
        const id = await created;
        if (request.kind === step && request.path.includes(id)) await acme.graft.jobs.cancel(id);
        return forward();
      };
      const id = await created;
      const job = await waitForJobEnd(acme, id);
      expect(job).toMatchObject({ status: "cancelled", graft: { version: null, promoted: false } });
      await expect(acme.graft.heads.get(job.graft.head)).rejects.toMatchObject({ code: "not_found" });
    });

    test(`${step}: a job that is paused stops, and goes on when it is resumed`, async () => {
      let pausing: Promise<unknown> | undefined;
      const paused = Promise.withResolvers<void>();
      const created = newJob();
      system.submissions.fault = system.callbacks.fault = async (request, forward) => {
        const id = await created;
        if (request.kind === step && request.path.includes(id)) {
          pausing ??= acme.graft.jobs.pause(id).then(() => paused.resolve(), paused.reject);
          await pausing;
        }
        return forward();
      };
      const id = await created;
      await paused.promise;
      expect((await acme.graft.jobs.get(id)).status).toBe("paused");
      await acme.graft.jobs.resume(id);
      await expectSuccess(id);
    });
  }
});

test("a job of a tenant that is suspended is handed back, waits, and goes on when the tenant is active again", async () => {
  let suspending: Promise<unknown> | undefined;
  let submissions = 0;
  system.callbacks.fault = async (request, forward) => {
    // The directive is the answer to this message.
    if (request.kind === "evaluated") {
      suspending ??= system.operator.tenants.update(acme.id, { status: "suspended" });
      await suspending;
    }
    return forward();
  };
  system.submissions.fault = async (_, forward) => {
    submissions++;
    return forward();
  };
  const id = await newJob();
  await waitFor(async () => suspending ?? null, "the tenant is suspended");
  await expect(acme.graft.jobs.get(id)).rejects.toMatchObject({ code: "tenant_suspended" });
  await new Promise((resolve) => setTimeout(resolve, 4_000));
  expect(submissions).toBe(1);
  await system.operator.tenants.update(acme.id, { status: "active" });
  const job = await expectSuccess(id);
  expect(job.graft.attempt).toBe(2);
  expect((await listMessages(id)).some((text) => text.includes("Attempt 1 was handed back"))).toBe(true);
});

test("SIGTERM of the batch endpoint hands the job back, and it goes on when that is there again", async () => {
  let notify: (() => void) | undefined;
  const running = new Promise<void>((resolve) => {
    notify = resolve;
  });
  system.callbacks.fault = async (request, forward) => {
    if (request.kind === "data") notify?.();
    return forward();
  };
  const id = await newJob();
  await running;
  system.signal("batch", "SIGTERM");
  expect(await system.waitForExit("batch")).toBe(0);
  await system.start("batch");
  await expectSuccess(id);
});

test("afterwards R2 holds what the ledger needs, and nothing else", async () => {
  expect(await findStorageErrors(system, acme)).toEqual({ orphans: [], missing: [] });
});
