/**
 * Why a head predicts what it predicts: its logit as a sum of parts, for the predicted label and for the runner-up.
 *
 *   logit = Σ_terms weight + bias            logit = (W x + V t + b) / T, as `outputsOf` takes it; for regression the value
 *   bias = intercept + other terms + unexplained
 *
 * A term is a word of the text, or a phrase. Three things add to its weight:
 *
 *   lexical     V_j t_j for each feature j, in equal shares to the words and pairs of the text that are hashed into its
 *               bucket. A character n-gram belongs to its word. Exact.
 *   words       W x for the numbers of x that are a sum over words: the product of W with each word's part. Exact.
 *   occlusions  W x for all other numbers. o_s is how much of it is lost without the words of span s (Zeiler and Fergus
 *               2014, "Visualizing and Understanding Convolutional Networks"). Where the o_s have more than W x in sum,
 *               they are scaled down to it.
 */
import { type Head, logitsOf } from "./head.ts";
import { forEachBucket } from "./text/buckets.ts";
import type { SparseVector } from "./text/lexical.ts";
import type { LocatedWord } from "./text/words.ts";

/** A number for each explained output: the predicted label, then the runner-up if there is one. */
export type Parts = Float64Array;

/** Words from `first` to `last`, inclusive. */
export interface Span {
  readonly first: number;
  readonly last: number;
}

export interface ExplainedInput {
  readonly text: string;
  readonly words: readonly LocatedWord[];
  readonly embedding: Float32Array;
  /** The text's lexical features; null if the head has none. */
  readonly features: SparseVector | null;
  /** The first so many numbers of the embedding are a sum over the words. */
  readonly summedDimensions: number;
  /** For each explained output what each word adds to W x by them; null if they are not known. */
  readonly wordProducts: readonly Float64Array[] | null;
  /** The embedding of the text without the words of each span. */
  readonly occlusions: readonly { readonly span: Span; readonly embedding: Float32Array }[];
}

export interface Term {
  readonly text: string;
  readonly parts: Parts;
}

export interface Explanation {
  readonly logits: Parts;
  /** Those that make most difference first. */
  readonly terms: readonly Term[];
  readonly intercept: Parts;
  /** Of terms beyond `maxTerms`. */
  readonly otherTerms: Parts;
  /** Of the embedding, what no term explains. */
  readonly unexplained: Parts;
}

/** The outputs of a head that an explanation is of: the most probable label and the runner-up, or the value. */
export function explainedOutputs({ task }: Head, outputs: Float64Array): readonly number[] {
  if (task === "regression") return [0];
  const order = Array.from(outputs.keys()).sort((a, b) => (outputs[b] as number) - (outputs[a] as number) || a - b);
  return order.slice(0, task === "single_label" ? 2 : 1);
}

/** Explains the logits of these outputs. Throws as `logitsOf` does. */
export function explain(head: Head, outputs: readonly number[], input: ExplainedInput, maxTerms: number): Explanation {
  const { temperature, bias, offset } = head;
  const makeParts = (partOf: (output: number) => number) => Float64Array.from(outputs, (k) => partOf(k) / temperature);
  const all = logitsOf(head, input.embedding, input.features);
  const logits = makeParts((k) => all[k] as number);
  const intercept = makeParts((k) => offset + (bias[k] as number));
  const collector = collectTerms(input, outputs.length);
  addLexicalParts(collector, head, outputs, input);
  for (const [o, products] of input.wordProducts?.entries() ?? [])
    for (let i = 0; i < products.length; i++) collector.add(i, i, o, products[i] as number);
  addOccludedParts(collector, head, outputs, input);
  const terms = collector.terms().map(({ text, parts }) => ({ text, parts: parts.map((part) => part / temperature) }));
  const effect = ({ parts }: Term) => Math.abs((parts[0] as number) - (parts[1] ?? 0));
  terms.sort((a, b) => effect(b) - effect(a));
  const sumOf = (list: readonly Term[]) =>
    Float64Array.from(outputs, (_, o) => list.reduce((sum, { parts }) => sum + (parts[o] as number), 0));
  const [shown, others] = [sumOf(terms.slice(0, maxTerms)), sumOf(terms.slice(maxTerms))];
  return {
    logits,
    terms: terms.slice(0, maxTerms),
    intercept,
    otherTerms: others,
    unexplained: logits.map(
      (logit, o) => logit - (intercept[o] as number) - (shown[o] as number) - (others[o] as number),
    ),
  };
}

interface TermCollector {
  /** Adds to an output's part of the term of the words from `first` to `last`. */
  add(first: number, last: number, output: number, part: number): void;
  terms(): Term[];
}

