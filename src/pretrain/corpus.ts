/** The training text as numbers: sources are lists of texts, texts are lists of words, words are lists of table rows. */
import { forEachSubword, subwordCount, vocabularyKey } from "../backbones/subwords.ts";
import { splitWords } from "../core/text/words.ts";
import { UsageError } from "../lib/usage-error.ts";
import { readSource, type SourceGroup, type SourceKind } from "./sources.ts";

/** The table has vocabulary + buckets rows × dimensions. */
export interface TableShape {
  readonly dimensions: number;
  /** How many words, the most frequent ones, have a row of their own. The rows of the n-grams come after them. */
  readonly vocabulary: number;
  /** How many rows the n-grams are hashed into. */
  readonly buckets: number;
}

/** Lists of integers, one after another: list i is `members` from `starts[i]` to `starts[i + 1]`. */
export interface RaggedArray {
  readonly starts: Int32Array;
  readonly members: Int32Array;
}

export interface Source {
  readonly name: string;
  readonly group: string;
  readonly kind: SourceKind;
  /** The probability that a step draws this source. */
  readonly share: number;
  /** Text ids. For pairs and adjacent sentences, `right` has the other text of each pair. */
  readonly left: Int32Array;
  readonly right: Int32Array;
  /** For labelled texts: the classes of each text, and the number of classes. */
  readonly labels: RaggedArray;
  readonly classes: number;
}

/** Every array is in shared memory, so that threads need no copies. */
export interface Corpus {
  readonly vocabulary: readonly string[];
  /** The table rows of each distinct word, its own row first, and the factor of each row. */
  readonly wordRows: RaggedArray;
  readonly wordFactors: Float32Array;
  readonly texts: RaggedArray;
  readonly sources: readonly Source[];
}

/** A text's further words are not used. */
const MAX_WORDS = 48;
/** A text with fewer words is not split into halves. */
const MIN_WORDS_FOR_HALVES = 6;

/**
 * Reads every source of the groups from `folder`. Equal texts become one text. Throws a UsageError if a file is missing or
 * cannot be read, a group has no text to train on, or there are fewer distinct words than the vocabulary has rows.
 */
export function readCorpus(
  folder: string,
  groups: readonly SourceGroup[],
  shape: TableShape,
  progress: (line: string) => void,
): Corpus {
  const textIndex = new TextIndex();
  const sources = groups.flatMap((group) => {
    const read = group.files.map((file) => {
      const rows = readSource(folder, file);
      progress(`${group.name}: ${file}, ${rows.length} rows`);
      return makeSource(group, file, rows, textIndex);
    });
    const weighted = read.map((source) => ({ source, weight: source.left.length ** group.power }));
    const total = sum(weighted.map(({ weight }) => weight));
    if (total === 0) throw new UsageError(`The sources of '${group.name}' have no text to train on.`);
    return weighted.map(({ source, weight }) => ({ ...source, share: (group.weight * weight) / total }));
  });
  const totalShare = sum(sources.map(({ share }) => share));
  const lists = textIndex.toRaggedArray();
  const names = textIndex.words();
  progress(`${lists.starts.length - 1} texts, ${lists.members.length} words of ${names.length} kinds`);
  if (names.length < shape.vocabulary)
    throw new UsageError(
      `There are ${names.length} kinds of words, fewer than the vocabulary's ${shape.vocabulary} rows.`,
    );
  return {
    ...assignRows(names, textIndex.counts, shape),
    texts: lists,
    sources: sources.map((source) => ({ ...source, share: source.share / totalShare })),
  };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, each) => total + each, 0);
}

