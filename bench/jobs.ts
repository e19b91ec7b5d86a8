/**
 * Jobs on this machine, with the Worker and the batch endpoint as processes: the time of a small job, 100 jobs of 20
 * tenants on an endpoint that runs one at a time, and the time and memory of jobs of several sizes.
 *
 *   npm run bench -- jobs [--only waiting]
 *
 * `waiting` is how long a small job waits behind a large one.
 */
import {
  createDataset,
  type System,
  startSystem,
  type TenantClient,
  waitFor,
  waitForJobEnd,
} from "../test/e2e/processes.ts";
import { measureWaiting } from "./jobs-waiting.ts";
import { processTreeMegabytes } from "./shared/memory.ts";
import { readOptions } from "./shared/options.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median } from "./shared/statistics.ts";
import { syntheticTexts } from "./shared/synthetic.ts";

const SEQUENTIAL_JOBS = 15;
const TENANTS = 20;
const JOBS_PER_TENANT = 5;
/** The pause before memory is measured. */
const IDLE_MS = 5_000;
/** Training on so few takes almost no time. */
const EXAMPLES = 40;

/** Examples and labels of the jobs whose memory and time are measured. */
const SIZES = [
  [1_000, 20],
  [10_000, 50],
  [50_000, 50],
  [100_000, 20],
] as const;

export const runs = 1;

const headJob = { model: "text-static-1", trainable: "head" } as const;

async function createJob({ graft }: TenantClient, head: string): Promise<string> {
  const job = { ...headJob, training_file: "dataset:tickets", head, promote: "always" } as const;
  return (await graft.jobs.create(job)).id;
}

/** Seconds from the request that creates a job until the head's version is active, one job at a time. */
async function measureSequential(tenant: TenantClient): Promise<number[]> {
  const seconds: number[] = [];
  for (let i = 0; i <= SEQUENTIAL_JOBS; i++) {
    const started = performance.now();
    const id = await createJob(tenant, `alone-${i}`);
    const job = await waitFor(async () => {
      const current = await tenant.graft.jobs.get(id);
      return current.finished_at !== null && current;
    }, "the job ends");
    if (!job.graft.promoted) throw new Error(`${id} was not promoted`);
    // The first job starts cold.
    if (i > 0) seconds.push((performance.now() - started) / 1000);
  }
  return seconds;
}

interface ConcurrencyResult {
  readonly seconds: number;
  /** The largest difference in served jobs between two tenants while both had jobs waiting. */
  readonly maxLead: number;
  readonly succeeded: number;
  /** Memory of each process tree after the jobs, in MB. */
  readonly worker: number;
  readonly batch: number;
}

async function measureConcurrent(
  system: System,
  tenants: readonly TenantClient[],
  name: string,
): Promise<ConcurrencyResult> {
  const servedJobs = new Map(tenants.map(({ id }) => [id, 0]));
  let maxLead = 0;
  const started = performance.now();
  const jobs: { tenant: TenantClient; id: string }[] = [];
  system.submissions.fault = async (passing, forward) => {
    const answer = await forward();
    if (passing.kind !== "submit" || answer?.status !== 202) return answer;
    const { tenant } = JSON.parse(passing.body.toString()) as { tenant: string };
    // Until the last job is created, some tenants have no job waiting.
    if (jobs.length === TENANTS * JOBS_PER_TENANT) {
      servedJobs.set(tenant, (servedJobs.get(tenant) ?? 0) + 1);
      maxLead = Math.max(maxLead, Math.max(...servedJobs.values()) - Math.min(...servedJobs.values()));
    }
    return answer;
  };
  for (let n = 0; n < JOBS_PER_TENANT; n++)
    await Promise.all(
      tenants.map(async (tenant) => jobs.push({ tenant, id: await createJob(tenant, `${name}-${n}`) })),
    );
  let succeeded = 0;
  for (const { tenant, id } of jobs) {
    const job = await waitForJobEnd(tenant, id, 600_000);
    if (job.status === "succeeded" && job.graft.promoted && job.graft.attempt === 1) succeeded++;
  }
  system.submissions.fault = null;
  const seconds = (performance.now() - started) / 1000;
  await new Promise((resolve) => setTimeout(resolve, IDLE_MS));
  return {
    seconds,
    maxLead,
    succeeded,
    worker: processTreeMegabytes(system.pid("worker")),
    batch: processTreeMegabytes(system.pid("batch")),
  };
}

