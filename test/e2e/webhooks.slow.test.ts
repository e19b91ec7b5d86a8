/** Webhooks from the real Worker to real receivers that do what receivers do, kill -9 included. */
import OpenAI from "openai";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import type { WebhookDeliveryWithAttempts, WebhookEndpoint } from "../../src/sdk/client.ts";
import { type System, startSystem, type TenantClient, waitFor } from "./processes.ts";
import {
  type Arrival,
  eventIds,
  isSigned,
  type Receiver,
  respond,
  startReceiver,
  trainTwoVersions,
} from "./receivers.ts";

const TIMEOUT_SECONDS = 6;

let system: System;
const freeReceivers: Receiver[] = [];
const receivers: Receiver[] = [];

beforeAll(async () => {
  for (let i = 0; i < 20; i++) receivers.push(await startReceiver());
  freeReceivers.push(...receivers);
  const origins = receivers.map(({ url }) => url).join(",");
  system = await startSystem({
    bundle: inject("bundles").crashing,
    worker: { WEBHOOK_ORIGINS: origins, WEBHOOK_TIMEOUT_SECONDS: String(TIMEOUT_SECONDS) },
  });
});
afterAll(async () => {
  await system?.close();
  await Promise.all(receivers.map((receiver) => receiver.close()));
});

type Endpoint = Receiver & {
  readonly tenant: TenantClient;
  readonly endpoint: WebhookEndpoint;
  readonly secret: string;
};

/** A tenant's endpoint at a receiver of its own. */
async function newEndpoint(tenant: TenantClient, answer = respond(204) as Receiver["handler"]): Promise<Endpoint> {
  const receiver = freeReceivers.pop();
  if (receiver === undefined) throw new Error("start more receivers");
  receiver.handler = answer;
  const endpoint = await tenant.graft.webhookEndpoints.create({ url: `${receiver.url}/in?a=b`, events: ["*"] });
  return Object.assign(receiver, { tenant, endpoint, secret: endpoint.secret ?? "" });
}

const sendTestEvent = ({ tenant, endpoint }: Endpoint) => tenant.graft.webhookEndpoints.test(endpoint.id);

function waitForDelivery(
  { tenant }: Endpoint,
  id: string,
  matches: (delivery: WebhookDeliveryWithAttempts) => boolean = ({ status }) => status === "succeeded",
): Promise<WebhookDeliveryWithAttempts> {
  return waitFor(async () => {
    const delivery = await tenant.graft.webhookDeliveries.get(id);
    return matches(delivery) && delivery;
  }, `the delivery ${id} is as wanted`);
}

/** Imports so many examples, one at a time and some at once: as many events. */
async function emitEvents({ graft }: TenantClient, count: number): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await graft.datasets.add("tickets", [{ text: `ticket ${next++}`, label: "a" }]);
  };
  await Promise.all(Array.from({ length: 8 }, worker));
}

async function newTenant(id: string): Promise<TenantClient> {
  const tenant = await system.createTenant(id);
  await tenant.graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  return tenant;
}

/** Answers the first `webhook.test` in one way, and everything else with 204. */
function respondOnce(first: Receiver["handler"]): Receiver["handler"] {
  let hasAnswered = false;
  return (response, arrival) => {
    if (hasAnswered || arrival.event.type !== "webhook.test") return respond(204)(response);
    hasAnswered = true;
    return first(response, arrival);
  };
}

