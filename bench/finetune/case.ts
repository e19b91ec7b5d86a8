/** What the parts of finetune.ts have in common: cases that are measured one by one, each stored. */
import type { FineTuningJob } from "../../src/api/jobs.ts";
import { type System, startSystem, type TenantClient, waitForJobEnd } from "../../test/e2e/processes.ts";
import { type Peer, startPeer } from "../shared/python-peer.ts";
import type { Row } from "../shared/report.ts";

export interface Case {
  readonly name: string;
  /** The floating-point operations that it takes, about. */
  readonly operations: number;
  /** Measures what is not stored; null if something is not and `context` is null. */
  measure(context: Context | null): Promise<Row[] | null>;
}

/** What measurements need, started when the first asks for it. */
export interface Context {
  system(): Promise<{ readonly system: System; readonly tenant: TenantClient }>;
  peer(): Peer<string[]>;
  close(): Promise<void>;
}

export const BENCH = "finetune";
const JOB_TIMEOUT_MS = 3 * 3_600_000;

export function makeContext(): Context {
  let started: Promise<{ system: System; tenant: TenantClient }> | null = null;
  let peer: Peer<string[]> | null = null;
  const start = async () => {
    const system = await startSystem({ batch: { BATCH_JOBS: "1" }, worker: { BATCH_SILENCE_SECONDS: "120" } });
    return { system, tenant: await system.createTenant("bench") };
  };
  return {
    system() {
      started ??= start();
      return started;
    },
    peer() {
      peer ??= startPeer<string[]>("backbone.py");
      return peer;
    },
    async close() {
      peer?.stop();
      await (await started)?.system.close();
    },
  };
}

export async function waitForSuccess(tenant: TenantClient, id: string): Promise<FineTuningJob> {
  const job = await waitForJobEnd(tenant, id, JOB_TIMEOUT_MS);
  if (job.status !== "succeeded") throw new Error(job.error?.message ?? job.status);
  return job;
}
