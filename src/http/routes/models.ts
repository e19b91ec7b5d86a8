import { createRoute, z } from "@hono/zod-openapi";
import type { Backbone } from "../../backbones/backbone.ts";
import { fail, ok } from "../../core/failure.ts";
import type { FineTunedBackbone } from "../../tenant/heads/backbones.ts";
import { ledger } from "../../tenant/tenant.ts";
import { tenantKey } from "../middleware/auth.ts";
import { isFineTuned, sharedBackbone, sharedBackbones } from "../../serving/backbones.ts";
import { type App, anyQuery, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { deleted, errors, json, tenantSecurity } from "../../api/schema.ts";

const model = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.number().int(),
    owned_by: z.string(),
    graft: z.object({
      kind: z.string(),
      modality: z.enum(["text", "image", "embedding"]),
      dimensions: z.number().int(),
      revision: z.string(),
      license: z.string(),
      parameters: z.number(),
      bytes: z.number(),
      base: z
        .object({ id: z.string(), revision: z.string() })
        .optional()
        .openapi({ description: "of one that a fine-tuning job made: the shared backbone that it was made of" }),
      job: z.string().optional().openapi({ description: "the job that made it" }),
    }),
  })
  .openapi("Model");
type Model = z.infer<typeof model>;

/** When the shared backbones were first served: OpenAI's list has a time, which no backbone here depends on. */
const CREATED = 1_790_000_000;
const common = { tags: ["Backbones"], security: tenantSecurity };
const params = z.object({ id: z.string().min(1).max(200) });

function toModel(backbone: Backbone): Model {
  const { id, kind, modality, dimensions, revision, license, parameters, bytes } = backbone;
  return {
    id,
    object: "model",
    created: CREATED,
    owned_by: "graft",
    graft: { kind, modality, dimensions, revision, license, parameters, bytes },
  };
}

/** A backbone of a tenant's own. One that is a shared backbone unchanged is null where this instance no longer has that. */
function toOwnModel(env: Cloudflare.Env, tenant: string, own: FineTunedBackbone): Model | null {
  const shared = sharedBackbones(env).get(own.base);
  const { id, revision, dimensions, bytes, job, sha256 } = own;
  const named = { id, object: "model" as const, created: own.created_at, owned_by: tenant };
  if (sha256 === null) {
    if (shared === undefined) return null;
    return { ...named, graft: { ...toModel(shared).graft, base: { id: own.base, revision: shared.revision }, job } };
  }
  const base = { id: own.base, revision: own.base_revision };
  const parameters = (shared?.parameters ?? 0) + own.parameters;
  const license = shared?.license ?? "unknown";
  const made = { kind: "fine_tuned", modality: "text" as const, dimensions, revision, license, parameters, bytes };
  return { ...named, graft: { ...made, base, job } };
}

export function modelRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/models",
      summary: "List backbones: the shared ones, then those that fine-tuning jobs of the tenant have made",
      middleware: [tenantKey(null)] as const,
      request: { query: anyQuery },
      responses: {
        200: json(z.object({ object: z.literal("list"), data: z.array(model) }), "OpenAI's list of models"),
        ...errors,
      },
    }),
    async (c) => {
      const { tenant } = c.var.caller;
      const own = await ledger(c.env.TENANT, tenant).listBackbones();
      if (!own.ok) return failed(c, own.failure);
      const shared = [...sharedBackbones(c.env).values()].map(toModel);
      const made = own.value.map((each) => toOwnModel(c.env, tenant, each)).filter((each) => each !== null);
      return answer(c, ok({ object: "list", data: [...shared, ...made] }));
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/models/{id}",
      summary: "Get a backbone",
      middleware: [tenantKey(null)] as const,
      request: { query: anyQuery, params },
      responses: { 200: json(model, "The backbone"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const { tenant } = c.var.caller;
      if (!isFineTuned(id)) {
        const found = sharedBackbone(c.env, id, "id");
        return answer(c, found.ok ? ok(toModel(found.value)) : found);
      }
      const own = await ledger(c.env.TENANT, tenant).findBackbone(id);
      const shown = own.ok ? toOwnModel(c.env, tenant, own.value) : null;
      // Shared backbones have no such id: this says that there is none, in the words for every other.
      return shown === null ? answer(c, sharedBackbone(c.env, id, "id")) : answer(c, ok(shown));
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/models/{id}",
      summary: "Delete a backbone that a fine-tuning job made, with all its revisions",
      middleware: [tenantKey("train")] as const,
      request: { query: anyQuery, params },
      responses: { 200: json(deleted("model"), "It is gone"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      if (!isFineTuned(id)) {
        const found = sharedBackbone(c.env, id, "id");
        if (!found.ok) return failed(c, found.failure);
        const message = `'${id}' is shared by all tenants, and cannot be deleted. Fine-tuned models can: their ids begin with 'ft:'.`;
        return answer(c, fail("invalid_parameter", message, { param: "id" }));
      }
      const gone = await ledger(c.env.TENANT, c.var.caller.tenant).deleteBackbone(id);
      return answer(c, gone.ok ? gone : { ok: false, failure: { ...gone.failure, param: "id" } });
    },
  );
}
