/** What is due for fine-tuning jobs: how they are checked, submitted, stopped and given up. */
import { evictDurableObject, runDurableObjectAlarm } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { Webhook } from "standardwebhooks";
import { describe, expect, test, vi } from "vitest";
import { decodeJobState, encodeJobState, type JobState, newJobState } from "../../src/core/lifecycle/job.ts";
import { limits } from "../../src/core/limits.ts";
import { type Message, stop as stopSchema } from "../../src/jobs/protocol.ts";
import { artifactKey, headKey } from "../../src/store/keys.ts";
import { readIdentity } from "../../src/tenant/schema.ts";
import { runMaintenanceTask } from "../../src/tenant/tasks/maintenance.ts";
import { schedule, setNextAlarm } from "../../src/tenant/tasks/tasks.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import {
  acknowledge,
  advanceTime,
  attemptClient,
  comparisons,
  describeArtifact,
  fakeEndpoint,
  getTrainedHead,
  type Handler,
  inLedger,
  listDueTasks,
  listJobEvents,
  listStoredKeys,
  makeManifest,
  mockBatchEndpoint,
  neverRespond,
  newTenantWithJob,
  type ReceivedRequest,
  respond,
  SECRET,
  startJob,
  tenantStub,
  waitForJob,
  waitForSubmission,
} from "./fake-batch-endpoint.ts";

const JOBS = "/v1/fine_tuning/jobs";
const HOUR = 3_600_000;
const jobParams = { model: "text-static-1", training_file: "dataset:tickets" };
const WAIT_OPTIONS = { timeout: 30_000, interval: 10 };

mockBatchEndpoint();

async function createJob(key: string, body: object = {}): Promise<string> {
  const answer = await call("POST", JOBS, key, { ...jobParams, ...body });
  expect(answer.status, answer.text).toBe(200);
  return answer.json.id;
}

const sendCommand = async (key: string, job: string, name: "cancel" | "pause" | "resume") => {
  const answer = await call("POST", `${JOBS}/${job}/${name}`, key);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
};

function readState(tenant: string, job: string): Promise<JobState> {
  return inLedger(tenant, ({ sql }) => {
    const { state } = sql.exec<{ state: string }>("SELECT state FROM jobs WHERE id = ?", job).one();
    return decodeJobState(state);
  });
}

function waitForState(tenant: string, job: string, matches: (state: JobState) => boolean): Promise<JobState> {
  return vi.waitUntil(async () => {
    const state = await readState(tenant, job);
    return matches(state) ? state : false;
  }, WAIT_OPTIONS);
}

const waitForRequests = (kind: "submissions" | "stops", tenant: string, count: number) =>
  vi.waitUntil(() => fakeEndpoint(tenant)[kind].length >= count, WAIT_OPTIONS);

/** Work of a ledger ends: what is due next is later than now. */
const waitUntilIdle = (tenant: string) =>
  vi.waitUntil(async () => (await listDueTasks(tenant)).every(({ run_at }) => run_at > Date.now() + 400), WAIT_OPTIONS);

