import type { Matrix, TensorBackend } from "../tensors.ts";
import { designWidth } from "./design.ts";
import { type LbfgsOptions, type LbfgsResult, lbfgs, memoryLength } from "./lbfgs.ts";
import { evaluateObjective, type FitProblem, type Targets } from "./objective.ts";
import { type GramStatistics, gramMatrix, invertDamped, MAX_GRAM_DIMENSIONS } from "./preconditioner.ts";

/** Each output's share of the weighted rows (single and multi), kept off 0 and 1 by half a row. */
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

/** W = 0 with the intercepts of the priors: where a fit without anything better begins. */
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

/** κ: the mean curvature of the loss in a logit at the starting point. */
export function curvature(shares: Float64Array, kind: Targets["kind"]): number {
  if (kind === "value") return 1;
  let sum = 0;
  for (const share of shares) sum += share * (1 - share);
  return kind === "single" ? sum / Math.max(1, shares.length - 1) : sum / shares.length;
}

/** κ times the largest eigenvalue of G, in penalties, up to which a diagonal does. */
const DIAGONAL_MAX_CURVATURE_TO_L2 = 2;

/**
 * (κ G + λ I)⁻¹ for the dense columns' W, whole or its diagonal alone, its diagonal for the sparse columns', the inverse
 * curvature of each intercept, and the rows' mean m, null for zero.
 */
export interface Preconditioner {
  readonly inverse: Matrix | Float64Array;
  readonly sparse: Float64Array;
  readonly intercepts: Float64Array;
  readonly mean: Float64Array | null;
}

/**
 * The diagonal does where there are too many dimensions for the whole, or where the penalty outweighs what the rows add to
 * it: the whole would save less than it costs.
 *
 * @param spread of all of the problem's rows
 */
export function* makePreconditioner(
  tensors: TensorBackend,
  problem: FitProblem,
  gramStatistics: GramStatistics,
): Generator<number, Preconditioner, void> {
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

/** When a fit ends: at the tolerance (see minimise.ts), or after so many evaluations of the objective. */
export type StoppingCriteria = Pick<LbfgsOptions, "tolerance" | "maxEvaluations">;

/**
 * Minimises the objective from `start`. The preconditioner may be that of more rows: folds that leave rows out share one.
 * Where it is whole and of all rows, for regression it is the exact inverse Hessian up to rounding: the first step is ridge's
 * closed form, and the rest refine it.
 */
export function* fitHead(
  tensors: TensorBackend,
  problem: FitProblem,
  preconditioner: Preconditioner,
  start: Float64Array,
  criteria: StoppingCriteria,
  onStep?: (value: number) => void,
): Generator<number, LbfgsResult, void> {
  const { dimensions } = problem.design;
  const { outputs } = problem;
  const dense = dimensions * outputs;
  const size = designWidth(problem.design) * outputs;
  // With b' = b + mᵀW for b the Hessian falls into blocks: P = T diag(inverse, intercepts) Tᵀ, T = [I 0; −mᵀ 1].
  const precondition = (gradient: Float64Array): Float64Array => {
    const { inverse, sparse, mean } = preconditioner;
    const vector = mean === null ? gradient : applyCentringTranspose(gradient, mean, outputs);
    const result = new Float64Array(vector.length);
    scaleRows(vector, sparse, outputs, dense, result);
    if (inverse instanceof Float64Array) {
      scaleRows(vector, inverse, outputs, 0, result);
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
    ...(onStep === undefined ? {} : { onStep }),
  });
}

/** Multiplies rows of `outputs` numbers, from `start` on, by a factor each. */
function scaleRows(
  source: Float64Array,
  factors: Float64Array,
  outputs: number,
  start: number,
  destination: Float64Array,
): void {
  for (let j = 0, at = start; j < factors.length; j++) {
    const factor = factors[j] as number;
    for (let k = 0; k < outputs; k++, at++) destination[at] = (source[at] as number) * factor;
  }
}

/** Tᵀ v: W's part less m times the intercepts' part. */
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

/** T v, in place: the intercepts' part less mᵀ times W's part. */
function applyCentring(vector: Float64Array, mean: Float64Array, outputs: number): void {
  const size = mean.length * outputs;
  for (let j = 0; j < mean.length; j++) {
    for (let k = 0; k < outputs; k++)
      vector[size + k] = (vector[size + k] as number) - (mean[j] as number) * (vector[j * outputs + k] as number);
  }
}

/** Bytes alive during a fit besides the design. */
export function fitBytes(dimensions: number, columns: number, outputs: number, rowsPerBlock: number): number {
  const parameters = (dimensions + columns + 1) * outputs;
  const pairs = 8 * memoryLength(parameters) * parameters;
  const vectors = 9 * 8 * parameters;
  const inverse = dimensions > MAX_GRAM_DIMENSIONS ? 0 : 10 * 4 * dimensions * dimensions;
  const block = 4 * rowsPerBlock * (3 * dimensions + 2 * outputs);
  return pairs + vectors + inverse + block;
}
