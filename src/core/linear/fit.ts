import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { designWidth } from "./design.ts";
import { MAX_GRAM_DIMENSIONS } from "./gram.ts";
import { type LbfgsOptions, type LbfgsResult, lbfgs } from "./lbfgs.ts";
import { memoryLength } from "./lbfgs-memory.ts";
import { evaluateObjective, type FitProblem } from "./objective.ts";
import { applicationOperations, applyPreconditioner, type Preconditioner } from "./preconditioner.ts";
import { priors } from "./targets.ts";

/** W = 0, and the intercepts that predict the priors: the start of a fit without a warm start. */
export function initialParameters(problem: FitProblem): Float64Array {
  const { targets, weights, outputs, design } = problem;
  const size = designWidth(design) * outputs;
  const parameters = new Float64Array(size + outputs);
  if (targets.kind === "value") {
    let sum = 0;
    let total = 0;
    weights.forEach((weight, row) => {
      sum += weight * (targets.values[row] as number);
      total += weight;
    });
    parameters[size] = sum / total;
    return parameters;
  }
  const shares = priors(targets, weights, outputs);
  shares.forEach((share, k) => {
    parameters[size + k] = targets.kind === "single" ? Math.log(share) : Math.log(share / (1 - share));
  });
  return parameters;
}

/** When a fit ends: at the tolerance (see lbfgs.ts), or after so many evaluations of the objective. */
export type StoppingCriteria = Pick<LbfgsOptions, "tolerance" | "maxEvaluations">;

/**
 * Minimises the objective from `start`. The preconditioner may be computed from more rows than the problem has: folds
 * share one. For regression, a preconditioner with the whole matrix of exactly these rows is the inverse Hessian up to
 * rounding: the first step is then the closed form of ridge regression, and further steps refine it.
 */
export function* fitHead(
  tensors: TensorBackend,
  problem: FitProblem,
  preconditioner: Preconditioner,
  start: Float64Array,
  criteria: StoppingCriteria & Pick<LbfgsOptions, "onStep" | "atStart">,
): Steps<LbfgsResult> {
  const { outputs } = problem;
  return yield* lbfgs(
    (parameters) => evaluateObjective(tensors, problem, parameters),
    (gradient) => applyPreconditioner(tensors, preconditioner, gradient, outputs),
    start,
    { ...criteria, preconditionOperations: applicationOperations(preconditioner, problem) },
  );
}

/** Bytes of arrays alive during a fit, without the design. */
export function fitBytes(dimensions: number, columns: number, outputs: number, rowsPerBlock: number): number {
  const parameters = (dimensions + columns + 1) * outputs;
  const pairs = 8 * memoryLength(parameters) * parameters;
  const vectors = 9 * 8 * parameters;
  const inverse = dimensions > MAX_GRAM_DIMENSIONS ? 0 : 5 * 4 * dimensions * dimensions;
  const block = 4 * rowsPerBlock * (2 * dimensions + 2 * outputs);
  return pairs + vectors + inverse + block;
}
