import type { Result } from "../../src/core/failure.ts";
import type { Head } from "../../src/core/head.ts";
import { predict } from "../../src/core/head.ts";
import type { Targets } from "../../src/core/linear/targets.ts";
import { train } from "../../src/core/linear/train.ts";
import type { TrainingOptions, TrainingResult, TrainingSet } from "../../src/core/linear/types.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { SparseRows, TensorBackend } from "../../src/core/tensors.ts";
import { lexicalBucketCount } from "../../src/core/text/buckets.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { createLexicalReader, type LexicalFeatures } from "../../src/core/text/lexical-reader.ts";

/** Runs a generator to its end. */
export function runToEnd<T>(steps: Generator<number, T, void>): T {
  for (let step = steps.next(); ; step = steps.next()) if (step.done) return step.value;
}

export interface TrainingData {
  readonly dimensions: number;
  /** rows × dimensions */
  readonly features: Float32Array;
  readonly targets: Targets;
  readonly labels: readonly string[];
  readonly groups?: Int32Array;
  /** The text of each row, for lexical features. */
  readonly texts?: readonly string[];
}

export const options: TrainingOptions = {
  l2: "auto",
  classWeight: null,
  seed: 1,
  evaluation: { method: "auto" },
  budget: { operations: 1e12, bytes: 56e6 },
};

/** Runs a training with its features in blocks of `blockRows` rows, and frees them. */
export function trainOn(
  tensors: TensorBackend,
  data: TrainingData,
  changes: Partial<TrainingOptions> = {},
  blockRows = 17,
): Result<TrainingResult> {
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
    lexical: data.texts === undefined ? null : fitLexical(data.texts, Math.max(1, labels.length)),
  };
  try {
    return runToEnd(train(tensors, set, { ...options, ...changes }));
  } finally {
    for (const block of blocks) tensors.free(block);
  }
}

/** The lexical features of texts, as a training over HTTP reads them. */
export function fitLexical(texts: readonly string[], outputs: number): LexicalFeatures {
  const reader = createLexicalReader(lexicalBucketCount(outputs));
  for (const text of texts) reader.add(text);
  return reader.fit();
}

export function unwrapTrained(result: Result<TrainingResult>): TrainingResult {
  if (!result.ok) throw new Error(`${result.failure.code}: ${result.failure.message}`);
  return result.value;
}

/** Every row's probabilities (or values), row by row. */
export function predictions(head: Head, features: Float32Array, texts: readonly string[] = []): number[] {
  const all: number[] = [];
  const read = head.lexical === null ? () => null : createLexicalVectorizer(head.lexical);
  for (let row = 0, offset = 0; offset < features.length; row++, offset += head.dimensions) {
    all.push(...predict(head, features.subarray(offset, offset + head.dimensions), read(texts[row] ?? "")));
  }
  return all;
}

/** Sparse rows of up to `maxEntries` numbers in (0, 1), in random columns, ascending. */
export function sparseRows(rows: number, columns: number, maxEntries: number, seed: number): SparseRows {
  const random = seededRandom(seed);
  const starts = new Uint32Array(rows + 1);
  const columnIndices: number[] = [];
  for (let i = 0; i < rows; i++) {
    const rowColumns = new Set(
      Array.from({ length: Math.floor(random() * (maxEntries + 1)) }, () => Math.floor(random() * columns)),
    );
    columnIndices.push(...[...rowColumns].sort((a, b) => a - b));
    starts[i + 1] = columnIndices.length;
  }
  return { starts, columns: Uint16Array.from(columnIndices), values: Float32Array.from(columnIndices, () => random()) };
}

/** Rows around the centre of their class, the classes in turn. `spread` is the ratio of their standard deviation to that of the centres. */
export function makeClusters(
  rows: number,
  dimensions: number,
  classes: number,
  spread: number,
  seed = 1,
): TrainingData {
  const random = seededRandom(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const centres = Float64Array.from({ length: classes * dimensions }, normal);
  const indices = Int32Array.from({ length: rows }, (_, row) => row % classes);
  const features = Float32Array.from({ length: rows * dimensions }, (_, index) => {
    const label = indices[Math.floor(index / dimensions)] as number;
    return (centres[label * dimensions + (index % dimensions)] as number) + spread * normal();
  });
  return {
    dimensions,
    features,
    targets: { kind: "single", indices },
    labels: Array.from({ length: classes }, (_, k) => `label ${k}`),
  };
}

/**
 * Rows whose class is told by the embeddings or by the words: each class has three words of its own among common ones. The other
 * one of the two is noise.
 */
export function makeWordedClusters(
  rows: number,
  dimensions: number,
  classes: number,
  informative: "embeddings" | "words",
  seed = 1,
): TrainingData {
  const data = makeClusters(rows, dimensions, classes, 2, seed);
  const { indices } = data.targets as { indices: Int32Array };
  const random = seededRandom(seed + 1);
  const number = (below: number) => Math.floor(random() * below);
  const texts = Array.from(indices, (label) => {
    const text = Array.from({ length: 4 + number(8) }, () => `common${number(40)}`);
    if (informative === "words") text[number(text.length)] = `sign${label}${"abc"[number(3)]}`;
    return text.join(" ");
  });
  const features = informative === "embeddings" ? data.features : data.features.map(() => 2 * random() - 1);
  return { ...data, features, texts };
}

/** The largest difference between two lists of numbers. */
export function maxDifference(a: readonly number[], b: readonly number[]): number {
  return a.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))),
    a.length === b.length ? 0 : Number.POSITIVE_INFINITY,
  );
}
