/**
 * The messages between the Worker and a batch endpoint, as schemas that both sides check. docs/batch-endpoint.schema.json is
 * made from them. Both sides ignore unknown fields, so that either may be updated first.
 */
import { z } from "zod";
import type { Candidate, Comparison } from "../core/evaluation/comparison.ts";
import type { TrainingOptions } from "../core/linear/types.ts";

const sha256 = z.string().regex(/^[0-9a-f]{64}$/, "a SHA-256 is 64 hex digits");
const count = z.int().min(0);

/** Uploaded bytes, named by their SHA-256. */
export const artifact = z.object({ sha256, bytes: z.int().min(1) }).meta({ title: "Artifact" });
export type Artifact = z.infer<typeof artifact>;

/** Which layers are trained: all, the last n, or the head alone. */
const trainable = z.union([z.enum(["all", "head"]), z.object({ last_layers: z.int().min(1) })]);
export type Trainable = z.infer<typeof trainable>;

/** Older endpoints do not have it. */
const endpointRestarted = z
  .boolean()
  .optional()
  .meta({ description: "true: the attempt ran in an earlier process of the endpoint, and ended with that" });

const autoOrPositive = z.union([z.literal("auto"), z.number().positive()]).optional();

/** `PUT <batch endpoint>/v1/jobs/{id}/attempts/{n}`: run this attempt at a job. Sending it again starts no second one. */
export const submission = z
  .object({
    object: z.literal("batch.job"),
    id: z.string().regex(/^ftjob-[0-9a-f]{32}$/),
    attempt: z.int().min(1),
    tenant: z.string().min(1).meta({ description: "whose job it is: for a fair order, and for logs" }),
    token: z.string().min(1).meta({ description: "the bearer token of this attempt's callbacks, and of nothing else" }),
    created_at: z.int().meta({ description: "Unix seconds: when the job was created" }),
    task: z.enum(["single_label", "multi_label", "regression"]),
    modality: z.enum(["text", "embedding"]),
    backbone: z
      .object({ id: z.string(), revision: z.string() })
      .nullable()
      .meta({ description: "null where the inputs are embeddings" }),
    dimensions: z.int().min(1),
    out_of_scope_label: z.string().nullable(),
    trainable,
    hyperparameters: z.object({
      epochs: autoOrPositive,
      batch_size: autoOrPositive,
      learning_rate_multiplier: autoOrPositive,
      l2: z.union([z.literal("auto"), z.number().positive()]),
      class_weight: z.literal("balanced").nullable(),
      lexical: z.union([z.literal("auto"), z.boolean()]),
      seed: z.int().min(0),
    }),
    clamp: z
      .boolean()
      .optional()
      .meta({ description: "regression: whether outputs are clamped to the range of the values" }),
    in_scope_recall: z.number().optional().meta({
      description:
        "one label: the share of inputs in scope that the head's threshold keeps. Older Workers do not send it",
    }),
    evaluation: z.object({
      method: z.enum(["auto", "cross_validation", "holdout", "none"]),
      folds: z.int().min(2).optional(),
      fraction: z.number().positive().optional(),
      detail: z.enum(["summary", "full"]).optional().meta({
        description: "full: also a learning curve. Older Workers do not send it: summary",
      }),
    }),
    comparison: z.enum(["cross_fit", "held_out"]).optional().meta({
      description:
        "cross_fit: every example judges candidates that were trained without it; held_out: those marked as held out do. Older Workers do not send it: held_out",
    }),
    sample: z.int().min(2).optional().meta({
      description:
        "train and compare on so many of the examples alone; the answer to `evaluated` then ends the attempt. Older Workers do not send it",
    }),
    edge_budget: z
      .object({ bytes: count, operations: count })
      .meta({ description: "what the frozen head that the job is compared with may cost" }),
    estimate: z
      .object({ bytes: count, operations: count })
      .optional()
      .meta({ description: "what an attempt costs, roughly: for the order of jobs. Older Workers do not send it" }),
    checkpoint: artifact.nullable().meta({ description: "the last that an earlier attempt uploaded" }),
    heartbeat_seconds: z.number().positive().meta({ description: "the longest silence between two messages" }),
  })
  .meta({ title: "Submission" });
