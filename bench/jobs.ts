/**
 * Fine-tuning jobs on this machine, the Worker and the batch endpoint each a process: what the way there and back takes,
 * 100 jobs of 20 tenants on one runner, and what jobs of several sizes take.
 *
 *   npm run bench -- jobs
 */
import { readdirSync, readFileSync } from "node:fs";
import { seededRandom } from "../src/core/random.ts";
import { createDataset, ended, eventually, type System, startSystem, type Tenant } from "../test/e2e/batch-system.ts";
import { median, noPeer, type Row } from "./report.ts";

const ALONE = 15;
const TENANTS = 20;
const JOBS_A_TENANT = 5;
/** Before memory is looked at. */
const REST_MS = 5_000;
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
export function memory(pid: number): number {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    try {
      const [, parent] = /\) \S (\d+)/.exec(readFileSync(`/proc/${Number(name)}/stat`, "utf8")) ?? [];
      parents.set(Number(name), Number(parent));
    } catch {
      // Not a process, or one that has ended meanwhile.
    }
  }
  const family = new Set([pid]);
  for (let size = 0; size < family.size; ) {
    size = family.size;
    for (const [child, parent] of parents) if (family.has(parent)) family.add(child);
  }
  let kibibytes = 0;
  for (const one of family) {
    try {
      kibibytes += Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${one}/status`, "utf8"))?.[1] ?? 0);
    } catch {
      // It has just ended.
    }
  }
  return (kibibytes * 1024) / 1e6;
}

const ofHeads = { model: "text-static-1", trainable: "head" } as const;

async function create({ graft }: Tenant, head: string): Promise<string> {
  const job = { ...ofHeads, training_file: "dataset:tickets", head, promote: "always" } as const;
  return (await graft.jobs.create(job)).id;
}

/** Seconds from the request that makes a job to its head's version being active, one job at a time. */
async function alone(tenant: Tenant): Promise<number[]> {
  const seconds: number[] = [];
  for (let i = 0; i <= ALONE; i++) {
    const started = performance.now();
    const id = await create(tenant, `alone-${i}`);
    const job = await eventually(async () => {
      const now = await tenant.graft.jobs.get(id);
      return now.finished_at !== null && now;
    }, "the job ends");
    if (!job.graft.promoted) throw new Error(`${id} was not promoted`);
    // The first finds nothing warm.
    if (i > 0) seconds.push((performance.now() - started) / 1000);
  }
  return seconds;
}

interface Crowd {
  readonly seconds: number;
  /** By how many jobs the tenant served most was ahead of the one served least, at most, while both had some waiting. */
  readonly lead: number;
  readonly succeeded: number;
  /** When all is done, of each side, in MB. */
  readonly worker: number;
  readonly batch: number;
}

async function crowd(system: System, tenants: readonly Tenant[], name: string): Promise<Crowd> {
  const served = new Map(tenants.map(({ id }) => [id, 0]));
  let lead = 0;
  const started = performance.now();
  const all: { tenant: Tenant; id: string }[] = [];
  system.submissions.fault = async (passing, forward) => {
    const answer = await forward();
    if (passing.what !== "submit" || answer?.status !== 202) return answer;
    const { tenant } = JSON.parse(passing.body.toString()) as { tenant: string };
    // Before the last is made, some have nothing waiting yet.
    if (all.length === TENANTS * JOBS_A_TENANT) {
      served.set(tenant, (served.get(tenant) ?? 0) + 1);
      lead = Math.max(lead, Math.max(...served.values()) - Math.min(...served.values()));
    }
    return answer;
  };
  for (let n = 0; n < JOBS_A_TENANT; n++)
    await Promise.all(tenants.map(async (tenant) => all.push({ tenant, id: await create(tenant, `${name}-${n}`) })));
  let succeeded = 0;
  for (const { tenant, id } of all) {
    const job = await ended(tenant, id, 600_000);
    if (job.status === "succeeded" && job.graft.promoted && job.graft.attempt === 1) succeeded++;
  }
  system.submissions.fault = null;
  const seconds = (performance.now() - started) / 1000;
  await new Promise((resolve) => setTimeout(resolve, REST_MS));
  return { seconds, lead, succeeded, worker: memory(system.pid("worker")), batch: memory(system.pid("batch")) };
}

interface Size {
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
    const own = Array.from({ length: 4 }, () => word(1_000 + 40 * label, 60)).join(" ");
    return `{"text":"${own} ${Array.from({ length: 8 }, () => word(0, 1_000)).join(" ")}","label":"label ${label}"}`;
  });
}

/** One job of each size. */
async function sizes(system: System, { graft }: Tenant): Promise<Size[]> {
  const measured: Size[] = [];
  for (const [examples, labels] of SIZES) {
    const name = `${examples} × 256, ${labels} labels`;
    console.error(`${name} …`);
    const dataset = `size-${examples}`;
    await graft.datasets.create({ name: dataset, task: "single_label", modality: "text" });
    const rows = syntheticTexts(examples, labels);
    await graft.datasets.import(dataset, rows.join("\n"), "application/x-ndjson");
    let megabytes = 0;
    const watch = setInterval(() => {
      megabytes = Math.max(megabytes, memory(system.pid("batch")));
    }, 100);
    const started = performance.now();
    const wanted = { ...ofHeads, training_file: `dataset:${dataset}`, head: dataset } as const;
    const { id } = await graft.jobs.create(wanted);
    await eventually(
      async () => {
        const { status, error } = await graft.jobs.get(id);
        if (status === "failed") console.error(error?.message);
        return status === "succeeded" || status === "failed";
      },
      "the job ends",
      3_600_000,
    );
    clearInterval(watch);
    measured.push({ name, seconds: (performance.now() - started) / 1000, megabytes });
  }
  return measured;
}

export async function run(): Promise<Row[]> {
  const system = await startSystem({ BATCH_JOBS: "1" }, { BATCH_SILENCE_SECONDS: "60" });
  try {
    const tenants: Tenant[] = [];
    for (let i = 0; i < TENANTS; i++) {
      const tenant = await system.createTenant(`tenant-${i}`);
      await createDataset(tenant.graft, "tickets", EXAMPLES);
      tenants.push(tenant);
    }
    console.error("One job at a time …");
    const seconds = await alone(tenants[0] as Tenant);
    console.error(`${TENANTS * JOBS_A_TENANT} jobs …`);
    const figures = await crowd(system, tenants, "first");
    console.error("The same again …");
    const again = await crowd(system, tenants, "second");
    const large = await sizes(system, tenants[0] as Tenant);
    const total = TENANTS * JOBS_A_TENANT;
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
    const many = `${total} jobs, ${TENANTS} tenants`;
    const grown = (side: "worker" | "batch") => again[side] / figures[side];
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
      row(many, "all done", figures.seconds, "s", null, null),
      row(many, "succeeded at their first attempt", figures.succeeded, "", `${total}`, figures.succeeded === total),
      row(many, "lead of the tenant served most", figures.lead, "jobs", "≤ 2", figures.lead <= 2),
      row(
        many,
        "the Worker's memory after as many again, to that before",
        grown("worker"),
        "",
        "≤ 1.1",
        grown("worker") <= 1.1,
      ),
      row(many, "the batch endpoint's, the same", grown("batch"), "", "≤ 1.1", grown("batch") <= 1.1),
      row(many, "the Worker's memory then", again.worker, "MB", null, null),
      row(many, "the batch endpoint's", again.batch, "MB", null, null),
      ...large.flatMap(({ name, seconds, megabytes }) => [
        row(name, "create to the end", seconds, "s", null, null),
        row(name, "the batch endpoint's peak memory", megabytes, "MB", null, null),
      ]),
    ];
  } finally {
    await system.close();
  }
}
