import { z } from "@hono/zod-openapi";
import { limits } from "../core/limits.ts";
import { type DeepReadonly, truncated, truncateFlag, withLimit } from "./schema.ts";

/** In OpenAI's shape: fields that are unknown here are ignored. */
export const embeddingRequest = z.looseObject({
  model: z.string().min(1).max(200),
  input: z
    .union([z.string(), withLimit(z.array(z.string()).min(1), limits.inputs_per_request, "texts")], {
      error: `the input is a text or a list of 1 to ${limits.inputs_per_request} texts`,
    })
    .openapi({ description: `in all at most ${limits.characters_per_request} characters` }),
  encoding_format: z.enum(["float", "base64"]).default("float"),
  dimensions: z.number().int().positive().optional(),
  truncate: truncateFlag.optional(),
});
export type EmbeddingRequest = DeepReadonly<z.input<typeof embeddingRequest>>;

export const embeddings = z
  .object({
    object: z.literal("list"),
    data: z.array(
      z.object({
        object: z.literal("embedding"),
        index: z.number().int(),
        embedding: z.union([z.array(z.number()), z.string()]),
        truncated,
      }),
    ),
    model: z.string(),
    usage: z.object({ prompt_tokens: z.number().int(), total_tokens: z.number().int() }),
  })
  .openapi("Embeddings");
export type Embeddings = DeepReadonly<z.output<typeof embeddings>>;
