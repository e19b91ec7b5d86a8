/**
 * What is counted of a version's inputs, held out or live: histograms and sums, and nothing of an input itself. Counts of
 * disjoint inputs add up.
 */

/** Bins of equal width over [0, 1], for the top probability and for the scope score. */
export const SCORE_BINS = 20;
/**
 * An input by its share of words that the backbone has no vocabulary entry for: none, then up to each of these shares, then
 * more.
 */
const UNKNOWN_SHARES: readonly number[] = [0.1, 0.2, 0.3, 0.5];
export const UNKNOWN_WORD_BINS = UNKNOWN_SHARES.length + 2;
/** Labels from this index on are counted as one. */
export const COUNTED_LABELS = 1_000;

export interface InputCounts {
  readonly inputs: number;
  /** Inputs by their top probability; all 0 for regression. */
  readonly confidence: readonly number[];
  /** Σ of the top probabilities. */
  readonly confidence_sum: number;
  /** Inputs by their scope score; all 0 for a head without one. */
  readonly scope: readonly number[];
  /** Inputs by their share of unknown words; all 0 where the backbone has no vocabulary. */
  readonly unknown_words: readonly number[];
  /** Inputs by the index of their most probable label. */
  readonly labels: Readonly<Record<string, number>>;
}

export const noInputs: InputCounts = {
  inputs: 0,
  confidence: new Array<number>(SCORE_BINS).fill(0),
  confidence_sum: 0,
  scope: new Array<number>(SCORE_BINS).fill(0),
  unknown_words: new Array<number>(UNKNOWN_WORD_BINS).fill(0),
  labels: {},
};

export function addInputCounts(a: InputCounts, b: InputCounts): InputCounts {
  const labels = { ...a.labels };
  for (const [index, count] of Object.entries(b.labels)) labels[index] = (labels[index] ?? 0) + count;
  return {
    inputs: a.inputs + b.inputs,
    confidence: addBins(a.confidence, b.confidence),
    confidence_sum: a.confidence_sum + b.confidence_sum,
    scope: addBins(a.scope, b.scope),
    unknown_words: addBins(a.unknown_words, b.unknown_words),
    labels,
  };
}

function addBins(a: readonly number[], b: readonly number[]): number[] {
  return a.map((count, i) => count + (b[i] ?? 0));
}

/** The bin of a score within [0, 1]. */
export function scoreBin(score: number): number {
  return Math.max(0, Math.min(SCORE_BINS - 1, Math.floor(score * SCORE_BINS)));
}

/** The bin of a text with so many words, of which so many are unknown. */
export function unknownWordBin(unknown: number, words: number): number {
  if (unknown === 0) return 0;
  const above = UNKNOWN_SHARES.findIndex((share) => unknown <= share * words);
  return above < 0 ? UNKNOWN_WORD_BINS - 1 : above + 1;
}

export function labelKey(index: number): number {
  return Math.min(index, COUNTED_LABELS);
}

/** How many scores are in each bin. */
export function binScores(scores: readonly number[]): number[] {
  const bins = [...noInputs.scope];
  for (const score of scores) bins[scoreBin(score)] = (bins[scoreBin(score)] as number) + 1;
  return bins;
}

/** Counts of inputs by their top probabilities and most probable labels. */
export function countPredictions(
  predictions: readonly { readonly label: number; readonly top: number }[],
): InputCounts {
  const labels: Record<string, number> = {};
  let confidenceSum = 0;
  for (const { label, top } of predictions) {
    confidenceSum += top;
    labels[labelKey(label)] = (labels[labelKey(label)] ?? 0) + 1;
  }
  const confidence = binScores(predictions.map(({ top }) => top));
  return { ...noInputs, inputs: predictions.length, confidence, confidence_sum: confidenceSum, labels };
}
