/** The words of a training's texts, numbered, and what a static backbone says of them. */
import { entry } from "../backbones/subwords.ts";
import { type StaticTable, wordVector } from "../backbones/text-static.ts";
import { words } from "../core/words.ts";

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
  /** Each text's words. */
  readonly texts: readonly Int32Array[];
  /** What the base's rows are multiplied by. */
  readonly scale: number;
}

/** Numbers the words of texts. Rows are trained of those that `teaches` has in two texts or more, the most frequent first. */
export function numberWords(
  table: StaticTable,
  texts: readonly string[],
  teaches: (text: number) => boolean,
): TrainedWords {
  // Half a surrogate pair would not be the same word any more when it is read again.
  const entries = texts.map((text) => words(text.toWellFormed()).map(entry));
  const textsWith = new Map<string, number>();
  entries.forEach((list, i) => {
    for (const name of new Set(list)) textsWith.set(name, (textsWith.get(name) ?? 0) + (teaches(i) ? 1 : 0));
  });
  const all = [...textsWith].sort(([, a], [, b]) => b - a);
  const repeated = all.findIndex(([, count]) => count < FEWEST_TEXTS);
  const names = all.map(([name]) => name);
  const numbers = new Map(names.map((name, i) => [name, i]));
  let lengths = 0;
  for (const name of names) lengths += Math.hypot(...wordVector(table, name));
  return {
    names,
    trained: Math.min(MOST_TRAINED, repeated === -1 ? names.length : repeated),
    texts: entries.map((list) => Int32Array.from(list, (name) => numbers.get(name) as number)),
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
