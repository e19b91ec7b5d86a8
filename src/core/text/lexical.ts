/**
 * Lexical features: TF-IDF (Salton and Buckley 1988) of a text's words, word pairs and the character 2- to 4-grams of its
 * words, hashed (Weinberger et al. 2009), fitted on a tenant's own examples. They tell a head which words were used where
 * the embedding tells what they mean.
 *
 *   t = s (ŵ, ĉ)    w_j = (1 + ln n_j) · idf_j over the words and pairs hashed into bucket j, n_j of them; c likewise over the n-grams
 *   idf_j = ln((1 + examples) / (1 + examples with j)) + 1;    ŵ = w / ‖w‖; buckets that no example has are left out
 *
 * beside embeddings whose spread is 1, as a training scales them (design.ts): s is ½ for few examples, where the embedding
 * should say most, and 1 for many.
 */
import type { SparseRows } from "../tensors.ts";
import { words } from "./words.ts";

/** What is fitted: the buckets that any example has, and the inverse document frequency of each. */
export interface Lexical {
  /** Of words and pairs, and as many of n-grams after them. */
  readonly buckets: number;
  /** s */
  readonly scale: number;
  /** The buckets that were seen, ascending. They are the features' columns; no other bucket has any. */
  readonly seen: Uint16Array;
  /** One for each of them. */
  readonly idf: Float32Array;
}

/** A text's features: columns, each once, and their values. */
export type Features = Pick<SparseRows, "columns" | "values">;

const SHORTEST = 2;
const LONGEST = 4;
const FEW = 640;
/** The kinds of features hash from different starting values, so that the word "<a" is not the n-gram "<a". */
const WORD_SEED = 0x811c9dc5;
const PAIR_SEED = 0x9dc5811c;
const CHARACTERS_SEED = 0x01234567;

/** Parameters beside the dense ones that a head should have at most, and bounds of the buckets. */
const MOST_WEIGHTS = 160_000;
export const FEWEST_BUCKETS = 256;
const MOST_BUCKETS = 32_768;

/** How many buckets a head of so many outputs hashes into: fewer where each costs more weights. A power of two. */
export function lexicalBuckets(outputs: number): number {
  let buckets = MOST_BUCKETS;
  while (buckets > FEWEST_BUCKETS && 2 * buckets * outputs > MOST_WEIGHTS) buckets /= 2;
  return buckets;
}

/** Whether so many outputs leave room for lexical features at all. */
export function hasLexicalRoom(outputs: number): boolean {
  return 2 * FEWEST_BUCKETS * outputs <= MOST_WEIGHTS;
}

/** Room to count in, all zeros between two texts: one of its own for each prediction would cost more than the counting. */
const counts = new Uint32Array(2 * MOST_BUCKETS);

/** A text's buckets, each once, and how often it has each. */
function count(
  text: string,
  buckets: number,
): { readonly found: readonly number[]; readonly times: readonly number[] } {
  const found: number[] = [];
  const add = (hash: number, first: number) => {
    const bucket = first + (spread(hash) & (buckets - 1));
    if (counts[bucket] === 0) found.push(bucket);
    counts[bucket] = (counts[bucket] as number) + 1;
  };
  const addGram = (hash: number) => add(hash, buckets);
  let previous: number | null = null;
  for (const word of words(text)) {
    const hash = hashOf(word);
    add(hash, 0);
    if (previous !== null) add(step(step(PAIR_SEED, previous), hash), 0);
    previous = hash;
    addCharacters(word, addGram);
  }
  const times = found.map((bucket) => counts[bucket] as number);
  for (const bucket of found) counts[bucket] = 0;
  return { found, times };
}

function step(hash: number, unit: number): number {
  return Math.imul(hash ^ unit, 0x01000193);
}

function hashOf(word: string): number {
  let hash = WORD_SEED;
  for (let i = 0; i < word.length; i++) hash = step(hash, word.charCodeAt(i));
  return hash;
}

