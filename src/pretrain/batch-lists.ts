/** The lists that a step's sums go over, in the memory of the kernels: each thread makes its own copy of them. */
import type { Batch } from "./batch.ts";
import type { Corpus, TableShape } from "./corpus.ts";
import type { ThreadLayout } from "./layout.ts";

/**
 * Makes the function that writes a batch's lists. It answers how many rows the thread has in `rowList`: of all rows of the
 * batch's words, those whose number is `thread` modulo `threads`.
 */
export function makeListWriter(
  { wordRows: { starts, members }, wordFactors }: Corpus,
  { vocabulary, buckets }: Pick<TableShape, "vocabulary" | "buckets">,
  buffer: ArrayBufferLike,
  threadLayout: ThreadLayout,
  thread: number,
  threads: number,
): (batch: Batch) => number {
  const ints = (at: number) => new Int32Array(buffer, at);
  const floats = (at: number) => new Float32Array(buffer, at);
  const textStarts = ints(threadLayout.textStarts);
  const textWords = ints(threadLayout.textWords);
  const wordTextStarts = ints(threadLayout.wordTextStarts);
  const wordTexts = ints(threadLayout.wordTexts);
  const factorStarts = ints(threadLayout.factorStarts);
  const factorRows = ints(threadLayout.factorRows);
  const factors = floats(threadLayout.factors);
  const rowList = ints(threadLayout.rowList);
  const rowStarts = ints(threadLayout.rowStarts);
  const rowMembers = ints(threadLayout.rowMembers);
  const rowFactors = floats(threadLayout.rowFactors);
  /** Where a row is in `rowList`, and how many words it is in; the counts are zero between two uses. */
  const rowIndex = new Int32Array(vocabulary + buckets);
  const rowCount = new Int32Array(vocabulary + buckets);
  const isOwnRow = (row: number) => row % threads === thread;

  const listTexts = (batch: Batch) => {
    const { textCount, distinctCount } = batch;
    const length = batch.textStarts[textCount] as number;
    textStarts.set(batch.textStarts.subarray(0, textCount + 1));
    textWords.set(batch.textWords.subarray(0, length));
    wordTextStarts.fill(0, 0, distinctCount + 1);
    for (let i = 0; i < length; i++) increment(wordTextStarts, (textWords[i] as number) + 1);
    for (let kind = 0; kind < distinctCount; kind++)
      wordTextStarts[kind + 1] = (wordTextStarts[kind + 1] as number) + (wordTextStarts[kind] as number);
    const next = wordTextStarts.slice(0, distinctCount);
    for (let text = 0; text < textCount; text++) {
      const last = textStarts[text + 1] as number;
      for (let i = textStarts[text] as number; i < last; i++) wordTexts[increment(next, textWords[i] as number)] = text;
    }
  };

  const listFactors = ({ distinctWords, distinctCount, rowDropped }: Batch) => {
    let position = 0;
    for (let kind = 0; kind < distinctCount; kind++) {
      factorStarts[kind] = position;
      const word = distinctWords[kind] as number;
      const last = starts[word + 1] as number;
      let i = starts[word] as number;
      // A word's own row comes first.
      if (rowDropped[kind] === 1 && (members[i] as number) < vocabulary) i++;
      for (; i < last; i++, position++) {
        factorRows[position] = members[i] as number;
        factors[position] = wordFactors[i] as number;
      }
    }
    factorStarts[distinctCount] = position;
  };

  /** `listFactors` the other way round. */
  const listRows = ({ distinctCount }: Batch): number => {
    const all = factorStarts[distinctCount] as number;
    let distinct = 0;
    for (let i = 0; i < all; i++) {
      const row = factorRows[i] as number;
      if (!isOwnRow(row) || increment(rowCount, row) > 0) continue;
      rowIndex[row] = distinct;
      rowList[distinct++] = row;
    }
    rowStarts[0] = 0;
    for (let i = 0; i < distinct; i++) {
      const row = rowList[i] as number;
      rowStarts[i + 1] = (rowStarts[i] as number) + (rowCount[row] as number);
      rowCount[row] = 0;
    }
    for (let kind = 0; kind < distinctCount; kind++) {
      const last = factorStarts[kind + 1] as number;
      for (let i = factorStarts[kind] as number; i < last; i++) {
        const row = factorRows[i] as number;
        if (!isOwnRow(row)) continue;
        const at = (rowStarts[rowIndex[row] as number] as number) + increment(rowCount, row);
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
