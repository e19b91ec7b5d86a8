/** Webhooks from the real Worker to real receivers that do what receivers do, kill -9 included. */
import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { WebhookDeliveryWithAttempts, WebhookEndpoint } from "../../src/sdk.ts";
import { eventually, type System, startSystem, type Tenant } from "./batch-system.ts";
import { type Arrival, idsOf, isSigned, type Receiver, respond, startReceiver, trainTwice } from "./receivers.ts";

const TIMEOUT_SECONDS = 6;

let system: System;
const free: Receiver[] = [];
const all: Receiver[] = [];

beforeAll(async () => {
  for (let i = 0; i < 20; i++) all.push(await startReceiver());
  free.push(...all);
  const origins = all.map(({ url }) => url).join(",");
  system = await startSystem({}, { WEBHOOK_ORIGINS: origins, WEBHOOK_TIMEOUT_SECONDS: String(TIMEOUT_SECONDS) });
});
afterAll(async () => {
  await system?.close();
  await Promise.all(all.map((receiver) => receiver.close()));
});

type Endpoint = Receiver & { readonly tenant: Tenant; readonly endpoint: WebhookEndpoint; readonly secret: string };

/** A tenant's endpoint at a receiver of its own. */
async function newEndpoint(tenant: Tenant, answer = respond(204) as Receiver["answer"]): Promise<Endpoint> {
  const receiver = free.pop();
  if (receiver === undefined) throw new Error("start more receivers");
  receiver.answer = answer;
  const endpoint = await tenant.graft.webhookEndpoints.create({ url: `${receiver.url}/in?a=b`, events: ["*"] });
  return Object.assign(receiver, { tenant, endpoint, secret: endpoint.secret ?? "" });
}

const ping = ({ tenant, endpoint }: Endpoint) => tenant.graft.webhookEndpoints.test(endpoint.id);

function delivered(
  { tenant }: Endpoint,
  id: string,
  is: (delivery: WebhookDeliveryWithAttempts) => boolean = ({ status }) => status === "succeeded",
): Promise<WebhookDeliveryWithAttempts> {
  return eventually(async () => {
    const delivery = await tenant.graft.webhookDeliveries.get(id);
    return is(delivery) && delivery;
  }, `the delivery ${id} is as wanted`);
}

/** Imports so many examples, one at a time and some at once: as many events. */
async function events({ graft }: Tenant, count: number): Promise<void> {
  let next = 0;
  const lane = async () => {
    while (next < count) await graft.datasets.add("tickets", [{ text: `ticket ${next++}`, label: "a" }]);
  };
  await Promise.all(Array.from({ length: 8 }, lane));
}

async function newTenant(id: string): Promise<Tenant> {
  const tenant = await system.createTenant(id);
  await tenant.graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
  return tenant;
}

/** Answers the first `webhook.test` in one way, and everything else with 204. */
function once(first: Receiver["answer"]): Receiver["answer"] {
  let answered = false;
  return (response, arrival) => {
    if (answered || arrival.event.type !== "webhook.test") return respond(204)(response);
    answered = true;
    return first(response, arrival);
  };
}

test("whatever a receiver answers, its events arrive, or their delivery tells why not", async () => {
  const acme = await newTenant("acme");
  const good = await newEndpoint(acme, respond(200, {}, "thanks"));
  const error = await newEndpoint(acme, once(respond(500, {}, "no")));
  const gone = await newEndpoint(acme, respond(410));
  const busy = await newEndpoint(acme, once(respond(429, { "retry-after": "6" })));
  const moved = await newEndpoint(acme, respond(301, { location: `${good.url}/elsewhere` }));
  const broken = await newEndpoint(
    acme,
    once((response) => response.socket?.destroy()),
  );
  const halfWay = await newEndpoint(
    acme,
    once((response) => {
      response.writeHead(200, { "content-length": "100" }).write("half");
      setTimeout(() => response.socket?.destroy(), 50);
    }),
  );
  let written = 0;
  const endless = await newEndpoint(acme, (response) => {
    response.writeHead(200);
    const more = () => {
      while (!response.destroyed && response.write("e".repeat(10_000))) written++;
      if (!response.destroyed) response.once("drain", more);
    };
    more();
  });
  const slow = await newEndpoint(
    acme,
    once((response) => {
      response.writeHead(200);
      const timer = setInterval(() => response.write("."), 300);
      response.once("close", () => clearInterval(timer));
    }),
  );
  const started = Date.now();
  const ids = new Map<Endpoint, string>();
  for (const one of [good, error, gone, busy, moved, broken, halfWay, endless, slow])
    ids.set(one, (await ping(one)).id);
  const of = (one: Endpoint, is?: Parameters<typeof delivered>[2]) => delivered(one, ids.get(one) ?? "", is);

  const thanked = await of(good);
  expect(thanked.attempts).toMatchObject([{ number: 1, status: 200, answer: "thanks", error: null }]);
  expect(good.arrivals[0]?.path).toBe("/in?a=b");
  const { text, headers } = good.arrivals[0] as Arrival;
  const unwrapped = await new OpenAI({ apiKey: "none" }).webhooks.unwrap(
    text,
    headers as Record<string, string>,
    good.secret,
  );
  expect(unwrapped).toMatchObject({ id: thanked.event.id, object: "event", type: "webhook.test" });

  const ended = await of(endless);
  expect(ended.attempts).toMatchObject([{ status: 200, answer: "e".repeat(1_024) }]);
  expect(written).toBeLessThan(10_000);
  await of(gone, ({ status }) => status === "failed");
  expect(await acme.graft.webhookEndpoints.get(gone.endpoint.id)).toMatchObject({ disabled_reason: "gone" });
  expect((await of(moved, ({ attempt_count }) => attempt_count > 0)).attempts[0]).toMatchObject({ status: 301 });

  for (const [one, first] of [
    [error, { status: 500, answer: "no", error: null }],
    [broken, { status: null, error: "It could not be reached." }],
    [halfWay, { status: 200, error: "The connection broke before the answer had come." }],
    [busy, { status: 429 }],
  ] as const) {
    const delivery = await of(one);
    expect(delivery.attempts).toMatchObject([first, { number: 2, status: 204, error: null }]);
    const own = one.arrivals.filter(({ event }) => event.id === delivery.event.id);
    expect(own).toHaveLength(2);
    expect(own[1]?.headers["webhook-timestamp"]).not.toBe(own[0]?.headers["webhook-timestamp"]);
    for (const arrival of own) expect(isSigned(arrival, one.secret)).toBe(true);
  }
  const waited = busy.arrivals.filter(({ event }) => event.type === "webhook.test").map(({ at }) => at);
  expect((waited[1] ?? 0) - (waited[0] ?? 0)).toBeGreaterThanOrEqual(5_900);
  const drip = await of(slow, ({ attempts }) => attempts[0]?.milliseconds != null);
  expect(drip.attempts[0]?.error).toBe(`The answer was not there within ${TIMEOUT_SECONDS} seconds.`);
  expect(Date.now() - started).toBeLessThan((TIMEOUT_SECONDS + 5) * 1000);
  // Nothing was followed to where the redirection led.
  expect(good.arrivals.map(({ path }) => path)).not.toContain("/elsewhere");
  // Those that still answer were told that one is gone; nobody was told of another's test.
  for (const { arrivals } of [good, error]) {
    const types = new Map(arrivals.map(({ event }) => [event.id, event.type]));
    expect([...types.values()].toSorted()).toEqual(["webhook.test", "webhook_endpoint.disabled"]);
  }
});

