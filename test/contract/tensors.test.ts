/** The contract of both tensor backends, in Node and in workerd. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import type { Matrix, SparseRows, TensorBackend } from "../../src/core/tensors.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { loadTensors } from "./runtime.ts";

const backends: TensorBackend[] = [plainTensorBackend(), await loadTensors()];

/** Sparse rows of numbers in (−1, 1), some empty. The last column has more entries than by chance. */
function makeSparse(height: number, columns: number, seed: number): SparseRows {
  const random = seededRandom(seed);
  const starts = [0];
  const indices: number[] = [];
  for (let i = 0; i < height; i++) {
    const share = i % 3 === 1 ? 0 : random();
    const last = columns - 1;
    for (let j = 0; j < columns; j++)
      if (random() < share || (share > 0 && j === last && random() < 0.5)) indices.push(j);
    starts.push(indices.length);
  }
  return {
    starts: Uint32Array.from(starts),
    columns: Uint16Array.from(indices),
    values: Float32Array.from(indices, () => 2 * random() - 1),
  };
}

/** The same rows with their zeros, row-major. */
function toDense({ starts, columns, values }: SparseRows, width: number): Float64Array {
  const all = new Float64Array((starts.length - 1) * width);
  for (let i = 0; i + 1 < starts.length; i++)
    for (let m = starts[i] as number; m < (starts[i + 1] as number); m++)
      all[i * width + (columns[m] as number)] = values[m] as number;
  return all;
}

/** a (n × m, row-major) times b (m × k). */
function referenceProduct(a: Float64Array, b: Float32Array, n: number, m: number, k: number): Float64Array {
  return Float64Array.from({ length: n * k }, (_, index) => {
    const [i, j] = [Math.floor(index / k), index % k];
    let sum = 0;
    for (let l = 0; l < m; l++) sum += (a[i * m + l] as number) * (b[l * k + j] as number);
    return sum;
  });
}

function transpose(a: Float64Array, n: number, m: number): Float64Array {
  return a.map((_, index) => a[(index % n) * m + Math.floor(index / n)] as number);
}

it("rounds rows to the same 8 bits in both backends", () => {
  const random = seededRandom(5);
  const source = Float32Array.from({ length: 60 * 41 }, () => random() - 0.5);
  const [ours, theirs] = backends.map((tensors) => {
    const a = tensors.matrix(60, 41, source);
    const quantised = tensors.quantise(a);
    const values = tensors.read(quantised);
    for (const matrix of [a, quantised]) tensors.free(matrix);
    return values;
  });
  expect(ours).toEqual(theirs);
});

