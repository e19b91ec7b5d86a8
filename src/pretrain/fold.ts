/** Brings a trained table into the form that the backbone's file has (src/backbones/quantise.ts). */
import type { Corpus, TableShape } from "./corpus.ts";

/**
 * Adds to each word's own row the rows of its n-grams, so that the backbone reads one row a word.
 *
 * @param table rows × dimensions: the words' own rows, then the rows of the n-grams
 */
export function foldNgrams({ wordRows, wordFactors }: Corpus, shape: TableShape, table: Float32Array): Float32Array {
  const { dimensions, vocabulary } = shape;
  const folded = table.slice();
  folded.fill(0, 0, vocabulary * dimensions);
  const { starts, members } = wordRows;
  let start = 0;
  for (const end of starts.subarray(1)) {
    const rows = members.subarray(start, end);
    const factors = wordFactors.subarray(start, end);
    start = end;
    const [ownRow = vocabulary] = rows;
    if (ownRow >= vocabulary) continue;
    const sum = folded.subarray(ownRow * dimensions, (ownRow + 1) * dimensions);
    for (const [i, row] of rows.entries()) {
      const factor = factors[i] as number;
      for (const [j, value] of table.subarray(row * dimensions, (row + 1) * dimensions).entries())
        sum[j] = (sum[j] as number) + factor * value;
    }
  }
  return folded;
}
