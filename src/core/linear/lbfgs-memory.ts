/**
 * The memory of L-BFGS in the compact form of Byrd, Nocedal and Schnabel (1994, theorem 2.2). P is the given inverse
 * Hessian, s_i a step and y_i the change of the gradient along it. With H₀ = γP, S = [s_i], Q = P [y_i], R the upper
 * triangle of SᵀY and D its diagonal, the inverse Hessian times a gradient is
 *
 *   H g = γ P g + S R⁻ᵀ ((D + γ YᵀQ) w − γ Qᵀg) − γ Q w,    w = R⁻¹ Sᵀ g
 *
 * Only S and Q are stored. Since y is a difference of gradients, a new entry of SᵀY or YᵀQ is a difference of the
 * products Sᵀg and Qᵀg, which the direction needs anyway, and P y is a difference of P g. So each step multiplies by P
 * once.
 */

/** A step s, and P times the change y of the gradient along it. */
interface CorrectionPair {
  readonly step: Float32Array;
  readonly preconditionedChange: Float32Array;
}

/** The stored pairs, oldest first, and their products with each other. */
export interface LbfgsMemory {
  readonly pairs: CorrectionPair[];
  /** s_iᵀ y_j for i ≤ j. */
  readonly stepChangeProducts: number[][];
  /** y_iᵀ P y_j. */
  readonly changeProducts: number[][];
  /** γ */
  scale: number;
}

/** A gradient g, P g, and the products of every stored pair with g: s_iᵀ g and (P y_i)ᵀ g. */
export interface PreconditionedGradient {
  readonly gradient: Float64Array;
  readonly preconditioned: Float64Array;
  readonly stepProducts: number[];
  readonly changeProducts: number[];
}

export function emptyMemory(): LbfgsMemory {
  return { pairs: [], stepChangeProducts: [], changeProducts: [], scale: 1 };
}

/** How many pairs L-BFGS stores for so many parameters: ten, or fewer if ten would take more than 8 MB. */
export function memoryLength(parameters: number): number {
  return Math.max(3, Math.min(10, Math.floor(1e6 / parameters)));
}

/** Operations of one step, without the evaluation of f and the product with P. */
export function stepOperations(parameters: number, pairs = memoryLength(parameters)): number {
  return (8 * pairs + 8) * parameters;
}

/** A gradient with its products with the stored pairs. */
export function withProducts(
  { pairs }: LbfgsMemory,
  gradient: Float64Array,
  preconditioned: Float64Array,
): PreconditionedGradient {
  const products = pairs.map((pair) => dotPair(pair, gradient));
  return {
    gradient,
    preconditioned,
    stepProducts: products.map(([step]) => step),
    changeProducts: products.map(([, change]) => change),
  };
}

/**
 * Stores the step from `current` to `next` if the objective curves along it, and then adds its products to those of
 * `next`. Drops the oldest pair if there are more than `maxPairs`.
 */
export function storeStep(
  memory: LbfgsMemory,
  step: { readonly direction: Float64Array; readonly length: number },
  current: PreconditionedGradient,
  next: PreconditionedGradient,
  maxPairs: number,
): void {
  const measured = makePair(step, current, next);
  if (measured === null) return;
  const { pair, curvature, changeSquare } = measured;
  for (const [i, row] of memory.stepChangeProducts.entries())
    row.push((next.stepProducts[i] as number) - (current.stepProducts[i] as number));
  for (const [i, row] of memory.changeProducts.entries())
    row.push((next.changeProducts[i] as number) - (current.changeProducts[i] as number));
  memory.stepChangeProducts.push([...memory.pairs.map(() => 0), curvature]);
  memory.changeProducts.push([...memory.changeProducts.map((row) => row.at(-1) as number), changeSquare]);
  memory.pairs.push(pair);
  // Half-way (in powers) between P itself and the usual scaling by the last pair. Far from the optimum the curvature
  // still grows along a step, and the full scaling would overshoot and cost another evaluation.
  memory.scale = Math.sqrt(curvature / changeSquare);
  const [stepProduct, changeProduct] = dotPair(pair, next.gradient);
  next.stepProducts.push(stepProduct);
  next.changeProducts.push(changeProduct);
  if (memory.pairs.length <= maxPairs) return;
  dropOldest(memory, 1);
  next.stepProducts.shift();
  next.changeProducts.shift();
}

