/**
 * The texts of a training step. They depend only on the step's number and the seed: every thread makes the same batch, and
 * a resumed training needs no generator state.
 */
import { seededRandom } from "../core/random.ts";
import { BatchTexts, type TextLists } from "./batch-texts.ts";
import type { Corpus, RaggedArray, Source } from "./corpus.ts";

/** Texts in a labelled batch, and pairs of texts in any other. */
export const BATCH_SIZE = 512;
/** The probability that a text loses a word. Halves keep all words. */
const WORD_DROPOUT = 0.2;
/** The words that each half of a text has at least. */
const MIN_HALF_WORDS = 2;

export interface Batch extends TextLists {
  readonly source: Source;
  /** The source's index in the corpus. */
  readonly sourceIndex: number;
  /** The class of each text of a labelled source. */
  readonly targets: Int32Array;
  /** Indices (row · BATCH_SIZE + column) of the pairs that share a text and so are not negatives of each other. */
  readonly maskedPairs: readonly number[];
}

/** The largest possible number of words in a batch: all, and distinct ones. */
export function maxWords({ texts, wordRows }: Corpus): { readonly all: number; readonly distinct: number } {
  let longest = 0;
  let start = 0;
  for (const end of texts.starts) {
    longest = Math.max(longest, end - start);
    start = end;
  }
  const all = 2 * BATCH_SIZE * longest;
  return { all, distinct: Math.min(all, wordRows.starts.length - 1) };
}

/** Makes the function that draws the batch of a step. The next batch reuses the memory of the previous one. */
export function makeBatcher(corpus: Corpus, seed: number): (step: number) => Batch {
  const limits = maxWords(corpus);
  const batchTexts = new BatchTexts(2 * BATCH_SIZE, limits.all, limits.distinct, corpus.wordRows.starts.length - 1);
  const targets = new Int32Array(BATCH_SIZE);
  const cumulativeShares: { readonly sum: number; readonly source: Source }[] = [];
  let totalShare = 0;
  for (const source of corpus.sources) {
    totalShare += source.share;
    cumulativeShares.push({ sum: totalShare, source });
  }

  return (step) => {
    const random = seededRandom(Math.imul(seed ^ Math.imul(step + 1, 0x9e3779b1), 0x85ebca6b));
    const drawn = random() * totalShare;
    const sourceIndex = cumulativeShares.findIndex(({ sum }) => drawn < sum);
    const source = corpus.sources[sourceIndex] as Source;
    const rows = Array.from({ length: BATCH_SIZE }, () => Math.floor(random() * source.left.length));
    batchTexts.begin(random);
    const maskedPairs = addTexts({ corpus, batchTexts, targets, random }, source, rows);
    return { ...batchTexts.lists(), source, sourceIndex, targets, maskedPairs };
  };
}

interface BatchContext {
  readonly corpus: Corpus;
  readonly batchTexts: BatchTexts;
  readonly targets: Int32Array;
  readonly random: () => number;
}

/** Adds the texts of the drawn rows, and writes their classes to `targets`. Returns the masked pairs. */
function addTexts(context: BatchContext, source: Source, rows: readonly number[]): readonly number[] {
  const { batchTexts, targets, random } = context;
  const textIds = (ids: Int32Array) => rows.map((row) => ids[row] as number);
  const left = textIds(source.left);
  switch (source.kind) {
    case "halves":
      for (const otherHalf of left.map((id) => addHalf(context, id))) {
        for (const word of otherHalf) batchTexts.addWord(word);
        batchTexts.endText();
      }
      return pairsSharingText(left, left);
    case "labelled":
      for (const [i, id] of left.entries()) {
        addText(context, id);
        const classes = listAt(source.labels, rows[i] as number);
        targets[i] = classes[classes.length === 1 ? 0 : Math.floor(random() * classes.length)] as number;
      }
      return [];
    default: {
      const right = textIds(source.right);
      for (const id of left) addText(context, id);
      for (const id of right) addText(context, id);
      return pairsSharingText(left, right);
    }
  }
}

function listAt({ starts, members }: RaggedArray, index: number): Int32Array {
  return members.subarray(starts[index], starts[index + 1]);
}

/** Adds a text without the words that dropout takes. At least one word stays. */
function addText({ corpus, batchTexts, random }: BatchContext, id: number): void {
  const words = listAt(corpus.texts, id);
  let hasWord = false;
  for (const word of words) {
    if (random() < WORD_DROPOUT) continue;
    batchTexts.addWord(word);
    hasWord = true;
  }
  if (!hasWord) batchTexts.addWord(words[Math.floor(random() * words.length)] as number);
  batchTexts.endText();
}

/** Adds a random half of a text's words as a text. Returns the other half. */
function addHalf({ corpus, batchTexts, random }: BatchContext, id: number): number[] {
  const words = Array.from(listAt(corpus.texts, id));
  for (let i = 0; i < 2 * MIN_HALF_WORDS; i++) {
    const j = i + Math.floor(random() * (words.length - i));
    [words[i], words[j]] = [words[j] as number, words[i] as number];
  }
  const otherHalf: number[] = [];
  for (const [i, word] of words.entries()) {
    if (i < MIN_HALF_WORDS || (i >= 2 * MIN_HALF_WORDS && random() < 0.5)) batchTexts.addWord(word);
    else otherHalf.push(word);
  }
  batchTexts.endText();
  return otherHalf;
}

/** The indices off the diagonal where two pairs share a text. Two pairs that share both texts may come twice. */
function pairsSharingText(left: readonly number[], right: readonly number[]): number[] {
  const pairsByText = new Map<number, number[]>();
  for (const [i, id] of left.entries()) {
    for (const text of [id, right[i] as number]) {
      const pairs = pairsByText.get(text);
      if (pairs === undefined) pairsByText.set(text, [i]);
      else if (pairs.at(-1) !== i) pairs.push(i);
    }
  }
  const indices: number[] = [];
  for (const pairs of pairsByText.values()) {
    for (const i of pairs) for (const j of pairs) if (i !== j) indices.push(i * BATCH_SIZE + j);
  }
  return indices;
}
