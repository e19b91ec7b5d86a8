/** The trained table in the form that the backbone's file has (src/backbones/quantise.ts). */
import type { Corpus, TableShape } from "./corpus.ts";

/**
 * A word's row in the file is its own row and its n-grams' together, so that reading it is one row's work.
 *
 * @param table rows × dimensions: the words' own rows, then the n-grams'
 */
export function foldNgrams(corpus: Corpus, shape: TableShape, table: Float32Array): Float32Array {
  const { dimensions, vocabulary } = shape;
  const folded = table.slice();
  folded.fill(0, 0, vocabulary * dimensions);
  const { starts, members } = corpus.wordRows;
  for (let word = 0; word + 1 < starts.length; word++) {
    const first = starts[word] as number;
    const own = members[first] as number;
    if (own >= vocabulary) continue;
    for (let i = first; i < (starts[word + 1] as number); i++) {
      const row = members[i] as number;
      const factor = corpus.wordFactors[i] as number;
      for (let j = 0; j < dimensions; j++) {
        const at = own * dimensions + j;
        folded[at] = (folded[at] as number) + factor * (table[row * dimensions + j] as number);
      }
    }
  }
  return folded;
}
