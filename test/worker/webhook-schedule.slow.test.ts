/** How deliveries go on over days: the clock is the tests' own, and the alarm is run when it is due. */
import { runDurableObjectAlarm } from "cloudflare:test";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { call, newTenant } from "./api.ts";
import { inLedger, tenantStub } from "./fake-batch-endpoint.ts";
import {
  advanceTime,
  type Endpoint,
  getDelivery,
  getEndpoint,
  mockReceivers,
  neverRespond,
  newEndpoint,
  newTenantWithEndpoint,
  nextAlarm,
  respond,
  sendTestEvent,
  verifyWebhook,
  waitForAttempts,
} from "./webhooks.ts";

const [SECOND, MINUTE, HOUR, DAY] = [1_000, 60_000, 3_600_000, 86_400_000];
const ENDPOINTS = "/v1/webhook_endpoints";

mockReceivers();
// Ahead of the platform's clock, which would run the alarms by itself.
beforeEach(() => void vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 10 * MINUTE }));
afterEach(() => void vi.useRealTimers());

const arrivalTimes = ({ arrivals }: Endpoint) =>
  arrivals.map(({ receivedAt }) => receivedAt - (arrivals[0]?.receivedAt ?? 0));
const eventTypes = (endpoint: Endpoint) => endpoint.arrivals.map((arrival) => JSON.parse(arrival.text).type);

async function sendEvent(endpoint: Endpoint): Promise<string> {
  const { id } = await sendTestEvent(endpoint);
  await advanceTime(endpoint.tenant, 0);
  return id;
}

test("what fails is tried ten times over three days, each signed anew, and has failed then", async () => {
  const endpoint = await newTenantWithEndpoint();
  endpoint.handler = respond(500, {}, "x".repeat(2_000));
  const id = await sendEvent(endpoint);
  expect(await getDelivery(endpoint, id)).toMatchObject({ status: "pending", attempt_count: 1 });
  await advanceTime(endpoint.tenant, 4 * DAY);
  const delays = [0, 5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, DAY];
  const times = arrivalTimes(endpoint);
  expect(times).toHaveLength(delays.length);
  times.slice(1).forEach((sinceFirst, i) => {
    const delay = delays[i + 1] ?? 0;
    expect(Math.abs(sinceFirst - (times[i] ?? 0) - delay)).toBeLessThanOrEqual(0.1 * delay + SECOND);
  });
  const delivery = await getDelivery(endpoint, id);
  expect(delivery).toMatchObject({ status: "failed", attempt_count: 10, next_attempt_at: null });
  expect(delivery.attempts).toHaveLength(10);
  expect(delivery.attempts[9]).toMatchObject({ number: 10, status: 500, answer: "x".repeat(1_024), error: null });
  for (const { headers, receivedAt } of endpoint.arrivals) {
    expect(headers.get("webhook-id")).toBe(delivery.event.id);
    expect(Number(headers.get("webhook-timestamp"))).toBe(Math.floor(receivedAt / 1000));
  }
  expect((await getEndpoint(endpoint)).failing_since).toBe(Math.floor((endpoint.arrivals[0]?.receivedAt ?? 0) / 1000));
});

test("a receiver that is down for two days gets everything once it is up", async () => {
  const endpoint = await newTenantWithEndpoint();
  endpoint.handler = () => {
    throw new TypeError("Network connection lost.");
  };
  const ids: string[] = [];
  for (let i = 0; i < 8; i++) {
    ids.push((await sendTestEvent(endpoint)).id);
    await advanceTime(endpoint.tenant, 6 * HOUR);
  }
  const first = await getDelivery(endpoint, ids[0] ?? "");
  expect(first.attempts[0]).toMatchObject({ status: null, answer: null, error: "It could not be reached." });
  endpoint.handler = respond(200);
  await advanceTime(endpoint.tenant, 25 * HOUR);
  for (const id of ids) expect((await getDelivery(endpoint, id)).status).toBe("succeeded");
  const arrivedIds = endpoint.arrivals.slice(-ids.length).map((arrival) => JSON.parse(arrival.text).id);
  expect(new Set(arrivedIds).size).toBe(ids.length);
  expect(await nextAlarm(endpoint.tenant)).toBeNull();
  expect(await getEndpoint(endpoint)).toMatchObject({ enabled: true, failing_since: null });
});

