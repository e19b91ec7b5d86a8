/** Reads texts into as many lexical features as fit into the budget of a training. */

import { hasLexicalRoom, lexicalBucketCount, MIN_BUCKETS } from "../text/buckets.ts";
import { createLexicalReader, type LexicalFeatures } from "../text/lexical-reader.ts";
import { type CostOptions, costIfOverBudget } from "./cost.ts";
import { BYTES_PER_SPARSE_ENTRY } from "./sparse.ts";
import type { Cost, TrainingShape } from "./types.ts";

export interface LexicalBudgetReader {
  /** Whether the budget has room for any lexical features. If not, no text needs to be added. */
  readonly hasRoom: boolean;
  /** Adds a text. Returns whether there is room for more. */
  add(text: string): boolean;
  /**
   * Ends the reader. If no training with lexical features fits the budget, the features are null. If the options
   * require them, it returns the cost instead.
   */
  fit(): { readonly features: LexicalFeatures | null } | { readonly cost: Cost };
}

/**
 * A reader that hashes into as many buckets as the budget has room for. Null if the head must have no lexical features.
 *
 * @param textBytes the size of all texts in UTF-8
 */
export function createLexicalBudgetReader(
  shape: TrainingShape,
  options: CostOptions,
  budget: Cost,
  textBytes: number,
): LexicalBudgetReader | null {
  const required = options.lexical === true;
  if (options.lexical === false || (!required && !hasLexicalRoom(shape.outputs))) return null;
  const reader = createLexicalReader(lexicalBucketCount(shape.outputs));
  // The entries exist twice while they are copied.
  const maxEntries = budget.bytes / (2 * BYTES_PER_SPARSE_ENTRY);
  const excessCost = (columns: number, entries: number) =>
    costIfOverBudget({ ...shape, lexical: { columns, entries, textBytes } }, options, budget);
  const currentExcess = () => excessCost(2 * reader.buckets(), reader.entries());
  const shrinkWhile = (isTooLarge: () => boolean) => {
    while (isTooLarge() && reader.buckets() > MIN_BUCKETS) reader.halve();
    return !isTooLarge();
  };
  return {
    // The columns alone, or reading the texts, may exceed the budget already.
    hasRoom: shrinkWhile(() => currentExcess() !== null),
    add(text) {
      reader.add(text);
      return shrinkWhile(() => reader.entries() > maxEntries);
    },
    fit() {
      shrinkWhile(() => currentExcess() !== null);
      let cost = currentExcess();
      if (cost === null) {
        const features = reader.fit();
        // With fewer columns a training may do more, such as cross-validate.
        cost = excessCost(features.columns, features.entries);
        if (cost === null) return { features };
      }
      return required ? { cost } : { features: null };
    },
  };
}
