/** Recommendations: what a dataset needs, a head, fine-tuning, more data or better labels. */
import { createRoute } from "@hono/zod-openapi";
import { listOf } from "../../api/lists.ts";
import { newRecommendation, recommendation, recommendationQuery } from "../../api/recommendations.ts";
import { idParams } from "../../api/schema.ts";
import { recommend } from "../../training/recommendations.ts";
import { type App, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Recommendations"], security: tenantSecurity };

const createRecommendationRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/recommendations",
  operationId: "createRecommendation",
  summary: "Recommend a method for a dataset",
  description:
    "Trains and measures a head on a sample of the dataset, expects from it what both methods would reach and cost, and recommends one, or more data, or better labels.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { body: jsonBody(newRecommendation) },
  responses: {
    201: jsonResponse(recommendation, "The recommendation, on the dataset's present revision"),
    202: jsonResponse(recommendation, "With 'measure': a job measures both methods. The status says when it has"),
    ...errorResponses,
  },
});

const listRecommendationsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/recommendations",
  operationId: "listRecommendations",
  summary: "List recommendations",
  description: "Of all datasets, or of one.",
  middleware: [tenantAuth("train")] as const,
  request: { query: recommendationQuery },
  responses: { 200: jsonResponse(listOf(recommendation), "Recommendations, newest first"), ...errorResponses },
});

const getRecommendationRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/recommendations/{id}",
  operationId: "getRecommendation",
  summary: "Get a recommendation",
  description: "As it was made; with 'measure', what has been measured since.",
  middleware: [tenantAuth("train")] as const,
  request: { params: idParams },
  responses: { 200: jsonResponse(recommendation, "The recommendation"), ...errorResponses },
});

export function recommendationRoutes(app: App): void {
  addRoute(app, createRecommendationRoute, async (c) => {
    const response = createRecommendation(c);
    // A client may disconnect: the measurement then has 30 seconds more to end, and to release its slot.
    c.executionCtx.waitUntil(response);
    return response;
  });
  addRoute(app, listRecommendationsRoute, async (c) =>
    respond(c, await c.var.ledger().listRecommendations(c.req.valid("query"))),
  );
  addRoute(app, getRecommendationRoute, async (c) =>
    respond(c, await c.var.ledger().getRecommendation(c.req.valid("param").id)),
  );
}

async function createRecommendation(c: RouteContext<typeof createRecommendationRoute>): Promise<Response> {
  const made = await recommend(tenantRequest(c), c.req.valid("json"));
  if (!made.ok) return respondError(c, made.failure);
  const { dataset, record, measurement } = made.value;
  const { idempotencyClaim } = c.var;
  const ledger = c.var.ledger();
  return measurement === null
    ? respond(c, await ledger.addRecommendation(idempotencyClaim, dataset, record), 201)
    : respond(c, await ledger.addMeasuredRecommendation(idempotencyClaim, dataset, record, measurement), 202);
}
