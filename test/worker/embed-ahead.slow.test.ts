/** Embedding datasets ahead of trainings: by the alarm, a piece at a time, whatever happens in between. */
import { createExecutionContext, runInDurableObject, SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { backbonesToEmbedAhead, textStatic, textUse } from "../../src/backbones/workerd.ts";
import { createApp } from "../../src/http/app.ts";
import { makeEmbeddingToken } from "../../src/jobs/token.ts";
import { runEmbedding, scheduleEmbedding } from "../../src/tenant/data/embedding.ts";
import { schedule } from "../../src/tenant/tasks/tasks.ts";
import { getLedger, type Tenant } from "../../src/tenant/tenant.ts";
import { Transactions } from "../../src/tenant/transactions.ts";
import { embedAhead, embeddingSlot } from "../../src/training/embed-ahead.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import { inLedger, listDueTasks, mockBatchEndpoint, tenantStub } from "./fake-batch-endpoint.ts";
import { failingKv } from "./faulty-kv.ts";
import { requester } from "./requester.ts";

const DATASET = "/v1/datasets/tickets";
const NAME = `${textUse.id}@${textUse.revision}`;
const COUNT = tickets().length;
const defaultBackbone = env.DEFAULT_BACKBONE;

/** Bindings under which text-use-1 is embedded ahead: those of the runtime are shared with the tests of other files. */
const bindings = { ...env, DEFAULT_BACKBONE: textUse.id };

mockBatchEndpoint();
afterEach(async () => {
  Object.assign(env, { DEFAULT_BACKBONE: defaultBackbone });
  vi.restoreAllMocks();
  // Meanwhile alarms of other tests' tenants may have begun to embed.
  await vi.waitUntil(() => embeddingSlot.holder === null, { timeout: 10_000 });
});

/** A row that shows a text's length, in little time. */
function cheapRow(text: string): Float32Array {
  return new Float32Array(textUse.dimensions).fill(0.01).fill(1, text.length % 700, (text.length % 700) + 5);
}

/** Has the encoder take no time. `during` runs before each call's answer. Answers the inputs of its calls. */
function mockEncoder(during: (inputs: readonly string[]) => Promise<void> | void = () => undefined): string[] {
  const embedded: string[] = [];
  vi.spyOn(textUse, "embed").mockImplementation(async (inputs) => {
    await during(inputs);
    embedded.push(...inputs);
    return { rows: inputs.map(cheapRow), failure: null };
  });
  return embedded;
}

/** Runs the task as an alarm does, in its place. Answers what it answers, and how often it calls the Worker. */
function runTask(tenant: string, { dataset = 1, env: taskEnv = bindings } = {}) {
  return runInDurableObject(tenantStub(tenant), async (_: Tenant, { storage }) => {
    storage.sql.exec("DELETE FROM due WHERE kind = 'embed_dataset'");
    let calls = 0;
    const fetch = (url: string, init: RequestInit) => {
      calls++;
      return createApp().fetch(new Request(url, init), taskEnv, createExecutionContext());
    };
    const ctx = { exports: { default: { fetch } } } as unknown as DurableObjectState;
    const next = await runEmbedding(new Transactions(taskEnv, storage), ctx, tenant, dataset);
    return { next, calls };
  });
}

/** Embeds a piece, as the internal route does. */
function embedPiece(tenant: string, changed: Partial<Cloudflare.Env> = {}) {
  const request = { ...requester, tenant, waitUntil: () => undefined, setLogFields: () => undefined };
  return embedAhead({ ...request, env: { ...bindings, ...changed } }, 1);
}

/** Lets the ledger's own alarm run the task now. */
function runAlarm(tenant: string): Promise<void> {
  Object.assign(env, { DEFAULT_BACKBONE: textUse.id });
  return inLedger(tenant, ({ sql }, instance) => {
    schedule(sql, "embed_dataset", "1", 1);
    return instance.alarm();
  });
}

const readEmbedded = async (key: string) => (await call("GET", DATASET, key)).json.embedded;

async function readEmbeddedOf(tenant: string) {
  const dataset = await getLedger(env.TENANT, tenant).getDataset("tickets");
  return dataset.ok ? dataset.value.embedded : null;
}

async function addExamples(key: string, examples: readonly object[]): Promise<void> {
  const answer = await call("POST", `${DATASET}/examples`, key, { examples });
  expect(answer.status, answer.text).toBe(200);
}

async function firstExample(key: string) {
  return (await call("GET", `${DATASET}/examples?limit=1`, key)).json.data[0];
}

/** A dataset `tickets` of long texts, of which a piece has 98. */
async function tenantWithLongTexts(count: number) {
  const tenant = await newTenant();
  await call("POST", "/v1/datasets", tenant.key, { name: "tickets", task: "single_label", modality: "text" });
  const examples = Array.from({ length: count }, (_, i) => ({
    text: `${i} ${"word ".repeat(210)}`.slice(0, 1024),
    label: i % 2 === 0 ? "even" : "odd",
  }));
  await addExamples(tenant.key, examples);
  return tenant;
}

test("text-use-1 is embedded ahead where trainings may take it by default", () => {
  expect(backbonesToEmbedAhead(undefined)).toEqual([textUse]);
  expect(backbonesToEmbedAhead("auto")).toEqual([textUse]);
  expect(backbonesToEmbedAhead("text-use-1")).toEqual([textUse]);
  for (const other of ["text-static-1", "hash-text-1", "text-embedding-3-small"])
    expect(backbonesToEmbedAhead(other)).toEqual([]);
});

describe("an imported dataset", () => {
  test("is embedded by the alarm two seconds after, so that a training embeds nothing", async () => {
    const before = Date.now();
    const { id, key } = await tenantWithTickets();
    const [task, ...others] = await listDueTasks(id, "embed_dataset");
    expect(others).toEqual([]);
    expect((task?.run_at ?? 0) - before).toBeGreaterThanOrEqual(2_000);
    expect(await readEmbedded(key)).toEqual({});
    await runAlarm(id);
    await vi.waitUntil(async () => (await listDueTasks(id, "embed_dataset")).length === 0);
    expect(await readEmbedded(key)).toEqual({ [NAME]: COUNT });
    const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
    const trained = await call("POST", "/v1/heads", key, { name: "a", dataset: "tickets", backbone: "text-use-1" });
    expect(trained.status, trained.text).toBe(201);
    const lines = log.mock.calls.map(([line]) => JSON.parse(String(line)));
    expect(lines).toContainEqual(expect.objectContaining({ tenant: id, route: "POST /v1/heads", embedded: 0 }));
  });

  test("and changed one by one, is embedded by one call after the last change, and only what is new", async () => {
    const { id, key } = await tenantWithTickets();
    const embedded = mockEncoder();
    await runTask(id);
    expect(embedded).toHaveLength(COUNT);
    embedded.length = 0;
    const times: number[] = [];
    for (const text of ["one", "two", "three"]) {
      await addExamples(key, [{ text, label: "login" }]);
      const tasks = await listDueTasks(id, "embed_dataset");
      expect(tasks).toHaveLength(1);
      times.push(tasks[0]?.run_at ?? 0);
    }
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    const example = await firstExample(key);
    await call("PATCH", `${DATASET}/examples/${example.id}`, key, { text: "four", label: "login" });
    expect(await runTask(id)).toEqual({ next: null, calls: 1 });
    expect(embedded.toSorted()).toEqual(["four", "one", "two"]);
    expect(await readEmbedded(key)).toEqual({ [NAME]: COUNT + 3 });
  });

  test("is not embedded twice, however often and in whatever order it is asked for", async () => {
    const { id, key } = await tenantWithTickets();
    const embedded = mockEncoder();
    for (const calls of [1, 0, 0]) expect(await runTask(id)).toEqual({ next: null, calls });
    for (const _ of [1, 2]) expect(await embedPiece(id)).toEqual({ ok: true, value: { rows: 0 } });
    expect(embedded).toHaveLength(COUNT);
    // A change that only deletes or relabels leaves nothing to embed.
    const example = await firstExample(key);
    await call("PATCH", `${DATASET}/examples/${example.id}`, key, { text: example.text, label: "other" });
    await call("DELETE", `${DATASET}/examples/${example.id}`, key);
    expect(await runTask(id)).toEqual({ next: null, calls: 0 });
    expect(await readEmbedded(key)).toEqual({ [NAME]: COUNT - 1 });
  });

  test("is not embedded where trainings by default take another backbone, or its examples are embeddings", async () => {
    const { id, key } = await tenantWithTickets();
    const own = { name: "own", task: "single_label", modality: "embedding", dimensions: 2 };
    await call("POST", "/v1/datasets", key, own);
    const examples = [{ embedding: [1, 2], label: "a" }];
    expect((await call("POST", "/v1/datasets/own/examples", key, { examples })).status).toBe(200);
    const nothing = { next: null, calls: 0 };
    expect(await runTask(id, { dataset: 2 })).toEqual(nothing);
    expect(await runTask(id, { env: { ...bindings, DEFAULT_BACKBONE: textStatic.id } })).toEqual(nothing);
  });
});

describe("work that has become stale ends without an error", () => {
  test("where the dataset was deleted", async () => {
    const { id, key } = await tenantWithTickets();
    const embedded = mockEncoder();
    await call("DELETE", DATASET, key);
    await runAlarm(id);
    expect(await listDueTasks(id, "embed_dataset")).toEqual([]);
    expect(await embedPiece(id)).toEqual({ ok: true, value: { rows: 0 } });
    expect(embedded).toEqual([]);
  });

  test("where it is deleted while it is embedded, and nothing of it stays", async () => {
    const { id, key } = await tenantWithTickets();
    mockEncoder(async () => void (await call("DELETE", DATASET, key)));
    expect((await runTask(id)).next).toBeNull();
    const prefix = `tenants/${id}/blocks/`;
    await vi.waitUntil(async () => (await env.KV.list({ prefix })).keys.length === 0, { timeout: 10_000 });
  });

  test("where the tenant is deleted while it is embedded, and nothing of it stays", async () => {
    const { id } = await tenantWithTickets();
    const remove = () => call("DELETE", `/v1/admin/tenants/${id}`, env.ADMIN_KEY);
    mockEncoder(async () => void (await remove()));
    await embedPiece(id);
    expect((await env.KV.list({ prefix: `tenants/${id}/` })).keys).toEqual([]);
  });

  test("where an example is changed or deleted meanwhile: it is not counted, and embedded by the task that this schedules", async () => {
    const { id, key } = await tenantWithTickets();
    const [first, second] = (await call("GET", `${DATASET}/examples?limit=2`, key)).json.data;
    let isChanged = false;
    const embedded = mockEncoder(async () => {
      if (isChanged) return;
      isChanged = true;
      await call("PATCH", `${DATASET}/examples/${first.id}`, key, { text: "changed", label: "login" });
      await call("DELETE", `${DATASET}/examples/${second.id}`, key);
    });
    expect((await runTask(id)).next).toBeNull();
    expect(embedded.filter((text) => text === "changed")).toHaveLength(1);
    expect(await readEmbedded(key)).toEqual({ [NAME]: COUNT - 1 });
  });

  test("where an example is changed before its text is read", async () => {
    const { id, key } = await tenantWithTickets();
    const embedded = mockEncoder();
    const example = await firstExample(key);
    const stub = tenantStub(id);
    const changing = new Proxy(stub, {
      get(target, method) {
        if (method !== "readInputs") return Reflect.get(target, method);
        return async (...args: Parameters<ReturnType<typeof getLedger>["readInputs"]>) => {
          await call("PATCH", `${DATASET}/examples/${example.id}`, key, { text: "changed", label: "login" });
          return getLedger(env.TENANT, id).readInputs(...args);
        };
      },
    });
    const TENANT = { idFromName: () => stub.id, get: () => changing } as unknown as Cloudflare.Env["TENANT"];
    const result = await embedPiece(id, { TENANT });
    expect(result).toMatchObject({ ok: false, failure: { code: "dataset_changed" } });
    expect(embedded).toEqual([]);
    expect(await listDueTasks(id, "embed_dataset")).toHaveLength(1);
  });

  test("where it changes every second, twice a minute", async () => {
    const { id } = await newTenant();
    const waits = await inLedger(id, ({ sql }) => {
      let changedAt = 0;
      return Array.from({ length: 120 }, (_, second) => {
        const now = 1_000 * second;
        scheduleEmbedding(sql, 7, now);
        const { run_at } = sql.exec<{ run_at: number }>("SELECT run_at FROM due WHERE kind = 'embed_dataset'").one();
        const wait = now - changedAt;
        if (run_at > now) return wait;
        // It runs. The next change is the first of the next run.
        sql.exec("DELETE FROM due WHERE kind = 'embed_dataset'");
        changedAt = now + 1_000;
        return wait;
      });
    });
    expect(Math.max(...waits)).toBeLessThanOrEqual(32_000);
    expect(Math.max(...waits)).toBeGreaterThan(20_000);
  });

  test("where the tenant is suspended, until it is active again; and where it was deleted", async () => {
    const { id, key } = await tenantWithTickets();
    mockEncoder();
    const setStatus = (status: string) => call("PATCH", `/v1/admin/tenants/${id}`, env.ADMIN_KEY, { status });
    await setStatus("suspended");
    await runAlarm(id);
    expect(await readEmbeddedOf(id)).toEqual({});
    expect((await listDueTasks(id, "embed_dataset"))[0]?.run_at).toBeGreaterThan(Date.now() + 3_600_000);
    await setStatus("active");
    await vi.waitUntil(async () => (await listDueTasks(id, "embed_dataset")).length === 0, { timeout: 10_000 });
    expect(await readEmbedded(key)).toEqual({ [NAME]: COUNT });
    await call("DELETE", `/v1/admin/tenants/${id}`, env.ADMIN_KEY);
    expect(await embedPiece(id)).toMatchObject({ ok: false, failure: { code: "not_found" } });
  });
});

describe("work that is cut off", () => {
  test("goes on with what is missing", async () => {
    const { id, key } = await tenantWithLongTexts(250);
    vi.spyOn(console, "error").mockImplementation(() => undefined);
    let piecesLeft = 1;
    const embedded = mockEncoder(() => {
      if (embedded.length >= 98 * piecesLeft) throw new Error("The isolate was ended.");
    });
    await expect(runTask(id)).rejects.toThrow("internal_error");
    expect(await readEmbedded(key)).toEqual({ [NAME]: 98 });
    piecesLeft = 3;
    expect(await runTask(id)).toEqual({ next: null, calls: 2 });
    expect(new Set(embedded).size).toBe(250);
    expect(embedded).toHaveLength(250);
    expect(await readEmbedded(key)).toEqual({ [NAME]: 250 });
  });

  test("is tried again where KV refuses it, and counts nothing", async () => {
    const { id, key } = await tenantWithTickets();
    mockEncoder();
    const { kv } = failingKv(env.KV, "put");
    const result = await embedPiece(id, { KV: kv });
    expect(result).toMatchObject({ ok: false, failure: { code: "storage_unavailable", retryAfter: 5 } });
    expect(await readEmbedded(key)).toEqual({});
  });
});

describe("a dataset beyond the budget of one request", () => {
  let owner: { readonly id: string; readonly key: string };
  beforeAll(async () => {
    owner = await tenantWithLongTexts(3_600);
    await inLedger(owner.id, ({ sql }) => void sql.exec("DELETE FROM due WHERE kind = 'embed_dataset'"));
  });

  const train = (method: string) =>
    call("POST", "/v1/heads", owner.key, {
      name: "large",
      dataset: "tickets",
      backbone: "text-use-1",
      method,
      hyperparameters: { l2: 1, lexical: false },
      evaluation: { method: "none" },
    });

  test("is refused by a training that comes before, or becomes a job", async () => {
    const embedded = mockEncoder();
    expectError(await train("head"), 413, "edge_budget_exceeded");
    const job = await train("auto");
    expect([job.status, job.json.object]).toEqual([202, "fine_tuning.job"]);
    expect(embedded).toEqual([]);
  });

  test("is embedded by 16 calls an alarm at most, and trained in a request then", async () => {
    const embedded = mockEncoder();
    const { next, calls } = await runTask(owner.id);
    expect(calls).toBe(16);
    expect(next).toBeLessThanOrEqual(Date.now());
    // The last piece of a block may be smaller.
    expect(embedded.length).toBeLessThanOrEqual(16 * 98);
    while ((await runTask(owner.id)).next !== null) expect(embedded.length).toBeLessThanOrEqual(3_600);
    expect(embedded).toHaveLength(3_600);
    expect(await readEmbedded(owner.key)).toEqual({ [NAME]: 3_600 });
    const trained = await train("head");
    expect(trained.status, trained.text).toBe(201);
    expect(embedded).toHaveLength(3_600);
  });
});

test("the route takes a token for this dataset alone, under a valid server key", async () => {
  const { id } = await tenantWithTickets();
  const post = (token: string | null, dataset = 1) =>
    SELF.fetch(`http://graft.test/internal/datasets/${dataset}/embed`, {
      method: "POST",
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
    });
  const claims = { tenant: id, dataset: 1 };
  const valid = makeEmbeddingToken(env.SERVER_KEY, claims);
  for (const [token, dataset] of [
    [null, 1],
    ["ge_x", 1],
    [makeEmbeddingToken("another key", claims), 1],
    [`${valid.slice(0, -1)}${valid.endsWith("0") ? "1" : "0"}`, 1],
    [valid, 2],
  ] as const)
    expect((await post(token, dataset)).status).toBe(401);
  expect(await readEmbeddedOf(id)).toEqual({});
  Object.assign(env, { DEFAULT_BACKBONE: textUse.id });
  expect((await post(makeEmbeddingToken(env.SERVER_KEY, { tenant: "nobody", dataset: 1 }))).status).toBe(404);
  const answer = await post(makeEmbeddingToken(env.PREVIOUS_SERVER_KEY ?? "", claims));
  expect([answer.status, await answer.json()]).toEqual([200, { rows: COUNT }]);
});
