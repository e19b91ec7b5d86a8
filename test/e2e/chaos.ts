/**
 * kill -9 of the Worker or the batch endpoint at a step of a job's way there and back: as a request of that step arrives,
 * or when it has been answered and the answer is not there yet.
 */

import type { FineTuningJob, FineTuningJobEvent } from "../../src/sdk/client.ts";
import type { Fault, ProxiedRequest } from "./faulty-proxy.ts";
import {
  createDataset,
  type ProcessName,
  type System,
  startSystem,
  type TenantClient,
  waitFor,
  waitForJobEnd,
} from "./processes.ts";

/** What passes between the two on the way of every job. */
export const steps = ["submit", "data", "progress", "checkpoint", "evaluated", "artifact", "finished"] as const;

export interface KillPoint {
  readonly side: ProcessName;
  readonly step: (typeof steps)[number];
  /** Whether the request was answered before, and the answer is lost. */
  readonly afterAnswer: boolean;
}

/** Attempts that may be lost before a job fails; attempts that may be lost with the endpoint that ran them. */
const MAX_ATTEMPTS = 3;
const MAX_ENDPOINT_DEATHS = 5;

/** Either process at every step; by default before and after the answer in turn. */
export function listKillPoints(includeAll: boolean): KillPoint[] {
  const killPoints = [false, true].flatMap((afterAnswer) =>
    steps.flatMap((step) => (["worker", "batch"] as const).map((side) => ({ side, step, afterAnswer }))),
  );
  const isAfterAnswer = ({ side, step }: KillPoint) => (steps.indexOf(step) + (side === "batch" ? 1 : 0)) % 2 === 1;
  return killPoints.filter((killPoint) => includeAll || killPoint.afterAnswer === isAfterAnswer(killPoint));
}

/** Arms the proxies: at the next request of that step the process is killed and started again. Resolves when it is back. */
export function killAtStep(system: System, { side, step, afterAnswer }: KillPoint): Promise<void> {
  return new Promise((resolve, reject) => {
    let armed = true;
    const fault: Fault = async (request: ProxiedRequest, forward) => {
      if (!armed || request.kind !== step) return forward();
      armed = false;
      if (afterAnswer) await forward();
      system.submissions.fault = null;
      system.callbacks.fault = null;
      system
        .kill(side)
        .then(() => system.start(side))
        .then(resolve, reject);
      return null;
    };
    system.submissions.fault = fault;
    system.callbacks.fault = fault;
  });
}

/** Creates a job whose head is named after it. */
export async function createJob({ graft }: TenantClient, head: string): Promise<string> {
  const commonParams = { model: "text-static-1", training_file: "dataset:tickets" } as const;
  const job = { ...commonParams, trainable: "head", head, promote: "always" } as const;
  // Killed in between, the same call with the same key makes one job.
  const { id } = await waitFor(() => graft.jobs.create(job, { idempotencyKey: head }), "the job is created");
  return id;
}

/** Jobs of a tenant that are under way at any time, so that every kill finds some. */
const ACTIVE_JOBS = 2;

export interface ChaosReport {
  readonly kills: Readonly<Record<ProcessName, number>>;
  readonly jobs: number;
  readonly succeeded: number;
  /** After three lost attempts, or five lost with their endpoint. */
  readonly failed: number;
  /** Together with those of which the endpoint was lost. */
  readonly lostAttempts: number;
  /** What is wrong with jobs that have ended. */
  readonly errors: readonly string[];
}

/** Kills one process or the other at random times while jobs of every tenant are under way; checks each job's end. */
export async function killRandomly(
  system: System,
  tenants: readonly TenantClient[],
  count: number,
  random: () => number,
  longestPauseMs = 1_000,
  onKill: (kills: number) => void = () => undefined,
): Promise<ChaosReport> {
  const kills = { worker: 0, batch: 0 };
  const jobs: { tenant: TenantClient; id: string }[] = [];
  const startMissingJobs = async (tenant: TenantClient) => {
    const { data } = await waitFor(() => tenant.graft.jobs.list({ limit: 100 }), "the jobs are listed");
    const active = data.filter(({ finished_at }) => finished_at === null).length;
    for (let n = active; n < ACTIVE_JOBS; n++) {
      const head = `random-${jobs.length}`;
      const job = { tenant, id: "" };
      jobs.push(job);
      job.id = await createJob(tenant, head);
    }
  };
  while (kills.worker + kills.batch < count) {
    for (const tenant of tenants) await startMissingJobs(tenant);
    await new Promise((resolve) => setTimeout(resolve, longestPauseMs * random()));
    const side = random() < 0.5 ? "worker" : "batch";
    await system.kill(side);
    await system.start(side);
    kills[side]++;
    onKill(kills.worker + kills.batch);
  }
  let succeeded = 0;
  let lostAttempts = 0;
  const errors: string[] = [];
  for (const { tenant, id } of jobs) {
    // One that found no endpoint several times waits up to a minute before it is submitted again.
    const job = await waitForJobEnd(tenant, id, 120_000);
    if (job.status === "succeeded") succeeded++;
    await verifyJob(tenant, job).then(
      (attempts) => {
        lostAttempts += attempts;
      },
      (error) => errors.push(String(error)),
    );
  }
  return { kills, jobs: jobs.length, succeeded, failed: jobs.length - succeeded, lostAttempts, errors: errors };
}

