/** What is due for fine-tuning jobs: how they are checked, submitted, stopped and given up. */
import { evictDurableObject, runDurableObjectAlarm } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { Webhook } from "standardwebhooks";
import { describe, expect, test, vi } from "vitest";
import { type JobState, newJobState } from "../../src/core/lifecycle/job.ts";
import { limits } from "../../src/core/limits.ts";
import { stop as stopSchema } from "../../src/jobs/protocol.ts";
import { artifactKey, headKey } from "../../src/store/keys.ts";
import { runDue } from "../../src/tenant/tasks/maintenance.ts";
import { arm, schedule } from "../../src/tenant/tasks/tasks.ts";
import { identity } from "../../src/tenant/schema.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import {
  acknowledge,
  artifactOf,
  attemptOf,
  dueOf,
  endpointOf,
  eventsOf,
  hang,
  inLedger,
  jobUntil,
  judgements,
  manifestOf,
  pass,
  playBatchEndpoint,
  type Received,
  respond,
  runningJob,
  SECRET,
  startedJob,
  stored,
  stubOf,
  submitted,
  trainedHead,
} from "./batch.ts";
import { expectRefused } from "./expect.ts";

const JOBS = "/v1/fine_tuning/jobs";
const HOUR = 3_600_000;
const ask = { model: "text-static-1", training_file: "dataset:tickets" };
const PATIENCE = { timeout: 10_000, interval: 10 };

playBatchEndpoint();

async function created(key: string, body: object = {}): Promise<string> {
  const answer = await call("POST", JOBS, key, { ...ask, ...body });
  expect(answer.status, answer.text).toBe(200);
  return answer.json.id;
}

const command = async (key: string, job: string, name: "cancel" | "pause" | "resume") => {
  const answer = await call("POST", `${JOBS}/${job}/${name}`, key);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
};

function stateOf(tenant: string, job: string): Promise<JobState> {
  return inLedger(tenant, ({ sql }) => {
    const { state } = sql.exec<{ state: string }>("SELECT state FROM jobs WHERE id = ?", job).one();
    return JSON.parse(state) as JobState;
  });
}

function stateUntil(tenant: string, job: string, is: (state: JobState) => boolean): Promise<JobState> {
  return vi.waitUntil(async () => {
    const state = await stateOf(tenant, job);
    return is(state) ? state : false;
  }, PATIENCE);
}

const seen = (of: "submissions" | "stops", tenant: string, count: number) =>
  vi.waitUntil(() => endpointOf(tenant)[of].length >= count, PATIENCE);

/** Work of a ledger ends: what is due next is later than now. */
const settled = (tenant: string) =>
  vi.waitUntil(async () => (await dueOf(tenant)).every(({ run_at }) => run_at > Date.now() + 400), PATIENCE);

