/** Webhook endpoints and deliveries as their owner sees them. */
import OpenAI from "openai";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { eventTypes } from "../../src/core/lifecycle/event.ts";
import { limits } from "../../src/core/limits.ts";
import { emit } from "../../src/tenant/hooks/events.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";
import { inLedger } from "./fake-batch-endpoint.ts";
import {
  type Endpoint,
  getDelivery,
  getEndpoint,
  mockReceivers,
  newEndpoint,
  newReceiver,
  newTenantWithEndpoint,
  respond,
  sendTestEvent,
  verifyWebhook,
} from "./webhooks.ts";

const ENDPOINTS = "/v1/webhook_endpoints";
const DELIVERIES = "/v1/webhook_deliveries";
const WAIT_OPTIONS = { timeout: 30_000, interval: 5 };
const url = "https://example.com/hooks";

mockReceivers();

const waitForArrivals = ({ arrivals }: Endpoint, count: number) =>
  vi.waitUntil(() => arrivals.length >= count, WAIT_OPTIONS);
const deliveryStatus = async (endpoint: Endpoint, id: string) => (await getDelivery(endpoint, id)).status;
const listDeliveries = async (key: string, query = "") =>
  (await call("GET", `${DELIVERIES}?limit=100${query}`, key)).json.data;
const waitForSuccess = (endpoint: Endpoint, id: string) =>
  vi.waitUntil(async () => (await deliveryStatus(endpoint, id)) === "succeeded", WAIT_OPTIONS);

