/** A whole training on several threads, with checkpoints: the same table from the same corpus and seed, however it was cut. */
import { once } from "node:events";
import { closeSync, existsSync, openSync, readSync, renameSync, rmSync, writeSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { seededRandom } from "../core/random.ts";
import type { Corpus, Shape } from "./corpus.ts";
import { compileKernels, sharedMemory } from "./kernels.ts";
import { type Hyperparameters, type Layout, layout } from "./step.ts";
import type { Done, Setup } from "./thread.ts";

/** The standard deviation of the numbers that a table begins with. */
const SPREAD = 0.05;
/** Steps between two lines of progress, and between two checkpoints. */
const REPORT = 1_000;
const CHECKPOINT = 10_000;
const HEADER = 4_096;

export interface Run {
  readonly threads: number;
  /** Written while the training goes on, and taken up where it is found. */
  readonly checkpoint: string;
  readonly progress: (line: string) => void;
  /** For tests: ends after so many steps, as if cut off. */
  readonly stopAfter?: number;
}

/**
 * Trains a table (vocabulary + buckets rows × dimensions, row-major), or answers null where it was stopped before its end.
 * Throws where the checkpoint is of another training.
 */
export async function pretrain(
  corpus: Corpus,
  shape: Shape,
  hyperparameters: Hyperparameters,
  run: Run,
): Promise<Float32Array | null> {
  const at = layout(corpus, shape, run.threads);
  const memory = sharedMemory(at.bytes);
  const floats = new Float32Array(memory.buffer);
  const size = (shape.vocabulary + shape.buckets) * shape.dimensions;
  const table = floats.subarray(at.table >> 2, (at.table >> 2) + size);
  const of = fingerprint(corpus, shape, hyperparameters);
  let from = readCheckpoint(run.checkpoint, of, memory, at);
  if (from === 0) initialise(table, hyperparameters.seed);
  else run.progress(`Going on from step ${from}.`);

  const wasm = await compileKernels();
  const barrier = new Int32Array(new SharedArrayBuffer(8));
  const { vocabulary: _, ...forThreads } = corpus;
  const workers = await Promise.all(
    Array.from({ length: run.threads }, async (_, index) => {
      const common = { memory, wasm, barrier, corpus: forThreads, shape, hyperparameters, layout: at };
      const setup: Setup = { ...common, index, threads: run.threads };
      const worker = new Worker(new URL("./thread.ts", import.meta.url), { workerData: setup });
      await once(worker, "message");
      return worker;
    }),
  );
  try {
    const end = Math.min(hyperparameters.steps, from + (run.stopAfter ?? Number.POSITIVE_INFINITY));
    const started = performance.now();
    const first = from;
    while (from < end) {
      const to = Math.min(end, from + REPORT);
      const answers = workers.map((worker) => once(worker, "message"));
      for (const worker of workers) worker.postMessage({ from, to });
      const [[done]] = (await Promise.all(answers)) as [[Done]];
      from = to;
      const left = ((performance.now() - started) / (from - first)) * (hyperparameters.steps - from);
      run.progress(`step ${from} of ${hyperparameters.steps}, ${Math.round(left / 1000)} s left: ${losses(corpus, done)}`);
      if (from < hyperparameters.steps && (from % CHECKPOINT === 0 || from === end))
        writeCheckpoint(run.checkpoint, of, from, memory, at);
    }
    if (from < hyperparameters.steps) return null;
    rmSync(run.checkpoint, { force: true });
    return table.slice();
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** Normally distributed, by Box and Muller. */
function initialise(table: Float32Array, seed: number): void {
  const random = seededRandom(seed);
  for (let i = 0; i < table.length; i += 2) {
    const radius = SPREAD * Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    table[i] = radius * Math.cos(angle);
    table[i + 1] = radius * Math.sin(angle);
  }
}

/** The mean loss of each group of sources. */
function losses(corpus: Corpus, { losses }: Done): string {
  const groups = new Map<string, { sum: number; steps: number }>();
  for (const [source, loss, steps] of losses) {
    const name = corpus.sources[source]?.group ?? "";
    const group = groups.get(name) ?? { sum: 0, steps: 0 };
    groups.set(name, { sum: group.sum + loss * steps, steps: group.steps + steps });
  }
  const sorted = [...groups].sort(([a], [b]) => (a < b ? -1 : 1));
  return sorted.map(([name, { sum, steps }]) => `${name} ${(sum / steps).toFixed(3)}`).join(", ");
}

/** What two trainings must have in common for one to go on where the other was cut off. */
function fingerprint(corpus: Corpus, shape: Shape, hyperparameters: Hyperparameters): string {
  const sources = corpus.sources.map(({ name, share, left }) => [name, share, left.length]);
  const words = [corpus.texts.members.length, corpus.wordRows.members.length];
  return JSON.stringify({ shape, hyperparameters, sources: hash(JSON.stringify(sources)), words });
}

function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

/** What a training changes: the table and the heads, with Adam's means and squares of both. */
function state(memory: WebAssembly.Memory, at: Layout): Uint8Array {
  return new Uint8Array(memory.buffer, at.table, at.wordVectors - at.table);
}

/** The step that a checkpoint was made after, its state put in place, or 0 where there is none. */
function readCheckpoint(file: string, of: string, memory: WebAssembly.Memory, at: Layout): number {
  if (!existsSync(file)) return 0;
  const opened = openSync(file, "r");
  try {
    const header = Buffer.alloc(HEADER);
    readSync(opened, header);
    const [first = "", step = ""] = header.toString("utf8").trimEnd().split("\n");
    const into = state(memory, at);
    if (first !== of) throw new Error(`The checkpoint '${file}' is of another training. Remove it to begin anew.`);
    let read = 0;
    while (read < into.length) {
      const part = Buffer.alloc(Math.min(1 << 26, into.length - read));
      const count = readSync(opened, part);
      if (count === 0) throw new Error(`The checkpoint '${file}' is not whole. Remove it to begin anew.`);
      into.set(part.subarray(0, count), read);
      read += count;
    }
    return Number(step);
  } finally {
    closeSync(opened);
  }
}

/** Written under another name first: a training that is cut off while it writes has the one before. */
function writeCheckpoint(file: string, of: string, step: number, memory: WebAssembly.Memory, at: Layout): void {
  const opened = openSync(`${file}.new`, "w");
  try {
    writeSync(opened, Buffer.from(`${of}\n${step}\n`.padEnd(HEADER)));
    const from = state(memory, at);
    for (let written = 0; written < from.length; )
      written += writeSync(opened, Buffer.from(from.subarray(written, written + (1 << 26))));
  } finally {
    closeSync(opened);
  }
  renameSync(`${file}.new`, file);
}
