/**
 * The inverse of (κ G + λ I), from which L-BFGS starts. G is the Gram matrix (gram.ts), and κ the curvature of the loss
 * at W = 0: 1 / classes for softmax with balanced classes, ¼ for sigmoids, 1 for squares. Its inverse is the inverse
 * Hessian at W = 0.
 */
import type { Steps } from "../steps.ts";
import type { Matrix, TensorBackend } from "../tensors.ts";
import { type GramStatistics, gramMatrix, MAX_GRAM_DIMENSIONS } from "./gram.ts";
import type { FitProblem } from "./objective.ts";
import { priors, type Targets } from "./targets.ts";

/** Operations of one inversion: the factor, its inverse, the product of that with itself, and copies. */
export function inversionOperations(dimensions: number): number {
  return dimensions ** 3 + 80 * dimensions ** 2;
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

/** An approximate inverse Hessian P, as the blocks that `applyPreconditioner` puts together. */
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
 * It takes only the diagonal of the inverse if there are too many dimensions for the whole matrix, or if the penalty
 * outweighs the rows' curvature: the whole matrix would then cost more than it saves.
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

/**
 * P v, where v has the shape of the parameters. With b' = b + mᵀW instead of b, the Hessian has one block for W and one
 * for the intercepts: P = T diag(inverse, intercepts) Tᵀ with T = [I 0; −mᵀ 1].
 */
export function applyPreconditioner(
  tensors: TensorBackend,
  { inverse, sparse, intercepts, mean }: Preconditioner,
  v: Float64Array,
  outputs: number,
): Float64Array {
  const vector = mean === null ? v : applyCentringTranspose(v, mean, outputs);
  const result = new Float64Array(vector.length);
  const size = vector.length - outputs;
  const dense = size - sparse.length * outputs;
  scaleRows(vector.subarray(dense), sparse, outputs, result.subarray(dense));
  if (inverse instanceof Float64Array) {
    scaleRows(vector, inverse, outputs, result);
  } else {
    const right = tensors.matrix(inverse.rows, outputs, new Float32Array(vector.subarray(0, dense)));
    const product = tensors.multiply(inverse, right);
    result.set(tensors.view(product));
    tensors.free(product);
    tensors.free(right);
  }
  for (let k = 0; k < outputs; k++) result[size + k] = (vector[size + k] as number) * (intercepts[k] as number);
  if (mean !== null) applyCentring(result, mean, outputs);
  return result;
}

/** Operations of `applyPreconditioner`. */
export function applicationOperations({ inverse, sparse }: Preconditioner, { design, outputs }: FitProblem): number {
  const { dimensions } = design;
  return outputs * (sparse.length + (inverse instanceof Float64Array ? dimensions : 2 * dimensions ** 2));
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

/**
 * (κ G + max(λ, δ) I)⁻¹. δ, a millionth of the trace, is the least value that 32-bit floats can tell from zero. G comes
 * from 32-bit products, so its least eigenvalues may be slightly negative.
 */
function invertDamped(
  tensors: TensorBackend,
  gram: Float32Array,
  dimensions: number,
  curvature: number,
  l2: number,
): Steps<Matrix> {
  let trace = 0;
  for (let j = 0; j < dimensions; j++) trace += gram[j * dimensions + j] as number;
  const shift = Math.max(l2, 1e-6 * curvature * trace, 1e-30);
  return tensors.invert(gram, { scale: curvature, shift, minSquaredPivot: shift / 2 });
}