/** Something that a test lets happen. */
function makeGate() {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

function expectSigned({ text, headers }: ReceivedRequest): void {
  expect(new Webhook(SECRET).verify(text, Object.fromEntries(headers))).toEqual(JSON.parse(text));
}

describe("a submission", () => {
  test("names all that the batch endpoint needs, is signed, and its token opens the job's data", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const hyperparameters = { n_epochs: 3, learning_rate_multiplier: 0.5 };
    const body = { seed: 9, trainable: "head", suffix: "s", hyperparameters };
    const job = await createJob(key, body);
    const submission = await waitForSubmission(tenant);
    const running = await waitForJob(key, job, "running");
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
      comparison: "cross_fit",
      edge_budget: { bytes: 56_000_000, operations: 1_400_000_000_000 },
      estimate: { bytes: expect.any(Number), operations: expect.any(Number) },
      checkpoint: null,
      clamp: false,
      heartbeat_seconds: 6,
    });
    const [received] = fakeEndpoint(tenant).submissions;
    expect(received?.method).toBe("PUT");
    expect(received?.url).toBe(`http://batch.test/graft/v1/jobs/${job}/attempts/1`);
    expect(received?.headers.get("content-type")).toBe("application/json");
    if (received) expectSigned(received);
    expect(await attemptClient(submission).fetchData()).toHaveLength(19);
    expect((await listJobEvents(key, job)).map(({ level, message }) => [level, message])).toEqual([
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
    await createJob(key, { model: "embedding", training_file: "dataset:points" });
    expect(await waitForSubmission(tenant)).toMatchObject({
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
    ["no answer in time", () => neverRespond, 0.75, 1.25],
    ["no connection", () => () => Promise.reject(new TypeError("connection refused")), 0.75, 1.25],
    ["no JSON", () => respond(200, "<html>"), 0.75, 1.25],
    ["other JSON", () => respond(202, { ok: true }), 0.75, 1.25],
    ["nothing", () => respond(202), 0.75, 1.25],
    ["an answer without an end", () => () => new Response(endlessBody(), { status: 200 }), 0.75, 1.25],
    ["half an answer", () => () => new Response(cutOffBody(), { status: 200 }), 0.75, 1.25],
  ])(
    "answered with %s is sent again, as the same attempt, when it is time",
    async (_what, behaviour, minSeconds, maxSeconds) => {
      const { id: tenant, key } = await tenantWithTickets();
      const endpoint = fakeEndpoint(tenant);
      endpoint.onSubmit = behaviour();
      const before = Date.now();
      const job = await createJob(key);
      const state = await waitForState(
        tenant,
        job,
        ({ submitAt, status }) => status === "queued" && submitAt > before + 700,
      );
      const now = Date.now();
      expect((state.submitAt - before) / 1000).toBeGreaterThanOrEqual(minSeconds);
      expect((state.submitAt - now) / 1000).toBeLessThanOrEqual(maxSeconds);
      expect(endpoint.submissions).toHaveLength(1);
      await vi.waitUntil(
        async () => (await listDueTasks(tenant, "submit_jobs"))[0]?.run_at === state.submitAt,
        WAIT_OPTIONS,
      );
      endpoint.onSubmit = acknowledge("running", 202);
      await advanceTime(tenant, maxSeconds + 1);
      await waitForJob(key, job, "running");
      const [first, second] = endpoint.submissions.map(({ text }) => JSON.parse(text));
      expect(second).toEqual(first);
      expect(endpoint.submissions).toHaveLength(2);
      await vi.waitUntil(async () => (await listDueTasks(tenant, "submit_jobs")).length === 0, WAIT_OPTIONS);
      const warned = (await listJobEvents(key, job)).filter(({ level }) => level === "warn");
      expect(warned).toHaveLength(minSeconds === 5 || _what.startsWith("429") ? 0 : 1);
    },
  );

  test("that nobody answers is sent further and further apart, and told of once", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    fakeEndpoint(tenant).onSubmit = respond(500);
    const job = await createJob(key);
    const delays: number[] = [];
    for (let i = 1; i <= 8; i++) {
      const { submitAt } = await waitForState(tenant, job, ({ unanswered }) => unanswered === i);
      delays.push((submitAt - Date.now()) / 1000);
      await waitUntilIdle(tenant);
      await advanceTime(tenant, 90);
    }
    for (const [i, minDelay] of [0.7, 1.4, 2.9, 5.9, 11.9, 23.9, 44.9, 44.9].entries()) {
      expect(delays[i]).toBeGreaterThan(minDelay);
      expect(delays[i]).toBeLessThanOrEqual(1.25 * Math.min(2 ** i, 60));
    }
    expect((await listJobEvents(key, job)).filter(({ level }) => level === "warn")).toMatchObject([
      { message: "The batch endpoint did not take the job: it answered 500." },
    ]);
  });

  test.each<[string, ReturnType<typeof respond>, string]>([
    ["why", respond(422, { error: { message: "no such backbone" } }), "no such backbone"],
    ["at length why", respond(422, { error: { message: "x".repeat(9000) } }), `${"x".repeat(500)}`],
    ["nothing", respond(422, "no"), "it did not say why."],
    ["a reason that is none", respond(422, { error: { message: 1 } }), "it did not say why."],
  ])("that is rejected ends its job, which tells %s", async (_what, behaviour, expectedMessage) => {
    const { id: tenant, key } = await tenantWithTickets();
    fakeEndpoint(tenant).onSubmit = behaviour;
    const job = await waitForJob(key, await createJob(key), "failed");
    expect(job).toMatchObject({ finished_at: expect.any(Number), graft: { version: null } });
    expect(job.error).toEqual({
      code: "batch_rejected",
      message: `The batch endpoint refused the job: ${expectedMessage}`,
      param: null,
    });
    expect((await listJobEvents(key, job.id)).at(-1)).toMatchObject({ level: "error", message: job.error.message });
    await waitUntilIdle(tenant);
    expect(await listDueTasks(tenant, "submit_jobs")).toEqual([]);
    expect(fakeEndpoint(tenant).submissions).toHaveLength(1);
  });

  test("of an attempt that is over already makes way for another, three times", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    fakeEndpoint(tenant).onSubmit = acknowledge("ended");
    const job = await waitForJob(key, await createJob(key), "failed");
    expect(job.error.code).toBe("attempts_failed");
    const attempts = fakeEndpoint(tenant).submissions.map(({ text }) => JSON.parse(text).attempt);
    expect(attempts).toEqual([1, 2, 3]);
  });
});

/** Bytes for as long as they are read. */
const endlessBody = () =>
  new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(1000).fill(0x20)) });
const cutOffBody = () =>
  new ReadableStream({
    start: (controller) => controller.enqueue(Buffer.from('{"object":')),
    pull: (controller) => controller.error(new Error("connection lost")),
  });

