/** The numbered words of a training's texts, and their rows in a static backbone. */
import { vocabularyKey } from "../backbones/subwords.ts";
import { type StaticTable, wordVector } from "../backbones/text-static.ts";
import { splitWords } from "../core/text/words.ts";

/** Rows that are trained, at most. A delta with so many is smaller than a quarter of the base. */
const MAX_TRAINED_ROWS = 16_384;
/** A word that only one text has helps to memorise that text, and tells nothing about others. */
const MIN_DOCUMENT_FREQUENCY = 2;
/** The mean length of rows at the start of a training. The rates are tuned for it. */
const MEAN_NORM = 4;

export interface Vocabulary {
  /** The words' keys. The first `trainedCount` words are trained. */
  readonly keys: readonly string[];
  readonly trainedCount: number;
  /** The numbers of a text's words. */
  wordIds(text: number): Int32Array;
  /** The base's rows are multiplied by it. */
  readonly scale: number;
}

/** Numbers the words of texts, by falling frequency. Words that two or more training texts have are trained. */
export function buildVocabulary(
  table: StaticTable,
  texts: readonly string[],
  isTraining: (text: number) => boolean,
): Vocabulary {
  // Words are numbered as they come first: lists of each text's words would take most of a training's memory.
  const statistics = new Map<string, { readonly id: number; textCount: number; lastText: number }>();
  const occurrences: number[] = [];
  const starts = [0];
  texts.forEach((text, i) => {
    // Half a surrogate pair would be another word after it was stored and read again.
    for (const word of splitWords(text.toWellFormed())) {
      const key = vocabularyKey(word);
      let entryStatistics = statistics.get(key);
      if (entryStatistics === undefined) {
        entryStatistics = { id: statistics.size, textCount: 0, lastText: -1 };
        statistics.set(key, entryStatistics);
      }
      if (entryStatistics.lastText !== i && isTraining(i)) entryStatistics.textCount++;
      entryStatistics.lastText = i;
      occurrences.push(entryStatistics.id);
    }
    starts.push(occurrences.length);
  });
  const byFrequency = [...statistics].sort(([, a], [, b]) => b.textCount - a.textCount);
  const firstRare = byFrequency.findIndex(([, { textCount: texts }]) => texts < MIN_DOCUMENT_FREQUENCY);
  const keys = byFrequency.map(([name]) => name);
  const newIds = new Int32Array(byFrequency.length);
  for (const [i, [, { id: number }]] of byFrequency.entries()) newIds[number] = i;
  const occurrenceIds = Int32Array.from(occurrences, (number) => newIds[number] as number);
  let totalNorm = 0;
  for (const name of keys) totalNorm += Math.hypot(...wordVector(table, name));
  return {
    keys,
    trainedCount: Math.min(MAX_TRAINED_ROWS, firstRare === -1 ? keys.length : firstRare),
    wordIds: (text) => occurrenceIds.subarray(starts[text], starts[text + 1]),
    scale: MEAN_NORM / (totalNorm / Math.max(1, keys.length) || 1),
  };
}

/** Writes the rows that a training begins with. */
export function initialiseRows(rows: Float32Array, table: StaticTable, { keys, scale }: Vocabulary): void {
  keys.forEach((name, i) => {
    rows.set(
      wordVector(table, name).map((value) => scale * value),
      i * table.dimensions,
    );
  });
}
