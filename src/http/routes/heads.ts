import { createRoute } from "@hono/zod-openapi";
import type { Context } from "hono";
import {
  type HeadParams,
  head,
  headExport,
  headExportQuery,
  newHead,
  promotion,
  type TrainingChoice,
  versionParams,
} from "../../api/heads.ts";
import { type FineTuningJob, fineTuningJob } from "../../api/jobs.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import { type Failure, ok, type Result } from "../../core/failure.ts";
import { endHeadLeases } from "../../serving/active-heads.ts";
import { getHead } from "../../store/heads.ts";
import type { NewHead } from "../../tenant/heads/heads.ts";
import { getBatchEndpoint } from "../../tenant/jobs/job-runner.ts";
import { chooseForGoal } from "../../training/goal.ts";
import { createHeadJob } from "../../training/jobs.ts";
import { trainVersion } from "../../training/version.ts";
import type { NewVersionTest } from "../../training/version-test.ts";
import { type App, type HttpEnv, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency, jobLocation } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";
import { toHeadExport } from "./head-export.ts";

const common = { tags: ["Heads"], security: tenantSecurity };

const trainHeadRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/heads",
  operationId: "trainHead",
  summary: "Train a head in this request",
  description:
    "Trains a classifier or a regression on frozen embeddings, evaluates it on held-out examples, and stores it as the head's next version. What is beyond one request becomes a fine-tuning job under 'auto'.",
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
});

const listHeadsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/heads",
  operationId: "listHeads",
  summary: "List heads",
  description: "Each head by its active version, with its evaluation.",
  middleware: [tenantAuth("predict")] as const,
  request: { query: pageQuery },
  responses: { 200: jsonResponse(listOf(head), "Heads by their active version, newest first"), ...errorResponses },
});

const getHeadRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/heads/{name}",
  operationId: "getHead",
  summary: "Get a head's active version",
  description: "The version that answers predictions now, with its evaluation.",
  middleware: [tenantAuth("predict")] as const,
  request: { params: nameParams },
  responses: { 200: jsonResponse(head, "The head"), ...errorResponses },
});

const deleteHeadRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/heads/{name}",
  operationId: "deleteHead",
  summary: "Delete a head with all its versions",
  description: "Deletes the head's versions and their weights for good.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams },
  responses: { 200: jsonResponse(deletedObject("head"), "It is gone"), ...errorResponses },
});

const listVersionsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/heads/{name}/versions",
  operationId: "listHeadVersions",
  summary: "List a head's versions",
  description: "Every version of the head. Versions never change.",
  middleware: [tenantAuth("predict")] as const,
  request: { params: nameParams, query: pageQuery },
  responses: {
    200: jsonResponse(listOf(head), "Versions, newest first; 'after' takes a version's number"),
    ...errorResponses,
  },
});

const getVersionRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/heads/{name}/versions/{version}",
  operationId: "getHeadVersion",
  summary: "Get a version of a head",
  description: "One version, with how it was trained and evaluated.",
  middleware: [tenantAuth("predict")] as const,
  request: { params: versionParams },
  responses: { 200: jsonResponse(head, "The version"), ...errorResponses },
});

const promoteHeadRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/heads/{name}/promote",
  operationId: "promoteHead",
  summary: "Make a version the active one; rolling back is the same call",
  description:
    "Moves the pointer of the head to a version, which then answers predictions everywhere within 30 seconds.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { params: nameParams, body: jsonBody(promotion) },
  responses: {
    200: jsonResponse(head, "The version, now active; everywhere within 30 seconds"),
    ...errorResponses,
  },
});

const exportHeadRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/heads/{name}/versions/{version}/export",
  operationId: "exportHeadVersion",
  summary: "Export a version's weights and labels, usable without this service",
  description: "Weights, labels, temperature and the formula by which they make a prediction.",
  middleware: [tenantAuth("train")] as const,
  request: { params: versionParams, query: headExportQuery },
  responses: {
    200: jsonResponse(headExport, "Everything that a prediction needs, with the formula"),
    ...errorResponses,
  },
});

export function headRoutes(app: App): void {
  addRoute(app, trainHeadRoute, async (c) => {
    const response = trainHead(c, c.req.valid("json"));
    // A client may disconnect: the training then has 30 seconds more to end, and to release its slot and its memory.
    c.executionCtx.waitUntil(response);
    return response;
  });
  addRoute(app, listHeadsRoute, async (c) => respond(c, await c.var.ledger().listHeads(c.req.valid("query"))));
  addRoute(app, getHeadRoute, async (c) => respond(c, await c.var.ledger().getHead(c.req.valid("param").name, null)));
  addRoute(app, deleteHeadRoute, deleteHead);
  addRoute(app, listVersionsRoute, async (c) =>
    respond(c, await c.var.ledger().listVersions(c.req.valid("param").name, c.req.valid("query"))),
  );
  addRoute(app, getVersionRoute, async (c) => {
    const { name, version } = c.req.valid("param");
    return respond(c, await c.var.ledger().getHead(name, version));
  });
  addRoute(app, promoteHeadRoute, promoteHead);
  addRoute(app, exportHeadRoute, exportHead);
}

