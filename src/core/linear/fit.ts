import type { Steps } from "../steps.ts";
import type { Matrix, TensorBackend } from "../tensors.ts";
import { designWidth } from "./design.ts";
import { type LbfgsOptions, type LbfgsResult, lbfgs, memoryLength } from "./lbfgs.ts";
import { evaluateObjective, type FitProblem } from "./objective.ts";
import { type GramStatistics, gramMatrix, invertDamped, MAX_GRAM_DIMENSIONS } from "./preconditioner.ts";
import type { Targets } from "./targets.ts";

/** Each output's share of the weighted rows (single and multi). Half a row is added to each, so that none is 0 or 1. */
export function priors(targets: Targets, weights: Float64Array, outputs: number): Float64Array {
  const shares = new Float64Array(outputs).fill(0.5);
  let total = 1;
  for (let row = 0; row < weights.length; row++) {
    const weight = weights[row] as number;
    if (weight === 0) continue;
    total += weight;
    const labels =
      targets.kind === "single"
        ? [targets.indices[row] as number]
        : targets.kind === "multi"
          ? (targets.indices[row] ?? [])
          : [];
    for (const k of labels) shares[k] = (shares[k] as number) + weight;
  }
  return shares.map((share) => share / total);
}

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

/** κ: the mean second derivative of the loss by a logit at the starting point. */
export function curvature(shares: Float64Array, kind: Targets["kind"]): number {
  if (kind === "value") return 1;
  let sum = 0;
  for (const share of shares) sum += share * (1 - share);
  return kind === "single" ? sum / Math.max(1, shares.length - 1) : sum / shares.length;
}

/** If κ times the largest eigenvalue of G is at most so many times λ, the diagonal is enough. */
const DIAGONAL_MAX_CURVATURE_TO_L2 = 2;

/** An approximate inverse Hessian, in the blocks that `fitHead` puts together. */
export interface Preconditioner {
  /** (κ G + λ I)⁻¹ for the dense columns of W: the whole matrix, or its diagonal. */
  readonly inverse: Matrix | Float64Array;
  /** Its diagonal for the sparse columns of W. */
  readonly sparse: Float64Array;
  /** The inverse curvature of each intercept. */
  readonly intercepts: Float64Array;
  /** The rows' mean m. Null if it is zero. */
  readonly mean: Float64Array | null;
}

/**
 * It takes only the diagonal of the inverse if there are too many dimensions for the whole matrix, or if the penalty outweighs
 * the rows' curvature: the whole matrix would then cost more than it saves.
 *
 * @param gramStatistics of all rows of the problem
 */
export function* makePreconditioner(
  tensors: TensorBackend,
  problem: FitProblem,
  gramStatistics: GramStatistics,
): Steps<Preconditioner> {
  const { design, targets, weights, outputs, l2 } = problem;
  const shares = priors(targets, weights, outputs);
  const meanCurvature = curvature(shares, targets.kind);
  const { dimensions } = design;
  const useDiagonal =
    dimensions > MAX_GRAM_DIMENSIONS ||
    (targets.kind !== "value" && meanCurvature * gramStatistics.largestEigenvalue <= DIAGONAL_MAX_CURVATURE_TO_L2 * l2);
  const inverse = useDiagonal
    ? gramStatistics.diagonal.map((square) => 1 / (meanCurvature * square + l2 || 1))
    : yield* invertDamped(tensors, yield* gramMatrix(tensors, gramStatistics), dimensions, meanCurvature, l2);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const intercepts = shares.map((share) => 1 / (total * (targets.kind === "value" ? 1 : share * (1 - share))));
  const sparse = Float64Array.from(
    gramStatistics.sparse?.diagonal ?? [],
    (square) => 1 / (meanCurvature * square + l2 || 1),
  );
  return { inverse, sparse, intercepts, mean: columnMeans(gramStatistics, dimensions) };
}

function columnMeans({ mean, sparse }: GramStatistics, dimensions: number): Float64Array | null {
  if (sparse === null) return mean;
  const means = new Float64Array(dimensions + sparse.mean.length);
  if (mean !== null) means.set(mean);
  means.set(sparse.mean, dimensions);
  return means;
}

export function freePreconditioner(tensors: TensorBackend, { inverse }: Preconditioner): void {
  if (!(inverse instanceof Float64Array)) tensors.free(inverse);
}

