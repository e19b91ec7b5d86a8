/** What can go wrong between the Worker and the batch endpoint, each as it happens between two real processes. */
import { randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { sign } from "../../src/jobs/sign.ts";
import type { FineTuningJob } from "../../src/sdk.ts";
import { createDataset, ended, eventually, type System, startSystem, type Tenant } from "./batch-system.ts";
import { checkJob, checkStorage, createJob, steps } from "./chaos.ts";
import type { Answer, Fault, Passing } from "./faulty-proxy.ts";

let system: System;
let acme: Tenant;
let made = 0;

beforeAll(async () => {
  system = await startSystem({}, { BATCH_SILENCE_SECONDS: "3", BATCH_TIMEOUT_SECONDS: "1" });
  acme = await system.createTenant("acme");
  await createDataset(acme.graft, "tickets", 120);
});
afterEach(() => {
  system.submissions.fault = null;
  system.callbacks.fault = null;
});
afterAll(() => system.close());

const status = (code: number, headers: Record<string, string> = {}): Answer => ({
  status: code,
  headers: { "content-type": "application/json", ...headers },
  body: Buffer.from('{"error":{"message":"not now"}}'),
});

/** A fault for so many requests of a kind; the others pass. */
function times(count: number, what: string, fault: Fault): Fault {
  let left = count;
  return (passing, forward) => {
    if (passing.what !== what || left === 0) return forward();
    left--;
    return fault(passing, forward);
  };
}

const hang: Fault = () => new Promise(() => undefined);

async function newJob(tenant = acme): Promise<string> {
  return createJob(tenant, `head-${++made}`);
}

async function succeeds(id: string, tenant = acme): Promise<FineTuningJob> {
  const job = await ended(tenant, id);
  expect(job.status, JSON.stringify(job.error)).toBe("succeeded");
  await checkJob(tenant, job);
  return job;
}

async function messages(id: string): Promise<string[]> {
  const { data } = await acme.graft.jobs.events(id, { limit: 100 });
  return data.filter(({ type }) => type === "message").map(({ message }) => message);
}

describe("a submission", () => {
  const faults: Record<string, Fault> = {
    "answered 500": async () => status(500),
    "answered 429 with Retry-After": async () => status(429, { "retry-after": "1" }),
    "answered 429 without": async () => status(429),
    "answered 503 with Retry-After": async () => status(503, { "retry-after": "1" }),
    "answered with nonsense": async () => ({ status: 202, headers: {}, body: Buffer.from("<html>") }),
    "cut off": async () => null,
    hanging: hang,
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
      system.submissions.fault = times(1, "submit", fault);
      const job = await succeeds(await newJob());
      expect(job.graft.attempt).toBe(1);
    });

  test("is not made again before Retry-After", async () => {
    const at: number[] = [];
    system.submissions.fault = async (passing, forward) => {
      if (passing.what === "submit") at.push(Date.now());
      return at.length === 1 ? status(429, { "retry-after": "2" }) : forward();
    };
    await succeeds(await newJob());
    expect((at[1] as number) - (at[0] as number)).toBeGreaterThanOrEqual(2_000);
  });

  test("that the batch endpoint refuses for good fails the job, and says why", async () => {
    system.submissions.fault = times(1, "submit", async () => ({ ...status(422) }));
    const job = await ended(acme, await newJob());
    expect(job).toMatchObject({ status: "failed", error: { code: "batch_rejected" } });
    expect(job.error?.message).toContain("not now");
  });

  test("waits while the batch endpoint is down, also where the Worker is restarted meanwhile", async () => {
    await system.kill("batch");
    const id = await newJob();
    await eventually(
      async () => (await messages(id)).some((text) => text.includes("did not take the job")),
      "it is told",
    );
    await system.kill("worker");
    await system.start("worker");
    expect((await acme.graft.jobs.get(id)).status).toBe("queued");
    await system.start("batch");
    await succeeds(id);
  });
});

describe("a callback", () => {
  for (const what of steps.filter((step) => step !== "submit")) {
    test(`${what}: delivered twice has the effect of once`, async () => {
      system.callbacks.fault = async (passing, forward) => {
        const first = await forward();
        if (passing.what === what) await forward();
        return first;
      };
      const { graft } = await succeeds(await newJob());
      expect(graft.attempt).toBe(1);
    });

    test(`${what}: answered 500, or cut in the middle, it is made again`, async () => {
      const faults: Fault[] = [async () => status(500), (_passing, forward) => forward(10)];
      system.callbacks.fault = async (passing, forward) => {
        const fault = passing.what === what ? faults.pop() : undefined;
        return fault === undefined ? forward() : fault(passing, forward);
      };
      const { graft } = await succeeds(await newJob());
      expect(graft.attempt).toBe(1);
    });
  }

  test("held back and delivered out of order changes nothing", async () => {
    const held: (() => Promise<unknown>)[] = [];
    system.callbacks.fault = async (passing, forward) => {
      const isProgress = passing.what === "progress";
      if (isProgress) held.push(forward);
      const answer = await forward();
      // The oldest again, and late: after what it told was told.
      if (!isProgress) for (const late of held.splice(0).reverse()) await late();
      return answer;
    };
    await succeeds(await newJob());
  });
});

describe("an artifact", () => {
  test("whose bytes change on the way is refused and uploaded again", async () => {
    let refused = 0;
    system.callbacks.fault = async (passing, forward) => {
      if (passing.what !== "artifact" || refused > 1) return forward();
      passing.body.writeUInt8((passing.body.readUInt8(20) + 1) % 256, 20);
      const answer = await forward();
      passing.body.writeUInt8((passing.body.readUInt8(20) + 255) % 256, 20);
      refused++;
      expect(answer?.status).toBe(422);
      return answer;
    };
    await succeeds(await newJob());
    expect(refused).toBe(2);
  });
});

