/** What trainings of layers cost, before they start. Of text-use-1, where nothing else is said. */
import { textStatic, textUse } from "../../src/backbones/node.ts";
import { correctTexts } from "../../src/backbones/text-use.ts";
import {
  DEFAULT_BATCH_SIZE,
  DEFAULT_FILTERS,
  ENCODER_BATCH_SIZE,
  encoderEpochs,
  encoderOperations,
  resolveEpochs,
  stepOperations,
} from "../../src/core/fine-tuning-cost.ts";
import { comparisonFoldCount } from "../../src/core/linear/split.ts";
import { splitWords } from "../../src/core/text/words.ts";
import type { LabelledText } from "./text-datasets.ts";

/** Floating-point operations a second of one core that trains or embeds, about. */
export const OPERATIONS_PER_SECOND = 25e9;

export interface Work {
  readonly texts: number;
  readonly tokens: number;
  readonly words: number;
  readonly outputs: number;
}

const tokenCounts = new Map<string, number>();

/** The sub-words that the encoder reads of a text. */
export function countTokens(text: string): number {
  let count = tokenCounts.get(text);
  if (count === undefined) {
    const [corrected = ""] = correctTexts(textUse.base, [text]);
    count = Math.min(textUse.tokenize(corrected).length, textUse.shape.maxTokens);
    tokenCounts.set(text, count);
  }
  return count;
}

export function workOf(rows: readonly LabelledText[]): Work {
  return {
    texts: rows.length,
    tokens: rows.reduce((sum, { text }) => sum + countTokens(text), 0),
    words: rows.reduce((sum, { text }) => sum + splitWords(text).length, 0),
    outputs: new Set(rows.map(({ label }) => label)).size,
  };
}

/** The floating-point operations of one training of the last layers, at most; of 0 layers: of embedding the texts. */
export function trainingOperations(work: Work, layers: number): number {
  const { shape } = textUse;
  const forward = encoderOperations(shape, { ...work, layers: 0 });
  if (layers === 0) return forward;
  const epochs = encoderEpochs("auto", work.texts, ENCODER_BATCH_SIZE);
  // What is below the tanh layer is computed once.
  if (layers === 1) return forward + epochs * encoderOperations(shape, { ...work, layers, tokens: 0 });
  return epochs * encoderOperations(shape, { ...work, layers });
}

/** The operations of a job: a training without each fold of the comparison, and one on all texts. */
export function jobOperations(work: Work, layers: number): number {
  const folds = comparisonFoldCount(work.texts);
  const share = 1 - 1 / folds;
  const part = { ...work, texts: share * work.texts, tokens: share * work.tokens };
  return trainingOperations(work, 0) + folds * trainingOperations(part, layers) + trainingOperations(work, layers);
}

/** The operations of one training of text-static-1's layers, at most. */
export function staticTrainingOperations({ texts, words, outputs }: Work): number {
  const shape = { dimensions: textStatic.dimensions, filters: DEFAULT_FILTERS, outputs };
  const steps = Math.ceil(texts / DEFAULT_BATCH_SIZE);
  return resolveEpochs("auto", texts, DEFAULT_BATCH_SIZE) * stepOperations(shape, words, texts, steps);
}