test("a retry in the middle of a rotation is signed by both secrets, and after a day by the new one", async () => {
  const endpoint = await newTenantWithEndpoint();
  endpoint.handler = respond(500);
  await sendEvent(endpoint);
  const { secret } = (await call("POST", `${ENDPOINTS}/${endpoint.id}/rotate_secret`, endpoint.key)).json;
  await advanceTime(endpoint.tenant, 3 * DAY);
  const rotatedAt = endpoint.arrivals[0]?.receivedAt ?? 0;
  expect(() => verifiedAt(0, secret)).toThrow();
  function verifiedAt(i: number, signingSecret: string) {
    const arrival = endpoint.arrivals[i];
    vi.setSystemTime(arrival?.receivedAt ?? 0);
    return verifyWebhook(arrival, signingSecret);
  }
  endpoint.arrivals.forEach(({ receivedAt }, i) => {
    if (i === 0) return;
    verifiedAt(i, secret);
    if (receivedAt - rotatedAt < DAY) verifiedAt(i, endpoint.secret);
    else expect(() => verifiedAt(i, endpoint.secret)).toThrow();
  });
  expect(endpoint.arrivals.filter(({ receivedAt }) => receivedAt - rotatedAt > DAY).length).toBeGreaterThan(0);
});

test("410 disables an endpoint, and the others are told", async () => {
  const tenant = await newTenant();
  const [deletedEndpoint, other] = [
    await newEndpoint(tenant),
    await newEndpoint(tenant, { events: ["webhook_endpoint.disabled"] }),
  ];
  deletedEndpoint.handler = respond(410);
  const id = await sendEvent(deletedEndpoint);
  await advanceTime(tenant.id, MINUTE);
  expect(await getDelivery(deletedEndpoint, id)).toMatchObject({ status: "failed", attempt_count: 1 });
  expect(await getEndpoint(deletedEndpoint)).toMatchObject({ enabled: false, disabled_reason: "gone" });
  expect(deletedEndpoint.arrivals).toHaveLength(1);
  expect(eventTypes(other)).toEqual(["webhook_endpoint.disabled"]);
  expect(verifyWebhook(other.arrivals[0], other.secret).data).toEqual({
    object: "webhook_endpoint",
    id: deletedEndpoint.id,
    description: null,
    enabled: false,
    disabled_reason: "gone",
  });
  const otherDeliveries = (await call("GET", `/v1/webhook_deliveries?endpoint=${deletedEndpoint.id}`, tenant.key)).json
    .data;
  expect(otherDeliveries).toHaveLength(1);
});

describe("an endpoint is left alone", () => {
  test.each([
    ["429 and seconds", 429, () => "90", 90 * SECOND],
    ["503 and a date", 503, () => new Date(Date.now() + 120 * SECOND).toUTCString(), 120 * SECOND],
    ["500 and seconds", 500, () => "60", 60 * SECOND],
    ["429 and nothing that can be read", 429, () => "soon", 30 * SECOND],
    ["503 alone", 503, () => null, 30 * SECOND],
    ["502 alone", 502, () => null, 30 * SECOND],
    ["504 alone", 504, () => null, 30 * SECOND],
  ])("after %s, with all its deliveries", async (_what, status, retryAfter, wait) => {
    const endpoint = await newTenantWithEndpoint();
    const header = retryAfter();
    endpoint.handler = respond(status, header === null ? {} : { "retry-after": header });
    const first = await sendEvent(endpoint);
    endpoint.handler = respond(204);
    const second = await sendEvent(endpoint);
    await advanceTime(endpoint.tenant, wait - 3 * SECOND);
    expect(endpoint.arrivals).toHaveLength(1);
    expect(await getDelivery(endpoint, second)).toMatchObject({ status: "pending", attempt_count: 0 });
    await advanceTime(endpoint.tenant, 4 * SECOND);
    for (const id of [first, second]) expect((await getDelivery(endpoint, id)).status).toBe("succeeded");
    expect((await getDelivery(endpoint, second)).attempt_count).toBe(1);
  });

  test("after five failures in a row, and what falls due meanwhile loses no attempt", async () => {
    const endpoint = await newTenantWithEndpoint();
    endpoint.handler = respond(500);
    const ids: string[] = [];
    for (let i = 0; i < 20; i++) ids.push((await sendTestEvent(endpoint)).id);
    await advanceTime(endpoint.tenant, SECOND);
    // Five have been tried, and nothing more within the half minute.
    expect(endpoint.arrivals).toHaveLength(5);
    await advanceTime(endpoint.tenant, 27 * SECOND);
    expect(endpoint.arrivals).toHaveLength(5);
    // One attempt shows that it is not back: a minute's wait, then two.
    await advanceTime(endpoint.tenant, 3 * SECOND);
    expect(endpoint.arrivals).toHaveLength(6);
    await advanceTime(endpoint.tenant, 58 * SECOND);
    expect(endpoint.arrivals).toHaveLength(6);
    endpoint.handler = respond(200);
    await advanceTime(endpoint.tenant, 5 * MINUTE);
    const deliveries = await Promise.all(ids.map((id) => getDelivery(endpoint, id)));
    expect(deliveries.map(({ status }) => status)).toEqual(Array(20).fill("succeeded"));
    const attempts = deliveries.map(({ attempt_count }) => attempt_count);
    expect(attempts.reduce((sum, count) => sum + count, 0)).toBe(26);
    expect(Math.max(...attempts)).toBe(2);
  });
});

