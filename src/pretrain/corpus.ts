/** The text to train on as numbers: words as the rows that they are made of, texts as words, sources as texts. */
import { eachSubword, entry, subwordCount } from "../backbones/subwords.ts";
import { words } from "../core/words.ts";
import { type Group, type Kind, readSource } from "./sources.ts";

export interface Shape {
  readonly dimensions: number;
  /** Most frequent words with a row of their own; the n-grams' rows come after them. */
  readonly vocabulary: number;
  readonly buckets: number;
}

/** Lists of whole numbers one after another: list i is `members` from `starts[i]` to `starts[i + 1]`. */
export interface Lists {
  readonly starts: Int32Array;
  readonly members: Int32Array;
}

export interface Source {
  readonly name: string;
  readonly group: string;
  readonly kind: Kind;
  /** How likely a step draws it. */
  readonly share: number;
  /** Texts; for pairs and adjacent sentences `right` holds each one's other. */
  readonly left: Int32Array;
  readonly right: Int32Array;
  /** Labelled: the classes of each text, and how many there are. */
  readonly labels: Lists;
  readonly classes: number;
}

export interface Corpus {
  readonly vocabulary: readonly string[];
  /** The rows of each word that occurs, and the factor of each row. */
  readonly wordRows: Lists;
  readonly wordFactors: Float32Array;
  readonly texts: Lists;
  readonly sources: readonly Source[];
}

/** Words of a text beyond these are left out of training. */
const MOST_WORDS = 48;
/** Fewer words are not dealt into halves. */
const LEAST_WORDS = 6;

function shared(values: readonly number[] | Int32Array): Int32Array {
  const array = new Int32Array(new SharedArrayBuffer(4 * values.length));
  array.set(values);
  return array;
}

/** Grows as numbers are added. */
class Numbers {
  #values = new Int32Array(1 << 16);
  length = 0;
  push(value: number): void {
    if (this.length === this.#values.length) {
      const larger = new Int32Array(2 * this.length);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.length++] = value;
  }
  shared(): Int32Array {
    return shared(this.#values.subarray(0, this.length));
  }
}

/** Reads every source of the groups under `folder`. Equal texts are one text. */
export function readCorpus(
  folder: string,
  groups: readonly Group[],
  shape: Shape,
  progress: (line: string) => void,
): Corpus {
  const wordIds = new Map<string, number>();
  const counts: number[] = [];
  const textIds = new Map<string, number>();
  const textStarts = new Numbers();
  const textWords = new Numbers();
  const textId = (text: string): number => {
    const known = textIds.get(text);
    if (known !== undefined) return known;
    const id = textIds.size;
    textIds.set(text, id);
    textStarts.push(textWords.length);
    for (const word of words(text).slice(0, MOST_WORDS)) {
      const name = entry(word);
      let at = wordIds.get(name);
      if (at === undefined) {
        at = wordIds.size;
        wordIds.set(name, at);
        counts.push(0);
      }
      counts[at] = (counts[at] as number) + 1;
      textWords.push(at);
    }
    return id;
  };
  const lengthOf = (text: string) => Math.min(words(text).length, MOST_WORDS);

  const sources: Source[] = [];
  const none = { starts: shared([]), members: shared([]) };
  for (const group of groups) {
    const read: Omit<Source, "share">[] = group.files.map((file) => {
      const rows = readSource(folder, file);
      progress(`${group.name}: ${file}, ${rows.length} rows`);
      const base = { name: file, group: group.name, kind: group.kind, right: none.members, labels: none, classes: 0 };
      const column = (at: number) => shared(rows.map((row) => textId(row[at] as string)));
      switch (group.kind) {
        case "pairs":
          return { ...base, left: column(0), right: column(1) };
        case "adjacent": {
          const ids = column(0);
          return { ...base, left: shared(ids.subarray(0, -1)), right: shared(ids.subarray(1)) };
        }
        case "halves": {
          const long = rows.filter((row) => lengthOf(row[0] as string) >= LEAST_WORDS);
          return { ...base, left: shared(long.map((row) => textId(row[0] as string))) };
        }
        case "labelled": {
          const classes = new Map<string, number>();
          const starts = new Numbers();
          const members = new Numbers();
          for (const row of rows) {
            starts.push(members.length);
            for (const label of (row[1] as string).split("|")) {
              const id = classes.get(label) ?? classes.size;
              classes.set(label, id);
              members.push(id);
            }
          }
          starts.push(members.length);
          const labels = { starts: starts.shared(), members: members.shared() };
          return { ...base, left: column(0), labels, classes: classes.size };
        }
      }
    });
    const powers = read.map(({ left }) => left.length ** group.power);
    const total = powers.reduce((sum, power) => sum + power, 0);
    read.forEach((source, i) => {
      sources.push({ ...source, share: (group.weight * (powers[i] as number)) / total });
    });
  }
  textStarts.push(textWords.length);
  const whole = sources.reduce((sum, { share }) => sum + share, 0);

  const names = [...wordIds.keys()];
  const ranked = Array.from(names.keys()).sort(
    (a, b) => (counts[b] as number) - (counts[a] as number) || ((names[a] as string) < (names[b] as string) ? -1 : 1),
  );
  const own = new Map(ranked.slice(0, shape.vocabulary).map((word, row) => [word, row]));
  const starts = new Numbers();
  const rows = new Numbers();
  const factors: number[] = [];
  names.forEach((name, word) => {
    starts.push(rows.length);
    const row = own.get(word);
    if (row !== undefined) {
      rows.push(row);
      factors.push(1);
    }
    const factor = 1 / Math.sqrt(subwordCount(name));
    eachSubword(name, shape.buckets, (bucket) => {
      rows.push(shape.vocabulary + bucket);
      factors.push(factor);
    });
  });
  starts.push(rows.length);
  const wordFactors = new Float32Array(new SharedArrayBuffer(4 * factors.length));
  wordFactors.set(factors);
  progress(`${textIds.size} texts, ${textWords.length} words of ${names.length} kinds`);
  return {
    vocabulary: ranked.slice(0, shape.vocabulary).map((word) => names[word] as string),
    wordRows: { starts: starts.shared(), members: rows.shared() },
    wordFactors,
    texts: { starts: textStarts.shared(), members: textWords.shared() },
    sources: sources.map((source) => ({ ...source, share: source.share / whole })),
  };
}
