/** Suspending a tenant: its keys and hooks are refused, what is done for it waits, and nothing is deleted. */
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, test, vi } from "vitest";
import { schedule } from "../../src/tenant/tasks/tasks.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { createKey, expectError } from "./assertions.ts";
import {
  fakeEndpoint,
  inLedger,
  listDueTasks,
  mockBatchEndpoint,
  newTenantWithJob,
  WAIT_OPTIONS,
  waitForJob,
  waitForSubmission,
} from "./fake-batch-endpoint.ts";
import { listExamples, newLearnHook, postAccepted, postToHook } from "./inbound-hooks.ts";
import { getDelivery, mockReceivers, newTenantWithEndpoint, respond, sendTestEvent } from "./webhooks.ts";

mockReceivers();
mockBatchEndpoint();
afterEach(() => vi.useRealTimers());

const TENANTS = "/v1/admin/tenants";

const patch = (id: string, body: unknown, key: string | undefined = env.ADMIN_KEY) =>
  call("PATCH", `${TENANTS}/${id}`, key, body);

async function setStatus(id: string, status: "active" | "suspended"): Promise<void> {
  const answer = await patch(id, { status });
  expect(answer.status, answer.text).toBe(200);
  expect(answer.json.status).toBe(status);
}

/** Makes everything due that the ledger has, and runs it. */
function runAllTasks(tenant: string): Promise<void> {
  return inLedger(tenant, ({ sql }, instance) => {
    sql.exec("UPDATE due SET run_at = 1 WHERE kind <> 'sweep'");
    return instance.alarm();
  });
}

describe("the route", () => {
  test("renames, suspends and activates a tenant", async () => {
    const { id } = await newTenant();
    const { json: before } = await call("GET", `${TENANTS}/${id}`, env.ADMIN_KEY);
    const answer = await patch(id, { name: "Acme", status: "suspended" });
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json).toEqual({ ...before, name: "Acme", status: "suspended" });
    expect((await call("GET", `${TENANTS}/${id}`, env.ADMIN_KEY)).json).toEqual(answer.json);
    expect((await call("GET", `${TENANTS}?limit=1`, env.ADMIN_KEY)).json.data).toEqual([answer.json]);
    expect((await patch(id, { status: "active" })).json).toEqual({ ...before, name: "Acme" });
    expect((await patch(id, { name: "Acme, Inc." })).json).toEqual({ ...before, name: "Acme, Inc." });
    expect((await patch(id, {})).json).toEqual({ ...before, name: "Acme, Inc." });
  });

  test.each<[string, object, string, string]>([
    ["an unknown status", { status: "deleted" }, "invalid_parameter", "status"],
    ["an empty name", { name: "" }, "invalid_parameter", "name"],
    ["a name that is not a text", { name: 1 }, "invalid_parameter", "name"],
    ["quotas", { quotas: { bytes: 1 } }, "unknown_parameter", "quotas"],
  ])("refuses %s", async (_what, body, code, param) => {
    const { id, key } = await newTenant();
    expectError(await patch(id, { status: "suspended", ...body }), 400, code as "invalid_parameter", param);
    expect((await call("GET", "/v1/limits", key)).status).toBe(200);
  });

  test("finds no tenant that does not exist or was deleted", async () => {
    expectError(await patch("nobody", { status: "suspended" }), 404, "not_found");
    expectError(await patch("Nobody", { status: "suspended" }), 400, "invalid_parameter", "id");
    const { id } = await newTenant();
    await call("DELETE", `${TENANTS}/${id}`, env.ADMIN_KEY);
    expectError(await patch(id, { status: "active" }), 404, "not_found");
  });

  test("is the operator's alone", async () => {
    const { id, key } = await newTenant();
    const { key: otherKey } = await newTenant();
    for (const wrong of ["", key, otherKey]) expectError(await patch(id, { name: "x" }, wrong), 401, "invalid_api_key");
  });
});

describe("a suspended tenant's keys", () => {
  test("are refused on every route, and work again afterwards with all data", async () => {
    const { id, key } = await tenantWithTickets();
    const other = await newTenant();
    const predictKey = await createKey(key, "predict");
    expect((await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets" })).status).toBe(201);
    const examples = await listExamples(key);
    const predict = () => call("POST", "/v1/heads/support/predict", predictKey, { input: "refund me" });
    const { json: prediction } = await predict();

    await setStatus(id, "suspended");
    expectError(await predict(), 403, "tenant_suspended");
    for (const path of ["/v1/limits", "/v1/models", "/v1/datasets/tickets", "/v1/api_keys", "/v1/heads"])
      expectError(await call("GET", path, key), 403, "tenant_suspended");
    const dataset = { name: "more", task: "single_label", modality: "text" };
    expectError(await call("POST", "/v1/datasets", key, dataset, { "idempotency-key": "k" }), 403, "tenant_suspended");
    // A wrong key learns nothing of the tenant.
    expectError(await call("GET", "/v1/limits", `${key.slice(0, -1)}x`), 401, "invalid_api_key");
    expect((await call("GET", "/v1/limits", other.key)).status).toBe(200);
    const operatorsKey = { name: "ci", scopes: ["predict"] };
    expect((await call("POST", `${TENANTS}/${id}/api_keys`, env.ADMIN_KEY, operatorsKey)).status).toBe(201);

    await setStatus(id, "active");
    expect((await predict()).json).toEqual(prediction);
    expect(await listExamples(key)).toEqual(examples);
    expect((await call("POST", "/v1/datasets", key, dataset, { "idempotency-key": "k" })).status).toBe(201);
  });

  test("are refused within 30 seconds by an isolate that has leased them", async () => {
    const { id, key } = await newTenant();
    expect((await call("GET", "/v1/limits", key)).status).toBe(200);
    // Another isolate handles the suspension: this one's lease goes on.
    await inLedger(id, (_, instance) => instance.update({ status: "suspended" }));
    expect((await call("GET", "/v1/limits", key)).status).toBe(200);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 30_000 });
    expectError(await call("GET", "/v1/limits", key), 403, "tenant_suspended");
  });

  test("find nothing once it is deleted", async () => {
    const { id, key } = await newTenant();
    await setStatus(id, "suspended");
    const answer = await call("DELETE", `${TENANTS}/${id}`, env.ADMIN_KEY);
    expect(answer.status).toBe(202);
    expect(answer.json.status).toBe("deleting");
    expectError(await call("GET", "/v1/limits", key), 401, "invalid_api_key");
  });
});