/**
 * Throws unless a job that ended is whole: the right state, once, a head that serves, events that tell what happened.
 * Answers how many attempts were lost on its way.
 */
export async function verifyJob(tenant: TenantClient, job: FineTuningJob): Promise<number> {
  const { graft } = tenant;
  const jobName = `${job.id} (${job.status})`;
  const assert = (condition: boolean, message: string) => {
    if (!condition) throw new Error(`${jobName}: ${message}`);
  };
  const events: FineTuningJobEvent[] = [];
  for (let after: string | undefined; ; after = events.at(-1)?.id) {
    const page = await graft.jobs.events(job.id, { limit: 100, ...(after === undefined ? {} : { after }) });
    events.push(...page.data);
    if (!page.has_more) break;
  }
  const messages = events.filter(({ type }) => type === "message").map(({ message }) => message);
  const countMessages = (start: string) => messages.filter((message) => message.startsWith(start)).length;
  const countLosses = (how: RegExp) => messages.filter((message) => how.test(message)).length;
  const failures = countLosses(/^Attempt \d+ was given up/);
  const deaths = countLosses(/^Attempt \d+ was lost with the batch endpoint/);
  const metrics = events.filter(({ type }) => type === "metrics").map(({ data }) => JSON.stringify(data));
  assert(messages.at(-1) === "The job was created.", "its first event is not its creation");
  assert(
    countMessages("The job was created.") === 1 && countMessages("The examples are valid") === 1,
    "something was done twice",
  );
  assert(new Set(events.map(({ id }) => id)).size === events.length, "an event is listed twice");
  if (job.status === "succeeded") {
    assert(metrics.length > 0, "it told no metrics");
    const { head, version, promoted } = job.graft;
    const versions = (await graft.heads.versions(head)).data;
    assert(versions.length === 1 && version === 1 && promoted, `it made ${versions.length} versions`);
    assert(versions[0]?.active_version === 1, "its version is not active");
    const { data } = await graft.heads.predict(head, { input: "my parcel is wrong" });
    assert(data[0]?.label === "parcel", "its head does not predict");
    assert(
      countMessages("The job has made version") === 1 && failures < MAX_ATTEMPTS && deaths < MAX_ENDPOINT_DEATHS,
      "its end was told more than once",
    );
  } else {
    const bound = job.error?.code === "endpoint_lost" ? deaths === MAX_ENDPOINT_DEATHS : failures === MAX_ATTEMPTS;
    assert(job.status === "failed" && bound, `it failed after ${failures} failures and ${deaths} endpoints lost`);
  }
  return failures + deaths;
}

/** What R2 holds after a sweep that the ledger does not need, and what it lacks. */
export async function findStorageErrors(
  system: System,
  tenant: TenantClient,
): Promise<{ readonly orphans: readonly string[]; readonly missing: readonly string[] }> {
  await system.sweep(tenant.id);
  const needed = new Set<string>();
  for (let after: string | undefined; ; ) {
    const page = await tenant.graft.heads.list({ limit: 100, ...(after === undefined ? {} : { after }) });
    for (const { id } of page.data)
      for (const { sha256 } of (await tenant.graft.heads.versions(id)).data)
        needed.add(`tenants/${tenant.id}/heads/${sha256}`);
    if (!page.has_more) break;
    after = page.last_id ?? undefined;
  }
  const { r2 } = await system.listStored(tenant.id);
  const orphans = r2.filter((key) => !needed.has(key));
  const missing = [...needed].filter((key) => !r2.includes(key));
  return { orphans, missing };
}

/** Starts both processes, with silence that is noticed in seconds. */
export async function startChaosSystem(
  tenants: number,
  silenceSeconds = 3,
  bundle?: string,
): Promise<{ system: System; tenants: TenantClient[] }> {
  const system = await startSystem({
    bundle,
    batch: { BATCH_JOBS: "2" },
    worker: { BATCH_SILENCE_SECONDS: String(silenceSeconds) },
  });
  const newTenants: TenantClient[] = [];
  for (let i = 0; i < tenants; i++) {
    const tenant = await system.createTenant(`tenant-${i}`);
    await createDataset(tenant.graft, "tickets", 40);
    newTenants.push(tenant);
  }
  return { system, tenants: newTenants };
}
