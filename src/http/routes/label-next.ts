import { createRoute } from "@hono/zod-openapi";
import { inputsToLabel, labelNextRequest } from "../../api/label-next.ts";
import { nameParams } from "../../api/schema.ts";
import { labelNext } from "../../training/label-next.ts";
import { type App, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";

const labelNextRoute = createRoute({
  tags: ["Heads"],
  security: tenantSecurity,
  method: "post",
  path: "/v1/heads/{name}/label_next",
  operationId: "labelNext",
  summary: "Choose which inputs to label next",
  description:
    "Of a pool of inputs without labels, answers those that stand for most of what the active version is uncertain of, with the reason for each. Stores nothing.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams, body: jsonBody(labelNextRequest) },
  responses: { 200: jsonResponse(inputsToLabel, "The inputs, the most useful first"), ...errorResponses },
});

export function labelNextRoutes(app: App): void {
  addRoute(app, labelNextRoute, async (c) => {
    const { inputs, count } = c.req.valid("json");
    c.set("logFields", { inputs: inputs.length });
    return respond(c, await labelNext(tenantRequest(c), c.req.valid("param").name, inputs, count));
  });
}