export type Submission = z.infer<typeof submission>;

/** The options of a training as core takes them. `POST /v1/heads` has the same hyperparameters and evaluation settings. */
export function toTrainingOptions(params: {
  readonly hyperparameters: Omit<Submission["hyperparameters"], "epochs" | "batch_size" | "learning_rate_multiplier">;
  readonly evaluation: Submission["evaluation"];
  readonly clamp?: boolean | undefined;
  readonly in_scope_recall?: number | undefined;
  readonly out_of_scope?: { readonly in_scope_recall: number } | undefined;
}): Omit<TrainingOptions, "budget"> {
  const { l2, class_weight, lexical, seed } = params.hyperparameters;
  const { method, folds, fraction, detail } = params.evaluation;
  return {
    l2,
    classWeight: class_weight,
    seed,
    lexical,
    clamp: params.clamp ?? false,
    inScopeRecall: params.in_scope_recall ?? params.out_of_scope?.in_scope_recall,
    evaluation: {
      method,
      ...(folds === undefined ? {} : { folds }),
      ...(fraction === undefined ? {} : { fraction }),
      ...(detail === undefined ? {} : { detail }),
    },
  };
}

/** `POST <batch endpoint>/v1/jobs/{id}/attempts/{n}/stop`: end the attempt; `pause` uploads a checkpoint first. */
export const stop = z
  .object({
    object: z.literal("batch.stop"),
    id: z.string(),
    attempt: z.int().min(1),
    action: z.enum(["cancel", "pause"]),
  })
  .meta({ title: "Stop" });
export type Stop = z.infer<typeof stop>;

/** The answer to a submission or a stop. */
export const acknowledgement = z
  .object({
    object: z.literal("batch.attempt"),
    id: z.string(),
    attempt: z.int(),
    status: z.enum(["running", "stopping", "ended"]),
    endpoint_restarted: endpointRestarted,
  })
  .meta({ title: "Acknowledgement" });

/** `GET <batch endpoint>/health` */
export const health = z
  .object({ status: z.enum(["ok", "stopping"]), running: count, capacity: count })
  .meta({ title: "Health" });

/** One line of `GET …/data`: an example. The last line has `end`; data without it is not whole. */
export const dataLine = z
  .union([
    z.object({
      text: z.string().optional(),
      embedding: z.string().optional().meta({ description: "base64 of 32-bit floats, little-endian" }),
      target: z
        .union([z.string(), z.array(z.string()), z.number()])
        .meta({ description: "a label, a list of labels or a number, as the task wants" }),
      group: z.string().meta({ description: "the same for inputs that differ in case and spacing alone" }),
      held_out: z
        .boolean()
        .meta({ description: "judges the candidates, which are trained without it, unless they are cross-fitted" }),
      id: z.string().optional().meta({
        description: "of the example, for the evaluation. Lines of files have none, and older Workers send none",
      }),
      position: count.optional().meta({
        description: "of the example in its dataset, for the head's sketch; left out as the id is",
      }),
    }),
    z.object({
      end: z.literal(true),
      rows: count,
      revision: z.int().nullable().meta({ description: "of the dataset; null for files" }),
    }),
  ])
  .meta({ title: "DataLine" });
export type DataLine = z.infer<typeof dataLine>;

const candidate: z.ZodType<Candidate> = z.enum(["head", "fine_tuned"]);

const MAX_EXAMPLES = 1_000_000;

/** How both candidates did on examples that they were not trained on. */
export const comparison = z
  .object({
    test_examples: count.max(MAX_EXAMPLES),
    head_accuracy: z.number().meta({ description: "for regression, R²" }),
    fine_tuned_accuracy: z.number(),
    only_head: count
      .max(MAX_EXAMPLES)
      .meta({ description: "examples that the head alone got right; for regression, nearer" }),
    only_fine_tuned: count.max(MAX_EXAMPLES),
    gain_error: z.number().min(0).optional().meta({
      description: "for regression, the standard error of the difference of R². Without it the counts decide",
    }),
  })
  .refine(({ test_examples, only_head, only_fine_tuned }) => only_head + only_fine_tuned <= test_examples, {
    error: "more examples were decided than there are",
    path: ["test_examples"],
  })
  .meta({ title: "Judgement" }) satisfies z.ZodType<Comparison>;

