import { z } from "@hono/zod-openapi";
import type { DeepReadonly } from "./schema.ts";

const against = z.number().optional().openapi({
  description: "the same part of the runner-up's logit; left out where there is none",
});
const part = z.object({
  weight: z.number().openapi({ description: "a part of the label's logit, or of the value" }),
  against,
});

export const explanation = z
  .object({
    label: z.string().optional().openapi({ description: "the label that is explained: the most probable one" }),
    runner_up: z.string().optional().openapi({ description: "for one label: the second most probable one" }),
    logit: part.openapi({
      description: "what all parts add up to, after the temperature: the logit, or the value before it is clamped",
    }),
    terms: z
      .array(z.object({ text: z.string(), ...part.shape }))
      .openapi({ description: "words and phrases of the text, those that make most difference first" }),
    nearest: z
      .array(
        z.object({
          id: z.string(),
          text: z.string().optional(),
          label: z.string().optional(),
          labels: z.array(z.string()).optional(),
          value: z.number().optional(),
          similarity: z.number().openapi({ description: "the cosine of the two embeddings" }),
        }),
      )
      .openapi({
        description:
          "training examples with similar embeddings, the nearest first, as they were trained on; empty for keys without the scope 'train'",
      }),
    bias: z.number().openapi({ description: "what the terms leave of the logit: the sum of bias_parts" }),
    bias_against: against,
    bias_parts: z.object({
      intercept: part.openapi({ description: "what the head adds to every input's logit" }),
      other_terms: part.openapi({ description: "of terms that are not shown" }),
      unexplained: part.openapi({ description: "of the embedding, what no term explains" }),
    }),
  })
  .openapi("Explanation");
export type Explanation = DeepReadonly<z.output<typeof explanation>>;