describe("who is not the attempt", () => {
  /** What an attempt sends, caught on its way. */
  async function caught(what: string): Promise<{ passing: Passing; id: string }> {
    let seen: ((passing: Passing) => void) | undefined;
    const passing = new Promise<Passing>((resolve) => {
      seen = resolve;
    });
    system.callbacks.fault = async (sent, forward) => {
      if (sent.what === what) seen?.(sent);
      return forward();
    };
    const id = await newJob();
    return { passing: await passing, id };
  }
  const post = (path: string, headers: Record<string, string>, body: string) =>
    fetch(system.url + path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body });

  test("has no effect: forged, replayed, of another job, of a job that has ended", async () => {
    const { passing, id } = await caught("evaluated");
    const { authorization = "" } = passing.headers;
    const body = passing.body.toString();
    const forged = sign(`whsec_${randomBytes(32).toString("base64")}`, body, "msg_forged", Date.now());
    expect((await post(passing.path, { authorization, ...forged }, body)).status).toBe(401);
    expect((await post(passing.path, { ...passing.headers, authorization: `${authorization}0` }, body)).status).toBe(
      401,
    );
    const other = await newJob();
    expect((await post(passing.path.replace(id, other), passing.headers, body)).status).toBe(401);
    await succeeds(id);
    await succeeds(other);
    const before = await messages(id);
    expect((await post(passing.path, passing.headers, body)).status).toBe(409);
    expect(await messages(id)).toEqual(before);
  });

  test("finds nothing once the tenant is deleted, and leaves nothing", async () => {
    const gone = await system.createTenant("gone");
    await createDataset(gone.graft, "tickets", 120);
    const answers: number[] = [];
    let deleted = false;
    system.callbacks.fault = async (passing, forward) => {
      if (passing.what === "evaluated") {
        await system.operator.tenants.delete("gone");
        deleted = true;
      }
      const answer = await forward();
      if (deleted) answers.push(answer?.status ?? 0);
      return answer;
    };
    await createJob(gone, "head");
    await eventually(async () => answers.length > 0, "its attempt is answered");
    await eventually(async () => (await system.operator.tenants.get("gone")).status === "deleted", "it is deleted");
    expect(answers.every((code) => code === 404)).toBe(true);
    expect(await system.stored("gone")).toEqual({ kv: [], r2: [] });
  });
});

describe("an attempt that falls silent", () => {
  test("is given up, and what it says late has no effect", async () => {
    let silenced: string | undefined;
    const late: (() => Promise<Answer | null>)[] = [];
    system.callbacks.fault = async (passing, forward) => {
      silenced ??= passing.path.split("/").slice(0, 7).join("/");
      if (!passing.path.startsWith(`${silenced}/`)) return forward();
      late.push(forward);
      return null;
    };
    const id = await newJob();
    const job = await succeeds(id);
    expect(job.graft.attempt).toBe(2);
    expect((await messages(id)).some((text) => text.includes("Attempt 1 was given up: nothing was heard"))).toBe(true);
    for (const send of late.slice(0, 5)) expect((await send())?.status).toBe(409);
    expect(await acme.graft.jobs.get(id)).toEqual(job);
  });

  test("three times fails the job", async () => {
    system.callbacks.fault = async () => null;
    const job = await ended(acme, await newJob());
    expect(job).toMatchObject({ status: "failed", error: { code: "attempts_failed" }, graft: { version: null } });
    await checkJob(acme, { ...job });
  });
});

describe("at each step", () => {
  for (const step of steps) {
    test(`${step}: a job that is cancelled ends so, and nothing more comes of it`, async () => {
      const created = newJob();
      system.submissions.fault = system.callbacks.fault = async (passing, forward) => {
        const id = await created;
        if (passing.what === step && passing.path.includes(id)) await acme.graft.jobs.cancel(id);
        return forward();
      };
      const id = await created;
      const job = await ended(acme, id);
      expect(job).toMatchObject({ status: "cancelled", graft: { version: null, promoted: false } });
      await expect(acme.graft.heads.get(job.graft.head)).rejects.toMatchObject({ code: "not_found" });
    });

    test(`${step}: a job that is paused stops, and goes on when it is resumed`, async () => {
      let paused = false;
      const created = newJob();
      system.submissions.fault = system.callbacks.fault = async (passing, forward) => {
        const id = await created;
        if (passing.what === step && passing.path.includes(id) && !paused) {
          paused = true;
          await acme.graft.jobs.pause(id);
        }
        return forward();
      };
      const id = await created;
      await eventually(async () => paused, "the job is paused");
      expect((await acme.graft.jobs.get(id)).status).toBe("paused");
      await acme.graft.jobs.resume(id);
      await succeeds(id);
    });
  }
});

test("SIGTERM of the batch endpoint hands the job back, and it goes on when that is there again", async () => {
  let told: (() => void) | undefined;
  const running = new Promise<void>((resolve) => {
    told = resolve;
  });
  system.callbacks.fault = async (passing, forward) => {
    if (passing.what === "data") told?.();
    return forward();
  };
  const id = await newJob();
  await running;
  system.signal("batch", "SIGTERM");
  expect(await system.exited("batch")).toBe(0);
  await system.start("batch");
  await succeeds(id);
});

test("afterwards R2 holds what the ledger needs, and nothing else", async () => {
  expect(await checkStorage(system, acme)).toEqual({ orphans: [], missing: [] });
});