/** Names everything that an attempt made. It is signed, as every message is. */
const manifest = z.object({
  artifact: artifact.meta({ description: "the head" }),
  backbone: z
    .object({ artifact, parameters: count, dimensions: z.int().min(1) })
    .nullish()
    .meta({ description: "the trained layers, and how many numbers they are; null where the backbone is as it was" }),
  candidate,
  dataset: z.object({ revision: z.int().nullable(), examples: z.int().min(1) }),
  training: z.object({
    examples: z.int().min(1),
    iterations: count,
    converged: z.boolean(),
    objective: z.number(),
    l2: z.number(),
    temperature: z.number(),
    lexical: z.boolean(),
    milliseconds: count,
    operations: count.optional().meta({
      description: "floating-point operations of all trainings of the job. Older endpoints do not send it",
    }),
  }),
  evaluation: z.looseObject({ method: z.string() }).nullable(),
});
export type Manifest = z.infer<typeof manifest>;

const metrics = z
  .record(z.string().max(64), z.number())
  .refine((given) => Object.keys(given).length <= 100, { error: "there are at most 100 metrics" });

const messageBody = z.discriminatedUnion("type", [
  z.object({ type: z.literal("heartbeat") }),
  z.object({
    type: z.literal("progress"),
    step: count.meta({ description: "rises over the attempt; one event a step is kept" }),
    message: z.string().max(500),
    metrics,
  }),
  z.object({ type: z.literal("checkpoint"), step: count, artifact, metrics }),
  z.object({
    type: z.literal("evaluated"),
    judgement: comparison,
    cost: z.object({ operations: count, milliseconds: count }).optional().meta({
      description:
        "floating-point operations of all trainings of the job, and what the attempt has taken. Older endpoints do not send it",
    }),
  }),
  z.object({ type: z.literal("finished"), manifest }),
  z.object({
    type: z.literal("failed"),
    message: z.string().max(1000),
    retryable: z.boolean().meta({ description: "whether another attempt may do better" }),
    endpoint_restarted: endpointRestarted,
  }),
  z
    .object({ type: z.literal("stopped") })
    .meta({ description: "the attempt has ended as it was told to, or because its machine goes away" }),
]);

/** `POST …/messages`: a message from an attempt. Each one counts as a heartbeat. */
export const message = z
  .intersection(z.object({ id: z.string().meta({ description: "of the job" }), attempt: z.int().min(1) }), messageBody)
  .meta({ title: "Message" });
export type Message = z.infer<typeof messageBody>;

/** The answer to a message. */
export const directive = z
  .object({
    object: z.literal("batch.directive"),
    directive: z
      .enum(["continue", "pause", "cancel", "end"])
      .meta({ description: "pause: upload a checkpoint, then stop; end: the attempt is over, nothing more is needed" }),
    refit: candidate.nullable().meta({ description: "after `evaluated`: which candidate to train on all examples" }),
  })
  .meta({ title: "Directive" });
export type Directive = z.infer<typeof directive>;

/** `POST …/artifacts/{sha256}/uploads` asks for an upload in parts. All parts but the last have exactly `part_bytes`. */
export const uploadRequest = z.object({ bytes: z.int().min(1) }).meta({ title: "UploadRequest" });
export const upload = z
  .object({ object: z.literal("batch.upload"), upload_id: z.string(), part_bytes: z.int() })
  .meta({ title: "Upload" });
export const uploadedPart = z.object({ part: z.int().min(1), etag: z.string() }).meta({ title: "UploadedPart" });
export const completion = z.object({ parts: z.array(uploadedPart).min(1).max(10_000) }).meta({ title: "Completion" });

/** A larger artifact is uploaded in parts. */
export const MAX_SINGLE_UPLOAD_BYTES = 64 * 1024 * 1024;
export const PART_BYTES = 16 * 1024 * 1024;
