import { createRoute } from "@hono/zod-openapi";
import { deletedObject } from "../../api/lists.ts";
import { type Model, model, modelList, modelParams } from "../../api/models.ts";
import type { Backbone } from "../../backbones/backbone.ts";
import { fail, ok } from "../../core/failure.ts";
import { findSharedBackbone, getSharedBackbones, isFineTuned } from "../../serving/backbones.ts";
import type { FineTunedBackbone } from "../../tenant/heads/backbones.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, anyQuery, errorResponses, jsonResponse, tenantSecurity } from "../route.ts";

/** When the shared backbones were first served: OpenAI's list has a time, which no backbone here depends on. */
const SHARED_MODEL_CREATED = 1_790_000_000;
const common = { tags: ["Backbones"], security: tenantSecurity };

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

/** A backbone of a tenant's own. One that is a shared backbone unchanged is null where this instance no longer has that. */
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

export function modelRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/models",
      summary: "List backbones: the shared ones, then those that fine-tuning jobs of the tenant have made",
      middleware: [tenantAuth(null)] as const,
      request: { query: anyQuery },
      responses: {
        200: jsonResponse(modelList, "OpenAI's list of models"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const { tenant } = c.var.caller;
      const ownBackbones = await getLedger(c.env.TENANT, tenant).listBackbones();
      if (!ownBackbones.ok) return respondError(c, ownBackbones.failure);
      const sharedModels = [...getSharedBackbones(c.env).values()].map(toModel);
      const ownModels = ownBackbones.value
        .map((each) => toFineTunedModel(c.env, tenant, each))
        .filter((each) => each !== null);
      return respond(c, ok({ object: "list", data: [...sharedModels, ...ownModels] }));
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/models/{id}",
      summary: "Get a backbone",
      middleware: [tenantAuth(null)] as const,
      request: { query: anyQuery, params: modelParams },
      responses: { 200: jsonResponse(model, "The backbone"), ...errorResponses },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const { tenant } = c.var.caller;
      if (!isFineTuned(id)) {
        const found = findSharedBackbone(c.env, id, "id");
        return respond(c, found.ok ? ok(toModel(found.value)) : found);
      }
      const ownBackbone = await getLedger(c.env.TENANT, tenant).findBackbone(id);
      const ownModel = ownBackbone.ok ? toFineTunedModel(c.env, tenant, ownBackbone.value) : null;
      // Shared backbones have no such id: this says that there is none, in the words for every other.
      return ownModel === null ? respond(c, findSharedBackbone(c.env, id, "id")) : respond(c, ok(ownModel));
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/models/{id}",
      summary: "Delete a backbone that a fine-tuning job made, with all its revisions",
      middleware: [tenantAuth("train")] as const,
      request: { query: anyQuery, params: modelParams },
      responses: { 200: jsonResponse(deletedObject("model"), "It is gone"), ...errorResponses },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      if (!isFineTuned(id)) {
        const found = findSharedBackbone(c.env, id, "id");
        if (!found.ok) return respondError(c, found.failure);
        const message = `'${id}' is shared by all tenants, and cannot be deleted. Fine-tuned models can: their ids begin with 'ft:'.`;
        return respond(c, fail("invalid_parameter", message, { param: "id" }));
      }
      const result = await getLedger(c.env.TENANT, c.var.caller.tenant).deleteBackbone(id);
      return respond(c, result.ok ? result : { ok: false, failure: { ...result.failure, param: "id" } });
    },
  );
}
