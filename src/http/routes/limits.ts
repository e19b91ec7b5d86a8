import { createRoute, z } from "@hono/zod-openapi";
import { ok } from "../../core/failure.ts";
import { edgeBudget, limits } from "../../core/limits.ts";
import { ledger } from "../../tenant/tenant.ts";
import { tenantKey } from "../middleware/auth.ts";
import { type App, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { errors, json, tenantSecurity } from "../../api/schema.ts";

const shown = z
  .object({
    object: z.literal("limits"),
    id: z.string(),
    limits: z.record(z.string(), z.object({ limit: z.number(), used: z.number().optional() })),
  })
  .openapi("Limits");

export function limitRoutes(app: App): void {
  route(
    app,
    createRoute({
      tags: ["Limits"],
      security: tenantSecurity,
      method: "get",
      path: "/v1/limits",
      summary: "Every limit, and what this tenant has used of it",
      middleware: [tenantKey(null)] as const,
      responses: { 200: json(shown, "The limits"), ...errors },
    }),
    async (c) => {
      const usage = await ledger(c.env.TENANT, c.var.caller.tenant).usage();
      if (!usage.ok) return failed(c, usage.failure);
      const all = { ...limits, training_bytes: edgeBudget.bytes, training_operations: edgeBudget.operations };
      const entries = Object.entries(all).map(([name, limit]) => [
        name,
        name in usage.value ? { limit, used: usage.value[name] } : { limit },
      ]);
      return answer(c, ok({ object: "limits", id: c.var.caller.tenant, limits: Object.fromEntries(entries) }));
    },
  );
}
