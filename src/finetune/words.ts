/** The words of a training's texts, numbered, and what a static backbone says of them. */
import { entry } from "../backbones/subwords.ts";
import { type StaticTable, wordVector } from "../backbones/text-static.ts";
import { words } from "../core/text/words.ts";

/** Rows that are trained, at most: a delta of as many is below a quarter of the base. */
const MOST_TRAINED = 16_384;
/** A word of one text alone teaches that text by heart, and nothing of others. */
const FEWEST_TEXTS = 2;
/** The mean length of the rows that a training begins with: of this the rates are told. */
const LENGTH = 4;

export interface TrainedWords {
  /** Those that are trained first. */
  readonly names: readonly string[];
  readonly trained: number;
  /** A text's words. */
  text(text: number): Int32Array;
  /** What the base's rows are multiplied by. */
  readonly scale: number;
}

/** Numbers the words of texts. Rows are trained of those that `teaches` has in two texts or more, the most frequent first. */
export function numberWords(
  table: StaticTable,
  texts: readonly string[],
  teaches: (text: number) => boolean,
): TrainedWords {
  // Numbered first as they come: a list of each text's words themselves would be the most of a training's memory.
  const found = new Map<string, { readonly number: number; texts: number; last: number }>();
  const all: number[] = [];
  const starts = [0];
  texts.forEach((text, i) => {
    // Half a surrogate pair would not be the same word any more when it is read again.
    for (const word of words(text.toWellFormed())) {
      const name = entry(word);
      let known = found.get(name);
      if (known === undefined) {
        known = { number: found.size, texts: 0, last: -1 };
        found.set(name, known);
      }
      if (known.last !== i && teaches(i)) known.texts++;
      known.last = i;
      all.push(known.number);
    }
    starts.push(all.length);
  });
  const sorted = [...found].sort(([, a], [, b]) => b.texts - a.texts);
  const repeated = sorted.findIndex(([, { texts }]) => texts < FEWEST_TEXTS);
  const names = sorted.map(([name]) => name);
  const numbers = new Int32Array(sorted.length);
  for (const [i, [, { number }]] of sorted.entries()) numbers[number] = i;
  const numbered = Int32Array.from(all, (number) => numbers[number] as number);
  let lengths = 0;
  for (const name of names) lengths += Math.hypot(...wordVector(table, name));
  return {
    names,
    trained: Math.min(MOST_TRAINED, repeated === -1 ? names.length : repeated),
    text: (text) => numbered.subarray(starts[text], starts[text + 1]),
    scale: LENGTH / (lengths / Math.max(1, names.length) || 1),
  };
}

/** Fills in the rows that a training begins with. */
export function fillRows(rows: Float32Array, table: StaticTable, { names, scale }: TrainedWords): void {
  names.forEach((name, i) => {
    rows.set(
      wordVector(table, name).map((value) => scale * value),
      i * table.dimensions,
    );
  });
}
