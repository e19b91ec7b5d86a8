/** Fine-tuning jobs in OpenAI's shape: fields that are unknown here are ignored. */
import { z } from "@hono/zod-openapi";
import { headTest, trainingChoice } from "./heads.ts";
import { type DeepReadonly, datasetRevision, name, unixSeconds } from "./schema.ts";

const MAX_EPOCHS = 100;
const MAX_BATCH_SIZE = 1_024;
const MAX_LEARNING_RATE_MULTIPLIER = 100;
const autoOrInteger = (max: number) =>
  z.union([z.literal("auto"), z.number().int().min(1).max(max)], {
    error: `it is 'auto' or a whole number from 1 to ${max}`,
  });
const multiplier = z.union([z.literal("auto"), z.number().positive().max(MAX_LEARNING_RATE_MULTIPLIER)], {
  error: `it is 'auto' or a number above 0, at most ${MAX_LEARNING_RATE_MULTIPLIER}`,
});
const newHyperparameters = z.looseObject({
  n_epochs: autoOrInteger(MAX_EPOCHS).default("auto"),
  batch_size: autoOrInteger(MAX_BATCH_SIZE).default("auto"),
  learning_rate_multiplier: multiplier.default("auto"),
});
export const defaultHyperparameters: FineTuningHyperparameters = newHyperparameters.parse({});

/** Which layers of the backbone a job trains, from the last: "head" for none, or all, or so many. */
const trainable = z.union([z.enum(["all", "head"]), z.strictObject({ last_layers: z.number().int().min(1) })], {
  error: "trainable is 'all', 'head' or {\"last_layers\": n}",
});
export type Trainable = DeepReadonly<z.output<typeof trainable>>;

const metadata = z
  .record(z.string().max(64), z.string().max(512))
  .refine((pairs) => Object.keys(pairs).length <= 16, { error: "metadata has at most 16 pairs" });

export const newFineTuningJob = z
  .looseObject({
    model: z.string().min(1).max(200),
    training_file: z.string().min(1).max(200).openapi({
      description: "a file's id, or 'dataset:' and the name of a dataset",
      example: "dataset:tickets",
    }),
    dataset_revision: datasetRevision.nullish(),
    validation_file: z.string().min(1).max(200).nullish(),
    seed: z.number().int().min(0).max(4_294_967_295).nullish(),
    suffix: name
      .nullish()
      .openapi({ description: "names the fine-tuned model; the same again makes a new revision of it" }),
    metadata: metadata.nullish(),
    head: name.optional().openapi({
      description:
        "the head that gets a new version; without it the job makes a model and promotes nothing, and its head is called by the job's id",
    }),
    promote: z.enum(["if_better", "always", "never"]).default("if_better").openapi({
      description:
        "whether the version becomes the head's active one. 'if_better' keeps the better of fine-tuned model and frozen head, and promotes it where that is the fine-tuned one or the head has no active version; without examples to compare on it promotes nothing. 'always' and 'never' keep the fine-tuned model",
    }),
    test_dataset: name.optional().openapi({
      description:
        "a dataset on which the new version is tested after the job, beside the head's active version. Under 'if_better' it is then promoted only if it is better there: its accuracy is higher, and the chance that it is worse by more than 0.005 is below 0.1",
    }),
    hyperparameters: newHyperparameters.optional(),
    method: z
      .looseObject({
        type: z.literal("supervised", { error: "the method is 'supervised'" }),
        supervised: z.looseObject({ hyperparameters: newHyperparameters.optional() }).optional(),
      })
      .optional(),
    trainable: trainable.optional().openapi({
      description:
        "which layers of the model are trained beside the head: all, none ('head'), or so many of the last. By default 'all' where the model has layers, else 'head'",
    }),
  })
  .openapi("NewFineTuningJob");
export type NewFineTuningJob = DeepReadonly<z.input<typeof newFineTuningJob>>;
export type FineTuningJobParams = DeepReadonly<z.output<typeof newFineTuningJob>>;

