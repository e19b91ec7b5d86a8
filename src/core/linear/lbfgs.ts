/**
 * L-BFGS for a smooth convex objective, from a given inverse Hessian P (lbfgs-memory.ts has the formula).
 *
 * It stops on an estimate of the relative gap (f − f*) / f. The estimate is the larger of two: the Newton decrement
 * gᵀHg, and the sum of all further decreases of f if they keep shrinking at the present rate (Aitken). The first alone
 * is far too low when convergence is slow, the second when it has only begun.
 */
import type { Steps } from "../steps.ts";
import {
  clearMemory,
  descentDirection,
  dot,
  emptyMemory,
  memoryLength,
  stepOperations,
  storeStep,
  withProducts,
} from "./lbfgs-memory.ts";
import type { LossGradient } from "./objective.ts";

export interface LbfgsResult {
  readonly parameters: Float64Array;
  readonly value: number;
  readonly gradient: Float64Array;
  readonly iterations: number;
  readonly converged: boolean;
}

export interface LbfgsOptions {
  /** Bound of the estimated relative gap. */
  readonly tolerance: number;
  /** It ends where it is after so many evaluations of the objective. */
  readonly maxEvaluations: number;
  /** What a product with P costs, in floating-point operations. */
  readonly preconditionOperations: number;
  /** f and its gradient at the start, if they are known. */
  readonly atStart?: LossGradient | undefined;
  /** Called with the objective after each accepted step. It never rises. */
  readonly onStep?: (value: number) => void;
}

/** The relative rounding error of an objective that is summed from 32-bit logits. */
const ROUNDING_TOLERANCE = 2 ** -20;

/** Evaluations along one direction. */
const MAX_LINE_SEARCH_EVALUATIONS = 13;

/**
 * An objective below this share of its first value is zero to 32-bit floats. If the minimum itself is zero (every row
 * of one class, with a free intercept), a gap relative to it would never be small.
 */
const RELATIVE_RESOLUTION = 2 ** -24;

/**
 * @param evaluate f and its gradient at these parameters
 * @param precondition P, the given inverse Hessian, times a vector
 */
export function* lbfgs(
  evaluate: (parameters: Float64Array) => Steps<LossGradient>,
  precondition: (vector: Float64Array) => Float64Array,
  start: Float64Array,
  options: LbfgsOptions,
): Steps<LbfgsResult> {
  const maxPairs = memoryLength(start.length);
  const memory = emptyMemory();
  let parameters = start;
  let { value, gradient } = options.atStart ?? (yield* evaluate(parameters));
  let current = withProducts(memory, gradient, precondition(gradient));
  let evaluations = 1;
  let iterations = 0;
  const values = [value];
  for (;;) {
    const direction = descentDirection(memory, current);
    const slope = dot(direction, gradient);
    const objectiveScale = Math.max(value, RELATIVE_RESOLUTION * (values[0] as number));
    const finish = (converged: boolean): LbfgsResult => ({ parameters, value, gradient, iterations, converged });
    if (slope < 0) {
      // Not before a first step: at intercepts alone or another model's parameters, the estimate is least reliable.
      if (iterations > 0 && estimateGap(values, -slope) <= options.tolerance * objectiveScale) return finish(true);
      if (evaluations >= options.maxEvaluations) return finish(false);
      const maxEvaluations = options.maxEvaluations - evaluations;
      const search = yield* lineSearch(evaluate, { parameters, value }, { direction, slope }, maxEvaluations);
      evaluations += search.evaluations;
      if (search.next !== null) {
        gradient = search.lossGradient.gradient;
        const next = withProducts(memory, gradient, precondition(gradient));
        storeStep(memory, { direction, length: search.stepLength }, current, next, maxPairs);
        parameters = search.next;
        // It may be higher by rounding alone, see `isStepAccepted`.
        value = Math.min(value, search.lossGradient.value);
        current = next;
        values.push(value);
        iterations++;
        options.onStep?.(value);
        yield stepOperations(parameters.length, memory.pairs.length) + options.preconditionOperations;
        continue;
      }
    }
    // Rounding has spoilt the memory, or 32-bit products cannot find a better point any more.
    if (memory.pairs.length === 0 || evaluations >= options.maxEvaluations) {
      return finish(slope < 0 ? -slope / 2 <= 1e-4 * objectiveScale : gradient.every((each) => each === 0));
    }
    clearMemory(memory);
    current = withProducts(memory, gradient, current.preconditioned);
  }
}

