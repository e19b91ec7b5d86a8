/**
 * One step's texts, drawn from its number and the seed alone, and the lists that its sums go over. Every thread makes the
 * same batch; a resumed training needs no state of a generator.
 */
import { seededRandom } from "../core/random.ts";
import type { Corpus, Source } from "./corpus.ts";

/** Texts a batch; pairs have as many on each side. */
export const BATCH = 512;
const WORD_DROPOUT = 0.1;

export interface Batch {
  readonly source: Source;
  readonly sourceIndex: number;
  /** BATCH texts, or the left sides and then the right ones, as lists of `kinds`' indices. */
  readonly texts: number;
  readonly textStarts: Int32Array;
  readonly textWords: Int32Array;
  /** The distinct words of the batch. */
  readonly kinds: Int32Array;
  readonly kindCount: number;
  /** labelled: the class of each text */
  readonly targets: Int32Array;
  /** pairs: places of the logits' matrix where row and column share a text, so that they are no negatives of each other */
  readonly masked: readonly number[];
}

/** Makes batches, in memory that it keeps: a batch is valid until the next. */
export function batches(corpus: Corpus, seed: number): (step: number) => Batch {
  const words = corpus.wordRows.starts.length - 1;
  const place = new Int32Array(words);
  const stamp = new Int32Array(words).fill(-1);
  const kinds = new Int32Array(1 << 17);
  const textWords = new Int32Array(1 << 17);
  const textStarts = new Int32Array(2 * BATCH + 1);
  const targets = new Int32Array(BATCH);
  const { starts, members } = corpus.texts;
  const cumulative: number[] = [];
  for (const { share } of corpus.sources) cumulative.push((cumulative.at(-1) ?? 0) + share);

  return (step) => {
    const random = seededRandom(Math.imul(seed ^ Math.imul(step + 1, 0x9e3779b1), 0x85ebca6b));
    const drawn = random() * (cumulative.at(-1) ?? 1);
    const sourceIndex = Math.max(0, cumulative.findIndex((sum) => drawn < sum));
    const source = corpus.sources[sourceIndex] as Source;
    const size = source.kind === "halves" || source.kind === "labelled" ? source.left.length : source.right.length;
    const chosen = Int32Array.from({ length: BATCH }, () => Math.floor(random() * size));
    let kindCount = 0;
    let at = 0;
    let text = 0;
    textStarts[0] = 0;
    const add = (word: number) => {
      if (stamp[word] !== step) {
        stamp[word] = step;
        place[word] = kindCount;
        kinds[kindCount++] = word;
      }
      textWords[at++] = place[word] as number;
    };
    const end = () => {
      textStarts[++text] = at;
    };
    const addText = (id: number) => {
      const first = starts[id] as number;
      const last = starts[id + 1] as number;
      const before = at;
      for (let i = first; i < last; i++) if (random() >= WORD_DROPOUT) add(members[i] as number);
      if (at === before) add(members[first + Math.floor(random() * (last - first))] as number);
      end();
    };
    const masked: number[] = [];
    if (source.kind === "halves") {
      const other: number[] = [];
      const rest: number[][] = [];
      for (const row of chosen) {
        const id = source.left[row] as number;
        const first = starts[id] as number;
        const length = (starts[id + 1] as number) - first;
        // At least two words on each side.
        const order = Array.from({ length }, (_, i) => i);
        for (let i = 0; i < 4; i++) {
          const j = i + Math.floor(random() * (length - i));
          const held = order[i] as number;
          order[i] = order[j] as number;
          order[j] = held;
        }
        const right: number[] = [];
        order.forEach((offset, i) => {
          const word = members[first + offset] as number;
          if (i < 2 || (i >= 4 && random() < 0.5)) add(word);
          else right.push(word);
        });
        end();
        rest.push(right);
        other.push(id);
      }
      for (const right of rest) {
        for (const word of right) add(word);
        end();
      }
      mask(other, other, masked);
    } else if (source.kind === "labelled") {
      const { labels } = source;
      chosen.forEach((row, i) => {
        addText(source.left[row] as number);
        const first = labels.starts[row] as number;
        const count = (labels.starts[row + 1] as number) - first;
        targets[i] = labels.members[first + (count === 1 ? 0 : Math.floor(random() * count))] as number;
      });
    } else {
      const left = Array.from(chosen, (row) => source.left[row] as number);
      const right = Array.from(chosen, (row) => source.right[row] as number);
      for (const id of left) addText(id);
      for (const id of right) addText(id);
      mask(left, right, masked);
    }
    return { source, sourceIndex, texts: text, textStarts, textWords, kinds, kindCount, targets, masked };
  };
}

/** Off the diagonal, the places (row · BATCH + column) where the pairs share a text. */
function mask(left: readonly number[], right: readonly number[], masked: number[]): void {
  const having = new Map<number, number[]>();
  [left, right].forEach((side) => {
    side.forEach((id, i) => {
      const rows = having.get(id);
      if (rows === undefined) having.set(id, [i]);
      else if (rows.at(-1) !== i) rows.push(i);
    });
  });
  for (const rows of having.values()) {
    for (const i of rows) for (const j of rows) if (i !== j) masked.push(i * BATCH + j);
  }
}
