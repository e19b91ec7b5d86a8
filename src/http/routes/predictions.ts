import { createRoute } from "@hono/zod-openapi";
import { predictions, predictRequest } from "../../api/predictions.ts";
import { nameParams } from "../../api/schema.ts";
import { ok } from "../../core/failure.ts";
import { getHeadLease } from "../../serving/active-heads.ts";
import { predictLive } from "../../serving/live-predictions.ts";
import { type App, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const predictRoute = createRoute({
  tags: ["Heads"],
  security: tenantSecurity,
  method: "post",
  path: "/v1/heads/{name}/predict",
  operationId: "predict",
  summary: "Classify inputs by a head",
  description:
    "Embeds the inputs and answers as many predictions, in their order. 'version' pins a version; without it the active one answers, or those that share the head's traffic.",
  middleware: [tenantAuth("predict")] as const,
  request: { params: nameParams, body: jsonBody(predictRequest) },
  responses: { 200: jsonResponse(predictions, "As many predictions as inputs, in their order"), ...errorResponses },
});

export function predictionRoutes(app: App): void {
  addRoute(app, predictRoute, predict);
}

async function predict(c: RouteContext<typeof predictRoute>): Promise<Response> {
  const { input, ...options } = c.req.valid("json");
  const { tenant, scopes } = c.var.caller;
  const lease = await getHeadLease(c.env, tenant, c.req.valid("param").name, options.version ?? null);
  if (!lease.ok) return respondError(c, lease.failure);
  const { id, task } = lease.value.head;
  if (options.coverage !== undefined && task === "multi_label") {
    const message = "'coverage' is for one label or a value, not for any number of labels.";
    return respondError(c, { code: "task_mismatch", message, param: "coverage" });
  }
  if (options.out_of_scope_threshold !== undefined && task !== "single_label") {
    const message = "'out_of_scope_threshold' is for heads of one label alone.";
    return respondError(c, { code: "task_mismatch", message, param: "out_of_scope_threshold" });
  }
  if (options.threshold !== undefined && task !== "multi_label") {
    const message = "'threshold' is for heads of any number of labels alone.";
    return respondError(c, { code: "task_mismatch", message, param: "threshold" });
  }
  const inputs = Array.isArray(input) ? input : [input];
  const paramAt = (index: number) => (Array.isArray(input) ? `input[${index}]` : "input");
  const predicted = await predictLive(tenantRequest(c), lease.value, inputs, paramAt, {
    ...options,
    showsExamples: scopes.includes("train"),
  });
  if (!predicted.ok) return respondError(c, predicted.failure);
  const { version, predictions: data, isCoveragePromised } = predicted.value;
  c.set("logFields", { inputs: inputs.length, version });
  const coverage = options.coverage === undefined ? {} : { coverage_promised: isCoveragePromised };
  return respond(c, ok({ object: "list", model: `${id}@${version}`, ...coverage, data }));
}