/** Something that a test lets happen. */
function gate() {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

function expectSigned({ text, headers }: Received): void {
  expect(new Webhook(SECRET).verify(text, Object.fromEntries(headers))).toEqual(JSON.parse(text));
}

describe("a submission", () => {
  test("names all that the batch endpoint needs, is signed, and its token opens the job's data", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const hyperparameters = { n_epochs: 3, learning_rate_multiplier: 0.5 };
    const body = { seed: 9, trainable: "head", suffix: "s", hyperparameters };
    const job = await created(key, body);
    const submission = await submitted(tenant);
    const running = await jobUntil(key, job, "running");
    expect(submission).toEqual({
      object: "batch.job",
      id: job,
      attempt: 1,
      tenant,
      token: expect.stringMatching(new RegExp(`^gb_${tenant}_${job}_1_[0-9a-f]{32}$`)),
      created_at: running.created_at,
      task: "single_label",
      modality: "text",
      backbone: { id: "text-static-1", revision: expect.any(String) },
      dimensions: 256,
      out_of_scope_label: null,
      trainable: "head",
      hyperparameters: {
        epochs: 3,
        batch_size: "auto",
        learning_rate_multiplier: 0.5,
        l2: "auto",
        class_weight: null,
        lexical: "auto",
        seed: 9,
      },
      evaluation: { method: "auto" },
      edge_budget: { bytes: 56_000_000, operations: 800_000_000_000 },
      checkpoint: null,
      heartbeat_seconds: 6,
    });
    const [received] = endpointOf(tenant).submissions;
    expect(received?.method).toBe("PUT");
    expect(received?.url).toBe(`http://batch.test/graft/v1/jobs/${job}/attempts/1`);
    expect(received?.headers.get("content-type")).toBe("application/json");
    if (received) expectSigned(received);
    expect(await attemptOf(submission).pull()).toHaveLength(19);
    expect((await eventsOf(key, job)).map(({ level, message }) => [level, message])).toEqual([
      ["info", "The job was created."],
      ["info", "The examples are valid, and the job is queued."],
      ["info", "Attempt 1 is running at the batch endpoint."],
    ]);
  });

  test("of embeddings names no backbone, and an out-of-scope label where there is one", async () => {
    const { id: tenant, key } = await newTenant();
    const shape = { task: "single_label", modality: "embedding", dimensions: 2, out_of_scope_label: "none" };
    await call("POST", "/v1/datasets", key, { name: "points", ...shape });
    const examples = ["a", "b", "none"].map((label, i) => ({ embedding: [i, 1], label }));
    await call("POST", "/v1/datasets/points/examples", key, { examples });
    await created(key, { model: "embedding", training_file: "dataset:points" });
    expect(await submitted(tenant)).toMatchObject({
      modality: "embedding",
      backbone: null,
      dimensions: 2,
      out_of_scope_label: "none",
    });
  });

  const later = () => new Date(Date.now() + 40_000).toUTCString();
  test.each<[string, () => ReturnType<typeof respond>, number, number]>([
    ["429", () => respond(429), 5, 5],
    ["429 and Retry-After", () => respond(429, "", { "retry-after": "30" }), 30, 30],
    ["429 and a date", () => respond(429, "", { "retry-after": later() }), 38, 40],
    ["429 and no waiting at all", () => respond(429, "", { "retry-after": "0" }), 1, 1],
    ["429 and a date that has passed", () => respond(429, "", { "retry-after": new Date(0).toUTCString() }), 1, 1],
    ["429 and a very long time", () => respond(429, "", { "retry-after": "999999999" }), 600, 600],
    ["429 and nonsense", () => respond(429, "", { "retry-after": "soon" }), 5, 5],
    ["503", () => respond(503), 0.75, 1.25],
    ["503 and Retry-After", () => respond(503, "", { "retry-after": "20" }), 20, 20],
    ["500", () => respond(500, "broken"), 0.75, 1.25],
    ["401", () => respond(401, { error: { message: "wrong signature" } }), 0.75, 1.25],
    ["404", () => respond(404), 0.75, 1.25],
    ["a redirection", () => respond(302, "", { location: "http://elsewhere.test/" }), 0.75, 1.25],
    ["no answer in time", () => hang, 0.75, 1.25],
    ["no connection", () => () => Promise.reject(new TypeError("connection refused")), 0.75, 1.25],
    ["no JSON", () => respond(200, "<html>"), 0.75, 1.25],
    ["other JSON", () => respond(202, { ok: true }), 0.75, 1.25],
    ["nothing", () => respond(202), 0.75, 1.25],
    ["an answer without an end", () => () => new Response(endless(), { status: 200 }), 0.75, 1.25],
    ["half an answer", () => () => new Response(cutOff(), { status: 200 }), 0.75, 1.25],
  ])("answered with %s is sent again, as the same attempt, when it is time", async (_what, behaviour, least, most) => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = endpointOf(tenant);
    endpoint.submit = behaviour();
    const before = Date.now();
    const job = await created(key);
    const state = await stateUntil(
      tenant,
      job,
      ({ submitAt, status }) => status === "queued" && submitAt > before + 700,
    );
    const now = Date.now();
    expect((state.submitAt - before) / 1000).toBeGreaterThanOrEqual(least);
    expect((state.submitAt - now) / 1000).toBeLessThanOrEqual(most);
    expect(endpoint.submissions).toHaveLength(1);
    await vi.waitUntil(async () => (await dueOf(tenant, "submit_jobs"))[0]?.run_at === state.submitAt, PATIENCE);
    endpoint.submit = acknowledge("running", 202);
    await pass(tenant, most + 1);
    await jobUntil(key, job, "running");
    const [first, second] = endpoint.submissions.map(({ text }) => JSON.parse(text));
    expect(second).toEqual(first);
    expect(endpoint.submissions).toHaveLength(2);
    await vi.waitUntil(async () => (await dueOf(tenant, "submit_jobs")).length === 0, PATIENCE);
    const warned = (await eventsOf(key, job)).filter(({ level }) => level === "warn");
    expect(warned).toHaveLength(least === 5 || _what.startsWith("429") ? 0 : 1);
  });

  test("that nobody answers is sent further and further apart, and told of once", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    endpointOf(tenant).submit = respond(500);
    const job = await created(key);
    const waits: number[] = [];
    for (let i = 1; i <= 8; i++) {
      const { submitAt } = await stateUntil(tenant, job, ({ unanswered }) => unanswered === i);
      waits.push((submitAt - Date.now()) / 1000);
      await settled(tenant);
      await pass(tenant, 90);
    }
    for (const [i, least] of [0.7, 1.4, 2.9, 5.9, 11.9, 23.9, 44.9, 44.9].entries()) {
      expect(waits[i]).toBeGreaterThan(least);
      expect(waits[i]).toBeLessThanOrEqual(1.25 * Math.min(2 ** i, 60));
    }
    expect((await eventsOf(key, job)).filter(({ level }) => level === "warn")).toMatchObject([
      { message: "The batch endpoint did not take the job: it answered 500." },
    ]);
  });

  test.each<[string, ReturnType<typeof respond>, string]>([
    ["why", respond(422, { error: { message: "no such backbone" } }), "no such backbone"],
    ["at length why", respond(422, { error: { message: "x".repeat(9000) } }), `${"x".repeat(500)}`],
    ["nothing", respond(422, "no"), "it did not say why."],
    ["a reason that is none", respond(422, { error: { message: 1 } }), "it did not say why."],
  ])("that is rejected ends its job, which tells %s", async (_what, behaviour, said) => {
    const { id: tenant, key } = await tenantWithTickets();
    endpointOf(tenant).submit = behaviour;
    const job = await jobUntil(key, await created(key), "failed");
    expect(job).toMatchObject({ finished_at: expect.any(Number), graft: { version: null } });
    expect(job.error).toEqual({
      code: "batch_rejected",
      message: `The batch endpoint refused the job: ${said}`,
      param: null,
    });
    expect((await eventsOf(key, job.id)).at(-1)).toMatchObject({ level: "error", message: job.error.message });
    await settled(tenant);
    expect(await dueOf(tenant, "submit_jobs")).toEqual([]);
    expect(endpointOf(tenant).submissions).toHaveLength(1);
  });

  test("of an attempt that is over already makes way for another, three times", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    endpointOf(tenant).submit = acknowledge("ended");
    const job = await jobUntil(key, await created(key), "failed");
    expect(job.error.code).toBe("attempts_failed");
    const attempts = endpointOf(tenant).submissions.map(({ text }) => JSON.parse(text).attempt);
    expect(attempts).toEqual([1, 2, 3]);
  });
});