describe("an endpoint", () => {
  let key: string;
  beforeAll(async () => {
    key = (await newTenant()).key;
  });

  test("is created, listed, found, changed and deleted", async () => {
    const before = Math.floor(Date.now() / 1000);
    const response = await call("POST", ENDPOINTS, key, { url, events: ["head.trained", "head.trained"] });
    expect(response.status, response.text).toBe(201);
    const { secret, ...endpoint } = response.json;
    expect(Buffer.from(/^whsec_([A-Za-z0-9+/]{43}=)$/.exec(secret)?.[1] ?? "", "base64")).toHaveLength(32);
    expect(endpoint).toEqual({
      object: "webhook_endpoint",
      id: expect.stringMatching(/^we_[0-9a-f]{32}$/),
      url,
      events: ["head.trained"],
      description: null,
      enabled: true,
      disabled_reason: null,
      failing_since: null,
      created_at: expect.toSatisfy((createdAt: number) => createdAt >= before && createdAt <= before + 60),
    });
    const path = `${ENDPOINTS}/${endpoint.id}`;
    expect((await call("GET", path, key)).json).toEqual(endpoint);
    const other = await call("POST", ENDPOINTS, key, { url, events: ["*"], description: "all" });
    expect((await call("GET", ENDPOINTS, key)).json.data.map(({ id }: { id: string }) => id)).toEqual([
      other.json.id,
      endpoint.id,
    ]);
    const page = await call("GET", `${ENDPOINTS}?limit=1`, key);
    expect(page.json).toMatchObject({ has_more: true, last_id: other.json.id });
    expect((await call("GET", `${ENDPOINTS}?limit=1&after=${other.json.id}`, key)).json.data).toEqual([endpoint]);
    const change = { url: `${url}/2`, events: ["*"], description: "now all" };
    expect((await call("PATCH", path, key, change)).json).toEqual({ ...endpoint, ...change });
    const disabledEndpoint = { ...endpoint, ...change, enabled: false, disabled_reason: "request" };
    expect((await call("PATCH", path, key, { enabled: false })).json).toEqual(disabledEndpoint);
    expect((await call("PATCH", path, key, { description: null })).json).toEqual({
      ...disabledEndpoint,
      description: null,
    });
    expect((await call("PATCH", path, key, { enabled: true })).json).toMatchObject({
      enabled: true,
      disabled_reason: null,
    });
    expect((await call("PATCH", path, key, {})).json.events).toEqual(["*"]);
    const deletion = await call("DELETE", path, key);
    expect(deletion.json).toEqual({ id: endpoint.id, object: "webhook_endpoint", deleted: true });
    for (const method of ["GET", "DELETE"]) expectError(await call(method, path, key), 404, "not_found");
    expectError(await call("PATCH", path, key, {}), 404, "not_found");
  });

  test("takes every type of event, and no other field, type or length", async () => {
    const all = await call("POST", ENDPOINTS, key, { url, events: [...eventTypes, "*"] });
    expect(all.json.events).toEqual([...eventTypes, "*"]);
    const path = `${ENDPOINTS}/${all.json.id}`;
    const invalidBodies: [object, string, "invalid_parameter" | "unknown_parameter"][] = [
      [{ events: [] }, "events", "invalid_parameter"],
      [{ events: ["head.born"] }, "events[0]", "invalid_parameter"],
      [{ events: "*" }, "events", "invalid_parameter"],
      [{ events: Array(17).fill("*") }, "events", "invalid_parameter"],
      [{ url: 7 }, "url", "invalid_parameter"],
      [{ url: "" }, "url", "invalid_parameter"],
      [{ url: `https://example.com/${"x".repeat(2048)}` }, "url", "invalid_parameter"],
      [{ description: "x".repeat(501) }, "description", "invalid_parameter"],
      [{ secret: "whsec_mine" }, "secret", "unknown_parameter"],
    ];
    for (const [fields, param, code] of invalidBodies) {
      expectError(await call("POST", ENDPOINTS, key, { url, events: ["*"], ...fields }), 400, code, param);
      expectError(await call("PATCH", path, key, fields), 400, code, param);
    }
    expectError(await call("POST", ENDPOINTS, key, { url }), 400, "missing_parameter", "events");
    expectError(await call("POST", ENDPOINTS, key, { events: ["*"] }), 400, "missing_parameter", "url");
    expectError(
      await call("POST", ENDPOINTS, key, { url, events: ["*"], enabled: true }),
      400,
      "unknown_parameter",
      "enabled",
    );
    expectError(await call("PATCH", path, key, { enabled: "no" }), 400, "invalid_parameter", "enabled");
    for (const after of ["none", "%00"])
      expectError(await call("GET", `${ENDPOINTS}?after=${after}`, key), 400, "invalid_parameter", "after");
  });

  test("is at a public address, or one that the operator allows", async () => {
    const response = await call("POST", ENDPOINTS, key, { url: "http://hooks.internal:9000/a", events: ["*"] });
    expect(response.status, response.text).toBe(201);
    for (const bad of ["http://example.com/", "https://10.0.0.1/", "https://hooks.internal:9000/", "nonsense"]) {
      const refused = await call("POST", ENDPOINTS, key, { url: bad, events: ["*"] });
      expectError(refused, 422, "invalid_webhook_url", "url");
      expectError(
        await call("PATCH", `${ENDPOINTS}/${response.json.id}`, key, { url: bad }),
        422,
        "invalid_webhook_url",
        "url",
      );
    }
    expect((await call("GET", `${ENDPOINTS}/${response.json.id}`, key)).json.url).toBe("http://hooks.internal:9000/a");
  });

  test("is one of at most so many", async () => {
    const { key: freshKey } = await newTenant();
    const create = () => call("POST", ENDPOINTS, freshKey, { url, events: ["*"] });
    for (let i = 0; i < limits.webhook_endpoints; i++) expect((await create()).status).toBe(201);
    const refused = await create();
    expectError(refused, 422, "limit_exceeded");
    expect(refused.json.error.details).toEqual({ limit: limits.webhook_endpoints, actual: limits.webhook_endpoints });
    const { json } = await call("GET", "/v1/limits", freshKey);
    expect(json.limits.webhook_endpoints).toEqual({ limit: limits.webhook_endpoints, used: limits.webhook_endpoints });
  });

  test("and its new secret are made once an Idempotency-Key, and no kept answer has a secret", async () => {
    const { id, key: freshKey } = await newTenant();
    const headers = { "idempotency-key": "once" };
    const first = await call("POST", ENDPOINTS, freshKey, { url, events: ["*"] }, headers);
    const retryResponse = await call("POST", ENDPOINTS, freshKey, { url, events: ["*"] }, headers);
    const { secret, ...endpoint } = first.json;
    expect(retryResponse.json).toEqual(endpoint);
    expect(retryResponse.headers.get("idempotent-replayed")).toBe("true");
    const rotateSecret = () =>
      call("POST", `${ENDPOINTS}/${endpoint.id}/rotate_secret`, freshKey, undefined, { "idempotency-key": "turn" });
    const rotated = await rotateSecret();
    expect(rotated.json.secret).toMatch(/^whsec_/);
    expect(rotated.json.secret).not.toBe(secret);
    expect((await rotateSecret()).json).toEqual(endpoint);
    expect((await call("GET", ENDPOINTS, freshKey)).json.data).toEqual([endpoint]);
    const idempotencyRows = await inLedger(id, ({ sql }) =>
      JSON.stringify(sql.exec("SELECT * FROM idempotency").toArray()),
    );
    expect(idempotencyRows).not.toContain("whsec_");
  });
});