/** MurmurHash3's finaliser spreads FNV's low bits over all 32. */
function spread(hash: number): number {
  let h = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** The hash of each 2- to 4-gram of "<word>". */
function addCharacters(word: string, add: (hash: number) => void): void {
  const length = word.length + 2;
  const unit = (i: number) => (i === 0 ? 60 : i === length - 1 ? 62 : word.charCodeAt(i - 1));
  for (let start = 0; start + SHORTEST <= length; start++) {
    const end = Math.min(length, start + LONGEST);
    let hash = step(CHARACTERS_SEED, unit(start));
    for (let i = start + 1; i < end; i++) {
      hash = step(hash, unit(i));
      add(hash);
    }
  }
}

/** The features of a training's texts. */
export interface LexicalFeatures {
  readonly lexical: Lexical;
  readonly columns: number;
  /** Numbers in the rows. */
  readonly entries: number;
  /** The rows, text by text. They are given away: a training needs their memory for other things. */
  takeRows(): SparseRows;
}

/** What texts are read into, one after another, before the frequencies in all of them are known. */
export interface LexicalReader {
  add(text: string): void;
  /** Numbers so far. */
  entries(): number;
  /** Buckets of words and pairs, and as many of n-grams. */
  buckets(): number;
  /** Goes on with half as many buckets, as if it had begun with them. */
  halve(): void;
  /** Ends the reader. */
  fit(): LexicalFeatures;
}

/** Numbers that are read into one array: an array of each text's own would be larger than what it holds. */
const CHUNK = 65_536;

/** A reader that hashes into so many buckets of words and pairs, a power of two, and as many of n-grams. */
export function readLexical(most: number): LexicalReader {
  let buckets = most;
  const chunks: Features[] = [];
  const starts = [0];
  let entries = 0;
  let { columns, values }: Features = { columns: new Uint16Array(0), values: new Float32Array(0) };
  return {
    add(text) {
      const { found, times } = count(text, buckets);
      for (const [i, bucket] of found.entries()) {
        const at = entries++ % CHUNK;
        if (at === 0) {
          columns = new Uint16Array(CHUNK);
          values = new Float32Array(CHUNK);
          chunks.push({ columns, values });
        }
        columns[at] = bucket;
        values[at] = times[i] as number;
      }
      starts.push(entries);
    },
    entries: () => entries,
    buckets: () => buckets,
    halve() {
      entries = halveBuckets(chunks, starts, buckets);
      buckets /= 2;
      chunks.length = Math.ceil(entries / CHUNK);
      ({ columns, values } = chunks.at(-1) ?? { columns, values });
    },
    fit() {
      const rows = { starts: Uint32Array.from(starts), ...joinChunks(chunks, entries) };
      chunks.length = 0;
      const examples = starts.length - 1;
      const scale = examples <= FEW ? 0.5 : 1;
      const lexical = { buckets, scale, ...frequencies(rows.columns, examples, 2 * buckets) };
      toColumns(rows.columns, lexical.seen);
      for (let i = 0; i < examples; i++) {
        const [from, to] = [rows.starts[i] as number, rows.starts[i + 1] as number];
        weigh(rows.columns.subarray(from, to), rows.values.subarray(from, to), lexical);
      }
      let kept: SparseRows | null = rows;
      const takeRows = () => {
        const taken = kept;
        kept = null;
        if (taken === null) throw new Error("The rows have been taken.");
        return taken;
      };
      return { lexical, columns: lexical.seen.length, entries, takeRows };
    },
  };
}

/** Puts each two buckets that half as many would be one into one, text by text, in place; answers how many numbers are left. */
function halveBuckets(chunks: readonly Features[], starts: number[], buckets: number): number {
  const half = buckets / 2;
  /** One more than where each new bucket was last put. */
  const last = new Uint32Array(2 * half);
  let to = 0;
  let from = 0;
  for (let text = 1; text < starts.length; text++) {
    const first = to;
    for (const end = starts[text] as number; from < end; from++) {
      const { columns, values } = chunks[Math.floor(from / CHUNK)] as Features;
      const old = columns[from % CHUNK] as number;
      const times = values[from % CHUNK] as number;
      const bucket = (old & (half - 1)) + (old < buckets ? 0 : half);
      const known = (last[bucket] as number) - 1;
      const at = known >= first ? known : to++;
      last[bucket] = at + 1;
      const target = chunks[Math.floor(at / CHUNK)] as Features;
      target.columns[at % CHUNK] = bucket;
      target.values[at % CHUNK] = at === known ? (target.values[at % CHUNK] as number) + times : times;
    }
    starts[text] = to;
  }
  return to;
}

function joinChunks(chunks: readonly Features[], entries: number): Features {
  const joined = { columns: new Uint16Array(entries), values: new Float32Array(entries) };
  chunks.forEach(({ columns, values }, i) => {
    const size = Math.min(CHUNK, entries - i * CHUNK);
    joined.columns.set(columns.subarray(0, size), i * CHUNK);
    joined.values.set(values.subarray(0, size), i * CHUNK);
  });
  return joined;
}

/** A function that gives a text's features. */
export function lexicalFeatures(lexical: Lexical): (text: string) => Features {
  return (text) => {
    const { found, times } = count(text, lexical.buckets);
    const columns = new Uint16Array(found.length);
    const values = new Float32Array(found.length);
    let size = 0;
    for (const [i, bucket] of found.entries()) {
      const column = place(lexical.seen, bucket);
      if (column < 0) continue;
      columns[size] = column;
      values[size++] = times[i] as number;
    }
    const features = { columns: columns.subarray(0, size), values: values.subarray(0, size) };
    weigh(features.columns, features.values, lexical);
    return features;
  };
}

/** Where a number is among others, which ascend, or −1. */
function place(ascending: Uint16Array, number: number): number {
  let low = 0;
  let high = ascending.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const found = ascending[middle] as number;
    if (found === number) return middle;
    if (found < number) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

/** The buckets that are among those of the examples, each example's once, and their inverse document frequencies. */
function frequencies(buckets: Uint16Array, examples: number, width: number): Pick<Lexical, "seen" | "idf"> {
  const rows = new Uint32Array(width);
  for (let m = 0; m < buckets.length; m++) {
    const bucket = buckets[m] as number;
    rows[bucket] = (rows[bucket] as number) + 1;
  }
  const seen = Uint16Array.from(Array.from(rows.keys()).filter((bucket) => rows[bucket] !== 0));
  const idf = new Float32Array(seen.length);
  for (let j = 0; j < seen.length; j++)
    idf[j] = Math.log((1 + examples) / (1 + (rows[seen[j] as number] as number))) + 1;
  return { seen, idf };
}

/** Turns buckets into columns, in place. */
function toColumns(buckets: Uint16Array, seen: Uint16Array): void {
  const columns = new Uint16Array((seen.at(-1) ?? 0) + 1);
  for (let j = 0; j < seen.length; j++) columns[seen[j] as number] = j;
  for (let m = 0; m < buckets.length; m++) buckets[m] = columns[buckets[m] as number] as number;
}

/** Turns one text's counts into its features, in place. */
function weigh(columns: Uint16Array, values: Float32Array, { buckets, seen, idf, scale }: Lexical): void {
  let ofWords = 0;
  let ofCharacters = 0;
  for (let m = 0; m < columns.length; m++) {
    const column = columns[m] as number;
    const value = (1 + Math.log(values[m] as number)) * (idf[column] as number);
    values[m] = value;
    if ((seen[column] as number) < buckets) ofWords += value * value;
    else ofCharacters += value * value;
  }
  const word = scale / (Math.sqrt(ofWords) || 1);
  const character = scale / (Math.sqrt(ofCharacters) || 1);
  for (let m = 0; m < columns.length; m++)
    values[m] = (values[m] as number) * ((seen[columns[m] as number] as number) < buckets ? word : character);
}
