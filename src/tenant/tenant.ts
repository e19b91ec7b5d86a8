/**
 * The ledger: one Durable Object a tenant, the durable truth of everything but bytes. Its methods are called by the
 * Worker after the tenant's id was taken from a verified key. Each checks that the ledger exists and is active, so
 * that late calls for a deleted tenant find nothing and create nothing. A change and the work that follows from it
 * are written in one transaction, together with the answer kept for its `Idempotency-Key`.
 */

import { DurableObject } from "cloudflare:workers";
import type { ApiKey } from "../api/api-keys.ts";
import type { Dataset } from "../api/datasets.ts";
import type { StagedExample, StoredExample } from "../api/examples.ts";
import type { HeadFeedback } from "../api/feedback.ts";
import type { File, FileListRequest } from "../api/files.ts";
import type { Head } from "../api/heads.ts";
import type { InboundHook } from "../api/inbound-hooks.ts";
import type { FineTuningJob } from "../api/jobs.ts";
import type { PageRequest } from "../api/lists.ts";
import type { WebhookDeliveryPageRequest, WebhookEndpointChange } from "../api/webhooks.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import type { JobEvent } from "../core/lifecycle/job.ts";
import type { Policy } from "../core/lifecycle/policy.ts";
import type { Directive, Manifest, Message } from "../jobs/protocol.ts";
import { hasBytes } from "../store/content-addressed.ts";
import { hasFile } from "../store/files.ts";
import { backboneKey, headKey } from "../store/keys.ts";
import * as apiKeys from "./api-keys.ts";
import * as datasets from "./data/datasets.ts";
import * as examples from "./data/examples.ts";
import * as files from "./data/files.ts";
import * as imports from "./data/imports.ts";
import * as trainingSets from "./data/training-sets.ts";
import * as backbones from "./heads/backbones.ts";
import * as learning from "./heads/feedback.ts";
import * as heads from "./heads/heads.ts";
import * as policies from "./heads/policies.ts";
import * as retraining from "./heads/retraining.ts";
import * as deliveries from "./hooks/deliveries.ts";
import { createDispatcher, type Dispatcher } from "./hooks/dispatcher.ts";
import * as inbound from "./hooks/inbound.ts";
import * as webhooks from "./hooks/webhook-endpoints.ts";
import * as idempotency from "./idempotency.ts";
import { getJobRules, runJob, submitNextJob } from "./jobs/job-runner.ts";
import * as jobs from "./jobs/jobs.ts";
import { createLedger, type Identity, migrate, readIdentity } from "./schema.ts";
import { eraseTenantBytes, type RunExclusive, runMaintenanceTask } from "./tasks/maintenance.ts";
import { type RunningTasks, runDueTasks, type ScheduledTask, schedule, setNextAlarm } from "./tasks/tasks.ts";

const DAY_MS = 24 * 3_600_000;

class FailureError extends Error {
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.code);
    this.failure = failure;
  }
}