describe("the line of a tenant's jobs", () => {
  test("is served oldest first, one submission at a time", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant);
    const gates = [makeGate(), makeGate(), makeGate()];
    let activeCount = 0;
    const order: string[] = [];
    endpoint.onSubmit = async (received, signal) => {
      expect(++activeCount).toBe(1);
      const { id } = JSON.parse(received.text);
      await gates[order.push(id) - 1]?.opened;
      activeCount--;
      return acknowledge("running")(received, signal);
    };
    const jobs = [await createJob(key), await createJob(key), await createJob(key)];
    for (const [i, { open }] of gates.entries()) {
      await waitForRequests("submissions", tenant, i + 1);
      await Promise.all(jobs.map((job) => waitForState(tenant, job, ({ validated }) => validated)));
      expect(endpoint.submissions).toHaveLength(i + 1);
      open();
    }
    for (const job of jobs) await waitForJob(key, job, "running");
    expect(order).toEqual(jobs);
  });

  test("is not held up for ever by a job that the endpoint never answers", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant);
    const bad = await createJob(key, { suffix: "bad" });
    endpoint.onSubmit = (received, signal) =>
      (JSON.parse(received.text).id === bad ? respond(500) : acknowledge("running"))(received, signal);
    await waitForState(tenant, bad, ({ unanswered, status }) => unanswered > 0 || status === "running");
    for (let i = 0; i < 3; i++) await waitForJob(key, await createJob(key), "running");
    endpoint.onSubmit = acknowledge("running");
    await advanceTime(tenant, 300);
    await waitForJob(key, bad, "running");
  });

  test("waits for the job whose turn it is where the endpoint is busy, and goes on in order", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onSubmit = respond(429, "", { "retry-after": "60" });
    const jobs = [await createJob(key), await createJob(key)];
    for (const job of jobs) await waitForState(tenant, job, ({ validated }) => validated);
    await waitUntilIdle(tenant);
    expect(endpoint.submissions).toHaveLength(1);
    expect(await listDueTasks(tenant, "submit_jobs")).toHaveLength(1);
    endpoint.onSubmit = acknowledge("running");
    await advanceTime(tenant, 61);
    for (const job of jobs) await waitForJob(key, job, "running");
    expect(endpoint.submissions.map(({ text }) => JSON.parse(text).id)).toEqual([jobs[0], ...jobs]);
  });

  test("lets a smaller job pass one that the endpoint has no room for, and then keeps the order of their work", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onSubmit = respond(429, "", { "retry-after": "20" });
    const large = await createJob(key, { hyperparameters: { n_epochs: 50 } });
    await waitForRequests("submissions", tenant, 1);
    const larger = await createJob(key, { hyperparameters: { n_epochs: 100 } });
    await waitForState(tenant, larger, ({ validated }) => validated);
    await waitUntilIdle(tenant);
    expect(endpoint.submissions).toHaveLength(1);
    const small = await createJob(key, { trainable: "head" });
    await waitForRequests("submissions", tenant, 2);
    await waitUntilIdle(tenant);
    expect(endpoint.submissions).toHaveLength(2);
    endpoint.onSubmit = acknowledge("running");
    await advanceTime(tenant, 21);
    for (const job of [larger, large, small]) await waitForJob(key, job, "running");
    const submissions = endpoint.submissions.map(({ text }) => JSON.parse(text));
    expect(submissions.map(({ id }) => id)).toEqual([large, small, small, large, larger]);
    const operations = submissions.slice(2).map(({ estimate }) => estimate.operations);
    expect(operations).toEqual(operations.toSorted((a, b) => a - b));
  });

  test("is held up by a job that is to be submitted again in ten minutes for 30 seconds at most", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onSubmit = respond(429, "", { "retry-after": "600" });
    await createJob(key);
    await waitForRequests("submissions", tenant, 1);
    const next = await createJob(key);
    await waitForState(tenant, next, ({ validated }) => validated);
    await waitUntilIdle(tenant);
    expect(endpoint.submissions).toHaveLength(1);
    endpoint.onSubmit = acknowledge("running");
    await advanceTime(tenant, 31);
    await waitForJob(key, next, "running");
    expect(endpoint.submissions).toHaveLength(2);
  });

  test("goes on with a job that an older build has made, without an estimate", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onSubmit = respond(429, "", { "retry-after": "20" });
    const job = await createJob(key);
    await waitForRequests("submissions", tenant, 1);
    await waitUntilIdle(tenant);
    await inLedger(tenant, ({ sql }) => sql.exec("UPDATE jobs SET spec = json_remove(spec, '$.estimate')"));
    endpoint.onSubmit = acknowledge("running");
    await advanceTime(tenant, 21);
    await waitForJob(key, job, "running");
    expect(await waitForSubmission(tenant, 2)).not.toHaveProperty("estimate");
  });

  test("of one tenant is not another's", async () => {
    const [firstTenant, secondTenant] = [await tenantWithTickets(), await tenantWithTickets()];
    const { opened, open } = makeGate();
    fakeEndpoint(firstTenant.id).onSubmit = async (...args) => {
      await opened;
      return acknowledge("running")(...args);
    };
    const first = await createJob(firstTenant.key);
    await waitForRequests("submissions", firstTenant.id, 1);
    await startJob(secondTenant);
    open();
    await waitForJob(firstTenant.key, first, "running");
  });
});