test("whatever a receiver answers, its events arrive, or their delivery tells why not", async () => {
  const acme = await newTenant("acme");
  const goodEndpoint = await newEndpoint(acme, respond(200, {}, "thanks"));
  const errorEndpoint = await newEndpoint(acme, respondOnce(respond(500, {}, "no")));
  const goneEndpoint = await newEndpoint(acme, respond(410));
  const busyEndpoint = await newEndpoint(acme, respondOnce(respond(429, { "retry-after": "6" })));
  const movedEndpoint = await newEndpoint(acme, respond(301, { location: `${goodEndpoint.url}/elsewhere` }));
  const brokenEndpoint = await newEndpoint(
    acme,
    respondOnce((response) => response.socket?.destroy()),
  );
  const cutEndpoint = await newEndpoint(
    acme,
    respondOnce((response) => {
      response.writeHead(200, { "content-length": "100" }).write("half");
      setTimeout(() => response.socket?.destroy(), 50);
    }),
  );
  let written = 0;
  const endlessEndpoint = await newEndpoint(acme, (response) => {
    response.writeHead(200);
    const writeMore = () => {
      while (!response.destroyed && response.write("e".repeat(10_000))) written++;
      if (!response.destroyed) response.once("drain", writeMore);
    };
    writeMore();
  });
  const slowEndpoint = await newEndpoint(
    acme,
    respondOnce((response) => {
      response.writeHead(200);
      const timer = setInterval(() => response.write("."), 300);
      response.once("close", () => clearInterval(timer));
    }),
  );
  const started = Date.now();
  const ids = new Map<Endpoint, string>();
  for (const endpoint of [
    goodEndpoint,
    errorEndpoint,
    goneEndpoint,
    busyEndpoint,
    movedEndpoint,
    brokenEndpoint,
    cutEndpoint,
    endlessEndpoint,
    slowEndpoint,
  ])
    ids.set(endpoint, (await sendTestEvent(endpoint)).id);
  const deliveryFor = (endpoint: Endpoint, matches?: Parameters<typeof waitForDelivery>[2]) =>
    waitForDelivery(endpoint, ids.get(endpoint) ?? "", matches);

  const goodDelivery = await deliveryFor(goodEndpoint);
  expect(goodDelivery.attempts).toMatchObject([{ number: 1, status: 200, answer: "thanks", error: null }]);
  expect(goodEndpoint.arrivals[0]?.path).toBe("/in?a=b");
  const { text, headers } = goodEndpoint.arrivals[0] as Arrival;
  const unwrapped = await new OpenAI({ apiKey: "none" }).webhooks.unwrap(
    text,
    headers as Record<string, string>,
    goodEndpoint.secret,
  );
  expect(unwrapped).toMatchObject({ id: goodDelivery.event.id, object: "event", type: "webhook.test" });

  const endlessDelivery = await deliveryFor(endlessEndpoint);
  expect(endlessDelivery.attempts).toMatchObject([{ status: 200, answer: "e".repeat(1_024) }]);
  expect(written).toBeLessThan(10_000);
  await deliveryFor(goneEndpoint, ({ status }) => status === "failed");
  expect(await acme.graft.webhookEndpoints.get(goneEndpoint.endpoint.id)).toMatchObject({ disabled_reason: "gone" });
  expect((await deliveryFor(movedEndpoint, ({ attempt_count }) => attempt_count > 0)).attempts[0]).toMatchObject({
    status: 301,
  });

  for (const [endpoint, first] of [
    [errorEndpoint, { status: 500, answer: "no", error: null }],
    [brokenEndpoint, { status: null, error: "It could not be reached." }],
    [cutEndpoint, { status: 200, error: "The connection broke before the answer had come." }],
    [busyEndpoint, { status: 429 }],
  ] as const) {
    const delivery = await deliveryFor(endpoint);
    expect(delivery.attempts).toMatchObject([first, { number: 2, status: 204, error: null }]);
    const eventArrivals = endpoint.arrivals.filter(({ event }) => event.id === delivery.event.id);
    expect(eventArrivals).toHaveLength(2);
    expect(eventArrivals[1]?.headers["webhook-timestamp"]).not.toBe(eventArrivals[0]?.headers["webhook-timestamp"]);
    for (const arrival of eventArrivals) expect(isSigned(arrival, endpoint.secret)).toBe(true);
  }
  const waited = busyEndpoint.arrivals
    .filter(({ event }) => event.type === "webhook.test")
    .map(({ receivedAt }) => receivedAt);
  expect((waited[1] ?? 0) - (waited[0] ?? 0)).toBeGreaterThanOrEqual(5_900);
  const slowDelivery = await deliveryFor(slowEndpoint, ({ attempts }) => attempts[0]?.milliseconds != null);
  expect(slowDelivery.attempts[0]?.error).toBe(`The answer was not there within ${TIMEOUT_SECONDS} seconds.`);
  expect(Date.now() - started).toBeLessThan((TIMEOUT_SECONDS + 5) * 1000);
  // Nothing was followed to where the redirection led.
  expect(goodEndpoint.arrivals.map(({ path }) => path)).not.toContain("/elsewhere");
  // Those that still answer were told that one is gone; nobody was told of another's test.
  for (const { arrivals } of [goodEndpoint, errorEndpoint]) {
    const types = new Map(arrivals.map(({ event }) => [event.id, event.type]));
    expect([...types.values()].toSorted()).toEqual(["webhook.test", "webhook_endpoint.disabled"]);
  }
});

