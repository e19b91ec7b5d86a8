import { createRoute, z } from "@hono/zod-openapi";
import type { Backbone } from "../backbones/backbone.ts";
import { backbones } from "../backbones/index.ts";
import { textStatic } from "../backbones/workerd.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { getFineTuned } from "../store/backbones.ts";
import type { StoredBackbone } from "../tenant/backbones.ts";
import { ledger } from "../tenant/tenant.ts";
import { tenantKey } from "./auth.ts";
import { type App, anyQuery, route } from "./context.ts";
import { answer, failed } from "./errors.ts";
import { errors, json, tenantSecurity } from "./schema.ts";

export const DEFAULT_BACKBONE = textStatic.id;

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
    }),
  })
  .openapi("Model");
/** When the shared backbones were first served: OpenAI's list has a time, which no backbone here depends on. */
const CREATED = 1_790_000_000;
const common = { tags: ["Backbones"], security: tenantSecurity };
const modelParams = z.object({ id: z.string().min(1).max(200) });

let table: { configuration: string | undefined; env: Cloudflare.Env; result: ReturnType<typeof backbones> } | undefined;

/** The backbones of this instance by id: those in the box and those that its configuration names. */
export function backboneTable(env: Cloudflare.Env): ReadonlyMap<string, Backbone> {
  if (table === undefined || table.env !== env || table.configuration !== env.BACKBONES) {
    const secrets = env as unknown as Record<string, unknown>;
    const secret = (name: string) => (typeof secrets[name] === "string" ? secrets[name] : undefined);
    table = { configuration: env.BACKBONES, env, result: backbones(textStatic, env.BACKBONES, secret, env.AI) };
  }
  if (!table.result.ok) throw new Error(table.result.failure.message);
  return table.result.value;
}

/** A backbone by id, or this instance's default one. */
export function findBackbone(env: Cloudflare.Env, id: string | undefined, param: string): Result<Backbone> {
  const wanted = id ?? env.DEFAULT_BACKBONE ?? DEFAULT_BACKBONE;
  const backbone = backboneTable(env).get(wanted);
  return backbone
    ? ok(backbone)
    : fail("not_found", `No model '${wanted}'. GET /v1/models lists those that exist.`, { param });
}

const FINE_TUNED = "ft:";

/** A backbone by id, a shared one or a tenant's own in its newest revision, or this instance's default one. */
export async function tenantBackbone(
  env: Cloudflare.Env,
  tenant: string,
  id: string | undefined,
  param: string,
): Promise<Result<Backbone>> {
  if (!id?.startsWith(FINE_TUNED)) return findBackbone(env, id, param);
  const found = await ledger(env.TENANT, tenant).getBackbone(id);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param } };
  return backboneAt(env, tenant, found.value);
}

/** A backbone at a revision: that of a head, which is not asked for in the ledger. */
export async function backboneAt(
  env: Cloudflare.Env,
  tenant: string,
  { id, revision }: Pick<Backbone, "id" | "revision">,
): Promise<Result<Backbone>> {
  const shared = backboneTable(env);
  const gone = `The backbone ${id}@${revision} is needed here, which this instance no longer has. Train again.`;
  // Of a fine-tuned one that changed nothing the revision is its base's.
  const base = shared.get(id.startsWith(FINE_TUNED) ? (id.split(":")[1] ?? "") : id);
  if (base?.revision === revision) return ok(base.id === id ? base : { ...base, id });
  if (!id.startsWith(FINE_TUNED)) return fail("not_available", gone);
  const loaded = await getFineTuned(env.KV, env.BUCKET, tenant, shared, { id, revision });
  if (loaded === "unfit") return fail("not_available", gone);
  if (loaded === null)
    return fail("storage_unavailable", `The weights of '${id}' could not be read. Try again.`, { retryAfter: 5 });
  return ok(loaded);
}

/** The backbone for a modality; null for embeddings of the caller's own, which need none. */
export async function chooseBackbone(
  env: Cloudflare.Env,
  tenant: string,
  modality: "text" | "embedding",
  id: string | undefined,
  param: string,
): Promise<Result<Backbone | null>> {
  if (modality === "text") return tenantBackbone(env, tenant, id, param);
  if (id === undefined) return ok(null);
  return fail("modality_mismatch", `Embeddings of your own need no backbone. Leave '${param}' out.`, { param });
}

function toModel(backbone: Backbone): z.infer<typeof model> {
  const { id, kind, modality, dimensions, revision, license, parameters, bytes } = backbone;
  return {
    id,
    object: "model",
    created: CREATED,
    owned_by: "graft",
    graft: { kind, modality, dimensions, revision, license, parameters, bytes },
  };
}

/** A tenant's own, as the ledger tells of it: its weights are not loaded for that. */
function toOwnModel(env: Cloudflare.Env, tenant: string, stored: StoredBackbone): z.infer<typeof model> {
  const base = backboneTable(env).get(stored.base.id);
  const trained = stored.sha256 !== null;
  return {
    id: stored.id,
    object: "model",
    created: stored.created_at,
    owned_by: tenant,
    graft: {
      kind: trained ? "fine_tuned" : (base?.kind ?? "unknown"),
      modality: "text",
      dimensions: stored.dimensions,
      revision: stored.revision,
      license: base?.license ?? "unknown",
      parameters: (base?.parameters ?? 0) + stored.parameters,
      bytes: (base?.bytes ?? 0) + stored.bytes,
    },
  };
}

export function modelRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/models",
      summary: "List backbones",
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
      const shared = [...backboneTable(c.env).values()].map(toModel);
      return answer(
        c,
        ok({ object: "list", data: [...shared, ...own.value.map((each) => toOwnModel(c.env, tenant, each))] }),
      );
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
      request: { query: anyQuery, params: modelParams },
      responses: { 200: json(model, "The backbone"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const { tenant } = c.var.caller;
      if (!id.startsWith(FINE_TUNED)) {
        const found = findBackbone(c.env, id, "id");
        return answer(c, found.ok ? ok(toModel(found.value)) : found);
      }
      const own = await ledger(c.env.TENANT, tenant).getBackbone(id);
      return own.ok ? answer(c, ok(toOwnModel(c.env, tenant, own.value))) : failed(c, { ...own.failure, param: "id" });
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/models/{id}",
      summary: "Delete a fine-tuned backbone that no head needs",
      middleware: [tenantKey("manage")] as const,
      request: { query: anyQuery, params: modelParams },
      responses: {
        200: json(z.object({ id: z.string(), object: z.literal("model"), deleted: z.literal(true) }), "It is gone"),
        ...errors,
      },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      if (id.startsWith(FINE_TUNED)) {
        const deleted = await ledger(c.env.TENANT, c.var.caller.tenant).deleteBackbone(id);
        return deleted.ok ? answer(c, deleted) : failed(c, { ...deleted.failure, param: "id" });
      }
      const found = findBackbone(c.env, id, "id");
      if (!found.ok) return failed(c, found.failure);
      return failed(c, {
        code: "invalid_parameter",
        message: `'${id}' is shared by all tenants, and cannot be deleted. Fine-tuned models can: their ids begin with 'ft:'.`,
        param: "id",
      });
    },
  );
}
