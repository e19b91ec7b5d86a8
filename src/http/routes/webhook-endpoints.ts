/** Webhook endpoints: where a tenant's systems are told of events (docs/webhooks.md). */

import { randomBytes } from "node:crypto";
import { createRoute, z } from "@hono/zod-openapi";
import { eventTypes } from "../../core/lifecycle/event.ts";
import { ok } from "../../core/failure.ts";
import { newId } from "../../lib/id.ts";
import { ledger } from "../../tenant/tenant.ts";
import { checkAddress, parseOrigins } from "../../webhooks/address.ts";
import { tenantKey } from "../middleware/auth.ts";
import { type App, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { idempotent } from "../middleware/idempotency.ts";
import { body, deleted, errors, json, listOf, pageQuery, tenantSecurity, unixSeconds } from "../../api/schema.ts";
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

function makeSecret(): string {
  return `whsec_${randomBytes(32).toString("base64")}`;
}

function address(env: Cloudflare.Env, wanted: string) {
  return checkAddress(wanted, parseOrigins(env.WEBHOOK_ORIGINS) ?? new Set());
}

export function endpointRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path,
      summary: "Create a webhook endpoint",
      middleware: [tenantKey("manage"), idempotent("tenant")] as const,
      request: { body: body(newEndpoint) },
      responses: { 201: json(endpointWithSecret, "The endpoint; its secret is shown this once"), ...errors },
    }),
    async (c) => {
      const { description = null, ...wanted } = c.req.valid("json");
      const allowed = address(c.env, wanted.url);
      if (!allowed.ok) return failed(c, allowed.failure);
      const secret = makeSecret();
      const id = newId("we_");
      const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
      const made = await tenant.createWebhookEndpoint(c.var.claim, { id, ...wanted, description, secret });
      return made.ok ? answer(c, ok({ ...made.value, secret }), 201) : failed(c, made.failure);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path,
      summary: "List webhook endpoints",
      middleware: [tenantKey("manage")] as const,
      request: { query: pageQuery },
      responses: { 200: json(listOf(endpoint), "Endpoints, newest first"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).listWebhookEndpoints(c.req.valid("query"))),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: `${path}/{id}`,
      summary: "Get a webhook endpoint",
      middleware: [tenantKey("manage")] as const,
      request: { params },
      responses: { 200: json(endpoint, "The endpoint"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).getWebhookEndpoint(c.req.valid("param").id)),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "patch",
      path: `${path}/{id}`,
      summary: "Change a webhook endpoint; enabling it, or another URL, begins anew",
      middleware: [tenantKey("manage")] as const,
      request: { params, body: body(endpointChange) },
      responses: { 200: json(endpoint, "The endpoint as it is now"), ...errors },
    }),
    async (c) => {
      const wanted = c.req.valid("json");
      const allowed = wanted.url === undefined ? null : address(c.env, wanted.url);
      if (allowed?.ok === false) return failed(c, allowed.failure);
      const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
      return answer(c, await tenant.changeWebhookEndpoint(c.req.valid("param").id, wanted));
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: `${path}/{id}`,
      summary: "Delete a webhook endpoint and its deliveries",
      middleware: [tenantKey("manage")] as const,
      request: { params },
      responses: { 200: json(deleted("webhook_endpoint"), "Nothing is sent to it any more"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const gone = await ledger(c.env.TENANT, c.var.caller.tenant).deleteWebhookEndpoint(id);
      return gone.ok ? answer(c, ok({ id, object: "webhook_endpoint", deleted: true })) : failed(c, gone.failure);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: `${path}/{id}/rotate_secret`,
      summary: "Make a new secret; the one before signs as well for 24 hours",
      middleware: [tenantKey("manage"), idempotent("tenant")] as const,
      request: { params },
      responses: { 200: json(endpointWithSecret, "The endpoint; its new secret is shown this once"), ...errors },
    }),
    async (c) => {
      const secret = makeSecret();
      const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
      const made = await tenant.rotateWebhookSecret(c.var.claim, c.req.valid("param").id, secret);
      return made.ok ? answer(c, ok({ ...made.value, secret })) : failed(c, made.failure);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: `${path}/{id}/test`,
      summary: "Send the event webhook.test to this endpoint alone",
      middleware: [tenantKey("manage"), idempotent("tenant")] as const,
      request: { params },
      responses: { 200: json(delivery, "Its delivery, which is attempted next"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      return answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).testWebhookEndpoint(c.var.claim, id));
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: `${path}/{id}/redeliver`,
      summary: "Send again what has failed, of the events since a time",
      middleware: [tenantKey("manage"), idempotent("tenant")] as const,
      request: { params, body: body(z.strictObject({ since: unixSeconds.min(0) })) },
      responses: { 200: json(redelivery, "How many are sent again; has_more says that some are left"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      const { since } = c.req.valid("json");
      return answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).redeliverFailed(c.var.claim, id, since));
    },
  );
}
