/**
 * Webhooks from the real Worker to receivers on this machine: how fast a tenant's backlog is delivered, how soon an event is
 * sent, and whether many tenants get all their events if one response in ten is an error.
 *
 *   npm run bench -- webhooks
 */
import { type Client, createClient } from "../src/sdk/client.ts";
import { type Receiver, respond, startReceiver, trainTwoVersions } from "../test/e2e/receivers.ts";
import { type LocalWorker, withWorker } from "./shared/local-worker.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median, pairedRatio, quantile } from "./shared/statistics.ts";

const BACKLOG = 2_000;
const SINGLE_EVENTS = 300;
const TENANTS = 100;
const EVENTS = 100;
const ROUNDS = 3;
const CLIENTS = 16;
/** Events of a tenant before it has endpoints: two versions are trained and promoted. */
const EARLIER_EVENTS = 4;

export const runs = 1;

/** Runs `count` calls, `concurrency` of them at a time. */
async function runConcurrently(
  count: number,
  concurrency: number,
  call: (i: number) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await call(next++);
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
}

async function waitUntil(condition: () => boolean | Promise<boolean>, seconds: number): Promise<boolean> {
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end) {
    if (await condition()) return true;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return false;
}

const countDistinctEvents = ({ arrivals }: Receiver) => new Set(arrivals.map(({ event }) => event.id)).size;

/** Events a second while a backlog is delivered. It builds up because the receiver first asks for a pause. */
async function measureDrainRate(
  graft: Client,
  receiver: Receiver,
  milliseconds: number,
): Promise<{ rate: number; lost: number }> {
  receiver.arrivals.length = 0;
  const { id } = await graft.webhookEndpoints.create({ url: `${receiver.url}/`, events: ["webhook.test"] });
  receiver.handler = respond(429, { "retry-after": "15" });
  await graft.webhookEndpoints.test(id);
  await waitUntil(() => receiver.arrivals.length === 1, 10);
  receiver.handler = (response) => setTimeout(() => respond(204)(response), milliseconds);
  await runConcurrently(BACKLOG - 1, CLIENTS, () => graft.webhookEndpoints.test(id));
  if (receiver.arrivals.length > 1) throw new Error("Making the backlog took longer than the receiver's pause.");
  await waitUntil(() => receiver.arrivals.length > 1, 30);
  const firstArrival = receiver.arrivals[1]?.receivedAt ?? Number.NaN;
  await waitUntil(() => countDistinctEvents(receiver) === BACKLOG, 120);
  const lastArrival = receiver.arrivals.at(-1)?.receivedAt ?? Number.NaN;
  await graft.webhookEndpoints.delete(id);
  return { rate: ((BACKLOG - 1) / (lastArrival - firstArrival)) * 1000, lost: BACKLOG - countDistinctEvents(receiver) };
}

/** Milliseconds from the request that makes an event, which includes its commit, to the arrival of its first attempt. */
async function measureLatencies(graft: Client, receiver: Receiver): Promise<number[]> {
  receiver.handler = respond(204);
  const { id } = await graft.webhookEndpoints.create({ url: `${receiver.url}/`, events: ["webhook.test"] });
  const latencies: number[] = [];
  for (let i = 0; i < SINGLE_EVENTS; i++) {
    receiver.arrivals.length = 0;
    const sent = Date.now();
    await graft.webhookEndpoints.test(id);
    await waitUntil(() => receiver.arrivals.length > 0, 30);
    latencies.push((receiver.arrivals[0]?.receivedAt ?? Number.NaN) - sent);
  }
  await graft.webhookEndpoints.delete(id);
  return latencies;
}

interface TenantsResult {
  readonly seconds: number;
  readonly lost: number;
  /** At the endpoints without errors: milliseconds from the request that makes an event to its arrival. */
  readonly latencies: number[];
}

/** Every tenant has two endpoints. `withErrors`: the second one fails the first attempt of one event in ten. */
async function measureTenants(
  worker: LocalWorker,
  [healthy, flaky]: readonly [Receiver, Receiver],
  name: string,
  withErrors: boolean,
): Promise<TenantsResult> {
  const tenants: Client[] = [];
  await runConcurrently(TENANTS, 4, async (i) => {
    const { key } = await worker.operator.tenants.create({ id: `${name}-${i}` });
    const graft = createClient({ baseUrl: worker.url, key: key.secret });
    await trainTwoVersions(graft, "head");
    for (const { url } of [healthy, flaky])
      await graft.webhookEndpoints.create({ url: `${url}/${name}-${i}`, events: ["head.promoted"] });
    tenants[i] = graft;
  });
  for (const receiver of [healthy, flaky]) receiver.arrivals.length = 0;
  const failedIds = new Set<string>();
  const acceptedIds = new Set<string>();
  healthy.handler = respond(204);
  flaky.handler = (response, { event: { id } }) => {
    const isError = withErrors && Number.parseInt(id.slice(-4), 16) % 10 === 0 && !failedIds.has(id);
    (isError ? failedIds : acceptedIds).add(id);
    respond(isError ? 500 : 204)(response);
  };
  const sent = new Map<string, number>();
  const total = TENANTS * EVENTS;
  const started = performance.now();
  await runConcurrently(total, CLIENTS, async (i) => {
    const [tenant, promotion] = [i % TENANTS, Math.floor(i / TENANTS)];
    sent.set(`/${name}-${tenant} ${EARLIER_EVENTS + promotion + 1}`, Date.now());
    await (tenants[tenant] as Client).heads.promote("head", 1 + (promotion % 2));
  });
  await waitUntil(() => countDistinctEvents(healthy) === total && acceptedIds.size === total, 120);
  const latencies = healthy.arrivals.map(
    ({ receivedAt, path, event }) => receivedAt - (sent.get(`${path} ${event.sequence}`) ?? Number.NaN),
  );
  return {
    seconds: (performance.now() - started) / 1000,
    lost: 2 * total - countDistinctEvents(healthy) - acceptedIds.size,
    latencies,
  };
}

