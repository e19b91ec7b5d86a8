/**
 * What a fine-tuning job costs, estimated from what is known when it is created. It decides the order of jobs
 * (job-order.ts), and which may run beside a large one; it is no bound. An attempt trains the head, and the layers if
 * there are any, on each half of the examples for the comparison, and on all of them.
 */
import { DEFAULT_BATCH_SIZE, DEFAULT_FILTERS, resolveEpochs, stepOperations } from "./fine-tuning-cost.ts";
import type { Task } from "./head.ts";
import { type CostOptions, estimateCost, OPERATIONS_PER_TEXT_BYTE } from "./linear/cost.ts";
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
  /** null: no layers are trained. */
  readonly layers: { readonly epochs: number | "auto"; readonly batchSize: number | "auto" } | null;
}

/**
 * Evaluations of the objective in a head's training, with those that choose its penalty. At 12 GFLOP a second, that is
 * about the time of the jobs that `npm run bench -- jobs` measures.
 */
const EVALUATIONS_PER_HEAD = 200;
/** Bytes of text for each word, with the space after it. */
const BYTES_PER_WORD = 6;
/** A text's copies in memory: two bytes a character, and its words. */
const BYTES_PER_TEXT_BYTE = 3;

/** The floating-point operations of an attempt, and the bytes of its data and arrays. */
export function estimateJobCost(size: JobSize, options: CostOptions): Cost {
  const { task, dimensions, textBytes, layers } = size;
  const [examples, outputs] = [Math.max(1, size.examples), Math.max(1, size.labels)];
  const arrays = estimateCost({ task, examples, dimensions, outputs, textBytes }, options).bytes;
  const bytes = arrays + BYTES_PER_TEXT_BYTE * textBytes;
  const evaluation = objectiveOperations({ examples, dimensions, outputs, columns: 0, entries: 0 });
  const head = EVALUATIONS_PER_HEAD * evaluation + OPERATIONS_PER_TEXT_BYTE * textBytes;
  if (layers === null) return toCost(2 * head, bytes);
  const batchSize = layers.batchSize === "auto" ? DEFAULT_BATCH_SIZE : layers.batchSize;
  const shape = { dimensions, filters: DEFAULT_FILTERS, outputs };
  /** Of a training on a part of the examples. */
  const training = (part: number) => {
    const texts = Math.ceil(part * examples);
    const words = (part * textBytes) / BYTES_PER_WORD;
    const epoch = stepOperations(shape, words, texts, Math.ceil(texts / batchSize));
    return resolveEpochs(layers.epochs, texts, batchSize) * epoch;
  };
  return toCost(2 * head + 2 * training(0.5) + training(1), bytes);
}

function toCost(operations: number, bytes: number): Cost {
  const round = (value: number) => Math.min(Math.ceil(value), Number.MAX_SAFE_INTEGER);
  return { operations: round(operations), bytes: round(bytes) };
}