function makeSource(
  { name: group, kind }: SourceGroup,
  name: string,
  rows: readonly (readonly [string, string])[],
  textIndex: TextIndex,
): Omit<Source, "share"> {
  const empty = toSharedArray([]);
  const base = { name, group, kind, right: empty, labels: { starts: empty, members: empty }, classes: 0 };
  const idsOf = (column: readonly string[]) => toSharedArray(column.map((text) => textIndex.id(text)));
  const first = rows.map(([text]) => text);
  switch (kind) {
    case "pairs":
      return { ...base, left: idsOf(first), right: idsOf(rows.map(([, text]) => text)) };
    case "adjacent": {
      const ids = idsOf(first);
      return { ...base, left: toSharedArray(ids.subarray(0, -1)), right: toSharedArray(ids.subarray(1)) };
    }
    case "halves":
      return { ...base, left: idsOf(first.filter((text) => wordsOf(text).length >= MIN_WORDS_FOR_HALVES)) };
    case "labelled": {
      const classes = new Map<string, number>();
      const starts = new GrowableArray();
      const members = new GrowableArray();
      for (const [, labels] of rows) {
        starts.push(members.length);
        for (const label of labels.split("|")) {
          const id = classes.get(label) ?? classes.size;
          classes.set(label, id);
          members.push(id);
        }
      }
      starts.push(members.length);
      const labels = { starts: starts.toSharedArray(), members: members.toSharedArray() };
      return { ...base, left: idsOf(first), labels, classes: classes.size };
    }
  }
}

function wordsOf(text: string): string[] {
  return splitWords(text).slice(0, MAX_WORDS);
}

/** Numbers texts and words in the order in which they first occur. */
class TextIndex {
  readonly #textIds = new Map<string, number>();
  readonly #wordIds = new Map<string, number>();
  readonly #starts = new GrowableArray();
  readonly #members = new GrowableArray();
  /** How often each word occurs. */
  readonly counts: number[] = [];

  id(text: string): number {
    const known = this.#textIds.get(text);
    if (known !== undefined) return known;
    const id = this.#textIds.size;
    this.#textIds.set(text, id);
    this.#starts.push(this.#members.length);
    for (const token of wordsOf(text)) {
      const name = vocabularyKey(token);
      const word = this.#wordIds.get(name) ?? this.#wordIds.size;
      this.#wordIds.set(name, word);
      this.counts[word] = (this.counts[word] ?? 0) + 1;
      this.#members.push(word);
    }
    return id;
  }

  words(): string[] {
    return [...this.#wordIds.keys()];
  }

  /** The words of each text; to be called once, after the last text. */
  toRaggedArray(): RaggedArray {
    this.#starts.push(this.#members.length);
    return { starts: this.#starts.toSharedArray(), members: this.#members.toSharedArray() };
  }
}

/** Gives the most frequent words a row of their own. Every word also has the rows of its n-grams. */
function assignRows(
  names: readonly string[],
  counts: readonly number[],
  shape: TableShape,
): Pick<Corpus, "vocabulary" | "wordRows" | "wordFactors"> {
  const vocabulary = names
    .map((name, word) => ({ name, count: counts[word] ?? 0 }))
    .sort((a, b) => b.count - a.count || (a.name < b.name ? -1 : 1))
    .slice(0, shape.vocabulary)
    .map(({ name }) => name);
  const rowByName = new Map(vocabulary.map((name, row) => [name, row]));
  const starts = new GrowableArray();
  const rows = new GrowableArray();
  const factors: number[] = [];
  for (const name of names) {
    starts.push(rows.length);
    const row = rowByName.get(name);
    if (row !== undefined) {
      rows.push(row);
      factors.push(1);
    }
    const factor = 1 / Math.sqrt(subwordCount(name));
    forEachSubword(name, shape.buckets, (bucket) => {
      rows.push(shape.vocabulary + bucket);
      factors.push(factor);
    });
  }
  starts.push(rows.length);
  const wordFactors = new Float32Array(new SharedArrayBuffer(4 * factors.length));
  wordFactors.set(factors);
  return {
    vocabulary,
    wordRows: { starts: starts.toSharedArray(), members: rows.toSharedArray() },
    wordFactors,
  };
}

function toSharedArray(values: readonly number[] | Int32Array): Int32Array {
  const array = new Int32Array(new SharedArrayBuffer(4 * values.length));
  array.set(values);
  return array;
}

/** A growing list of 32-bit integers. */
class GrowableArray {
  #values = new Int32Array(1 << 10);
  length = 0;
  push(value: number): void {
    if (this.length === this.#values.length) {
      const larger = new Int32Array(2 * this.length);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.length++] = value;
  }
  toSharedArray(): Int32Array {
    return toSharedArray(this.#values.subarray(0, this.length));
  }
}