test("a redirection is a failure, and not followed", async () => {
  const tenant = await newTenant();
  const [endpoint, target] = [await newEndpoint(tenant, { events: ["head.failed"] }), await newEndpoint(tenant)];
  endpoint.handler = respond(301, { location: target.url });
  const id = await sendEvent(endpoint);
  expect((await getDelivery(endpoint, id)).attempts).toMatchObject([{ status: 301 }]);
  expect(target.arrivals).toEqual([]);
  expect(endpoint.arrivals[0]?.redirect).toBe("manual");
});

test("a receiver that does not answer in time, or not whole, has failed", async () => {
  const endpoint = await newTenantWithEndpoint();
  endpoint.handler = neverRespond;
  const id = await sendEvent(endpoint);
  // The clock stands still meanwhile, so the answer takes no time.
  expect((await getDelivery(endpoint, id)).attempts[0]).toMatchObject({
    status: null,
    answer: null,
    error: "There was no answer within 0.3 seconds.",
  });
  const dripResponse = (signal: AbortSignal) =>
    new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(new TextEncoder().encode("a"));
        signal.addEventListener("abort", () => controller.error(signal.reason));
      },
    });
  endpoint.handler = (_, signal) => new Response(dripResponse(signal), { status: 200 });
  await advanceTime(endpoint.tenant, 6 * SECOND);
  const delivery = await getDelivery(endpoint, id);
  expect(delivery).toMatchObject({ status: "pending", attempt_count: 2 });
  expect(delivery.attempts[1]).toMatchObject({ status: 200, error: "The answer was not there within 0.3 seconds." });
  let isCancelled = false;
  endpoint.handler = () =>
    new Response(
      new ReadableStream({
        pull: (controller) => controller.enqueue(new Uint8Array(700).fill(97)),
        cancel: () => {
          isCancelled = true;
        },
      }),
    );
  await advanceTime(endpoint.tenant, 6 * MINUTE);
  const testDelivery = await getDelivery(endpoint, id);
  expect(testDelivery.status).toBe("succeeded");
  expect(testDelivery.attempts[2]).toMatchObject({ status: 200, answer: "a".repeat(1_024) });
  expect(isCancelled).toBe(true);
});

test("an endpoint that has only failed for five days is disabled; enabled again it gets what it missed", async () => {
  const tenant = await newTenant();
  const [endpoint, other] = [
    await newEndpoint(tenant),
    await newEndpoint(tenant, { events: ["webhook_endpoint.disabled"] }),
  ];
  endpoint.handler = respond(500);
  const ids = [await sendEvent(endpoint)];
  await advanceTime(tenant.id, 3 * DAY);
  ids.push(await sendEvent(endpoint));
  expect((await getEndpoint(endpoint)).enabled).toBe(true);
  await advanceTime(tenant.id, 2.5 * DAY);
  expect(await getEndpoint(endpoint)).toMatchObject({ enabled: false, disabled_reason: "failing" });
  expect(eventTypes(other)).toEqual(["webhook_endpoint.disabled"]);
  for (const id of ids) expect((await getDelivery(endpoint, id)).status).toBe("failed");
  const before = endpoint.arrivals.length;
  await advanceTime(tenant.id, 5 * DAY);
  expect(endpoint.arrivals).toHaveLength(before);
  endpoint.handler = respond(200);
  await call("PATCH", `${ENDPOINTS}/${endpoint.id}`, tenant.key, { enabled: true });
  const since = Math.floor((endpoint.arrivals[0]?.receivedAt ?? 0) / 1000) - 1;
  const redelivery = await call("POST", `${ENDPOINTS}/${endpoint.id}/redeliver`, tenant.key, { since });
  expect(redelivery.json.deliveries).toBe(2);
  await advanceTime(tenant.id, MINUTE);
  for (const id of ids) expect((await getDelivery(endpoint, id)).status).toBe("succeeded");
  const lateRedelivery = await call("POST", `${ENDPOINTS}/${endpoint.id}/redeliver`, tenant.key, {
    since: Math.floor(Date.now() / 1000),
  });
  expect(lateRedelivery.json.deliveries).toBe(0);
});

