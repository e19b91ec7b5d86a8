/** Reads texts into as many lexical features as leave a training within its budget. */
import { beyondBudget, type Cost, type TrainingShape } from "./cost.ts";
import { FEWEST_BUCKETS, hasLexicalRoom, type LexicalFeatures, lexicalBuckets, readLexical } from "../text/lexical.ts";
import { SPARSE_BYTES } from "./sparse.ts";
import type { TrainingOptions } from "./train.ts";

type Options = Pick<TrainingOptions, "l2" | "evaluation" | "lexical">;

export interface LexicalBudgetReader {
  /** Whether there is room for any texts' features: otherwise none need be added. */
  readonly wanted: boolean;
  /** Takes a text; answers whether it wants more of them. */
  add(text: string): boolean;
  /**
   * Ends the reader. The features are null where a training with any would not fit and may go without; where it may not,
   * `beyond` is what it would cost.
   */
  fit(): { readonly features: LexicalFeatures | null } | { readonly beyond: Cost };
}

/**
 * A reader that hashes into as many buckets as there is room for; null where the head is to have no lexical features.
 *
 * @param textBytes of all the texts, as UTF-8
 */
export function readLexicalWithin(
  shape: TrainingShape,
  options: Options,
  budget: Cost,
  textBytes: number,
): LexicalBudgetReader | null {
  const required = options.lexical === true;
  if (options.lexical === false || (!required && !hasLexicalRoom(shape.outputs))) return null;
  const reader = readLexical(lexicalBuckets(shape.outputs));
  // More numbers take more memory than a training may: they are there twice while they are copied.
  const mostEntries = budget.bytes / (2 * SPARSE_BYTES);
  const beyond = (columns: number, entries: number) =>
    beyondBudget({ ...shape, lexical: { columns, entries, textBytes } }, options, budget);
  const tooMuch = () => beyond(2 * reader.buckets(), reader.entries());
  const shrinkWhile = (large: () => boolean) => {
    while (large() && reader.buckets() > FEWEST_BUCKETS) reader.halve();
    return !large();
  };
  return {
    // Their columns alone, or the texts, may be too much before any is read.
    wanted: shrinkWhile(() => tooMuch() !== null),
    add(text) {
      reader.add(text);
      return shrinkWhile(() => reader.entries() > mostEntries);
    },
    fit() {
      shrinkWhile(() => tooMuch() !== null);
      let cost = tooMuch();
      if (cost === null) {
        const features = reader.fit();
        // Of fewer columns a training may do more, such as cross-validate.
        cost = beyond(features.columns, features.entries);
        if (cost === null) return { features };
      }
      return required ? { beyond: cost } : { features: null };
    },
  };
}
