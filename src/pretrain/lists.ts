/** The lists that a step's sums go over, in the memory of the kernels: each thread makes its own copy of them. */
import type { Batch } from "./batch.ts";
import type { Corpus, Shape } from "./corpus.ts";
import type { OwnLayout } from "./layout.ts";

/**
 * Makes the function that writes a batch's lists. It answers how many rows the thread has in `rowList`: of all rows of the
 * batch's words, those whose number is `thread` modulo `threads`.
 */
export function listWriter(
  { wordRows: { starts, members }, wordFactors }: Corpus,
  { vocabulary, buckets }: Pick<Shape, "vocabulary" | "buckets">,
  buffer: ArrayBufferLike,
  own: OwnLayout,
  thread: number,
  threads: number,
): (batch: Batch) => number {
  const ints = (at: number) => new Int32Array(buffer, at);
  const floats = (at: number) => new Float32Array(buffer, at);
  const textStarts = ints(own.textStarts);
  const textWords = ints(own.textWords);
  const kindStarts = ints(own.kindStarts);
  const kindTexts = ints(own.kindTexts);
  const factorStarts = ints(own.factorStarts);
  const factorRows = ints(own.factorRows);
  const factors = floats(own.factors);
  const rowList = ints(own.rowList);
  const rowStarts = ints(own.rowStarts);
  const rowMembers = ints(own.rowMembers);
  const rowFactors = floats(own.rowFactors);
  /** Where a row is in `rowList`, and how many words it is in; the counts are zero between two uses. */
  const rowPlace = new Int32Array(vocabulary + buckets);
  const rowCount = new Int32Array(vocabulary + buckets);
  const mine = (row: number) => row % threads === thread;

  const listTexts = (batch: Batch) => {
    const { texts, kindCount } = batch;
    const length = batch.textStarts[texts] as number;
    textStarts.set(batch.textStarts.subarray(0, texts + 1));
    textWords.set(batch.textWords.subarray(0, length));
    kindStarts.fill(0, 0, kindCount + 1);
    for (let i = 0; i < length; i++) increment(kindStarts, (textWords[i] as number) + 1);
    for (let kind = 0; kind < kindCount; kind++)
      kindStarts[kind + 1] = (kindStarts[kind + 1] as number) + (kindStarts[kind] as number);
    const next = kindStarts.slice(0, kindCount);
    for (let text = 0; text < texts; text++) {
      const last = textStarts[text + 1] as number;
      for (let i = textStarts[text] as number; i < last; i++) kindTexts[increment(next, textWords[i] as number)] = text;
    }
  };

  const listFactors = ({ kinds, kindCount, rowDropped }: Batch) => {
    let at = 0;
    for (let kind = 0; kind < kindCount; kind++) {
      factorStarts[kind] = at;
      const word = kinds[kind] as number;
      const last = starts[word + 1] as number;
      let i = starts[word] as number;
      // A word's own row comes first.
      if (rowDropped[kind] === 1 && (members[i] as number) < vocabulary) i++;
      for (; i < last; i++, at++) {
        factorRows[at] = members[i] as number;
        factors[at] = wordFactors[i] as number;
      }
    }
    factorStarts[kindCount] = at;
  };

  /** `listFactors` the other way round. */
  const listRows = ({ kindCount }: Batch): number => {
    const all = factorStarts[kindCount] as number;
    let distinct = 0;
    for (let i = 0; i < all; i++) {
      const row = factorRows[i] as number;
      if (!mine(row) || increment(rowCount, row) > 0) continue;
      rowPlace[row] = distinct;
      rowList[distinct++] = row;
    }
    rowStarts[0] = 0;
    for (let i = 0; i < distinct; i++) {
      const row = rowList[i] as number;
      rowStarts[i + 1] = (rowStarts[i] as number) + (rowCount[row] as number);
      rowCount[row] = 0;
    }
    for (let kind = 0; kind < kindCount; kind++) {
      const last = factorStarts[kind + 1] as number;
      for (let i = factorStarts[kind] as number; i < last; i++) {
        const row = factorRows[i] as number;
        if (!mine(row)) continue;
        const at = (rowStarts[rowPlace[row] as number] as number) + increment(rowCount, row);
        rowMembers[at] = kind;
        rowFactors[at] = factors[i] as number;
      }
    }
    for (let i = 0; i < distinct; i++) rowCount[rowList[i] as number] = 0;
    return distinct;
  };

  return (batch) => {
    listTexts(batch);
    listFactors(batch);
    return listRows(batch);
  };
}

/** Adds one and answers what was there. */
function increment(counts: Int32Array, at: number): number {
  const before = counts[at] as number;
  counts[at] = before + 1;
  return before;
}