/** An accepted point along a direction, and the evaluations that it took. `next` is null if there is none. */
type LineSearchResult = { readonly evaluations: number } & (
  | { readonly next: Float64Array; readonly stepLength: number; readonly lossGradient: LossGradient }
  | { readonly next: null }
);

/** Backtracks from the full step, each time to the minimum of the parabola through what is known. */
function* lineSearch(
  evaluate: (parameters: Float64Array) => Steps<LossGradient>,
  { parameters, value }: { readonly parameters: Float64Array; readonly value: number },
  { direction, slope }: { readonly direction: Float64Array; readonly slope: number },
  maxEvaluations: number,
): Steps<LineSearchResult> {
  let stepLength = 1;
  for (let evaluations = 1; ; evaluations++) {
    const next = addScaled(parameters, direction, stepLength);
    const lossGradient = yield* evaluate(next);
    const nextSlope = dot(direction, lossGradient.gradient);
    if (isStepAccepted(value, slope, stepLength, lossGradient, nextSlope))
      return { evaluations, next, stepLength, lossGradient };
    if (evaluations >= Math.min(maxEvaluations, MAX_LINE_SEARCH_EVALUATIONS)) return { evaluations, next: null };
    if (Math.abs(lossGradient.value - value) <= ROUNDING_TOLERANCE * Math.abs(value) && nextSlope > 0) {
      // The values differ by rounding only: go to just before the point where the slope would be zero.
      stepLength *= (0.9 * slope) / (slope - nextSlope);
      continue;
    }
    const curvature = lossGradient.value - value - stepLength * slope;
    const parabolaMinimum = Number.isFinite(curvature) ? (-slope * stepLength * stepLength) / (2 * curvature) : 0;
    stepLength = Math.min(Math.max(parabolaMinimum, stepLength / 10), stepLength / 2);
  }
}

/**
 * Armijo's condition. If the decrease is lost in rounding, it is the approximate condition of Hager and Zhang (2005),
 * which uses the gradients, whose rounding is far smaller. If the value seems to have risen within rounding, the slope
 * must still be negative: f is convex, so f itself has not risen then.
 */
function isStepAccepted(
  value: number,
  slope: number,
  stepLength: number,
  next: LossGradient,
  nextSlope: number,
): boolean {
  if (next.value <= value + 1e-4 * stepLength * slope) return true;
  if (next.value <= value) return nextSlope <= -(1 - 2e-4) * slope;
  return next.value <= value + ROUNDING_TOLERANCE * Math.abs(value) && nextSlope <= 0 && nextSlope >= 0.9 * slope;
}

/** The decrease of the objective over so many iterations is compared with that over the same number before. */
const RATE_WINDOW = 4;
/** A slower convergence than this is indistinguishable from none. */
const MAX_CONVERGENCE_RATE = 0.98;

function estimateGap(values: readonly number[], decrement: number): number {
  const last = values.length - 1;
  if (last < 2 * RATE_WINDOW) return decrement;
  const recentDecrease = (values[last - RATE_WINDOW] as number) - (values[last] as number);
  if (recentDecrease <= 0) return decrement;
  const previousDecrease = (values[last - 2 * RATE_WINDOW] as number) - (values[last - RATE_WINDOW] as number);
  const rate = Math.min(recentDecrease / previousDecrease, MAX_CONVERGENCE_RATE);
  return Math.max(decrement, (recentDecrease * rate) / (1 - rate));
}

function addScaled(start: Float64Array, direction: Float64Array, factor: number): Float64Array {
  const result = new Float64Array(start.length);
  for (let i = 0; i < result.length; i++) result[i] = (start[i] as number) + factor * (direction[i] as number);
  return result;
}
