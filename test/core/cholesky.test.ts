import fc from "fast-check";
import { expect, it } from "vitest";
import { cholesky, invertLowerTriangular, rankRevealingCholesky } from "../../src/core/linear/cholesky.ts";
import { seededRandom } from "../../src/core/random.ts";
import { runToEnd } from "../contract/training-data.ts";

/** X Xᵀ of n random rows, some of which may depend on others. */
function semidefinite(n: number, rank: number, seed: number): Float64Array {
  const random = seededRandom(seed);
  const x = Array.from({ length: n }, () => Array.from({ length: rank }, () => random() - 0.5));
  return Float64Array.from({ length: n * n }, (_, index) => {
    const [a, b] = [x[Math.floor(index / n)] ?? [], x[index % n] ?? []];
    return a.reduce((sum, value, j) => sum + value * (b[j] as number), 0);
  });
}

const entry = (matrix: Float64Array, n: number, i: number, j: number) => (j > i ? 0 : (matrix[i * n + j] as number));

it("factorises, and inverts the factor", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.integer(), (n, seed) => {
      const a = semidefinite(n, n + 3, seed);
      const lower = a.slice();
      runToEnd(cholesky(lower, n, 1e-12));
      const inverse = runToEnd(invertLowerTriangular(lower, n));
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) {
          let product = 0;
          let identity = 0;
          for (let p = 0; p < n; p++) {
            product += entry(lower, n, i, p) * entry(lower, n, j, p);
            identity += entry(lower, n, i, p) * entry(inverse, n, p, j);
          }
          expect(product).toBeCloseTo(a[i * n + j] as number, 9);
          expect(identity).toBeCloseTo(i === j ? 1 : 0, 6);
        }
      }
    }),
  );
});

it("finds the independent rows, and their factor", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 12 }), fc.integer(), (n, rank, seed) => {
      const a = semidefinite(n, rank, seed);
      const { rows, lower } = runToEnd(rankRevealingCholesky(a, n, 1e-9));
      expect(rows.length).toBeLessThanOrEqual(Math.min(n, rank));
      expect(rows.length).toBeGreaterThanOrEqual(Math.min(n, rank) - 1);
      rows.forEach((row, i) => {
        rows.forEach((other, j) => {
          let product = 0;
          for (let p = 0; p <= Math.min(i, j); p++)
            product += entry(lower, rows.length, i, p) * entry(lower, rows.length, j, p);
          expect(product).toBeCloseTo(a[row * n + other] as number, 9);
        });
      });
    }),
  );
});

it("keeps pivots above zero if a matrix is not quite definite", () => {
  const lower = Float64Array.of(1, 0, 1, 1 - 1e-9);
  runToEnd(cholesky(lower, 2, 1e-6));
  expect(lower[3]).toBeCloseTo(1e-3, 9);
});
