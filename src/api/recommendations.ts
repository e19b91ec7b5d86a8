/** Recommendations: which method a dataset needs, and the measurements behind it. */
import { z } from "@hono/zod-openapi";
import { pageQuery } from "./lists.ts";
import { backboneRevision, type DeepReadonly, interval, label, name, unixSeconds } from "./schema.ts";

const MAX_BUDGET_SECONDS = 24 * 60 * 60;

export const newRecommendation = z
  .strictObject({
    dataset: name,
    backbone: z.string().min(1).max(200).optional().openapi({
      description: "the id of a model; by default the one of the box whose layers can be trained",
    }),
    test_dataset: name.optional().openapi({
      description: "a dataset of the same task. A measurement compares the methods on it, and not by cross-validation",
    }),
    budget: z
      .strictObject({
        seconds: z.number().positive().max(MAX_BUDGET_SECONDS).optional().openapi({ description: "of one core" }),
        usd: z.number().positive().max(1e6).optional(),
      })
      .optional()
      .openapi({
        description:
          "what fine-tuning may take: it is recommended only within it, and a measurement takes the largest samples that fit into it",
      }),
    measure: z.boolean().default(false).openapi({
      description: "whether a job measures both methods on samples of the dataset, in place of what is expected",
    }),
  })
  .openapi("NewRecommendation");
export type NewRecommendation = DeepReadonly<z.input<typeof newRecommendation>>;
export type RecommendationParams = DeepReadonly<z.output<typeof newRecommendation>>;

/** What a recommendation may be. */
export const methods = ["head", "fine_tune", "collect_more_data", "fix_labels", "decision_model"] as const;
const method = z.enum(methods);
export type Method = z.output<typeof method>;

const expectedAccuracy = z
  .object({ accuracy: z.number(), interval: interval.openapi({ description: "the 95 % interval" }) })
  .openapi("ExpectedAccuracy");
const gain = z
  .object({
    gain: z.number().openapi({ description: "a difference of accuracies" }),
    interval: interval.openapi({ description: "the 95 % interval" }),
  })
  .openapi("ExpectedGain");
const curve = z
  .array(
    z.object({
      examples: z.number().int(),
      accuracy: z.number(),
      interval: interval.optional().openapi({ description: "the 95 % interval" }),
    }),
  )
  .openapi({ description: "accuracy on held-out examples by the number trained on; empty without a measurement" });

/** A figure of both methods. Null where there are no layers to train. */
const bothMethods = <Head extends z.ZodType, FineTune extends z.ZodType>(head: Head, fineTune: FineTune) =>
  z.object({
    head: head.openapi({ description: "of the frozen backbone with a head" }),
    fine_tune: fineTune.nullable(),
  });

const trainingScope = z.object({
  trained_parameters: z.number().int(),
  total_parameters: z.number().int().openapi({ description: "of the backbone and the head" }),
  share: z.number(),
});
const headData = z.object({
  learning_curve: curve,
  expected_accuracy: z
    .object({
      "1x": expectedAccuracy,
      "2x": expectedAccuracy,
      "5x": expectedAccuracy,
    })
    .nullable()
    .openapi({ description: "with so many times the examples; null if none could be held out" }),
  examples_per_class: z
    .object({
      min: z.number().openapi({ description: "of the smallest class" }),
      median: z.number().openapi({ description: "of the class in the middle" }),
      max: z.number().openapi({ description: "of the largest class" }),
    })
    .openapi({ description: "how many examples the classes have" }),
  imbalance: z.number().openapi({ description: "the largest class's examples by the smallest's" }),
  duplicates: z.number().openapi({ description: "the share of examples whose input another one before has" }),
  conflicts: z
    .number()
    .openapi({ description: "the share of examples whose input another one has with another label" }),
  wrong_labels: z.number().nullable().openapi({ description: "the estimated share of examples whose label is wrong" }),
  more_examples: z
    .array(z.object({ label, examples: z.number().int() }))
    .openapi({ description: "of as many examples more as there are, how many of each label raise the accuracy most" }),
});
const fineTuneData = z.object({
  learning_curve: curve,
  expected_gain: z
    .object({ "1x": gain, "2x": gain, "5x": gain })
    .nullable()
    .openapi({ description: "over the head, with so many times the examples; null if it is not known" }),
});
const cost = z.object({
  operations: z.number().openapi({ description: "floating-point operations of one training" }),
  seconds: z.number().openapi({ description: "of one core, estimated" }),
  bytes: z.number().openapi({ description: "of arrays alive at once" }),
  usd: z.number(),
  measured: z
    .object({ operations: z.number(), seconds: z.number().openapi({ description: "that it took" }), usd: z.number() })
    .nullable()
    .openapi({
      description:
        "of fine-tuning, with 'measure': what all trainings on the largest sample took, those of the head too; else null",
    }),
  predictions_1000: z
    .object({ operations: z.number(), usd: z.number() })
    .openapi({ description: "what a thousand predictions cost, with their embeddings" }),
});
const overfitting = z.object({
  train_accuracy: z.number().nullable(),
  held_out_accuracy: z.number().nullable().openapi({ description: "on examples that it was not trained on" }),
  gap: z.number().nullable().openapi({ description: "the difference of both accuracies" }),
  parameters_per_example: z.number().openapi({ description: "trained parameters by example" }),
});