const candidate = z.enum(["head", "fine_tuned"]);
const autoOrNumber = z.union([z.literal("auto"), z.number().positive()]);
const hyperparameters = z.object({
  n_epochs: autoOrNumber,
  batch_size: autoOrNumber,
  learning_rate_multiplier: autoOrNumber,
});
export type FineTuningHyperparameters = DeepReadonly<z.output<typeof hyperparameters>>;

export const fineTuningJob = z
  .object({
    object: z.literal("fine_tuning.job"),
    id: z.string(),
    model: z.string(),
    status: z.enum(["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]),
    error: z.object({ code: z.string(), message: z.string(), param: z.string().nullable() }).nullable(),
    created_at: unixSeconds,
    finished_at: unixSeconds.nullable(),
    estimated_finish: z.null(),
    fine_tuned_model: z.string().nullable().openapi({
      description:
        "the job's model, once it has succeeded. Where 'graft.kind' is 'head', it is the unchanged backbone under another name",
    }),
    training_file: z.string(),
    validation_file: z.string().nullable(),
    hyperparameters,
    method: z.object({
      type: z.literal("supervised"),
      supervised: z.object({ hyperparameters }),
    }),
    seed: z.number().int(),
    metadata: z.record(z.string(), z.string()).nullable(),
    integrations: z.array(z.string()),
    organization_id: z.string(),
    result_files: z.array(z.string()),
    trained_tokens: z.null(),
    graft: z.object({
      head: z.string(),
      version: z.number().int().nullable(),
      promoted: z.boolean(),
      promote: z.enum(["if_better", "always", "never"]),
      trainable,
      attempt: z.number().int(),
      test: headTest.nullable().openapi({
        description:
          "how the version did on 'test_dataset'; null without one, and until it was tested, soon after the job's end",
      }),
      choice: trainingChoice.optional(),
      kind: candidate.nullable().openapi({
        description:
          "what the job has made: 'fine_tuned', layers of its own and a head on them, or 'head', a head on the unchanged backbone; null before it has succeeded",
      }),
      comparison: z
        .object({
          head_accuracy: z.number().openapi({ description: "of the frozen head; for regression, R²" }),
          fine_tuned_accuracy: z.number().openapi({ description: "of the fine-tuned model" }),
          test_examples: z.number().int(),
          p_value: z.number(),
          expected_gain: z
            .number()
            .openapi({ description: "fine_tuned_accuracy − head_accuracy, on examples that neither was trained on" }),
          chance_of_loss: z.number().min(0).max(1).openapi({
            description: "the probability that the fine-tuned model is worse by more than 0.005",
          }),
          verdict: z.enum(["better", "not_better", "inconclusive"]),
          kept: candidate
            .nullable()
            .openapi({ description: "which of the two is trained on all examples and kept; the other is not kept" }),
        })
        .nullable()
        .openapi({
          description:
            "both candidates on examples that they were not trained on; null before that, or where nothing could be compared",
        }),
    }),
  })
  .openapi("FineTuningJob");
export type FineTuningJob = DeepReadonly<z.output<typeof fineTuningJob>>;

export const fineTuningJobEvent = z
  .object({
    object: z.literal("fine_tuning.job.event"),
    id: z.string(),
    created_at: unixSeconds,
    level: z.enum(["info", "warn", "error"]),
    message: z.string(),
    type: z.enum(["message", "metrics"]),
    data: z.record(z.string(), z.number()).nullable(),
  })
  .openapi("FineTuningJobEvent");
export type FineTuningJobEvent = DeepReadonly<z.output<typeof fineTuningJobEvent>>;

export const fineTuningJobCheckpoint = z
  .object({
    object: z.literal("fine_tuning.job.checkpoint"),
    id: z.string(),
    created_at: unixSeconds,
    fine_tuning_job_id: z.string(),
    fine_tuned_model_checkpoint: z.string(),
    step_number: z.number().int(),
    metrics: z.record(z.string(), z.number()),
  })
  .openapi("FineTuningJobCheckpoint");
export type FineTuningJobCheckpoint = DeepReadonly<z.output<typeof fineTuningJobCheckpoint>>;
