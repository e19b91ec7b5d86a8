import { z } from "@hono/zod-openapi";
import { limits } from "../core/limits.ts";
import { type DeepReadonly, label, name, revisionNumber, task, unixSeconds, withLimit } from "./schema.ts";

export const datasetModality = z.enum(["text", "embedding"]);
export type DatasetModality = z.output<typeof datasetModality>;

export const dataset = z
  .object({
    object: z.literal("dataset"),
    id: z.string(),
    name: z.string(),
    task,
    modality: datasetModality,
    dimensions: z.number().int().nullable(),
    out_of_scope_label: z.string().nullable(),
    examples: z.number().int(),
    labels: z.record(z.string(), z.number().int()),
    /** The examples whose embeddings are kept, by backbone (`<id>@<revision>`). */
    embedded: z.record(z.string(), z.number().int()),
    /** Rises with every change of the examples. */
    revision: z.number().int(),
    created_at: unixSeconds,
    updated_at: unixSeconds,
  })
  .openapi("Dataset");
export type Dataset = DeepReadonly<z.output<typeof dataset>>;

export const exportQuery = z.strictObject({
  format: z.enum(["ndjson", "csv"]).default("ndjson"),
  revision: revisionNumber.optional().openapi({ description: "one that is kept; by default the present one" }),
});
export type ExportQuery = DeepReadonly<Omit<z.input<typeof exportQuery>, "revision">> & { readonly revision?: number };

export const newDataset = z.strictObject({
  name,
  task,
  modality: z.enum(["text", "image", "embedding"]),
  dimensions: withLimit(z.number().int().min(1), limits.embedding_dimensions, "dimensions").optional(),
  out_of_scope_label: label.optional(),
});
export type NewDataset = DeepReadonly<z.input<typeof newDataset>>;
