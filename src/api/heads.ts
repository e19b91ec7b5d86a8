import { z } from "@hono/zod-openapi";
import { limits } from "../core/limits.ts";
import { labelledExample } from "./examples.ts";
import {
  backboneRevision,
  type DeepReadonly,
  datasetRevision,
  interval,
  label,
  name,
  nameParams,
  task,
  unixSeconds,
  withLimit,
} from "./schema.ts";

/** A version in a path. */
const versionNumber = z
  .string()
  .regex(/^[1-9][0-9]{0,8}$/, "a version is a number from 1")
  .transform(Number)
  .openapi({ type: "integer", minimum: 1 });
export const versionParams = nameParams.extend({ version: versionNumber });

export const headHyperparameters = z.strictObject({
  l2: z
    .union([z.literal("auto"), z.number().positive().max(1e12)], { error: "l2 is 'auto' or a positive number" })
    .default("auto"),
  class_weight: z
    .union([z.literal("balanced"), z.null()], { error: "class_weight is 'balanced' or null" })
    .default(null),
  lexical: z.union([z.literal("auto"), z.boolean()], { error: "lexical is 'auto', true or false" }).default("auto"),
  seed: z.number().int().min(0).max(4_294_967_295).default(0),
});
export type HeadHyperparameters = DeepReadonly<z.output<typeof headHyperparameters>>;

export const defaultHeadHyperparameters: HeadHyperparameters = headHyperparameters.parse({});

const evaluationSettings = z
  .strictObject({
    method: z.enum(["auto", "cross_validation", "holdout", "none"]).default("auto"),
    folds: z.number().int().min(2).max(20).optional().openapi({
      description: "of a cross-validation; no more are used than the smallest label has examples",
    }),
    fraction: z.number().min(0.05).max(0.5).optional().openapi({
      description:
        "of the examples, for a holdout; at least a half, a third or a quarter if the smallest label has two, three or four",
    }),
    detail: z.enum(["summary", "full"]).default("summary"),
  })
  .superRefine(({ method, folds, fraction }, context) => {
    const refuse = (field: string) =>
      context.addIssue({ code: "custom", path: [field], message: `the method '${method}' takes none` });
    if (folds !== undefined && (method === "holdout" || method === "none")) refuse("folds");
    if (fraction !== undefined && (method === "cross_validation" || method === "none")) refuse("fraction");
  });

export const outOfScopeSettings = z.strictObject({
  in_scope_recall: z
    .number()
    .min(0.5)
    .max(0.999)
    .default(0.97)
    .openapi({ description: "the share of inputs in scope that the head's threshold keeps" }),
});

/** A label as a training keeps it. */
const describedLabel = z.strictObject({
  name: label,
  description: withLimit(z.string().trim().min(1), limits.label_description_characters, "characters").optional(),
});
export type DescribedLabel = DeepReadonly<z.output<typeof describedLabel>>;
const headLabel = describedLabel
  .extend({
    examples: withLimit(z.array(z.string()), limits.examples_per_training_request, "examples").optional(),
  })
  .openapi("HeadLabel");
export type HeadLabel = DeepReadonly<z.output<typeof headLabel>>;

const goals = ["accuracy", "latency", "cost"] as const;

/** What a training with a goal chose, and why. */
export const trainingChoice = z
  .object({
    goal: z.enum(goals).openapi({ description: "what it was trained for" }),
    method: z.enum(["head", "fine_tune"]),
    message: z.string().openapi({ description: "why it was trained in this way" }),
    recommendation: z.string().nullable().openapi({
      description: "the id of the recommendation that it follows; null for the goals that need none",
    }),
  })
  .openapi("TrainingChoice");
export type TrainingChoice = DeepReadonly<z.output<typeof trainingChoice>>;

