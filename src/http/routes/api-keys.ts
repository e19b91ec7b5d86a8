import { createRoute } from "@hono/zod-openapi";
import { type ApiKey, type ApiKeyWithSecret, apiKey, apiKeyWithSecret, newApiKey } from "../../api/api-keys.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import { ok } from "../../core/failure.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { newId } from "../../lib/id.ts";
import type { NewApiKey } from "../../tenant/api-keys.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App } from "../context.ts";
import { endKeyLeases, tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { createKey } from "../middleware/keys.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";

const common = { tags: ["API keys"], security: tenantSecurity };

/** A new key, and what the ledger keeps of it. */
export function createApiKey(
  env: Cloudflare.Env,
  tenantId: string,
  name: string,
  grantedScopes: NewApiKey["scopes"],
  expiresAt: number | null,
) {
  const secret = createKey(env.SERVER_KEY, tenantId, crypto.getRandomValues(new Uint8Array(16)));
  const id = newId("key_");
  const key: NewApiKey = {
    id,
    name,
    hash: sha256Hex(secret),
    scopes: [...new Set(grantedScopes)],
    expires_at: expiresAt,
  };
  return { secret, key };
}

export function withSecret(key: ApiKey, secret: string): ApiKeyWithSecret {
  return { ...key, secret };
}

export function apiKeyRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/api_keys",
      summary: "Create an API key",
      middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
      request: { body: jsonBody(newApiKey) },
      responses: { 201: jsonResponse(apiKeyWithSecret, "The key; its secret is shown this once"), ...errorResponses },
    }),
    async (c) => {
      const params = c.req.valid("json");
      const { key, secret } = createApiKey(
        c.env,
        c.var.caller.tenant,
        params.name,
        params.scopes,
        params.expires_at ?? null,
      );
      const result = await getLedger(c.env.TENANT, c.var.caller.tenant).createApiKey(c.var.idempotencyClaim, key);
      return result.ok ? respond(c, ok(withSecret(result.value, secret)), 201) : respondError(c, result.failure);
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/api_keys",
      summary: "List API keys",
      middleware: [tenantAuth("manage")] as const,
      request: { query: pageQuery },
      responses: { 200: jsonResponse(listOf(apiKey), "Keys, newest first"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).listApiKeys(c.req.valid("query"))),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/api_keys/{id}",
      summary: "Revoke an API key",
      middleware: [tenantAuth("manage")] as const,
      request: { params: idParams },
      responses: {
        200: jsonResponse(deletedObject("api_key"), "The key is refused everywhere within 30 seconds"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const revoked = await getLedger(c.env.TENANT, c.var.caller.tenant).revokeApiKey(id);
      if (!revoked.ok) return respondError(c, revoked.failure);
      endKeyLeases(c.var.caller.tenant, id);
      return respond(c, ok({ id, object: "api_key", deleted: true }));
    },
  );
}
