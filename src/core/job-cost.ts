/**
 * What a fine-tuning job costs, estimated from what is known when it is created. It decides the order of jobs
 * (job-order.ts), and which may run beside a large one; it is no bound. An attempt trains the head, and the layers if
 * there are any, without each fold of the examples for the comparison, and on all of them.
 */
import {
  DEFAULT_BATCH_SIZE,
  DEFAULT_FILTERS,
  ENCODER_BATCH_SIZE,
  encoderEpochs,
  encoderOperations,
  resolveEpochs,
  stepOperations,
  type TransformerShape,
} from "./fine-tuning-cost.ts";
import type { Task } from "./head.ts";
import { type CostOptions, estimateCost, OPERATIONS_PER_TEXT_BYTE } from "./linear/cost.ts";
import { comparisonFoldCount } from "./linear/split.ts";
import type { Cost } from "./linear/types.ts";
import { objectiveOperations } from "./linear/workload.ts";

export interface JobSize {
  readonly task: Task;
  readonly examples: number;
  /** 1 for regression. */
  readonly labels: number;
  readonly dimensions: number;
  /** Of all inputs; 0 if they are embeddings. */
  readonly textBytes: number;
  /** Whether nothing is trained on all examples after the comparison. */
  readonly onlyCompares?: boolean;
  /** Whether the candidates are compared on other examples, and not on folds. */
  readonly hasTestSet?: boolean;
  /** null: no layers are trained. */
  readonly layers: {
    readonly epochs: number | "auto";
    readonly batchSize: number | "auto";
    /** null: those of a static backbone. */
    readonly encoder: TrainedEncoder | null;
  } | null;
}

/** A sentence encoder's shape, and how many of its layers are trained, from the last. */
export interface TrainedEncoder extends TransformerShape {
  readonly layers: number;
}

/**
 * Evaluations of the objective in a head's training, with those that choose its penalty. At 12 GFLOP a second, that is
 * about the time of the jobs that `npm run bench -- jobs` measures.
 */
const EVALUATIONS_PER_HEAD = 200;
/** Bytes of text for each word, with the space after it. */
const BYTES_PER_WORD = 6;
/** Bytes of text for each sub-word of an encoder. */
export const BYTES_PER_TOKEN = 4.5;
/** A text's copies in memory: two bytes a character, and its words. */
const BYTES_PER_TEXT_BYTE = 3;

/** The floating-point operations of an attempt, and the bytes of its data and arrays. */
export function estimateJobCost(size: JobSize, options: CostOptions): Cost {
  const { task, dimensions, textBytes, layers, onlyCompares = false, hasTestSet = false } = size;
  const [examples, outputs] = [Math.max(1, size.examples), Math.max(1, size.labels)];
  const arrays = estimateCost({ task, examples, dimensions, outputs, textBytes }, options).bytes;
  const bytes = arrays + BYTES_PER_TEXT_BYTE * textBytes;
  const evaluation = objectiveOperations({ examples, dimensions, outputs, columns: 0, entries: 0 });
  const head = EVALUATIONS_PER_HEAD * evaluation + OPERATIONS_PER_TEXT_BYTE * textBytes;
  const folds = hasTestSet ? 1 : comparisonFoldCount(examples);
  if (layers === null) return toCost(folds * head, bytes);
  /** Of a training on a part of the examples. */
  const training = (part: number) =>
    layersOperations(layers, dimensions, outputs, Math.ceil(part * examples), part * textBytes);
  const refit = onlyCompares ? 0 : training(1);
  return toCost(folds * head + folds * training(hasTestSet ? 1 : 1 - 1 / folds) + refit, bytes);
}

function layersOperations(
  { epochs, batchSize, encoder }: NonNullable<JobSize["layers"]>,
  dimensions: number,
  outputs: number,
  texts: number,
  textBytes: number,
): number {
  if (encoder !== null) {
    const { layers } = encoder;
    const epoch = encoderOperations(encoder, { layers, tokens: textBytes / BYTES_PER_TOKEN, texts, outputs });
    return encoderEpochs(epochs, texts, batchSize === "auto" ? ENCODER_BATCH_SIZE : batchSize) * epoch;
  }
  const size = batchSize === "auto" ? DEFAULT_BATCH_SIZE : batchSize;
  const shape = { dimensions, filters: DEFAULT_FILTERS, outputs };
  const epoch = stepOperations(shape, textBytes / BYTES_PER_WORD, texts, Math.ceil(texts / size));
  return resolveEpochs(epochs, texts, size) * epoch;
}

function toCost(operations: number, bytes: number): Cost {
  const round = (value: number) => Math.min(Math.ceil(value), Number.MAX_SAFE_INTEGER);
  return { operations: round(operations), bytes: round(bytes) };
}
