import { createRoute } from "@hono/zod-openapi";
import { datasetChange, exampleDeletion, labelDeletion, labelRename } from "../../api/dataset-changes.ts";
import { nameParams } from "../../api/schema.ts";
import type { Failure } from "../../core/failure.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Examples"], security: tenantSecurity };

const renameLabelRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/datasets/{name}/labels/rename",
  operationId: "renameLabel",
  summary: "Rename a label, or merge it into another one",
  description:
    "Every example of the label gets the other one, in one step. Where that exists already, the two become one.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { params: nameParams, body: jsonBody(labelRename) },
  responses: { 200: jsonResponse(datasetChange, "How many examples have the new label"), ...errorResponses },
});

const deleteLabelRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/datasets/{name}/labels/delete",
  operationId: "deleteLabel",
  summary: "Delete a label with its examples",
  description: "Deletes every example that has the label, for good.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { params: nameParams, body: jsonBody(labelDeletion) },
  responses: { 200: jsonResponse(datasetChange, "How many examples are gone"), ...errorResponses },
});

const deleteExamplesRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/datasets/{name}/examples/delete",
  operationId: "deleteExamples",
  summary: "Delete examples by their ids, a label, a part of their texts, or the time they were added",
  description:
    "Takes exactly one of the conditions. With 'dry_run' nothing is deleted, and the answer counts what would be.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { params: nameParams, body: jsonBody(exampleDeletion) },
  responses: {
    200: jsonResponse(datasetChange, "How many examples are gone, or with dry_run would be"),
    ...errorResponses,
  },
});

export function datasetChangeRoutes(app: App): void {
  addRoute(app, renameLabelRoute, async (c) => {
    const { name } = c.req.valid("param");
    return respond(c, await c.var.ledger().renameLabel(c.var.idempotencyClaim, name, c.req.valid("json")));
  });
  addRoute(app, deleteLabelRoute, async (c) => {
    const { name } = c.req.valid("param");
    return respond(c, await c.var.ledger().deleteLabel(c.var.idempotencyClaim, name, c.req.valid("json").label));
  });
  addRoute(app, deleteExamplesRoute, deleteExamples);
}

const conditionFields = ["ids", "label", "contains", "before"] as const;

async function deleteExamples(c: RouteContext<typeof deleteExamplesRoute>): Promise<Response> {
  const { dry_run, ...filter } = c.req.valid("json");
  const conditions = conditionFields.filter((field) => filter[field] !== undefined);
  if (conditions.length !== 1) return respondError(c, notOneCondition(conditions));
  const { name } = c.req.valid("param");
  const ledger = c.var.ledger();
  return respond(
    c,
    dry_run
      ? await ledger.previewDeletion(name, filter)
      : await ledger.deleteExamples(c.var.idempotencyClaim, name, filter),
  );
}

function notOneCondition(conditions: readonly string[]): Failure {
  const which = "Which examples to delete is said by exactly one of 'ids', 'label', 'contains' and 'before'";
  if (conditions.length === 0) return { code: "missing_parameter", message: `${which}; this has none.`, status: 422 };
  const message = `${which}, not by ${conditions.map((field) => `'${field}'`).join(" and ")}.`;
  return { code: "invalid_parameter", message, param: conditions[1] ?? "", status: 422 };
}
