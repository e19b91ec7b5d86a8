/** Which versions of a head answer, which shadow them, and how they do. */
import { createRoute } from "@hono/zod-openapi";
import { nameParams } from "../../api/schema.ts";
import { headTraffic, newHeadTraffic, trafficReport } from "../../api/traffic.ts";
import { endHeadLeases } from "../../serving/active-heads.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Heads"], security: tenantSecurity };
const path = "/v1/heads/{name}/traffic";

const getTrafficRoute = createRoute({
  ...common,
  method: "get",
  path,
  operationId: "getHeadTraffic",
  summary: "Get which versions of a head answer, and which shadow them",
  description: "The shares of the versions that answer; without any set, the active one answers all.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: nameParams },
  responses: { 200: jsonResponse(headTraffic, "The head's traffic"), ...errorResponses },
});

const setTrafficRoute = createRoute({
  ...common,
  method: "put",
  path,
  operationId: "setHeadTraffic",
  summary: "Set which versions of a head answer, and which shadow them",
  description:
    "Inputs go to versions by a hash of the input, so the same text gets the same version. Shadow versions predict after the answer, and are counted and not shown. Effective everywhere within 30 seconds.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: nameParams, body: jsonBody(newHeadTraffic) },
  responses: { 200: jsonResponse(headTraffic, "The head's traffic"), ...errorResponses },
});

const trafficReportRoute = createRoute({
  ...common,
  method: "get",
  path: `${path}/report`,
  operationId: "getHeadTrafficReport",
  summary: "Compare a head's versions on live inputs",
  description:
    "What was counted of each version's predictions in 30 days: confidence, labels, agreement of shadow versions, accuracy on feedback, and whether the inputs are unlike those held out at its training.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: nameParams },
  responses: { 200: jsonResponse(trafficReport, "The report; counts are at most 30 seconds old"), ...errorResponses },
});

export function trafficRoutes(app: App): void {
  addRoute(app, getTrafficRoute, async (c) => respond(c, await c.var.ledger().getTraffic(c.req.valid("param").name)));
  addRoute(app, setTrafficRoute, setTraffic);
  addRoute(app, trafficReportRoute, async (c) =>
    respond(c, await c.var.ledger().getTrafficReport(c.req.valid("param").name)),
  );
}

async function setTraffic(c: RouteContext<typeof setTrafficRoute>): Promise<Response> {
  const { name } = c.req.valid("param");
  const result = await c.var.ledger().setTraffic(name, c.req.valid("json"));
  endHeadLeases(c.var.caller.tenant, name);
  return respond(c, result);
}
