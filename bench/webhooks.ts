/**
 * Webhooks from the real Worker to receivers on this machine: how fast a tenant's backlog is drained, how soon an event is on
 * its way, and whether many tenants get all of theirs where one answer in ten is an error.
 *
 *   npm run bench -- webhooks
 */
import { type Client, createClient } from "../src/sdk/client.ts";
import { type Receiver, respond, startReceiver, trainTwoVersions } from "../test/e2e/receivers.ts";
import { type LocalWorker, quantile, withWorker } from "./local-worker.ts";
import { median, noPeer, pairedRatio, type Row } from "./report.ts";

const BACKLOG = 2_000;
const SINGLE_EVENTS = 300;
const TENANTS = 100;
const EVENTS = 100;
const ROUNDS = 3;
const CLIENTS = 16;
/** Events of a tenant before it has endpoints: two versions were trained and promoted. */
const EARLIER_EVENTS = 4;

export const runs = 1;

/** Runs `count` calls, so many at a time. */
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

/** Events a second while a backlog is drained that waited for a receiver that had asked to be left alone. */
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
  if (receiver.arrivals.length > 1) throw new Error("The backlog took longer to make than the receiver waits.");
  await waitUntil(() => receiver.arrivals.length > 1, 30);
  const firstArrival = receiver.arrivals[1]?.receivedAt ?? Number.NaN;
  await waitUntil(() => countDistinctEvents(receiver) === BACKLOG, 120);
  const lastArrival = receiver.arrivals.at(-1)?.receivedAt ?? Number.NaN;
  await graft.webhookEndpoints.delete(id);
  return { rate: ((BACKLOG - 1) / (lastArrival - firstArrival)) * 1000, lost: BACKLOG - countDistinctEvents(receiver) };
}

/** Milliseconds from the request that makes an event, before its commit, to the arrival of its first attempt. */
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
  /** Of the endpoints that always answer: milliseconds from the request that makes the event to its arrival. */
  readonly latencies: number[];
}

/** Every tenant has two endpoints. Where it `fails`, the second answers the first attempt at one event in ten by an error. */
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

export async function run(): Promise<Row[]> {
  const receivers: [Receiver, Receiver] = [await startReceiver(), await startReceiver()];
  process.env.WEBHOOK_ORIGINS = receivers.map(({ url }) => url).join(",");
  try {
    return await withWorker(async (worker) => {
      const row = (
        name: string,
        measure: string,
        value: number,
        unit: string,
        target: string | null = null,
        met: boolean | null = null,
      ): Row => ({ case: name, measure, value, unit, ...noPeer, target, met });
      const lostRow = (name: string, count: number) => row(name, "not delivered", count, "", "0", count === 0);
      console.error("A backlog …");
      const immediateDrain = await measureDrainRate(worker.graft, receivers[0], 0);
      const delayedDrain = await measureDrainRate(worker.graft, receivers[0], 50);
      console.error("One at a time …");
      const latencies = await measureLatencies(worker.graft, receivers[0]);
      const [p50, p99] = [quantile(latencies, 0.5), quantile(latencies, 0.99)];
      console.error(`${TENANTS} tenants …`);
      // In turns, because the machine's other work comes and goes.
      const failing: TenantsResult[] = [];
      const reliableRuns: TenantsResult[] = [];
      for (let round = 1; round <= ROUNDS; round++) {
        failing.push(await measureTenants(worker, receivers, `failing-${round}`, true));
        reliableRuns.push(await measureTenants(worker, receivers, `calm-${round}`, false));
      }
      const caseName = `${TENANTS} tenants × ${EVENTS} events to two endpoints each`;
      const flakyCaseName = `${caseName}, one answer in ten an error at the second`;
      const lostOf = (crowds: readonly TenantsResult[]) => crowds.reduce((sum, each) => sum + each.lost, 0);
      const secondsOf = (crowds: readonly TenantsResult[]) => median(crowds.map(({ seconds }) => seconds));
      const latencyRow = (p: number): Row => {
        const quantiles = (crowds: readonly TenantsResult[]) => crowds.map(({ latencies }) => quantile(latencies, p));
        const { ratio, spread } = pairedRatio(quantiles(failing), quantiles(reliableRuns));
        return {
          ...row(
            flakyCaseName,
            `at the endpoint that answers, p${100 * p}`,
            median(quantiles(failing)),
            "ms",
            "ratio ≤ 1.1",
            ratio <= 1.1,
          ),
          peer: "no errors",
          peer_value: median(quantiles(reliableRuns)),
          ratio,
          spread,
        };
      };
      const backlogName = `a backlog of ${BACKLOG}`;
      return [
        row(
          `${backlogName}, answers at once`,
          "delivered",
          immediateDrain.rate,
          "events/s",
          "≥ 200",
          immediateDrain.rate >= 200,
        ),
        lostRow(`${backlogName}, answers at once`, immediateDrain.lost),
        row(
          `${backlogName}, answers after 50 ms`,
          "delivered",
          delayedDrain.rate,
          "events/s",
          "≥ 50",
          delayedDrain.rate >= 50,
        ),
        lostRow(`${backlogName}, answers after 50 ms`, delayedDrain.lost),
        row("one event at a time", "request to first attempt, p50", p50, "ms", "≤ 100", p50 <= 100),
        row("one event at a time", "request to first attempt, p99", p99, "ms", "≤ 1000", p99 <= 1000),
        lostRow(caseName, lostOf(reliableRuns)),
        row(caseName, "all delivered", secondsOf(reliableRuns), "s"),
        lostRow(flakyCaseName, lostOf(failing)),
        row(flakyCaseName, "all delivered", secondsOf(failing), "s"),
        latencyRow(0.5),
        latencyRow(0.99),
      ];
    });
  } finally {
    for (const receiver of receivers) await receiver.close();
  }
}
