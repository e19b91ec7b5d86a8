import { createRoute } from "@hono/zod-openapi";
import type { Context } from "hono";
import {
  type HeadParams,
  head,
  headExport,
  headExportQuery,
  newHead,
  promotion,
  versionParams,
} from "../../api/heads.ts";
import { type FineTuningJob, fineTuningJob } from "../../api/jobs.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import { type Failure, ok, type Result } from "../../core/failure.ts";
import type { LexicalWeights, Task } from "../../core/head.ts";
import type { PromotionMode } from "../../core/lifecycle/job.ts";
import { endHeadLeases } from "../../serving/active-heads.ts";
import { getHead } from "../../store/heads.ts";
import { getBatchEndpoint } from "../../tenant/jobs/job-runner.ts";
import type { JobSpec } from "../../tenant/jobs/jobs.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { resolveTrainingJobSpec, trainVersion } from "../../training/version.ts";
import type { App, HttpEnv } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";
import { createJob } from "./jobs.ts";
import { storeExamples } from "./upload.ts";

const common = { tags: ["Heads"], security: tenantSecurity };

export function headRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/heads",
      summary: "Train a head in this request",
      middleware: [tenantAuth("train"), idempotency("tenant")] as const,
      request: { body: jsonBody(newHead) },
      responses: {
        201: jsonResponse(head, "The next version of the head, evaluated, stored and, unless promote is false, active"),
        202: jsonResponse(
          fineTuningJob,
          "Beyond what one request may use, under 'auto': the job that makes the head's next version, at 'Location'",
        ),
        ...errorResponses,
      },
    }),
    async (c) => {
      const work = trainHead(c, c.req.valid("json"));
      // Where a client hangs up, a training has 30 seconds more to end, and to leave its place and its memory itself.
      c.executionCtx.waitUntil(work);
      return work;
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads",
      summary: "List heads",
      middleware: [tenantAuth("predict")] as const,
      request: { query: pageQuery },
      responses: { 200: jsonResponse(listOf(head), "Heads by their active version, newest first"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).listHeads(c.req.valid("query"))),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}",
      summary: "Get a head's active version",
      middleware: [tenantAuth("predict")] as const,
      request: { params: nameParams },
      responses: { 200: jsonResponse(head, "The head"), ...errorResponses },
    }),
    async (c) =>
      respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getHead(c.req.valid("param").name, null)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/heads/{name}",
      summary: "Delete a head with all its versions",
      middleware: [tenantAuth("train")] as const,
      request: { params: nameParams },
      responses: { 200: jsonResponse(deletedObject("head"), "It is gone"), ...errorResponses },
    }),
    async (c) => {
      const { name } = c.req.valid("param");
      const result = await getLedger(c.env.TENANT, c.var.caller.tenant).deleteHead(name);
      endHeadLeases(c.var.caller.tenant, name);
      return respond(c, result);
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}/versions",
      summary: "List a head's versions",
      middleware: [tenantAuth("predict")] as const,
      request: { params: nameParams, query: pageQuery },
      responses: {
        200: jsonResponse(listOf(head), "Versions, newest first; 'after' takes a version's number"),
        ...errorResponses,
      },
    }),
    async (c) =>
      respond(
        c,
        await getLedger(c.env.TENANT, c.var.caller.tenant).listVersions(
          c.req.valid("param").name,
          c.req.valid("query"),
        ),
      ),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}/versions/{version}",
      summary: "Get a version of a head",
      middleware: [tenantAuth("predict")] as const,
      request: { params: versionParams },
      responses: { 200: jsonResponse(head, "The version"), ...errorResponses },
    }),
    async (c) => {
      const { name, version } = c.req.valid("param");
      return respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getHead(name, version));
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/heads/{name}/promote",
      summary: "Make a version the active one; rolling back is the same call",
      middleware: [tenantAuth("train"), idempotency("tenant")] as const,
      request: { params: nameParams, body: jsonBody(promotion) },
      responses: {
        200: jsonResponse(head, "The version, now active; everywhere within 30 seconds"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const { name } = c.req.valid("param");
      const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
      const result = await tenantLedger.promoteHead(c.var.idempotencyClaim, name, c.req.valid("json").version);
      endHeadLeases(c.var.caller.tenant, name);
      return respond(c, result);
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}/versions/{version}/export",
      summary: "Export a version's weights and labels, usable without this service",
      middleware: [tenantAuth("train")] as const,
      request: { params: versionParams, query: headExportQuery },
      responses: {
        200: jsonResponse(headExport, "Everything that a prediction needs, with the formula"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const { name, version } = c.req.valid("param");
      const record = await getLedger(c.env.TENANT, c.var.caller.tenant).getHead(name, version);
      if (!record.ok) return respondError(c, record.failure);
      const storedHead = await getHead(c.env.KV, c.env.BUCKET, c.var.caller.tenant, record.value.sha256);
      if (storedHead === null)
        return respondError(c, {
          code: "storage_unavailable",
          message: "The head's weights could not be read. Try again.",
          retryAfter: 5,
        });
      const outputs = storedHead.bias.length;
      const weights = Array.from({ length: outputs }, (_, k) =>
        Array.from(storedHead.weights.subarray(k * storedHead.dimensions, (k + 1) * storedHead.dimensions)),
      );
      const { id, task, labels, dimensions, backbone } = record.value;
      return respond(
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
          lexical: storedHead.lexical === null ? null : toLexicalExport(storedHead.lexical, outputs),
          bias: Array.from(storedHead.bias, (bias) => bias + storedHead.offset),
          temperature: storedHead.temperature,
          out_of_scope_threshold: storedHead.outOfScopeThreshold,
          formula: formulas[task].replace("embedding", storedHead.lexical === null ? "embedding" : WITH_LEXICAL),
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

function toLexicalExport({ buckets, scale, seenBuckets, idf, weights, scales }: LexicalWeights, outputs: number) {
  const outputWeights = Array.from({ length: outputs }, (_, k) =>
    Array.from(idf, (_, j) => (weights[j * outputs + k] ?? 0) * (scales[k] ?? 0)),
  );
  return { buckets, scale, seen: Array.from(seenBuckets), idf: Array.from(idf), weights: outputWeights };
}

async function trainHead(c: Context<HttpEnv>, params: HeadParams): Promise<Response> {
  if (params.evaluation.detail === "full") {
    const message = "'evaluation.detail' is not available yet. Use 'summary'.";
    return respondError(c, { code: "not_available", message, param: "evaluation.detail" });
  }
  if (params.method === "fine_tune") return fineTuneHead(c, params);
  const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
  const result = await trainVersion(c, params, (head) =>
    tenantLedger.commitHead(c.var.idempotencyClaim, head, params.promote),
  );
  return result.ok ? respond(c, result, 201) : fallBackToJob(c, params, result.failure);
}

/**
 * Under `auto`, makes a fine-tuning job of what is beyond the budget of one request, where there is a batch endpoint;
 * else answers why it failed.
 */
async function fallBackToJob(c: Context<HttpEnv>, params: HeadParams, failure: Failure): Promise<Response> {
  if (failure.code !== "edge_budget_exceeded" || params.method !== "auto" || getBatchEndpoint(c.env) === null)
    return respondError(c, failure);
  const result = await createTrainingJob(c, params, "head");
  // No batch endpoint has the layers of a fine-tuned backbone: what is beyond one request on it is beyond all.
  const isOwnBackbone = !result.ok && result.failure.code === "not_available" && result.failure.param === "backbone";
  return isOwnBackbone ? respondError(c, failure) : respondWithJob(c, params, result);
}

/** Makes the job that trains the backbone's layers with the head, where it has any. */
async function fineTuneHead(c: Context<HttpEnv>, params: HeadParams): Promise<Response> {
  const notAvailable = (message: string) => respondError(c, { code: "not_available", message, param: "method" });
  if (getBatchEndpoint(c.env) === null)
    return notAvailable("This instance has no batch endpoint, which fine-tuning needs. Use 'auto' or 'head'.");
  const result = await createTrainingJob(c, params, "all");
  const isUntrainable = !result.ok && result.failure.code === "not_available" && result.failure.param === "trainable";
  if (isUntrainable)
    return notAvailable("These inputs have no backbone whose layers can be trained. Use 'auto' or 'head'.");
  return respondWithJob(c, params, result);
}

/** The answer of a training that became a job, or could not. */
function respondWithJob(c: Context<HttpEnv>, params: HeadParams, result: Result<FineTuningJob>): Response {
  if (result.ok) {
    c.header("location", `/v1/fine_tuning/jobs/${result.value.id}`);
    return respond(c, result, 202);
  }
  const { param } = result.failure;
  if (param !== "file" && param !== "training_file") return respondError(c, result.failure);
  return respondError(c, { ...result.failure, param: params.dataset === undefined ? "examples" : "dataset" });
}

/** Makes the job that trains what is wanted, on a file of its own where the examples came along. */
async function createTrainingJob(
  c: Context<HttpEnv>,
  params: HeadParams,
  trainable: "head" | "all",
): Promise<Result<FineTuningJob>> {
  const trainingFile =
    params.dataset === undefined
      ? await storeExamples(c, params.name, params.examples ?? [])
      : ok(`dataset:${params.dataset}`);
  const spec = trainingFile.ok
    ? await resolveTrainingJobSpec(c, params, trainingFile.value, choosePromotion(params, trainable), trainable)
    : trainingFile;
  const result = spec.ok ? await createJob(c, { ...spec.value, source: markOwned(spec.value.source) }, 202) : spec;
  // Nobody asked for a file: without a job nothing of it stays.
  if (!result.ok && trainingFile.ok && params.dataset === undefined)
    await getLedger(c.env.TENANT, c.var.caller.tenant).deleteFile(trainingFile.value);
  return result;
}

/** A head that is too large for a request has nothing to be compared with; layers have the frozen head. */
function choosePromotion({ promote }: HeadParams, trainable: "head" | "all"): PromotionMode {
  if (!promote) return "never";
  return trainable === "head" ? "always" : "if_better";
}

/** A file that was made for a job alone goes with it. */
function markOwned(source: JobSpec["source"]): JobSpec["source"] {
  return source.kind === "file" ? { ...source, own: true } : source;
}