export class Tenant extends DurableObject<Cloudflare.Env> {
  readonly #sql = this.ctx.storage.sql;
  #identity: Identity | null;
  #lastExclusive: Promise<unknown> = Promise.resolve();
  readonly #runningTasks: RunningTasks = new Map();
  readonly #dispatcher: Dispatcher;

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env);
    this.#identity = readIdentity(this.#sql);
    if (this.#identity) migrate(ctx.storage);
    this.#dispatcher = createDispatcher(
      env,
      ctx.storage,
      () => this.#isActive(),
      (work) => ctx.waitUntil(work),
      (error) => this.#logError("delivery_failed", { error: String(error) }),
    );
  }

  #isActive(): boolean {
    return this.#identity?.status === "active";
  }

  #read<T>(read: (sql: SqlStorage) => Result<T>): Result<T> {
    return this.#isActive() ? read(this.#sql) : fail("not_found", "No such tenant.");
  }

  /**
   * Runs a change in one transaction, rolled back whole where it is refused, and keeps its answer for the claim that
   * the request has of its idempotency key.
   */
  async #change<T>(
    change: (sql: SqlStorage, now: number) => Result<T>,
    response: { claim: string | null; status: number } = { claim: null, status: 200 },
  ): Promise<Result<T>> {
    if (!this.#isActive()) return fail("not_found", "No such tenant.");
    try {
      return this.ctx.storage.transactionSync(() => {
        const result = change(this.#sql, Date.now());
        if (!result.ok) throw new FailureError(result.failure);
        const saveResult = idempotency.saveResponse(this.#sql, response.claim, {
          status: response.status,
          body: result.value,
        });
        if (!saveResult.ok) throw new FailureError(saveResult.failure);
        return result;
      });
    } catch (error) {
      if (error instanceof FailureError) return { ok: false, failure: error.failure };
      throw error;
    } finally {
      await setNextAlarm(this.ctx.storage);
    }
  }

  /**
   * Committing a version or a file and deleting their bytes take turns: the same data give the same bytes, so a
   * training may have stored anew what is about to be deleted for a head that is gone, and an upload may take longer
   * than a sweep waits for its row.
   */
  readonly #exclusive: RunExclusive = (work) => {
    const done = this.#lastExclusive.then(work);
    this.#lastExclusive = done.catch(() => undefined);
    return done;
  };

  // The tenant itself

  /**
   * Creates the ledger with its first key. Called again, where its answer was lost, it puts the new key and name in the
   * place of the first ones, which nobody has seen.
   */
  async create(tenant: string, name: string | null, key: apiKeys.NewApiKey): Promise<Result<ApiKey>> {
    createLedger(this.ctx.storage, tenant, name);
    this.#identity = readIdentity(this.#sql);
    return this.#change((sql, now) => {
      schedule(sql, "sweep", "", now + DAY_MS);
      apiKeys.deleteApiKeysByName(sql, key.name);
      return apiKeys.createApiKey(sql, key, now);
    });
  }

  /** From now on every other method finds nothing. */
  async suspend(): Promise<void> {
    if (this.#identity === null) return;
    this.#sql.exec("UPDATE ledger SET status = 'deleting'");
    this.#identity = readIdentity(this.#sql);
  }

  /** Deletes a bounded part of everything that the tenant has; when to go on, in milliseconds, or null when all is gone. */
  async erase(tenant: string): Promise<number | null> {
    await this.suspend();
    const next = await eraseTenantBytes(this.env.KV, this.env.BUCKET, tenant, Date.now());
    if (next !== null) return next;
    await this.ctx.storage.deleteAlarm();
    await this.ctx.storage.deleteAll();
    this.#identity = null;
    return null;
  }

  async usage(): Promise<Result<Record<string, number>>> {
    return this.#read((sql) =>
      ok({
        datasets: datasets.countDatasets(sql),
        heads: heads.countHeads(sql),
        fine_tuned_backbones: backbones.countBackbones(sql),
        api_keys: apiKeys.countApiKeys(sql),
        active_jobs: jobs.countActiveJobs(sql),
        files: files.countFiles(sql),
        webhook_endpoints: webhooks.countEndpoints(sql),
        inbound_hooks: inbound.countHooks(sql),
      }),
    );
  }

  // Idempotency

  async claimIdempotencyKey(
    request: idempotency.IdempotentRequest,
  ): Promise<Result<idempotency.StoredResponse | null>> {
    return this.#change((sql, now) => {
      schedule(sql, "expire_answers", "", now + DAY_MS);
      return idempotency.claimKey(sql, request, now);
    });
  }

  async releaseIdempotencyKey(claim: string): Promise<void> {
    if (this.#isActive()) idempotency.releaseKey(this.#sql, claim);
  }

  // API keys

  async leaseApiKey(hash: string): Promise<apiKeys.KeyLease | null> {
    return this.#isActive() ? apiKeys.leaseApiKey(this.#sql, hash, Date.now()) : null;
  }

  async createApiKey(claim: string | null, key: apiKeys.NewApiKey): Promise<Result<ApiKey>> {
    return this.#change((sql, now) => apiKeys.createApiKey(sql, key, now), { claim, status: 201 });
  }

  async listApiKeys(request: PageRequest) {
    return this.#read((sql) => apiKeys.listApiKeys(sql, request));
  }

  async revokeApiKey(id: string): Promise<Result<ApiKey>> {
    return this.#change((sql, now) => apiKeys.revokeApiKey(sql, id, now));
  }

  // Data sets and their examples

  async createDataset(claim: string | null, dataset: datasets.NewDataset) {
    return this.#change((sql, now) => datasets.createDataset(sql, dataset, now), { claim, status: 201 });
  }

  async getDataset(name: string): Promise<Result<Dataset>> {
    return this.#read((sql) => {
      const row = datasets.findDataset(sql, name);
      return row.ok ? ok(datasets.toDataset(sql, row.value)) : row;
    });
  }

  async findDataset(name: string) {
    return this.#read((sql) => datasets.findDataset(sql, name));
  }

  async listDatasets(request: PageRequest) {
    return this.#read((sql) => datasets.listDatasets(sql, request));
  }

  async deleteDataset(name: string) {
    return this.#change((sql, now) => datasets.deleteDataset(sql, name, now));
  }

  async listExamples(name: string, label: string | undefined, request: PageRequest) {
    return this.#read((sql) => examples.listExamples(sql, name, label, request));
  }

  async readExamples(dataset: datasets.DatasetRow, afterPosition: number) {
    return this.#read((sql) => examples.readExamples(sql, dataset.id, dataset.task, afterPosition));
  }

  async getExample(
    name: string,
    id: string,
  ): Promise<Result<{ dataset: datasets.DatasetRow; row: examples.ExampleWithHash }>> {
    return this.#read((sql) => {
      const dataset = datasets.findDataset(sql, name);
      if (!dataset.ok) return dataset;
      const row = examples.getExample(sql, dataset.value, id);
      return row.ok ? ok({ dataset: dataset.value, row: row.value }) : row;
    });
  }

  async replaceExample(dataset: datasets.DatasetRow, id: string, expectedHash: ArrayBuffer, example: StoredExample) {
    return this.#change((sql, now) => examples.replaceExample(sql, dataset, id, expectedHash, example, now));
  }

  async deleteExample(name: string, id: string) {
    return this.#change((sql, now) => examples.deleteExample(sql, name, id, now));
  }

  async beginImport(name: string, id: string): Promise<Result<datasets.DatasetRow>> {
    return this.#change((sql, now) => imports.beginImport(sql, name, id, now));
  }

  async stageRows(id: string, rows: readonly StagedExample[]): Promise<Result<null>> {
    return this.#change((sql) => imports.stageRows(sql, id, rows));
  }

  async mergeImport(id: string) {
    return this.#change((sql, now) => imports.mergeImport(sql, id, now));
  }

  async dropImport(id: string): Promise<void> {
    if (this.#isActive()) this.ctx.storage.transactionSync(() => imports.dropImport(this.#sql, id));
  }

  // Training sets

  async readTrainingRows(name: string, backbone: string) {
    return this.#read((sql) => trainingSets.readTrainingRows(sql, name, backbone));
  }

  async readInputs(dataset: number, positions: readonly number[]) {
    return this.#read((sql) => ok(trainingSets.readInputs(sql, dataset, positions)));
  }

  /** Notes where blocks of embeddings were written; the values that they replace are deleted later. */
  async recordBlocks(dataset: number, backbone: string, blocks: ReadonlyMap<number, string>): Promise<Result<null>> {
    return this.#change((sql, now) => {
      for (const key of trainingSets.recordBlocks(sql, dataset, backbone, blocks))
        schedule(sql, "delete_block", key, now);
      return ok(null);
    });
  }

  // Heads

  /** Adds a version whose bytes were stored before. */
  async commitHead(claim: string | null, head: heads.NewHead, promote: boolean): Promise<Result<Head>> {
    const change = (sql: SqlStorage, now: number) => {
      const backboneCheck = backbones.checkBackboneExists(sql, head.backbone);
      return backboneCheck.ok ? heads.commitHead(sql, head, promote, now) : backboneCheck;
    };
    return this.#commitHeadIfStored(head, null, () => this.#change(change, { claim, status: 201 }));
  }

  /** Commits what needs bytes, while they are there and none are deleted. */
  async #commitIfStored<T>(
    isStored: (bucket: R2Bucket, tenant: string) => Promise<boolean>,
    missingMessage: string,
    commit: () => Promise<Result<T>>,
  ): Promise<Result<T>> {
    const tenant = this.#identity?.tenant;
    if (tenant === undefined) return fail("not_found", "No such tenant.");
    return this.#exclusive(async () => {
      // Not there where equal ones were deleted meanwhile, or where R2 does not answer.
      if (await isStored(this.env.BUCKET, tenant).catch(() => false)) return commit();
      return fail("storage_unavailable", missingMessage, { retryAfter: 1 });
    });
  }

  #commitHeadIfStored<T>(
    head: heads.NewHead,
    layers: jobs.TrainedLayers | null,
    commit: () => Promise<Result<T>>,
  ): Promise<Result<T>> {
    const missingMessage = "The head's bytes were not found in storage. Train again.";
    const isStored = async (bucket: R2Bucket, tenant: string) =>
      (await hasBytes(bucket, headKey(tenant, head.sha256))) &&
      (layers === null || (await hasBytes(bucket, backboneKey(tenant, layers.sha256))));
    return this.#commitIfStored(isStored, missingMessage, commit);
  }

  async getHead(name: string, version: number | null) {
    return this.#read((sql) => heads.getHead(sql, name, version));
  }

  async listHeads(request: PageRequest) {
    return this.#read((sql) => heads.listHeads(sql, request));
  }

  async listVersions(name: string, request: PageRequest) {
    return this.#read((sql) => heads.listVersions(sql, name, request));
  }

  async promoteHead(claim: string | null, name: string, version: number) {
    return this.#change((sql, now) => heads.promoteHead(sql, name, version, now), { claim, status: 200 });
  }

  async deleteHead(name: string) {
    return this.#change((sql, now) => heads.deleteHead(sql, name, now));
  }

  // Fine-tuned backbones

  async findBackbone(id: string) {
    return this.#read((sql) => backbones.findBackbone(sql, id));
  }

  async listBackbones() {
    return this.#read((sql) => ok(backbones.listBackbones(sql)));
  }

  async deleteBackbone(id: string) {
    return this.#change((sql, now) => backbones.deleteBackbone(sql, id, now));
  }

  // Heads that learn by themselves

  async getPolicy(name: string) {
    return this.#read((sql) => policies.getPolicy(sql, name));
  }

  async setPolicy(name: string, policy: Policy) {
    return this.#change((sql, now) => policies.setPolicy(sql, name, policy, now));
  }

  async getFeedbackTarget(name: string) {
    return this.#read((sql) => policies.getFeedbackTarget(sql, name));
  }

  async recordFeedback(
    claim: string | null,
    name: string,
    dataset: datasets.DatasetRow,
    version: number,
    examples: readonly learning.FeedbackExample[],
    rejected: Pick<HeadFeedback, "rejected" | "errors">,
  ) {
    return this.#change((sql, now) => learning.recordFeedback(sql, name, dataset, version, examples, rejected, now), {
      claim,
      status: 200,
    });
  }

  async getRetrainingSpec(name: string, attempt: number) {
    return this.#read((sql) => retraining.getRetrainingSpec(sql, name, attempt));
  }

  /** Adds the version that an attempt at a retraining made, whose bytes were stored before. */
  async commitRetraining(attempt: number, head: heads.NewHead): Promise<Result<Head>> {
    return this.#commitHeadIfStored(head, null, () =>
      this.#change((sql, now) => retraining.commitRetraining(sql, attempt, head, now)),
    );
  }

  async createRetrainingJob(attempt: number, id: string, spec: jobs.JobSpec): Promise<Result<FineTuningJob>> {
    return this.#change((sql, now) => retraining.createRetrainingJob(sql, attempt, id, spec, now));
  }

  // Inbound hooks

  async createHook(claim: string | null, hook: inbound.NewHook): Promise<Result<InboundHook>> {
    return this.#change((sql, now) => inbound.createHook(sql, hook, now), { claim, status: 201 });
  }

  async getHook(id: string) {
    return this.#read((sql) => inbound.getHook(sql, id));
  }

  async listHooks(request: PageRequest) {
    return this.#read((sql) => inbound.listHooks(sql, request));
  }

  async deleteHook(id: string) {
    return this.#change((sql) => inbound.deleteHook(sql, id));
  }

  async findHookByToken(tokenHash: string) {
    return this.#read((sql) => inbound.findHookByToken(sql, tokenHash));
  }

  async getMessageContext(id: string, messageId: string) {
    return this.#read((sql) => inbound.getMessageContext(sql, id, messageId, Date.now()));
  }

  async recordPrediction(
    id: string,
    messageKey: inbound.MessageKey,
    hookPrediction: inbound.HookPrediction,
  ): Promise<Result<inbound.HookResponse>> {
    return this.#change((sql, now) => inbound.recordPrediction(sql, id, messageKey, hookPrediction, now));
  }

  async learnExample(
    id: string,
    messageKey: inbound.MessageKey,
    dataset: datasets.DatasetRow,
    example: learning.FeedbackExample,
  ): Promise<Result<inbound.HookResponse>> {
    return this.#change((sql, now) => inbound.learnExample(sql, id, messageKey, dataset, example, now));
  }

  // Files

  /** Adds a file whose bytes were stored before. */
  async commitFile(file: files.NewFile): Promise<Result<File>> {
    return this.#commitIfStored(
      (bucket, tenant) => hasFile(bucket, tenant, file.id),
      "The file's bytes were not found in storage. Upload it again.",
      () => this.#change((sql, now) => files.addFile(sql, file, now)),
    );
  }

  async getFile(id: string) {
    return this.#read((sql) => files.getFile(sql, id));
  }

  async listFiles(request: FileListRequest) {
    return this.#read((sql) => files.listFiles(sql, request));
  }

  async deleteFile(id: string) {
    return this.#change((sql, now) => files.deleteFile(sql, id, now));
  }

  // Fine-tuning jobs

  async createJob(
    claim: string | null,
    id: string,
    spec: jobs.JobSpec,
    status: number,
  ): Promise<Result<FineTuningJob>> {
    return this.#change((sql, now) => jobs.createJob(sql, id, spec, now), { claim, status });
  }

  async getJob(id: string): Promise<Result<FineTuningJob>> {
    return this.#read((sql) => {
      const job = jobs.findJob(sql, id);
      return job.ok ? ok(jobs.toJob(job.value)) : job;
    });
  }

  async listJobs(request: PageRequest) {
    return this.#read((sql) => jobs.listJobs(sql, request));
  }

  async listJobEvents(id: string, request: PageRequest) {
    return this.#read((sql) => jobs.listJobEvents(sql, id, request));
  }

  async listCheckpoints(id: string, request: PageRequest) {
    return this.#read((sql) => jobs.listCheckpoints(sql, id, request));
  }

  async commandJob(
    claim: string | null,
    id: string,
    command: "cancel" | "pause" | "resume",
  ): Promise<Result<FineTuningJob>> {
    const rules = getJobRules(this.env);
    return this.#change((sql, now) => jobs.commandJob(sql, id, command, now, rules), { claim, status: 200 });
  }

  /** What the current attempt at a job is to do; refused to any other. */
  async getCurrentAttempt(id: string, attempt: number): Promise<Result<jobs.JobSpec>> {
    return this.#read((sql) => {
      const job = jobs.getCurrentAttempt(sql, id, attempt);
      return job.ok ? ok(job.value.spec) : job;
    });
  }

  /** The same where its examples are there; where they are gone, null, and the job fails. */
  async checkJobData(id: string, attempt: number): Promise<Result<jobs.JobSpec | null>> {
    return this.#change((sql) => {
      const job = jobs.getCurrentAttempt(sql, id, attempt);
      return job.ok ? ok(jobs.checkJobData(sql, job.value, Date.now(), getJobRules(this.env))) : job;
    });
  }

  /** The next rows of the data set that a job trains on, oldest first; none where none are left. */
  async readJobRows(id: string, attempt: number, afterPosition: number) {
    return this.#read((sql) => {
      const job = jobs.getCurrentAttempt(sql, id, attempt);
      if (!job.ok) return job;
      const { source } = job.value.spec;
      return source.kind === "dataset"
        ? trainingSets.readRows(sql, source.id, afterPosition)
        : fail("not_found", "This job trains on a file.");
    });
  }

  async receiveMessage(
    id: string,
    attempt: number,
    messageId: string,
    event: JobEvent,
    message: Message,
  ): Promise<Result<Directive>> {
    const rules = getJobRules(this.env);
    return this.#change((sql) => {
      const job = jobs.receiveMessage(sql, id, attempt, messageId, event, message, Date.now(), rules);
      return job.ok ? ok(jobs.toDirective(job.value, attempt)) : job;
    });
  }

  /** Ends a job with the version that its attempt made, and the layers that it trained, whose bytes were stored before. */
  async finishJob(
    id: string,
    attempt: number,
    messageId: string,
    manifest: Manifest,
    head: heads.NewHead,
    layers: jobs.TrainedLayers | null,
  ): Promise<Result<Directive>> {
    const rules = getJobRules(this.env);
    return this.#commitHeadIfStored(head, layers, () =>
      this.#change((sql, now) => jobs.finishJob(sql, id, attempt, messageId, manifest, head, layers, now, rules)),
    );
  }

  // Webhooks

  async createWebhookEndpoint(claim: string | null, endpoint: webhooks.NewWebhookEndpoint) {
    return this.#change((sql, now) => webhooks.createEndpoint(sql, endpoint, now), { claim, status: 201 });
  }

  async getWebhookEndpoint(id: string) {
    return this.#read((sql) => webhooks.getEndpoint(sql, id));
  }

  async listWebhookEndpoints(request: PageRequest) {
    return this.#read((sql) => webhooks.listEndpoints(sql, request));
  }

  async updateWebhookEndpoint(id: string, patch: WebhookEndpointChange) {
    return this.#change((sql) => webhooks.updateEndpoint(sql, id, patch));
  }

  async rotateWebhookSecret(claim: string | null, id: string, secret: string) {
    return this.#change((sql, now) => webhooks.rotateSecret(sql, id, secret, now), { claim, status: 200 });
  }

  async deleteWebhookEndpoint(id: string) {
    return this.#change((sql, now) => webhooks.deleteEndpoint(sql, id, now));
  }

  async testWebhookEndpoint(claim: string | null, id: string) {
    return this.#change((sql, now) => deliveries.testEndpoint(sql, id, now), { claim, status: 200 });
  }

  async redeliverFailed(claim: string | null, id: string, since: number) {
    return this.#change((sql, now) => deliveries.redeliverFailed(sql, id, since, now), { claim, status: 200 });
  }

  async listWebhookDeliveries(request: WebhookDeliveryPageRequest) {
    return this.#read((sql) => deliveries.listDeliveries(sql, request));
  }

  async getWebhookDelivery(id: string) {
    return this.#read((sql) => deliveries.getDelivery(sql, id));
  }

  async redeliver(claim: string | null, id: string) {
    return this.#change((sql, now) => deliveries.redeliver(sql, id, now), { claim, status: 200 });
  }

  #logError(event: string, fields: Readonly<Record<string, string | number>>): void {
    console.error(JSON.stringify({ event, tenant: this.#identity?.tenant, ...fields }));
  }

  override async alarm(): Promise<void> {
    const tenant = this.#identity?.tenant;
    if (tenant === undefined || !this.#isActive()) return;
    const { storage } = this.ctx;
    const run = async (task: ScheduledTask): Promise<number | null> => {
      if (!this.#isActive()) return null;
      if (task.kind === "job") return runJob(this.env, storage, task.ref);
      if (task.kind === "deliver") return this.#dispatcher.dispatchDue();
      if (task.kind === "retrain") return retraining.runRetraining(this.env, this.ctx, tenant, task.ref);
      if (task.kind === "submit_jobs") return submitNextJob(this.env, storage, Date.now(), Math.random);
      return runMaintenanceTask(this.env.KV, this.env.BUCKET, storage, this.#exclusive, tenant, task, Date.now());
    };
    const onError = ({ kind, attempts }: ScheduledTask, error: unknown) =>
      this.#logError("due_failed", { kind, attempts, error: String(error) });
    const onComplete = async () => {
      if (this.#isActive()) await setNextAlarm(storage);
    };
    try {
      await runDueTasks(storage, Date.now(), run, onError, this.#runningTasks, onComplete);
    } finally {
      await onComplete();
    }
  }
}

/** A Durable Object's methods as they look from outside: each answers with a promise. */
export type Remote<T> = {
  [K in keyof T as T[K] extends (...args: never[]) => unknown ? K : never]: T[K] extends (...args: infer A) => infer R
    ? (...args: A) => Promise<Awaited<R>>
    : never;
};

/** The ledger of a tenant whose id was verified. */
export function getLedger(namespace: Cloudflare.Env["TENANT"], tenant: string): Remote<Tenant> {
  return namespace.get(namespace.idFromName(tenant)) as unknown as Remote<Tenant>;
}
