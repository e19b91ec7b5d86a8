import { createRoute } from "@hono/zod-openapi";
import { deletedObject } from "../../api/lists.ts";
import { type Model, model, modelList, modelParams } from "../../api/models.ts";
import type { Backbone } from "../../backbones/backbone.ts";
import { fail, ok } from "../../core/failure.ts";
import { findSharedBackbone, getSharedBackbones, isFineTuned } from "../../serving/backbones.ts";
import type { FineTunedBackbone } from "../../tenant/heads/backbones.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, anyQuery, errorResponses, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

/** When the shared backbones were first served. OpenAI's list needs a time; nothing here depends on it. */
const SHARED_MODEL_CREATED = 1_790_000_000;
const common = { tags: ["Backbones"], security: tenantSecurity };

const listModelsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/models",
  operationId: "listModels",
  summary: "List backbones: the shared ones, then those that fine-tuning jobs of the tenant have made",
  description: "OpenAI's list of models, which has no pages. 'graft' tells what a head needs to know of each.",
  middleware: [tenantAuth(null)] as const,
  request: { query: anyQuery },
  responses: {
    200: jsonResponse(modelList, "OpenAI's list of models"),
    ...errorResponses,
  },
});

const getModelRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/models/{id}",
  operationId: "getModel",
  summary: "Get a backbone",
  description: "A backbone in its newest revision.",
  middleware: [tenantAuth(null)] as const,
  request: { query: anyQuery, params: modelParams },
  responses: { 200: jsonResponse(model, "The backbone"), ...errorResponses },
});

const deleteModelRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/models/{id}",
  operationId: "deleteModel",
  summary: "Delete a backbone that a fine-tuning job made, with all its revisions",
  description: "Deletes the fine-tuned layers for good. A backbone that heads need is kept, with 409.",
  middleware: [tenantAuth("train")] as const,
  request: { query: anyQuery, params: modelParams },
  responses: { 200: jsonResponse(deletedObject("model"), "It is gone"), ...errorResponses },
});

export function modelRoutes(app: App): void {
  addRoute(app, listModelsRoute, listModels);
  addRoute(app, getModelRoute, getModel);
  addRoute(app, deleteModelRoute, deleteModel);
}

async function listModels(c: RouteContext<typeof listModelsRoute>): Promise<Response> {
  const ownBackbones = await c.var.ledger().listBackbones();
  if (!ownBackbones.ok) return respondError(c, ownBackbones.failure);
  const sharedModels = [...getSharedBackbones(c.env).values()].map(toModel);
  const ownModels = ownBackbones.value
    .map((backbone) => toFineTunedModel(c.env, c.var.caller.tenant, backbone))
    .filter((ownModel) => ownModel !== null);
  return respond(c, ok({ object: "list", data: [...sharedModels, ...ownModels] }));
}

async function getModel(c: RouteContext<typeof getModelRoute>): Promise<Response> {
  const { id } = c.req.valid("param");
  if (!isFineTuned(id)) {
    const found = findSharedBackbone(c.env, id, "id");
    return respond(c, found.ok ? ok(toModel(found.value)) : found);
  }
  const ownBackbone = await c.var.ledger().findBackbone(id);
  const ownModel = ownBackbone.ok ? toFineTunedModel(c.env, c.var.caller.tenant, ownBackbone.value) : null;
  // No shared backbone has such an id, so this responds that there is none, as for every other id.
  return ownModel === null ? respond(c, findSharedBackbone(c.env, id, "id")) : respond(c, ok(ownModel));
}

async function deleteModel(c: RouteContext<typeof deleteModelRoute>): Promise<Response> {
  const { id } = c.req.valid("param");
  if (!isFineTuned(id)) {
    const found = findSharedBackbone(c.env, id, "id");
    if (!found.ok) return respondError(c, found.failure);
    const message = `'${id}' is shared by all tenants, and cannot be deleted. Fine-tuned models can: their ids begin with 'ft:'.`;
    return respond(c, fail("invalid_parameter", message, { param: "id" }));
  }
  const result = await c.var.ledger().deleteBackbone(id);
  return respond(c, result.ok ? result : { ok: false, failure: { ...result.failure, param: "id" } });
}

function toModel(backbone: Backbone): Model {
  const { id, kind, modality, dimensions, revision, license, parameters, bytes } = backbone;
  return {
    id,
    object: "model",
    created: SHARED_MODEL_CREATED,
    owned_by: "graft",
    graft: { kind, modality, dimensions, revision, license, parameters, bytes },
  };
}

/** A tenant's own backbone. null if it is an unchanged shared backbone that this instance no longer has. */
function toFineTunedModel(env: Cloudflare.Env, tenant: string, backbone: FineTunedBackbone): Model | null {
  const shared = getSharedBackbones(env).get(backbone.base);
  const { id, revision, dimensions, bytes, job, sha256 } = backbone;
  const modelFields = { id, object: "model" as const, created: backbone.created_at, owned_by: tenant };
  if (sha256 === null) {
    if (shared === undefined) return null;
    return {
      ...modelFields,
      graft: { ...toModel(shared).graft, base: { id: backbone.base, revision: shared.revision }, job },
    };
  }
  const base = { id: backbone.base, revision: backbone.base_revision };
  const parameters = (shared?.parameters ?? 0) + backbone.parameters;
  const license = shared?.license ?? "unknown";
  const graftFields = {
    kind: "fine_tuned",
    modality: "text" as const,
    dimensions,
    revision,
    license,
    parameters,
    bytes,
  };
  return { ...modelFields, graft: { ...graftFields, base, job } };
}
