/** What the parts of a training step share. */
import type { Corpus, TableShape } from "./corpus.ts";
import type { Kernels } from "./kernels.ts";
import type { Layout } from "./layout.ts";

export interface Hyperparameters {
  readonly steps: number;
  readonly seed: number;
  /** The learning rates of the table and of the heads. After the warm-up they decrease linearly to zero. */
  readonly rate: number;
  readonly headRate: number;
  /** The warm-up's share of the steps. */
  readonly warmUp: number;
}

export interface Thread {
  readonly index: number;
  readonly threads: number;
  /** Returns once all threads have called it. */
  readonly wait: () => void;
}

export interface TrainerOptions {
  readonly corpus: Corpus;
  readonly shape: TableShape;
  readonly hyperparameters: Hyperparameters;
  readonly memory: WebAssembly.Memory;
  readonly kernels: Kernels;
  readonly layout: Layout;
  readonly thread: Thread;
}

export const BETA1 = 0.9;
export const BETA2 = 0.999;
/** Adam's β₁, β₂ and ε, as the kernels take them. */
export const ADAM = [BETA1, BETA2, 1e-8] as const;

/** The logit of a class or a pair that cannot be. */
export const MASKED_LOGIT = -1e30;

/** The thread's share of `count` items, as a half-open range. Its size is a multiple of `unit`, but for the last one's. */
export function threadRange({ index, threads }: Thread, count: number, unit = 1): [number, number] {
  const size = Math.ceil(count / unit / threads) * unit;
  return [Math.min(count, index * size), Math.min(count, (index + 1) * size)];
}