test("the address is checked at every attempt", async () => {
  const endpoint = await newTenantWithEndpoint();
  endpoint.handler = respond(500);
  const id = await sendEvent(endpoint);
  // As though the operator had taken an origin back.
  await inLedger(endpoint.tenant, ({ sql }) => sql.exec("UPDATE webhook_endpoints SET url = 'https://10.0.0.1/'"));
  await advanceTime(endpoint.tenant, 6 * SECOND);
  expect((await getDelivery(endpoint, id)).attempts[1]).toMatchObject({
    status: null,
    error:
      "A webhook cannot be sent to this URL: its host is not public; the operator of this server can allow 'https://10.0.0.1' by WEBHOOK_ORIGINS.",
  });
  expect(endpoint.arrivals).toHaveLength(1);
});

test("an attempt that was cut off is made again under the same id, and shown", async () => {
  const endpoint = await newTenantWithEndpoint();
  const id = await sendEvent(endpoint);
  // As the ledger is found where the process died between the attempt and its outcome.
  await inLedger(endpoint.tenant, async ({ sql }) => {
    sql.exec("UPDATE deliveries SET status = 'pending', live = 1, due_at = ?", Date.now() + 5_300);
    sql.exec("UPDATE delivery_attempts SET milliseconds = NULL, status = NULL, answer = NULL");
    sql.exec("INSERT OR REPLACE INTO due (kind, ref, run_at) VALUES ('deliver', '', ?)", Date.now() + 5_300);
  });
  await advanceTime(endpoint.tenant, 6 * SECOND);
  expect(endpoint.arrivals.map(({ headers }) => headers.get("webhook-id"))).toEqual(
    Array(2).fill(endpoint.arrivals[0]?.headers.get("webhook-id")),
  );
  const { status, attempts } = await getDelivery(endpoint, id);
  expect(status).toBe("succeeded");
  expect(attempts[0].error).toMatch(/interrupted/);
  expect(attempts[1]).toMatchObject({ status: 204, error: null });
});

test("what is 30 days old is deleted, in bounded steps, and what is younger is not", async () => {
  const endpoint = await newTenantWithEndpoint();
  const oldIds: string[] = [];
  for (let i = 0; i < 5; i++) oldIds.push(await sendEvent(endpoint));
  await inLedger(endpoint.tenant, ({ sql }) => {
    // More than one step takes: copies of the first event's delivery, each of an event of its own.
    sql.exec(
      `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
       INSERT INTO events (id, type, data, created_at) SELECT 'evt_' || i, 'webhook.test', '{"id":"x"}', ? FROM n`,
      Math.floor(Date.now() / 1000),
    );
    sql.exec(
      "INSERT INTO deliveries (id, event, endpoint, status, attempt, before, live) SELECT 'whd_' || sequence, sequence, 1, 'failed', 1, 0, 0 FROM events WHERE id LIKE 'evt_%' AND length(id) < 12",
    );
    sql.exec(
      "INSERT OR IGNORE INTO delivery_attempts (delivery, attempt, started_at) SELECT number, 1, 1 FROM deliveries",
    );
  });
  await advanceTime(endpoint.tenant, 29 * DAY);
  const recentId = await sendEvent(endpoint);
  const sweep = async () => {
    await inLedger(endpoint.tenant, ({ sql }) => sql.exec("UPDATE due SET run_at = 0 WHERE kind = 'sweep'"));
    for (let i = 0; i < 6; i++) await runDurableObjectAlarm(tenantStub(endpoint.tenant));
  };
  const count = (table: string) =>
    inLedger(endpoint.tenant, ({ sql }) => sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n);
  await sweep();
  expect(await count("deliveries")).toBe(1_206);
  await advanceTime(endpoint.tenant, DAY + MINUTE);
  await sweep();
  for (const table of ["events", "deliveries", "delivery_attempts"])
    expect([table, await count(table)]).toEqual([table, 1]);
  expect((await getDelivery(endpoint, recentId)).status).toBe("succeeded");
  expect((await call("GET", `/v1/webhook_deliveries/${oldIds[0]}`, endpoint.key)).status).toBe(404);
});

test("an endpoint that hangs holds up no other", async () => {
  const tenant = await newTenant();
  const [hangingEndpoint, other] = [await newEndpoint(tenant), await newEndpoint(tenant)];
  hangingEndpoint.handler = neverRespond;
  await call("POST", "/v1/datasets", tenant.key, { name: "d", task: "single_label", modality: "text" });
  for (let i = 0; i < 30; i++)
    await call("POST", "/v1/datasets/d/examples", tenant.key, { examples: [{ text: `t${i}`, label: "x" }] });
  await runDurableObjectAlarm(tenantStub(tenant.id));
  await vi.waitUntil(() => other.arrivals.length === 30, { timeout: 30_000, interval: 5 });
  expect(hangingEndpoint.arrivals.length).toBeLessThan(10);
  await waitForAttempts(tenant.id);
});
