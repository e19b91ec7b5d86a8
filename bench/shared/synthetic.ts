/** Made-up data for measurements that depend only on sizes. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { seededRandom } from "../../src/core/random.ts";
import type { LabelledText } from "./text-datasets.ts";

export interface Shape {
  readonly rows: number;
  readonly dimensions: number;
  readonly classes: number;
}

/**
 * Unit vectors around a centre for each class. Component j shrinks as 1 / √j, like the principal components of embeddings.
 * Classes overlap: about nine in ten vectors can be classified.
 */
export function makeClassification({ rows, dimensions, classes }: Shape): {
  features: Float32Array<ArrayBuffer>;
  labels: Int32Array<ArrayBuffer>;
} {
  const random = seededRandom(rows + dimensions);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const centres = Float64Array.from(
    { length: classes * dimensions },
    (_, index) => (0.45 * normal()) / Math.sqrt((index % dimensions) + 1),
  );
  const features = new Float32Array(rows * dimensions);
  const labels = Int32Array.from({ length: rows }, (_, row) => row % classes);
  labels.forEach((label, row) => {
    const x = Float64Array.from(
      { length: dimensions },
      (_, j) => (centres[label * dimensions + j] ?? 0) + normal() / Math.sqrt(j + 1),
    );
    const norm = Math.hypot(...x);
    features.set(
      x.map((value) => value / norm),
      row * dimensions,
    );
  });
  return { features, labels };
}

/** Texts of about 60 characters, twelve words: four of the label's own and eight that all labels use. */
export function syntheticTexts(
  examples: number,
  labels: number,
  wordOf: (n: number) => string = (n) => `w${n}`,
): LabelledText[] {
  const random = seededRandom(1);
  const words = (count: number, first: number, distinct: number) =>
    Array.from({ length: count }, () => wordOf(first + Math.floor(distinct * random()))).join(" ");
  return Array.from({ length: examples }, (_, i) => {
    const label = i % labels;
    return { text: `${words(4, 1_000 + 40 * label, 60)} ${words(8, 0, 1_000)}`, label: `label ${label}` };
  });
}

/** The same of twelve words that are one sub-word each for text-use-1. */
export function syntheticTexts12(examples: number, labels: number): LabelledText[] {
  const file = join(import.meta.dirname, "../../models/text-use-1/vocabulary.txt");
  const words = Array.from(readFileSync(file, "utf8").matchAll(/^▁([a-z]{4,})\t/gm), ([, word = ""]) => word);
  return syntheticTexts(examples, labels, (n) => words[n % words.length] ?? "");
}
