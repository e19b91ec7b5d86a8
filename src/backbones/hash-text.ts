/**
 * hash-text-1: an embedding of text without weights, by feature hashing (Weinberger et al. 2009, "Feature Hashing for
 * Large Scale Multitask Learning") of words, word pairs and the character n-grams of words (Bojanowski et al. 2017,
 * "Enriching Word Vectors with Subword Information").
 *
 *   v = Σ_w (1 + ln tf_w) · ( φ(w) + 2 |G_w|^(-1/4) Σ_{g ∈ G_w} φ(g) )  +  0.3 Σ_p (1 + ln tf_p) · φ(p)
 *   embedding = v / ‖v‖
 *
 * w: the text's distinct words. G_w: the 2- to 4-grams of "<w>", with repeats. p: its distinct pairs of neighbouring words.
 * φ(feature): ±1 in one of 384 dimensions; the feature's hash gives sign and dimension. A word is a run of letters, marks
 * and digits of any script. Every other character that is not white space is a word of its own.
 */
import { normaliseText } from "../core/text/words.ts";
import type { Backbone } from "./backbone.ts";

const DIMENSIONS = 384;
const MIN_NGRAM = 2;
const MAX_NGRAM = 4;
const CHARACTERS_WEIGHT = 2;
const PAIR_WEIGHT = 0.3;

/** Each kind of feature has its own seed, so that the word "<a" and the n-gram "<a" have different hashes. */
const WORD_SEED = 0x811c9dc5;
const PAIR_SEED = 0x9dc5811c;
const CHARACTERS_SEED = 0x01234567;
const WORDS = /[\p{L}\p{M}\p{N}]+|\S/gu;

/** One FNV-1a step over a UTF-16 code unit. */
function fnv1aStep(hash: number, unit: number): number {
  return Math.imul(hash ^ unit, 0x01000193);
}

function hashOf(text: string, seed: number): number {
  let hash = seed;
  for (let i = 0; i < text.length; i++) hash = fnv1aStep(hash, text.charCodeAt(i));
  return hash;
}

/** Adds weight · φ(feature). MurmurHash3's finaliser mixes FNV's low bits into all 32 bits. */
function addFeature(vector: Float64Array, hash: number, weight: number): void {
  let h = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  h ^= h >>> 16;
  const dimension = (h >>> 1) % DIMENSIONS;
  vector[dimension] = (vector[dimension] ?? 0) + (h & 1 ? weight : -weight);
}

/** Adds weight · Σ φ(g) over the 2- to 4-grams g of "<word>". */
function addCharacterNgrams(vector: Float64Array, word: string, weight: number): void {
  const bounded = `<${word}>`;
  const length = bounded.length;
  let count = 0;
  for (let n = MIN_NGRAM; n <= MAX_NGRAM; n++) count += Math.max(0, length - n + 1);
  const ngramWeight = (weight * CHARACTERS_WEIGHT) / Math.sqrt(Math.sqrt(count));
  for (let start = 0; start < length - 1; start++) {
    const end = Math.min(length, start + MAX_NGRAM);
    let hash = fnv1aStep(CHARACTERS_SEED, bounded.charCodeAt(start));
    for (let i = start + 1; i < end; i++) {
      hash = fnv1aStep(hash, bounded.charCodeAt(i));
      addFeature(vector, hash, ngramWeight);
    }
  }
}

function increment<T>(counts: Map<T, number>, key: T): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function squaredNorm(vector: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < vector.length; i++) {
    const value = vector[i] ?? 0;
    sum += value * value;
  }
  return sum;
}

/** The embedding of a text: 384 numbers of unit norm, the same bytes on every machine. White space alone gives zeros. */
export function encode(text: string): Float32Array {
  const words = new Map<string, number>();
  const pairs = new Map<number, number>();
  let previous: string | undefined;
  for (const word of normaliseText(text).match(WORDS) ?? []) {
    increment(words, word);
    if (previous !== undefined) increment(pairs, hashOf(word, hashOf(`${previous} `, PAIR_SEED)));
    previous = word;
  }

  const vector = new Float64Array(DIMENSIONS);
  for (const [word, tf] of words) {
    const weight = 1 + Math.log(tf);
    addFeature(vector, hashOf(word, WORD_SEED), weight);
    addCharacterNgrams(vector, word, weight);
  }
  for (const [hash, tf] of pairs) addFeature(vector, hash, PAIR_WEIGHT * (1 + Math.log(tf)));

  // A text of combining marks alone has no words, and features of opposite signs may cancel out.
  if (squaredNorm(vector) === 0 && text.trim() !== "") addFeature(vector, hashOf(text, WORD_SEED), 1);
  const scale = 1 / (Math.sqrt(squaredNorm(vector)) || 1);
  const embedding = new Float32Array(DIMENSIONS);
  for (let i = 0; i < DIMENSIONS; i++) embedding[i] = (vector[i] ?? 0) * scale;
  return embedding;
}

/** The built-in backbone without a file: 384 dimensions, some microseconds a text. */
export const hashText: Backbone = {
  id: "hash-text-1",
  revision: "1",
  modality: "text",
  dimensions: DIMENSIONS,
  kind: "hash",
  license: "Apache-2.0",
  parameters: 0,
  bytes: 0,
  cost: "local",
  embed: async (inputs) => ({ rows: inputs.map(encode), failure: null }),
};
