/** Test sets: how versions of heads do on a dataset of the caller's. */
import { createRoute } from "@hono/zod-openapi";
import {
  evaluationError,
  evaluationErrorQuery,
  evaluationRun,
  evaluationRunQuery,
  newEvaluationRun,
} from "../../api/evaluations.ts";
import { listOf } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import { evaluateVersion } from "../../training/evaluations.ts";
import { type App, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Evaluations"], security: tenantSecurity };

const createRunRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/evaluations",
  operationId: "createEvaluation",
  summary: "Test a version of a head on a dataset",
  description:
    "Predicts each example of a dataset by a version of a head, as the version serves, and stores the figures. With 'compare_with' another version predicts the same examples, and the two are compared.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { body: jsonBody(newEvaluationRun) },
  responses: {
    201: jsonResponse(evaluationRun, "The figures, on the dataset's present revision"),
    ...errorResponses,
  },
});

const listRunsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/evaluations",
  operationId: "listEvaluations",
  summary: "List tests of versions on datasets",
  description: "Of all heads, or of one head or dataset; without figures per class.",
  middleware: [tenantAuth("train")] as const,
  request: { query: evaluationRunQuery },
  responses: { 200: jsonResponse(listOf(evaluationRun), "Evaluations, newest first"), ...errorResponses },
});

const getRunRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/evaluations/{id}",
  operationId: "getEvaluation",
  summary: "Get a test of a version on a dataset",
  description: "The figures of one version, and its comparison with another.",
  middleware: [tenantAuth("train")] as const,
  request: { params: idParams },
  responses: { 200: jsonResponse(evaluationRun, "The figures"), ...errorResponses },
});

const listErrorsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/evaluations/{id}/errors",
  operationId: "listEvaluationErrors",
  summary: "List the examples that a version predicts wrong",
  description:
    "Each example as the test had it, with the prediction. 'type' lists what was fixed or broken instead. Examples that were deleted since are left out.",
  middleware: [tenantAuth("train")] as const,
  request: { params: idParams, query: evaluationErrorQuery },
  responses: {
    200: jsonResponse(listOf(evaluationError), "Examples, newest first; 'after' takes an example's id"),
    ...errorResponses,
  },
});

export function evaluationRoutes(app: App): void {
  addRoute(app, createRunRoute, async (c) => {
    const response = createRun(c);
    // A client may disconnect: the test then has 30 seconds more to end, and to release its slot.
    c.executionCtx.waitUntil(response);
    return response;
  });
  addRoute(app, listRunsRoute, async (c) => respond(c, await c.var.ledger().listRuns(c.req.valid("query"))));
  addRoute(app, getRunRoute, async (c) => respond(c, await c.var.ledger().getRun(c.req.valid("param").id)));
  addRoute(app, listErrorsRoute, async (c) =>
    respond(c, await c.var.ledger().listErrors(c.req.valid("param").id, c.req.valid("query"))),
  );
}

async function createRun(c: RouteContext<typeof createRunRoute>): Promise<Response> {
  const { idempotencyClaim } = c.var;
  const ledger = c.var.ledger();
  const tested = await evaluateVersion(tenantRequest(c), c.req.valid("json"));
  if (!tested.ok) return respondError(c, tested.failure);
  const { version, run } = tested.value;
  const { id: head, sha256 } = version;
  return respond(c, await ledger.addRun(idempotencyClaim, { head, version: version.version, sha256 }, run), 201);
}
