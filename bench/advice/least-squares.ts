/** Ridge regression with weights: minimises Σ wᵢ (yᵢ − xᵢ·β)² + λ Σ βⱼ², the first coefficient free. */
export function fitRidge(
  x: readonly (readonly number[])[],
  y: readonly number[],
  weights: readonly number[],
  lambda: number,
): number[] {
  const size = x[0]?.length ?? 0;
  const rows = Array.from({ length: size }, (_, i) =>
    Array.from({ length: size + 1 }, (_, j) => (i === j && i > 0 ? lambda : 0)),
  );
  for (const [n, features] of x.entries()) {
    const weight = weights[n] as number;
    for (const [i, row] of rows.entries()) {
      const scaled = weight * (features[i] as number);
      for (let j = 0; j < size; j++) row[j] = (row[j] as number) + scaled * (features[j] as number);
      row[size] = (row[size] as number) + scaled * (y[n] as number);
    }
  }
  return solve(rows);
}

/** Solves a positive definite system by Gauss's elimination; each row has its right side at its end. */
function solve(rows: number[][]): number[] {
  for (const [i, row] of rows.entries())
    for (const [k, other] of rows.entries()) {
      if (k === i) continue;
      const factor = (other[i] as number) / (row[i] as number);
      for (let j = i; j < other.length; j++) other[j] = (other[j] as number) - factor * (row[j] as number);
    }
  return rows.map((row, i) => (row.at(-1) as number) / (row[i] as number));
}
