import { readFileSync } from "node:fs";
import type { TrainingData } from "../../contract/training-data.ts";

/** A fit of scikit-learn, from fits.json, which make.py writes. */
export interface FitVector {
  readonly name: string;
  readonly kind: "single" | "multi" | "value";
  readonly rows: number;
  readonly dimensions: number;
  readonly outputs: number;
  readonly l2: number;
  readonly balanced: boolean;
  /** Rows of weight 2. */
  readonly repeat: readonly number[];
  readonly x: readonly number[];
  readonly y: readonly (number | number[])[];
  /** rows × outputs */
  readonly expected: readonly number[];
}

export const fitVectors = readJson("fits.json") as FitVector[];

export interface MetricVectors {
  readonly logits: number[];
  readonly outputs: number;
  readonly truth: number[];
  readonly predicted: number[];
  readonly accuracy: number;
  readonly macro_f1: number;
  readonly log_loss: number;
  readonly ece: number;
  readonly confusion: number[][];
  readonly precision: number[];
  readonly recall: number[];
  readonly f1: number[];
  readonly support: number[];
  readonly multi: { truth: number[][]; predicted: number[][]; micro_f1: number; macro_f1: number; accuracy: number };
  readonly regression: { truth: number[]; predicted: number[]; r2: number; mae: number; rmse: number };
}

export const metricVectors = readJson("metrics.json") as MetricVectors;

/** A split for McNemar's test, from mcnemar.json, which mcnemar.py writes. */
export interface McNemarVector {
  readonly only_first: number;
  readonly only_second: number;
  readonly p_value: number;
}

export const mcNemarVectors = readJson("mcnemar.json") as McNemarVector[];

/** P(X ≤ k) of n trials, from binomial.json, which binomial.py writes. */
export interface BinomialVector {
  readonly k: number;
  readonly n: number;
  readonly p: number;
  readonly tail: number;
}

export const binomialVectors = readJson("binomial.json") as BinomialVector[];

/** The training set of a vector. A row of weight 2 occurs twice. */
export function toTrainingData(vector: FitVector): TrainingData {
  const rows = [...Array(vector.rows).keys(), ...vector.repeat];
  const features = Float32Array.from(
    rows.flatMap((row) => vector.x.slice(row * vector.dimensions, (row + 1) * vector.dimensions)),
  );
  const y = rows.map((row) => vector.y[row]);
  const labels = vector.kind === "value" ? [] : Array.from({ length: vector.outputs }, (_, k) => `label ${k}`);
  const targets: TrainingData["targets"] =
    vector.kind === "single"
      ? { kind: "single", indices: Int32Array.from(y as number[]) }
      : vector.kind === "multi"
        ? { kind: "multi", indices: y as number[][] }
        : { kind: "value", values: Float64Array.from(y as number[]) };
  return { dimensions: vector.dimensions, features, targets, labels };
}

function readJson(name: string): unknown {
  return JSON.parse(readFileSync(`${import.meta.dirname}/${name}`, "utf8"));
}
