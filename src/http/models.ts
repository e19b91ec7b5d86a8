import { createRoute, z } from "@hono/zod-openapi";
import type { Backbone } from "../backbones/backbone.ts";
import { backbones } from "../backbones/index.ts";
import { textStatic } from "../backbones/workerd.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { tenantKey } from "./auth.ts";
import { type App, anyQuery, route } from "./context.ts";
import { answer } from "./errors.ts";
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

/** The backbone for a modality; null for embeddings of the caller's own, which need none. */
export function chooseBackbone(
  env: Cloudflare.Env,
  modality: "text" | "embedding",
  id: string | undefined,
  param: string,
): Result<Backbone | null> {
  if (modality === "text") return findBackbone(env, id, param);
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
    (c) => answer(c, ok({ object: "list", data: [...backboneTable(c.env).values()].map(toModel) })),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/models/{id}",
      summary: "Get a backbone",
      middleware: [tenantKey(null)] as const,
      request: { query: anyQuery, params: z.object({ id: z.string().min(1).max(200) }) },
      responses: { 200: json(model, "The backbone"), ...errors },
    }),
    (c) => {
      const found = findBackbone(c.env, c.req.valid("param").id, "id");
      return answer(c, found.ok ? ok(toModel(found.value)) : found);
    },
  );
}
