/**
 * The ledger: one Durable Object per tenant, the source of truth for everything but bytes. The Worker calls its methods
 * after it took the tenant's id from a verified key. This file has the object's life; the other methods stand in the
 * tables of `methods.ts`, by subject.
 */

import { DurableObject } from "cloudflare:workers";
import type { ApiKey } from "../api/api-keys.ts";
import type { TenantChange } from "../api/tenants.ts";
import { ok, type Result } from "../core/failure.ts";
import * as apiKeys from "./api-keys.ts";
import { countDatasets } from "./data/datasets.ts";
import { resumeEdit, resumeErasure } from "./data/edits.ts";
import { runEmbedding } from "./data/embedding.ts";
import { countFiles } from "./data/files.ts";
import { countHistoryBytes } from "./data/history.ts";
import { countStagedBytes, hurryImports } from "./data/imports.ts";
import { resumeMerge } from "./data/merge.ts";
import { dataMethods } from "./data/methods.ts";
import { countRecommendations } from "./data/recommendations.ts";
import { countBackbones } from "./heads/backbones.ts";
import { countRuns } from "./heads/evaluation-deletion.ts";
import { countHeads } from "./heads/heads.ts";
import { headMethods } from "./heads/methods.ts";
import { runRetraining } from "./heads/retraining.ts";
import { Dispatcher } from "./hooks/dispatcher.ts";
import { countHooks } from "./hooks/inbound.ts";
import { hookMethods } from "./hooks/methods.ts";
import { encryptSecrets, scheduleEncryption } from "./hooks/secrets.ts";
import { countEndpoints } from "./hooks/webhook-endpoints.ts";
import { runJob, submitNextJob } from "./jobs/job-runner.ts";
import { countActiveJobs } from "./jobs/jobs.ts";
import { endMeasurement } from "./jobs/measurements.ts";
import { jobMethods } from "./jobs/methods.ts";
import { runVersionTest } from "./jobs/version-test.ts";
import { keyMethods } from "./methods.ts";
import { createLedger, migrate } from "./schema.ts";
import { abortUploads, eraseTenantBytes, runMaintenanceTask } from "./tasks/maintenance.ts";
import {
  DAY_MS,
  type RunningTasks,
  resumeSuspendedTasks,
  runDueTasks,
  type ScheduledTask,
  SUSPENDED_TASKS,
  schedule,
  setNextAlarm,
} from "./tasks/tasks.ts";
import { Transactions } from "./transactions.ts";

const methods = { ...keyMethods, ...dataMethods, ...headMethods, ...jobMethods, ...hookMethods };

type Method = (ledger: Transactions, ...args: never[]) => unknown;

