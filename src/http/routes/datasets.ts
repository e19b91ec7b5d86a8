import { createRoute } from "@hono/zod-openapi";
import { dataset, newDataset } from "../../api/datasets.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Datasets"], security: tenantSecurity };

const createDatasetRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/datasets",
  operationId: "createDataset",
  summary: "Create a dataset",
  description: "An empty dataset: its task and modality, which never change, say what its examples look like.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { body: jsonBody(newDataset) },
  responses: { 201: jsonResponse(dataset, "The dataset"), ...errorResponses },
});

const listDatasetsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets",
  operationId: "listDatasets",
  summary: "List datasets",
  description: "The tenant's datasets, with the number of examples of each label.",
  middleware: [tenantAuth("train")] as const,
  request: { query: pageQuery },
  responses: { 200: jsonResponse(listOf(dataset), "Datasets, newest first"), ...errorResponses },
});

const getDatasetRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets/{name}",
  operationId: "getDataset",
  summary: "Get a dataset",
  description: "The dataset with its number of examples, of each label as well, and its revision.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams },
  responses: { 200: jsonResponse(dataset, "The dataset"), ...errorResponses },
});

const deleteDatasetRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/datasets/{name}",
  operationId: "deleteDataset",
  summary: "Delete a dataset with its examples",
  description:
    "Deletes the examples and their embeddings for good. Heads that were trained on them stay, and hold none of their inputs.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams },
  responses: {
    200: jsonResponse(deletedObject("dataset"), "It is gone; heads trained on it stay"),
    ...errorResponses,
  },
});

export function datasetRoutes(app: App): void {
  addRoute(app, createDatasetRoute, createDataset);
  addRoute(app, listDatasetsRoute, async (c) => respond(c, await c.var.ledger().listDatasets(c.req.valid("query"))));
  addRoute(app, getDatasetRoute, async (c) => respond(c, await c.var.ledger().getDataset(c.req.valid("param").name)));
  addRoute(app, deleteDatasetRoute, async (c) =>
    respond(c, await c.var.ledger().deleteDataset(c.req.valid("param").name)),
  );
}

async function createDataset(c: RouteContext<typeof createDatasetRoute>): Promise<Response> {
  const { modality, dimensions, out_of_scope_label, ...settings } = c.req.valid("json");
  if (modality === "image")
    return respondError(c, {
      code: "modality_not_supported",
      message: "No image backbone exists yet. Use 'text' or 'embedding'.",
      param: "modality",
    });
  if ((dimensions !== undefined) !== (modality === "embedding")) {
    const isMissing = dimensions === undefined;
    return respondError(c, {
      code: isMissing ? "missing_parameter" : "invalid_parameter",
      message: isMissing
        ? "A dataset of embeddings needs 'dimensions'."
        : "'dimensions' is for datasets of embeddings alone.",
      param: "dimensions",
    });
  }
  if (out_of_scope_label !== undefined && settings.task !== "single_label") {
    return respondError(c, {
      code: "task_mismatch",
      message: "'out_of_scope_label' is for the task 'single_label'.",
      param: "out_of_scope_label",
    });
  }
  const params = {
    ...settings,
    modality,
    dimensions: dimensions ?? null,
    out_of_scope_label: out_of_scope_label ?? null,
  };
  return respond(c, await c.var.ledger().createDataset(c.var.idempotencyClaim, params), 201);
}
