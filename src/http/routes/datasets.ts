import { createRoute } from "@hono/zod-openapi";
import { dataset, newDataset } from "../../api/datasets.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";

const common = { tags: ["Datasets"], security: tenantSecurity };

export function datasetRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/datasets",
      summary: "Create a dataset",
      middleware: [tenantAuth("train"), idempotency("tenant")] as const,
      request: { body: jsonBody(newDataset) },
      responses: { 201: jsonResponse(dataset, "The dataset"), ...errorResponses },
    }),
    async (c) => {
      const { modality, dimensions, out_of_scope_label, ...settings } = c.req.valid("json");
      if (modality === "image")
        return respondError(c, {
          code: "modality_not_supported",
          message: "No image backbone exists yet. Use 'text' or 'embedding'.",
          param: "modality",
        });
      if ((dimensions !== undefined) !== (modality === "embedding")) {
        const message =
          modality === "embedding"
            ? "A dataset of embeddings needs 'dimensions'."
            : "'dimensions' is for datasets of embeddings alone.";
        return respondError(c, {
          code: modality === "embedding" ? "missing_parameter" : "invalid_parameter",
          message,
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
      return respond(
        c,
        await getLedger(c.env.TENANT, c.var.caller.tenant).createDataset(c.var.idempotencyClaim, params),
        201,
      );
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/datasets",
      summary: "List datasets",
      middleware: [tenantAuth("train")] as const,
      request: { query: pageQuery },
      responses: { 200: jsonResponse(listOf(dataset), "Datasets, newest first"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).listDatasets(c.req.valid("query"))),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/datasets/{name}",
      summary: "Get a dataset",
      middleware: [tenantAuth("train")] as const,
      request: { params: nameParams },
      responses: { 200: jsonResponse(dataset, "The dataset"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getDataset(c.req.valid("param").name)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/datasets/{name}",
      summary: "Delete a dataset with its examples",
      middleware: [tenantAuth("train")] as const,
      request: { params: nameParams },
      responses: {
        200: jsonResponse(deletedObject("dataset"), "It is gone; heads trained on it stay"),
        ...errorResponses,
      },
    }),
    async (c) =>
      respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).deleteDataset(c.req.valid("param").name)),
  );
}
