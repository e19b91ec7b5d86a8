/** The queue of live inputs of a head that are to be labelled. */
import { z } from "@hono/zod-openapi";
import { limits } from "../core/limits.ts";
import { exampleId, searchText } from "./examples.ts";
import { type DeepReadonly, label, unixSeconds, withLimit } from "./schema.ts";

const MAX_RETENTION_DAYS = 365;
const DEFAULT_RETENTION_DAYS = 30;

const samplingRate = z.number().min(0).max(1).openapi({
  description: "the share of all different inputs that is kept; a hash of the input decides",
});
const maxScore = z.number().gt(0).max(1).openapi({ description: "inputs whose score is below this are kept as well" });
const retentionDays = z
  .number()
  .int()
  .min(1)
  .max(MAX_RETENTION_DAYS)
  .openapi({ description: "an input that is not labelled is deleted after so many days" });

export const newHeadCapture = z
  .strictObject({
    sampling_rate: samplingRate,
    max_score: maxScore.optional(),
    retention_days: retentionDays.default(DEFAULT_RETENTION_DAYS),
  })
  .nullable()
  .openapi("NewHeadCapture", { description: "null ends the capture; what is in the queue stays" });
export type NewHeadCaptureRequest = DeepReadonly<z.input<typeof newHeadCapture>>;
export type NewHeadCapture = DeepReadonly<NonNullable<z.output<typeof newHeadCapture>>>;

export const headCapture = z
  .object({
    object: z.literal("head.capture"),
    id: z.string(),
    enabled: z.boolean().openapi({ description: "whether live inputs are kept" }),
    sampling_rate: samplingRate.nullable(),
    max_score: maxScore.nullable(),
    retention_days: retentionDays.nullable(),
    inputs: z.number().int().openapi({ description: "how many are in the queue" }),
    bytes: z.number().int(),
    updated_at: unixSeconds.nullable().openapi({ description: "when it was set; null: it is not" }),
  })
  .openapi("HeadCapture");
export type HeadCapture = DeepReadonly<z.output<typeof headCapture>>;

const capturedPrediction = z.object({
  label: z.string().optional(),
  labels: z.array(z.string()).optional().openapi({ description: "at most twenty" }),
  value: z.number().optional(),
  score: z.number().optional().openapi({ description: "of the most probable label" }),
  in_scope: z.boolean().optional(),
});
export type CapturedPrediction = DeepReadonly<z.output<typeof capturedPrediction>>;

export const capturedInput = z
  .object({
    object: z.literal("captured_input"),
    id: z.string(),
    head: z.string(),
    version: z.number().int(),
    text: z.string().optional(),
    embedding: z.array(z.number()).optional(),
    prediction: capturedPrediction.openapi({ description: "what was answered" }),
    created_at: unixSeconds.openapi({ description: "when it was predicted, in Unix seconds" }),
    expires_at: unixSeconds.openapi({ description: "when it is deleted if it is not labelled, in Unix seconds" }),
  })
  .openapi("CapturedInput");
export type CapturedInput = DeepReadonly<z.output<typeof capturedInput>>;

const capturedLabel = z.strictObject({
  id: exampleId,
  label: label.optional(),
  labels: withLimit(z.array(label), limits.labels_per_example, "labels").optional(),
  value: z.number().optional(),
});
export type CapturedLabel = DeepReadonly<z.output<typeof capturedLabel>>;

export const newCapturedLabels = z
  .strictObject({
    items: withLimit(z.array(capturedLabel).min(1), limits.examples_per_feedback, "items").openapi({
      description: "captured inputs by their ids, each with what an example of the head's task has",
    }),
  })
  .openapi("NewCapturedLabels");
export type NewCapturedLabels = DeepReadonly<z.input<typeof newCapturedLabels>>;

export const capturedDeletion = z
  .strictObject({
    ids: withLimit(z.array(exampleId).min(1), limits.ids_per_deletion, "ids").optional(),
    contains: searchText.optional().openapi({ description: "a part of the text, taken literally" }),
  })
  .openapi("CapturedDeletion", { description: "exactly one of ids and contains" });
export type CapturedDeletion = DeepReadonly<z.input<typeof capturedDeletion>>;

export const deletedCaptured = z
  .object({
    object: z.literal("head.captured_deletion"),
    id: z.string().openapi({ description: "the head's name" }),
    deleted: z.number().int().openapi({ description: "inputs that are gone" }),
  })
  .openapi("DeletedCaptured");
export type DeletedCaptured = DeepReadonly<z.output<typeof deletedCaptured>>;
