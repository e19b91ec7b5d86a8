/** What an attempt is given, and what its trainings read. */
import { setImmediate as eventLoop } from "node:timers/promises";
import type { Backbone } from "../../backbones/backbone.ts";
import { isTrainable, type TrainableBackbone, trainableLayers } from "../../backbones/deltas.ts";
import type { StaticBackbone } from "../../backbones/text-static.ts";
import { type EncoderBackbone, isEncoder } from "../../backbones/text-use.ts";
import { hasTrainableLayers } from "../../core/lifecycle/job.ts";
import type { Cost } from "../../core/linear/types.ts";
import type { TensorBackend } from "../../core/tensors.ts";
import type { Submission } from "../../jobs/protocol.ts";
import type { WorkerClient } from "../client/worker-client.ts";
import type { Log } from "../log.ts";
import type { Cancellation } from "./cancellation.ts";
import type { EmbeddingMatrix } from "./embedding-matrix.ts";
import type { Examples } from "./examples.ts";
import type { Reporter } from "./reporter.ts";
import { embedLazily } from "./stages/embed.ts";
import type { TrainingStates } from "./training-states.ts";

export interface AttemptContext {
  readonly submission: Submission;
  readonly workerClient: WorkerClient;
  readonly cancellation: Cancellation;
  readonly tensors: TensorBackend;
  /** null if the inputs are embeddings. */
  readonly backbone: Backbone | null;
  /** The bytes that an attempt may hold in memory, and the operations of one of its trainings. */
  readonly budget: Cost;
  /** A larger artifact is uploaded in parts. */
  readonly maxSingleUploadBytes: number;
  /** The operations of a training of layers after which its state is saved, at the end of an epoch. */
  readonly operationsPerSave: number;
  readonly log: Log;
}

/** The layers of the backbone that a job trains. */
export type TrainedLayers = StaticLayers | EncoderLayers;

export interface StaticLayers {
  readonly kind: "static";
  readonly base: StaticBackbone;
  /** Whether the words' rows are trained too, or only the convolution and the head. */
  readonly trainRows: boolean;
}

export interface EncoderLayers {
  readonly kind: "encoder";
  readonly base: EncoderBackbone;
  /** How many layers are trained, from the last. */
  readonly layers: number;
}

/** What all trainings of an attempt read. */
export interface TrainingContext {
  readonly submission: Submission;
  readonly examples: Examples;
  readonly tensors: TensorBackend;
  /** The embedding of a row's input. */
  readonly embed: (row: number) => Float32Array | Promise<Float32Array>;
  /** null for the caller's own embeddings. */
  readonly backbone: Backbone | null;
  /** null if the head alone is trained. */
  readonly layers: TrainedLayers | null;
  /** What a training at this endpoint may cost. */
  readonly budget: Cost;
  /** Counts the operations of a training that has ended. */
  readonly countOperations: (operations: number) => void;
  /** Sends a progress message, without waiting for it. */
  readonly report: Reporter["sendProgress"];
  /** null: a training of layers that is interrupted begins anew. */
  readonly trainingStates: TrainingStates | null;
  /** Lets the event loop run. Throws if the attempt is to end. */
  readonly yieldToEventLoop: () => Promise<void>;
}

/** @param embeddings the matrix that a backbone's embeddings are written to; null if they are made on demand */
export function makeTrainingContext(
  { submission, backbone, tensors, budget, cancellation }: AttemptContext,
  examples: Examples,
  embeddings: EmbeddingMatrix | null,
  { report, trainingStates, countOperations }: Pick<TrainingContext, "report" | "trainingStates" | "countOperations">,
): TrainingContext {
  const { texts, targets } = examples;
  const embedsLocally = backbone?.cost === "local";
  const embeddingBytes = embedsLocally ? 0 : 4 * submission.dimensions * targets.length;
  const usedBytes = embeddingBytes + texts.reduce((sum, { length }) => sum + 2 * length, 0);
  return {
    submission,
    examples,
    tensors,
    embed: embedsLocally ? embedLazily(backbone, texts) : (embeddings ?? examples.embeddings).at,
    backbone,
    layers: chooseLayers(submission, backbone),
    budget: { bytes: budget.bytes - usedBytes, operations: budget.operations },
    countOperations,
    report,
    trainingStates,
    yieldToEventLoop: async () => {
      await eventLoop();
      cancellation.signals.pause.throwIfAborted();
    },
  };
}

function chooseLayers({ trainable }: Submission, backbone: Backbone | null): TrainedLayers | null {
  if (backbone === null || !isTrainable(backbone) || !hasTrainableLayers(trainable)) return null;
  return makeTrainedLayers(backbone, typeof trainable === "object" ? trainable.last_layers : trainableLayers(backbone));
}

/** So many layers of a backbone, from the last. */
export function makeTrainedLayers(base: TrainableBackbone, layers: number): TrainedLayers {
  if (isEncoder(base)) return { kind: "encoder", base, layers };
  // The last layer is the convolution, the one before it the rows of words.
  return { kind: "static", base, trainRows: layers > 1 };
}
