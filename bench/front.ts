/**
 * What the front costs: requests a second and latency of POST /v1/heads/{name}/predict through the front, against the
 * port of a runtime without one. Each is a server of its own, and they take turns under the same client.
 */
import { withWorker } from "./shared/local-worker.ts";
import { alternateLoad, CONCURRENCIES, prepareTickets, ROUNDS, toRow } from "./shared/predict-load.ts";
import type { Row } from "./shared/report.ts";

export const runs = ROUNDS;
const MIN_RATIO = 0.8;
const MAX_ADDED_MS = 2;
const PATH = "/v1/heads/support/predict";
const PEER = "the runtime's own port";

export function run(): Promise<Row[]> {
  return withWorker((front) => withWorker((runtime) => compare(front, runtime), { exposeRuntime: true }));
}

async function compare(...workers: Parameters<typeof prepareTickets>[0][]): Promise<Row[]> {
  const targets = [];
  for (const worker of workers) {
    const requests = await prepareTickets(worker);
    targets.push({ port: Number(new URL(worker.url).port), requests: requests(PATH) });
  }
  const [front, runtime] = targets;
  if (front === undefined || runtime === undefined) throw new Error("Two servers are compared.");
  const rows: Row[] = [];
  for (const concurrency of CONCURRENCIES) {
    const results = await alternateLoad(front, runtime, concurrency);
    const rate = toRow(concurrency, "requests", results, PEER);
    const p99 = toRow(concurrency, "p99", results, PEER);
    const addedMs = p99.value - p99.peer_value;
    rows.push(
      { ...rate, target: `ratio ≥ ${MIN_RATIO}`, met: rate.ratio >= MIN_RATIO },
      toRow(concurrency, "p50", results, PEER),
      { ...p99, target: `≤ ${MAX_ADDED_MS} ms more`, met: addedMs <= MAX_ADDED_MS },
    );
  }
  return rows;
}
