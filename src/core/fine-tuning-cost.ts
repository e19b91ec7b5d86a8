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

/** Texts of a step of training an encoder. */
export const ENCODER_BATCH_SIZE = 32;
const ENCODER_TARGET_STEPS = 600;
const MIN_ENCODER_EPOCHS = 3;
const MAX_ENCODER_EPOCHS = 6;

/** How many epochs a training of an encoder's layers takes, at most. `auto`: the fewer examples, the more. */
export function encoderEpochs(epochs: number | "auto", examples: number, batchSize: number): number {
  if (epochs !== "auto") return epochs;
  const enough = Math.ceil((ENCODER_TARGET_STEPS * batchSize) / examples);
  return Math.max(MIN_ENCODER_EPOCHS, Math.min(MAX_ENCODER_EPOCHS, enough));
}

/** The widths of a transformer's layers, and of what is between them. */
export interface TransformerShape {
  readonly widths: readonly number[];
  readonly hidden: number;
}

export interface EncoderWork {
  /** How many layers are trained, from the last: that after the pooling, the transformer's, the table. */
  readonly layers: number;
  readonly tokens: number;
  readonly texts: number;
  readonly outputs: number;
}

/**
 * Floating-point operations of an epoch: two for each weight and token forward, and four more where the weight is trained
 * or below one that is not the first trained. Attention and normalisation are small beside them.
 */
export function encoderOperations({ widths, hidden }: TransformerShape, work: EncoderWork): number {
  const last = widths.at(-1) ?? 0;
  const perText = last * last + 2 * last * work.outputs;
  let operations = work.texts * perText * (work.layers > 0 ? 6 : 2);
  const transformerLayers = widths.length - 1;
  for (let layer = 0; layer < transformerLayers; layer++) {
    const [input = 0, width = 0] = widths.slice(layer);
    const weights = 3 * input * input + input * width + (input === width ? 0 : input * width) + 2 * width * hidden;
    const isTrained = work.layers > transformerLayers - layer;
    operations += work.tokens * weights * (isTrained ? 6 : 2);
  }
  return operations;
}
