/**
 * Few rows in many dimensions: the weights that minimise a penalised loss lie in the span of the rows, so with Q (r ×
 * dimensions) an orthonormal basis of that span, a fit on Z Qᵀ finds the same model in r ≤ rows dimensions, W = Qᵀ B.
 *
 *   Z Zᵀ = L Lᵀ over rows that are independent,   Q = L⁻¹ Z
 */
import { factoriseIndependent, factorOperations, invertLower } from "./cholesky.ts";
import { type Design, freeDesign, withTransposed } from "./design.ts";
import type { Matrix, Tensors } from "./tensors.ts";

/** Beyond so many rows the factorisation costs more than it saves, and beyond so many numbers the copies are too large. */
const MOST_ROWS = 640;
const MOST_NUMBERS = 2e6;

/** A row whose part outside of the span of others has a smaller square (rows have mean square 1) is one that 32-bit floats cannot tell from none. */
const LEAST_SQUARE = 1e-5;

/** The dimensions that a training on so many rows works in, at most. */
export function workingDimensions(rows: number, dimensions: number): number {
  return rows < dimensions && rows <= MOST_ROWS && rows * dimensions <= MOST_NUMBERS ? rows : dimensions;
}

/** What `reduceToRows` costs at most: operations, and bytes alive beside the design that is given. */
export function reductionCost(rows: number, dimensions: number): { operations: number; bytes: number } {
  if (workingDimensions(rows, dimensions) === dimensions) return { operations: 0, bytes: 0 };
  return {
    operations: 6 * rows ** 2 * dimensions + factorOperations(rows),
    bytes: 4 * 3 * rows * dimensions + 8 * 4 * rows ** 2,
  };
}

/**
 * The design in the span of its rows of weight, where those are few, in place of the one given, which is freed; `basis`
 * is Qᵀ (dimensions × r), or null where the design is as it was. Yields floating-point operations.
 */
export function* reduceToRows(
  tensors: Tensors,
  design: Design,
  weights: Float64Array,
): Generator<number, { design: Design; basis: Matrix | null }, void> {
  const { rows, dimensions } = design;
  if (workingDimensions(rows, dimensions) === dimensions) return { design, basis: null };
  const values = new Float32Array(rows * dimensions);
  let count = 0;
  let first = 0;
  for (const block of design.blocks) {
    const view = tensors.view(block);
    for (let i = 0; i < block.rows; i++) {
      if (weights[first + i] === 0) continue;
      values.set(view.subarray(i * dimensions, (i + 1) * dimensions), count * dimensions);
      count++;
    }
    first += block.rows;
  }
  const z = tensors.matrix(count, dimensions, values.subarray(0, count * dimensions));
  const zt = tensors.transpose(z);
  const products = tensors.multiply(z, zt);
  const gram = new Float64Array(tensors.view(products));
  for (const each of [z, zt, products]) tensors.free(each);
  yield 2 * count ** 2 * dimensions;

  const independent = yield* factoriseIndependent(gram, count, LEAST_SQUARE);
  const rank = independent.rows.length;
  if (rank === 0) return { design, basis: null };
  const inverse = tensors.matrix(rank, rank, new Float32Array(yield* invertLower(independent.lower, rank)));
  independent.rows.forEach((row, i) => {
    values.copyWithin(i * dimensions, row * dimensions, (row + 1) * dimensions);
  });
  const spanning = tensors.matrix(rank, dimensions, values.subarray(0, rank * dimensions));
  const q = tensors.multiply(inverse, spanning);
  const basis = tensors.transpose(q);
  for (const each of [inverse, spanning, q]) tensors.free(each);
  yield 2 * rank ** 2 * dimensions;

  const reduced = {
    ...design,
    blocks: design.blocks.map((block) => tensors.multiply(block, basis)),
    transposed: null,
    dimensions: rank,
  };
  freeDesign(tensors, design);
  yield 2 * rows * rank * dimensions;
  return { design: design.transposed === null ? reduced : withTransposed(tensors, reduced), basis };
}

/** Parameters found in the span, W (r × outputs) and the intercepts, as those of all dimensions: Qᵀ W. */
export function expand(tensors: Tensors, parameters: Float64Array, basis: Matrix, outputs: number): Float64Array {
  const size = basis.columns * outputs;
  const inSpan = tensors.matrix(basis.columns, outputs, new Float32Array(parameters.subarray(0, size)));
  const product = tensors.multiply(basis, inSpan);
  const all = new Float64Array(basis.rows * outputs + outputs);
  all.set(tensors.view(product));
  all.set(parameters.subarray(size), basis.rows * outputs);
  tensors.free(inSpan);
  tensors.free(product);
  return all;
}
