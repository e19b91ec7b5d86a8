import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { sigmoid, softmax } from "../../src/core/evaluation/probability.ts";
import { type Design, designWidth, freeDesign, makeDesign } from "../../src/core/linear/design.ts";
import { fitHead, initialParameters } from "../../src/core/linear/fit.ts";
import { computeGramStatistics } from "../../src/core/linear/gram.ts";
import { type FitProblem, visitLogits } from "../../src/core/linear/objective.ts";
import { freePreconditioner, makePreconditioner } from "../../src/core/linear/preconditioner.ts";
import {
  expandFromRowSpace,
  freeRowSpaceBasis,
  reduceToRowSpace,
  rowSpaceCost,
  usesRowSpace,
} from "../../src/core/linear/row-space.ts";
import { cutRows, pickRows } from "../../src/core/linear/sparse.ts";
import type { Targets } from "../../src/core/linear/targets.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { TensorBackend } from "../../src/core/tensors.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { maxDifference, runToEnd, sparseRows } from "../contract/training-data.ts";

interface DesignKind {
  readonly columns: number;
  /** Whether every row occurs twice. */
  readonly isDuplicated: boolean;
}

function makeTestDesign(
  tensors: TensorBackend,
  rows: number,
  dimensions: number,
  { columns, isDuplicated }: DesignKind,
  seed: number,
) {
  const random = seededRandom(seed);
  const distinctRows = isDuplicated ? Math.ceil(rows / 2) : rows;
  const order = Array.from({ length: rows }, (_, i) => i % distinctRows);
  const values = Float32Array.from({ length: distinctRows * dimensions }, () => 2 * random() - 1);
  const features = tensors.matrix(
    rows,
    dimensions,
    Float32Array.from(order.flatMap((row) => [...values.subarray(row * dimensions, (row + 1) * dimensions)])),
  );
  const weights = Float64Array.from({ length: rows }, (_, i) => (i > 3 && random() < 0.2 ? 0 : 1 + (i % 2)));
  const takeBlocks = (heights: readonly number[]) =>
    cutRows(pickRows(sparseRows(distinctRows, columns, 9, seed), order), heights);
  const lexical = columns === 0 ? null : { columns, takeBlocks };
  const result = runToEnd(
    makeDesign(tensors, [features], { dimensions, weights, outputs: 3, lexical, precision: "float32" }),
  );
  if (!result.ok) throw new Error(result.failure.message);
  return { design: result.value, weights };
}

function fitParameters(tensors: TensorBackend, problem: FitProblem): Float64Array {
  const gramStatistics = runToEnd(computeGramStatistics(tensors, problem.design, problem.weights, 1));
  const preconditioner = runToEnd(makePreconditioner(tensors, problem, gramStatistics));
  const bounds = { tolerance: 1e-9, maxEvaluations: 500 };
  const { parameters } = runToEnd(fitHead(tensors, problem, preconditioner, initialParameters(problem), bounds));
  freePreconditioner(tensors, preconditioner);
  return parameters;
}

/** Every row's probabilities or value. The intercepts themselves may differ by a constant. */
function predictLogits(
  tensors: TensorBackend,
  design: Design,
  { targets, outputs }: FitProblem,
  parameters: Float64Array,
): number[] {
  const all: number[] = [];
  const add = (_first: number, rows: number, logits: Float32Array) => {
    for (let i = 0; i < rows; i++) {
      const rowLogits = Float64Array.from(logits.subarray(i * outputs, (i + 1) * outputs));
      all.push(
        ...(targets.kind === "single"
          ? softmax(rowLogits)
          : targets.kind === "multi"
            ? rowLogits.map(sigmoid)
            : rowLogits),
      );
    }
  };
  runToEnd(visitLogits(tensors, design, outputs, parameters, add));
  return all;
}

const kinds: [string, DesignKind][] = [
  ["dense columns alone", { columns: 0, isDuplicated: false }],
  ["dense columns alone, of rows that are there twice", { columns: 0, isDuplicated: true }],
  ["sparse columns beside them", { columns: 60, isDuplicated: false }],
  ["sparse columns beside them, of rows that are there twice", { columns: 60, isDuplicated: true }],
];