export const newHead = z
  .strictObject({
    name,
    dataset: name.optional(),
    dataset_revision: datasetRevision.optional(),
    examples: withLimit(z.array(labelledExample), limits.examples_per_training_request, "examples").optional(),
    labels: withLimit(z.array(headLabel), limits.labels_per_dataset, "labels").optional().openapi({
      description:
        "labels that the head knows from their names and descriptions until it has examples of them; see docs/zero-shot.md",
    }),
    backbone: z.string().min(1).max(200).optional().openapi({
      description:
        "the id of a model, or 'auto', the default unless the instance has another: the one in the box that predicts held-out examples best",
    }),
    hyperparameters: headHyperparameters.prefault({}),
    evaluation: evaluationSettings.prefault({}),
    out_of_scope: outOfScopeSettings.optional(),
    clamp: z.boolean().default(false).openapi({
      description: "for the task 'regression': whether predictions are clamped to the range of the values trained on",
    }),
    test_dataset: name.optional().openapi({
      description:
        "a dataset on which the new version is tested as well, beside the active one; see POST /v1/evaluations",
    }),
    promote: z.boolean().default(true),
    method: z.enum(["auto", "head", "fine_tune"]).default("auto"),
    goal: z.enum(goals).optional().openapi({
      description:
        "what 'auto' trains for, on a dataset. accuracy: what POST /v1/recommendations recommends; latency: a head on the fastest backbone; cost: a head",
    }),
  })
  .refine(({ goal, dataset, labels }) => goal === undefined || (dataset !== undefined && labels === undefined), {
    error: "it is for a dataset alone",
    path: ["goal"],
  })
  .refine(({ goal, method }) => goal === undefined || method === "auto", {
    error: "it decides the method: leave 'method' at 'auto'",
    path: ["goal"],
  })
  .refine((params) => params.dataset === undefined || params.examples === undefined, {
    error: "give either a dataset or examples",
    path: ["dataset"],
  })
  .refine((params) => (params.dataset ?? params.examples ?? params.labels) !== undefined, {
    error: "give a dataset, examples or labels",
    path: ["dataset"],
  })
  .refine((params) => params.dataset_revision === undefined || params.dataset !== undefined, {
    error: "it is of a dataset",
    path: ["dataset_revision"],
  })
  .openapi("NewHead");
/** What a caller asks to be trained, before and after the defaults are filled in. */
export type NewHead = DeepReadonly<z.input<typeof newHead>>;
export type HeadParams = DeepReadonly<z.output<typeof newHead>>;

const classMetrics = z.object({
  label,
  precision: z.number().nullable(),
  recall: z.number().nullable(),
  f1: z.number().nullable(),
  support: z.number(),
  threshold: z
    .number()
    .optional()
    .openapi({ description: "of any number of labels: the label is predicted from this probability on" }),
});
const accuracyInterval = interval.openapi({ description: "of the accuracy, 95 %" });
const accuracyEstimate = z.object({ value: z.number(), interval: accuracyInterval }).openapi("AccuracyEstimate");
const automation = z
  .object({
    accuracy: z.number().openapi({ description: "asked of the inputs that are answered" }),
    threshold: z.number().nullable().openapi({
      description: "inputs with at least this score are answered; null if no threshold is accurate enough",
    }),
    share: z.number(),
    interval: interval.openapi({ description: "of the share, 95 %" }),
  })
  .openapi("Automation");
/** What is counted of inputs, and nothing of an input itself. */
const inputCounts = z
  .object({
    inputs: z.number().int(),
    confidence: z.array(z.number()).openapi({ description: "inputs by their top probability, in bins of equal width" }),
    confidence_sum: z.number(),
    scope: z.array(z.number()).openapi({ description: "inputs by their scope score, in bins of equal width" }),
    unknown_words: z.array(z.number()).openapi({
      description:
        "inputs by their share of words that the backbone does not know: none, up to 0.1, 0.2, 0.3, 0.5, and more; zeros where that is not known",
    }),
    labels: z
      .record(z.string(), z.number())
      .openapi({ description: "inputs by the place of their most probable label in the head's 'labels'" }),
  })
  .openapi("InputCounts");