/** Bytes for as long as they are read. */
const endless = () => new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(1000).fill(0x20)) });
const cutOff = () =>
  new ReadableStream({
    start: (controller) => controller.enqueue(Buffer.from('{"object":')),
    pull: (controller) => controller.error(new Error("connection lost")),
  });

describe("the line of a tenant's jobs", () => {
  test("is served oldest first, one submission at a time", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = endpointOf(tenant);
    const gates = [gate(), gate(), gate()];
    let under_way = 0;
    const order: string[] = [];
    endpoint.submit = async (received, signal) => {
      expect(++under_way).toBe(1);
      const { id } = JSON.parse(received.text);
      await gates[order.push(id) - 1]?.opened;
      under_way--;
      return acknowledge("running")(received, signal);
    };
    const jobs = [await created(key), await created(key), await created(key)];
    for (const [i, { open }] of gates.entries()) {
      await seen("submissions", tenant, i + 1);
      await Promise.all(jobs.map((job) => stateUntil(tenant, job, ({ validated }) => validated)));
      expect(endpoint.submissions).toHaveLength(i + 1);
      open();
    }
    for (const job of jobs) await jobUntil(key, job, "running");
    expect(order).toEqual(jobs);
  });

  test("is not held up for ever by a job that the endpoint never answers", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = endpointOf(tenant);
    const bad = await created(key, { suffix: "bad" });
    endpoint.submit = (received, signal) =>
      (JSON.parse(received.text).id === bad ? respond(500) : acknowledge("running"))(received, signal);
    await stateUntil(tenant, bad, ({ unanswered, status }) => unanswered > 0 || status === "running");
    for (let i = 0; i < 3; i++) await jobUntil(key, await created(key), "running");
    endpoint.submit = acknowledge("running");
    await pass(tenant, 300);
    await jobUntil(key, bad, "running");
  });

  test("waits for the job whose turn it is where the endpoint is busy, and goes on in order", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = endpointOf(tenant);
    endpoint.submit = respond(429, "", { "retry-after": "60" });
    const jobs = [await created(key), await created(key)];
    for (const job of jobs) await stateUntil(tenant, job, ({ validated }) => validated);
    await settled(tenant);
    expect(endpoint.submissions).toHaveLength(1);
    expect(await dueOf(tenant, "submit_jobs")).toHaveLength(1);
    endpoint.submit = acknowledge("running");
    await pass(tenant, 61);
    for (const job of jobs) await jobUntil(key, job, "running");
    expect(endpoint.submissions.map(({ text }) => JSON.parse(text).id)).toEqual([jobs[0], ...jobs]);
  });

  test("of one tenant is not another's", async () => {
    const [one, two] = [await tenantWithTickets(), await tenantWithTickets()];
    const { opened, open } = gate();
    endpointOf(one.id).submit = async (...args) => {
      await opened;
      return acknowledge("running")(...args);
    };
    const first = await created(one.key);
    await seen("submissions", one.id, 1);
    await startedJob(two);
    open();
    await jobUntil(one.key, first, "running");
  });
});

