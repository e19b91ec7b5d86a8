import fc from "fast-check";
import { expect, it } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { compileKernels, instantiateKernels, RESERVED_BYTES, sharedMemory } from "../../src/pretrain/kernels.ts";

const memory = sharedMemory(RESERVED_BYTES + (1 << 20));
const kernels = await instantiateKernels(await compileKernels(), memory);

/** Random shapes and numbers, and a place for them in the kernels' memory. */
function makeArena(seed: number) {
  const random = seededRandom(seed);
  let freeOffset = RESERVED_BYTES;
  const randomBetween = (min: number, max: number) => min + Math.floor(random() * (max - min + 1));
  const numbers = (count: number, spread = 2) =>
    Float32Array.from({ length: count }, () => spread * (2 * random() - 1));
  const allocate = <A extends Float32Array | Int32Array>(values: A): number => {
    const offset = freeOffset;
    freeOffset += Math.ceil(values.byteLength / 16) * 16;
    new Uint8Array(memory.buffer, offset, values.byteLength).set(new Uint8Array(values.buffer, 0, values.byteLength));
    return offset;
  };
  /** Room that holds no zeros: what is not written stays to be seen. */
  const allocateFilled = (count: number) => allocate(new Float32Array(count).fill(99));
  /** The half-open part of so many things that a thread might have. */
  const randomRange = (count: number, unit = 1): [number, number] => {
    const first = randomBetween(0, count / unit - 1) * unit;
    return [first, first + randomBetween(1, (count - first) / unit) * unit];
  };
  return { between: randomBetween, numbers, put: allocate, room: allocateFilled, part: randomRange, random };
}

function read(offset: number, count: number): Float32Array {
  return new Float32Array(memory.buffer, offset, count).slice();
}

function expectClose(actual: Float32Array, expected: ArrayLike<number>, tolerance: number): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach((value, i) => {
    const expectedValue = expected[i] as number;
    expect(Math.abs(value - expectedValue), `${value} for ${expectedValue} at ${i}`).toBeLessThan(
      tolerance * (1 + Math.abs(expectedValue)),
    );
  });
}

function checkProperty(property: (seed: number) => void): void {
  fc.assert(fc.property(fc.integer(), property), { numRuns: 40 });
}

/** Lists of members below `kinds`, some of them empty. */
function randomLists({ between }: ReturnType<typeof makeArena>, count: number, kinds: number) {
  const starts = new Int32Array(count + 1);
  for (let i = 0; i < count; i++) starts[i + 1] = (starts[i] as number) + between(0, 5);
  const members = Int32Array.from({ length: starts[count] as number }, () => between(0, kinds - 1));
  return { starts, members };
}

it("sums rows, with coefficients and without", () => {
  checkProperty((seed) => {
    const arena = makeArena(seed);
    const [width, kinds, count] = [32 * arena.between(1, 3), arena.between(1, 9), arena.between(1, 7)];
    const rows = arena.numbers(kinds * width);
    const { starts, members } = randomLists(arena, count, kinds);
    const coefficients = seed % 2 === 0 ? arena.numbers(members.length) : null;
    const [first, last] = arena.part(count);
    const out = arena.room(count * width);
    const offsets = [
      arena.put(starts),
      arena.put(members),
      coefficients ? arena.put(coefficients) : 0,
      arena.put(rows),
    ] as const;
    kernels.sumRows(first, last, ...offsets, width, out);
    const expected = new Float64Array(count * width).fill(99);
    for (let i = first; i < last; i++) {
      for (let j = 0; j < width; j++) {
        let sum = 0;
        for (let m = starts[i] as number; m < (starts[i + 1] as number); m++)
          sum += (coefficients?.[m] ?? 1) * (rows[(members[m] as number) * width + j] as number);
        expected[i * width + j] = sum;
      }
    }
    expectClose(read(out, count * width), expected, 1e-5);
  });
});

const [rate, beta1, beta2, epsilon] = [0.01, 0.9, 0.999, 1e-8];

/** What `adam` does to one number. */
function adamStep(x: number, mean: number, square: number, gradient: number): [number, number, number] {
  const m = beta1 * mean + (1 - beta1) * gradient;
  const v = beta2 * square + (1 - beta2) * gradient * gradient;
  return [x - (rate * m) / (Math.sqrt(v) + epsilon), m, v];
}

