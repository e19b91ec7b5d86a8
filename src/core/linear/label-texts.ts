/**
 * Training on texts of labels (text/label-texts.ts). They are rows like those of examples, so examples take over as they
 * come. The settings are those of a head that has no example to choose them by; how they were found is in
 * docs/zero-shot.md.
 */
import type { TrainingRows } from "./types.ts";

/** In the design's scale. */
export const LABEL_TEXT_L2 = 0.1;
/** With it scores are rather too low than too high. */
export const LABEL_TEXT_TEMPERATURE = 0.5;

/** How many examples are trained on: not those out of scope, nor texts of labels. */
export function countExamples(
  { weights, labelTexts }: Pick<TrainingRows, "weights" | "labelTexts">,
  isCounted: (row: number) => boolean = () => true,
): number {
  const examples = weights.subarray(0, weights.length - labelTexts);
  return examples.reduce((count, weight, row) => count + (weight !== 0 && isCounted(row) ? 1 : 0), 0);
}
