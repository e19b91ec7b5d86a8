import { createRoute, z } from "@hono/zod-openapi";
import { ok } from "../../core/failure.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { newId } from "../../lib/id.ts";
import { type ApiKey, type NewApiKey, scopes } from "../../tenant/api-keys.ts";
import { ledger } from "../../tenant/tenant.ts";
import { endLeases, tenantKey } from "../middleware/auth.ts";
import { type App, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { idempotent } from "../middleware/idempotency.ts";
import { makeKey } from "../middleware/keys.ts";
import { body, deleted, errors, json, listOf, pageQuery, tenantSecurity, unixSeconds } from "../../api/schema.ts";

const apiKey = z
  .object({
    object: z.literal("api_key"),
    id: z.string(),
    name: z.string(),
    scopes: z.array(z.enum(scopes)),
    created_at: unixSeconds,
    expires_at: unixSeconds.nullable(),
  })
  .openapi("ApiKey");
const secret = z.string().optional().openapi({ description: "the key itself: left out where an answer is replayed" });
export const apiKeyWithSecret = apiKey.extend({ secret }).openapi("ApiKeyWithSecret");
export const newApiKeyBody = z.strictObject({
  name: z.string().min(1).max(200),
  scopes: z.array(z.enum(scopes)).min(1).max(scopes.length),
  expires_at: unixSeconds.refine((at) => at * 1000 > Date.now(), "the time has passed already").optional(),
});
const common = { tags: ["API keys"], security: tenantSecurity };

/** A new key, and what the ledger keeps of it. */
export function newKey(
  env: Cloudflare.Env,
  tenantId: string,
  name: string,
  granted: NewApiKey["scopes"],
  expiresAt: number | null,
) {
  const secret = makeKey(env.SERVER_KEY, tenantId, crypto.getRandomValues(new Uint8Array(16)));
  const id = newId("key_");
  const key: NewApiKey = { id, name, hash: sha256Hex(secret), scopes: [...new Set(granted)], expires_at: expiresAt };
  return { secret, key };
}

export function withSecret(key: ApiKey, secret: string): ApiKey & { secret: string } {
  return { ...key, secret };
}

export function apiKeyRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/api_keys",
      summary: "Create an API key",
      middleware: [tenantKey("manage"), idempotent("tenant")] as const,
      request: { body: body(newApiKeyBody) },
      responses: { 201: json(apiKeyWithSecret, "The key; its secret is shown this once"), ...errors },
    }),
    async (c) => {
      const wanted = c.req.valid("json");
      const { key, secret } = newKey(c.env, c.var.caller.tenant, wanted.name, wanted.scopes, wanted.expires_at ?? null);
      const made = await ledger(c.env.TENANT, c.var.caller.tenant).createApiKey(c.var.claim, key);
      return made.ok ? answer(c, ok(withSecret(made.value, secret)), 201) : failed(c, made.failure);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/api_keys",
      summary: "List API keys",
      middleware: [tenantKey("manage")] as const,
      request: { query: pageQuery },
      responses: { 200: json(listOf(apiKey), "Keys, newest first"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).listApiKeys(c.req.valid("query"))),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/api_keys/{id}",
      summary: "Revoke an API key",
      middleware: [tenantKey("manage")] as const,
      request: { params: z.object({ id: z.string().min(1).max(100) }) },
      responses: { 200: json(deleted("api_key"), "The key is refused everywhere within 30 seconds"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const revoked = await ledger(c.env.TENANT, c.var.caller.tenant).revokeApiKey(id);
      if (!revoked.ok) return failed(c, revoked.failure);
      endLeases(c.var.caller.tenant, id);
      return answer(c, ok({ id, object: "api_key", deleted: true }));
    },
  );
}
