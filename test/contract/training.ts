import type { Result } from "../../src/core/failure.ts";
import type { Head } from "../../src/core/head.ts";
import { predict } from "../../src/core/head.ts";
import { type LexicalFeatures, lexicalBuckets, lexicalFeatures, readLexical } from "../../src/core/text/lexical.ts";
import type { Targets } from "../../src/core/linear/objective.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { SparseRows, Tensors } from "../../src/core/tensors.ts";
import { type Trained, type TrainingOptions, type TrainingSet, train } from "../../src/core/linear/train.ts";

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
  /** Each row's, where lexical features may be read from them. */
  readonly texts?: readonly string[];
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
    lexical: data.texts === undefined ? null : lexicalOf(data.texts, Math.max(1, labels.length)),
  };
  try {
    return finish(train(tensors, set, { ...options, ...changes }));
  } finally {
    for (const block of blocks) tensors.free(block);
  }
}

/** The lexical features of a training's texts, as a training over HTTP reads them. */
export function lexicalOf(texts: readonly string[], outputs: number): LexicalFeatures {
  const reader = readLexical(lexicalBuckets(outputs));
  for (const text of texts) reader.add(text);
  return reader.fit();
}

export function trained(result: Result<Trained>): Trained {
  if (!result.ok) throw new Error(`${result.failure.code}: ${result.failure.message}`);
  return result.value;
}

/** Every row's probabilities (or values), row by row. */
export function predictions(head: Head, features: Float32Array, texts: readonly string[] = []): number[] {
  const all: number[] = [];
  const read = head.lexical === null ? () => null : lexicalFeatures(head.lexical);
  for (let row = 0, at = 0; at < features.length; row++, at += head.dimensions) {
    all.push(...predict(head, features.subarray(at, at + head.dimensions), read(texts[row] ?? "")));
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

/**
 * Rows of which embeddings tell the class, or words do: one of three words of its own among others, that are drawn alike
 * whatever the class. What does not tell is noise.
 */
export function worded(
  rows: number,
  dimensions: number,
  classes: number,
  tells: "embeddings" | "words",
  seed = 1,
): Data {
  const data = clusters(rows, dimensions, classes, 2, seed);
  const { indices } = data.targets as { indices: Int32Array };
  const random = seededRandom(seed + 1);
  const number = (below: number) => Math.floor(random() * below);
  const texts = Array.from(indices, (label) => {
    const text = Array.from({ length: 4 + number(8) }, () => `common${number(40)}`);
    if (tells === "words") text[number(text.length)] = `sign${label}${"abc"[number(3)]}`;
    return text.join(" ");
  });
  const features = tells === "embeddings" ? data.features : data.features.map(() => 2 * random() - 1);
  return { ...data, features, texts };
}

/** The greatest distance between two lists of numbers. */
export function distance(a: readonly number[], b: readonly number[]): number {
  return a.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))),
    a.length === b.length ? 0 : Number.POSITIVE_INFINITY,
  );
}
