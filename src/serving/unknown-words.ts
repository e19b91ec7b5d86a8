/** How many of a text's words the pre-trained backbones in the box have no entry for. */
import { unknownWordBin } from "../core/evaluation/input-counts.ts";
import { splitWords } from "../core/text/words.ts";
import { isKnownWord } from "./backbones.ts";

/** The beginning of a text says enough. */
const MAX_CHARACTERS = 1_000;
const LETTER = /^\p{L}/u;

/** The bin of a text in `InputCounts.unknown_words`. */
export function binUnknownWords(text: string): number {
  let words = 0;
  let unknown = 0;
  for (const word of splitWords(text.slice(0, MAX_CHARACTERS))) {
    if (!LETTER.test(word)) continue;
    words++;
    if (!isKnownWord(word)) unknown++;
  }
  return unknownWordBin(unknown, words);
}