test("1,000 events while two of three endpoints hang: the third gets all as they come", async () => {
  const tenant = await newTenant("many");
  const heads = ["a", "b", "c", "d"];
  for (const name of heads) await trainTwice(tenant.graft, name);
  const [one, two, third] = [
    await newEndpoint(tenant, () => undefined),
    await newEndpoint(tenant, () => undefined),
    await newEndpoint(tenant),
  ];
  const promote = async (name: string) => {
    for (let i = 0; i < 250; i++) await tenant.graft.heads.promote(name, 1 + (i % 2));
  };
  await Promise.all(heads.map(promote));
  const made = Date.now();
  await eventually(async () => new Set(idsOf(third)).size === 1_000, "the third has all", 20_000);
  expect((third.arrivals.at(-1)?.at ?? 0) - made).toBeLessThan(3_000);
  expect(idsOf(third)).toHaveLength(1_000);
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
  const making = events(tenant, 60);
  await eventually(async () => endpoint.arrivals.length > 10, "some have come");
  const { secret = "" } = await tenant.graft.webhookEndpoints.rotateSecret(endpoint.endpoint.id);
  await making;
  await eventually(async () => new Set(idsOf(endpoint)).size === 60, "all have come");
  const [before, after] = [endpoint.secret, secret].map((one) =>
    endpoint.arrivals.filter((each) => isSigned(each, one)),
  );
  expect(before).toHaveLength(endpoint.arrivals.length);
  expect(after?.length).toBeGreaterThan(0);
  expect(after?.length).toBeLessThan(endpoint.arrivals.length);
});

test("a tenant that is deleted has nothing more sent, and others' events never come to its endpoint", async () => {
  const [doomed, neighbour] = [await newTenant("doomed"), await newTenant("neighbour")];
  const [endpoint, other] = [await newEndpoint(doomed, respond(500)), await newEndpoint(neighbour)];
  await events(doomed, 3);
  await eventually(async () => endpoint.arrivals.length >= 3, "three attempts");
  await system.operator.tenants.delete("doomed");
  const deleted = Date.now();
  await events(neighbour, 20);
  await eventually(async () => new Set(idsOf(other)).size === 20, "the neighbour's have come");
  // Past the first retries.
  await new Promise((resolve) => setTimeout(resolve, 6_500));
  expect(endpoint.arrivals.filter(({ at }) => at > deleted + 500)).toEqual([]);
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
  const [endpoint, quick] = [await newEndpoint(tenant, () => undefined), await newEndpoint(tenant)];
  const { id, event } = await ping(endpoint);
  await events(tenant, 40);
  await eventually(async () => endpoint.arrivals.length > 0, "an attempt is under way");
  await system.kill("worker");
  endpoint.answer = respond(204);
  await system.start("worker");
  const delivery = await delivered(endpoint, id);
  expect(delivery.attempts[0]?.error).toMatch(/interrupted/);
  const own = () => endpoint.arrivals.filter(({ event: { id } }) => id === event.id);
  expect(own().length).toBeGreaterThan(1);
  for (const receiver of [endpoint, quick]) {
    const imports = () => receiver.arrivals.filter(({ event: { type } }) => type === "dataset.imported");
    await eventually(async () => new Set(imports().map(({ event }) => event.id)).size === 40, "all have come");
    for (const arrival of receiver.arrivals) expect(arrival.headers["webhook-id"]).toBe(arrival.event.id);
  }
  const before = own().length;
  await tenant.graft.webhookDeliveries.redeliver(id);
  await eventually(async () => own().length === before + 1, "it comes once more");
});
