import fc from "fast-check";
import { expect, it } from "vitest";
import { seededRandom } from "../../src/core/random.ts";
import { compileKernels, kernelsOn, RESERVED, sharedMemory } from "../../src/pretrain/kernels.ts";

const memory = sharedMemory(RESERVED + (1 << 20));
const kernels = await kernelsOn(await compileKernels(), memory);

/** Random shapes and numbers, and a place for them in the kernels' memory. */
function bench(seed: number) {
  const random = seededRandom(seed);
  let next = RESERVED;
  const between = (least: number, most: number) => least + Math.floor(random() * (most - least + 1));
  const numbers = (count: number, spread = 2) =>
    Float32Array.from({ length: count }, () => spread * (2 * random() - 1));
  const put = <A extends Float32Array | Int32Array>(values: A): number => {
    const at = next;
    next += Math.ceil(values.byteLength / 16) * 16;
    new Uint8Array(memory.buffer, at, values.byteLength).set(new Uint8Array(values.buffer, 0, values.byteLength));
    return at;
  };
  /** Room that holds no zeros: what is not written stays to be seen. */
  const room = (count: number) => put(new Float32Array(count).fill(99));
  /** The half-open part of so many things that a thread might have. */
  const part = (count: number, unit = 1): [number, number] => {
    const first = between(0, count / unit - 1) * unit;
    return [first, first + between(1, (count - first) / unit) * unit];
  };
  return { between, numbers, put, room, part, random };
}

function read(at: number, count: number): Float32Array {
  return new Float32Array(memory.buffer, at, count).slice();
}

function close(actual: Float32Array, expected: ArrayLike<number>, tolerance: number): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach((value, i) => {
    const wanted = expected[i] as number;
    expect(Math.abs(value - wanted), `${value} for ${wanted} at ${i}`).toBeLessThan(tolerance * (1 + Math.abs(wanted)));
  });
}

function check(property: (seed: number) => void): void {
  fc.assert(fc.property(fc.integer(), property), { numRuns: 40 });
}

/** Lists of members below `kinds`, some of them empty. */
function lists({ between }: ReturnType<typeof bench>, count: number, kinds: number) {
  const starts = new Int32Array(count + 1);
  for (let i = 0; i < count; i++) starts[i + 1] = (starts[i] as number) + between(0, 5);
  const members = Int32Array.from({ length: starts[count] as number }, () => between(0, kinds - 1));
  return { starts, members };
}

it("sums rows, with coefficients and without", () => {
  check((seed) => {
    const own = bench(seed);
    const [width, kinds, count] = [32 * own.between(1, 3), own.between(1, 9), own.between(1, 7)];
    const rows = own.numbers(kinds * width);
    const { starts, members } = lists(own, count, kinds);
    const coefficients = seed % 2 === 0 ? own.numbers(members.length) : null;
    const [first, last] = own.part(count);
    const out = own.room(count * width);
    const at = [own.put(starts), own.put(members), coefficients ? own.put(coefficients) : 0, own.put(rows)] as const;
    kernels.sumRows(first, last, ...at, width, out);
    const expected = new Float64Array(count * width).fill(99);
    for (let i = first; i < last; i++) {
      for (let j = 0; j < width; j++) {
        let sum = 0;
        for (let m = starts[i] as number; m < (starts[i + 1] as number); m++)
          sum += (coefficients?.[m] ?? 1) * (rows[(members[m] as number) * width + j] as number);
        expected[i * width + j] = sum;
      }
    }
    close(read(out, count * width), expected, 1e-5);
  });
});

const [rate, beta1, beta2, epsilon] = [0.01, 0.9, 0.999, 1e-8];

/** What `adam` does to one number. */
function adamOf(x: number, mean: number, square: number, gradient: number): [number, number, number] {
  const m = beta1 * mean + (1 - beta1) * gradient;
  const v = beta2 * square + (1 - beta2) * gradient * gradient;
  return [x - (rate * m) / (Math.sqrt(v) + epsilon), m, v];
}

