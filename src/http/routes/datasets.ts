import { createRoute, z } from "@hono/zod-openapi";
import { limits } from "../../core/limits.ts";
import { ledger } from "../../tenant/tenant.ts";
import { tenantKey } from "../middleware/auth.ts";
import { type App, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { idempotent } from "../middleware/idempotency.ts";
import {
  body,
  deleted,
  errors,
  json,
  label,
  limited,
  listOf,
  name,
  pageQuery,
  tenantSecurity,
  unixSeconds,
} from "../../api/schema.ts";

export const dataset = z
  .object({
    object: z.literal("dataset"),
    id: z.string(),
    name: z.string(),
    task: z.enum(["single_label", "multi_label", "regression"]),
    modality: z.enum(["text", "embedding"]),
    dimensions: z.number().int().nullable(),
    out_of_scope_label: z.string().nullable(),
    examples: z.number().int(),
    labels: z.record(z.string(), z.number().int()),
    revision: z.number().int(),
    created_at: unixSeconds,
    updated_at: unixSeconds,
  })
  .openapi("Dataset");
export const nameParams = z.object({ name });
const newDataset = z.strictObject({
  name,
  task: z.enum(["single_label", "multi_label", "regression"]),
  modality: z.enum(["text", "image", "embedding"]),
  dimensions: limited(z.number().int().min(1), limits.embedding_dimensions, "dimensions").optional(),
  out_of_scope_label: label.optional(),
});
const common = { tags: ["Datasets"], security: tenantSecurity };

export function datasetRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/datasets",
      summary: "Create a dataset",
      middleware: [tenantKey("train"), idempotent("tenant")] as const,
      request: { body: body(newDataset) },
      responses: { 201: json(dataset, "The dataset"), ...errors },
    }),
    async (c) => {
      const { modality, dimensions, out_of_scope_label, ...rest } = c.req.valid("json");
      if (modality === "image")
        return failed(c, {
          code: "modality_not_supported",
          message: "No image backbone exists yet. Use 'text' or 'embedding'.",
          param: "modality",
        });
      if ((dimensions !== undefined) !== (modality === "embedding")) {
        const message =
          modality === "embedding"
            ? "A dataset of embeddings needs 'dimensions'."
            : "'dimensions' is for datasets of embeddings alone.";
        return failed(c, {
          code: modality === "embedding" ? "missing_parameter" : "invalid_parameter",
          message,
          param: "dimensions",
        });
      }
      if (out_of_scope_label !== undefined && rest.task !== "single_label") {
        return failed(c, {
          code: "task_mismatch",
          message: "'out_of_scope_label' is for the task 'single_label'.",
          param: "out_of_scope_label",
        });
      }
      const wanted = {
        ...rest,
        modality,
        dimensions: dimensions ?? null,
        out_of_scope_label: out_of_scope_label ?? null,
      };
      return answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).createDataset(c.var.claim, wanted), 201);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/datasets",
      summary: "List datasets",
      middleware: [tenantKey("train")] as const,
      request: { query: pageQuery },
      responses: { 200: json(listOf(dataset), "Datasets, newest first"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).listDatasets(c.req.valid("query"))),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/datasets/{name}",
      summary: "Get a dataset",
      middleware: [tenantKey("train")] as const,
      request: { params: nameParams },
      responses: { 200: json(dataset, "The dataset"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).getDataset(c.req.valid("param").name)),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/datasets/{name}",
      summary: "Delete a dataset with its examples",
      middleware: [tenantKey("train")] as const,
      request: { params: nameParams },
      responses: { 200: json(deleted("dataset"), "It is gone; heads trained on it stay"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).deleteDataset(c.req.valid("param").name)),
  );
}
