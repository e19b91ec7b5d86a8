import { createRoute } from "@hono/zod-openapi";
import { apiKey, apiKeyWithSecret, type NewApiKey as NewApiKeyParams, newApiKey } from "../../api/api-keys.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import { ok } from "../../core/failure.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { newId } from "../../lib/id.ts";
import type { NewApiKey } from "../../tenant/api-keys.ts";
import type { App } from "../context.ts";
import { endKeyLeases, tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { createKey } from "../middleware/keys.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["API keys"], security: tenantSecurity };

const createApiKeyRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/api_keys",
  operationId: "createApiKey",
  summary: "Create an API key",
  description:
    "Makes a further key of the tenant, with scopes that the calling key has itself. A key with 'origins' is for web pages, and has the scope 'predict' alone.",
  middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
  request: { body: jsonBody(newApiKey) },
  responses: { 201: jsonResponse(apiKeyWithSecret, "The key; its secret is shown this once"), ...errorResponses },
});

const listApiKeysRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/api_keys",
  operationId: "listApiKeys",
  summary: "List API keys",
  description: "Every key that is not revoked, without its secret.",
  middleware: [tenantAuth("manage")] as const,
  request: { query: pageQuery },
  responses: { 200: jsonResponse(listOf(apiKey), "Keys, newest first"), ...errorResponses },
});

const deleteApiKeyRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/api_keys/{id}",
  operationId: "deleteApiKey",
  summary: "Revoke an API key",
  description: "The key is refused everywhere within 30 seconds. Nothing that it made is deleted.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: idParams },
  responses: {
    200: jsonResponse(deletedObject("api_key"), "The key is refused everywhere within 30 seconds"),
    ...errorResponses,
  },
});

export function apiKeyRoutes(app: App): void {
  addRoute(app, createApiKeyRoute, createApiKey);
  addRoute(app, listApiKeysRoute, async (c) => respond(c, await c.var.ledger().listApiKeys(c.req.valid("query"))));
  addRoute(app, deleteApiKeyRoute, deleteApiKey);
}

/** A new key of a tenant: its secret, and what the ledger stores of it. */
export function generateApiKey(
  serverKey: string,
  tenantId: string,
  { name, scopes, expires_at, origins }: NewApiKeyParams,
): { readonly secret: string; readonly key: NewApiKey } {
  const secret = createKey(serverKey, tenantId, crypto.getRandomValues(new Uint8Array(16)));
  const key = {
    id: newId("key_"),
    name,
    hash: sha256Hex(secret),
    scopes: [...new Set(scopes)],
    expires_at: expires_at ?? null,
    origins: origins === undefined ? null : [...new Set(origins)],
  };
  return { secret, key };
}

async function createApiKey(c: RouteContext<typeof createApiKeyRoute>): Promise<Response> {
  const missing = c.req.valid("json").scopes.findIndex((scope) => !c.var.caller.scopes.includes(scope));
  if (missing !== -1) {
    return respondError(c, {
      code: "missing_scope",
      message: "A key can create only keys with scopes that it has itself. Use a key that has them all.",
      param: `scopes[${missing}]`,
    });
  }
  const { key, secret } = generateApiKey(c.env.SERVER_KEY, c.var.caller.tenant, c.req.valid("json"));
  const result = await c.var.ledger().createApiKey(c.var.idempotencyClaim, key);
  return result.ok ? respond(c, ok({ ...result.value, secret }), 201) : respondError(c, result.failure);
}

async function deleteApiKey(c: RouteContext<typeof deleteApiKeyRoute>): Promise<Response> {
  const { id } = c.req.valid("param");
  const revoked = await c.var.ledger().revokeApiKey(id);
  if (!revoked.ok) return respondError(c, revoked.failure);
  endKeyLeases(c.var.caller.tenant, id);
  return respond(c, ok({ id, object: "api_key", deleted: true }));
}
