/** Work on a tensor backend that ends at a bound, and leaves nothing allocated. */
import { fail, ok, type Result } from "../failure.ts";
import type { Steps } from "../steps.ts";
import type { Matrix, SparseMatrix, TensorBackend } from "../tensors.ts";
import type { Cost } from "./types.ts";

/**
 * Runs steps that allocate on the backend they are given. Frees all of it at their end, also when they are stopped by
 * `return()`. Fails with `edge_budget_exceeded` if they take more operations than the budget has. The second argument of
 * `run` answers the operations so far.
 */
export function* runBounded<T>(
  tensors: TensorBackend,
  budget: Cost,
  run: (backend: TensorBackend, operations: () => number) => Steps<Result<T>>,
): Steps<Result<{ readonly value: T; readonly operations: number }>> {
  const { backend, freeAll } = trackAllocations(tensors);
  let operations = 0;
  try {
    const steps = run(backend, () => operations);
    for (let step = steps.next(); ; step = steps.next()) {
      if (step.done) return step.value.ok ? ok({ value: step.value.value, operations }) : step.value;
      operations += step.value;
      if (operations > budget.operations) {
        return fail("edge_budget_exceeded", "This training took more operations than a request may.", {
          details: { estimate: { operations, bytes: 0 }, budget },
        });
      }
      yield step.value;
    }
  } finally {
    freeAll();
  }
}

/** The backend, and a function that frees every matrix that was made with it and is still alive. */
function trackAllocations(tensors: TensorBackend): { backend: TensorBackend; freeAll: () => void } {
  const allocated = new Set<Matrix | SparseMatrix>();
  const track = <T extends Matrix | SparseMatrix>(matrix: T): T => {
    allocated.add(matrix);
    return matrix;
  };
  return {
    backend: {
      ...tensors,
      matrix: (rows, columns, values) => track(tensors.matrix(rows, columns, values)),
      multiply: (a, b) => track(tensors.multiply(a, b)),
      multiplyTransposed: (a, b) => track(tensors.multiplyTransposed(a, b)),
      transpose: (a) => track(tensors.transpose(a)),
      *invert(a, damping) {
        return track(yield* tensors.invert(a, damping));
      },
      *rowBasis(a, minSquaredPivot) {
        const basis = yield* tensors.rowBasis(a, minSquaredPivot);
        track(basis.inverse);
        return basis;
      },
      quantise: (a) => track(tensors.quantise(a)),
      sparseMatrix: (rows, columns) => track(tensors.sparseMatrix(rows, columns)),
      free(matrix) {
        tensors.free(matrix);
        allocated.delete(matrix);
      },
    },
    freeAll() {
      for (const matrix of allocated) tensors.free(matrix);
    },
  };
}
