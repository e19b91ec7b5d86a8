import { lbfgs } from "../linear/lbfgs.ts";
import type { Steps } from "../steps.ts";
import { sigmoid, softplus } from "./probability.ts";

/** Operations of the loss of an example, for each of its figures and besides. */
const OPERATIONS_PER_EXAMPLE = 200;
const MAX_EVALUATIONS = 200;

/** Operations of fitting to so many examples of both kinds, at most. */
export function logisticOperations(examples: number): number {
  return MAX_EVALUATIONS * OPERATIONS_PER_EXAMPLE * examples;
}

/**
 * The weights w that minimise Σ_i s_i log(1 + exp(−y_i (w·x_i + b))) + ½ ‖w‖², with y = 1 for `positives` and −1 for
 * `negatives`. The weights s of each kind sum to the number of the rarer kind, so that many examples of one do not
 * outweigh few of the other.
 */
export function* fitLogistic(
  positives: readonly (readonly number[])[],
  negatives: readonly (readonly number[])[],
): Steps<number[]> {
  const width = positives[0]?.length ?? 0;
  const rarer = Math.min(positives.length, negatives.length);
  function* evaluate(parameters: Float64Array) {
    const gradient = parameters.slice();
    gradient[width] = 0;
    let value = 0;
    for (let j = 0; j < width; j++) value += (parameters[j] as number) ** 2 / 2;
    for (const [sign, examples] of [
      [1, positives],
      [-1, negatives],
    ] as const) {
      const weight = rarer / examples.length;
      for (const figures of examples) {
        let margin = parameters[width] as number;
        for (let j = 0; j < width; j++) margin += (parameters[j] as number) * (figures[j] as number);
        value += weight * softplus(-sign * margin);
        const slope = -sign * weight * sigmoid(-sign * margin);
        for (let j = 0; j < width; j++) gradient[j] = (gradient[j] as number) + slope * (figures[j] as number);
        gradient[width] = (gradient[width] as number) + slope;
      }
    }
    yield (positives.length + negatives.length) * OPERATIONS_PER_EXAMPLE;
    return { value, gradient };
  }
  // The curvature of the loss is at most a quarter of the weights along figures of variance 1.
  const precondition = (gradient: Float64Array) => gradient.map((each) => each / (1 + rarer / 2));
  const { parameters } = yield* lbfgs(evaluate, precondition, new Float64Array(width + 1), {
    tolerance: 1e-9,
    maxEvaluations: MAX_EVALUATIONS,
    preconditionOperations: 0,
  });
  return Array.from(parameters.subarray(0, width));
}