/** Collects the parts of terms. Equal words are one term, which is shown as it first stands in the text. */
function collectTerms({ text, words }: Pick<ExplainedInput, "text" | "words">, outputs: number): TermCollector {
  const terms = new Map<string, Term>();
  const wordTerms = new Array<Term | undefined>(words.length);
  const find = (first: number, last: number): Term => {
    const places = words.slice(first, last + 1);
    const key = places.map(({ word }) => word).join(" ");
    const known = terms.get(key);
    if (known !== undefined) return known;
    const shown = text.slice(places[0]?.start ?? 0, places.at(-1)?.end ?? 0);
    const term = { text: shown.replace(/\s+/gu, " ").trim(), parts: new Float64Array(outputs) };
    terms.set(key, term);
    return term;
  };
  return {
    add(first, last, output, part) {
      let term = first === last ? wordTerms[first] : undefined;
      term ??= find(first, last);
      if (first === last) wordTerms[first] = term;
      term.parts[output] = (term.parts[output] as number) + part;
    },
    terms: () => [...terms.values()],
  };
}

/** Adds V_j t_j of each feature to the words and pairs that are hashed into it. */
function addLexicalParts(
  collector: TermCollector,
  { lexical, bias }: Head,
  outputs: readonly number[],
  { words, features }: ExplainedInput,
): void {
  if (lexical === null || features === null) return;
  const { seenBuckets, weights, scales, buckets } = lexical;
  const featureOf = new Map(Array.from(features.columns, (column, m) => [seenBuckets[column] as number, m]));
  const counts = new Uint32Array(features.columns.length);
  const found: { readonly feature: number; readonly word: number; readonly isPair: boolean }[] = [];
  forEachBucket(
    words.map(({ word }) => word),
    buckets,
    (bucket, word, isPair) => {
      const feature = featureOf.get(bucket);
      if (feature === undefined) return;
      counts[feature] = (counts[feature] as number) + 1;
      found.push({ feature, word, isPair });
    },
  );
  const products = outputs.map((k) =>
    Float64Array.from(features.columns, (column, m) => {
      const weight = (scales[k] as number) * (weights[column * bias.length + k] as number);
      return ((features.values[m] as number) * weight) / Math.max(1, counts[m] as number);
    }),
  );
  for (const [o, own] of products.entries()) {
    const [wordSums, pairSums] = [new Float64Array(words.length), new Float64Array(words.length)];
    for (const { feature, word, isPair } of found) {
      const sums = isPair ? pairSums : wordSums;
      sums[word] = (sums[word] as number) + (own[feature] as number);
    }
    for (let i = 0; i < words.length; i++) {
      if (wordSums[i] !== 0) collector.add(i, i, o, wordSums[i] as number);
      if (pairSums[i] !== 0) collector.add(i - 1, i, o, pairSums[i] as number);
    }
  }
}

/** Adds what occlusions show of the numbers that are no sum over words. */
function addOccludedParts(
  collector: TermCollector,
  { weights, dimensions }: Head,
  outputs: readonly number[],
  { embedding, occlusions, summedDimensions }: ExplainedInput,
): void {
  for (const [o, k] of outputs.entries()) {
    const productWith = (row: Float32Array) => {
      let sum = 0;
      for (let j = summedDimensions; j < dimensions; j++)
        sum += (weights[k * dimensions + j] as number) * (row[j] as number);
      return sum;
    };
    const share = productWith(embedding);
    const losses = occlusions.map((occlusion) => share - productWith(occlusion.embedding));
    const lost = losses.reduce((sum, loss) => sum + loss, 0);
    const scale = lost / share > 1 ? share / lost : 1;
    for (const [s, { span }] of occlusions.entries())
      collector.add(span.first, span.last, o, (losses[s] as number) * scale);
  }
}

const WORDLIKE = /[\p{L}\p{N}]/u;

/**
 * Divides words into at most so many spans of about equally many words. Signs belong to the word before them. Leaves out
 * words that begin at `end` of the text or later.
 */
export function divideIntoSpans(words: readonly LocatedWord[], maxSpans: number, end: number): Span[] {
  const count = words.findIndex(({ start }) => start >= end);
  const read = count === -1 ? words : words.slice(0, count);
  // All words of a text that is one place are one span.
  const starts = read.flatMap(({ word, start }, i) =>
    i === 0 || (WORDLIKE.test(word) && start > (read[i - 1]?.start ?? 0)) ? [i] : [],
  );
  const spans = Math.min(maxSpans, starts.length);
  return Array.from({ length: spans }, (_, s) => {
    const first = starts[Math.floor((s * starts.length) / spans)] as number;
    return { first, last: (starts[Math.floor(((s + 1) * starts.length) / spans)] ?? read.length) - 1 };
  });
}

/** A text without the words of a span, and without what stands between it and the next word. */
export function occlude(text: string, words: readonly LocatedWord[], { first, last }: Span): string {
  const end = words[last + 1]?.start ?? text.length;
  return text.slice(0, words[first]?.start ?? 0) + text.slice(end);
}
