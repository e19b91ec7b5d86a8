/** Deliveries: the status and the attempts of each event at each webhook endpoint. */
import { createRoute } from "@hono/zod-openapi";
import { listOf } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import { webhookDelivery, webhookDeliveryQuery, webhookDeliveryWithAttempts } from "../../api/webhooks.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonResponse, tenantSecurity } from "../route.ts";

const common = { tags: ["Webhooks"], security: tenantSecurity };

const listDeliveriesRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/webhook_deliveries",
  operationId: "listWebhookDeliveries",
  summary: "List webhook deliveries of the last 30 days",
  description: "What became of each event at each endpoint.",
  middleware: [tenantAuth("manage")] as const,
  request: { query: webhookDeliveryQuery },
  responses: { 200: jsonResponse(listOf(webhookDelivery), "Deliveries, newest first"), ...errorResponses },
});

const getDeliveryRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/webhook_deliveries/{id}",
  operationId: "getWebhookDelivery",
  summary: "Get a webhook delivery with its attempts",
  description: "Every attempt with its time, status and the beginning of the answer.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: idParams },
  responses: { 200: jsonResponse(webhookDeliveryWithAttempts, "The delivery"), ...errorResponses },
});

const redeliverRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/webhook_deliveries/{id}/redeliver",
  operationId: "redeliverWebhookDelivery",
  summary: "Send an event again, under the same id, whatever has become of it",
  description: "A receiver that has taken the event before knows it by its id.",
  middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
  request: { params: idParams },
  responses: { 200: jsonResponse(webhookDelivery, "The delivery, which is attempted next"), ...errorResponses },
});

export function webhookDeliveryRoutes(app: App): void {
  addRoute(app, listDeliveriesRoute, async (c) =>
    respond(c, await c.var.ledger().listWebhookDeliveries(c.req.valid("query"))),
  );
  addRoute(app, getDeliveryRoute, async (c) =>
    respond(c, await c.var.ledger().getWebhookDelivery(c.req.valid("param").id)),
  );
  addRoute(app, redeliverRoute, async (c) =>
    respond(c, await c.var.ledger().redeliver(c.var.idempotencyClaim, c.req.valid("param").id)),
  );
}