it("takes a step of Adam", () => {
  checkProperty((seed) => {
    const arena = makeArena(seed);
    const count = 4 * arena.between(1, 20);
    const [x, means, gradient] = [arena.numbers(count), arena.numbers(count), arena.numbers(count)];
    const squares = arena.numbers(count).map(Math.abs);
    const offsets = [arena.put(x), arena.put(means), arena.put(squares), arena.put(gradient)] as const;
    kernels.adam(...offsets, count, rate, beta1, beta2, epsilon);
    const expected = Array.from(x, (value, i) =>
      adamStep(value, means[i] as number, squares[i] as number, gradient[i] as number),
    );
    for (const which of [0, 1, 2] as const)
      expectClose(
        read(offsets[which], count),
        Array.from(expected, (state) => state[which]),
        1e-4,
      );
  });
});

it("takes a step of Adam on the listed rows alone, each from the sum of its words' gradients", () => {
  checkProperty((seed) => {
    const arena = makeArena(seed);
    const [width, kinds, table] = [32 * arena.between(1, 2), arena.between(1, 6), arena.between(3, 9)];
    const list = Int32Array.from({ length: table }, (_, row) => row).filter(() => arena.random() < 0.5);
    const gradients = arena.numbers(kinds * width);
    const { starts, members } = randomLists(arena, list.length, kinds);
    const coefficients = arena.numbers(members.length);
    const [x, means] = [arena.numbers(table * width), arena.numbers(table * width)];
    const squares = arena.numbers(table * width).map(Math.abs);
    const expected = [x, means, squares].map((array) => Float64Array.from(array));
    list.forEach((row, i) => {
      for (let j = 0; j < width; j++) {
        let gradient = 0;
        for (let m = starts[i] as number; m < (starts[i + 1] as number); m++)
          gradient += (coefficients[m] as number) * (gradients[(members[m] as number) * width + j] as number);
        const index = row * width + j;
        const update = adamStep(x[index] as number, means[index] as number, squares[index] as number, gradient);
        update.forEach((value, which) => {
          (expected[which] as Float64Array)[index] = value;
        });
      }
    });
    const updateRows = [arena.put(list), arena.put(starts), arena.put(members), arena.put(coefficients)] as const;
    const offsets = [arena.put(x), arena.put(means), arena.put(squares)] as const;
    const scratch = arena.room(width);
    kernels.adamRows(
      ...[0, list.length, ...updateRows, arena.put(gradients), width, ...offsets],
      ...[scratch, rate, beta1, beta2, epsilon],
    );
    offsets.forEach((offset, column) => {
      expectClose(read(offset, table * width), expected[column] as Float64Array, 1e-4);
    });
  });
});

it("normalises rows, and takes gradients back through it", () => {
  checkProperty((seed) => {
    const arena = makeArena(seed);
    const [count, width] = [arena.between(1, 6), 4 * arena.between(1, 9)];
    const [first, last] = arena.part(count);
    const [x, g] = [arena.numbers(count * width), arena.numbers(count * width)];
    const [norms, units, gradient] = [arena.room(count), arena.room(count * width), arena.put(g)];
    kernels.normalise(first, last, arena.put(x), width, norms, units);
    kernels.normaliseBack(first, last, units, width, norms, gradient);
    const expectedUnits = new Float64Array(count * width).fill(99);
    const expected = Float64Array.from(g);
    for (let i = first; i < last; i++) {
      const row = Array.from(x.subarray(i * width, (i + 1) * width));
      const norm = Math.hypot(...row);
      const projection = row.reduce((sum, value, j) => sum + (value / norm) * (g[i * width + j] as number), 0);
      row.forEach((value, j) => {
        expectedUnits[i * width + j] = value / norm;
        expected[i * width + j] = ((g[i * width + j] as number) - (projection * value) / norm) / norm;
      });
    }
    expectClose(read(units, count * width), expectedUnits, 1e-6);
    expectClose(read(gradient, count * width), expected, 1e-4);
  });
});

