/** Heads that learn: feedback on their predictions, and the policy by which they train again. */
import { createRoute } from "@hono/zod-openapi";
import type { RowError, StoredExample } from "../../api/examples.ts";
import { headFeedback, headPolicy, newHeadFeedback, newHeadPolicy } from "../../api/feedback.ts";
import { nameParams } from "../../api/schema.ts";
import { parseExample } from "../../ingest/example.ts";
import { MAX_ERRORS_SHOWN } from "../../ingest/rows.ts";
import { getPredictionOutcomes } from "../../serving/prediction-outcomes.ts";
import { type App, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Heads"], security: tenantSecurity };

const addFeedbackRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/heads/{name}/feedback",
  operationId: "createHeadFeedback",
  summary: "Teach a head: labelled examples into the dataset of its active version",
  description:
    "Stores corrections as examples, after the head has predicted them, which shows how well it does. Enough of them make it train again, as its policy says.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { params: nameParams, body: jsonBody(newHeadFeedback) },
  responses: {
    200: jsonResponse(headFeedback, "What became of them, and how the active version had done on them"),
    ...errorResponses,
  },
});

const getPolicyRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/heads/{name}/policy",
  operationId: "getHeadPolicy",
  summary: "Get the policy by which a head trains again, and how it does",
  description: "When the head trains again by itself, what has come since, and whether it drifts.",
  middleware: [tenantAuth("predict")] as const,
  request: { params: nameParams },
  responses: { 200: jsonResponse(headPolicy, "The policy"), ...errorResponses },
});

const setPolicyRoute = createRoute({
  ...common,
  method: "put",
  path: "/v1/heads/{name}/policy",
  operationId: "setHeadPolicy",
  summary: "Set the policy by which a head trains again",
  description:
    "Says after how many new examples, or at which signs of drift, the head trains again, and whether the new version serves.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams, body: jsonBody(newHeadPolicy) },
  responses: {
    200: jsonResponse(headPolicy, "The policy; a training that it asks for already follows"),
    ...errorResponses,
  },
});

export function feedbackRoutes(app: App): void {
  addRoute(app, addFeedbackRoute, addFeedback);
  addRoute(app, getPolicyRoute, async (c) => respond(c, await c.var.ledger().getPolicy(c.req.valid("param").name)));
  addRoute(app, setPolicyRoute, async (c) =>
    respond(c, await c.var.ledger().setPolicy(c.req.valid("param").name, c.req.valid("json"))),
  );
}

async function addFeedback(c: RouteContext<typeof addFeedbackRoute>): Promise<Response> {
  const head = c.req.valid("param").name;
  const feedbackTarget = await c.var.ledger().getFeedbackTarget(head);
  if (!feedbackTarget.ok) return respondError(c, feedbackTarget.failure);
  const { dataset, version } = feedbackTarget.value;
  const validExamples: StoredExample[] = [];
  const rowErrors: RowError[] = [];
  for (const [index, example] of c.req.valid("json").examples.entries()) {
    const parsed = parseExample(example, dataset, `examples[${index}]`);
    if (parsed.ok) validExamples.push(parsed.value);
    else rowErrors.push({ line: index + 1, code: parsed.failure.code, message: parsed.failure.message });
  }
  const request = tenantRequest(c);
  const outcomes = await getPredictionOutcomes(request, head, version, validExamples, dataset.out_of_scope_label);
  const examplesWithOutcomes = validExamples.map((example, i) => ({
    example,
    outcomes: outcomes[i] ?? [],
  }));
  const rejections = { rejected: rowErrors.length, errors: rowErrors.slice(0, MAX_ERRORS_SHOWN) };
  c.set("logFields", { examples: validExamples.length, rejected: rowErrors.length });
  const batch = { dataset, version, examples: examplesWithOutcomes, rejections };
  return respond(c, await c.var.ledger().recordFeedback(c.var.idempotencyClaim, head, batch));
}