describe.each(kinds)("in the row space, with %s", (_what, kind) => {
  it("a fit finds the same model as in all columns", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 6, max: 30 }),
        fc.constantFrom("single", "multi", "value"),
        fc.nat(),
        (rows, task, seed) => {
          const tensors = plainTensorBackend();
          const { design, weights } = makeTestDesign(tensors, rows, kind.columns === 0 ? 40 : 5, kind, seed);
          const random = seededRandom(seed + 1);
          const outputs = task === "value" ? 1 : 3;
          const pick = () => Math.floor(random() * 3);
          const targets: Targets =
            task === "single"
              ? { kind: task, indices: Int32Array.from({ length: rows }, pick) }
              : task === "multi"
                ? { kind: task, indices: Array.from({ length: rows }, () => [pick()]) }
                : { kind: task, values: Float64Array.from({ length: rows }, () => 2 * random() - 1) };
          const problem: FitProblem = { design, targets, outputs, weights, l2: 0.3 + random() };
          const fullParameters = fitParameters(tensors, problem);

          const before = tensors.memory().matrices;
          const reducedParameters = runToEnd(reduceToRowSpace(tensors, design, weights));
          if (reducedParameters === null) throw new Error("It was not reduced.");
          const { basis: span } = reducedParameters;
          expect(reducedParameters.design.dimensions).toBeLessThanOrEqual(
            kind.isDuplicated ? Math.ceil(rows / 2) : rows,
          );
          expect(reducedParameters.design.sparse).toBeNull();
          const spanError = fitParameters(tensors, { ...problem, design: reducedParameters.design });
          const expanded = expandFromRowSpace(tensors, spanError, span, outputs);
          expect(expanded).toHaveLength((designWidth(design) + 1) * outputs);
          const predictions = predictLogits(tensors, design, problem, expanded);
          expect(maxDifference(predictions, predictLogits(tensors, design, problem, fullParameters))).toBeLessThan(
            1e-3,
          );
          expect(
            maxDifference(predictions, predictLogits(tensors, reducedParameters.design, problem, spanError)),
          ).toBeLessThan(1e-3);
          const outputWeights = (parameters: Float64Array) => [...parameters.subarray(0, -outputs)];
          expect(maxDifference(outputWeights(expanded), outputWeights(fullParameters))).toBeLessThan(5e-3);

          freeDesign(tensors, reducedParameters.design);
          freeRowSpaceBasis(tensors, span);
          expect(tensors.memory().matrices).toBe(before);
          freeDesign(tensors, design);
          expect(tensors.memory().matrices).toBe(0);
        },
      ),
      { numRuns: 40 },
    );
  });
});

it("is used if there are fewer rows than columns, and never if no row has weight", () => {
  expect(usesRowSpace({ rows: 20, dimensions: 5, columns: 0 })).toBe(false);
  expect(usesRowSpace({ rows: 20, dimensions: 5, columns: 16 })).toBe(true);
  expect(usesRowSpace({ rows: 641, dimensions: 5, columns: 16_384 })).toBe(false);
  const tensors = plainTensorBackend();
  const { design } = makeTestDesign(tensors, 10, 40, { columns: 30, isDuplicated: false }, 1);
  expect(runToEnd(reduceToRowSpace(tensors, design, new Float64Array(10)))).toBeNull();
});

it("costs no more than estimated, and yields for each row", () => {
  const tensors = plainTensorBackend();
  const { design, weights } = makeTestDesign(tensors, 200, 16, { columns: 4_000, isDuplicated: false }, 3);
  const entries = (design.sparse?.blocks ?? []).reduce((sum, block) => sum + block.entries, 0);
  const steps = reduceToRowSpace(tensors, design, weights);
  let operations = 0;
  let count = 0;
  for (let step = steps.next(); !step.done; step = steps.next()) {
    operations += step.value;
    count++;
  }
  expect(count).toBeGreaterThan(200);
  expect(operations).toBeLessThan(rowSpaceCost({ rows: 200, dimensions: 16, columns: 4_000, entries }).operations);
});