describe("every route", () => {
  const paths = (endpoint: string, delivery: string): [string, string, object?][] => [
    ["GET", `${ENDPOINTS}/${endpoint}`],
    ["PATCH", `${ENDPOINTS}/${endpoint}`, { enabled: true }],
    ["POST", `${ENDPOINTS}/${endpoint}/rotate_secret`],
    ["POST", `${ENDPOINTS}/${endpoint}/test`],
    ["POST", `${ENDPOINTS}/${endpoint}/redeliver`, { since: 0 }],
    ["GET", `${DELIVERIES}/${delivery}`],
    ["POST", `${DELIVERIES}/${delivery}/redeliver`],
    ["DELETE", `${ENDPOINTS}/${endpoint}`],
  ];

  test("needs a key with the scope 'manage'", async () => {
    const endpoint = await newTenantWithEndpoint();
    const { id } = await sendTestEvent(endpoint);
    const all: [string, string, object?][] = [
      ["POST", ENDPOINTS, { url, events: ["*"] }],
      ["GET", ENDPOINTS],
      ["GET", DELIVERIES],
      ...paths(endpoint.id, id),
    ];
    for (const [method, path, body] of all) await expectAuthorization(endpoint.key, "manage", method, path, body);
  });

  test("shows another tenant nothing", async () => {
    const endpoint = await newTenantWithEndpoint();
    const { id } = await sendTestEvent(endpoint);
    await waitForSuccess(endpoint, id);
    const remove = async () => undefined;
    for (const [method, path, body] of paths(endpoint.id, id)) await expectHidden(method, path, body, remove);
    expect(await getEndpoint(endpoint)).toMatchObject({ id: endpoint.id, enabled: true });
    const otherTenant = await newTenantWithEndpoint();
    expect(await listDeliveries(otherTenant.key)).toEqual([]);
    const otherDeliveries = await call("GET", `${DELIVERIES}?endpoint=${endpoint.id}`, otherTenant.key);
    expectError(otherDeliveries, 404, "not_found", "endpoint");
    await sendTestEvent(otherTenant);
    await waitForArrivals(otherTenant, 1);
    expect([endpoint.arrivals.length, otherTenant.arrivals.length]).toEqual([1, 1]);
    for (const [method, path, body] of paths(endpoint.id, id).slice(-1))
      await expectHidden(method, path, body, () => call("DELETE", path, endpoint.key));
  });

  test("refuses what it does not know", async () => {
    const { id, key } = await newTenantWithEndpoint();
    const path = `${ENDPOINTS}/${id}/redeliver`;
    expectError(await call("POST", path, key, {}), 400, "missing_parameter", "since");
    expectError(await call("POST", path, key, { since: -1 }), 400, "invalid_parameter", "since");
    expectError(await call("POST", path, key, { since: 0.5 }), 400, "invalid_parameter", "since");
    expectError(await call("POST", path, key, { since: 0, until: 1 }), 400, "unknown_parameter", "until");
    expectError(await call("GET", `${DELIVERIES}?status=lost`, key), 400, "invalid_parameter", "status");
    expectError(await call("GET", `${DELIVERIES}?state=failed`, key), 400, "unknown_parameter", "state");
    expectError(await call("GET", `${DELIVERIES}?after=none`, key), 400, "invalid_parameter", "after");
    for (const action of ["test", "rotate_secret"])
      expectError(await call("POST", `${ENDPOINTS}/we_none/${action}`, key), 404, "not_found");
    expectError(await call("POST", `${DELIVERIES}/whd_none/redeliver`, key), 404, "not_found");
  });
});

