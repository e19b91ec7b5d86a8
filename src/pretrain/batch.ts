/**
 * One step's texts, drawn from its number and the seed alone: every thread makes the same batch, and a resumed training
 * needs no state of a generator.
 */
import { seededRandom } from "../core/random.ts";
import type { Corpus, Source } from "./corpus.ts";

/** Texts a batch; pairs have as many on each side. */
export const BATCH_SIZE = 512;
/** How likely a word is left out of a text, but for halves. */
const WORD_DROPOUT = 0.2;
/** How likely a word of the vocabulary is without its own row for a step, so that its n-grams learn to stand for it. */
const ROW_DROPOUT = 0.25;
/** Of a text dealt into halves, each side has so many words for certain. */
const MIN_HALF_WORDS = 2;

export interface Batch {
  readonly source: Source;
  /** Its place in the corpus's sources. */
  readonly sourceIndex: number;
  /** How many: BATCH, or the left sides and after them the right ones. */
  readonly textCount: number;
  /** Text i's words are `textWords` from `textStarts[i]` to `textStarts[i + 1]`, as places in `kinds`. */
  readonly textStarts: Int32Array;
  readonly textWords: Int32Array;
  /** The batch's distinct words, as places in the corpus; the first `kindCount` numbers hold. */
  readonly distinctWords: Int32Array;
  readonly distinctCount: number;
  /** 1 for each of them that is without its own row, if it has one. */
  readonly rowDropped: Uint8Array;
  /** Labelled: the class of each text. */
  readonly targets: Int32Array;
  /** Pairs: places (row · BATCH + column) of pairs that share a text, so that they are no negatives of each other. */
  readonly maskedPairs: readonly number[];
}

/** How many words a batch has at most, in all and distinct. */
export function maxWords({ texts, wordRows }: Corpus): { readonly all: number; readonly distinct: number } {
  let longest = 0;
  for (let i = 1; i < texts.starts.length; i++)
    longest = Math.max(longest, (texts.starts[i] as number) - (texts.starts[i - 1] as number));
  const all = 2 * BATCH_SIZE * longest;
  return { all, distinct: Math.min(all, wordRows.starts.length - 1) };
}

/** Makes batches, in memory that it keeps: a batch is valid until the next. */
export function makeBatcher(corpus: Corpus, seed: number): (step: number) => Batch {
  const limits = maxWords(corpus);
  const textStarts = new Int32Array(2 * BATCH_SIZE + 1);
  const textWords = new Int32Array(limits.all);
  const distinctWords = new Int32Array(limits.distinct);
  const rowDropped = new Uint8Array(limits.distinct);
  const targets = new Int32Array(BATCH_SIZE);
  /** Where a word is in `kinds`, if the batch of the step that is stamped on it has it. */
  const wordIndex = new Int32Array(corpus.wordRows.starts.length - 1);
  const stamp = new Int32Array(wordIndex.length).fill(-1);
  const { starts, members } = corpus.texts;
  const cumulative: number[] = [];
  for (const { share } of corpus.sources) cumulative.push((cumulative.at(-1) ?? 0) + share);

  return (step) => {
    const random = seededRandom(Math.imul(seed ^ Math.imul(step + 1, 0x9e3779b1), 0x85ebca6b));
    const randomBelow = (count: number) => Math.floor(random() * count);
    const drawn = random() * (cumulative.at(-1) as number);
    const sourceIndex = cumulative.findIndex((sum) => drawn < sum);
    const source = corpus.sources[sourceIndex] as Source;
    const rows = Array.from({ length: BATCH_SIZE }, () => randomBelow(source.left.length));
    const left = rows.map((row) => source.left[row] as number);
    let distinctCount = 0;
    let length = 0;
    let textCount = 0;
    const addWord = (word: number) => {
      if (stamp[word] !== step) {
        stamp[word] = step;
        wordIndex[word] = distinctCount;
        rowDropped[distinctCount] = random() < ROW_DROPOUT ? 1 : 0;
        distinctWords[distinctCount++] = word;
      }
      textWords[length++] = wordIndex[word] as number;
    };
    const endText = () => {
      textStarts[++textCount] = length;
    };
    const addText = (id: number) => {
      const first = starts[id] as number;
      const last = starts[id + 1] as number;
      const before = length;
      for (let i = first; i < last; i++) if (random() >= WORD_DROPOUT) addWord(members[i] as number);
      if (length === before) addWord(members[first + randomBelow(last - first)] as number);
      endText();
    };
    /** Adds some of a text's words, at random, and answers the others. */
    const addHalf = (id: number): number[] => {
      const words = Array.from(members.subarray(starts[id], starts[id + 1]));
      for (let i = 0; i < 2 * MIN_HALF_WORDS; i++) {
        const j = i + randomBelow(words.length - i);
        const swap = words[i] as number;
        words[i] = words[j] as number;
        words[j] = swap;
      }
      const otherHalf: number[] = [];
      words.forEach((word, i) => {
        if (i < MIN_HALF_WORDS || (i >= 2 * MIN_HALF_WORDS && random() < 0.5)) addWord(word);
        else otherHalf.push(word);
      });
      endText();
      return otherHalf;
    };

    let maskedPairs: number[] = [];
    switch (source.kind) {
      case "halves":
        for (const otherHalf of left.map(addHalf)) {
          otherHalf.forEach(addWord);
          endText();
        }
        maskedPairs = pairsSharingText(left, left);
        break;
      case "labelled": {
        const { labels } = source;
        rows.forEach((row, i) => {
          addText(left[i] as number);
          const first = labels.starts[row] as number;
          const count = (labels.starts[row + 1] as number) - first;
          targets[i] = labels.members[first + (count === 1 ? 0 : randomBelow(count))] as number;
        });
        break;
      }
      default: {
        const right = rows.map((row) => source.right[row] as number);
        left.forEach(addText);
        right.forEach(addText);
        maskedPairs = pairsSharingText(left, right);
      }
    }
    return {
      source,
      sourceIndex,
      textCount,
      textStarts,
      textWords,
      distinctWords,
      distinctCount,
      rowDropped,
      targets,
      maskedPairs,
    };
  };
}

/** The places off the diagonal where two pairs share a text; one where they share both may come twice. */
function pairsSharingText(left: readonly number[], right: readonly number[]): number[] {
  const pairsByText = new Map<number, number[]>();
  left.forEach((id, i) => {
    for (const text of [id, right[i] as number]) {
      const pairs = pairsByText.get(text);
      if (pairs === undefined) pairsByText.set(text, [i]);
      else if (pairs.at(-1) !== i) pairs.push(i);
    }
  });
  const places: number[] = [];
  for (const pairs of pairsByText.values()) {
    for (const i of pairs) for (const j of pairs) if (i !== j) places.push(i * BATCH_SIZE + j);
  }
  return places;
}
