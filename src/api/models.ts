import { z } from "@hono/zod-openapi";
import { backboneRevision, type DeepReadonly } from "./schema.ts";

export const modelParams = z.object({ id: z.string().min(1).max(200) });

export const model = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.number().int(),
    owned_by: z.string(),
    graft: z.object({
      kind: z.string(),
      modality: z.enum(["text", "image", "embedding"]),
      dimensions: z.number().int(),
      revision: z.string(),
      license: z.string(),
      parameters: z.number(),
      bytes: z.number(),
      base: backboneRevision
        .optional()
        .openapi({ description: "of one that a fine-tuning job made: the shared backbone that it was made of" }),
      job: z.string().optional().openapi({ description: "the job that made it" }),
    }),
  })
  .openapi("Model");
export type Model = DeepReadonly<z.output<typeof model>>;

/** OpenAI's list of models, which has no pages. */
export const modelList = z.object({ object: z.literal("list"), data: z.array(model) });
export type ModelList = DeepReadonly<z.output<typeof modelList>>;