describe("a batch endpoint that hangs", () => {
  test("holds up no publication of a head, and no check of another job", async () => {
    const tenant = await tenantWithTickets();
    const endpoint = endpointOf(tenant.id);
    const { job: cancelled } = await startedJob(tenant);
    const { opened, open } = gate();
    let answered = 0;
    // It does not even heed the Worker's time limit.
    endpoint.submit = endpoint.stop = async (...args) => {
      await opened;
      answered++;
      return acknowledge("ended")(...args);
    };
    await created(tenant.key);
    await seen("submissions", tenant.id, 2);
    await command(tenant.key, cancelled, "cancel");
    await seen("stops", tenant.id, 1);
    const head = await call("POST", "/v1/heads", tenant.key, {
      name: "h",
      dataset: "tickets",
      evaluation: { method: "none" },
    });
    expect(head.status, head.text).toBe(201);
    const key = headKey(tenant.id, head.json.sha256);
    await vi.waitUntil(async () => (await env.KV.get(key)) !== null, PATIENCE);
    const other = await created(tenant.key);
    await jobUntil(tenant.key, other, "queued");
    expect(answered).toBe(0);
    open();
    await jobUntil(tenant.key, other, ({ graft }) => graft.attempt > 1);
  });
});

describe("an attempt that falls silent", () => {
  test("is given up, and another follows with its checkpoint, until three were", async () => {
    const { tenant, key, job, submission } = await runningJob();
    const checkpoint = { sha256: "c".repeat(64), bytes: 7 };
    const first = attemptOf(submission);
    await first.told({ type: "checkpoint", step: 1, artifact: checkpoint, metrics: {} });
    await pass(tenant, 59);
    await first.told({ type: "heartbeat" });
    await pass(tenant, 59);
    await settled(tenant);
    expect((await call("GET", `${JOBS}/${job}`, key)).json.graft.attempt).toBe(1);
    for (const next of [2, 3]) {
      await pass(tenant, 61);
      const again = await submitted(tenant, next);
      expect(again).toMatchObject({ id: job, attempt: next, checkpoint });
      expect(again.token).not.toBe(submission.token);
      await jobUntil(key, job, ({ status, graft }) => status === "running" && graft.attempt === next);
      for (const said of [{ type: "heartbeat" }, { type: "failed", message: "late", retryable: false }] as const)
        expectRefused(await first.tell(said), 409, "attempt_ended");
      expectRefused(await first.callback("GET", "/data"), 409, "attempt_ended");
    }
    await pass(tenant, 61);
    const failed = await jobUntil(key, job, "failed");
    expect(failed.error).toMatchObject({ code: "attempts_failed", param: null });
    expect(failed.error.message).toContain("nothing was heard of it for 6");
    expect(endpointOf(tenant).submissions).toHaveLength(3);
    const said = (await eventsOf(key, job)).map(({ level }) => level);
    expect(said.filter((level) => level === "warn")).toHaveLength(2);
    expect(said.at(-1)).toBe("error");
    expectRefused(await attemptOf(await submitted(tenant, 3)).tell({ type: "heartbeat" }), 409, "attempt_ended");
  });

  test("after it was told to stop is told no longer", async () => {
    const { tenant, key, job } = await runningJob();
    endpointOf(tenant).stop = respond(500);
    await command(key, job, "cancel");
    await stateUntil(tenant, job, ({ live, stopAt }) => live && stopAt > Date.now());
    await pass(tenant, 61);
    await stateUntil(tenant, job, ({ live }) => !live);
    await settled(tenant);
    expect((await call("GET", `${JOBS}/${job}`, key)).json.status).toBe("cancelled");
    const { length } = endpointOf(tenant).stops;
    await pass(tenant, 600);
    await settled(tenant);
    expect(endpointOf(tenant).stops).toHaveLength(length);
  });
});

