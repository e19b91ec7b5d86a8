/** Fits how a head tells what is in scope (scope.ts) to held-out examples, and evaluates it. */
import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import type { Steps } from "../steps.ts";
import type { HeldOutLogits } from "./calibration.ts";
import type { Centroids } from "./centroids.ts";
import type { HeldOutEntry } from "./cross-fit.ts";
import { fitLogistic } from "./logistic.ts";
import { mean } from "./metrics.ts";
import {
  countBelow,
  type FigureName,
  figureNames,
  figuresOf,
  pValue,
  type ScopeFigure,
  type ScopeModel,
  scoreOf,
} from "./scope.ts";

export const DEFAULT_IN_SCOPE_RECALL = 0.97;
/** From so many held-out examples out of scope on, the weights are fitted. */
const MIN_FITTED_OUT_OF_SCOPE = 20;
const MAX_QUANTILES = 1_000;
const defaultWeights: Readonly<Record<FigureName, number>> = { distance: -3, max_logit: 2, out_of_scope_distance: 0 };

/** Centroids of what a head is trained on, and the distances of held-out entries to those of the rows without their fold. */
export interface ScopeDistances {
  /** Null: the caller adds them to the scope. */
  readonly centroids: Centroids | null;
  /** entries × (labels + 1), in the order of the held-out logits. The last ones are to what is out of scope. */
  readonly heldOut: Float32Array;
}

export interface ScopeOptions {
  /** Left out or null: the score has no distances. */
  readonly distances?: ScopeDistances | null;
  /** The share of inputs in scope that the threshold keeps. */
  readonly recall?: number | undefined;
}

/** What held-out examples say about the threshold: the keys of the HTTP API. */
export interface ScopeEvaluation {
  readonly score: "in_scope_p_value" | "max_probability";
  readonly threshold: number;
  /** The share of examples in scope that are kept; null without any. */
  readonly in_scope_kept: number | null;
  /** The share of examples out of scope that are refused; null without any. */
  readonly expected_recall: number | null;
  /** The probability that an example in scope has a higher score than one out of scope; null without any. */
  readonly auroc: number | null;
  /** The same shares at other thresholds; empty without examples out of scope. */
  readonly curve: readonly { readonly kept: number; readonly recall: number }[];
}

const CURVE = [0.8, 0.9, 0.95, 0.97, 0.99] as const;

interface ScopeEntry extends HeldOutEntry {
  /** −1: out of scope. */
  readonly target: number;
}

export interface ScopeFit {
  readonly model: ScopeModel;
  readonly evaluation: ScopeEvaluation;
  /** Of the held-out entries, each by a model of the other parts. */
  readonly pValues: readonly number[];
}

interface ScoredEntry {
  readonly part: number;
  readonly figures: readonly number[];
}

/**
 * The scope model of held-out logits and distances, and its evaluation. The latter is cross-fitted: each part is scored by
 * a model of the other parts. Null if no example in scope is held out.
 */
export function* fitScope(
  heldOut: HeldOutLogits,
  entries: readonly ScopeEntry[],
  { distances, recall }: { readonly distances: Float32Array | null; readonly recall: number },
): Steps<ScopeFit | null> {
  const measured: (ScoredEntry & { readonly target: number })[] = [];
  const { outputs } = heldOut;
  for (const { part, index, target } of entries) {
    const logits = Float64Array.from(heldOut.logits.subarray(index * outputs, (index + 1) * outputs));
    const distanceTo =
      distances === null ? null : (group: number) => distances[index * (outputs + 1) + group] as number;
    measured.push({ part, target, figures: figuresOf(logits, distanceTo) });
    yield outputs * OPERATIONS_PER_LOGIT;
  }
  // A part may have no centroids of what is out of scope.
  const width = measured.reduce<number>((least, { figures }) => Math.min(least, figures.length), figureNames.length);
  const scoredEntries = measured.map((entry) => ({ ...entry, figures: entry.figures.slice(0, width) }));
  const inScope = scoredEntries.filter(({ target }) => target >= 0);
  const outOfScope = scoredEntries.filter(({ target }) => target < 0);
  if (inScope.length === 0) return null;
  const model = yield* fitModel(inScope, outOfScope, distances !== null);
  const threshold = roundShare(1 - recall);
  const pValues = { inScope: [] as number[], outOfScope: [] as number[] };
  for (const part of new Set(scoredEntries.map((entry) => entry.part))) {
    const isOther = (entry: ScoredEntry) => entry.part !== part;
    const others = inScope.filter(isOther);
    if (others.length === 0) continue;
    const partModel = yield* fitModel(others, outOfScope.filter(isOther), distances !== null);
    for (const { part: ownPart, target, figures } of scoredEntries) {
      if (ownPart !== part) continue;
      (target < 0 ? pValues.outOfScope : pValues.inScope).push(pValue(partModel, scoreOf(figures, partModel.figures)));
    }
  }
  return {
    model,
    evaluation: evaluateScope(threshold, pValues.inScope, pValues.outOfScope),
    pValues: [...pValues.inScope, ...pValues.outOfScope],
  };
}

