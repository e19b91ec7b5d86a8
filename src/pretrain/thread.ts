/** A thread of the training. It does the steps that it is sent, together with the other threads. */
import { parentPort, workerData } from "node:worker_threads";
import type { Corpus, TableShape } from "./corpus.ts";
import { instantiateKernels } from "./kernels.ts";
import type { Layout } from "./layout.ts";
import { makeTrainer } from "./step.ts";
import type { Hyperparameters } from "./trainer.ts";

export interface ThreadSetup {
  readonly index: number;
  readonly threads: number;
  /** Two numbers: how many threads wait, and how often all of them have waited. */
  readonly barrier: Int32Array;
  readonly memory: WebAssembly.Memory;
  readonly module: WebAssembly.Module;
  readonly corpus: Corpus;
  readonly shape: TableShape;
  readonly hyperparameters: Hyperparameters;
  readonly layout: Layout;
}

/** Steps to do: `from` up to, but without, `to`. */
export interface StepRange {
  readonly from: number;
  readonly to: number;
}

/** For each source, how many of the steps drew it, and the sum of their losses. */
export type SourceLosses = ReadonlyMap<number, { readonly sum: number; readonly steps: number }>;

/** A waiting thread polls so often before it sleeps: the other threads mostly come a few microseconds later. */
const SPINS = 20_000;

/** Returns once all threads have called it. */
function waitAtBarrier(barrier: Int32Array, threads: number): void {
  const round = Atomics.load(barrier, 1);
  if (Atomics.add(barrier, 0, 1) + 1 === threads) {
    Atomics.store(barrier, 0, 0);
    Atomics.add(barrier, 1, 1);
    Atomics.notify(barrier, 1);
    return;
  }
  for (let i = 0; i < SPINS; i++) if (Atomics.load(barrier, 1) !== round) return;
  while (Atomics.load(barrier, 1) === round) Atomics.wait(barrier, 1, round);
}

const { index, threads, barrier, module, memory, corpus, shape, hyperparameters, layout } = workerData as ThreadSetup;
const kernels = await instantiateKernels(module, memory);
const thread = { index, threads, wait: () => waitAtBarrier(barrier, threads) };
const train = makeTrainer({ corpus, shape, hyperparameters, memory, kernels, layout, thread });

parentPort?.on("message", ({ from, to }: StepRange) => {
  const losses = new Map<number, { sum: number; steps: number }>();
  for (let step = from; step < to; step++) {
    const { source, loss } = train(step);
    const { sum, steps } = losses.get(source) ?? { sum: 0, steps: 0 };
    losses.set(source, { sum: sum + loss, steps: steps + 1 });
  }
  parentPort?.postMessage(losses satisfies SourceLosses);
});
parentPort?.postMessage("ready");