interface SizeResult {
  readonly name: string;
  readonly seconds: number;
  /** The peak RAM of the endpoint's process tree, in MB. */
  readonly megabytes: number;
}

/** One job of each size. */
async function measureSizes(system: System, { graft }: TenantClient): Promise<SizeResult[]> {
  const measured: SizeResult[] = [];
  for (const [examples, labels] of SIZES) {
    const name = `${examples} × 256, ${labels} labels`;
    console.error(`${name} …`);
    const dataset = `size-${examples}`;
    await graft.datasets.create({ name: dataset, task: "single_label", modality: "text" });
    const rows = syntheticTexts(examples, labels).map((row) => JSON.stringify(row));
    await graft.datasets.import(dataset, rows.join("\n"), "application/x-ndjson");
    let megabytes = 0;
    const memoryTimer = setInterval(() => {
      megabytes = Math.max(megabytes, processTreeMegabytes(system.pid("batch")));
    }, 100);
    const started = performance.now();
    const params = { ...headJob, training_file: `dataset:${dataset}`, head: dataset } as const;
    const { id } = await graft.jobs.create(params);
    await waitFor(
      async () => {
        const { status, error } = await graft.jobs.get(id);
        if (status === "failed") console.error(error?.message);
        return status === "succeeded" || status === "failed";
      },
      "the job ends",
      3_600_000,
    );
    clearInterval(memoryTimer);
    measured.push({ name, seconds: (performance.now() - started) / 1000, megabytes });
  }
  return measured;
}

export async function run(): Promise<Row[]> {
  return readOptions().only === "waiting" ? measureWaiting() : [...(await measureJobs()), ...(await measureWaiting())];
}

async function measureJobs(): Promise<Row[]> {
  const system = await startSystem({ batch: { BATCH_JOBS: "1" }, worker: { BATCH_SILENCE_SECONDS: "60" } });
  try {
    const tenants: TenantClient[] = [];
    for (let i = 0; i < TENANTS; i++) {
      const tenant = await system.createTenant(`tenant-${i}`);
      await createDataset(tenant.graft, "tickets", EXAMPLES);
      tenants.push(tenant);
    }
    console.error("One job at a time …");
    const seconds = await measureSequential(tenants[0] as TenantClient);
    console.error(`${TENANTS * JOBS_PER_TENANT} jobs …`);
    const firstRun = await measureConcurrent(system, tenants, "first");
    console.error("The same again …");
    const secondRun = await measureConcurrent(system, tenants, "second");
    const sizeResults = await measureSizes(system, tenants[0] as TenantClient);
    const total = TENANTS * JOBS_PER_TENANT;
    const row = (name: string, measure: string, value: number, unit: string) =>
      makeRow({ case: name, measure, value, unit });
    const boundedRow = (name: string, measure: string, value: number, unit: string, max: number) =>
      makeRow({ case: name, measure, value, unit, target: `≤ ${max}`, met: value <= max });
    const caseName = `${total} jobs, ${TENANTS} tenants`;
    const growthOf = (side: "worker" | "batch") => secondRun[side] / firstRun[side];
    return [
      boundedRow("one job", "create to promoted, training included, median", median(seconds), "s", 2),
      boundedRow("one job", "the slowest", Math.max(...seconds), "s", 2),
      row(caseName, "all done", firstRun.seconds, "s"),
      makeRow({
        case: caseName,
        measure: "succeeded at their first attempt",
        value: firstRun.succeeded,
        target: `${total}`,
        met: firstRun.succeeded === total,
      }),
      boundedRow(caseName, "lead of the tenant served most", firstRun.maxLead, "jobs", 2),
      boundedRow(caseName, "the Worker's memory after as many again, to that before", growthOf("worker"), "", 1.1),
      boundedRow(caseName, "the batch endpoint's, the same", growthOf("batch"), "", 1.1),
      row(caseName, "the Worker's memory then", secondRun.worker, "MB"),
      row(caseName, "the batch endpoint's", secondRun.batch, "MB"),
      ...sizeResults.flatMap(({ name, seconds, megabytes }) => [
        row(name, "create to the end", seconds, "s"),
        row(name, "the batch endpoint's peak memory", megabytes, "MB"),
      ]),
    ];
  } finally {
    await system.close();
  }
}