it("multiplies matrices that lie in rows or in columns", () => {
  checkProperty((seed) => {
    const arena = makeArena(seed);
    const [rows, n, depth] = [4 * arena.between(1, 5), 8 * arena.between(1, 4), arena.between(1, 40)];
    const [first, last] = arena.part(rows, 4);
    const [a, b] = [arena.numbers(rows * depth), arena.numbers(depth * n)];
    const [ai, ak] = seed % 2 === 0 ? [depth, 1] : [1, rows];
    const [bk, bj] = (seed >> 1) % 2 === 0 ? [n, 1] : [1, depth];
    const [c, panel] = [arena.room(rows * n), arena.room(8 * depth)];
    kernels.multiply(first, last, n, depth, arena.put(a), ai, ak, arena.put(b), bk, bj, c, panel, 3);
    const expected = new Float64Array(rows * n).fill(99);
    for (let i = first; i < last; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let k = 0; k < depth; k++) sum += (a[i * ai + k * ak] as number) * (b[k * bk + j * bj] as number);
        expected[i * n + j] = 3 * sum;
      }
    }
    expectClose(read(c, rows * n), expected, 3e-5);
  });
});

/** Logits, some of them out of the question, but none of the diagonal. */
function randomLogits(arena: ReturnType<typeof makeArena>, rows: number, n: number): Float32Array {
  return arena.numbers(rows * n, 40).map((value, index) => {
    return arena.random() < 0.1 && Math.floor(index / n) !== index % n ? -1e30 : value;
  });
}

function logSum(values: readonly number[]): number {
  const top = Math.max(...values);
  return top + Math.log(values.reduce((sum, value) => sum + Math.exp(value - top), 0));
}

const rowOf = (logits: Float32Array, n: number, i: number) => Array.from(logits.subarray(i * n, (i + 1) * n));
const columnOf = (logits: Float32Array, n: number, j: number) =>
  Array.from(logits).filter((_, index) => index % n === j);

it("takes the logarithm of summed exponentials along rows and down columns", () => {
  checkProperty((seed) => {
    const arena = makeArena(seed);
    const n = 4 * arena.between(1, 8);
    const logits = randomLogits(arena, n, n);
    const [first, last] = arena.part(n, 4);
    const [logitsOffset, rows, columns] = [arena.put(logits), arena.room(n), arena.room(n)];
    kernels.logSumRows(first, last, logitsOffset, n, rows);
    kernels.logSumColumns(first, last, n, logitsOffset, n, columns);
    const isInRange = (i: number) => i >= first && i < last;
    const expected = (select: typeof rowOf) =>
      Array.from({ length: n }, (_, i) => (isInRange(i) ? logSum(select(logits, n, i)) : 99));
    expectClose(read(rows, n), expected(rowOf), 1e-6);
    expectClose(read(columns, n), expected(columnOf), 1e-6);
  });
});

it("makes the gradient of both directions' cross-entropies, and of a softmax's", () => {
  checkProperty((seed) => {
    const arena = makeArena(seed);
    const n = 4 * arena.between(1, 8);
    const logits = randomLogits(arena, n, n);
    const targets = Int32Array.from({ length: n }, () => arena.between(0, n - 1));
    const [first, last] = arena.part(n);
    const rowSums = Float32Array.from({ length: n }, (_, i) => logSum(rowOf(logits, n, i)));
    const columnSums = Float32Array.from({ length: n }, (_, j) => logSum(columnOf(logits, n, j)));
    const [pairs, classes, rows] = [arena.put(logits), arena.put(logits), arena.put(rowSums)];
    kernels.contrastiveGradient(first, last, pairs, n, rows, arena.put(columnSums), 0.5);
    kernels.softmaxGradient(first, last, classes, n, rows, arena.put(targets), 0.25);
    const gradient = (formula: (value: number, i: number, j: number) => number) =>
      Float64Array.from(logits, (value, index) => {
        const [i, j] = [Math.floor(index / n), index % n];
        return i >= first && i < last ? formula(value, i, j) : value;
      });
    const p = (value: number, sum: number | undefined) => Math.exp(value - (sum as number));
    expectClose(
      read(pairs, n * n),
      gradient((value, i, j) => 0.5 * (p(value, rowSums[i]) + p(value, columnSums[j]) - (i === j ? 2 : 0))),
      1e-5,
    );
    expectClose(
      read(classes, n * n),
      gradient((value, i, j) => 0.25 * (p(value, rowSums[i]) - (targets[i] === j ? 1 : 0))),
      1e-5,
    );
  });
});
