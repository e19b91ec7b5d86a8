/** Test sets: how versions of heads do on a dataset of the caller's. */
import { z } from "@hono/zod-openapi";
import { evaluation } from "./heads.ts";
import { pageQuery } from "./lists.ts";
import { type DeepReadonly, name, unixSeconds } from "./schema.ts";

const version = z.number().int().positive();

export const newEvaluationRun = z
  .strictObject({
    head: name,
    version: version.optional().openapi({ description: "by default the active one, or the newest if none is active" }),
    dataset: name.openapi({ description: "the test set: a dataset of the head's task and modality" }),
    compare_with: version.optional().openapi({ description: "another version of the head, tested on the same rows" }),
  })
  .openapi("NewEvaluationRun");
export type NewEvaluationRun = DeepReadonly<z.input<typeof newEvaluationRun>>;

const trainedOn = z.number().int().nullable().openapi({
  description:
    "how many of the examples the version was trained on, with the same input apart from case and spacing: a figure on them says little. null where it is not known any more what the version was trained on",
});

const comparison = z.object({
  version: z.number().int().openapi({ description: "the version that is compared with" }),
  accuracy: z.number().openapi({
    description: "of the run's version; for any number of labels the share with all labels right, for regression R²",
  }),
  other_accuracy: z.number().openapi({ description: "of the version that is compared with" }),
  fixed: z.number().int().openapi({
    description: "examples that only the run's version predicts right; for regression those where it is nearer",
  }),
  broken: z.number().int().openapi({
    description: "examples that only the other version predicts right; for regression those where that is nearer",
  }),
  p_value: z.number(),
  expected_gain: z.number().openapi({ description: "accuracy − other_accuracy" }),
  chance_of_loss: z
    .number()
    .min(0)
    .max(1)
    .openapi({ description: "the probability that the run's version is worse by more than 0.005" }),
  trained_on: trainedOn,
});

export const evaluationRun = z
  .object({
    object: z.literal("evaluation.run"),
    id: z.string(),
    head: z.string(),
    version: z.number().int(),
    dataset: z.object({ name: z.string(), revision: z.number().int(), examples: z.number().int() }),
    evaluation,
    comparison: comparison.nullable().openapi({ description: "null without 'compare_with'" }),
    trained_on: trainedOn,
    out_of_scope_examples: z.number().int().openapi({
      description: "examples under the dataset's out-of-scope label. They count for 'out_of_scope' alone",
    }),
    unknown_labels: z.array(z.object({ label: z.string(), examples: z.number().int() })).openapi({
      description: "labels that the head does not know, the hundred most frequent. Their examples count as wrong",
    }),
    created_at: unixSeconds,
  })
  .openapi("EvaluationRun");
export type EvaluationRun = DeepReadonly<z.output<typeof evaluationRun>>;

export const evaluationRunQuery = pageQuery.extend({ head: name.optional(), dataset: name.optional() });
export type EvaluationRunPageRequest = DeepReadonly<z.output<typeof evaluationRunQuery>>;

export const evaluationErrorTypes = ["wrong", "fixed", "broken", "out_of_scope"] as const;
export type EvaluationErrorType = (typeof evaluationErrorTypes)[number];

export const evaluationErrorQuery = pageQuery.extend({
  type: z.enum(evaluationErrorTypes).default("wrong").openapi({
    description:
      "wrong: what the version predicts wrong, for regression what it is off by more than the run's 'rmse'; fixed and broken: what only one of the compared versions predicts right; out_of_scope: examples under the dataset's out-of-scope label that count as in scope",
  }),
});
export type EvaluationErrorPageRequest = DeepReadonly<z.output<typeof evaluationErrorQuery>>;

const errorPrediction = z.object({
  label: z.string().optional(),
  labels: z.array(z.string()).optional().openapi({ description: "at most twenty" }),
  value: z.number().optional(),
  score: z.number().optional(),
  in_scope: z.boolean().optional(),
});

export const evaluationError = z
  .object({
    object: z.literal("evaluation.error"),
    id: z.string().openapi({ description: "the example's" }),
    text: z.string().optional(),
    embedding: z.array(z.number()).optional(),
    label: z.string().optional(),
    labels: z.array(z.string()).optional(),
    value: z.number().optional(),
    prediction: errorPrediction.openapi({ description: "of the run's version" }),
    other_prediction: errorPrediction.nullable().openapi({
      description: "of the version that is compared with; null without one",
    }),
  })
  .openapi("EvaluationError");
export type EvaluationError = DeepReadonly<z.output<typeof evaluationError>>;
