/** Deliveries: what has become of each event at each webhook endpoint. */
import { createRoute } from "@hono/zod-openapi";
import { listOf } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import { webhookDelivery, webhookDeliveryQuery, webhookDeliveryWithAttempts } from "../../api/webhooks.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonResponse, tenantSecurity } from "../route.ts";

const common = { tags: ["Webhooks"], security: tenantSecurity };
export function deliveryRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/webhook_deliveries",
      summary: "List webhook deliveries of the last 30 days",
      middleware: [tenantAuth("manage")] as const,
      request: { query: webhookDeliveryQuery },
      responses: { 200: jsonResponse(listOf(webhookDelivery), "Deliveries, newest first"), ...errorResponses },
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
      request: { params: idParams },
      responses: { 200: jsonResponse(webhookDeliveryWithAttempts, "The delivery"), ...errorResponses },
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
      request: { params: idParams },
      responses: { 200: jsonResponse(webhookDelivery, "The delivery, which is attempted next"), ...errorResponses },
    }),
    async (c) => {
      const { id } = c.req.valid("param");
      return respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).redeliver(c.var.idempotencyClaim, id));
    },
  );
}
