import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { type Failure, ok, type Result } from "../../core/failure.ts";
import type { LexicalWeights, Task } from "../../core/head.ts";
import type { Promote } from "../../core/lifecycle/job.ts";
import { getHead } from "../../store/heads.ts";
import { batchEndpoint } from "../../tenant/jobs/job-runner.ts";
import type { Job, JobSpec } from "../../tenant/jobs/jobs.ts";
import { ledger } from "../../tenant/tenant.ts";
import { endHeadLeases } from "../../serving/active-heads.ts";
import { tenantKey } from "../middleware/auth.ts";
import { type App, type HttpEnv, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { head, headExport, newHead, versionNumber } from "../../api/heads.ts";
import { idempotent } from "../middleware/idempotency.ts";
import { job, startJob } from "./jobs.ts";
import { body, deleted, errors, json, listOf, name, pageQuery, tenantSecurity } from "../../api/schema.ts";
import { trainingJob, trainVersion } from "../../training/version.ts";
import { storeExamples } from "./upload.ts";

type Wanted = z.infer<typeof newHead>;

const common = { tags: ["Heads"], security: tenantSecurity };
const nameParams = z.object({ name });
const versionParams = nameParams.extend({ version: versionNumber });

export function headRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/heads",
      summary: "Train a head in this request",
      middleware: [tenantKey("train"), idempotent("tenant")] as const,
      request: { body: body(newHead) },
      responses: {
        201: json(head, "The next version of the head, evaluated, stored and, unless promote is false, active"),
        202: json(
          job,
          "Beyond what one request may use, under 'auto': the job that makes the head's next version, at 'Location'",
        ),
        ...errors,
      },
    }),
    async (c) => {
      const work = trainHead(c, c.req.valid("json"));
      // Where a client hangs up, a training has 30 seconds more to end, and to leave its place and its memory itself.
      c.executionCtx.waitUntil(work);
      return work;
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads",
      summary: "List heads",
      middleware: [tenantKey("predict")] as const,
      request: { query: pageQuery },
      responses: { 200: json(listOf(head), "Heads by their active version, newest first"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).listHeads(c.req.valid("query"))),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}",
      summary: "Get a head's active version",
      middleware: [tenantKey("predict")] as const,
      request: { params: nameParams },
      responses: { 200: json(head, "The head"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).getHead(c.req.valid("param").name, null)),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/heads/{name}",
      summary: "Delete a head with all its versions",
      middleware: [tenantKey("train")] as const,
      request: { params: nameParams },
      responses: { 200: json(deleted("head"), "It is gone"), ...errors },
    }),
    async (c) => {
      const { name } = c.req.valid("param");
      const result = await ledger(c.env.TENANT, c.var.caller.tenant).deleteHead(name);
      endHeadLeases(c.var.caller.tenant, name);
      return answer(c, result);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}/versions",
      summary: "List a head's versions",
      middleware: [tenantKey("predict")] as const,
      request: { params: nameParams, query: pageQuery },
      responses: { 200: json(listOf(head), "Versions, newest first; 'after' takes a version's number"), ...errors },
    }),
    async (c) =>
      answer(
        c,
        await ledger(c.env.TENANT, c.var.caller.tenant).listVersions(c.req.valid("param").name, c.req.valid("query")),
      ),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}/versions/{version}",
      summary: "Get a version of a head",
      middleware: [tenantKey("predict")] as const,
      request: { params: versionParams },
      responses: { 200: json(head, "The version"), ...errors },
    }),
    async (c) => {
      const { name, version } = c.req.valid("param");
      return answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).getHead(name, version));
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/heads/{name}/promote",
      summary: "Make a version the active one; rolling back is the same call",
      middleware: [tenantKey("train"), idempotent("tenant")] as const,
      request: { params: nameParams, body: body(z.strictObject({ version: z.number().int().positive() })) },
      responses: { 200: json(head, "The version, now active; everywhere within 30 seconds"), ...errors },
    }),
    async (c) => {
      const { name } = c.req.valid("param");
      const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
      const result = await tenant.promoteHead(c.var.claim, name, c.req.valid("json").version);
      endHeadLeases(c.var.caller.tenant, name);
      return answer(c, result);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}/versions/{version}/export",
      summary: "Export a version's weights and labels, usable without this service",
      middleware: [tenantKey("train")] as const,
      request: { params: versionParams, query: z.strictObject({ format: z.enum(["json"]).default("json") }) },
      responses: { 200: json(headExport, "Everything that a prediction needs, with the formula"), ...errors },
    }),
    async (c) => {
      const { name, version } = c.req.valid("param");
      const record = await ledger(c.env.TENANT, c.var.caller.tenant).getHead(name, version);
      if (!record.ok) return failed(c, record.failure);
      const bytes = await getHead(c.env.KV, c.env.BUCKET, c.var.caller.tenant, record.value.sha256);
      if (bytes === null)
        return failed(c, {
          code: "storage_unavailable",
          message: "The head's weights could not be read. Try again.",
          retryAfter: 5,
        });
      const outputs = bytes.bias.length;
      const weights = Array.from({ length: outputs }, (_, k) =>
        Array.from(bytes.weights.subarray(k * bytes.dimensions, (k + 1) * bytes.dimensions)),
      );
      const { id, task, labels, dimensions, backbone } = record.value;
      return answer(
        c,
        ok({
          object: "head.export",
          id,
          version,
          format: "json",
          task,
          labels,
          dimensions,
          backbone,
          weights,
          lexical: bytes.lexical === null ? null : exportLexical(bytes.lexical, outputs),
          bias: Array.from(bytes.bias, (bias) => bias + bytes.offset),
          temperature: bytes.temperature,
          out_of_scope_threshold: bytes.outOfScopeThreshold,
          formula: formulas[task].replace("embedding", bytes.lexical === null ? "embedding" : WITH_LEXICAL),
        }),
      );
    },
  );
}

