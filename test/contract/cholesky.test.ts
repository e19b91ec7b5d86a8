/** Inverses and row bases by both tensor backends, in Node and in workerd. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { loadTensors } from "./runtime.ts";
import { runToEnd } from "./training-data.ts";

const [plain, wasm] = [plainTensorBackend(), await loadTensors()];

/** X Xᵀ of n random rows, some of which may depend on others. They are integers, so the products are exact. */
function semidefinite(n: number, rank: number, seed: number): Float32Array {
  const random = seededRandom(seed);
  const x = Array.from({ length: n }, (_, i) =>
    Array.from({ length: rank }, (_, j) => Math.floor(5 * random()) - 2 + (i % rank === j ? 4 : 0)),
  );
  return Float32Array.from({ length: n * n }, (_, index) => {
    const [a, b] = [x[Math.floor(index / n)] ?? [], x[index % n] ?? []];
    return a.reduce((sum, value, j) => sum + value * (b[j] as number), 0);
  });
}

const size = fc.integer({ min: 1, max: 70 });

describe.each([plain, wasm])("$name", (tensors) => {
  it("inverts damped matrices", () => {
    fc.assert(
      fc.property(size, fc.integer(), (n, seed) => {
        const a = semidefinite(n, n, seed);
        const [scale, shift] = [0.3, 0.1];
        const matrix = runToEnd(tensors.invert(a, { scale, shift, minSquaredPivot: 1e-9 }));
        expect([matrix.rows, matrix.columns]).toEqual([n, n]);
        const inverse = tensors.read(matrix);
        tensors.free(matrix);
        for (let i = 0; i < n; i++) {
          for (let j = 0; j < n; j++) {
            let product = shift * (inverse[i * n + j] as number);
            for (let p = 0; p < n; p++) product += scale * (a[i * n + p] as number) * (inverse[p * n + j] as number);
            expect(product).toBeCloseTo(i === j ? 1 : 0, 4);
          }
        }
      }),
      { numRuns: 30 },
    );
  });

  it("raises small pivots of a matrix that is not quite definite", () => {
    const matrix = runToEnd(
      tensors.invert(Float32Array.of(1, 0, 0, -1), { scale: 1, shift: 0, minSquaredPivot: 0.01 }),
    );
    const values = [...tensors.read(matrix)];
    tensors.free(matrix);
    expect(values.map(Math.abs)).toEqual([1, 0, 0, 100]);
  });

  it("finds independent rows, and the inverse of their factor", () => {
    fc.assert(
      fc.property(size, fc.integer({ min: 1, max: 20 }), fc.integer(), (n, rank, seed) => {
        const a = semidefinite(n, rank, seed);
        const { rows, inverse } = runToEnd(tensors.rowBasis(a, 0.01));
        const r = rows.length;
        const values = tensors.read(inverse);
        tensors.free(inverse);
        expect([inverse.rows, inverse.columns]).toEqual([r, r]);
        expect(r).toBeLessThanOrEqual(Math.min(n, rank));
        expect(rows[0]).toBe(0);
        // L⁻¹ A L⁻ᵀ = I
        for (let i = 0; i < r; i++) {
          for (let j = 0; j < r; j++) {
            let product = 0;
            for (let p = 0; p < r; p++) {
              for (let q = 0; q < r; q++) {
                const entry = a[(rows[p] as number) * n + (rows[q] as number)] as number;
                product += (values[p * r + i] as number) * entry * (values[q * r + j] as number);
              }
            }
            expect(product).toBeCloseTo(i === j ? 1 : 0, 2);
          }
        }
      }),
      { numRuns: 30 },
    );
  });

  it("finds no basis of zeros", () => {
    const { rows, inverse } = runToEnd(tensors.rowBasis(new Float32Array(9), 1e-5));
    tensors.free(inverse);
    expect([rows, inverse.rows]).toEqual([[], 0]);
  });

  it("leaves nothing allocated if it is stopped", () => {
    const before = tensors.memory().matrices;
    const other = tensors.matrix(1, 1, new Float32Array(1));
    const steps = tensors.invert(semidefinite(70, 70, 1), { scale: 1, shift: 1, minSquaredPivot: 1e-9 });
    steps.next();
    expect(steps.return(other)).toEqual({ done: true, value: other });
    tensors.free(other);
    expect(tensors.memory().matrices).toBe(before);
  });
});

it("gives the same inverse and the same rows in both backends", () => {
  fc.assert(
    fc.property(size, fc.integer({ min: 1, max: 20 }), fc.integer(), (n, rank, seed) => {
      const a = semidefinite(n, rank, seed);
      const [ours, theirs] = [plain, wasm].map((tensors) => {
        const matrix = runToEnd(tensors.invert(a, { scale: 2, shift: 0.5, minSquaredPivot: 1e-9 }));
        const basis = runToEnd(tensors.rowBasis(a, 0.01));
        const values = [tensors.read(matrix), tensors.read(basis.inverse)];
        for (const each of [matrix, basis.inverse]) tensors.free(each);
        return { values, rows: basis.rows };
      });
      expect(ours?.rows).toEqual(theirs?.rows);
      ours?.values.forEach((values, which) => {
        values.forEach((value, i) => {
          expect(Math.abs(value - (theirs?.values[which]?.[i] as number))).toBeLessThan(1e-4 * (1 + Math.abs(value)));
        });
      });
    }),
    { numRuns: 30 },
  );
});