describe("an attempt that is to stop", () => {
  test.each([
    ["cancel", "cancelled"],
    ["pause", "paused"],
  ] as const)("by %s is told so, by calls and in answers, until it has", async (name, status) => {
    const { tenant, key, job, attempt } = await runningJob();
    const endpoint = endpointOf(tenant);
    endpoint.stop = acknowledge("stopping");
    expect((await command(key, job, name)).status).toBe(status);
    await seen("stops", tenant, 1);
    const [received] = endpoint.stops;
    expect(received).toMatchObject({ method: "POST", url: `http://batch.test/graft/v1/jobs/${job}/attempts/1/stop` });
    expect(stopSchema.parse(JSON.parse(received?.text ?? ""))).toEqual({
      object: "batch.stop",
      id: job,
      attempt: 1,
      action: name,
    });
    if (received) expectSigned(received);
    expect(await attempt.told({ type: "heartbeat" })).toMatchObject({ directive: name });
    expect(await attempt.told({ type: "progress", step: 1, message: "a", metrics: {} })).toMatchObject({
      directive: name,
    });

    for (const [i, behaviour] of [
      respond(500),
      hang,
      respond(200, "x"),
      () => Promise.reject(new Error("refused")),
    ].entries()) {
      await stateUntil(tenant, job, ({ stopAt }) => stopAt > Date.now() + 10_000);
      await settled(tenant);
      endpoint.stop = behaviour;
      await pass(tenant, 16);
      await attempt.told({ type: "heartbeat" });
      await seen("stops", tenant, i + 2);
    }
    await stateUntil(tenant, job, ({ stopAt }) => stopAt > Date.now() + 10_000);
    endpoint.stop = acknowledge("ended");
    await pass(tenant, 16);
    await stateUntil(tenant, job, ({ live }) => !live);
    expectRefused(await attempt.tell({ type: "heartbeat" }), 409, "attempt_ended");
    await pass(tenant, 600);
    await settled(tenant);
    expect(endpoint.stops).toHaveLength(6);
    expect((await call("GET", `${JOBS}/${job}`, key)).json.status).toBe(status);
  });

  test("by a pause may leave a checkpoint, from which the next goes on", async () => {
    const { tenant, key, job, attempt } = await runningJob();
    endpointOf(tenant).stop = acknowledge("stopping");
    await command(key, job, "pause");
    const bytes = new Uint8Array([1, 2, 3]);
    expect((await attempt.put(bytes)).status).toBe(200);
    await attempt.told({ type: "checkpoint", step: 9, artifact: artifactOf(bytes), metrics: {} });
    expect(await attempt.told({ type: "stopped" })).toMatchObject({ directive: "end" });
    await command(key, job, "resume");
    const next = await submitted(tenant, 2);
    expect(next).toMatchObject({ attempt: 2, checkpoint: artifactOf(bytes) });
    await jobUntil(key, job, "running");
    const got = await attemptOf(next).send("GET", `/artifacts/${artifactOf(bytes).sha256}`);
    expect(new Uint8Array(await got.arrayBuffer())).toEqual(bytes);
    expect((await eventsOf(key, job)).map(({ message }) => message)).toEqual([
      "The job was created.",
      "The examples are valid, and the job is queued.",
      "Attempt 1 is running at the batch endpoint.",
      "The job was paused.",
      "The job was resumed.",
      "Attempt 2 is running at the batch endpoint.",
    ]);
  });

  test("by a pause, and is resumed before it has, has no say any more", async () => {
    const { tenant, key, job, attempt } = await runningJob();
    endpointOf(tenant).stop = acknowledge("stopping");
    await command(key, job, "pause");
    await command(key, job, "resume");
    expect((await submitted(tenant, 2)).attempt).toBe(2);
    expectRefused(await attempt.tell({ type: "stopped" }), 409, "attempt_ended");
    await jobUntil(key, job, "running");
  });

  test("that is handed back without having been told makes way for another, and counts as no failure", async () => {
    const { tenant, key, job, attempt } = await runningJob();
    let current = attempt;
    for (let next = 2; next <= 5; next++) {
      expect(await current.told({ type: "stopped" })).toMatchObject({ directive: "end" });
      current = attemptOf(await submitted(tenant, next));
      await jobUntil(key, job, "running");
    }
    expect((await stateOf(tenant, job)).lost).toBe(0);
  });

  test.each([
    ["accepted", acknowledge("running")],
    ["over already", acknowledge("ended")],
    ["refused", respond(422)],
    ["put off", respond(429)],
    ["not answered", respond(500)],
  ])("by a cancellation that came before it was %s stays cancelled", async (_what, behaviour) => {
    const { id: tenant, key } = await tenantWithTickets();
    const { opened, open } = gate();
    const endpoint = endpointOf(tenant);
    endpoint.stop = acknowledge("stopping");
    endpoint.submit = async (...args) => {
      await opened;
      return behaviour(...args);
    };
    const job = await created(key);
    await seen("submissions", tenant, 1);
    await command(key, job, "cancel");
    // It may have come to the endpoint, which is told in any case.
    await seen("stops", tenant, 1);
    open();
    endpoint.stop = acknowledge("ended");
    await settled(tenant);
    await pass(tenant, 16);
    await stateUntil(tenant, job, ({ live }) => !live);
    await settled(tenant);
    expect((await call("GET", `${JOBS}/${job}`, key)).json).toMatchObject({ status: "cancelled", error: null });
    expect(await dueOf(tenant, "submit_jobs")).toEqual([]);
    expect(endpoint.submissions).toHaveLength(1);
  });

  test("before anything was submitted is told nothing", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    endpointOf(tenant).submit = respond(429, "", { "retry-after": "60" });
    await created(key);
    await seen("submissions", tenant, 1);
    // It waits behind the first.
    const job = await created(key);
    await stateUntil(tenant, job, ({ live, validated }) => validated && !live);
    await command(key, job, "pause");
    await settled(tenant);
    await command(key, job, "cancel");
    await settled(tenant);
    expect(endpointOf(tenant).stops).toEqual([]);
    expect(endpointOf(tenant).submissions).toHaveLength(1);
  });
});