export const evaluation = z
  .object({
    method: z.enum(["cross_validation", "holdout", "test_set", "none"]).openapi({
      description: "on which examples the figures are: held-out ones of the training, or those of a test set",
    }),
    folds: z.number().int().optional(),
    reason: z
      .string()
      .optional()
      .openapi({ description: "why no example could be held out, so that there are no figures" }),
    detail: z.enum(["summary", "full"]),
    /** How many were held out, without those that are out of scope. With none there are no figures. */
    examples: z.number().int(),
    accuracy: z.number().optional(),
    accuracy_interval: interval.optional(),
    accuracy_estimate: accuracyEstimate.optional(),
    issue_count: z.number().int().optional(),
    label_noise: z.number().optional(),
    learning_curve: z
      .array(
        z
          .object({ examples: z.number().int(), accuracy: z.number(), interval: accuracyInterval })
          .openapi("LearningCurvePoint"),
      )
      .optional(),
    expected_accuracy: z.object({ "2x": accuracyEstimate, "5x": accuracyEstimate }).optional(),
    more_examples: z.array(z.object({ label, examples: z.number().int() }).openapi("MoreExamples")).optional(),
    train_accuracy: z.number().optional(),
    generalization_gap: z.number().optional(),
    automation: z.array(automation).optional(),
    macro_f1: z.number().optional(),
    micro_f1: z.number().optional(),
    log_loss: z.number().optional(),
    ece: z.number().optional(),
    ece_uncalibrated: z.number().optional(),
    reliability: z
      .array(
        z
          .object({
            confidence: z.number().openapi({ description: "the mean of the scores in the bin" }),
            accuracy: z.number().openapi({ description: "the share of them that is right" }),
            examples: z.number().int(),
          })
          .openapi("ReliabilityBin"),
      )
      .optional(),
    per_class: z.array(classMetrics).optional(),
    /** `matrix[true][predicted]`, both in the order of `labels`. */
    confusion: z.object({ labels: z.array(z.string()), matrix: z.array(z.array(z.number())) }).optional(),
    confused: z
      .array(
        z
          .object({
            label,
            predicted: label,
            count: z.number().int(),
            examples: z.array(z.string()).openapi({ description: "ids of at most 3 examples; none of inline ones" }),
          })
          .openapi("ConfusedPair"),
      )
      .optional(),
    out_of_scope: z
      .object({
        score: z.string(),
        threshold: z.number(),
        // Heads of older builds have no more than the threshold and the recall.
        in_scope_kept: z.number().nullable().optional(),
        expected_recall: z.number().nullable(),
        auroc: z.number().nullable().optional(),
        curve: z.array(z.object({ kept: z.number(), recall: z.number() })).optional(),
      })
      .nullable()
      .optional(),
    r2: z.number().nullable().optional(),
    mae: z.number().optional(),
    rmse: z.number().optional(),
    r2_interval: interval.optional(),
    mae_interval: interval.optional(),
    rmse_interval: interval.optional(),
    held_out_inputs: inputCounts.optional(),
  })
  .openapi("Evaluation");
export type Evaluation = DeepReadonly<z.output<typeof evaluation>>;

/** What a training with the backbone 'auto' chose among. */
const backboneCandidate = z
  .object({
    backbone: z.string().openapi({ description: "the id of a model" }),
    lexical: z.boolean().openapi({ description: "whether words are read beside the embedding" }),
    log_loss: z
      .number()
      .openapi({ description: "on held-out examples; for the task 'regression' the mean squared error" }),
    accuracy: z.number().nullable().openapi({ description: "on held-out examples; null but for one label an input" }),
  })
  .openapi("BackboneCandidate");

export const headTest = z
  .object({
    dataset: z.string(),
    evaluation: z.string().nullable().openapi({
      description:
        "the id of the evaluation, with all figures and the comparison with the version active then; null if it failed",
    }),
    accuracy: z.number().nullable().openapi({ description: "on that dataset; for regression R²" }),
    failure: z.object({ code: z.string(), message: z.string() }).nullable().openapi({
      description: "why the version could not be tested; null if it was",
    }),
  })
  .openapi("HeadTest");
export type HeadTest = DeepReadonly<z.output<typeof headTest>>;