const comparison = z.object({
  training_scope: bothMethods(trainingScope, trainingScope).openapi({ description: "what is trained" }),
  data_requirements: bothMethods(headData, fineTuneData).openapi({ description: "how much data it needs" }),
  compute_cost: bothMethods(cost, cost).openapi({ description: "what it costs" }),
  adaptability: bothMethods(
    z.object({ all: gain }),
    z.object({
      last_layers: gain.nullable().openapi({ description: "over the head, of the last layers alone" }),
      all: gain.nullable(),
    }),
  ).openapi({ description: "how far it can adapt" }),
  overfitting_risk: bothMethods(overfitting, overfitting).openapi({ description: "how easily it overfits" }),
});

const similarity = z.object({
  examples: z.number().int().openapi({ description: "sampled for these figures" }),
  logme: z.number().openapi({ description: "the logarithm of the maximum evidence, by row (You et al. 2021)" }),
  knn_accuracy: z.number().openapi({ description: "by the five nearest other examples" }),
  linear_separability: z.number().nullable().openapi({ description: "the head's accuracy on what it was trained on" }),
  class_overlap: z.number().openapi({
    description: "the share of examples nearer to the centre of another class than to that of their own",
  }),
  unknown_words: z.number().nullable().openapi({
    description: "the share of words that the backbone has never seen; null for embeddings of the caller's",
  }),
  subwords_per_word: z.number().nullable().openapi({
    description: "into how many known pieces the backbone splits a word; null where it splits none",
  }),
});

const measured = z.object({
  job_seconds: z.number().openapi({ description: "that the measurement took" }),
  points: z
    .array(
      z.object({
        examples: z.number().int(),
        head_accuracy: z.number().openapi({ description: "of the head, on examples that it was not trained on" }),
        fine_tuned_accuracy: z.number().openapi({ description: "of the fine-tuned model, on the same examples" }),
        expected_gain: z.number().openapi({ description: "the difference of both accuracies" }),
        chance_of_loss: z.number().openapi({ description: "the probability that fine-tuning loses more than 0.005" }),
        test_examples: z.number().int().openapi({ description: "on which both were compared" }),
        seconds: z.number().openapi({ description: "that this point took" }),
      }),
    )
    .openapi({ description: "both methods on nested samples, the smallest first" }),
});

export const recommendation = z
  .object({
    object: z.literal("recommendation"),
    id: z.string(),
    status: z.enum(["complete", "measuring", "failed"]),
    dataset: z.object({ name: z.string(), revision: z.number().int(), examples: z.number().int() }),
    backbone: backboneRevision,
    recommendation: method.nullable().openapi({ description: "null if these data cannot tell; the reasons say why" }),
    runner_up: method.nullable().openapi({ description: "the next best" }),
    confidence: z.number().min(0).max(1).openapi({ description: "the probability that no other would do better" }),
    reasons: z
      .array(
        z.object({
          code: z.string(),
          message: z.string(),
          evidence: z
            .record(z.string(), z.union([z.number(), z.string(), z.null()]))
            .openapi({ description: "the figures that it rests on" }),
        }),
      )
      .openapi({ description: "why, the weightiest first" }),
    comparison: comparison.openapi({ description: "the five ways in which the methods differ" }),
    task_similarity: similarity.nullable().openapi({ description: "null but for one label an example" }),
    expected: z
      .object({
        head: expectedAccuracy.nullable().openapi({ description: "of a head; null if nothing could be held out" }),
        fine_tune: expectedAccuracy.nullable(),
      })
      .openapi({ description: "the accuracy on inputs like these" }),
    measured: measured.optional().openapi({ description: "with 'measure', once the job has measured" }),
    error: z.object({ code: z.string(), message: z.string() }).optional().openapi({
      description: "why the measurement failed",
    }),
    created_at: unixSeconds,
  })
  .openapi("Recommendation");
export type Recommendation = DeepReadonly<z.output<typeof recommendation>>;

export const recommendationQuery = pageQuery.extend({ dataset: name.optional() });
export type RecommendationPageRequest = DeepReadonly<z.output<typeof recommendationQuery>>;