describe("a new instance of the ledger", () => {
  test("goes on with what ran, and with what waited in line", async () => {
    const owner = await tenantWithTickets();
    const { id: tenant, key } = owner;
    const { job, attempt } = await startedJob(owner);
    const endpoint = endpointOf(tenant);
    endpoint.submit = respond(429, "", { "retry-after": "60" });
    const waiting = await created(key);
    await stateUntil(tenant, waiting, ({ submitAt }) => submitAt > Date.now() + 30_000);
    await settled(tenant);
    await evictDurableObject(stubOf(tenant));
    await attempt.told({ type: "heartbeat" });
    endpoint.submit = acknowledge("running");
    await pass(tenant, 61);
    await jobUntil(key, waiting, "running");
    await jobUntil(key, job, ({ graft }) => graft.attempt === 2);
  });

  test("goes on telling an attempt to stop", async () => {
    const { tenant, key, job } = await runningJob();
    endpointOf(tenant).stop = respond(500);
    await command(key, job, "cancel");
    await stateUntil(tenant, job, ({ stopAt }) => stopAt > Date.now());
    await settled(tenant);
    // This pool waits for an alarm that is set for the next half minute or so, and evicts nothing until then.
    await pass(tenant, -100);
    await evictDurableObject(stubOf(tenant));
    endpointOf(tenant).stop = acknowledge("ended");
    await pass(tenant, 116);
    await stateUntil(tenant, job, ({ live }) => !live);
  });

  test("submits again, as the same attempt, what the one before did not see answered", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = endpointOf(tenant);
    endpoint.submit = async (received, signal) => {
      if (endpoint.submissions.length > 1) return acknowledge("running")(received, signal);
      return new Promise(() => undefined);
    };
    const job = await created(key);
    await seen("submissions", tenant, 1);
    await evictDurableObject(stubOf(tenant)).catch(() => undefined);
    await pass(tenant, 10);
    const again = await submitted(tenant, 2);
    expect(again).toMatchObject({ id: job, attempt: 1 });
    await jobUntil(key, job, "running");
  });
});