/**
 * What a threshold on p-values does.
 *
 * @param inScope p-values of examples in scope
 * @param outOfScope and of others
 */
export function evaluateScope(
  threshold: number,
  inScope: readonly number[],
  outOfScope: readonly number[],
): ScopeEvaluation {
  const keptAbove = (limit: number) => share(inScope, (value) => value > limit);
  const refusedBelow = (limit: number) => share(outOfScope, (value) => value <= limit);
  const canTell = outOfScope.length > 0 && inScope.length > 0;
  return {
    score: "in_scope_p_value",
    threshold,
    in_scope_kept: inScope.length === 0 ? null : keptAbove(threshold),
    expected_recall: outOfScope.length === 0 ? null : refusedBelow(threshold),
    auroc: canTell ? areaUnderCurve(inScope, outOfScope) : null,
    curve: canTell ? CURVE.map((each) => ({ kept: keptAbove(1 - each), recall: refusedBelow(1 - each) })) : [],
  };
}

/** A share without the rounding error of a difference. */
function roundShare(value: number): number {
  return Math.round(value * 1e6) / 1e6;
}

function share(values: readonly number[], isCounted: (value: number) => boolean): number {
  return values.filter(isCounted).length / values.length;
}

function* fitModel(
  inScope: readonly ScoredEntry[],
  outOfScope: readonly ScoredEntry[],
  hasDistances: boolean,
): Steps<ScopeModel> {
  const count = inScope[0]?.figures.length ?? 0;
  const names = hasDistances ? figureNames.slice(0, count) : figureNames.slice(1, 1 + count);
  const moments = names.map((name, i) => {
    const values = inScope.map(({ figures }) => figures[i] as number);
    const centre = mean(values);
    const deviation = Math.sqrt(mean(values.map((value) => (value - centre) ** 2))) || 1;
    return { name, mean: centre, deviation, weight: defaultWeights[name] };
  });
  const standardise = ({ figures }: ScoredEntry) =>
    figures.map((figure, i) => {
      const { mean: centre, deviation } = moments[i] as ScopeFigure;
      return (figure - centre) / deviation;
    });
  const weights =
    outOfScope.length < MIN_FITTED_OUT_OF_SCOPE
      ? null
      : yield* fitLogistic(inScope.map(standardise), outOfScope.map(standardise));
  const figures = moments.map((figure, i) => ({ ...figure, weight: weights?.[i] ?? figure.weight }));
  const scores = Float32Array.from(inScope, (entry) => scoreOf(entry.figures, figures)).sort();
  const quantiles = Math.min(MAX_QUANTILES, scores.length);
  return {
    figures,
    examples: scores.length,
    // Each is the least of its share, so that no input seems less like the examples than it is.
    scores: Float32Array.from(
      { length: quantiles },
      (_, i) => scores[Math.floor((i * scores.length) / quantiles)] as number,
    ),
  };
}

/** The probability that a value of `higher` is above one of `lower`, ties counting half (Mann and Whitney 1947). */
export function areaUnderCurve(higher: readonly number[], lower: readonly number[]): number {
  const sorted = Float64Array.from(lower).sort();
  let sum = 0;
  for (const value of higher) {
    const below = countBelow(sorted, value, false);
    sum += below + (countBelow(sorted, value, true) - below) / 2;
  }
  return sum / (higher.length * lower.length);
}