it("takes a step of Adam", () => {
  check((seed) => {
    const own = bench(seed);
    const count = 4 * own.between(1, 20);
    const [x, means, gradient] = [own.numbers(count), own.numbers(count), own.numbers(count)];
    const squares = own.numbers(count).map(Math.abs);
    const at = [own.put(x), own.put(means), own.put(squares), own.put(gradient)] as const;
    kernels.adam(...at, count, rate, beta1, beta2, epsilon);
    const expected = Array.from(x, (value, i) =>
      adamOf(value, means[i] as number, squares[i] as number, gradient[i] as number),
    );
    for (const which of [0, 1, 2] as const)
      close(
        read(at[which], count),
        Array.from(expected, (each) => each[which]),
        1e-4,
      );
  });
});

it("takes a step of Adam on the listed rows alone, each from the sum of its words' gradients", () => {
  check((seed) => {
    const own = bench(seed);
    const [width, kinds, table] = [32 * own.between(1, 2), own.between(1, 6), own.between(3, 9)];
    const list = Int32Array.from({ length: table }, (_, row) => row).filter(() => own.random() < 0.5);
    const gradients = own.numbers(kinds * width);
    const { starts, members } = lists(own, list.length, kinds);
    const coefficients = own.numbers(members.length);
    const [x, means] = [own.numbers(table * width), own.numbers(table * width)];
    const squares = own.numbers(table * width).map(Math.abs);
    const expected = [x, means, squares].map((each) => Float64Array.from(each));
    list.forEach((row, i) => {
      for (let j = 0; j < width; j++) {
        let gradient = 0;
        for (let m = starts[i] as number; m < (starts[i + 1] as number); m++)
          gradient += (coefficients[m] as number) * (gradients[(members[m] as number) * width + j] as number);
        const at = row * width + j;
        const next = adamOf(x[at] as number, means[at] as number, squares[at] as number, gradient);
        next.forEach((value, which) => {
          (expected[which] as Float64Array)[at] = value;
        });
      }
    });
    const ofRows = [own.put(list), own.put(starts), own.put(members), own.put(coefficients)] as const;
    const at = [own.put(x), own.put(means), own.put(squares)] as const;
    const scratch = own.room(width);
    kernels.adamRows(
      ...[0, list.length, ...ofRows, own.put(gradients), width, ...at],
      ...[scratch, rate, beta1, beta2, epsilon],
    );
    at.forEach((offset, which) => {
      close(read(offset, table * width), expected[which] as Float64Array, 1e-4);
    });
  });
});

it("normalises rows, and takes gradients back through it", () => {
  check((seed) => {
    const own = bench(seed);
    const [count, width] = [own.between(1, 6), 4 * own.between(1, 9)];
    const [first, last] = own.part(count);
    const [x, g] = [own.numbers(count * width), own.numbers(count * width)];
    const [norms, units, gradient] = [own.room(count), own.room(count * width), own.put(g)];
    kernels.normalise(first, last, own.put(x), width, norms, units);
    kernels.normaliseBack(first, last, units, width, norms, gradient);
    const expectedUnits = new Float64Array(count * width).fill(99);
    const expected = Float64Array.from(g);
    for (let i = first; i < last; i++) {
      const row = Array.from(x.subarray(i * width, (i + 1) * width));
      const norm = Math.hypot(...row);
      const along = row.reduce((sum, value, j) => sum + (value / norm) * (g[i * width + j] as number), 0);
      row.forEach((value, j) => {
        expectedUnits[i * width + j] = value / norm;
        expected[i * width + j] = ((g[i * width + j] as number) - (along * value) / norm) / norm;
      });
    }
    close(read(units, count * width), expectedUnits, 1e-6);
    close(read(gradient, count * width), expected, 1e-4);
  });
});

