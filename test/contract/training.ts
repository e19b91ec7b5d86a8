import type { Result } from "../../src/core/failure.ts";
import type { Head } from "../../src/core/head.ts";
import { predict } from "../../src/core/head.ts";
import type { Targets } from "../../src/core/objective.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { SparseRows, Tensors } from "../../src/core/tensors.ts";
import { type Trained, type TrainingOptions, type TrainingSet, train } from "../../src/core/train.ts";

/** Runs a generator to its end. */
export function finish<T>(steps: Generator<number, T, void>): T {
  for (let step = steps.next(); ; step = steps.next()) if (step.done) return step.value;
}

export interface Data {
  readonly dimensions: number;
  /** rows × dimensions */
  readonly features: Float32Array;
  readonly targets: Targets;
  readonly labels: readonly string[];
  readonly groups?: Int32Array;
}

export const options: TrainingOptions = {
  l2: "auto",
  classWeight: null,
  seed: 1,
  evaluation: { method: "auto" },
  budget: { operations: 1e12, bytes: 56e6 },
};

/** A training with its features as blocks of `blockRows` rows, all freed again. */
export function trainOn(
  tensors: Tensors,
  data: Data,
  changes: Partial<TrainingOptions> = {},
  blockRows = 17,
): Result<Trained> {
  const { dimensions, features, targets, labels } = data;
  const rows = features.length / dimensions;
  const blocks = [];
  for (let first = 0; first < rows; first += blockRows) {
    const height = Math.min(blockRows, rows - first);
    blocks.push(tensors.matrix(height, dimensions, features.slice(first * dimensions, (first + height) * dimensions)));
  }
  const set: TrainingSet = {
    task: targets.kind === "single" ? "single_label" : targets.kind === "multi" ? "multi_label" : "regression",
    dimensions,
    labels,
    features: blocks,
    targets,
    groups: data.groups ?? Int32Array.from({ length: rows }, (_, row) => row),
  };
  try {
    return finish(train(tensors, set, { ...options, ...changes }));
  } finally {
    for (const block of blocks) tensors.free(block);
  }
}

export function trained(result: Result<Trained>): Trained {
  if (!result.ok) throw new Error(`${result.failure.code}: ${result.failure.message}`);
  return result.value;
}

/** Every row's probabilities (or values), row by row. */
export function predictions(head: Head, features: Float32Array): number[] {
  const all: number[] = [];
  for (let at = 0; at < features.length; at += head.dimensions) {
    all.push(...predict(head, features.subarray(at, at + head.dimensions)));
  }
  return all;
}

/** Rows of up to `most` numbers each in (0, 1), in random columns, ascending. */
export function sparseRows(rows: number, columns: number, most: number, seed: number): SparseRows {
  const random = seededRandom(seed);
  const starts = new Uint32Array(rows + 1);
  const found: number[] = [];
  for (let i = 0; i < rows; i++) {
    const own = new Set(
      Array.from({ length: Math.floor(random() * (most + 1)) }, () => Math.floor(random() * columns)),
    );
    found.push(...[...own].sort((a, b) => a - b));
    starts[i + 1] = found.length;
  }
  return { starts, columns: Uint16Array.from(found), values: Float32Array.from(found, () => random()) };
}

/** Rows around a centre for each class, in turn; `spread` is their standard deviation over the centres'. */
export function clusters(rows: number, dimensions: number, classes: number, spread: number, seed = 1): Data {
  const random = seededRandom(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const centres = Float64Array.from({ length: classes * dimensions }, normal);
  const indices = Int32Array.from({ length: rows }, (_, row) => row % classes);
  const features = Float32Array.from({ length: rows * dimensions }, (_, at) => {
    const label = indices[Math.floor(at / dimensions)] as number;
    return (centres[label * dimensions + (at % dimensions)] as number) + spread * normal();
  });
  return {
    dimensions,
    features,
    targets: { kind: "single", indices },
    labels: Array.from({ length: classes }, (_, k) => `label ${k}`),
  };
}

/** The greatest distance between two lists of numbers. */
export function distance(a: readonly number[], b: readonly number[]): number {
  return a.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))),
    a.length === b.length ? 0 : Number.POSITIVE_INFINITY,
  );
}