export const head = z
  .object({
    object: z.literal("head"),
    id: z.string(),
    version: z.number().int(),
    active_version: z.number().int().nullable(),
    task,
    modality: z.enum(["text", "image", "embedding"]),
    labels: z.array(z.string()),
    dimensions: z.number().int(),
    backbone: backboneRevision,
    dataset: z.object({
      name: z.string().nullable(),
      revision: z.number().int().nullable(),
      examples: z.number().int(),
    }),
    training: z.object({
      method: z.enum(["head", "fine_tune", "zero_shot"]),
      examples: z.number().int(),
      iterations: z.number().int(),
      converged: z.boolean(),
      objective: z.number(),
      l2: z.number(),
      temperature: z.number(),
      // Heads trained before there were lexical features do not have it.
      lexical: z.boolean().optional().openapi({ description: "whether it reads words beside the embedding" }),
      value_range: interval.optional().openapi({ description: "what predictions are clamped to, with 'clamp'" }),
      candidates: z
        .array(backboneCandidate)
        .optional()
        .openapi({ description: "what was compared under the backbone 'auto', in the order of preference" }),
      labels: z
        .array(describedLabel)
        .optional()
        .openapi({ description: "labels whose names and descriptions it was trained on beside examples" }),
      choice: trainingChoice.optional(),
      milliseconds: z.number(),
      // Heads trained before these were counted do not have them.
      trained_parameters: z.number().int().optional(),
      total_parameters: z.number().int().optional(),
      operations: z.number().int().optional(),
      usd: z.number().optional(),
    }),
    evaluation: evaluation.nullable(),
    test: headTest.optional().openapi({ description: "how the version did on the 'test_dataset' of its training" }),
    sha256: z.string(),
    bytes: z.number().int(),
    created_at: unixSeconds,
  })
  .openapi("Head");
export type Head = DeepReadonly<z.output<typeof head>>;

export const promotion = z.strictObject({ version: z.number().int().positive() });

export const headReportQuery = z.strictObject({
  texts: z
    .enum(["true", "false"], { error: "texts is 'true' or 'false'" })
    .default("true")
    .openapi({ description: "whether the page shows texts of examples" }),
});

export const headExportQuery = z.strictObject({ format: z.enum(["json"]).default("json") });
export const headExport = z
  .object({
    object: z.literal("head.export"),
    id: z.string(),
    version: z.number().int(),
    format: z.literal("json"),
    task,
    labels: z.array(z.string()),
    dimensions: z.number().int(),
    backbone: backboneRevision,
    /** outputs × dimensions */
    weights: z.array(z.array(z.number())),
    lexical: z
      .object({
        buckets: z.number().int(),
        scale: z.number(),
        seen: z.array(z.number().int()),
        idf: z.array(z.number()),
        /** outputs × columns */
        weights: z.array(z.array(z.number())),
      })
      .nullable()
      .openapi({ description: "how a text's lexical features are made and weighed; see docs/lexical-features.md" }),
    visible_text: z
      .boolean()
      .openapi({ description: "invisible characters are removed from a text before its features are computed" }),
    bias: z.array(z.number()),
    temperature: z.number(),
    out_of_scope_threshold: z.number().nullable(),
    scope: z
      .object({
        figures: z.array(z.object({ name: z.string(), mean: z.number(), deviation: z.number(), weight: z.number() })),
        examples: z.number().int(),
        scores: z.array(z.number()),
        /** Of each label, and last of what is out of scope. */
        centroids: z.array(z.array(z.array(z.number()))).nullable(),
      })
      .nullable()
      .openapi({ description: "how it tells what is in scope; see docs/scope.md" }),
    thresholds: z
      .array(z.number())
      .nullable()
      .openapi({ description: "one a label, where any number of labels is predicted" }),
    value_range: interval.nullable().openapi({ description: "what a value is clamped to" }),
    formula: z.string(),
  })
  .openapi("HeadExport");
/** All that a prediction needs, by `formula`. */
export type HeadExport = DeepReadonly<z.output<typeof headExport>>;