it("multiplies matrices that lie in rows or in columns", () => {
  check((seed) => {
    const own = bench(seed);
    const [rows, n, depth] = [4 * own.between(1, 5), 8 * own.between(1, 4), own.between(1, 40)];
    const [first, last] = own.part(rows, 4);
    const [a, b] = [own.numbers(rows * depth), own.numbers(depth * n)];
    const [ai, ak] = seed % 2 === 0 ? [depth, 1] : [1, rows];
    const [bk, bj] = (seed >> 1) % 2 === 0 ? [n, 1] : [1, depth];
    const [c, panel] = [own.room(rows * n), own.room(8 * depth)];
    kernels.multiply(first, last, n, depth, own.put(a), ai, ak, own.put(b), bk, bj, c, panel, 3);
    const expected = new Float64Array(rows * n).fill(99);
    for (let i = first; i < last; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let k = 0; k < depth; k++) sum += (a[i * ai + k * ak] as number) * (b[k * bk + j * bj] as number);
        expected[i * n + j] = 3 * sum;
      }
    }
    close(read(c, rows * n), expected, 3e-5);
  });
});

/** Logits, some of them out of the question, but none of the diagonal. */
function logitsOf(own: ReturnType<typeof bench>, rows: number, n: number): Float32Array {
  return own.numbers(rows * n, 40).map((value, at) => {
    return own.random() < 0.1 && Math.floor(at / n) !== at % n ? -1e30 : value;
  });
}

function logSum(values: readonly number[]): number {
  const top = Math.max(...values);
  return top + Math.log(values.reduce((sum, value) => sum + Math.exp(value - top), 0));
}

const rowOf = (logits: Float32Array, n: number, i: number) => Array.from(logits.subarray(i * n, (i + 1) * n));
const columnOf = (logits: Float32Array, n: number, j: number) => Array.from(logits).filter((_, at) => at % n === j);

it("takes the logarithm of summed exponentials along rows and down columns", () => {
  check((seed) => {
    const own = bench(seed);
    const n = 4 * own.between(1, 8);
    const logits = logitsOf(own, n, n);
    const [first, last] = own.part(n, 4);
    const [at, rows, columns] = [own.put(logits), own.room(n), own.room(n)];
    kernels.logSumRows(first, last, at, n, rows);
    kernels.logSumColumns(first, last, n, at, n, columns);
    const inside = (i: number) => i >= first && i < last;
    const expected = (of: typeof rowOf) =>
      Array.from({ length: n }, (_, i) => (inside(i) ? logSum(of(logits, n, i)) : 99));
    close(read(rows, n), expected(rowOf), 1e-6);
    close(read(columns, n), expected(columnOf), 1e-6);
  });
});

it("makes the gradient of both directions' cross-entropies, and of a softmax's", () => {
  check((seed) => {
    const own = bench(seed);
    const n = 4 * own.between(1, 8);
    const logits = logitsOf(own, n, n);
    const targets = Int32Array.from({ length: n }, () => own.between(0, n - 1));
    const [first, last] = own.part(n);
    const rowSums = Float32Array.from({ length: n }, (_, i) => logSum(rowOf(logits, n, i)));
    const columnSums = Float32Array.from({ length: n }, (_, j) => logSum(columnOf(logits, n, j)));
    const [pairs, classes, rows] = [own.put(logits), own.put(logits), own.put(rowSums)];
    kernels.contrastiveGradient(first, last, pairs, n, rows, own.put(columnSums), 0.5);
    kernels.softmaxGradient(first, last, classes, n, rows, own.put(targets), 0.25);
    const gradient = (of: (value: number, i: number, j: number) => number) =>
      Float64Array.from(logits, (value, at) => {
        const [i, j] = [Math.floor(at / n), at % n];
        return i >= first && i < last ? of(value, i, j) : value;
      });
    const p = (value: number, sum: number | undefined) => Math.exp(value - (sum as number));
    close(
      read(pairs, n * n),
      gradient((value, i, j) => 0.5 * (p(value, rowSums[i]) + p(value, columnSums[j]) - (i === j ? 2 : 0))),
      1e-5,
    );
    close(
      read(classes, n * n),
      gradient((value, i, j) => 0.25 * (p(value, rowSums[i]) - (targets[i] === j ? 1 : 0))),
      1e-5,
    );
  });
});
