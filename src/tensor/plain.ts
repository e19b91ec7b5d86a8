import type { Matrix, Tensors } from "../core/tensors.ts";

/** The reference backend: sums in 64-bit floats, results rounded once to the 32 bits that every matrix has. */
export function plainTensors(): Tensors {
  const alive = new Map<Matrix, Float32Array>();

  const valuesOf = (matrix: Matrix): Float32Array => {
    const values = alive.get(matrix);
    if (values === undefined) throw new Error("This matrix has been freed or belongs to another backend.");
    return values;
  };

  const create = (rows: number, columns: number, values: Float32Array): Matrix => {
    const matrix = { rows, columns };
    alive.set(matrix, values);
    return matrix;
  };

  return {
    name: "plain",
    matrix(rows, columns, values) {
      if (values.length !== rows * columns)
        throw new Error(`${values.length} values for a ${rows} × ${columns} matrix.`);
      return create(rows, columns, values.slice());
    },
    multiply(a, b) {
      if (a.columns !== b.rows)
        throw new Error(`Cannot multiply ${a.rows} × ${a.columns} by ${b.rows} × ${b.columns}.`);
      const left = valuesOf(a);
      const right = valuesOf(b);
      const product = new Float32Array(a.rows * b.columns);
      const sums = new Float64Array(b.columns);
      for (let i = 0; i < a.rows; i++) {
        sums.fill(0);
        for (let k = 0; k < a.columns; k++) {
          const factor = left[i * a.columns + k] as number;
          for (let j = 0; j < b.columns; j++)
            sums[j] = (sums[j] as number) + factor * (right[k * b.columns + j] as number);
        }
        product.set(sums, i * b.columns);
      }
      return create(a.rows, b.columns, product);
    },
    transpose(a) {
      const values = valuesOf(a);
      const transposed = new Float32Array(values.length);
      for (let i = 0; i < a.rows; i++) {
        for (let j = 0; j < a.columns; j++) transposed[j * a.rows + i] = values[i * a.columns + j] as number;
      }
      return create(a.columns, a.rows, transposed);
    },
    read: (a) => valuesOf(a).slice(),
    view: valuesOf,
    free: (a) => void alive.delete(a),
    memory() {
      let bytes = 0;
      for (const values of alive.values()) bytes += values.byteLength;
      return { matrices: alive.size, bytes };
    },
  };
}