describe("a batch endpoint that hangs", () => {
  test("holds up no publication of a head, and no check of another job", async () => {
    const tenant = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant.id);
    const { job: cancelledJob } = await startJob(tenant);
    const { opened, open } = makeGate();
    let answered = 0;
    // It does not even heed the Worker's time limit.
    endpoint.onSubmit = endpoint.onStop = async (...args) => {
      await opened;
      answered++;
      return acknowledge("ended")(...args);
    };
    await createJob(tenant.key);
    await waitForRequests("submissions", tenant.id, 2);
    await sendCommand(tenant.key, cancelledJob, "cancel");
    await waitForRequests("stops", tenant.id, 1);
    const head = await call("POST", "/v1/heads", tenant.key, {
      name: "h",
      dataset: "tickets",
      evaluation: { method: "none" },
    });
    expect(head.status, head.text).toBe(201);
    const key = headKey(tenant.id, head.json.sha256);
    await vi.waitUntil(async () => (await env.KV.get(key)) !== null, WAIT_OPTIONS);
    const other = await createJob(tenant.key);
    await waitForJob(tenant.key, other, "queued");
    expect(answered).toBe(0);
    open();
    await waitForJob(tenant.key, other, ({ graft }) => graft.attempt > 1);
  });
});

describe("an attempt that falls silent", () => {
  test("is given up, and another follows with its checkpoint, until three were", async () => {
    const { tenant, key, job, submission } = await newTenantWithJob();
    const checkpoint = { sha256: "c".repeat(64), bytes: 7 };
    const first = attemptClient(submission);
    await first.sendAcceptedMessage({ type: "checkpoint", step: 1, artifact: checkpoint, metrics: {} });
    await advanceTime(tenant, 59);
    await first.sendAcceptedMessage({ type: "heartbeat" });
    await advanceTime(tenant, 59);
    await waitUntilIdle(tenant);
    expect((await call("GET", `${JOBS}/${job}`, key)).json.graft.attempt).toBe(1);
    for (const attemptNumber of [2, 3]) {
      await advanceTime(tenant, 61);
      const nextSubmission = await waitForSubmission(tenant, attemptNumber);
      expect(nextSubmission).toMatchObject({ id: job, attempt: attemptNumber, checkpoint });
      expect(nextSubmission.token).not.toBe(submission.token);
      await waitForJob(key, job, ({ status, graft }) => status === "running" && graft.attempt === attemptNumber);
      for (const message of [{ type: "heartbeat" }, { type: "failed", message: "late", retryable: false }] as const)
        expectError(await first.tell(message), 409, "attempt_ended");
      expectError(await first.callback("GET", "/data"), 409, "attempt_ended");
    }
    await advanceTime(tenant, 61);
    const failed = await waitForJob(key, job, "failed");
    expect(failed.error).toMatchObject({ code: "attempts_failed", param: null });
    expect(failed.error.message).toContain("nothing was heard of it for 6");
    expect(fakeEndpoint(tenant).submissions).toHaveLength(3);
    const levels = (await listJobEvents(key, job)).map(({ level }) => level);
    expect(levels.filter((level) => level === "warn")).toHaveLength(2);
    expect(levels.at(-1)).toBe("error");
    expectError(
      await attemptClient(await waitForSubmission(tenant, 3)).tell({ type: "heartbeat" }),
      409,
      "attempt_ended",
    );
  });

  const orphaned: Handler = ({ text }) => {
    const { id, attempt } = JSON.parse(text);
    const body = { object: "batch.attempt", id, attempt, status: "ended", endpoint_restarted: true };
    return Response.json(body);
  };
  test.each<[string, Handler, boolean]>([
    ["still has it", acknowledge("stopping", 202), false],
    ["saw it end, or is an older one", acknowledge("ended"), false],
    ["was restarted since", orphaned, true],
    ["is not there", () => Promise.reject(new TypeError("connection refused")), true],
    ["does not answer in time", neverRespond, true],
    ["answers an error", respond(502), true],
  ])("is told to end, and counts as failed unless the endpoint was lost: one that %s", async (_, onStop, lost) => {
    const { tenant, key, job } = await newTenantWithJob();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onStop = onStop;
    await advanceTime(tenant, 61);
    await waitForJob(key, job, ({ status, graft }) => status === "running" && graft.attempt === 2);
    expect(JSON.parse(endpoint.stops[0]?.text ?? "")).toMatchObject({ id: job, attempt: 1, action: "cancel" });
    const counts = { failedAttempts: lost ? 0 : 1, endpointDeaths: lost ? 1 : 0 };
    expect(await readState(tenant, job)).toMatchObject(counts);
    const message = `Attempt 1 was ${lost ? "lost with the batch endpoint" : "given up"}: nothing was heard of it for 6`;
    expect((await listJobEvents(key, job)).some((event) => event.message.startsWith(message))).toBe(true);
  });

  test("and whose endpoint is restarted under it fails the job the fifth time, and not before", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    const report = { type: "failed", message: "The endpoint ended.", retryable: true } as const;
    let current = attempt;
    for (let deaths = 1; deaths <= 5; deaths++) {
      const lost = { ...report, endpoint_restarted: true };
      await current.sendAcceptedMessage(lost);
      expectError(await current.tell(lost), 409, "attempt_ended");
      if (deaths === 5) break;
      current = attemptClient(await waitForSubmission(tenant, deaths + 1));
      await waitForJob(key, job, "running");
    }
    const failed = await waitForJob(key, job, "failed");
    expect(failed.error).toMatchObject({ code: "endpoint_lost", param: null });
    expect(failed.error.message).toContain("has ended 5 times under this job");
    expect(fakeEndpoint(tenant).submissions).toHaveLength(5);
  });

  test("before its submission was answered, with the endpoint, counts as no failure either", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onSubmit = (...args) =>
      (endpoint.submissions.length === 1 ? orphaned : acknowledge("running", 202))(...args);
    const job = await createJob(key);
    await waitForJob(key, job, ({ status, graft }) => status === "running" && graft.attempt === 2);
    expect(await readState(tenant, job)).toMatchObject({ failedAttempts: 0, endpointDeaths: 1 });
  });

  test("after it was told to stop is told no longer", async () => {
    const { tenant, key, job } = await newTenantWithJob();
    fakeEndpoint(tenant).onStop = respond(500);
    await sendCommand(key, job, "cancel");
    await waitForState(tenant, job, ({ inFlight, stopAt }) => inFlight && stopAt > Date.now());
    await advanceTime(tenant, 61);
    await waitForState(tenant, job, ({ inFlight }) => !inFlight);
    await waitUntilIdle(tenant);
    expect((await call("GET", `${JOBS}/${job}`, key)).json.status).toBe("cancelled");
    const { length } = fakeEndpoint(tenant).stops;
    await advanceTime(tenant, 600);
    await waitUntilIdle(tenant);
    expect(fakeEndpoint(tenant).stops).toHaveLength(length);
  });
});

