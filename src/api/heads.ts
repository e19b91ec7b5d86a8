import { z } from "@hono/zod-openapi";
import { limits } from "../core/limits.ts";
import { label, labelledExample, name, unixSeconds, withLimit } from "./schema.ts";

export const task = z.enum(["single_label", "multi_label", "regression"]);
/** A version in a path. */
export const versionNumber = z
  .string()
  .regex(/^[1-9][0-9]{0,8}$/, "a version is a number from 1")
  .transform(Number)
  .openapi({ type: "integer", minimum: 1 });

export const newHead = z
  .strictObject({
    name,
    dataset: name.optional(),
    examples: withLimit(z.array(labelledExample), limits.examples_per_training_request, "examples").optional(),
    backbone: z.string().min(1).max(200).optional(),
    hyperparameters: z
      .strictObject({
        l2: z
          .union([z.literal("auto"), z.number().positive().max(1e12)], { error: "l2 is 'auto' or a positive number" })
          .default("auto"),
        class_weight: z
          .union([z.literal("balanced"), z.null()], { error: "class_weight is 'balanced' or null" })
          .default(null),
        lexical: z
          .union([z.literal("auto"), z.boolean()], { error: "lexical is 'auto', true or false" })
          .default("auto"),
        seed: z.number().int().min(0).max(4_294_967_295).default(0),
      })
      .prefault({}),
    evaluation: z
      .strictObject({
        method: z.enum(["auto", "cross_validation", "holdout", "none"]).default("auto"),
        folds: z.number().int().min(2).max(20).optional(),
        fraction: z.number().min(0.05).max(0.5).optional(),
        detail: z.enum(["summary", "full"]).default("summary"),
      })
      .prefault({}),
    promote: z.boolean().default(true),
    method: z.enum(["auto", "head", "fine_tune"]).default("auto"),
  })
  .refine((params) => (params.dataset === undefined) !== (params.examples === undefined), {
    error: "give either a dataset or examples",
    path: ["dataset"],
  })
  .openapi("NewHead");

const classMetrics = z.object({
  label,
  precision: z.number(),
  recall: z.number(),
  f1: z.number(),
  support: z.number(),
});
export const evaluation = z
  .object({
    method: z.enum(["cross_validation", "holdout", "none"]),
    folds: z.number().int().optional(),
    detail: z.literal("summary"),
    examples: z.number().int(),
    accuracy: z.number().optional(),
    accuracy_interval: z.array(z.number()).length(2).optional(),
    macro_f1: z.number().optional(),
    micro_f1: z.number().optional(),
    log_loss: z.number().optional(),
    ece: z.number().optional(),
    ece_uncalibrated: z.number().optional(),
    per_class: z.array(classMetrics).optional(),
    confusion: z.object({ labels: z.array(z.string()), matrix: z.array(z.array(z.number())) }).optional(),
    out_of_scope: z
      .object({ score: z.string(), threshold: z.number(), expected_recall: z.number().nullable() })
      .nullable()
      .optional(),
    r2: z.number().nullable().optional(),
    mae: z.number().optional(),
    rmse: z.number().optional(),
  })
  .openapi("Evaluation");

const backbone = z.object({ id: z.string(), revision: z.string() });

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
    backbone,
    dataset: z.object({
      name: z.string().nullable(),
      revision: z.number().int().nullable(),
      examples: z.number().int(),
    }),
    training: z.object({
      method: z.enum(["head", "fine_tune"]),
      examples: z.number().int(),
      iterations: z.number().int(),
      converged: z.boolean(),
      objective: z.number(),
      l2: z.number(),
      temperature: z.number(),
      lexical: z.boolean().optional().openapi({ description: "whether it reads words beside the embedding" }),
      milliseconds: z.number(),
    }),
    evaluation: evaluation.nullable(),
    sha256: z.string(),
    bytes: z.number().int(),
    created_at: unixSeconds,
  })
  .openapi("Head");

export const headExport = z
  .object({
    object: z.literal("head.export"),
    id: z.string(),
    version: z.number().int(),
    format: z.literal("json"),
    task,
    labels: z.array(z.string()),
    dimensions: z.number().int(),
    backbone,
    weights: z.array(z.array(z.number())),
    lexical: z
      .object({
        buckets: z.number().int(),
        scale: z.number(),
        seen: z.array(z.number().int()),
        idf: z.array(z.number()),
        weights: z.array(z.array(z.number())),
      })
      .nullable()
      .openapi({ description: "how a text's lexical features are made and weighed; see docs/lexical-features.md" }),
    bias: z.array(z.number()),
    temperature: z.number(),
    out_of_scope_threshold: z.number().nullable(),
    formula: z.string(),
  })
  .openapi("HeadExport");
