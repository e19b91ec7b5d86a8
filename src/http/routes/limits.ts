import { createRoute } from "@hono/zod-openapi";
import { limitList } from "../../api/limits.ts";
import { ok } from "../../core/failure.ts";
import { edgeBudget, limits } from "../../core/limits.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonResponse, tenantSecurity } from "../route.ts";

const listLimitsRoute = createRoute({
  tags: ["Limits"],
  security: tenantSecurity,
  method: "get",
  path: "/v1/limits",
  operationId: "getLimits",
  summary: "Every limit, and what this tenant has used of it",
  description: "The figures beyond which requests are refused, with 'limit' and 'actual' in the error's details.",
  middleware: [tenantAuth(null)] as const,
  responses: { 200: jsonResponse(limitList, "The limits"), ...errorResponses },
});

export function limitRoutes(app: App): void {
  addRoute(app, listLimitsRoute, async (c) => {
    const usage = await c.var.ledger().usage();
    if (!usage.ok) return respondError(c, usage.failure);
    const allLimits = { ...limits, training_bytes: edgeBudget.bytes, training_operations: edgeBudget.operations };
    const entries = Object.entries(allLimits).map(([name, limit]) => [
      name,
      name in usage.value ? { limit, used: usage.value[name] } : { limit },
    ]);
    return respond(c, ok({ object: "limits", id: c.var.caller.tenant, limits: Object.fromEntries(entries) }));
  });
}