describe("what is sent", () => {
  test("is the event, signed as Standard Webhooks say", async () => {
    const endpoint = await newTenantWithEndpoint();
    endpoint.handler = respond(200, {}, "thanks \u0000 ü");
    const delivery = await sendTestEvent(endpoint);
    expect(delivery).toMatchObject({
      object: "webhook_delivery",
      endpoint: endpoint.id,
      status: "pending",
      attempt_count: 0,
    });
    await waitForSuccess(endpoint, delivery.id);
    const [arrival] = endpoint.arrivals;
    if (arrival === undefined) throw new Error("nothing came");
    const body = verifyWebhook(arrival, endpoint.secret);
    expect(body).toEqual({
      id: delivery.event.id,
      object: "event",
      type: "webhook.test",
      created_at: expect.any(Number),
      timestamp: new Date(body.created_at * 1000).toISOString(),
      sequence: 1,
      data: { object: "webhook_endpoint", id: endpoint.id },
    });
    const headers = Object.fromEntries(arrival.headers);
    expect(headers).toEqual({
      "content-type": "application/json",
      "user-agent": "Graft-Webhooks/1.0",
      "graft-hops": "1",
      "webhook-id": delivery.event.id,
      "webhook-timestamp": expect.stringMatching(/^\d{10}$/),
      "webhook-signature": expect.stringMatching(/^v1,[A-Za-z0-9+/]{43}=$/),
    });
    expect(arrival.url).toBe(endpoint.url);
    expect(arrival.redirect).toBe("manual");
    const unwrapped = await new OpenAI({ apiKey: "none" }).webhooks.unwrap(
      arrival.text,
      arrival.headers,
      endpoint.secret,
    );
    expect(unwrapped).toEqual(body);
    await expect(
      new OpenAI({ apiKey: "none" }).webhooks.unwrap(arrival.text, arrival.headers, "whsec_d3Jvbmc="),
    ).rejects.toThrow();
    expect(await getDelivery(endpoint, delivery.id)).toEqual({
      object: "webhook_delivery",
      id: expect.stringMatching(/^whd_[0-9a-f]{32}$/),
      endpoint: endpoint.id,
      event: { id: delivery.event.id, type: "webhook.test", sequence: 1 },
      status: "succeeded",
      attempt_count: 1,
      next_attempt_at: null,
      created_at: body.created_at,
      attempts: [
        {
          number: 1,
          created_at: expect.any(Number),
          milliseconds: expect.any(Number),
          status: 200,
          answer: "thanks \u0000 ü",
          error: null,
        },
      ],
    });
  });

  test("goes to every endpoint that wants that type, and to no other", async () => {
    const tenant = await newTenant();
    const [everything, imports, heads, disabled] = [
      await newEndpoint(tenant),
      await newEndpoint(tenant, { events: ["dataset.imported"] }),
      await newEndpoint(tenant, { events: ["head.trained", "head.promoted"] }),
      await newEndpoint(tenant),
    ];
    await call("PATCH", `${ENDPOINTS}/${disabled.id}`, tenant.key, { enabled: false });
    const examples = ["a", "b", "c", "d"].map((text, i) => ({ text: `${text} ${i}`, label: i % 2 ? "x" : "y" }));
    await call("POST", "/v1/datasets", tenant.key, { name: "d", task: "single_label", modality: "text" });
    await call("POST", "/v1/datasets/d/examples", tenant.key, { examples });
    const trained = await call("POST", "/v1/heads", tenant.key, {
      name: "h",
      dataset: "d",
      evaluation: { method: "none" },
    });
    expect(trained.status, trained.text).toBe(201);
    const later = await newEndpoint(tenant);
    await waitForArrivals(everything, 3);
    await waitForArrivals(heads, 2);
    await waitForArrivals(imports, 1);
    const eventTypes = (endpoint: Endpoint) =>
      endpoint.arrivals.map((arrival) => verifyWebhook(arrival, endpoint.secret).type).toSorted();
    expect(eventTypes(everything)).toEqual(["dataset.imported", "head.promoted", "head.trained"]);
    expect(eventTypes(imports)).toEqual(["dataset.imported"]);
    expect(eventTypes(heads)).toEqual(["head.promoted", "head.trained"]);
    expect([...disabled.arrivals, ...later.arrivals]).toEqual([]);
    const sequences = everything.arrivals.map((arrival) => verifyWebhook(arrival, everything.secret).sequence);
    expect(sequences.toSorted()).toEqual([1, 2, 3]);
    // What a disabled endpoint missed has failed, and can be asked for; one made later missed nothing.
    expect(
      (await listDeliveries(tenant.key, `&endpoint=${disabled.id}`)).map(
        (delivery: { status: string }) => delivery.status,
      ),
    ).toEqual(Array(3).fill("failed"));
    expect(await listDeliveries(tenant.key, `&endpoint=${later.id}`)).toEqual([]);
    const refused = await call("POST", `${ENDPOINTS}/${disabled.id}/redeliver`, tenant.key, { since: 0 });
    expectError(refused, 409, "endpoint_disabled");
    await call("PATCH", `${ENDPOINTS}/${disabled.id}`, tenant.key, { enabled: true });
    const redelivery = await call("POST", `${ENDPOINTS}/${disabled.id}/redeliver`, tenant.key, { since: 0 });
    expect(redelivery.json).toEqual({
      object: "webhook_endpoint.redelivery",
      id: disabled.id,
      deliveries: 3,
      has_more: false,
    });
    await waitForArrivals(disabled, 3);
    const arrivedIds = (endpoint: Endpoint) =>
      endpoint.arrivals.map(({ headers }) => headers.get("webhook-id")).toSorted();
    expect(arrivedIds(disabled)).toEqual(arrivedIds(everything));
  });

  test("is under 20 KB whatever an event tells", async () => {
    const endpoint = await newTenantWithEndpoint();
    await inLedger(endpoint.tenant, async (storage, instance) => {
      const data = { object: "head", id: "wide", labels: Array.from({ length: 100 }, () => "漢".repeat(159)) };
      expect(JSON.stringify(data).length).toBeLessThan(16_500);
      emit(storage.sql, "head.trained", data, 1000);
      emit(storage.sql, "head.trained", { object: "head", id: "long", text: "x".repeat(15_900) }, 1000);
      await instance.alarm();
    });
    await waitForArrivals(endpoint, 2);
    const bodies = endpoint.arrivals.map((arrival) => verifyWebhook(arrival, endpoint.secret));
    expect(bodies.find(({ data }) => data.id === "wide")?.data).toEqual({
      id: "wide",
      object: "head",
      truncated: true,
    });
    expect(bodies.find(({ data }) => data.id === "long")?.data.text).toHaveLength(15_900);
    for (const { text } of endpoint.arrivals) expect(new TextEncoder().encode(text).length).toBeLessThan(20_000);
  });

  test("is signed by the new secret and the one before for a day after a rotation", async () => {
    const endpoint = await newTenantWithEndpoint();
    const { secret } = (await call("POST", `${ENDPOINTS}/${endpoint.id}/rotate_secret`, endpoint.key)).json;
    await sendTestEvent(endpoint);
    await waitForArrivals(endpoint, 1);
    expect(endpoint.arrivals[0]?.headers.get("webhook-signature")?.split(" ")).toHaveLength(2);
    for (const acceptedSecret of [secret, endpoint.secret]) verifyWebhook(endpoint.arrivals[0], acceptedSecret);
    // A day later only the new one signs.
    await inLedger(endpoint.tenant, ({ sql }) =>
      sql.exec("UPDATE webhook_endpoints SET previous_until = ?", Date.now() / 1000),
    );
    await sendTestEvent(endpoint);
    await waitForArrivals(endpoint, 2);
    verifyWebhook(endpoint.arrivals[1], secret);
    expect(() => verifyWebhook(endpoint.arrivals[1], endpoint.secret)).toThrow();
    expect(endpoint.arrivals[1]?.headers.get("webhook-signature")).not.toContain(" ");
  });
});