describe("an attempt that is to stop", () => {
  test.each([
    ["cancel", "cancelled"],
    ["pause", "paused"],
  ] as const)("by %s is told so, by calls and in answers, until it has", async (name, status) => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onStop = acknowledge("stopping");
    expect((await sendCommand(key, job, name)).status).toBe(status);
    await waitForRequests("stops", tenant, 1);
    const [received] = endpoint.stops;
    expect(received).toMatchObject({ method: "POST", url: `http://batch.test/graft/v1/jobs/${job}/attempts/1/stop` });
    expect(stopSchema.parse(JSON.parse(received?.text ?? ""))).toEqual({
      object: "batch.stop",
      id: job,
      attempt: 1,
      action: name,
    });
    if (received) expectSigned(received);
    const expectDirective = async (message: Message) => {
      const answer = await attempt.tell(message);
      if (name === "cancel") expectError(answer, 409, "attempt_ended");
      else expect([answer.status, answer.json?.directive], answer.text).toEqual([200, "pause"]);
    };
    await expectDirective({ type: "heartbeat" });
    await expectDirective({ type: "progress", step: 1, message: "a", metrics: {} });

    const behaviours = [
      respond(500),
      neverRespond,
      respond(200, "x"),
      () => Promise.reject(new Error("refused")),
      // A cancelled attempt has been silent for a minute before more of them have passed.
    ].slice(name === "cancel" ? 2 : 0);
    for (const [i, behaviour] of behaviours.entries()) {
      await waitForState(tenant, job, ({ stopAt }) => stopAt > Date.now() + 10_000);
      await waitUntilIdle(tenant);
      endpoint.onStop = behaviour;
      await advanceTime(tenant, 16);
      await expectDirective({ type: "heartbeat" });
      await waitForRequests("stops", tenant, i + 2);
    }
    await waitForState(tenant, job, ({ stopAt }) => stopAt > Date.now() + 10_000);
    endpoint.onStop = acknowledge("ended");
    await advanceTime(tenant, 16);
    await waitForState(tenant, job, ({ inFlight }) => !inFlight);
    expectError(await attempt.tell({ type: "heartbeat" }), 409, "attempt_ended");
    await advanceTime(tenant, 600);
    await waitUntilIdle(tenant);
    expect(endpoint.stops).toHaveLength(behaviours.length + 2);
    expect((await call("GET", `${JOBS}/${job}`, key)).json.status).toBe(status);
  });

  test("by a pause may leave a checkpoint, from which the next goes on", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    fakeEndpoint(tenant).onStop = acknowledge("stopping");
    await sendCommand(key, job, "pause");
    const bytes = new Uint8Array([1, 2, 3]);
    expect((await attempt.uploadArtifact(bytes)).status).toBe(200);
    await attempt.sendAcceptedMessage({ type: "checkpoint", step: 9, artifact: describeArtifact(bytes), metrics: {} });
    expect(await attempt.sendAcceptedMessage({ type: "stopped" })).toMatchObject({ directive: "end" });
    await sendCommand(key, job, "resume");
    const nextSubmission = await waitForSubmission(tenant, 2);
    expect(nextSubmission).toMatchObject({ attempt: 2, checkpoint: describeArtifact(bytes) });
    await waitForJob(key, job, "running");
    const got = await attemptClient(nextSubmission).send("GET", `/artifacts/${describeArtifact(bytes).sha256}`);
    expect(new Uint8Array(await got.arrayBuffer())).toEqual(bytes);
    expect((await listJobEvents(key, job)).map(({ message }) => message)).toEqual([
      "The job was created.",
      "The examples are valid, and the job is queued.",
      "Attempt 1 is running at the batch endpoint.",
      "The job was paused.",
      "The job was resumed.",
      "Attempt 2 is running at the batch endpoint.",
    ]);
  });

  test("by a pause, and is resumed before it has, has no say any more", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    fakeEndpoint(tenant).onStop = acknowledge("stopping");
    await sendCommand(key, job, "pause");
    await sendCommand(key, job, "resume");
    expect((await waitForSubmission(tenant, 2)).attempt).toBe(2);
    expectError(await attempt.tell({ type: "stopped" }), 409, "attempt_ended");
    await waitForJob(key, job, "running");
  });

  test("that is handed back without having been told makes way for another, and counts as no failure", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    let current = attempt;
    for (let attemptNumber = 2; attemptNumber <= 5; attemptNumber++) {
      expect(await current.sendAcceptedMessage({ type: "stopped" })).toMatchObject({ directive: "end" });
      current = attemptClient(await waitForSubmission(tenant, attemptNumber));
      await waitForJob(key, job, "running");
    }
    expect((await readState(tenant, job)).failedAttempts).toBe(0);
  });

  test.each([
    ["accepted", acknowledge("running")],
    ["over already", acknowledge("ended")],
    ["refused", respond(422)],
    ["put off", respond(429)],
    ["not answered", respond(500)],
  ])("by a cancellation that came before it was %s stays cancelled", async (_what, behaviour) => {
    const { id: tenant, key } = await tenantWithTickets();
    const { opened, open } = makeGate();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onStop = acknowledge("stopping");
    endpoint.onSubmit = async (...args) => {
      await opened;
      return behaviour(...args);
    };
    const job = await createJob(key);
    await waitForRequests("submissions", tenant, 1);
    await sendCommand(key, job, "cancel");
    // It may have come to the endpoint, which is told in any case.
    await waitForRequests("stops", tenant, 1);
    open();
    endpoint.onStop = acknowledge("ended");
    await waitUntilIdle(tenant);
    await advanceTime(tenant, 16);
    await waitForState(tenant, job, ({ inFlight }) => !inFlight);
    await waitUntilIdle(tenant);
    expect((await call("GET", `${JOBS}/${job}`, key)).json).toMatchObject({ status: "cancelled", error: null });
    expect(await listDueTasks(tenant, "submit_jobs")).toEqual([]);
    expect(endpoint.submissions).toHaveLength(1);
  });

  test("before anything was submitted is told nothing", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    fakeEndpoint(tenant).onSubmit = respond(429, "", { "retry-after": "60" });
    await createJob(key);
    await waitForRequests("submissions", tenant, 1);
    // It waits behind the first.
    const job = await createJob(key);
    await waitForState(tenant, job, ({ inFlight, validated }) => validated && !inFlight);
    await sendCommand(key, job, "pause");
    await waitUntilIdle(tenant);
    await sendCommand(key, job, "cancel");
    await waitUntilIdle(tenant);
    expect(fakeEndpoint(tenant).stops).toEqual([]);
    expect(fakeEndpoint(tenant).submissions).toHaveLength(1);
  });
});

