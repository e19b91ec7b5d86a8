import { z } from "@hono/zod-openapi";
import { limits } from "../core/limits.ts";
import { input } from "./examples.ts";
import { explanation } from "./explanations.ts";
import { type DeepReadonly, interval, truncated, truncateFlag, withLimit } from "./schema.ts";

export const predictRequest = z.strictObject({
  input: z
    .union([input, withLimit(z.array(input).min(1), limits.inputs_per_request, "inputs")], {
      error: `the input is one input or a list of 1 to ${limits.inputs_per_request}; an input is a text, or an object with one of 'text', 'embedding' and 'image'`,
    })
    .openapi({ description: `all texts together have at most ${limits.characters_per_request} characters` }),
  top_k: z.number().int().min(1).max(limits.labels_per_dataset).optional(),
  version: z.number().int().positive().optional(),
  coverage: z.number().min(0.5).max(0.999).optional(),
  out_of_scope_threshold: z.number().min(0).max(1).optional(),
  threshold: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .openapi({ description: "for any number of labels: in the place of the fitted threshold of each label" }),
  truncate: truncateFlag.optional(),
  explain: z
    .boolean()
    .optional()
    .openapi({ description: `adds why, to at most ${limits.explained_inputs} inputs` }),
});
export type PredictRequest = DeepReadonly<z.input<typeof predictRequest>>;

const labelScore = z.object({ label: z.string(), score: z.number() });
export const prediction = z.object({
  index: z.number().int(),
  version: z
    .number()
    .int()
    .optional()
    .openapi({ description: "the version that made it, where versions of the head answer by shares" }),
  truncated,
  label: z.string().optional(),
  labels: z.array(z.string()).optional(),
  value: z.number().optional(),
  interval: interval
    .nullable()
    .optional()
    .openapi({ description: "null: too few examples were held out for this coverage" }),
  score: z.number().optional(),
  in_scope: z
    .boolean()
    .nullable()
    .optional()
    .openapi({ description: "for one label: whether the input is like the training examples; null: not known" }),
  scope_score: z.number().optional().openapi({
    description: "for one label: the share of inputs in scope that are less like the training examples than this one",
  }),
  /** The `top_k` most probable labels, most probable first. */
  scores: z.array(labelScore).optional(),
  set: z.array(z.string()).optional(),
  explanation: explanation.optional(),
});
export type Prediction = DeepReadonly<z.output<typeof prediction>>;

export const predictions = z
  .object({
    object: z.literal("list"),
    model: z.string().openapi({ description: "the head and its version; by shares, that of the first input" }),
    coverage_promised: z.boolean().optional().openapi({
      description:
        "with 'coverage'; false while live inputs are noticed to be unlike those that the version was evaluated on",
    }),
    data: z.array(prediction),
  })
  .openapi("Predictions");
export type Predictions = DeepReadonly<z.output<typeof predictions>>;
