import { z } from "@hono/zod-openapi";
import { datasetModality } from "./datasets.ts";
import { openAiPageQuery, type PageRequest } from "./lists.ts";
import { type DeepReadonly, task, unixSeconds } from "./schema.ts";

/** The only purpose that a file has here. */
export const FILE_PURPOSE = "fine-tune";

export const fileParams = z.object({ id: z.string().min(1).max(200) });
export const fileListQuery = openAiPageQuery.extend({
  order: z.enum(["asc", "desc"]).default("desc"),
  purpose: z.string().max(256).optional(),
});

/** A page of files, as a checked query asks for it. */
export type FileListRequest = PageRequest & { readonly order: z.output<typeof fileListQuery>["order"] };

/** A file in OpenAI's shape, with what its lines hold under `graft`. */
export const file = z
  .object({
    object: z.literal("file"),
    id: z.string(),
    bytes: z.number().int(),
    created_at: unixSeconds,
    filename: z.string(),
    purpose: z.literal(FILE_PURPOSE),
    status: z.literal("processed"),
    status_details: z.null(),
    expires_at: z.null(),
    graft: z.object({
      task,
      modality: datasetModality,
      dimensions: z.number().int().nullable(),
      examples: z.number().int(),
      labels: z.number().int().openapi({ description: "different ones; 0 for regression" }),
    }),
  })
  .openapi("File");
export type File = DeepReadonly<z.output<typeof file>>;