describe("a new instance of the ledger", () => {
  test("goes on with what ran, and with what waited in line", async () => {
    const owner = await tenantWithTickets();
    const { id: tenant, key } = owner;
    const { job, attempt } = await startJob(owner);
    const endpoint = fakeEndpoint(tenant);
    endpoint.onSubmit = respond(429, "", { "retry-after": "60" });
    const waitingJob = await createJob(key);
    await waitForState(tenant, waitingJob, ({ submitAt }) => submitAt > Date.now() + 30_000);
    await waitUntilIdle(tenant);
    await evictDurableObject(tenantStub(tenant));
    await attempt.sendAcceptedMessage({ type: "heartbeat" });
    endpoint.onSubmit = acknowledge("running");
    await advanceTime(tenant, 61);
    await waitForJob(key, waitingJob, "running");
    await waitForJob(key, job, ({ graft }) => graft.attempt === 2);
  });

  test("goes on telling an attempt to stop", async () => {
    const { tenant, key, job } = await newTenantWithJob();
    fakeEndpoint(tenant).onStop = respond(500);
    await sendCommand(key, job, "cancel");
    await waitForState(tenant, job, ({ stopAt }) => stopAt > Date.now());
    await waitUntilIdle(tenant);
    // This pool waits for an alarm that is set for the next half minute or so, and evicts nothing until then.
    await advanceTime(tenant, -100);
    await evictDurableObject(tenantStub(tenant));
    fakeEndpoint(tenant).onStop = acknowledge("ended");
    await advanceTime(tenant, 116);
    await waitForState(tenant, job, ({ inFlight }) => !inFlight);
  });

  test("submits again, as the same attempt, what the one before did not see answered", async () => {
    const { id: tenant, key } = await tenantWithTickets();
    const endpoint = fakeEndpoint(tenant);
    endpoint.onSubmit = async (received, signal) => {
      if (endpoint.submissions.length > 1) return acknowledge("running")(received, signal);
      return new Promise(() => undefined);
    };
    const job = await createJob(key);
    await waitForRequests("submissions", tenant, 1);
    await evictDurableObject(tenantStub(tenant)).catch(() => undefined);
    await advanceTime(tenant, 10);
    const nextSubmission = await waitForSubmission(tenant, 2);
    expect(nextSubmission).toMatchObject({ id: job, attempt: 1 });
    await waitForJob(key, job, "running");
  });
});