async function deleteHead(c: RouteContext<typeof deleteHeadRoute>): Promise<Response> {
  const { name } = c.req.valid("param");
  const result = await c.var.ledger().deleteHead(name);
  endHeadLeases(c.var.caller.tenant, name);
  return respond(c, result);
}

async function promoteHead(c: RouteContext<typeof promoteHeadRoute>): Promise<Response> {
  const { name } = c.req.valid("param");
  const result = await c.var.ledger().promoteHead(c.var.idempotencyClaim, name, c.req.valid("json").version);
  endHeadLeases(c.var.caller.tenant, name);
  return respond(c, result);
}

async function exportHead(c: RouteContext<typeof exportHeadRoute>): Promise<Response> {
  const { name, version } = c.req.valid("param");
  const record = await c.var.ledger().getHead(name, version);
  if (!record.ok) return respondError(c, record.failure);
  const weights = await getHead(c.env.KV, c.env.BUCKET, c.var.caller.tenant, record.value.sha256);
  if (weights !== null) return respond(c, ok(toHeadExport(record.value, weights)));
  const message = "The head's weights could not be read. Try again.";
  return respondError(c, { code: "storage_unavailable", message, retryAfter: 5 });
}

const labelsNeedHead: Failure = {
  code: "not_available",
  message: "Fine-tuning learns from examples alone. Leave 'labels' out, or use 'auto' or 'head'.",
  param: "labels",
};

async function trainHead(c: Context<HttpEnv>, params: HeadParams): Promise<Response> {
  if (params.test_dataset !== undefined) {
    const testSet = await c.var.ledger().checkTestDataset(params.test_dataset, params.dataset ?? null);
    if (!testSet.ok) return respondError(c, testSet.failure);
  }
  if (params.goal === undefined || params.dataset === undefined) return trainBy(c, params, null);
  const chosen = await chooseForGoal(tenantRequest(c), params, params.dataset, params.goal);
  return chosen.ok ? trainBy(c, chosen.value.params, chosen.value.choice) : respondError(c, chosen.failure);
}

/** Trains by the method of the parameters. */
async function trainBy(c: Context<HttpEnv>, params: HeadParams, choice: TrainingChoice | null): Promise<Response> {
  if (params.method === "fine_tune")
    return params.labels === undefined ? fineTuneHead(c, params, choice) : respondError(c, labelsNeedHead);
  const { idempotencyClaim } = c.var;
  const ledger = c.var.ledger();
  const commit = (version: NewHead, test: NewVersionTest | null, vectors: Uint32Array | null) =>
    ledger.commitHead(idempotencyClaim, version, params.promote, test?.run ?? null, vectors);
  const result = await trainVersion(tenantRequest(c), params, commit, choice);
  return result.ok ? respond(c, result, 201) : fallBackToJob(c, params, result.failure, choice);
}

/**
 * Under `auto`, makes a fine-tuning job of a training beyond the budget of one request, if there is a batch endpoint and
 * the head needs no texts of labels, which a job does not have.
 * Otherwise responds with why the training failed.
 */
async function fallBackToJob(
  c: Context<HttpEnv>,
  params: HeadParams,
  failure: Failure,
  choice: TrainingChoice | null,
): Promise<Response> {
  const canBeJob = params.method === "auto" && params.labels === undefined && getBatchEndpoint(c.env) !== null;
  if (failure.code !== "edge_budget_exceeded" || !canBeJob) return respondError(c, failure);
  const result = await createHeadJob(tenantRequest(c), params, "head", c.var.idempotencyClaim, choice);
  // Batch endpoints do not have the layers of a fine-tuned backbone, so a job cannot do it either.
  const isOwnBackbone = !result.ok && result.failure.code === "not_available" && result.failure.param === "backbone";
  return isOwnBackbone ? respondError(c, failure) : respondWithJob(c, params, result);
}

/** Makes the job that trains the layers of the backbone and the head. */
async function fineTuneHead(c: Context<HttpEnv>, params: HeadParams, choice: TrainingChoice | null): Promise<Response> {
  const notAvailable = (message: string) => respondError(c, { code: "not_available", message, param: "method" });
  if (getBatchEndpoint(c.env) === null)
    return notAvailable("This instance has no batch endpoint, which fine-tuning needs. Use 'auto' or 'head'.");
  const result = await createHeadJob(tenantRequest(c), params, "all", c.var.idempotencyClaim, choice);
  const isUntrainable = !result.ok && result.failure.code === "not_available" && result.failure.param === "trainable";
  if (isUntrainable)
    return notAvailable("These inputs have no backbone whose layers can be trained. Use 'auto' or 'head'.");
  return respondWithJob(c, params, result);
}

/** The response of a training that became a job, or could not. A failure names the parameter of this request. */
function respondWithJob(c: Context<HttpEnv>, params: HeadParams, result: Result<FineTuningJob>): Response {
  if (result.ok) {
    c.header("location", jobLocation(result.value));
    return respond(c, result, 202);
  }
  const { param } = result.failure;
  if (param === "head") return respondError(c, { ...result.failure, param: "name" });
  if (param !== "file" && param !== "training_file") return respondError(c, result.failure);
  return respondError(c, { ...result.failure, param: params.dataset === undefined ? "examples" : "dataset" });
}
