import fc from "fast-check";
import { expect, it } from "vitest";
import { fitFolds } from "../../src/core/linear/cross-validation.ts";
import { freeDesign, makeDesign, readSparseDesign } from "../../src/core/linear/design.ts";
import { subsetDesign } from "../../src/core/linear/design-subset.ts";
import { computeGramStatistics, gramMatrix } from "../../src/core/linear/gram.ts";
import { makePreconditioner } from "../../src/core/linear/preconditioner.ts";
import { cutRows } from "../../src/core/linear/sparse.ts";
import { stratifiedFolds } from "../../src/core/linear/split.ts";
import { stratifiedOrder, subsample } from "../../src/core/linear/subsample.ts";
import type { Targets } from "../../src/core/linear/targets.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { makeClusters, runToEnd } from "../contract/training-data.ts";

const tensors = plainTensorBackend();
const ROWS = 600;
const CLASSES = 4;

function makeTestDesign(features: Float32Array, dimensions: number) {
  const rows = features.length / dimensions;
  const result = runToEnd(
    makeDesign(tensors, [tensors.matrix(rows, dimensions, features)], {
      dimensions,
      weights: new Float64Array(rows).fill(1),
      outputs: 2,
      lexical: null,
      precision: "float32",
    }),
  );
  if (!result.ok) throw new Error(result.failure.message);
  return result.value;
}

it.each(["single", "multi", "value"] as const)("keeps each sampled row with its own target: %s", (kind) => {
  // The feature identifies the row, and the row its target.
  const design = makeTestDesign(
    Float32Array.from({ length: ROWS }, (_, row) => row),
    1,
  );
  const strata = Int32Array.from({ length: ROWS }, (_, row) => row % CLASSES);
  const groups = Int32Array.from({ length: ROWS }, (_, row) => row);
  const targets: Targets =
    kind === "single"
      ? { kind, indices: strata }
      : kind === "multi"
        ? { kind, indices: Array.from(strata, (k) => [k]) }
        : { kind, values: Float64Array.from(strata) };
  const weights = new Float64Array(ROWS).fill(1);
  const repetitions = [stratifiedFolds(strata, groups, 5, 1)];
  const gramStatistics = runToEnd(computeGramStatistics(tensors, design, weights, 1));
  const data = { design, gramStatistics, targets, outputs: CLASSES, weights, groups, repetitions };
  const sample = runToEnd(subsample(tensors, data, { strata, groups, rows: 150, seed: 1 }));
  const values = sample.design.blocks.flatMap((block) => [...tensors.view(block)]);
  expect(values.length).toBeGreaterThan(100);
  expect(values.length).toBeLessThan(200);
  const rows = values.map((value) => Math.round(value * design.scale + (design.mean[0] as number)));
  expect(new Set(rows).size).toBe(rows.length);
  const truth = rows.map((row) => row % CLASSES);
  const sampleTargets = sample.targets;
  expect(
    sampleTargets.kind === "single"
      ? [...sampleTargets.indices]
      : sampleTargets.kind === "multi"
        ? sampleTargets.indices.flat()
        : [...sampleTargets.values],
  ).toEqual(truth);
  for (let k = 0; k < CLASSES; k++) {
    const classShare = truth.filter((label) => label === k).length / truth.length;
    expect(Math.abs(classShare - 1 / CLASSES)).toBeLessThan(0.05);
  }
});

it("keeps each sampled row with its own sparse row", () => {
  // The only entry of a sparse row identifies the row, like the feature. Every third row has none.
  const features = Float32Array.from({ length: ROWS }, (_, row) => row);
  const starts = Uint32Array.from({ length: ROWS + 1 }, (_, row) => row - Math.ceil(row / 3));
  const withOne = Array.from(features.keys()).filter((row) => row % 3 !== 0);
  const sparse = {
    rows: { starts, columns: Uint16Array.from(withOne, (row) => row % 7), values: Float32Array.from(withOne) },
    columns: 7,
  };
  const weights = new Float64Array(ROWS).fill(1);
  const result = runToEnd(
    makeDesign(tensors, [tensors.matrix(ROWS, 1, features)], {
      dimensions: 1,
      weights,
      outputs: 2,
      lexical: { columns: sparse.columns, takeBlocks: (heights) => cutRows(sparse.rows, heights) },
      precision: "float32",
    }),
  );
  if (!result.ok) throw new Error(result.failure.message);
  const design = result.value;
  const rows = [0, 1, 2, 5, 199, 200, 201, 202, 299, 300, 301, 451, 598, 599];
  const before = tensors.memory().matrices;
  const subset = runToEnd(subsetDesign(tensors, design, rows, 2));
  const values = subset.blocks.flatMap((block) => [...tensors.view(block)]);
  // Adding zero turns −0 into 0.
  const originalValues = values.map((value) => 0 + Math.round(value * design.scale + (design.mean[0] as number)));
  expect(originalValues).toEqual(rows);
  const picked = readSparseDesign(tensors, subset.sparse ?? { columns: 0, blocks: [] });
  const rowValues = rows.map((_, i) => [...picked.values.slice(picked.starts[i], picked.starts[i + 1])]);
  expect(rowValues).toEqual(rows.map((row) => (row % 3 === 0 ? [] : [row])));
  expect([...picked.columns]).toEqual(rows.filter((row) => row % 3 !== 0).map((row) => row % 7));
  expect(subset.sparse?.blocks.map((block) => block.rows)).toEqual(subset.blocks.map((block) => block.rows));
  freeDesign(tensors, subset);
  expect(tensors.memory().matrices).toBe(before);
});