describe("what a job trains on", () => {
  /** Makes a job wait for its check again, after `change`. */
  async function checkAfterChange(tenant: string, job: string, change: () => Promise<unknown>): Promise<void> {
    await inLedger(tenant, ({ sql }) => {
      const state = newJobState("if_better", Date.now());
      sql.exec("UPDATE jobs SET status = ?, state = ? WHERE id = ?", state.status, encodeJobState(state), job);
    });
    await change();
    await inLedger(tenant, (storage) => {
      schedule(storage.sql, "job", job, Date.now());
      return setNextAlarm(storage);
    });
  }

  async function newWaitingJob(body: object = {}) {
    const owner = await tenantWithTickets();
    fakeEndpoint(owner.id).onSubmit = respond(429, "", { "retry-after": "600" });
    const job = await createJob(owner.key, body);
    await waitForState(owner.id, job, ({ submitAt }) => submitAt > Date.now() + 60_000);
    await waitUntilIdle(owner.id);
    return { ...owner, job };
  }

  const recreateDataset = async (key: string) => {
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
    ["made anew under its name", recreateDataset, "not_found"],
    ["emptied", empty, "too_few_examples"],
  ])("is checked before it is submitted: a data set that was %s fails it", async (_what, change, code) => {
    const { id: tenant, key, job } = await newWaitingJob();
    const { length } = fakeEndpoint(tenant).submissions;
    await checkAfterChange(tenant, job, () => change(key));
    const failed = await waitForJob(key, job, "failed");
    expect(failed.error).toMatchObject({ code, param: "training_file" });
    expect((await listJobEvents(key, job)).at(-1)).toMatchObject({ level: "error", message: failed.error.message });
    expect(fakeEndpoint(tenant).submissions).toHaveLength(length);
  });

  test("is checked again when it is pulled: one that is gone fails the job, and no other attempt follows", async () => {
    for (const change of [(key: string) => call("DELETE", "/v1/datasets/tickets", key), recreateDataset]) {
      const { tenant, key, job, attempt } = await newTenantWithJob();
      await change(key);
      expectError(await attempt.callback("GET", "/data"), 409, "attempt_ended");
      const { error } = await waitForJob(key, job, "failed");
      expect(error).toEqual({ code: "training_failed", message: "No dataset 'tickets'.", param: null });
      expectError(await attempt.tell({ type: "heartbeat" }), 409, "attempt_ended");
      expect(fakeEndpoint(tenant).submissions).toHaveLength(1);
    }
  });

  test("may be gone once it was pulled", async () => {
    const { key, job, attempt } = await newTenantWithJob();
    await attempt.fetchData();
    await call("DELETE", "/v1/datasets/tickets", key);
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") });
    await waitForJob(key, job, "succeeded");
  });
});

describe("the end of a job", () => {
  test.each([
    ["succeeded", true],
    ["failed", false],
    ["cancelled", false],
  ])("as %s deletes what its attempts uploaded", async (status, runToHead) => {
    const { id, tenant, key, job, attempt } = await newTenantWithJob({ head: "support" });
    const trainedHead = await getTrainedHead();
    const [first, second] = [new Uint8Array([1]), new Uint8Array([2, 2])];
    for (const bytes of [first, second, trainedHead.bytes])
      expect((await attempt.uploadArtifact(bytes)).status).toBe(200);
    const listBelow = `jobs/${job}/`;
    expect(await listStoredKeys(tenant, listBelow)).toHaveLength(3);
    await attempt.sendAcceptedMessage({ type: "checkpoint", step: 1, artifact: describeArtifact(first), metrics: {} });
    await attempt.sendAcceptedMessage({ type: "checkpoint", step: 2, artifact: describeArtifact(second), metrics: {} });
    await vi.waitUntil(
      async () => !(await listStoredKeys(tenant, listBelow)).includes(describeArtifact(first).sha256),
      WAIT_OPTIONS,
    );
    expect(await listStoredKeys(tenant, listBelow)).toHaveLength(2);
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    if (status === "succeeded")
      await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") });
    else if (status === "failed")
      await attempt.sendAcceptedMessage({ type: "failed", message: "no", retryable: false });
    else await sendCommand(key, job, "cancel");
    await waitForJob(key, job, status);
    await vi.waitUntil(async () => (await listStoredKeys(tenant, listBelow)).length === 0, WAIT_OPTIONS);
    await waitUntilIdle(tenant);
    const { sha256 } = describeArtifact(trainedHead.bytes);
    expect(await listStoredKeys(id)).toEqual(runToHead ? [`heads/${sha256}`] : []);
    const published = await env.KV.get(headKey(tenant, sha256), "arrayBuffer");
    expect(published && new Uint8Array(published)).toEqual(runToHead ? trainedHead.bytes : null);
    const { data } = (await call("GET", `${JOBS}/${job}/checkpoints`, key)).json;
    expect(data.map(({ step_number }: { step_number: number }) => step_number)).toEqual([2, 1]);
  });

  test("deletes as well what an upload that was under way stores after it", async () => {
    const { tenant, key, job } = await newTenantWithJob();
    fakeEndpoint(tenant).onStop = acknowledge("stopping");
    await sendCommand(key, job, "cancel");
    await waitForRequests("stops", tenant, 1);
    await waitUntilIdle(tenant);
    await env.BUCKET.put(artifactKey(tenant, job, "a".repeat(64)), "x");
    fakeEndpoint(tenant).onStop = acknowledge("ended");
    await advanceTime(tenant, 16);
    await vi.waitUntil(async () => (await listStoredKeys(tenant, "jobs/")).length === 0, WAIT_OPTIONS);
  });

  test("leaves its head's next version to a head that was deleted meanwhile, as its first", async () => {
    const { key, job, attempt } = await newTenantWithJob({ head: "support" });
    await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", evaluation: { method: "none" } });
    await call("DELETE", "/v1/heads/support", key);
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") });
    expect((await waitForJob(key, job, "succeeded")).graft).toMatchObject({ version: 1, promoted: true });
  });

  test("comes without a head where the head has no room for another version", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob({ head: "support" });
    await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", evaluation: { method: "none" } });
    await inLedger(tenant, ({ sql }) =>
      sql.exec(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO head_versions SELECT head, i, record, sha256, bytes, dataset, revision FROM n, head_versions WHERE version = 1",
        limits.versions_per_head,
      ),
    );
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    expect(
      await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") }),
    ).toMatchObject({
      directive: "end",
    });
    const { error } = await waitForJob(key, job, "failed");
    expect(error.message).toContain(`at most ${limits.versions_per_head} versions`);
    expect((await call("GET", "/v1/heads/support", key)).json.active_version).toBe(1);
  });
});

