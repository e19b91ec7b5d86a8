/**
 * The size of a training of a backbone's layers (src/finetune) and what it costs:
 *
 *   per word and text   2 · WINDOW · d · f
 *   per text            4 · WINDOW · d · f + 6 · f · k
 *   per step            10 · f · (WINDOW · d + k)
 *
 * d: dimensions of a word's row, f: filters of the convolution, k: outputs.
 */

/** The words that a filter of the convolution sees at once. */
export const WINDOW = 3;
export const DEFAULT_FILTERS = 256;
export const DEFAULT_BATCH_SIZE = 64;
const TARGET_STEPS = 1500;
const MIN_EPOCHS = 4;
const MAX_EPOCHS = 24;

/** How many epochs a training of so many examples takes. `auto`: about as many steps for any number of examples. */
export function resolveEpochs(epochs: number | "auto", examples: number, batchSize: number): number {
  if (epochs !== "auto") return epochs;
  return Math.max(MIN_EPOCHS, Math.min(MAX_EPOCHS, Math.ceil((TARGET_STEPS * batchSize) / examples)));
}

export interface LayerShape {
  readonly dimensions: number;
  readonly filters: number;
  readonly outputs: number;
}

/** Floating-point operations of steps on texts that have so many words together. */
export function stepOperations(
  { dimensions, filters, outputs }: LayerShape,
  words: number,
  texts: number,
  steps: number,
): number {
  const window = 2 * WINDOW * dimensions * filters;
  const update = 10 * filters * (WINDOW * dimensions + outputs);
  return (words + texts) * window + texts * (2 * window + 6 * filters * outputs) + steps * update;
}