describe("what a job trains on", () => {
  /** Makes a job wait for its check again, after `change`. */
  async function checkedAfter(tenant: string, job: string, change: () => Promise<unknown>): Promise<void> {
    await inLedger(tenant, ({ sql }) => {
      const state = newJobState("if_better", Date.now());
      sql.exec("UPDATE jobs SET status = ?, state = ? WHERE id = ?", state.status, JSON.stringify(state), job);
    });
    await change();
    await inLedger(tenant, (storage) => {
      schedule(storage.sql, "job", job, Date.now());
      return arm(storage);
    });
  }

  async function waiting(body: object = {}) {
    const owner = await tenantWithTickets();
    endpointOf(owner.id).submit = respond(429, "", { "retry-after": "600" });
    const job = await created(owner.key, body);
    await stateUntil(owner.id, job, ({ submitAt }) => submitAt > Date.now() + 60_000);
    await settled(owner.id);
    return { ...owner, job };
  }

  const remake = async (key: string) => {
    await call("DELETE", "/v1/datasets/tickets", key);
    await call("POST", "/v1/datasets", key, { name: "tickets", task: "single_label", modality: "text" });
    await call("POST", "/v1/datasets/tickets/examples", key, { examples: tickets() });
  };
  const empty = async (key: string) => {
    const { data } = (await call("GET", "/v1/datasets/tickets/examples?limit=100", key)).json;
    for (const { id } of data) await call("DELETE", `/v1/datasets/tickets/examples/${id}`, key);
  };

  test.each<[string, (key: string) => Promise<unknown>, string]>([
    ["deleted", (key) => call("DELETE", "/v1/datasets/tickets", key), "not_found"],
    ["made anew under its name", remake, "not_found"],
    ["emptied", empty, "too_few_examples"],
  ])("is checked before it is submitted: a data set that was %s fails it", async (_what, change, code) => {
    const { id: tenant, key, job } = await waiting();
    const { length } = endpointOf(tenant).submissions;
    await checkedAfter(tenant, job, () => change(key));
    const failed = await jobUntil(key, job, "failed");
    expect(failed.error).toMatchObject({ code, param: "training_file" });
    expect((await eventsOf(key, job)).at(-1)).toMatchObject({ level: "error", message: failed.error.message });
    expect(endpointOf(tenant).submissions).toHaveLength(length);
  });

  test("is checked again when it is pulled: one that is gone fails the job, and no other attempt follows", async () => {
    for (const change of [(key: string) => call("DELETE", "/v1/datasets/tickets", key), remake]) {
      const { tenant, key, job, attempt } = await runningJob();
      await change(key);
      expectRefused(await attempt.callback("GET", "/data"), 409, "attempt_ended");
      const { error } = await jobUntil(key, job, "failed");
      expect(error).toEqual({ code: "training_failed", message: "No dataset 'tickets'.", param: null });
      expectRefused(await attempt.tell({ type: "heartbeat" }), 409, "attempt_ended");
      expect(endpointOf(tenant).submissions).toHaveLength(1);
    }
  });

  test("may be gone once it was pulled", async () => {
    const { key, job, attempt } = await runningJob();
    await attempt.pull();
    await call("DELETE", "/v1/datasets/tickets", key);
    const made = await trainedHead();
    await attempt.put(made.bytes);
    await attempt.told({ type: "evaluated", judgement: judgements.better });
    await attempt.told({ type: "finished", manifest: manifestOf(made, "fine_tuned") });
    await jobUntil(key, job, "succeeded");
  });
});

describe("the end of a job", () => {
  test.each([
    ["succeeded", true],
    ["failed", false],
    ["cancelled", false],
  ])("as %s deletes what its attempts uploaded", async (status, makesHead) => {
    const { id, tenant, key, job, attempt } = await runningJob({ head: "support" });
    const made = await trainedHead();
    const [first, second] = [new Uint8Array([1]), new Uint8Array([2, 2])];
    for (const bytes of [first, second, made.bytes]) expect((await attempt.put(bytes)).status).toBe(200);
    const below = `jobs/${job}/`;
    expect(await stored(tenant, below)).toHaveLength(3);
    await attempt.told({ type: "checkpoint", step: 1, artifact: artifactOf(first), metrics: {} });
    await attempt.told({ type: "checkpoint", step: 2, artifact: artifactOf(second), metrics: {} });
    await vi.waitUntil(async () => !(await stored(tenant, below)).includes(artifactOf(first).sha256), PATIENCE);
    expect(await stored(tenant, below)).toHaveLength(2);
    await attempt.told({ type: "evaluated", judgement: judgements.better });
    if (status === "succeeded") await attempt.told({ type: "finished", manifest: manifestOf(made, "fine_tuned") });
    else if (status === "failed") await attempt.told({ type: "failed", message: "no", retryable: false });
    else await command(key, job, "cancel");
    await jobUntil(key, job, status);
    await vi.waitUntil(async () => (await stored(tenant, below)).length === 0, PATIENCE);
    await settled(tenant);
    const { sha256 } = artifactOf(made.bytes);
    expect(await stored(id)).toEqual(makesHead ? [`heads/${sha256}`] : []);
    const published = await env.KV.get(headKey(tenant, sha256), "arrayBuffer");
    expect(published && new Uint8Array(published)).toEqual(makesHead ? made.bytes : null);
    const { data } = (await call("GET", `${JOBS}/${job}/checkpoints`, key)).json;
    expect(data.map(({ step_number }: { step_number: number }) => step_number)).toEqual([2, 1]);
  });

  test("deletes as well what a stopping attempt uploads after it", async () => {
    const { tenant, key, job, attempt } = await runningJob();
    endpointOf(tenant).stop = acknowledge("stopping");
    await command(key, job, "cancel");
    await seen("stops", tenant, 1);
    await settled(tenant);
    expect((await attempt.put(new Uint8Array([1, 2]))).status).toBe(200);
    expect(await stored(tenant, "jobs/")).toHaveLength(1);
    await attempt.told({ type: "stopped" });
    await vi.waitUntil(async () => (await stored(tenant, "jobs/")).length === 0, PATIENCE);
  });

  test("leaves its head's next version to a head that was deleted meanwhile, as its first", async () => {
    const { key, job, attempt } = await runningJob({ head: "support" });
    await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", evaluation: { method: "none" } });
    await call("DELETE", "/v1/heads/support", key);
    const made = await trainedHead();
    await attempt.put(made.bytes);
    await attempt.told({ type: "evaluated", judgement: judgements.better });
    await attempt.told({ type: "finished", manifest: manifestOf(made, "fine_tuned") });
    expect((await jobUntil(key, job, "succeeded")).graft).toMatchObject({ version: 1, promoted: true });
  });

  test("comes without a head where the head has no room for another version", async () => {
    const { tenant, key, job, attempt } = await runningJob({ head: "support" });
    await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", evaluation: { method: "none" } });
    await inLedger(tenant, ({ sql }) =>
      sql.exec(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO head_versions SELECT head, i, record, sha256, bytes, dataset FROM n, head_versions WHERE version = 1",
        limits.versions_per_head,
      ),
    );
    const made = await trainedHead();
    await attempt.put(made.bytes);
    await attempt.told({ type: "evaluated", judgement: judgements.better });
    expect(await attempt.told({ type: "finished", manifest: manifestOf(made, "fine_tuned") })).toMatchObject({
      directive: "end",
    });
    const { error } = await jobUntil(key, job, "failed");
    expect(error.message).toContain(`at most ${limits.versions_per_head} versions`);
    expect((await call("GET", "/v1/heads/support", key)).json.active_version).toBe(1);
  });
});

