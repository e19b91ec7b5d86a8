/** A whole training on several threads, with checkpoints. An interrupted and resumed training gives the same table. */
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { seededRandom } from "../core/random.ts";
import { readCheckpoint, trainingFingerprint, writeCheckpoint } from "./checkpoint.ts";
import type { Corpus, TableShape } from "./corpus.ts";
import { compileKernels, sharedMemory } from "./kernels.ts";
import { makeLayout } from "./layout.ts";
import type { SourceLosses, StepRange, ThreadSetup } from "./thread.ts";
import type { Hyperparameters } from "./trainer.ts";

/** The standard deviation of a table's initial numbers. */
const INITIAL_DEVIATION = 0.05;
const STEPS_PER_REPORT = 1_000;
const STEPS_PER_CHECKPOINT = 3_000;

export interface RunOptions {
  readonly threads: number;
  /** The checkpoint's file. If it exists, the training resumes from it. The file stays after the end. */
  readonly checkpoint: string;
  readonly progress: (line: string) => void;
  /** For tests: stops after so many steps, as if interrupted. */
  readonly stopAfter?: number;
}

/**
 * Trains a table: vocabulary + buckets rows × dimensions, row-major; null if it stopped before its last step. Throws a
 * UsageError if the checkpoint belongs to another training or the training needs too much memory, and a failed thread's
 * error.
 */
export async function pretrain(
  corpus: Corpus,
  shape: TableShape,
  hyperparameters: Hyperparameters,
  { threads, checkpoint, progress, stopAfter = Number.POSITIVE_INFINITY }: RunOptions,
): Promise<Float32Array | null> {
  const layout = makeLayout(corpus, shape, threads);
  const memory = sharedMemory(layout.bytes);
  const table = new Float32Array(memory.buffer, layout.table, (shape.vocabulary + shape.buckets) * shape.dimensions);
  const fingerprint = trainingFingerprint(corpus, shape, hyperparameters);
  const first = readCheckpoint(checkpoint, fingerprint, memory, layout);
  if (first === 0) initialise(table, hyperparameters.seed);
  else progress(`Going on from step ${first}.`);

  const { steps } = hyperparameters;
  const end = Math.min(steps, first + stopAfter);
  const setup: Omit<ThreadSetup, "index"> = {
    threads,
    barrier: new Int32Array(new SharedArrayBuffer(8)),
    memory,
    module: await compileKernels(),
    corpus: { ...corpus, vocabulary: [] },
    shape,
    hyperparameters,
    layout,
  };
  const workers: Worker[] = [];
  try {
    for (let index = 0; index < threads; index++)
      workers.push(new Worker(join(import.meta.dirname, "thread.ts"), { workerData: { ...setup, index } }));
    await Promise.all(workers.map(nextMessage));
    const started = performance.now();
    for (let from = first; from < end; ) {
      const to = Math.min(end, (Math.floor(from / STEPS_PER_REPORT) + 1) * STEPS_PER_REPORT);
      const answers = workers.map(nextMessage);
      for (const worker of workers) worker.postMessage({ from, to } satisfies StepRange);
      const [losses] = (await Promise.all(answers)) as [SourceLosses];
      from = to;
      const remainingMs = ((performance.now() - started) / (from - first)) * (steps - from);
      progress(`step ${from} of ${steps}, ${Math.round(remainingMs / 1000)} s left: ${formatLosses(corpus, losses)}`);
      if (from < steps && (from % STEPS_PER_CHECKPOINT === 0 || from === end))
        writeCheckpoint(checkpoint, fingerprint, from, memory, layout);
    }
    return end < steps ? null : table.slice();
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** The worker's next message. Rejects if the worker fails or ends first. */
export function nextMessage(worker: Worker): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const ended = (code: number) => reject(new Error(`A thread ended with exit code ${code} before its work was done.`));
  worker.once("message", resolve).once("error", reject).once("exit", ended);
  return promise.finally(() => worker.off("message", resolve).off("error", reject).off("exit", ended));
}

/** Fills a table with normally distributed numbers (Box–Muller transform). */
function initialise(table: Float32Array, seed: number): void {
  const random = seededRandom(seed);
  for (let i = 0; i < table.length; i += 2) {
    const radius = INITIAL_DEVIATION * Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    table[i] = radius * Math.cos(angle);
    table[i + 1] = radius * Math.sin(angle);
  }
}

/** The mean loss of each group of sources. */
function formatLosses(corpus: Corpus, losses: SourceLosses): string {
  const groups = new Map<string, { sum: number; steps: number }>();
  for (const [source, { sum, steps }] of losses) {
    const name = corpus.sources[source]?.group ?? "";
    const group = groups.get(name) ?? { sum: 0, steps: 0 };
    groups.set(name, { sum: group.sum + sum, steps: group.steps + steps });
  }
  const sorted = [...groups].sort(([a], [b]) => (a < b ? -1 : 1));
  return sorted.map(([name, { sum, steps }]) => `${name} ${(sum / steps).toFixed(3)}`).join(", ");
}
