import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Design, designWidth, freeDesign, makeDesign } from "../../src/core/linear/design.ts";
import { fitHead, freePreconditioner, makePreconditioner, startingPoint } from "../../src/core/linear/fit.ts";
import { eachLogits, type Problem, type Targets } from "../../src/core/linear/objective.ts";
import { measureSpread } from "../../src/core/linear/preconditioner.ts";
import { sigmoid, softmax } from "../../src/core/evaluation/probability.ts";
import { seededRandom } from "../../src/core/random.ts";
import { expand, freeSpan, reduceToRows, reductionCost, worksInRows } from "../../src/core/linear/row-space.ts";
import { pickRows } from "../../src/core/linear/sparse.ts";
import type { Tensors } from "../../src/core/tensors.ts";
import { plainTensors } from "../../src/tensor/plain.ts";
import { distance, finish, sparseRows } from "../contract/training.ts";

interface Kind {
  readonly columns: number;
  /** Whether every row is there twice. */
  readonly twice: boolean;
}

function designOf(tensors: Tensors, rows: number, dimensions: number, { columns, twice }: Kind, seed: number) {
  const random = seededRandom(seed);
  const once = twice ? Math.ceil(rows / 2) : rows;
  const order = Array.from({ length: rows }, (_, i) => i % once);
  const values = Float32Array.from({ length: once * dimensions }, () => 2 * random() - 1);
  const features = tensors.matrix(
    rows,
    dimensions,
    Float32Array.from(order.flatMap((row) => [...values.subarray(row * dimensions, (row + 1) * dimensions)])),
  );
  const weights = Float64Array.from({ length: rows }, (_, i) => (i > 3 && random() < 0.2 ? 0 : 1 + (i % 2)));
  const sparse = columns === 0 ? null : { rows: pickRows(sparseRows(once, columns, 9, seed), order), columns };
  const made = finish(makeDesign(tensors, [features], dimensions, weights, 3, seed % 2 === 0, sparse));
  if (!made.ok) throw new Error(made.failure.message);
  return { design: made.value, weights };
}

function fitted(tensors: Tensors, problem: Problem): Float64Array {
  const spread = finish(measureSpread(tensors, problem.design, problem.weights, 1));
  const preconditioner = finish(makePreconditioner(tensors, problem, spread));
  const bounds = { tolerance: 1e-9, maxEvaluations: 500 };
  const { parameters } = finish(fitHead(tensors, problem, preconditioner, startingPoint(problem), bounds));
  freePreconditioner(tensors, preconditioner);
  return parameters;
}

/** Every row's probabilities or value: intercepts alone may differ, by what they have in common. */
function predicted(
  tensors: Tensors,
  design: Design,
  { targets, outputs }: Problem,
  parameters: Float64Array,
): number[] {
  const all: number[] = [];
  const add = (_first: number, rows: number, logits: Float32Array) => {
    for (let i = 0; i < rows; i++) {
      const own = Float64Array.from(logits.subarray(i * outputs, (i + 1) * outputs));
      all.push(...(targets.kind === "single" ? softmax(own) : targets.kind === "multi" ? own.map(sigmoid) : own));
    }
  };
  finish(eachLogits(tensors, design, outputs, parameters, add));
  return all;
}

const kinds: [string, Kind][] = [
  ["dense columns alone", { columns: 0, twice: false }],
  ["dense columns alone, of rows that are there twice", { columns: 0, twice: true }],
  ["sparse columns beside them", { columns: 60, twice: false }],
  ["sparse columns beside them, of rows that are there twice", { columns: 60, twice: true }],
];

describe.each(kinds)("in the span of few rows, with %s", (_what, kind) => {
  it("a fit finds the model that it finds in all columns", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 6, max: 30 }),
        fc.constantFrom("single", "multi", "value"),
        fc.nat(),
        (rows, task, seed) => {
          const tensors = plainTensors();
          const { design, weights } = designOf(tensors, rows, kind.columns === 0 ? 40 : 5, kind, seed);
          const random = seededRandom(seed + 1);
          const outputs = task === "value" ? 1 : 3;
          const pick = () => Math.floor(random() * 3);
          const targets: Targets =
            task === "single"
              ? { kind: task, indices: Int32Array.from({ length: rows }, pick) }
              : task === "multi"
                ? { kind: task, indices: Array.from({ length: rows }, () => [pick()]) }
                : { kind: task, values: Float64Array.from({ length: rows }, () => 2 * random() - 1) };
          const problem: Problem = { design, targets, outputs, weights, l2: 0.3 + random() };
          const whole = fitted(tensors, problem);

          const before = tensors.memory().matrices;
          const reduced = finish(reduceToRows(tensors, design, weights));
          if (reduced === null) throw new Error("It was not reduced.");
          const { span } = reduced;
          expect(reduced.design.dimensions).toBeLessThanOrEqual(kind.twice ? Math.ceil(rows / 2) : rows);
          expect(reduced.design.sparse).toBeNull();
          const inSpan = fitted(tensors, { ...problem, design: reduced.design });
          const expanded = expand(tensors, inSpan, span, outputs);
          expect(expanded).toHaveLength((designWidth(design) + 1) * outputs);
          const predictions = predicted(tensors, design, problem, expanded);
          expect(distance(predictions, predicted(tensors, design, problem, whole))).toBeLessThan(1e-3);
          expect(distance(predictions, predicted(tensors, reduced.design, problem, inSpan))).toBeLessThan(1e-3);
          const weightsOf = (parameters: Float64Array) => [...parameters.subarray(0, -outputs)];
          expect(distance(weightsOf(expanded), weightsOf(whole))).toBeLessThan(5e-3);

          freeDesign(tensors, reduced.design);
          freeSpan(tensors, span);
          expect(tensors.memory().matrices).toBe(before);
          freeDesign(tensors, design);
          expect(tensors.memory().matrices).toBe(0);
        },
      ),
      { numRuns: 40 },
    );
  });
});

it("is worked in where rows are few for their columns, and nowhere that none of them has a weight", () => {
  expect(worksInRows({ rows: 20, dimensions: 5, columns: 0 })).toBe(false);
  expect(worksInRows({ rows: 20, dimensions: 5, columns: 16 })).toBe(true);
  expect(worksInRows({ rows: 641, dimensions: 5, columns: 16_384 })).toBe(false);
  const tensors = plainTensors();
  const { design } = designOf(tensors, 10, 40, { columns: 30, twice: false }, 1);
  expect(finish(reduceToRows(tensors, design, new Float64Array(10)))).toBeNull();
});

it("costs no more than is said, and lets others in once a row", () => {
  const tensors = plainTensors();
  const { design, weights } = designOf(tensors, 200, 16, { columns: 4_000, twice: false }, 3);
  const entries = (design.sparse?.blocks ?? []).reduce((sum, block) => sum + block.entries, 0);
  const steps = reduceToRows(tensors, design, weights);
  let operations = 0;
  let count = 0;
  for (let step = steps.next(); !step.done; step = steps.next()) {
    operations += step.value;
    count++;
  }
  expect(count).toBeGreaterThan(200);
  expect(operations).toBeLessThan(reductionCost({ rows: 200, dimensions: 16, columns: 4_000, entries }).operations);
});
