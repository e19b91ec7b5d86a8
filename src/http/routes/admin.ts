import { createRoute, z } from "@hono/zod-openapi";
import { ok } from "../../core/failure.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { scopes } from "../../tenant/api-keys.ts";
import { directory } from "../../tenant/directory.ts";
import { ledger } from "../../tenant/tenant.ts";
import { apiKeyWithSecret, newApiKeyBody, newKey, withSecret } from "./api-keys.ts";
import { endLeases, operatorKey } from "../middleware/auth.ts";
import { type App, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { idempotent } from "../middleware/idempotency.ts";
import { TENANT_ID } from "../middleware/keys.ts";
import { body, errors, json, listOf, operatorSecurity, pageQuery, unixSeconds } from "../../api/schema.ts";

const tenantId = z.string().regex(TENANT_ID, "a tenant id has 2 to 40 of a-z 0-9 - and does not begin with -");
const tenant = z
  .object({
    object: z.literal("tenant"),
    id: z.string(),
    name: z.string().nullable(),
    status: z.enum(["active", "deleting", "deleted"]),
    created_at: unixSeconds,
  })
  .openapi("Tenant");
const created = tenant.extend({ key: apiKeyWithSecret });
const tenantParams = z.object({ id: tenantId });
const common = { tags: ["Operator"], security: operatorSecurity };

export function adminRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/admin/tenants",
      summary: "Create a tenant with its first API key",
      middleware: [operatorKey, idempotent("operator")] as const,
      request: { body: body(z.strictObject({ id: tenantId.optional(), name: z.string().min(1).max(200).optional() })) },
      responses: { 201: json(created, "The tenant; the key's secret is shown this once"), ...errors },
    }),
    async (c) => {
      const wanted = c.req.valid("json");
      // From the idempotency key, so that a creation which was cut off is continued, not begun under another id.
      const unique = c.req.header("idempotency-key") ?? crypto.randomUUID();
      const id = wanted.id ?? `t-${sha256Hex(unique).slice(0, 16)}`;
      const { key, secret } = newKey(c.env, id, "first key", scopes, null);
      const made = await directory(c.env.DIRECTORY).create(id, wanted.name ?? null, key, c.var.claim);
      if (!made.ok) return failed(c, made.failure);
      return answer(c, ok({ ...made.value.tenant, key: withSecret(made.value.key, secret) }), 201);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/admin/tenants",
      summary: "List tenants",
      middleware: [operatorKey] as const,
      request: { query: pageQuery },
      responses: { 200: json(listOf(tenant), "Tenants, newest first"), ...errors },
    }),
    async (c) => answer(c, await directory(c.env.DIRECTORY).list(c.req.valid("query"))),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/admin/tenants/{id}",
      summary: "Get a tenant",
      middleware: [operatorKey] as const,
      request: { params: tenantParams },
      responses: { 200: json(tenant, "The tenant"), ...errors },
    }),
    async (c) => answer(c, await directory(c.env.DIRECTORY).get(c.req.valid("param").id)),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/admin/tenants/{id}",
      summary: "Delete a tenant with everything it has",
      middleware: [operatorKey] as const,
      request: { params: tenantParams },
      responses: { 202: json(tenant, "The tenant, its deletion begun"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const result = await directory(c.env.DIRECTORY).delete(id);
      endLeases(id);
      return answer(c, result, 202);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/admin/tenants/{id}/api_keys",
      summary: "Create an API key for a tenant",
      middleware: [operatorKey, idempotent("operator")] as const,
      request: { params: tenantParams, body: body(newApiKeyBody) },
      responses: { 201: json(apiKeyWithSecret, "The key; its secret is shown this once"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const wanted = c.req.valid("json");
      const { key, secret } = newKey(c.env, id, wanted.name, wanted.scopes, wanted.expires_at ?? null);
      const made = await ledger(c.env.TENANT, id).createApiKey(c.var.claim, key);
      return made.ok ? answer(c, ok(withSecret(made.value, secret)), 201) : failed(c, made.failure);
    },
  );
}