test("1,000 events while two of three endpoints hang: the third gets all as they come", async () => {
  const tenant = await newTenant("many");
  const heads = ["a", "b", "c", "d"];
  for (const name of heads) await trainTwoVersions(tenant.graft, name);
  const [one, two, third] = [
    await newEndpoint(tenant, () => undefined),
    await newEndpoint(tenant, () => undefined),
    await newEndpoint(tenant),
  ];
  const promote = async (name: string) => {
    for (let i = 0; i < 250; i++) await tenant.graft.heads.promote(name, 1 + (i % 2));
  };
  await Promise.all(heads.map(promote));
  const createdAt = Date.now();
  await waitFor(async () => new Set(eventIds(third)).size === 1_000, "the third has all", 20_000);
  expect((third.arrivals.at(-1)?.receivedAt ?? 0) - createdAt).toBeLessThan(TIMEOUT_SECONDS * 1000);
  expect(eventIds(third)).toHaveLength(1_000);
  const sequences = third.arrivals.map(({ event }) => event.sequence).toSorted((a, b) => a - b);
  expect(sequences).toEqual(Array.from({ length: 1_000 }, (_, i) => (sequences[0] ?? 0) + i));
  // What hangs has cost few attempts, and has lost nothing.
  for (const { endpoint, arrivals } of [one, two]) {
    expect(arrivals.length).toBeLessThan(10);
    const { data } = await tenant.graft.webhookDeliveries.list({
      endpoint: endpoint.id,
      status: "pending",
      limit: 100,
    });
    expect(data).toHaveLength(100);
  }
});

test("events made while a secret is rotated are signed by one that the receiver knows", async () => {
  const tenant = await newTenant("rotating");
  const endpoint = await newEndpoint(tenant);
  const creation = emitEvents(tenant, 60);
  await waitFor(async () => endpoint.arrivals.length > 10, "some have come");
  const { secret = "" } = await tenant.graft.webhookEndpoints.rotateSecret(endpoint.endpoint.id);
  await creation;
  await waitFor(async () => new Set(eventIds(endpoint)).size === 60, "all have come");
  const [oldSecretArrivals, newSecretArrivals] = [endpoint.secret, secret].map((endpointSecret) =>
    endpoint.arrivals.filter((arrival) => isSigned(arrival, endpointSecret)),
  );
  expect(oldSecretArrivals).toHaveLength(endpoint.arrivals.length);
  expect(newSecretArrivals?.length).toBeGreaterThan(0);
  expect(newSecretArrivals?.length).toBeLessThan(endpoint.arrivals.length);
});

test("a tenant that is deleted has nothing more sent, and others' events never come to its endpoint", async () => {
  const [deletedTenant, otherTenant] = [await newTenant("doomed"), await newTenant("neighbour")];
  const [endpoint, other] = [await newEndpoint(deletedTenant, respond(500)), await newEndpoint(otherTenant)];
  await emitEvents(deletedTenant, 3);
  await waitFor(async () => endpoint.arrivals.length >= 3, "three attempts");
  await system.operator.tenants.delete("doomed");
  const deleted = Date.now();
  await emitEvents(otherTenant, 20);
  await waitFor(async () => new Set(eventIds(other)).size === 20, "the neighbour's have come");
  await waitFor(async () => (await system.operator.tenants.get("doomed")).status === "deleted", "it is deleted");
  // Its retries were due in seconds; nothing of it is due at any time now.
  expect(await system.getNextAlarm("doomed")).toBeNull();
  expect(endpoint.arrivals.filter(({ receivedAt }) => receivedAt > deleted + 2_000)).toEqual([]);
  for (const [mine, theirs] of [
    [endpoint, other],
    [other, endpoint],
  ] as const) {
    expect(mine.arrivals.every((arrival) => isSigned(arrival, mine.secret))).toBe(true);
    expect(mine.arrivals.some((arrival) => isSigned(arrival, theirs.secret))).toBe(false);
  }
});

test("kill -9 while deliveries are under way: every event arrives, under its one id; a made one can be sent again", async () => {
  const tenant = await newTenant("crashing");
  // Nothing is answered before the crash.
  const [endpoint, fastEndpoint] = [await newEndpoint(tenant, () => undefined), await newEndpoint(tenant)];
  const { id, event } = await sendTestEvent(endpoint);
  await emitEvents(tenant, 40);
  await waitFor(async () => endpoint.arrivals.length > 0, "an attempt is under way");
  await system.kill("worker");
  endpoint.handler = respond(204);
  await system.start("worker");
  const delivery = await waitForDelivery(endpoint, id);
  expect(delivery.attempts[0]?.error).toMatch(/interrupted/);
  const eventArrivals = () => endpoint.arrivals.filter(({ event: { id } }) => id === event.id);
  expect(eventArrivals().length).toBeGreaterThan(1);
  for (const receiver of [endpoint, fastEndpoint]) {
    const imports = () => receiver.arrivals.filter(({ event: { type } }) => type === "dataset.imported");
    await waitFor(async () => new Set(imports().map(({ event }) => event.id)).size === 40, "all have come");
    for (const arrival of receiver.arrivals) expect(arrival.headers["webhook-id"]).toBe(arrival.event.id);
  }
  const before = eventArrivals().length;
  await tenant.graft.webhookDeliveries.redeliver(id);
  await waitFor(async () => eventArrivals().length === before + 1, "it comes once more");
});