export class Tenant extends DurableObject<Cloudflare.Env> {
  static {
    // Remote calls find methods of the prototype alone.
    for (const [name, method] of Object.entries<Method>(methods)) {
      Object.defineProperty(Tenant.prototype, name, {
        value(this: Tenant, ...args: never[]) {
          return method(this.#ledger, ...args);
        },
      });
    }
  }

  readonly #ledger: Transactions;
  readonly #runningTasks: RunningTasks = new Map();
  readonly #dispatcher: Dispatcher;

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env);
    this.#ledger = new Transactions(env, ctx.storage);
    if (this.#ledger.tenant !== null) {
      migrate(ctx.storage);
      const hasImports = hurryImports(ctx.storage.sql);
      if (scheduleEncryption(ctx.storage.sql, this.#ledger.secretKeys) || hasImports)
        ctx.waitUntil(setNextAlarm(ctx.storage));
    }
    this.#dispatcher = new Dispatcher(this.#ledger, {
      waitUntil: (work) => ctx.waitUntil(work),
      onError: (error) => this.#logError("dispatch_failed", { error: String(error) }),
    });
  }

  #logError(event: string, fields: Readonly<Record<string, string | number>>): void {
    console.error(JSON.stringify({ event, tenant: this.#ledger.tenant ?? undefined, ...fields }));
  }

  /**
   * Creates the ledger with its first key. If the answer got lost and this is called again, the new name and key
   * replace the first ones, which nobody has seen.
   */
  async create(tenant: string, name: string | null, key: apiKeys.NewApiKey): Promise<Result<ApiKey>> {
    createLedger(this.ctx.storage, tenant, name);
    this.#ledger.reloadIdentity();
    return this.#ledger.change((sql, now) => {
      encryptSecrets(sql, this.#ledger.secretKeys);
      schedule(sql, "sweep", "", now + DAY_MS);
      apiKeys.deleteApiKeysByName(sql, key.name);
      return apiKeys.createApiKey(sql, key, now);
    });
  }

  /** Renames, suspends or activates the tenant. While it is suspended, the tasks that work for it wait. */
  async update({ name, status }: TenantChange): Promise<Result<null>> {
    return this.#ledger.change((sql, now) => {
      if (name !== undefined) sql.exec("UPDATE ledger SET name = ?", name);
      if (status !== undefined) sql.exec("UPDATE ledger SET status = ?", status);
      if (status === "active") resumeSuspendedTasks(sql, now);
      this.#ledger.reloadIdentity();
      return ok(null);
    });
  }

  /** After this every other method finds nothing. */
  async beginDeletion(): Promise<void> {
    if (this.#ledger.tenant === null) return;
    this.ctx.storage.sql.exec("UPDATE ledger SET status = 'deleting'");
    this.#ledger.reloadIdentity();
  }

  /** Deletes a bounded part of all that the tenant has. Answers when to call it again, or null when all is gone. */
  async erase(tenant: string): Promise<number | null> {
    await this.beginDeletion();
    if (this.#ledger.tenant !== null) await abortUploads(this.env.BUCKET, this.ctx.storage.sql, "");
    const next = await eraseTenantBytes(this.env.KV, this.env.BUCKET, tenant, Date.now());
    if (next !== null) return next;
    await this.ctx.storage.deleteAlarm();
    await this.ctx.storage.deleteAll();
    this.#ledger.reloadIdentity();
    return null;
  }

  async usage(): Promise<Result<Record<string, number>>> {
    return this.#ledger.read((sql) =>
      ok({
        datasets: countDatasets(sql),
        heads: countHeads(sql),
        fine_tuned_backbones: countBackbones(sql),
        api_keys: apiKeys.countApiKeys(sql),
        active_jobs: countActiveJobs(sql),
        files: countFiles(sql),
        history_bytes: countHistoryBytes(sql),
        staged_bytes: countStagedBytes(sql),
        webhook_endpoints: countEndpoints(sql),
        inbound_hooks: countHooks(sql),
        ...countRuns(sql),
        ...countRecommendations(sql),
      }),
    );
  }

  override async alarm(): Promise<void> {
    if (!this.#ledger.exists) return;
    const setAlarm = async () => {
      if (this.#ledger.exists) await setNextAlarm(this.ctx.storage);
    };
    try {
      await runDueTasks(this.ctx.storage, Date.now(), {
        run: (task) => this.#runTask(task),
        onError: ({ kind, attempts }, error) => this.#logError("task_failed", { kind, attempts, error: String(error) }),
        running: this.#runningTasks,
        onComplete: setAlarm,
      });
    } finally {
      await setAlarm();
    }
  }

  #encryptSecrets(): null {
    const { storage, secretKeys } = this.#ledger;
    for (const id of storage.transactionSync(() => encryptSecrets(storage.sql, secretKeys)))
      this.#logError("secret_unreadable", { id });
    return null;
  }

  /** Runs a task. Answers when it is due again, or null when it is done. */
  async #runTask(task: ScheduledTask): Promise<number | null> {
    const { tenant, exists } = this.#ledger;
    const { storage } = this.ctx;
    if (tenant === null || !exists) return null;
    if (this.#ledger.isSuspended && SUSPENDED_TASKS.has(task.kind)) return Date.now() + DAY_MS;
    switch (task.kind) {
      case "job":
        return runJob(this.env, storage, task.ref);
      case "submit_jobs":
        return submitNextJob(this.env, storage, Date.now(), Math.random);
      case "deliver":
        return this.#dispatcher.dispatchDue();
      case "encrypt_secrets":
        return this.#encryptSecrets();
      case "merge_import":
        return resumeMerge(this.#ledger, task.ref);
      case "edit_dataset":
        return resumeEdit(this.#ledger, Number(task.ref));
      case "erase_examples":
        return resumeErasure(this.#ledger, task.ref);
      case "embed_dataset":
        return runEmbedding(this.#ledger, this.ctx, tenant, Number(task.ref));
      case "test_version":
        return runVersionTest(this.#ledger, this.ctx, tenant, task);
      case "end_measurement":
        return endMeasurement(this.#ledger, task.ref);
      case "retrain":
        return runRetraining(this.env, this.ctx, tenant, task.ref);
      default: {
        const { KV: kv, BUCKET: bucket } = this.env;
        const exclusive = <T>(work: () => Promise<T>) => this.#ledger.exclusive(work);
        return runMaintenanceTask({ kv, bucket, storage, tenant, exclusive }, task, Date.now());
      }
    }
  }
}

/** A Durable Object's methods as other isolates call them: each answers with a promise. */
export type Remote<T> = {
  [K in keyof T as T[K] extends (...args: never[]) => unknown ? K : never]: T[K] extends (...args: infer A) => infer R
    ? (...args: A) => Promise<Awaited<R>>
    : never;
};

type RemoteMethods<Table> = {
  [K in keyof Table]: Table[K] extends (ledger: Transactions, ...args: infer A) => infer R
    ? (...args: A) => Promise<Awaited<R>>
    : never;
};

/** A tenant's ledger as the Worker calls it. */
export type Ledger = Remote<Tenant> & RemoteMethods<typeof methods>;

/** The ledger of a tenant whose id was verified. */
export function getLedger(namespace: Cloudflare.Env["TENANT"], tenant: string): Ledger {
  return namespace.get(namespace.idFromName(tenant)) as unknown as Ledger;
}
