/**
 * Tenants that share one server: the predictions and trainings of one, while another does what costs the server most. Each
 * case compares the latency of predictions during it with that just before it.
 *
 *   npm run bench -- neighbours
 */
import { setTimeout } from "node:timers/promises";
import { createClient } from "../src/sdk/client.ts";
import { attackNames, startAttack } from "./shared/attacks.ts";
import { generateLoad, type LoadResult } from "./shared/load-generator.ts";
import { type LocalWorker, withWorker } from "./shared/local-worker.ts";
import { prepareTickets, type Target } from "./shared/predict-load.ts";
import { makeRow, type Row } from "./shared/report.ts";

const MAX_RATIO = 5;
const CONCURRENCY = 4;
const BEFORE_MS = 10_000;
const DURING_MS = 15_000;
const PAUSE_MS = 2_000;

interface Service {
  readonly load: LoadResult;
  readonly trainings: number;
  readonly refused: number;
}

/** Predictions of one tenant for a while, and its trainings one after the other beside them. */
async function measureService({ graft }: LocalWorker, target: Target, milliseconds: number): Promise<Service> {
  let isOver = false;
  const count = { trainings: 0, refused: 0 };
  const train = async () => {
    while (!isOver) {
      count.trainings++;
      const training = graft.heads.train({
        name: "again",
        dataset: "tickets",
        backbone: "text-static-1",
        method: "head",
      });
      await training.catch(() => count.refused++);
      await setTimeout(PAUSE_MS);
    }
  };
  const load = generateLoad({ ...target, concurrency: CONCURRENCY, milliseconds }).finally(() => {
    isOver = true;
  });
  await Promise.all([load, train()]);
  return { load: await load, ...count };
}

async function measure(worker: LocalWorker, target: Target, name: string, key: string): Promise<Row[]> {
  console.error(`${name} …`);
  const before = await measureService(worker, target, BEFORE_MS);
  const attack = await startAttack({ name, url: worker.url, key });
  const during = await measureService(worker, target, DURING_MS);
  console.error(`  ${await attack.stop()}`);
  await setTimeout(PAUSE_MS);
  const compare = (measure: "p50" | "p99") => ({
    ...makeRow({ case: name, measure, value: during.load[measure], unit: "ms" }),
    peer: "before",
    peer_value: before.load[measure],
    ratio: during.load[measure] / before.load[measure],
  });
  const p99 = compare("p99");
  const { trainings, refused } = during;
  return [
    compare("p50"),
    { ...p99, target: `ratio ≤ ${MAX_RATIO}`, met: p99.ratio <= MAX_RATIO },
    makeRow({
      case: name,
      measure: "trainings",
      value: trainings - refused,
      target: `${trainings}`,
      met: refused === 0,
    }),
  ];
}

export function run(): Promise<Row[]> {
  return withWorker(async (worker) => {
    const requests = await prepareTickets(worker);
    const target = { port: Number(new URL(worker.url).port), requests: requests("/v1/heads/support/predict") };
    const rows: Row[] = [];
    for (const name of attackNames) {
      const { key } = await worker.operator.tenants.create({ id: `neighbour-${attackNames.indexOf(name)}` });
      // A first request of the new tenant, so that making its ledger is not measured.
      await createClient({ baseUrl: worker.url, key: key.secret }).datasets.list();
      rows.push(...(await measure(worker, target, name, key.secret)));
    }
    return rows;
  });
}