describe("deliveries", () => {
  test("are listed newest first, by endpoint and by status, page by page", async () => {
    const tenant = await newTenant();
    const [good, bad] = [await newEndpoint(tenant), await newEndpoint(tenant)];
    bad.handler = respond(410);
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) {
      ids.push((await sendTestEvent(good)).id);
      await waitForArrivals(good, i + 1);
    }
    const failed = (await sendTestEvent(bad)).id;
    await vi.waitUntil(async () => (await deliveryStatus(bad, failed)) === "failed", WAIT_OPTIONS);
    await waitForSuccess(good, ids[2] ?? "");
    const listIds = async (query: string) =>
      (await listDeliveries(tenant.key, query)).map(({ id }: { id: string }) => id);
    // The third endpoint event: the good one is told that the other was disabled.
    await waitForArrivals(good, 4);
    await vi.waitUntil(async () => (await listDeliveries(tenant.key, "&status=succeeded")).length === 4, WAIT_OPTIONS);
    const disabled = (await listIds("&status=succeeded"))[0] as string;
    expect(await listIds("")).toEqual([disabled, failed, ...ids.toReversed()]);
    expect(await listIds(`&endpoint=${good.id}`)).toEqual([disabled, ...ids.toReversed()]);
    expect(await listIds("&status=failed")).toEqual([failed]);
    expect(await listIds("&status=pending")).toEqual([]);
    expect(await listIds(`&status=failed&endpoint=${good.id}`)).toEqual([]);
    const page = await call("GET", `${DELIVERIES}?limit=2&after=${failed}`, tenant.key);
    expect(page.json.data.map(({ id }: { id: string }) => id)).toEqual([ids[2], ids[1]]);
    expect(page.json.has_more).toBe(true);
  });

  test("are sent again, the made ones too, under the same id, and once an Idempotency-Key", async () => {
    const endpoint = await newTenantWithEndpoint();
    const { id, event } = await sendTestEvent(endpoint);
    await waitForSuccess(endpoint, id);
    const redeliver = () =>
      call("POST", `${DELIVERIES}/${id}/redeliver`, endpoint.key, undefined, { "idempotency-key": "again" });
    expect((await redeliver()).json).toMatchObject({ id, status: "pending", attempt_count: 1 });
    expect((await redeliver()).headers.get("idempotent-replayed")).toBe("true");
    await waitForArrivals(endpoint, 2);
    await waitForSuccess(endpoint, id);
    expect(endpoint.arrivals.map(({ headers }) => headers.get("webhook-id"))).toEqual([event.id, event.id]);
    expect((await getDelivery(endpoint, id)).attempts).toHaveLength(2);
    expect(await listDeliveries(endpoint.key)).toHaveLength(1);
    await call("PATCH", `${ENDPOINTS}/${endpoint.id}`, endpoint.key, { enabled: false });
    expectError(await call("POST", `${DELIVERIES}/${id}/redeliver`, endpoint.key), 409, "endpoint_disabled");
    expectError(await call("POST", `${ENDPOINTS}/${endpoint.id}/test`, endpoint.key), 409, "endpoint_disabled");
    expect(await deliveryStatus(endpoint, id)).toBe("succeeded");
  });

  test("go with their endpoint", async () => {
    const tenant = await newTenant();
    const [first, other] = [await newEndpoint(tenant), await newEndpoint(tenant)];
    const firstEvent = await sendTestEvent(first);
    const otherEvent = await sendTestEvent(other);
    await waitForSuccess(first, firstEvent.id);
    await waitForSuccess(other, otherEvent.id);
    await call("DELETE", `${ENDPOINTS}/${first.id}`, tenant.key);
    expect((await listDeliveries(tenant.key)).map(({ id }: { id: string }) => id)).toEqual([otherEvent.id]);
    expectError(await call("GET", `${DELIVERIES}/${firstEvent.id}`, tenant.key), 404, "not_found");
    const count = (table: string) =>
      inLedger(tenant.id, ({ sql }) => sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n);
    await vi.waitUntil(async () => (await count("deliveries")) === 1, WAIT_OPTIONS);
    expect(await count("delivery_attempts")).toBe(1);
  });

  test("of a tenant that is deleted are sent no more", async () => {
    const endpoint = await newTenantWithEndpoint();
    endpoint.handler = respond(500);
    const { id } = await sendTestEvent(endpoint);
    await waitForArrivals(endpoint, 1);
    await vi.waitUntil(async () => (await getDelivery(endpoint, id)).attempts[0]?.status === 500, WAIT_OPTIONS);
    await inLedger(endpoint.tenant, async (storage, instance) => {
      await instance.beginDeletion();
      storage.sql.exec("UPDATE deliveries SET due_at = 0");
      storage.sql.exec("UPDATE due SET run_at = 0 WHERE kind = 'deliver'");
      await instance.alarm();
    });
    await scheduler.wait(50);
    expect(endpoint.arrivals).toHaveLength(1);
  });
});

test("no log line holds a secret, a signature, or what a receiver answers", async () => {
  const lines: string[] = [];
  const spies = (["log", "error", "warn"] as const).map((level) =>
    vi.spyOn(console, level).mockImplementation((...args) => void lines.push(args.join(" "))),
  );
  const endpoint = await newTenantWithEndpoint();
  endpoint.handler = respond(500, {}, "the receiver's own words");
  await sendTestEvent(endpoint);
  await waitForArrivals(endpoint, 1);
  await call("POST", `${ENDPOINTS}/${endpoint.id}/rotate_secret`, endpoint.key);
  for (const spy of spies) spy.mockRestore();
  expect(lines.length).toBeGreaterThan(2);
  expect(lines.join("\n")).not.toMatch(/whsec_|v1,|own words/);
});

test("a tenant with data but no endpoint sends nothing, and keeps its events", async () => {
  const { id } = await tenantWithTickets();
  const receiver = newReceiver();
  const events = await inLedger(id, ({ sql }) => sql.exec("SELECT type FROM events").toArray());
  expect(events).toEqual([{ type: "dataset.imported" }]);
  expect(receiver.arrivals).toEqual([]);
});