describe.each(backends)("$name tensors", (tensors) => {
  const rows = (...values: number[][]): Matrix =>
    tensors.matrix(values.length, values[0]?.length ?? 0, Float32Array.from(values.flat()));

  it("multiplies", () => {
    const a = rows([1, 2, 3], [4, 5, 6]);
    const b = rows([1, 0], [0, 1], [2, -1]);
    const product = tensors.multiply(a, b);
    expect([product.rows, product.columns]).toEqual([2, 2]);
    expect([...tensors.read(product)]).toEqual([7, -1, 16, -1]);
    for (const matrix of [a, b, product]) tensors.free(matrix);
  });

  it.each([
    [1, 1, 1],
    [3, 1, 5],
    [7, 13, 9],
    [65, 129, 33],
    [1, 300, 2],
    [300, 2, 1],
  ])("multiplies %i × %i by … × %i as the definition does", (n, m, k) => {
    const wave = (length: number, step: number) => Float32Array.from({ length }, (_, i) => Math.sin(step * (i + 1)));
    const left = wave(n * m, 0.7);
    const right = wave(m * k, 1.3);
    const a = tensors.matrix(n, m, left);
    const b = tensors.matrix(m, k, right);
    const product = tensors.multiply(a, b);
    tensors.view(product).forEach((value, index) => {
      let sum = 0;
      for (let j = 0; j < m; j++)
        sum += (left[Math.floor(index / k) * m + j] as number) * (right[j * k + (index % k)] as number);
      expect(Math.abs(value - sum)).toBeLessThan(1e-5 * m);
    });
    const transposed = tensors.transpose(a);
    const again = tensors.multiplyTransposed(transposed, b);
    expect([again.rows, again.columns]).toEqual([n, k]);
    const difference = tensors.read(again).map((value, index) => Math.abs(value - (tensors.view(product)[index] ?? 0)));
    expect(Math.max(...difference)).toBeLessThan(1e-5 * m);
    for (const matrix of [a, b, product, transposed, again]) tensors.free(matrix);
  });

  it("refuses factors that do not fit together", () => {
    const a = rows([1, 2, 3], [4, 5, 6]);
    expect(() => tensors.multiply(a, a)).toThrow();
    const b = rows([1, 2, 3]);
    expect(() => tensors.multiplyTransposed(a, b)).toThrow();
    for (const matrix of [a, b]) tensors.free(matrix);
  });

  it("transposes matrices and vectors", () => {
    const a = rows([1, 2, 3], [4, 5, 6]);
    const transposed = tensors.transpose(a);
    expect([transposed.rows, transposed.columns, ...tensors.read(transposed)]).toEqual([3, 2, 1, 4, 2, 5, 3, 6]);
    const column = rows([1], [2]);
    const row = tensors.transpose(column);
    tensors.view(row)[0] = 9;
    expect([...tensors.read(row)]).toEqual([9, 2]);
    expect([...tensors.read(column)]).toEqual([1, 2]);
    for (const matrix of [a, transposed, column, row]) tensors.free(matrix);
  });

  it("copies input and output, and allows writing to a view", () => {
    const source = Float32Array.of(1, 2);
    const a = tensors.matrix(1, 2, source);
    source[0] = 5;
    const out = tensors.read(a);
    out[1] = 7;
    expect([...tensors.read(a)]).toEqual([1, 2]);
    tensors.view(a)[0] = 3;
    const identity = rows([1, 0], [0, 1]);
    const product = tensors.multiply(a, identity);
    expect([...tensors.read(product)]).toEqual([3, 2]);
    for (const matrix of [a, identity, product]) tensors.free(matrix);
  });

  it.each([
    [1, 1],
    [3, 5],
    [40, 96],
    [7, 33],
  ])("holds %i × %i numbers in 8 bits, as left factors and to read", (n, m) => {
    const random = seededRandom(n * m);
    const source = Float32Array.from({ length: n * m }, (_, i) => (i < m ? 0 : (random() - 0.5) * 10 ** (i % 3)));
    const a = tensors.matrix(n, m, source);
    const quantised = tensors.quantise(a);
    const values = tensors.values(quantised).slice();
    expect(tensors.read(quantised)).toEqual(values);
    for (let i = 0; i < n; i++) {
      const most = source.subarray(i * m, (i + 1) * m).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      for (let j = i * m; j < (i + 1) * m; j++)
        expect(Math.abs((values[j] ?? 0) - (source[j] ?? 0))).toBeLessThanOrEqual((most / 254) * (1 + 1e-5));
    }
    const expanded = tensors.matrix(n, m, values);
    const right = tensors.matrix(
      m,
      3,
      Float32Array.from({ length: m * 3 }, () => random()),
    );
    const below = tensors.matrix(
      n,
      3,
      Float32Array.from({ length: n * 3 }, () => random()),
    );
    const products = [quantised, expanded].map((left) => [
      tensors.multiply(left, right),
      tensors.multiplyTransposed(left, below),
    ]);
    const [ours, theirs] = products.map((pair) => pair.map((product) => tensors.read(product)));
    expect(ours).toEqual(theirs);
    expect(() => tensors.view(quantised)).toThrow();
    for (const matrix of [a, quantised, expanded, right, below, ...products.flat()]) tensors.free(matrix);
    expect(() => tensors.values(quantised)).toThrow();
  });

  it("uses what was written to a view before its matrix was first a right factor", () => {
    const identity = rows([1, 0], [0, 1]);
    const product = tensors.multiply(identity, identity);
    tensors.view(product).set([1, 2, 3, 4]);
    const squared = tensors.multiply(product, product);
    expect([...tensors.read(squared)]).toEqual([7, 10, 15, 22]);
    for (const matrix of [identity, product, squared]) tensors.free(matrix);
  });

  /** Both products of sparse rows, added to existing numbers, between matrices that must not change. */
  function expectProducts(height: number, columns: number, width: number, seed: number): void {
    const random = seededRandom(seed);
    const numbers = (length: number) => Float32Array.from({ length }, () => 2 * random() - 1);
    const sparseRows = makeSparse(height, columns, seed);
    const sparse = tensors.sparseMatrix(sparseRows, columns);
    const all = toDense(sparseRows, columns);
    for (const transposedDense of [false, true]) {
      const [n, m] = transposedDense ? [columns, height] : [height, columns];
      const right = numbers(m * width);
      const initialValues = numbers(n * width);
      const padding = numbers(64);
      const [b, low, to, high] = [
        tensors.matrix(m, width, right),
        tensors.matrix(1, 64, padding),
        tensors.matrix(n, width, initialValues),
        tensors.matrix(1, 64, padding),
      ] as const;
      if (transposedDense) tensors.addTransposedProduct(sparse, b, to);
      else tensors.addSparseProduct(sparse, b, to);
      const product = referenceProduct(transposedDense ? transpose(all, height, columns) : all, right, n, m, width);
      tensors.read(to).forEach((value, index) => {
        expect(Math.abs(value - (initialValues[index] as number) - (product[index] as number))).toBeLessThan(
          1e-6 * (m + 10),
        );
      });
      expect(tensors.read(b)).toEqual(right);
      for (const block of [low, high]) expect(tensors.read(block)).toEqual(padding);
      for (const matrix of [b, low, to, high]) tensors.free(matrix);
    }
    tensors.free(sparse);
  }

  it.each([1, 2, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 64, 77])(
    "adds the products of sparse rows with matrices %i columns wide, empty rows among them",
    (width) => {
      for (const [seed, columns] of [1, 2, 7, 40].entries()) expectProducts(20, columns, width, seed);
    },
  );

  it("adds the products of sparse rows whatever their shape", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 30 }),
        fc.integer({ min: 1, max: 70 }),
        fc.nat(),
        expectProducts,
      ),
      { numRuns: 60 },
    );
  });

  it("adds nothing for empty rows", () => {
    const none = { starts: new Uint32Array(4), columns: new Uint16Array(0), values: new Float32Array(0) };
    const sparse = tensors.sparseMatrix(none, 5);
    const [b, to] = [
      tensors.matrix(5, 3, new Float32Array(15).fill(1)),
      tensors.matrix(3, 3, new Float32Array(9).fill(2)),
    ];
    tensors.addSparseProduct(sparse, b, to);
    expect(tensors.read(to)).toEqual(new Float32Array(9).fill(2));
    tensors.addTransposedProduct(sparse, to, b);
    expect(tensors.read(b)).toEqual(new Float32Array(15).fill(1));
    expect(tensors.readSparse(sparse)).toEqual(none);
    for (const matrix of [sparse, b, to]) tensors.free(matrix);
  });

  it("reaches the last of 65,536 columns", () => {
    const width = 65_536;
    const sparseRows = { starts: Uint32Array.of(0, 1), columns: Uint16Array.of(width - 1), values: Float32Array.of(3) };
    const sparse = tensors.sparseMatrix(sparseRows, width);
    const b = tensors.matrix(
      width,
      3,
      Float32Array.from({ length: 3 * width }, (_, index) => index % 1000),
    );
    const to = tensors.matrix(1, 3, new Float32Array(3));
    tensors.addSparseProduct(sparse, b, to);
    expect([...tensors.read(to)]).toEqual([3, 2, 1].map((offset) => 3 * ((3 * width - offset) % 1000)));
    expect(() => tensors.sparseMatrix(sparseRows, width + 1)).toThrow();
    for (const matrix of [sparse, b, to]) tensors.free(matrix);
  });

  it("copies sparse rows on input and output", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }), fc.nat(), (height, columns, seed) => {
        const sparseRows = makeSparse(height, columns, seed);
        const source = {
          starts: sparseRows.starts.slice(),
          columns: sparseRows.columns.slice(),
          values: sparseRows.values.slice(),
        };
        const sparse = tensors.sparseMatrix(source, columns);
        expect(sparse).toEqual({ rows: height, columns, entries: sparseRows.values.length });
        source.values.fill(9);
        tensors.readSparse(sparse).values.fill(8);
        expect(tensors.readSparse(sparse)).toEqual(sparseRows);
        tensors.free(sparse);
      }),
    );
  });

  it.each<[string, SparseRows, number]>([
    ["more values than columns", { ...makeSparse(2, 3, 1), columns: new Uint16Array(0) }, 3],
    [
      "fewer values than they say",
      { starts: Uint32Array.of(0, 2), columns: Uint16Array.of(0), values: Float32Array.of(1) },
      3,
    ],
    [
      "a start beyond its end",
      { starts: Uint32Array.of(0, 2, 1), columns: Uint16Array.of(0), values: Float32Array.of(1) },
      3,
    ],
    ["no start of zero", { starts: Uint32Array.of(1, 1), columns: Uint16Array.of(0), values: Float32Array.of(1) }, 3],
    [
      "a column beyond their width",
      { starts: Uint32Array.of(0, 1), columns: Uint16Array.of(3), values: Float32Array.of(1) },
      3,
    ],
  ])("refuses sparse rows of %s", (_what, sparseRows, columns) => {
    const before = tensors.memory().matrices;
    expect(() => tensors.sparseMatrix(sparseRows, columns)).toThrow();
    expect(tensors.memory().matrices).toBe(before);
  });

  it("refuses products of sparse rows whose shapes do not fit, and freed rows", () => {
    const before = tensors.memory().matrices;
    const sparse = tensors.sparseMatrix(makeSparse(4, 3, 1), 3);
    const [three, four, two] = [rows([1], [2], [3]), rows([1], [2], [3], [4]), rows([1, 2], [3, 4], [5, 6])];
    expect(tensors.memory().matrices).toBe(before + 4);
    expect(() => tensors.addSparseProduct(sparse, four, four)).toThrow();
    expect(() => tensors.addSparseProduct(sparse, three, three)).toThrow();
    expect(() => tensors.addSparseProduct(sparse, two, four)).toThrow();
    expect(() => tensors.addTransposedProduct(sparse, three, three)).toThrow();
    expect(() => tensors.addTransposedProduct(sparse, four, four)).toThrow();
    tensors.addSparseProduct(sparse, three, four);
    tensors.addTransposedProduct(sparse, four, three);
    tensors.free(sparse);
    expect(tensors.memory().matrices).toBe(before + 3);
    expect(() => tensors.addSparseProduct(sparse, three, four)).toThrow();
    expect(() => tensors.addTransposedProduct(sparse, four, three)).toThrow();
    expect(() => tensors.readSparse(sparse)).toThrow();
    tensors.free(sparse);
    for (const matrix of [three, four, two]) tensors.free(matrix);
    expect(tensors.memory().matrices).toBe(before);
  });

  it("frees the memory of sparse rows", () => {
    const sparseRows = makeSparse(200, 300, 5);
    const bytes = () => tensors.memory().bytes;
    const allocateAndFree = () => tensors.free(tensors.sparseMatrix(sparseRows, 300));
    allocateAndFree();
    const before = bytes();
    for (let i = 0; i < 200; i++) allocateAndFree();
    expect(bytes()).toBe(before);
  });

  it("refuses shapes that do not fit, and freed matrices", () => {
    const before = tensors.memory().matrices;
    const a = rows([1, 2]);
    expect(() => tensors.multiply(a, a)).toThrow();
    expect(() => tensors.matrix(2, 2, Float32Array.of(1))).toThrow();
    expect(tensors.memory().matrices).toBe(before + 1);
    tensors.free(a);
    expect(() => tensors.read(a)).toThrow();
    expect(() => tensors.view(a)).toThrow();
    tensors.free(a);
    expect(() => tensors.multiply(a, a)).toThrow();
    expect(tensors.memory().matrices).toBe(before);
  });
});

it("starts the WASM backend once, and leaves the process's handlers of uncaught errors alone", async () => {
  expect(await loadTensors()).toBe(await loadTensors());
  expect(String(process.listeners("uncaughtException"))).not.toContain("ExitStatus");
});