function row(name: string, measure: string, value: number, unit: string): Row {
  return makeRow({ case: name, measure, value, unit });
}

function undeliveredRow(name: string, count: number): Row {
  return makeRow({ case: name, measure: "not delivered", value: count, target: "0", met: count === 0 });
}

async function measureBacklogs(graft: Client, receiver: Receiver): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { answers, delayMs, min } of [
    { answers: "answers at once", delayMs: 0, min: 200 },
    { answers: "answers after 50 ms", delayMs: 50, min: 50 },
  ]) {
    const { rate, lost } = await measureDrainRate(graft, receiver, delayMs);
    const name = `a backlog of ${BACKLOG}, ${answers}`;
    const target = { target: `≥ ${min}`, met: rate >= min };
    rows.push(makeRow({ case: name, measure: "delivered", value: rate, unit: "events/s", ...target }));
    rows.push(undeliveredRow(name, lost));
  }
  return rows;
}

async function measureSingleEvents(graft: Client, receiver: Receiver): Promise<Row[]> {
  const latencies = await measureLatencies(graft, receiver);
  return [
    { p: 0.5, max: 100 },
    { p: 0.99, max: 1000 },
  ].map(({ p, max }) => {
    const value = quantile(latencies, p);
    const measure = `request to first attempt, p${100 * p}`;
    return makeRow({ case: "one event at a time", measure, value, unit: "ms", target: `≤ ${max}`, met: value <= max });
  });
}

async function measureManyTenants(worker: LocalWorker, receivers: readonly [Receiver, Receiver]): Promise<Row[]> {
  const flaky: TenantsResult[] = [];
  const reliable: TenantsResult[] = [];
  // In alternating rounds, because the machine's other work comes and goes.
  for (let round = 1; round <= ROUNDS; round++) {
    flaky.push(await measureTenants(worker, receivers, `failing-${round}`, true));
    reliable.push(await measureTenants(worker, receivers, `calm-${round}`, false));
  }
  const name = `${TENANTS} tenants × ${EVENTS} events to two endpoints each`;
  const flakyName = `${name}, one answer in ten an error at the second`;
  const lost = (results: readonly TenantsResult[]) => results.reduce((sum, each) => sum + each.lost, 0);
  const seconds = (results: readonly TenantsResult[]) => median(results.map((each) => each.seconds));
  const latencyRow = (p: number): Row => {
    const [values, peers] = [flaky, reliable].map((results) => results.map(({ latencies }) => quantile(latencies, p)));
    const { ratio, spread } = pairedRatio(values ?? [], peers ?? []);
    return makeRow({
      case: flakyName,
      measure: `at the endpoint that answers, p${100 * p}`,
      value: median(values ?? []),
      unit: "ms",
      peer: "no errors",
      peer_value: median(peers ?? []),
      ratio,
      spread,
      target: "ratio ≤ 1.1",
      met: ratio <= 1.1,
    });
  };
  return [
    undeliveredRow(name, lost(reliable)),
    row(name, "all delivered", seconds(reliable), "s"),
    undeliveredRow(flakyName, lost(flaky)),
    row(flakyName, "all delivered", seconds(flaky), "s"),
    latencyRow(0.5),
    latencyRow(0.99),
  ];
}

export async function run(): Promise<Row[]> {
  const receivers: [Receiver, Receiver] = [await startReceiver(), await startReceiver()];
  process.env.WEBHOOK_ORIGINS = receivers.map(({ url }) => url).join(",");
  try {
    return await withWorker(async (worker) => {
      console.error("A backlog …");
      const backlogRows = await measureBacklogs(worker.graft, receivers[0]);
      console.error("One at a time …");
      const singleRows = await measureSingleEvents(worker.graft, receivers[0]);
      console.error(`${TENANTS} tenants …`);
      return [...backlogRows, ...singleRows, ...(await measureManyTenants(worker, receivers))];
    });
  } finally {
    for (const receiver of receivers) await receiver.close();
  }
}
