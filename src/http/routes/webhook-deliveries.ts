/** Deliveries: what has become of each event at each webhook endpoint. */
import { createRoute, z } from "@hono/zod-openapi";
import { errorResponses, jsonResponse, listOf, pageQuery, tenantSecurity, unixSeconds } from "../../api/schema.ts";
import { eventTypes } from "../../core/lifecycle/event.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { type App, addRoute } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";

const statuses = ["pending", "succeeded", "failed"] as const;

export const delivery = z
  .object({
    object: z.literal("webhook_delivery"),
    id: z.string(),
    endpoint: z.string(),
    event: z.object({ id: z.string(), type: z.enum(eventTypes), sequence: z.number().int() }),
    status: z.enum(statuses),
    attempt_count: z.number().int(),
    next_attempt_at: unixSeconds.nullable(),
    created_at: unixSeconds,
  })
  .openapi("WebhookDelivery");
const attempt = z.object({
  number: z.number().int(),
  created_at: unixSeconds,
  milliseconds: z.number().int().nullable(),
  status: z.number().int().nullable().openapi({ description: "the HTTP status; null where none came" }),
  answer: z.string().nullable().openapi({ description: "the first KiB" }),
  error: z.string().nullable().openapi({ description: "what went wrong where there is no whole answer" }),
});
const deliveryWithAttempts = delivery
  .extend({ attempts: z.array(attempt).openapi({ description: "oldest first; the newest 50 are kept" }) })
  .openapi("WebhookDeliveryWithAttempts");

const common = { tags: ["Webhooks"], security: tenantSecurity };
const params = z.object({ id: z.string().min(1).max(100) });
const query = pageQuery.extend({
  endpoint: z.string().min(1).max(100).optional(),
  status: z.enum(statuses).optional(),
});

export function deliveryRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/webhook_deliveries",
      summary: "List webhook deliveries of the last 30 days",
      middleware: [tenantAuth("manage")] as const,
      request: { query },
      responses: { 200: jsonResponse(listOf(delivery), "Deliveries, newest first"), ...errorResponses },
    }),
    async (c) =>
      respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).listWebhookDeliveries(c.req.valid("query"))),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/webhook_deliveries/{id}",
      summary: "Get a webhook delivery with its attempts",
      middleware: [tenantAuth("manage")] as const,
      request: { params },
      responses: { 200: jsonResponse(deliveryWithAttempts, "The delivery"), ...errorResponses },
    }),
    async (c) =>
      respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getWebhookDelivery(c.req.valid("param").id)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/webhook_deliveries/{id}/redeliver",
      summary: "Send an event again, under the same id, whatever has become of it",
      middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
      request: { params },
      responses: { 200: jsonResponse(delivery, "The delivery, which is attempted next"), ...errorResponses },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      return respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).redeliver(c.var.idempotencyClaim, id));
    },
  );
}