/** The pair of a step with sᵀy and yᵀPy; null unless both are positive. */
function makePair(
  { direction, length }: { readonly direction: Float64Array; readonly length: number },
  current: PreconditionedGradient,
  next: PreconditionedGradient,
): { readonly pair: CorrectionPair; readonly curvature: number; readonly changeSquare: number } | null {
  const { gradient, preconditioned } = current;
  const { gradient: nextGradient, preconditioned: nextPreconditioned } = next;
  const size = direction.length;
  const pair: CorrectionPair = { step: new Float32Array(size), preconditionedChange: new Float32Array(size) };
  let curvature = 0;
  let changeSquare = 0;
  for (let i = 0; i < size; i++) {
    const change = (nextGradient[i] as number) - (gradient[i] as number);
    const step = Math.fround(length * (direction[i] as number));
    const preconditionedChange = Math.fround((nextPreconditioned[i] as number) - (preconditioned[i] as number));
    pair.step[i] = step;
    pair.preconditionedChange[i] = preconditionedChange;
    curvature += step * change;
    changeSquare += preconditionedChange * change;
  }
  return curvature > 0 && changeSquare > 0 ? { pair, curvature, changeSquare } : null;
}

/** Forgets everything but γ. */
export function clearMemory(memory: LbfgsMemory): void {
  dropOldest(memory, memory.pairs.length);
}

/** Forgets the `count` oldest pairs. */
function dropOldest(memory: LbfgsMemory, count: number): void {
  memory.pairs.splice(0, count);
  for (const matrix of [memory.stepChangeProducts, memory.changeProducts]) {
    matrix.splice(0, count);
    for (const row of matrix) row.splice(0, count);
  }
}

/** −H g by the compact form. */
export function descentDirection(
  { pairs, stepChangeProducts, changeProducts, scale }: LbfgsMemory,
  { preconditioned, stepProducts, changeProducts: gradientProducts }: PreconditionedGradient,
): Float64Array {
  const count = pairs.length;
  const entry = (matrix: readonly number[][], i: number, j: number) => matrix[i]?.[j] as number;
  const w = stepProducts.slice();
  for (let i = count - 1; i >= 0; i--) {
    let sum = w[i] as number;
    for (let j = i + 1; j < count; j++) sum -= entry(stepChangeProducts, i, j) * (w[j] as number);
    w[i] = sum / entry(stepChangeProducts, i, i);
  }
  const a = w.map((each, i) => {
    let sum = entry(stepChangeProducts, i, i) * each - scale * (gradientProducts[i] as number);
    for (let j = 0; j < count; j++) sum += scale * entry(changeProducts, i, j) * (w[j] as number);
    return sum;
  });
  for (let i = 0; i < count; i++) {
    let sum = a[i] as number;
    for (let j = 0; j < i; j++) sum -= entry(stepChangeProducts, j, i) * (a[j] as number);
    a[i] = sum / entry(stepChangeProducts, i, i);
  }
  const direction = new Float64Array(preconditioned.length);
  for (let i = 0; i < direction.length; i++) direction[i] = -scale * (preconditioned[i] as number);
  pairs.forEach((pair, i) => {
    addScaledPair(direction, pair, -(a[i] as number), scale * (w[i] as number));
  });
  return direction;
}

/** a·b, in four sums that a processor adds in parallel. */
export function dot(a: Float64Array, b: Float64Array): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 3 < a.length; i += 4) {
    s0 += (a[i] as number) * (b[i] as number);
    s1 += (a[i + 1] as number) * (b[i + 1] as number);
    s2 += (a[i + 2] as number) * (b[i + 2] as number);
    s3 += (a[i + 3] as number) * (b[i + 3] as number);
  }
  for (; i < a.length; i++) s0 += (a[i] as number) * (b[i] as number);
  return s0 + s1 + s2 + s3;
}

/** sᵀv and (P y)ᵀv in one pass, in two sums each. */
function dotPair({ step, preconditionedChange }: CorrectionPair, vector: Float64Array): [number, number] {
  let s0 = 0;
  let s1 = 0;
  let m0 = 0;
  let m1 = 0;
  let i = 0;
  for (; i + 1 < vector.length; i += 2) {
    const v0 = vector[i] as number;
    const v1 = vector[i + 1] as number;
    s0 += (step[i] as number) * v0;
    s1 += (step[i + 1] as number) * v1;
    m0 += (preconditionedChange[i] as number) * v0;
    m1 += (preconditionedChange[i + 1] as number) * v1;
  }
  if (i < vector.length) {
    s0 += (step[i] as number) * (vector[i] as number);
    m0 += (preconditionedChange[i] as number) * (vector[i] as number);
  }
  return [s0 + s1, m0 + m1];
}

function addScaledPair(
  vector: Float64Array,
  { step, preconditionedChange }: CorrectionPair,
  a: number,
  b: number,
): void {
  for (let i = 0; i < vector.length; i++)
    vector[i] = (vector[i] as number) + a * (step[i] as number) + b * (preconditionedChange[i] as number);
}
