/** One thread of the training: does the steps that it is sent, with the others. */
import { parentPort, workerData } from "node:worker_threads";
import type { Corpus, Shape } from "./corpus.ts";
import { kernelsOn } from "./kernels.ts";
import { type Hyperparameters, type Layout, trainer } from "./step.ts";

export interface Setup {
  readonly index: number;
  readonly threads: number;
  /** Two numbers: threads that wait, and how often all have waited. */
  readonly barrier: Int32Array;
  readonly memory: WebAssembly.Memory;
  readonly wasm: Uint8Array<ArrayBuffer>;
  readonly corpus: Omit<Corpus, "vocabulary">;
  readonly shape: Shape;
  readonly hyperparameters: Hyperparameters;
  readonly layout: Layout;
}

export interface Done {
  readonly step: number;
  /** The mean loss of each source since the last message, and how many steps it had. */
  readonly losses: readonly (readonly [source: number, loss: number, steps: number])[];
}

/** Looks so often before it sleeps: the others are mostly a few microseconds behind. */
const SPINS = 20_000;

function waiter(barrier: Int32Array, threads: number): () => void {
  return () => {
    const round = Atomics.load(barrier, 1);
    if (Atomics.add(barrier, 0, 1) + 1 === threads) {
      Atomics.store(barrier, 0, 0);
      Atomics.add(barrier, 1, 1);
      Atomics.notify(barrier, 1);
      return;
    }
    for (let i = 0; i < SPINS; i++) if (Atomics.load(barrier, 1) !== round) return;
    while (Atomics.load(barrier, 1) === round) Atomics.wait(barrier, 1, round);
  };
}

const setup = workerData as Setup;
const { index, threads, corpus, shape, hyperparameters, memory, layout } = setup;
const kernels = await kernelsOn(setup.wasm, memory);
const wait = waiter(setup.barrier, threads);
const train = trainer({ ...corpus, vocabulary: [] }, shape, hyperparameters, memory, kernels, layout, {
  index,
  threads,
  wait,
});

parentPort?.on("message", ({ from, to }: { from: number; to: number }) => {
  const losses = new Map<number, [number, number]>();
  for (let step = from; step < to; step++) {
    const { source, loss } = train(step);
    const [sum, count] = losses.get(source) ?? [0, 0];
    losses.set(source, [sum + loss, count + 1]);
  }
  const done: Done = { step: to, losses: [...losses].map(([source, [sum, count]]) => [source, sum / count, count]) };
  parentPort?.postMessage(done);
});
parentPort?.postMessage("ready");
