/** Reads texts into as many lexical features as leave a training within its budget. */

import {
  createLexicalReader,
  hasLexicalRoom,
  type LexicalFeatures,
  lexicalBucketCount,
  MIN_BUCKETS,
} from "../text/lexical.ts";
import { costIfOverBudget } from "./cost.ts";
import { BYTES_PER_SPARSE_ENTRY } from "./sparse.ts";
import type { Cost, TrainingOptions, TrainingShape } from "./types.ts";

type Options = Pick<TrainingOptions, "l2" | "evaluation" | "lexical">;

export interface LexicalBudgetReader {
  /** Whether there is room for any texts' features: otherwise none need be added. */
  readonly hasRoom: boolean;
  /** Takes a text; answers whether it wants more of them. */
  add(text: string): boolean;
  /**
   * Ends the reader. The features are null where a training with any would not fit and may go without; where it may not,
   * `beyond` is what it would cost.
   */
  fit(): { readonly features: LexicalFeatures | null } | { readonly cost: Cost };
}

/**
 * A reader that hashes into as many buckets as there is room for; null where the head is to have no lexical features.
 *
 * @param textBytes of all the texts, as UTF-8
 */
export function createLexicalBudgetReader(
  shape: TrainingShape,
  options: Options,
  budget: Cost,
  textBytes: number,
): LexicalBudgetReader | null {
  const required = options.lexical === true;
  if (options.lexical === false || (!required && !hasLexicalRoom(shape.outputs))) return null;
  const reader = createLexicalReader(lexicalBucketCount(shape.outputs));
  // More numbers take more memory than a training may: they are there twice while they are copied.
  const maxEntries = budget.bytes / (2 * BYTES_PER_SPARSE_ENTRY);
  const excessCost = (columns: number, entries: number) =>
    costIfOverBudget({ ...shape, lexical: { columns, entries, textBytes } }, options, budget);
  const currentExcess = () => excessCost(2 * reader.buckets(), reader.entries());
  const shrinkWhile = (isTooLarge: () => boolean) => {
    while (isTooLarge() && reader.buckets() > MIN_BUCKETS) reader.halve();
    return !isTooLarge();
  };
  return {
    // Their columns alone, or the texts, may be too much before any is read.
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
        // Of fewer columns a training may do more, such as cross-validate.
        cost = excessCost(features.columns, features.entries);
        if (cost === null) return { features };
      }
      return required ? { cost: cost } : { features: null };
    },
  };
}
