/** Webhook endpoints: URLs to which a tenant's events are sent (docs/webhooks.md). */
import { randomBytes } from "node:crypto";
import { createRoute } from "@hono/zod-openapi";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import {
  newWebhookEndpoint,
  redeliverRequest,
  webhookDelivery,
  webhookEndpoint,
  webhookEndpointChange,
  webhookEndpointWithSecret,
  webhookRedelivery,
} from "../../api/webhooks.ts";
import { ok } from "../../core/failure.ts";
import { newId } from "../../lib/id.ts";
import { checkWebhookUrl, parseOrigins } from "../../webhooks/url.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Webhooks"], security: tenantSecurity };
const path = "/v1/webhook_endpoints";

const createEndpointRoute = createRoute({
  ...common,
  method: "post",
  path,
  operationId: "createWebhookEndpoint",
  summary: "Create a webhook endpoint",
  description: "A URL to which events of the given types are sent, signed as Standard Webhooks 1.0 say.",
  middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
  request: { body: jsonBody(newWebhookEndpoint) },
  responses: {
    201: jsonResponse(webhookEndpointWithSecret, "The endpoint; its secret is shown this once"),
    ...errorResponses,
  },
});

const listEndpointsRoute = createRoute({
  ...common,
  method: "get",
  path,
  operationId: "listWebhookEndpoints",
  summary: "List webhook endpoints",
  description: "Endpoints with their subscriptions and health, without secrets.",
  middleware: [tenantAuth("manage")] as const,
  request: { query: pageQuery },
  responses: { 200: jsonResponse(listOf(webhookEndpoint), "Endpoints, newest first"), ...errorResponses },
});

const getEndpointRoute = createRoute({
  ...common,
  method: "get",
  path: `${path}/{id}`,
  operationId: "getWebhookEndpoint",
  summary: "Get a webhook endpoint",
  description: "The endpoint's subscriptions and health, without its secret.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: idParams },
  responses: { 200: jsonResponse(webhookEndpoint, "The endpoint"), ...errorResponses },
});

const changeEndpointRoute = createRoute({
  ...common,
  method: "patch",
  path: `${path}/{id}`,
  operationId: "updateWebhookEndpoint",
  summary: "Change a webhook endpoint; enabling it, or another URL, begins anew",
  description: "Replaces the fields that are given. Deliveries that wait go to the new URL.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: idParams, body: jsonBody(webhookEndpointChange) },
  responses: { 200: jsonResponse(webhookEndpoint, "The endpoint as it is now"), ...errorResponses },
});

const deleteEndpointRoute = createRoute({
  ...common,
  method: "delete",
  path: `${path}/{id}`,
  operationId: "deleteWebhookEndpoint",
  summary: "Delete a webhook endpoint and its deliveries",
  description: "Nothing more is sent to the URL.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: idParams },
  responses: {
    200: jsonResponse(deletedObject("webhook_endpoint"), "Nothing is sent to it any more"),
    ...errorResponses,
  },
});

const rotateSecretRoute = createRoute({
  ...common,
  method: "post",
  path: `${path}/{id}/rotate_secret`,
  operationId: "rotateWebhookEndpointSecret",
  summary: "Make a new secret; the one before signs as well for 24 hours",
  description: "Both secrets sign for a day, so that the receiver can change over. The new one is shown this once.",
  middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
  request: { params: idParams },
  responses: {
    200: jsonResponse(webhookEndpointWithSecret, "The endpoint; its new secret is shown this once"),
    ...errorResponses,
  },
});

const testEndpointRoute = createRoute({
  ...common,
  method: "post",
  path: `${path}/{id}/test`,
  operationId: "testWebhookEndpoint",
  summary: "Send the event webhook.test to this endpoint alone",
  description: "Shows whether the receiver takes and verifies events.",
  middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
  request: { params: idParams },
  responses: { 200: jsonResponse(webhookDelivery, "Its delivery, which is attempted next"), ...errorResponses },
});

const redeliverRoute = createRoute({
  ...common,
  method: "post",
  path: `${path}/{id}/redeliver`,
  operationId: "redeliverWebhookEndpoint",
  summary: "Send again what has failed, of the events since a time",
  description: "For a receiver that was away: its failed deliveries wait again.",
  middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
  request: { params: idParams, body: jsonBody(redeliverRequest) },
  responses: {
    200: jsonResponse(webhookRedelivery, "How many are sent again; has_more says that some are left"),
    ...errorResponses,
  },
});

export function webhookEndpointRoutes(app: App): void {
  addRoute(app, createEndpointRoute, createEndpoint);
  addRoute(app, listEndpointsRoute, async (c) =>
    respond(c, await c.var.ledger().listWebhookEndpoints(c.req.valid("query"))),
  );
  addRoute(app, getEndpointRoute, async (c) =>
    respond(c, await c.var.ledger().getWebhookEndpoint(c.req.valid("param").id)),
  );
  addRoute(app, changeEndpointRoute, changeEndpoint);
  addRoute(app, deleteEndpointRoute, deleteEndpoint);
  addRoute(app, rotateSecretRoute, rotateSecret);
  addRoute(app, testEndpointRoute, async (c) =>
    respond(c, await c.var.ledger().testWebhookEndpoint(c.var.idempotencyClaim, c.req.valid("param").id)),
  );
  addRoute(app, redeliverRoute, async (c) => {
    const { id } = c.req.valid("param");
    return respond(c, await c.var.ledger().redeliverFailed(c.var.idempotencyClaim, id, c.req.valid("json").since));
  });
}

function generateSecret(): string {
  return `whsec_${randomBytes(32).toString("base64")}`;
}

function checkEndpointUrl(env: Cloudflare.Env, endpointUrl: string) {
  return checkWebhookUrl(endpointUrl, parseOrigins(env.WEBHOOK_ORIGINS) ?? new Set());
}

async function createEndpoint(c: RouteContext<typeof createEndpointRoute>): Promise<Response> {
  const { description = null, ...params } = c.req.valid("json");
  const allowed = checkEndpointUrl(c.env, params.url);
  if (!allowed.ok) return respondError(c, allowed.failure);
  const secret = generateSecret();
  const endpoint = { id: newId("we_"), ...params, description, secret };
  const result = await c.var.ledger().createWebhookEndpoint(c.var.idempotencyClaim, endpoint);
  return result.ok ? respond(c, ok({ ...result.value, secret }), 201) : respondError(c, result.failure);
}

async function changeEndpoint(c: RouteContext<typeof changeEndpointRoute>): Promise<Response> {
  const change = c.req.valid("json");
  const allowed = change.url === undefined ? null : checkEndpointUrl(c.env, change.url);
  if (allowed?.ok === false) return respondError(c, allowed.failure);
  return respond(c, await c.var.ledger().updateWebhookEndpoint(c.req.valid("param").id, change));
}

async function deleteEndpoint(c: RouteContext<typeof deleteEndpointRoute>): Promise<Response> {
  const { id } = c.req.valid("param");
  const result = await c.var.ledger().deleteWebhookEndpoint(id);
  return result.ok
    ? respond(c, ok({ id, object: "webhook_endpoint", deleted: true }))
    : respondError(c, result.failure);
}

async function rotateSecret(c: RouteContext<typeof rotateSecretRoute>): Promise<Response> {
  const secret = generateSecret();
  const result = await c.var.ledger().rotateWebhookSecret(c.var.idempotencyClaim, c.req.valid("param").id, secret);
  return result.ok ? respond(c, ok({ ...result.value, secret })) : respondError(c, result.failure);
}