describe("a tenant that is deleted", () => {
  test("in the middle of its jobs leaves nothing, and what comes later finds and makes nothing", async () => {
    const owner = await tenantWithTickets();
    const { id: tenant, key } = owner;
    const { attempt } = await startedJob(owner);
    const made = await trainedHead();
    await attempt.put(made.bytes);
    await attempt.told({ type: "evaluated", judgement: judgements.better });
    const { opened, open } = gate();
    endpointOf(tenant).submit = async (...args) => {
      await opened;
      return acknowledge("running")(...args);
    };
    await created(key);
    await seen("submissions", tenant, 2);
    vi.spyOn(console, "error").mockImplementation(() => undefined);
    expect((await call("DELETE", `/v1/admin/tenants/${tenant}`, env.ADMIN_KEY)).status).toBe(202);
    const status = async () => (await call("GET", `/v1/admin/tenants/${tenant}`, env.ADMIN_KEY)).json.status;
    await vi.waitUntil(async () => (await status()) === "deleted", PATIENCE);
    open();
    for (const answer of [
      await attempt.tell({ type: "heartbeat" }),
      await attempt.tell({ type: "finished", manifest: manifestOf(made, "fine_tuned") }),
      await attempt.callback("GET", "/data"),
      await attempt.put(made.bytes),
    ])
      expectRefused(answer, 404, "not_found");
    await inLedger(tenant, async (storage) => {
      expect(identity(storage.sql)).toBeNull();
      expect(await storage.getAlarm()).toBeNull();
    });
    expect(await stored(tenant)).toEqual([]);
    expect(await runDurableObjectAlarm(stubOf(tenant))).toBe(false);
  });
});

describe("the daily sweep", () => {
  const sweep = (tenant: string, now: number) =>
    inLedger(tenant, (storage) =>
      runDue(
        env.KV,
        env.BUCKET,
        storage,
        (work) => work(),
        tenant,
        { id: 0, kind: "sweep", ref: "", attempts: 0 },
        now,
      ),
    );

  test("deletes artifacts that no job needs once they are old, and keeps what a running one goes on from", async () => {
    const { tenant, job, attempt } = await runningJob();
    const checkpoint = new Uint8Array([1]);
    await attempt.put(checkpoint);
    await attempt.put(new Uint8Array([2]));
    await attempt.told({ type: "checkpoint", step: 1, artifact: artifactOf(checkpoint), metrics: {} });
    const unknown = artifactKey(tenant, `ftjob-${"0".repeat(32)}`, "a".repeat(64));
    await env.BUCKET.put(unknown, "x");
    const now = Date.now();
    await sweep(tenant, now);
    expect(await stored(tenant, "jobs/")).toHaveLength(3);
    await sweep(tenant, now + HOUR + 2000);
    expect(await stored(tenant, `jobs/${job}/`)).toEqual([artifactOf(checkpoint).sha256]);
    expect(await stored(tenant, "jobs/")).toHaveLength(1);
    await attempt.told({ type: "failed", message: "no", retryable: false });
    await vi.waitUntil(async () => (await stored(tenant, "jobs/")).length === 0, PATIENCE);
  });
});