/** When a fit ends: at the tolerance (see lbfgs.ts), or after so many evaluations of the objective. */
export type StoppingCriteria = Pick<LbfgsOptions, "tolerance" | "maxEvaluations">;

/**
 * Minimises the objective from `start`. The preconditioner may be computed from more rows than the problem has: folds share
 * one. For regression, a preconditioner with the whole matrix of exactly these rows is the inverse Hessian up to rounding: the
 * first step is then the closed form of ridge regression, and further steps refine it.
 */
export function* fitHead(
  tensors: TensorBackend,
  problem: FitProblem,
  preconditioner: Preconditioner,
  start: Float64Array,
  criteria: StoppingCriteria & Pick<LbfgsOptions, "onStep">,
): Steps<LbfgsResult> {
  const { dimensions } = problem.design;
  const { outputs } = problem;
  const dense = dimensions * outputs;
  const size = designWidth(problem.design) * outputs;
  // With b' = b + mᵀW instead of b, the Hessian has a block for W and one for the intercepts: P = T diag(inverse, intercepts) Tᵀ, T = [I 0; −mᵀ 1].
  const precondition = (gradient: Float64Array): Float64Array => {
    const { inverse, sparse, mean } = preconditioner;
    const vector = mean === null ? gradient : applyCentringTranspose(gradient, mean, outputs);
    const result = new Float64Array(vector.length);
    scaleRows(vector.subarray(dense), sparse, outputs, result.subarray(dense));
    if (inverse instanceof Float64Array) {
      scaleRows(vector, inverse, outputs, result);
    } else {
      const right = tensors.matrix(dimensions, outputs, new Float32Array(vector.subarray(0, dense)));
      const product = tensors.multiply(inverse, right);
      result.set(tensors.view(product));
      tensors.free(product);
      tensors.free(right);
    }
    for (let k = 0; k < outputs; k++) {
      result[size + k] = (vector[size + k] as number) * (preconditioner.intercepts[k] as number);
    }
    if (mean !== null) applyCentring(result, mean, outputs);
    return result;
  };
  return yield* lbfgs((parameters) => evaluateObjective(tensors, problem, parameters), precondition, start, {
    ...criteria,
    preconditionOperations:
      outputs *
      (preconditioner.sparse.length +
        (preconditioner.inverse instanceof Float64Array ? dimensions : 2 * dimensions ** 2)),
  });
}

/** Multiplies each row of `outputs` numbers by its factor. */
function scaleRows(source: Float64Array, factors: Float64Array, outputs: number, destination: Float64Array): void {
  for (let j = 0, at = 0; j < factors.length; j++) {
    const factor = factors[j] as number;
    for (let k = 0; k < outputs; k++, at++) destination[at] = (source[at] as number) * factor;
  }
}

/** Tᵀ v: subtracts m times the intercepts' part from W's part. */
function applyCentringTranspose(vector: Float64Array, mean: Float64Array, outputs: number): Float64Array {
  const result = vector.slice();
  const size = mean.length * outputs;
  for (let j = 0; j < mean.length; j++) {
    for (let k = 0; k < outputs; k++)
      result[j * outputs + k] =
        (vector[j * outputs + k] as number) - (mean[j] as number) * (vector[size + k] as number);
  }
  return result;
}

/** T v, in place: subtracts mᵀ times W's part from the intercepts' part. */
function applyCentring(vector: Float64Array, mean: Float64Array, outputs: number): void {
  const size = mean.length * outputs;
  for (let j = 0; j < mean.length; j++) {
    for (let k = 0; k < outputs; k++)
      vector[size + k] = (vector[size + k] as number) - (mean[j] as number) * (vector[j * outputs + k] as number);
  }
}

/** Bytes of arrays alive during a fit, without the design. */
export function fitBytes(dimensions: number, columns: number, outputs: number, rowsPerBlock: number): number {
  const parameters = (dimensions + columns + 1) * outputs;
  const pairs = 8 * memoryLength(parameters) * parameters;
  const vectors = 9 * 8 * parameters;
  const inverse = dimensions > MAX_GRAM_DIMENSIONS ? 0 : 10 * 4 * dimensions * dimensions;
  const block = 4 * rowsPerBlock * (3 * dimensions + 2 * outputs);
  return pairs + vectors + inverse + block;
}
