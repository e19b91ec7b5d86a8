/**
 * Whether an input is in scope: whether it is like those that a head was trained on. Of an input with the logits z and the
 * embedding x there are the figures
 *
 *   d = the distance of x to the nearest of the centroids of the three most probable labels
 *   m = max z − mean z (MaxLogit: Hendrycks et al. 2022, Scaling Out-of-Distribution Detection for Real-World Settings)
 *   o = the distance of x to the nearest centroid of what is out of scope, if there are such examples
 *
 * standardised by their mean and deviation over the held-out examples in scope. The score is 2 m − 3 d, or with enough
 * examples out of scope the weights are fitted (logistic.ts). Probabilities would depend on the temperature, and are 1 for
 * much that is out of scope. The conformal p-value of an input is the share of the held-out examples in scope, and itself,
 * whose score is at most its own (Vovk et al. 2005): on inputs like them it is uniform. Of few held-out examples the ranks
 * tell no small shares, so it is that of a normal distribution with their mean and deviation. An input is in scope if its
 * p-value is above the threshold, which is so the share of them that is refused.
 */
import { studentCdf } from "./beta.ts";
import { type Centroids, distanceToGroup, squaredNormOf } from "./centroids.ts";
import { mean } from "./metrics.ts";

/** The nearest centroid is looked for among those of so many labels. */
const NEAREST_LABELS = 3;

export const figureNames = ["distance", "max_logit", "out_of_scope_distance"] as const;
export type FigureName = (typeof figureNames)[number];

/** A figure's mean and deviation over held-out examples in scope, and its weight in the score. */
export interface ScopeFigure {
  readonly name: FigureName;
  readonly mean: number;
  readonly deviation: number;
  readonly weight: number;
}

/** How an input's score is computed, and the scores of held-out examples in scope. */
export interface ScopeModel {
  readonly figures: readonly ScopeFigure[];
  /** Quantiles of the scores, ascending. */
  readonly scores: Float32Array;
  /** How many examples in scope were held out. */
  readonly examples: number;
}

export interface Scope extends ScopeModel {
  /** Null: the score has no distances. */
  readonly centroids: Centroids | null;
}

/**
 * The figures of an input, in the order of `figureNames`.
 *
 * @param distanceTo answers the distance to a label, or after the labels to what is out of scope; null: there are none
 */
export function figuresOf(logits: Float64Array, distanceTo: ((group: number) => number) | null): number[] {
  const top = topLabels(logits);
  let sum = 0;
  for (let k = 0; k < logits.length; k++) sum += logits[k] as number;
  const maxLogit = (logits[top[0] as number] as number) - sum / logits.length;
  if (distanceTo === null) return [maxLogit];
  const outOfScope = distanceTo(logits.length);
  let nearest = Number.POSITIVE_INFINITY;
  for (const label of top) nearest = Math.min(nearest, distanceTo(label));
  // Centroids that are made of a sample of the rows may lack rare labels.
  if (!Number.isFinite(nearest)) for (let k = 0; k < logits.length; k++) nearest = Math.min(nearest, distanceTo(k));
  const distances = [nearest, maxLogit];
  return Number.isFinite(outOfScope) ? [...distances, outOfScope] : distances;
}

/** The most probable labels, the most probable one first. */
function topLabels(logits: Float64Array): number[] {
  const top: number[] = [];
  let last = Number.NEGATIVE_INFINITY;
  for (let k = 0; k < logits.length; k++) {
    if (top.length === NEAREST_LABELS && (logits[k] as number) <= last) continue;
    let rank = top.length;
    while (rank > 0 && (logits[top[rank - 1] as number] as number) < (logits[k] as number)) rank--;
    top.splice(rank, 0, k);
    top.length = Math.min(top.length, NEAREST_LABELS);
    last = logits[top.at(-1) as number] as number;
  }
  return top;
}

export function scoreOf(figures: readonly number[], model: readonly ScopeFigure[]): number {
  let score = 0;
  for (const [i, { mean: centre, deviation, weight }] of model.entries())
    score += (weight * ((figures[i] as number) - centre)) / deviation;
  return score;
}

/**
 * The p-value of an input with these logits and this embedding: the share of inputs in scope that are less like the
 * training examples than it is.
 */
export function scopeScore(scope: Scope, logits: Float64Array, embedding: Float32Array): number {
  const { centroids, figures } = scope;
  if (centroids === null) return pValue(scope, scoreOf(figuresOf(logits, null), figures));
  const squaredNorm = squaredNormOf(embedding, centroids);
  const distanceTo = (group: number) => distanceToGroup(centroids, embedding, squaredNorm, group);
  return pValue(scope, scoreOf(figuresOf(logits, distanceTo), figures));
}

/** With fewer held-out examples nothing is said. */
const MIN_EXAMPLES = 10;
/** From so many on, the p-value is by rank. */
const MIN_RANKED_EXAMPLES = 50;

/**
 * (1 + the number of held-out scores that are at most `score`) / (n + 1). With few, the probability of a score that is at
 * most this by Student's t distribution, as for the next one of n numbers of a normal distribution.
 */
export function pValue({ scores, examples }: Pick<ScopeModel, "scores" | "examples">, score: number): number {
  if (examples < MIN_RANKED_EXAMPLES) {
    const centre = mean(Array.from(scores));
    const squares = scores.reduce((sum, each) => sum + (each - centre) ** 2, 0);
    const deviation = Math.sqrt((squares / Math.max(1, examples - 1)) * (1 + 1 / examples)) || 1;
    return studentCdf((score - centre) / deviation, Math.max(1, examples - 1));
  }
  return (1 + (examples * countBelow(scores, score, true)) / scores.length) / (examples + 1);
}

/** How many of the ascending values are below `value`; `withEqual`: at most it. */
export function countBelow(ascending: Float32Array | Float64Array, value: number, withEqual: boolean): number {
  let [low, high] = [0, ascending.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const each = ascending[middle] as number;
    if (each < value || (withEqual && each === value)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Whether an input with this p-value is in scope. Null if too few examples were held out: n of them tell shares of 1 /
 * (n + 1) by rank.
 */
export function isInScope(
  { examples }: Pick<ScopeModel, "examples">,
  score: number,
  threshold: number,
): boolean | null {
  if (threshold > 0 && examples < MIN_EXAMPLES) return null;
  if (threshold > 0 && examples >= MIN_RANKED_EXAMPLES && threshold * (examples + 1) < 1) return null;
  return score > threshold;
}
