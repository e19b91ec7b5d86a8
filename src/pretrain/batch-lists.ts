/** The index lists that a step's sums use, in the kernels' memory. Each thread writes its own copy. */
import type { Batch } from "./batch.ts";
import type { Corpus, TableShape } from "./corpus.ts";
import type { ThreadLayout } from "./layout.ts";

export interface ListContext {
  readonly corpus: Corpus;
  readonly shape: Pick<TableShape, "vocabulary" | "buckets">;
  readonly buffer: ArrayBufferLike;
  readonly layout: ThreadLayout;
  /** The thread's number, from 0, and how many threads there are. */
  readonly index: number;
  readonly threads: number;
}

/** Arrays over the kernels' memory, as ThreadLayout describes them. */
interface Lists {
  readonly textStarts: Int32Array;
  readonly textWords: Int32Array;
  readonly wordTextStarts: Int32Array;
  readonly wordTexts: Int32Array;
  readonly factorStarts: Int32Array;
  readonly factorRows: Int32Array;
  readonly factors: Float32Array;
  readonly rowList: Int32Array;
  readonly rowStarts: Int32Array;
  readonly rowMembers: Int32Array;
  readonly rowFactors: Float32Array;
}

/**
 * Makes the function that writes a batch's lists. It returns the length of `rowList`: the rows of the batch's words whose
 * number is `index` modulo `threads`.
 */
export function makeListWriter(context: ListContext): (batch: Batch) => number {
  const lists = mapLists(context.buffer, context.layout);
  const listTexts = makeTextLister(lists);
  const listFactors = makeFactorLister(lists, context);
  const listRows = makeRowLister(lists, context);
  return (batch) => {
    listTexts(batch);
    return listRows(batch.distinctCount, listFactors(batch));
  };
}

function mapLists(buffer: ArrayBufferLike, layout: ThreadLayout): Lists {
  const integers = (offset: number) => new Int32Array(buffer, offset);
  const floats = (offset: number) => new Float32Array(buffer, offset);
  return {
    textStarts: integers(layout.textStarts),
    textWords: integers(layout.textWords),
    wordTextStarts: integers(layout.wordTextStarts),
    wordTexts: integers(layout.wordTexts),
    factorStarts: integers(layout.factorStarts),
    factorRows: integers(layout.factorRows),
    factors: floats(layout.factors),
    rowList: integers(layout.rowList),
    rowStarts: integers(layout.rowStarts),
    rowMembers: integers(layout.rowMembers),
    rowFactors: floats(layout.rowFactors),
  };
}

/** The words of each text, and the texts of each word. */
function makeTextLister({ textStarts, textWords, wordTextStarts, wordTexts }: Lists): (batch: Batch) => void {
  return (batch) => {
    const { textCount, distinctCount } = batch;
    const starts = batch.textStarts.subarray(0, textCount + 1);
    const words = batch.textWords.subarray(0, starts[textCount]);
    textStarts.set(starts);
    textWords.set(words);
    const counts = new Int32Array(distinctCount);
    for (const word of words) increment(counts, word);
    let start = 0;
    for (let word = 0; word < distinctCount; word++) {
      wordTextStarts[word] = start;
      start += counts[word] as number;
    }
    wordTextStarts[distinctCount] = start;
    const next = wordTextStarts.slice(0, distinctCount);
    for (let text = 0; text < textCount; text++) {
      for (const word of words.subarray(starts[text], starts[text + 1])) wordTexts[increment(next, word)] = text;
    }
  };
}

/** The rows of each word, with their factors. The function returns how many there are. */
function makeFactorLister(
  { factorStarts, factorRows, factors }: Lists,
  { corpus, shape: { vocabulary } }: ListContext,
): (batch: Batch) => number {
  const { wordFactors } = corpus;
  const { starts, members } = corpus.wordRows;
  return ({ distinctWords, distinctCount, rowDropped }) => {
    let position = 0;
    for (let index = 0; index < distinctCount; index++) {
      factorStarts[index] = position;
      const word = distinctWords[index] as number;
      const end = starts[word + 1] as number;
      let i = starts[word] as number;
      // A word's own row comes first.
      if (rowDropped[index] === 1 && (members[i] as number) < vocabulary) i++;
      for (; i < end; i++, position++) {
        factorRows[position] = members[i] as number;
        factors[position] = wordFactors[i] as number;
      }
    }
    factorStarts[distinctCount] = position;
    return position;
  };
}

/** The transpose of those: the words of each row that the thread updates. The function returns how many rows there are. */
function makeRowLister(
  { factorStarts, factorRows, factors, rowList, rowStarts, rowMembers, rowFactors }: Lists,
  { shape, index, threads }: ListContext,
): (distinctCount: number, factorCount: number) => number {
  /** How many words a row is in, then where its next word goes. All zeros between two batches. */
  const rowCounts = new Int32Array(shape.vocabulary + shape.buckets);
  return (distinctCount, factorCount) => {
    let rowCount = 0;
    for (let i = 0; i < factorCount; i++) {
      const row = factorRows[i] as number;
      if (row % threads === index && increment(rowCounts, row) === 0) rowList[rowCount++] = row;
    }
    let start = 0;
    for (let i = 0; i < rowCount; i++) {
      const row = rowList[i] as number;
      rowStarts[i] = start;
      const count = rowCounts[row] as number;
      rowCounts[row] = start;
      start += count;
    }
    rowStarts[rowCount] = start;
    let i = 0;
    for (let word = 0; word < distinctCount; word++) {
      const end = factorStarts[word + 1] as number;
      for (; i < end; i++) {
        const row = factorRows[i] as number;
        if (row % threads !== index) continue;
        const position = increment(rowCounts, row);
        rowMembers[position] = word;
        rowFactors[position] = factors[i] as number;
      }
    }
    for (const row of rowList.subarray(0, rowCount)) rowCounts[row] = 0;
    return rowCount;
  };
}

/** Adds 1 and returns the value before. */
function increment(counts: Int32Array, index: number): number {
  const before = counts[index] as number;
  counts[index] = before + 1;
  return before;
}
