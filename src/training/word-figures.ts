import type { Backbone } from "../backbones/backbone.ts";
import { isEncoder } from "../backbones/text-use.ts";
import { ok, type Result } from "../core/failure.ts";
import { splitWords } from "../core/text/words.ts";
import { hasVocabulary, isKnownWord } from "../serving/backbones.ts";
import type { TrainingSource } from "./source.ts";

/** What a backbone knows of the words of texts. */
export interface WordFigures {
  /** The share of words that it has never seen; null if it has no vocabulary. */
  readonly unknown_words: number | null;
  /** Into how many known pieces it splits a word; null if it splits none. */
  readonly subwords_per_word: number | null;
}

/** So many words say enough. */
const MAX_WORDS = 5_000;
const LETTER = /^\p{L}/u;

/** Counts the words of a source's texts, until there are enough. */
export async function countWords(source: TrainingSource, backbone: Backbone | null): Promise<Result<WordFigures>> {
  const { texts } = source;
  if (texts === null || backbone === null || !hasVocabulary(backbone))
    return ok({ unknown_words: null, subwords_per_word: null });
  let [words, unknown, pieces] = [0, 0, 0];
  const encoder = isEncoder(backbone) ? backbone : null;
  const visited = await texts.forEachText(
    (text) => {
      const own = splitWords(text).filter((word) => LETTER.test(word));
      words += own.length;
      unknown += own.filter((word) => !isKnownWord(word)).length;
      if (encoder !== null) pieces += encoder.tokenize(own.join(" ")).length;
      return words < MAX_WORDS;
    },
    async () => {
      await scheduler.wait(0);
      return null;
    },
  );
  if (!visited.ok) return visited;
  if (words === 0) return ok({ unknown_words: null, subwords_per_word: null });
  return ok({ unknown_words: unknown / words, subwords_per_word: encoder && pieces / words });
}
