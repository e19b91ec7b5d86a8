/**
 * Webhooks from the real Worker to receivers on this machine: how fast a tenant's backlog is drained, how soon an event is on
 * its way, and whether many tenants get all of theirs where one answer in ten is an error.
 *
 *   npm run bench -- webhooks
 */
import { type Client, createClient } from "../src/sdk.ts";
import { type Receiver, respond, startReceiver, trainTwice } from "../test/e2e/receivers.ts";
import { type LocalWorker, quantile, withWorker } from "./local-worker.ts";
import { median, noPeer, paired, type Row } from "./report.ts";

const BACKLOG = 2_000;
const ALONE = 300;
const TENANTS = 100;
const EVENTS = 100;
const TURNS = 3;
const CLIENTS = 16;
/** Events of a tenant before it has endpoints: two versions were trained and promoted. */
const EARLIER = 4;

export const runs = 1;

/** Runs `count` calls, so many at a time. */
async function many(count: number, atOnce: number, call: (i: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const lane = async () => {
    while (next < count) await call(next++);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

async function until(holds: () => boolean | Promise<boolean>, seconds: number): Promise<boolean> {
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end) {
    if (await holds()) return true;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return false;
}

const distinct = ({ arrivals }: Receiver) => new Set(arrivals.map(({ event }) => event.id)).size;

/** Events a second while a backlog is drained that waited for a receiver that had asked to be left alone. */
async function drained(
  graft: Client,
  receiver: Receiver,
  milliseconds: number,
): Promise<{ rate: number; lost: number }> {
  receiver.arrivals.length = 0;
  const { id } = await graft.webhookEndpoints.create({ url: `${receiver.url}/`, events: ["webhook.test"] });
  receiver.answer = respond(429, { "retry-after": "15" });
  await graft.webhookEndpoints.test(id);
  await until(() => receiver.arrivals.length === 1, 10);
  receiver.answer = (response) => setTimeout(() => respond(204)(response), milliseconds);
  await many(BACKLOG - 1, CLIENTS, () => graft.webhookEndpoints.test(id));
  if (receiver.arrivals.length > 1) throw new Error("The backlog took longer to make than the receiver waits.");
  await until(() => receiver.arrivals.length > 1, 30);
  const first = receiver.arrivals[1]?.at ?? Number.NaN;
  await until(() => distinct(receiver) === BACKLOG, 120);
  const last = receiver.arrivals.at(-1)?.at ?? Number.NaN;
  await graft.webhookEndpoints.delete(id);
  return { rate: ((BACKLOG - 1) / (last - first)) * 1000, lost: BACKLOG - distinct(receiver) };
}

/** Milliseconds from the request that makes an event, before its commit, to the arrival of its first attempt. */
async function alone(graft: Client, receiver: Receiver): Promise<number[]> {
  receiver.answer = respond(204);
  const { id } = await graft.webhookEndpoints.create({ url: `${receiver.url}/`, events: ["webhook.test"] });
  const taken: number[] = [];
  for (let i = 0; i < ALONE; i++) {
    receiver.arrivals.length = 0;
    const sent = Date.now();
    await graft.webhookEndpoints.test(id);
    await until(() => receiver.arrivals.length > 0, 30);
    taken.push((receiver.arrivals[0]?.at ?? Number.NaN) - sent);
  }
  await graft.webhookEndpoints.delete(id);
  return taken;
}

interface Crowd {
  readonly seconds: number;
  readonly lost: number;
  /** Of the endpoints that always answer: milliseconds from the request that makes the event to its arrival. */
  readonly latencies: number[];
}

/** Every tenant has two endpoints. Where it `fails`, the second answers the first attempt at one event in ten by an error. */
async function crowd(
  worker: LocalWorker,
  [healthy, flaky]: readonly [Receiver, Receiver],
  name: string,
  fails: boolean,
): Promise<Crowd> {
  const tenants: Client[] = [];
  await many(TENANTS, 4, async (i) => {
    const { key } = await worker.operator.tenants.create({ id: `${name}-${i}` });
    const graft = createClient({ baseUrl: worker.url, key: key.secret });
    await trainTwice(graft, "head");
    for (const { url } of [healthy, flaky])
      await graft.webhookEndpoints.create({ url: `${url}/${name}-${i}`, events: ["head.promoted"] });
    tenants[i] = graft;
  });
  for (const receiver of [healthy, flaky]) receiver.arrivals.length = 0;
  const failed = new Set<string>();
  const taken = new Set<string>();
  healthy.answer = respond(204);
  flaky.answer = (response, { event: { id } }) => {
    const first = fails && Number.parseInt(id.slice(-4), 16) % 10 === 0 && !failed.has(id);
    (first ? failed : taken).add(id);
    respond(first ? 500 : 204)(response);
  };
  const sent = new Map<string, number>();
  const total = TENANTS * EVENTS;
  const started = performance.now();
  await many(total, CLIENTS, async (i) => {
    const [tenant, turn] = [i % TENANTS, Math.floor(i / TENANTS)];
    sent.set(`/${name}-${tenant} ${EARLIER + turn + 1}`, Date.now());
    await (tenants[tenant] as Client).heads.promote("head", 1 + (turn % 2));
  });
  await until(() => distinct(healthy) === total && taken.size === total, 120);
  const latencies = healthy.arrivals.map(
    ({ at, path, event }) => at - (sent.get(`${path} ${event.sequence}`) ?? Number.NaN),
  );
  return {
    seconds: (performance.now() - started) / 1000,
    lost: 2 * total - distinct(healthy) - taken.size,
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
      const lost = (name: string, count: number) => row(name, "not delivered", count, "", "0", count === 0);
      console.error("A backlog …");
      const atOnce = await drained(worker.graft, receivers[0], 0);
      const slowly = await drained(worker.graft, receivers[0], 50);
      console.error("One at a time …");
      const taken = await alone(worker.graft, receivers[0]);
      const [p50, p99] = [quantile(taken, 0.5), quantile(taken, 0.99)];
      console.error(`${TENANTS} tenants …`);
      // In turns, because the machine's other work comes and goes.
      const failing: Crowd[] = [];
      const calm: Crowd[] = [];
      for (let turn = 1; turn <= TURNS; turn++) {
        failing.push(await crowd(worker, receivers, `failing-${turn}`, true));
        calm.push(await crowd(worker, receivers, `calm-${turn}`, false));
      }
      const each = `${TENANTS} tenants × ${EVENTS} events to two endpoints each`;
      const flaky = `${each}, one answer in ten an error at the second`;
      const lostOf = (crowds: readonly Crowd[]) => crowds.reduce((sum, each) => sum + each.lost, 0);
      const secondsOf = (crowds: readonly Crowd[]) => median(crowds.map(({ seconds }) => seconds));
      const beside = (p: number): Row => {
        const of = (crowds: readonly Crowd[]) => crowds.map(({ latencies }) => quantile(latencies, p));
        const { ratio, spread } = paired(of(failing), of(calm));
        return {
          ...row(
            flaky,
            `at the endpoint that answers, p${100 * p}`,
            median(of(failing)),
            "ms",
            "ratio ≤ 1.1",
            ratio <= 1.1,
          ),
          peer: "no errors",
          peer_value: median(of(calm)),
          ratio,
          spread,
        };
      };
      const backlog = `a backlog of ${BACKLOG}`;
      return [
        row(`${backlog}, answers at once`, "delivered", atOnce.rate, "events/s", "≥ 200", atOnce.rate >= 200),
        lost(`${backlog}, answers at once`, atOnce.lost),
        row(`${backlog}, answers after 50 ms`, "delivered", slowly.rate, "events/s", "≥ 50", slowly.rate >= 50),
        lost(`${backlog}, answers after 50 ms`, slowly.lost),
        row("one event at a time", "request to first attempt, p50", p50, "ms", "≤ 100", p50 <= 100),
        row("one event at a time", "request to first attempt, p99", p99, "ms", "≤ 1000", p99 <= 1000),
        lost(each, lostOf(calm)),
        row(each, "all delivered", secondsOf(calm), "s"),
        lost(flaky, lostOf(failing)),
        row(flaky, "all delivered", secondsOf(failing), "s"),
        beside(0.5),
        beside(0.99),
      ];
    });
  } finally {
    for (const receiver of receivers) await receiver.close();
  }
}
