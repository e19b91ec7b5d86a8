/**
 * Fine-tuning jobs on this machine, the Worker and the batch endpoint each a process: what the way there and back takes,
 * 100 jobs of 20 tenants on one runner, and what jobs of several sizes take.
 *
 *   npm run bench -- jobs
 */
import { readdirSync, readFileSync } from "node:fs";
import { seededRandom } from "../src/core/random.ts";
import {
  createDataset,
  type System,
  startSystem,
  type TenantClient,
  waitFor,
  waitForJobEnd,
} from "../test/e2e/processes.ts";
import { median, noPeer, type Row } from "./report.ts";

const SEQUENTIAL_JOBS = 15;
const TENANTS = 20;
const JOBS_PER_TENANT = 5;
/** Before memory is looked at. */
const IDLE_MS = 5_000;
/** So few that training them takes next to nothing. */
const EXAMPLES = 40;

/** Examples and labels of the jobs whose memory and time are measured. */
const SIZES = [
  [1_000, 20],
  [10_000, 50],
  [50_000, 50],
  [100_000, 20],
] as const;

export const runs = 1;

/** The memory in RAM of a process and all that it started, in MB of 10^6 bytes. */
export function processTreeMegabytes(pid: number): number {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    try {
      const [, parent] = /\) \S (\d+)/.exec(readFileSync(`/proc/${Number(name)}/stat`, "utf8")) ?? [];
      parents.set(Number(name), Number(parent));
    } catch {
      // Not a process, or one that has ended meanwhile.
    }
  }
  const pids = new Set([pid]);
  for (let size = 0; size < pids.size; ) {
    size = pids.size;
    for (const [child, parent] of parents) if (pids.has(parent)) pids.add(child);
  }
  let kibibytes = 0;
  for (const member of pids) {
    try {
      kibibytes += Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${member}/status`, "utf8"))?.[1] ?? 0);
    } catch {
      // It has just ended.
    }
  }
  return (kibibytes * 1024) / 1e6;
}

const headJob = { model: "text-static-1", trainable: "head" } as const;

async function createJob({ graft }: TenantClient, head: string): Promise<string> {
  const job = { ...headJob, training_file: "dataset:tickets", head, promote: "always" } as const;
  return (await graft.jobs.create(job)).id;
}

/** Seconds from the request that makes a job to its head's version being active, one job at a time. */
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
    // The first finds nothing warm.
    if (i > 0) seconds.push((performance.now() - started) / 1000);
  }
  return seconds;
}

interface ConcurrencyResult {
  readonly seconds: number;
  /** By how many jobs the tenant served most was ahead of the one served least, at most, while both had some waiting. */
  readonly maxLead: number;
  readonly succeeded: number;
  /** When all is done, of each side, in MB. */
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
    // Before the last is made, some have nothing waiting yet.
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
    maxLead: maxLead,
    succeeded,
    worker: processTreeMegabytes(system.pid("worker")),
    batch: processTreeMegabytes(system.pid("batch")),
  };
}

interface SizeResult {
  readonly name: string;
  readonly seconds: number;
  /** The most that the endpoint's processes had in RAM together, in MB of 10^6 bytes. */
  readonly megabytes: number;
}

/** Examples of about 60 characters whose words belong to a label or to none, as lines of JSON. */
export function syntheticTexts(examples: number, labels: number): string[] {
  const random = seededRandom(1);
  const word = (from: number, count: number) => `w${from + Math.floor(count * random())}`;
  return Array.from({ length: examples }, (_, i) => {
    const label = i % labels;
    const labelWords = Array.from({ length: 4 }, () => word(1_000 + 40 * label, 60)).join(" ");
    return `{"text":"${labelWords} ${Array.from({ length: 8 }, () => word(0, 1_000)).join(" ")}","label":"label ${label}"}`;
  });
}

/** One job of each size. */
async function measureSizes(system: System, { graft }: TenantClient): Promise<SizeResult[]> {
  const measured: SizeResult[] = [];
  for (const [examples, labels] of SIZES) {
    const name = `${examples} × 256, ${labels} labels`;
    console.error(`${name} …`);
    const dataset = `size-${examples}`;
    await graft.datasets.create({ name: dataset, task: "single_label", modality: "text" });
    const rows = syntheticTexts(examples, labels);
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
    const row = (
      name: string,
      measure: string,
      value: number,
      unit: string,
      target: string | null,
      met: boolean | null,
    ) => ({
      case: name,
      measure,
      value,
      unit,
      ...noPeer,
      target,
      met,
    });
    const caseName = `${total} jobs, ${TENANTS} tenants`;
    const growthOf = (side: "worker" | "batch") => secondRun[side] / firstRun[side];
    return [
      row(
        "one job",
        "create to promoted, training included, median",
        median(seconds),
        "s",
        "≤ 2",
        median(seconds) <= 2,
      ),
      row("one job", "the slowest", Math.max(...seconds), "s", "≤ 2", Math.max(...seconds) <= 2),
      row(caseName, "all done", firstRun.seconds, "s", null, null),
      row(
        caseName,
        "succeeded at their first attempt",
        firstRun.succeeded,
        "",
        `${total}`,
        firstRun.succeeded === total,
      ),
      row(caseName, "lead of the tenant served most", firstRun.maxLead, "jobs", "≤ 2", firstRun.maxLead <= 2),
      row(
        caseName,
        "the Worker's memory after as many again, to that before",
        growthOf("worker"),
        "",
        "≤ 1.1",
        growthOf("worker") <= 1.1,
      ),
      row(caseName, "the batch endpoint's, the same", growthOf("batch"), "", "≤ 1.1", growthOf("batch") <= 1.1),
      row(caseName, "the Worker's memory then", secondRun.worker, "MB", null, null),
      row(caseName, "the batch endpoint's", secondRun.batch, "MB", null, null),
      ...sizeResults.flatMap(({ name, seconds, megabytes }) => [
        row(name, "create to the end", seconds, "s", null, null),
        row(name, "the batch endpoint's peak memory", megabytes, "MB", null, null),
      ]),
    ];
  } finally {
    await system.close();
  }
}