describe("a tenant that is deleted", () => {
  test("in the middle of its jobs leaves nothing, and what comes later finds and makes nothing", async () => {
    const owner = await tenantWithTickets();
    const { id: tenant, key } = owner;
    const { attempt } = await startJob(owner);
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    const { opened, open } = makeGate();
    fakeEndpoint(tenant).onSubmit = async (...args) => {
      await opened;
      return acknowledge("running")(...args);
    };
    await createJob(key);
    await waitForRequests("submissions", tenant, 2);
    vi.spyOn(console, "error").mockImplementation(() => undefined);
    expect((await call("DELETE", `/v1/admin/tenants/${tenant}`, env.ADMIN_KEY)).status).toBe(202);
    const status = async () => (await call("GET", `/v1/admin/tenants/${tenant}`, env.ADMIN_KEY)).json.status;
    await vi.waitUntil(async () => (await status()) === "deleted", WAIT_OPTIONS);
    open();
    for (const answer of [
      await attempt.tell({ type: "heartbeat" }),
      await attempt.tell({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") }),
      await attempt.callback("GET", "/data"),
      await attempt.uploadArtifact(trainedHead.bytes),
    ])
      expectError(answer, 404, "not_found");
    await inLedger(tenant, async (storage) => {
      expect(readIdentity(storage.sql)).toBeNull();
      expect(await storage.getAlarm()).toBeNull();
    });
    expect(await listStoredKeys(tenant)).toEqual([]);
    expect(await runDurableObjectAlarm(tenantStub(tenant))).toBe(false);
  });
});

describe("the daily sweep", () => {
  const runSweep = (tenant: string, now: number) =>
    inLedger(tenant, (storage) =>
      runMaintenanceTask(
        { kv: env.KV, bucket: env.BUCKET, storage, tenant, exclusive: (work) => work() },
        { id: 0, kind: "sweep", ref: "", attempts: 0 },
        now,
      ),
    );

  test("deletes artifacts that no job needs once they are old, and keeps what a running one goes on from", async () => {
    const { tenant, job, attempt } = await newTenantWithJob();
    const checkpoint = new Uint8Array([1]);
    await attempt.uploadArtifact(checkpoint);
    await attempt.uploadArtifact(new Uint8Array([2]));
    await attempt.sendAcceptedMessage({
      type: "checkpoint",
      step: 1,
      artifact: describeArtifact(checkpoint),
      metrics: {},
    });
    const unknown = artifactKey(tenant, `ftjob-${"0".repeat(32)}`, "a".repeat(64));
    await env.BUCKET.put(unknown, "x");
    const now = Date.now();
    await runSweep(tenant, now);
    expect(await listStoredKeys(tenant, "jobs/")).toHaveLength(3);
    await runSweep(tenant, now + HOUR + 2000);
    expect(await listStoredKeys(tenant, `jobs/${job}/`)).toEqual([describeArtifact(checkpoint).sha256]);
    expect(await listStoredKeys(tenant, "jobs/")).toHaveLength(1);
    await attempt.sendAcceptedMessage({ type: "failed", message: "no", retryable: false });
    await vi.waitUntil(async () => (await listStoredKeys(tenant, "jobs/")).length === 0, WAIT_OPTIONS);
  });
});
