/** How long a job of 60 rows waits behind one of 30,000 rows and 50 epochs that runs: of the same tenant, and of another. */
import { startSystem, type TenantClient, waitFor, waitForJobEnd } from "../test/e2e/processes.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { syntheticTexts } from "./shared/synthetic.ts";

const LARGE = { rows: 30_000, labels: 20, epochs: 50 } as const;
const SMALL = { rows: 60, labels: 4 } as const;
const MINUTE_MS = 60_000;
const EPOCHS_MEASURED = 3;
/** Beyond the time that the large job takes. */
const PATIENCE_MS = 120 * MINUTE_MS;

async function createDataset({ graft }: TenantClient, name: string, rows: number, labels: number): Promise<void> {
  await graft.datasets.create({ name, task: "single_label", modality: "text" });
  const lines = syntheticTexts(rows, labels).map((row) => JSON.stringify(row));
  await graft.datasets.import(name, lines.join("\n"), "application/x-ndjson");
}

async function createJob({ graft }: TenantClient, dataset: string, epochs: number | "auto"): Promise<string> {
  const params = { model: "text-static-1", training_file: `dataset:${dataset}`, trainable: "all" } as const;
  const method = { type: "supervised", supervised: { hyperparameters: { n_epochs: epochs } } } as const;
  return (await graft.jobs.create({ ...params, method })).id;
}

/** Seconds that an epoch of the job takes, by its first ones. */
async function measureEpoch({ graft }: TenantClient, id: string): Promise<number> {
  const startedAt = new Map<number, number>();
  return waitFor(
    async () => {
      const { data } = await graft.jobs.events(id, { limit: 100 });
      for (const { message } of data) {
        const epoch = Number(/^Epoch (\d+) of/.exec(message)?.[1] ?? 0);
        if (epoch > 0 && !startedAt.has(epoch)) startedAt.set(epoch, performance.now());
      }
      const [first, last] = [startedAt.get(1), startedAt.get(1 + EPOCHS_MEASURED)];
      return first !== undefined && last !== undefined && (last - first) / EPOCHS_MEASURED / 1000;
    },
    "some epochs are trained",
    10 * MINUTE_MS,
  );
}

/** Seconds from the creation of a small job until it runs, and until its end. */
async function measureSmallJob(tenant: TenantClient): Promise<{ readonly waiting: number; readonly total: number }> {
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  const id = await createJob(tenant, "small", "auto");
  const isStarted = async () => !["validating_files", "queued"].includes((await tenant.graft.jobs.get(id)).status);
  await waitFor(isStarted, "the small job runs", PATIENCE_MS);
  const waiting = seconds();
  const { status } = await waitForJobEnd(tenant, id, PATIENCE_MS);
  if (status !== "succeeded") throw new Error(`The small job has ${status}.`);
  return { waiting, total: seconds() };
}

export async function measureWaiting(): Promise<Row[]> {
  const system = await startSystem({ batch: { BATCH_JOBS: "1" }, worker: { BATCH_SILENCE_SECONDS: "60" } });
  try {
    const [owner, other] = [await system.createTenant("owner"), await system.createTenant("other")];
    await createDataset(owner, "large", LARGE.rows, LARGE.labels);
    for (const tenant of [owner, other]) await createDataset(tenant, "small", SMALL.rows, SMALL.labels);
    const large = await createJob(owner, "large", LARGE.epochs);
    const secondsPerEpoch = await measureEpoch(owner, large);
    const name = `${SMALL.rows} rows behind ${LARGE.rows} rows × ${LARGE.epochs} epochs`;
    const row = (measure: string, value: number) => makeRow({ case: name, measure, value, unit: "s" });
    const rows = [
      row(`${LARGE.epochs} epochs of the large job, at the pace of its first`, LARGE.epochs * secondsPerEpoch),
    ];
    for (const [whose, tenant] of [["the same tenant's", owner] as const, ["another tenant's", other] as const]) {
      const { waiting, total } = await measureSmallJob(tenant);
      rows.push(row(`${whose}, create to running`, waiting), row(`${whose}, create to the end`, total));
    }
    const { status } = await owner.graft.jobs.get(large);
    if (status !== "running") throw new Error(`The large job has ${status}, so nothing waited behind it.`);
    await owner.graft.jobs.cancel(large);
    return rows;
  } finally {
    await system.close();
  }
}
