/** Tenants, for the operator alone. */
import { createRoute } from "@hono/zod-openapi";
import { apiKeyWithSecret, newApiKey, scopes } from "../../api/api-keys.ts";
import { listOf, pageQuery } from "../../api/lists.ts";
import { newTenant, tenant, tenantChange, tenantParams, tenantWithKey } from "../../api/tenants.ts";
import { ok } from "../../core/failure.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { getDirectory } from "../../tenant/directory.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App } from "../context.ts";
import { endKeyLeases, operatorAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, operatorSecurity, type RouteContext } from "../route.ts";
import { generateApiKey } from "./api-keys.ts";

const common = { tags: ["Operator"], security: operatorSecurity };

const createTenantRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/admin/tenants",
  operationId: "createTenant",
  summary: "Create a tenant with its first API key",
  description: "A customer with a ledger of its own. The key has all scopes, and its secret is shown this once.",
  middleware: [operatorAuth, idempotency("operator")] as const,
  request: { body: jsonBody(newTenant) },
  responses: {
    201: jsonResponse(tenantWithKey, "The tenant; the key's secret is shown this once"),
    ...errorResponses,
  },
});

const listTenantsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/admin/tenants",
  operationId: "listTenants",
  summary: "List tenants",
  description: "Tenants with their status, those that are being deleted included.",
  middleware: [operatorAuth] as const,
  request: { query: pageQuery },
  responses: { 200: jsonResponse(listOf(tenant), "Tenants, newest first"), ...errorResponses },
});

const getTenantRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/admin/tenants/{id}",
  operationId: "getTenant",
  summary: "Get a tenant",
  description: "The tenant's name and status. A deleted tenant's id stays taken.",
  middleware: [operatorAuth] as const,
  request: { params: tenantParams },
  responses: { 200: jsonResponse(tenant, "The tenant"), ...errorResponses },
});

const updateTenantRoute = createRoute({
  ...common,
  method: "patch",
  path: "/v1/admin/tenants/{id}",
  operationId: "updateTenant",
  summary: "Rename, suspend or activate a tenant",
  description:
    "Changes the name or the status. A suspended tenant's keys are refused within 30 seconds; nothing is deleted.",
  middleware: [operatorAuth] as const,
  request: { params: tenantParams, body: jsonBody(tenantChange) },
  responses: {
    200: jsonResponse(tenant, "The tenant; a suspension is effective within 30 seconds"),
    ...errorResponses,
  },
});

const deleteTenantRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/admin/tenants/{id}",
  operationId: "deleteTenant",
  summary: "Delete a tenant with everything it has",
  description: "Deletes all bytes, rows and published copies of the tenant. The id stays taken.",
  middleware: [operatorAuth] as const,
  request: { params: tenantParams },
  responses: { 202: jsonResponse(tenant, "The tenant, its deletion begun"), ...errorResponses },
});

const createTenantKeyRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/admin/tenants/{id}/api_keys",
  operationId: "createTenantApiKey",
  summary: "Create an API key for a tenant",
  description: "For a tenant that has lost its keys, or that the operator sets up.",
  middleware: [operatorAuth, idempotency("operator")] as const,
  request: { params: tenantParams, body: jsonBody(newApiKey) },
  responses: { 201: jsonResponse(apiKeyWithSecret, "The key; its secret is shown this once"), ...errorResponses },
});

export function tenantRoutes(app: App): void {
  addRoute(app, createTenantRoute, createTenant);
  addRoute(app, listTenantsRoute, async (c) =>
    respond(c, await getDirectory(c.env.DIRECTORY).list(c.req.valid("query"))),
  );
  addRoute(app, getTenantRoute, async (c) =>
    respond(c, await getDirectory(c.env.DIRECTORY).get(c.req.valid("param").id)),
  );
  addRoute(app, updateTenantRoute, updateTenant);
  addRoute(app, deleteTenantRoute, deleteTenant);
  addRoute(app, createTenantKeyRoute, createTenantKey);
}

async function createTenant(c: RouteContext<typeof createTenantRoute>): Promise<Response> {
  const params = c.req.valid("json");
  // Derived from the idempotency key, so that a retry continues an interrupted creation under the same id.
  const idSource = c.req.header("idempotency-key") ?? crypto.randomUUID();
  const id = params.id ?? `t-${sha256Hex(idSource).slice(0, 16)}`;
  const { key, secret } = generateApiKey(c.env.SERVER_KEY, id, { name: "first key", scopes });
  const result = await getDirectory(c.env.DIRECTORY).create(id, params.name ?? null, key, c.var.idempotencyClaim);
  if (!result.ok) return respondError(c, result.failure);
  return respond(c, ok({ ...result.value.tenant, key: { ...result.value.key, secret } }), 201);
}

async function updateTenant(c: RouteContext<typeof updateTenantRoute>): Promise<Response> {
  const { id } = c.req.valid("param");
  const result = await getDirectory(c.env.DIRECTORY).update(id, c.req.valid("json"));
  endKeyLeases(id);
  return respond(c, result);
}

async function deleteTenant(c: RouteContext<typeof deleteTenantRoute>): Promise<Response> {
  const { id } = c.req.valid("param");
  const result = await getDirectory(c.env.DIRECTORY).delete(id);
  endKeyLeases(id);
  return respond(c, result, 202);
}

async function createTenantKey(c: RouteContext<typeof createTenantKeyRoute>): Promise<Response> {
  const { id } = c.req.valid("param");
  const { key, secret } = generateApiKey(c.env.SERVER_KEY, id, c.req.valid("json"));
  const result = await getLedger(c.env.TENANT, id).createApiKey(c.var.idempotencyClaim, key);
  return result.ok ? respond(c, ok({ ...result.value, secret }), 201) : respondError(c, result.failure);
}
