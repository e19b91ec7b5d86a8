/** Webhook endpoints: where a tenant's systems are told of events (docs/webhooks.md). */

import { randomBytes } from "node:crypto";
import { createRoute, z } from "@hono/zod-openapi";
import {
  deletedObject,
  errorResponses,
  jsonBody,
  jsonResponse,
  listOf,
  pageQuery,
  tenantSecurity,
  unixSeconds,
} from "../../api/schema.ts";
import { ok } from "../../core/failure.ts";
import { eventTypes } from "../../core/lifecycle/event.ts";
import { newId } from "../../lib/id.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { checkWebhookUrl, parseOrigins } from "../../webhooks/url.ts";
import { type App, addRoute } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { delivery } from "./webhook-deliveries.ts";

const events = z
  .array(z.enum([...eventTypes, "*"]))
  .min(1, "name at least one type of event, or '*' for all")
  .max(eventTypes.length + 1)
  .transform((types) => [...new Set(types)]);
const url = z.string().min(1).max(2_048).openapi({ example: "https://example.com/webhooks" });
const description = z.string().max(500).nullable();

const newEndpoint = z.strictObject({ url, events, description: description.optional() }).openapi("NewWebhookEndpoint");
const endpointChange = z
  .strictObject({
    enabled: z.boolean().optional(),
    events: events.optional(),
    url: url.optional(),
    description: description.optional(),
  })
  .openapi("WebhookEndpointChange");

const endpoint = z
  .object({
    object: z.literal("webhook_endpoint"),
    id: z.string(),
    url: z.string(),
    events: z.array(z.enum([...eventTypes, "*"])),
    description: z.string().nullable(),
    enabled: z.boolean(),
    disabled_reason: z.enum(["request", "gone", "failing"]).nullable(),
    failing_since: unixSeconds.nullable(),
    created_at: unixSeconds,
  })
  .openapi("WebhookEndpoint");
const secret = z
  .string()
  .optional()
  .openapi({ description: "signs what is sent: left out where an answer is replayed" });
const endpointWithSecret = endpoint.extend({ secret }).openapi("WebhookEndpointWithSecret");
const redelivery = z
  .object({
    object: z.literal("webhook_endpoint.redelivery"),
    id: z.string(),
    deliveries: z.number().int(),
    has_more: z.boolean(),
  })
  .openapi("WebhookRedelivery");

const common = { tags: ["Webhooks"], security: tenantSecurity };
const params = z.object({ id: z.string().min(1).max(100) });
const path = "/v1/webhook_endpoints";

function generateSecret(): string {
  return `whsec_${randomBytes(32).toString("base64")}`;
}

function checkEndpointUrl(env: Cloudflare.Env, endpointUrl: string) {
  return checkWebhookUrl(endpointUrl, parseOrigins(env.WEBHOOK_ORIGINS) ?? new Set());
}

export function endpointRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path,
      summary: "Create a webhook endpoint",
      middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
      request: { body: jsonBody(newEndpoint) },
      responses: {
        201: jsonResponse(endpointWithSecret, "The endpoint; its secret is shown this once"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const { description = null, ...endpointParams } = c.req.valid("json");
      const allowed = checkEndpointUrl(c.env, endpointParams.url);
      if (!allowed.ok) return respondError(c, allowed.failure);
      const secret = generateSecret();
      const id = newId("we_");
      const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
      const result = await tenantLedger.createWebhookEndpoint(c.var.idempotencyClaim, {
        id,
        ...endpointParams,
        description,
        secret,
      });
      return result.ok ? respond(c, ok({ ...result.value, secret }), 201) : respondError(c, result.failure);
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path,
      summary: "List webhook endpoints",
      middleware: [tenantAuth("manage")] as const,
      request: { query: pageQuery },
      responses: { 200: jsonResponse(listOf(endpoint), "Endpoints, newest first"), ...errorResponses },
    }),
    async (c) =>
      respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).listWebhookEndpoints(c.req.valid("query"))),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: `${path}/{id}`,
      summary: "Get a webhook endpoint",
      middleware: [tenantAuth("manage")] as const,
      request: { params },
      responses: { 200: jsonResponse(endpoint, "The endpoint"), ...errorResponses },
    }),
    async (c) =>
      respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getWebhookEndpoint(c.req.valid("param").id)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "patch",
      path: `${path}/{id}`,
      summary: "Change a webhook endpoint; enabling it, or another URL, begins anew",
      middleware: [tenantAuth("manage")] as const,
      request: { params, body: jsonBody(endpointChange) },
      responses: { 200: jsonResponse(endpoint, "The endpoint as it is now"), ...errorResponses },
    }),
    async (c) => {
      const change = c.req.valid("json");
      const allowed = change.url === undefined ? null : checkEndpointUrl(c.env, change.url);
      if (allowed?.ok === false) return respondError(c, allowed.failure);
      const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
      return respond(c, await tenantLedger.updateWebhookEndpoint(c.req.valid("param").id, change));
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: `${path}/{id}`,
      summary: "Delete a webhook endpoint and its deliveries",
      middleware: [tenantAuth("manage")] as const,
      request: { params },
      responses: {
        200: jsonResponse(deletedObject("webhook_endpoint"), "Nothing is sent to it any more"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const result = await getLedger(c.env.TENANT, c.var.caller.tenant).deleteWebhookEndpoint(id);
      return result.ok
        ? respond(c, ok({ id, object: "webhook_endpoint", deleted: true }))
        : respondError(c, result.failure);
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: `${path}/{id}/rotate_secret`,
      summary: "Make a new secret; the one before signs as well for 24 hours",
      middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
      request: { params },
      responses: {
        200: jsonResponse(endpointWithSecret, "The endpoint; its new secret is shown this once"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const secret = generateSecret();
      const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
      const result = await tenantLedger.rotateWebhookSecret(c.var.idempotencyClaim, c.req.valid("param").id, secret);
      return result.ok ? respond(c, ok({ ...result.value, secret })) : respondError(c, result.failure);
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: `${path}/{id}/test`,
      summary: "Send the event webhook.test to this endpoint alone",
      middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
      request: { params },
      responses: { 200: jsonResponse(delivery, "Its delivery, which is attempted next"), ...errorResponses },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      return respond(
        c,
        await getLedger(c.env.TENANT, c.var.caller.tenant).testWebhookEndpoint(c.var.idempotencyClaim, id),
      );
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: `${path}/{id}/redeliver`,
      summary: "Send again what has failed, of the events since a time",
      middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
      request: { params, body: jsonBody(z.strictObject({ since: unixSeconds.min(0) })) },
      responses: {
        200: jsonResponse(redelivery, "How many are sent again; has_more says that some are left"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const { since } = c.req.valid("json");
      return respond(
        c,
        await getLedger(c.env.TENANT, c.var.caller.tenant).redeliverFailed(c.var.idempotencyClaim, id, since),
      );
    },
  );
}
