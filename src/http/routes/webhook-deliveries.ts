/** Deliveries: what has become of each event at each webhook endpoint. */
import { createRoute, z } from "@hono/zod-openapi";
import { eventTypes } from "../../core/lifecycle/event.ts";
import { ledger } from "../../tenant/tenant.ts";
import { tenantKey } from "../middleware/auth.ts";
import { type App, route } from "../context.ts";
import { answer } from "../middleware/errors.ts";
import { idempotent } from "../middleware/idempotency.ts";
import { errors, json, listOf, pageQuery, tenantSecurity, unixSeconds } from "../../api/schema.ts";

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
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/webhook_deliveries",
      summary: "List webhook deliveries of the last 30 days",
      middleware: [tenantKey("manage")] as const,
      request: { query },
      responses: { 200: json(listOf(delivery), "Deliveries, newest first"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).listWebhookDeliveries(c.req.valid("query"))),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/webhook_deliveries/{id}",
      summary: "Get a webhook delivery with its attempts",
      middleware: [tenantKey("manage")] as const,
      request: { params },
      responses: { 200: json(deliveryWithAttempts, "The delivery"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).getWebhookDelivery(c.req.valid("param").id)),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/webhook_deliveries/{id}/redeliver",
      summary: "Send an event again, under the same id, whatever has become of it",
      middleware: [tenantKey("manage"), idempotent("tenant")] as const,
      request: { params },
      responses: { 200: json(delivery, "The delivery, which is attempted next"), ...errors },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      return answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).redeliver(c.var.claim, id));
    },
  );
}
