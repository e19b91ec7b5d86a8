/** Receivers of webhooks, played by the tests: each has a URL of its own, keeps what comes, and answers as it is told. */
import { runDurableObjectAlarm } from "cloudflare:test";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, expect, type MockInstance, vi } from "vitest";
import { call, newTenant } from "./api.ts";
import { inLedger, tenantStub } from "./fake-batch-endpoint.ts";

export interface ReceivedWebhook {
  readonly url: string;
  readonly headers: Headers;
  readonly text: string;
  readonly redirect: string | undefined;
  /** By the clock that the ledger sees. */
  readonly receivedAt: number;
}
type Handler = (arrival: ReceivedWebhook, signal: AbortSignal) => Response | Promise<Response>;

export interface Receiver {
  readonly url: string;
  readonly arrivals: ReceivedWebhook[];
  handler: Handler;
}

export const respond =
  (status: number, headers: Record<string, string> = {}, body: string | null = null): Handler =>
  () =>
    new Response(body, { status, headers });
export const neverRespond: Handler = (_, signal) =>
  new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

const receivers = new Map<string, Receiver>();

/** A receiver that answers 204 at first. */
export function newReceiver(): Receiver {
  const host = `hooks-${receivers.size + 1}.example.com`;
  const receiver = { url: `https://${host}/in?x=1`, arrivals: [], handler: respond(204) };
  receivers.set(host, receiver);
  return receiver;
}

/** Has this file's webhooks come here; what goes anywhere else is an error. */
export function mockReceivers(): void {
  let fetchSpy: MockInstance<typeof fetch> | undefined;
  beforeAll(() => {
    fetchSpy = vi.spyOn(globalThis, "fetch").mockImplementation(async (input, init) => {
      const url = String(input);
      const receiver = receivers.get(new URL(url).hostname);
      if (receiver === undefined) throw new TypeError("Network connection lost.");
      const { redirect } = init as RequestInit;
      const arrival = {
        url,
        headers: new Headers(init?.headers),
        text: String(init?.body),
        redirect,
        receivedAt: Date.now(),
      };
      receiver.arrivals.push(arrival);
      return receiver.handler(arrival, init?.signal as AbortSignal);
    });
  });
  afterAll(() => {
    fetchSpy?.mockRestore();
    vi.useRealTimers();
  });
}

/** The body of what came, once its signature was checked by the library with this secret. */
export function verifyWebhook(arrival: ReceivedWebhook | undefined, secret: string) {
  if (arrival === undefined) throw new Error("nothing has come");
  const headers = Object.fromEntries(arrival.headers);
  // The library goes by the clock, which a test may have set.
  return new Webhook(secret).verify(arrival.text, headers) as {
    id: string;
    object: string;
    type: string;
    created_at: number;
    timestamp: string;
    sequence: number;
    data: Record<string, unknown>;
  };
}

export interface Endpoint extends Receiver {
  readonly tenant: string;
  readonly key: string;
  readonly id: string;
  readonly secret: string;
}

/** A tenant's endpoint at a receiver of its own. */
export async function newEndpoint(
  { id: tenant, key }: { id: string; key: string },
  body: object = {},
): Promise<Endpoint> {
  const receiver = newReceiver();
  const answer = await call("POST", "/v1/webhook_endpoints", key, { url: receiver.url, events: ["*"], ...body });
  expect(answer.status, answer.text).toBe(201);
  return Object.assign(receiver, { tenant, key, id: answer.json.id, secret: answer.json.secret });
}

export async function newTenantWithEndpoint(body: object = {}): Promise<Endpoint> {
  return newEndpoint(await newTenant(), body);
}

/** Emits webhook.test to the endpoint; answers its delivery. */
export async function sendTestEvent({ id, key }: Endpoint): Promise<{ id: string; event: { id: string } }> {
  const answer = await call("POST", `/v1/webhook_endpoints/${id}/test`, key);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

export async function getDelivery({ key }: Endpoint, id: string) {
  const answer = await call("GET", `/v1/webhook_deliveries/${id}`, key);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

export async function getEndpoint({ key, id }: Endpoint) {
  return (await call("GET", `/v1/webhook_endpoints/${id}`, key)).json;
}

/** Waits until none of the tenant's attempts is under way. */
export async function waitForAttempts(tenant: string): Promise<void> {
  await vi.waitUntil(
    () =>
      inLedger(tenant, ({ sql }) => {
        const query = "SELECT count(*) AS n FROM deliveries WHERE live = 1 AND due_at > ?";
        return sql.exec<{ n: number }>(query, Date.now()).one().n === 0;
      }),
    { timeout: 30_000, interval: 5 },
  );
}

/** When the alarm is due next; null without one. */
export function nextAlarm(tenant: string): Promise<number | null> {
  return inLedger(
    tenant,
    ({ sql }) => sql.exec<{ at: number | null }>("SELECT min(run_at) AS at FROM due WHERE kind = 'deliver'").one().at,
  );
}

/**
 * Lets so much time pass by a clock of the test's own, from one time at which webhooks are due to the next, as the platform's
 * alarm would. Nothing runs by itself meanwhile.
 */
export async function advanceTime(tenant: string, milliseconds: number): Promise<void> {
  const end = Date.now() + milliseconds;
  for (;;) {
    const next = await nextAlarm(tenant);
    if (next === null || next > end) break;
    vi.setSystemTime(Math.max(next, Date.now()));
    await runDurableObjectAlarm(tenantStub(tenant));
    await waitForAttempts(tenant);
  }
  vi.setSystemTime(end);
}