const formulas: Record<Task, string> = {
  single_label: "softmax((weights · embedding + bias) / temperature), one probability a label",
  multi_label: "1 / (1 + exp(-(weights · embedding + bias) / temperature)), one probability a label",
  regression: "weights[0] · embedding + bias[0]",
};

const WITH_LEXICAL = "embedding + lexical.weights · features";

function exportLexical({ buckets, scale, seen, idf, weights, scales }: LexicalWeights, outputs: number) {
  const rows = Array.from({ length: outputs }, (_, k) =>
    Array.from(idf, (_, j) => (weights[j * outputs + k] ?? 0) * (scales[k] ?? 0)),
  );
  return { buckets, scale, seen: Array.from(seen), idf: Array.from(idf), weights: rows };
}

async function trainHead(c: Context<HttpEnv>, wanted: Wanted): Promise<Response> {
  if (wanted.evaluation.detail === "full") {
    const message = "'evaluation.detail' is not available yet. Use 'summary'.";
    return failed(c, { code: "not_available", message, param: "evaluation.detail" });
  }
  if (wanted.method === "fine_tune") return fineTuneHead(c, wanted);
  const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
  const made = await trainVersion(c, wanted, (head) => tenant.commitHead(c.var.claim, head, wanted.promote));
  return made.ok ? answer(c, made, 201) : escalate(c, wanted, made.failure);
}

/**
 * Under `auto`, makes a fine-tuning job of what is beyond the budget of one request, where there is a batch endpoint;
 * else answers why it failed.
 */
async function escalate(c: Context<HttpEnv>, wanted: Wanted, failure: Failure): Promise<Response> {
  if (failure.code !== "edge_budget_exceeded" || wanted.method !== "auto" || batchEndpoint(c.env) === null)
    return failed(c, failure);
  const made = await makeJob(c, wanted, "head");
  // No batch endpoint has the layers of a fine-tuned backbone: what is beyond one request on it is beyond all.
  const isOwn = !made.ok && made.failure.code === "not_available" && made.failure.param === "backbone";
  return isOwn ? failed(c, failure) : queued(c, wanted, made);
}

/** Makes the job that trains the backbone's layers with the head, where it has any. */
async function fineTuneHead(c: Context<HttpEnv>, wanted: Wanted): Promise<Response> {
  const refused = (message: string) => failed(c, { code: "not_available", message, param: "method" });
  if (batchEndpoint(c.env) === null)
    return refused("This instance has no batch endpoint, which fine-tuning needs. Use 'auto' or 'head'.");
  const made = await makeJob(c, wanted, "all");
  const untrainable = !made.ok && made.failure.code === "not_available" && made.failure.param === "trainable";
  if (untrainable) return refused("These inputs have no backbone whose layers can be trained. Use 'auto' or 'head'.");
  return queued(c, wanted, made);
}

/** The answer of a training that became a job, or could not. */
function queued(c: Context<HttpEnv>, wanted: Wanted, made: Result<Job>): Response {
  if (made.ok) {
    c.header("location", `/v1/fine_tuning/jobs/${made.value.id}`);
    return answer(c, made, 202);
  }
  const { param } = made.failure;
  if (param !== "file" && param !== "training_file") return failed(c, made.failure);
  return failed(c, { ...made.failure, param: wanted.dataset === undefined ? "examples" : "dataset" });
}

/** Makes the job that trains what is wanted, on a file of its own where the examples came along. */
async function makeJob(c: Context<HttpEnv>, wanted: Wanted, trainable: "head" | "all"): Promise<Result<Job>> {
  const examples =
    wanted.dataset === undefined
      ? await storeExamples(c, wanted.name, wanted.examples ?? [])
      : ok(`dataset:${wanted.dataset}`);
  const spec = examples.ok
    ? await trainingJob(c, wanted, examples.value, promoteOf(wanted, trainable), trainable)
    : examples;
  const made = spec.ok ? await startJob(c, { ...spec.value, source: owned(spec.value.source) }, 202) : spec;
  // Nobody asked for a file: without a job nothing of it stays.
  if (!made.ok && examples.ok && wanted.dataset === undefined)
    await ledger(c.env.TENANT, c.var.caller.tenant).deleteFile(examples.value);
  return made;
}

/** A head that is too large for a request has nothing to be compared with; layers have the frozen head. */
function promoteOf({ promote }: Wanted, trainable: "head" | "all"): Promote {
  if (!promote) return "never";
  return trainable === "head" ? "always" : "if_better";
}

/** A file that was made for a job alone goes with it. */
function owned(source: JobSpec["source"]): JobSpec["source"] {
  return source.kind === "file" ? { ...source, own: true } : source;
}