it("computes the Gram matrix, of many rows from a sample", () => {
  for (const rows of [100, 30_000]) {
    const { features } = makeClusters(rows, 30, 2, 1);
    const design = makeTestDesign(features, 30);
    const weights = Float64Array.from({ length: rows }, (_, row) => row % 3);
    const exact = new Float64Array(900);
    let row = 0;
    for (const block of design.blocks) {
      const values = tensors.view(block);
      for (let i = 0; i < block.rows; i++, row++) {
        for (let index = 0; index < 900; index++)
          exact[index] =
            (exact[index] as number) +
            (weights[row] as number) *
              (values[i * 30 + Math.floor(index / 30)] as number) *
              (values[i * 30 + (index % 30)] as number);
      }
    }
    const gramStatistics = runToEnd(computeGramStatistics(tensors, design, weights, 1));
    const gram = runToEnd(gramMatrix(tensors, gramStatistics));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const mean = gramStatistics.mean ?? new Float64Array(30);
    const centred = exact.map(
      (value, index) => value - total * (mean[Math.floor(index / 30)] as number) * (mean[index % 30] as number),
    );
    const size = Math.max(...exact);
    const tolerance = rows === 100 ? 1e-4 : 0.25;
    gram.forEach((value, index) => {
      expect(Math.abs(value - (centred[index] as number)) / size).toBeLessThan(tolerance);
    });
    gramStatistics.diagonal.forEach((square, j) => {
      expect(Math.abs(square - (exact[31 * j] as number)) / size).toBeLessThan(tolerance);
    });
    // The largest eigenvalue lies between the largest of the diagonal and the trace.
    expect(gramStatistics.largestEigenvalue).toBeGreaterThan((1 - tolerance) * size);
    expect(gramStatistics.largestEigenvalue).toBeLessThan(
      (1 + tolerance) * gramStatistics.diagonal.reduce((sum, square) => sum + square, 0),
    );
  }
});

it("starts each fold's model from its own earlier one, never from one that was trained on its held-out rows", () => {
  const data = makeClusters(60, 5, 3, 1);
  const design = makeTestDesign(data.features, 5);
  const weights = new Float64Array(60).fill(1);
  const groups = Int32Array.from({ length: 60 }, (_, row) => row);
  const { indices } = data.targets as { indices: Int32Array };
  const crossValidationData = {
    design,
    gramStatistics: runToEnd(computeGramStatistics(tensors, design, weights, 1)),
    targets: data.targets,
    outputs: 3,
    weights,
    groups,
    repetitions: [stratifiedFolds(indices, groups, 4, 1)],
  };
  const preconditioner = runToEnd(
    makePreconditioner(tensors, { ...crossValidationData, l2: 1 }, crossValidationData.gramStatistics),
  );
  const warmStarts = [1, 2, 3, 4].map((value) => ({ parameters: new Float64Array(18).fill(value), objective: null }));
  const criteria = { tolerance: 0, maxEvaluations: 1 };
  const { models, heldOut } = runToEnd(
    fitFolds(tensors, crossValidationData, { foldCount: 4, l2: 1, preconditioner, warmStarts, criteria }),
  );
  expect(models.map(({ parameters }) => parameters)).toEqual(warmStarts.map(({ parameters }) => parameters));
  expect([...heldOut.rows].sort((a, b) => a - b)).toEqual([...groups]);
});

it("orders rows so that every prefix has each class in proportion, and at least one of each", () => {
  const classes = fc.array(fc.integer({ min: -1, max: 5 }), { minLength: 1, maxLength: 300 });
  fc.assert(
    fc.property(classes, fc.nat(), (strata, seed) => {
      const order = stratifiedOrder(Int32Array.from(strata), seed);
      expect([...order].sort((a, b) => a - b)).toEqual([...strata.keys()]);
      expect(stratifiedOrder(Int32Array.from(strata), seed)).toEqual(order);
      const all = new Set(strata);
      expect(new Set(order.slice(0, all.size).map((row) => strata[row])).size).toBe(all.size);
      for (let size = all.size; size <= order.length; size += 7) {
        for (const stratumId of all) {
          const stratumShare = strata.filter((stratum) => stratum === stratumId).length / strata.length;
          const count = order.slice(0, size).filter((row) => strata[row] === stratumId).length;
          expect(Math.abs(count - stratumShare * size)).toBeLessThanOrEqual(all.size);
        }
      }
    }),
  );
});