describe("what waits", () => {
  test("messages to inbound hooks are refused, and accepted when they are sent again", async () => {
    const { id, key } = await tenantWithTickets();
    const hook = await newLearnHook(key, {}, "standard");
    const message = { text: "the parcel is wet", label: "shipping", id: "m1" };
    const count = (await listExamples(key)).length;
    await setStatus(id, "suspended");
    expectError(await postToHook(hook, message, { id: "msg_wet" }), 403, "tenant_suspended");
    await setStatus(id, "active");
    expect((await postAccepted(hook, message, { id: "msg_wet" })).json.outcome).toBe("added");
    expect(await listExamples(key)).toHaveLength(count + 1);
  });

  test("deliveries that failed are retried once the tenant is active again", async () => {
    const endpoint = await newTenantWithEndpoint();
    endpoint.handler = respond(500);
    const { id } = await sendTestEvent(endpoint);
    await vi.waitUntil(async () => (await getDelivery(endpoint, id)).attempts[0]?.status === 500, WAIT_OPTIONS);
    endpoint.handler = respond(204);
    await setStatus(endpoint.tenant, "suspended");
    await inLedger(endpoint.tenant, ({ sql }) => sql.exec("UPDATE deliveries SET due_at = 0"));
    await runAllTasks(endpoint.tenant);
    await scheduler.wait(50);
    expect(endpoint.arrivals).toHaveLength(1);
    expect(await listDueTasks(endpoint.tenant, "deliver")).toHaveLength(1);

    await setStatus(endpoint.tenant, "active");
    await vi.waitUntil(() => endpoint.arrivals.length === 2, WAIT_OPTIONS);
    await vi.waitUntil(async () => (await getDelivery(endpoint, id)).status === "succeeded", WAIT_OPTIONS);
  });

  test("a delivery in flight is recorded, and no other follows until then", async () => {
    const endpoint = await newTenantWithEndpoint();
    const { promise, resolve } = Promise.withResolvers<Response>();
    endpoint.handler = () => promise;
    await sendTestEvent(endpoint);
    await vi.waitUntil(() => endpoint.arrivals.length === 1, WAIT_OPTIONS);
    await sendTestEvent(endpoint);
    const before = endpoint.arrivals.length;
    await setStatus(endpoint.tenant, "suspended");
    endpoint.handler = respond(204);
    resolve(new Response(null, { status: 204 }));
    await runAllTasks(endpoint.tenant);
    await scheduler.wait(50);
    expect(endpoint.arrivals).toHaveLength(before);
    await setStatus(endpoint.tenant, "active");
    await vi.waitUntil(async () => {
      const { json } = await call("GET", "/v1/webhook_deliveries", endpoint.key);
      return json.data.every(({ status }: { status: string }) => status === "succeeded");
    }, WAIT_OPTIONS);
  });

  test("a running job is handed back with its checkpoint, and goes on afterwards", async () => {
    const { tenant, key, job, attempt } = await newTenantWithJob();
    await setStatus(tenant, "suspended");
    expect(await attempt.sendAcceptedMessage({ type: "heartbeat" })).toMatchObject({ directive: "pause" });
    await attempt.sendAcceptedMessage({ type: "stopped" });
    await inLedger(tenant, ({ sql }) => sql.exec("UPDATE jobs SET state = json_set(state, '$.submitAt', 0)"));
    await runAllTasks(tenant);
    expect(fakeEndpoint(tenant).submissions).toHaveLength(1);

    await setStatus(tenant, "active");
    expect(await waitForSubmission(tenant, 2)).toMatchObject({ id: job, attempt: 2 });
    await waitForJob(key, job, "running");
  });

  test("a retraining by policy", async () => {
    const { id } = await newTenant();
    await setStatus(id, "suspended");
    await inLedger(id, ({ sql }) => schedule(sql, "retrain", "support", 0));
    await runAllTasks(id);
    const [task] = await listDueTasks(id, "retrain");
    expect(task?.run_at).toBeGreaterThan(Date.now() + 3_600_000);
    await setStatus(id, "active");
    await vi.waitUntil(async () => (await listDueTasks(id, "retrain")).length === 0, WAIT_OPTIONS);
  });
});
