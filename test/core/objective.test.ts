import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { designWidth, makeDesign } from "../../src/core/linear/design.ts";
import { fitHead, initialParameters } from "../../src/core/linear/fit.ts";
import { computeGramStatistics } from "../../src/core/linear/gram.ts";
import { evaluateObjective, type FitProblem } from "../../src/core/linear/objective.ts";
import { makePreconditioner } from "../../src/core/linear/preconditioner.ts";
import { cutRows } from "../../src/core/linear/sparse.ts";
import type { Targets } from "../../src/core/linear/targets.ts";
import { seededRandom } from "../../src/core/random.ts";
import type { TensorBackend } from "../../src/core/tensors.ts";
import { plainTensorBackend } from "../../src/tensor/plain.ts";
import { runToEnd, sparseRows } from "../contract/training-data.ts";

const kinds = ["single", "multi", "value"] as const;

/** A problem of any shape; two in three have sparse columns beside the dense ones. */
function makeProblem(tensors: TensorBackend, kind: Targets["kind"], seed: number): FitProblem {
  const random = seededRandom(seed);
  const rows = 5 + Math.floor(random() * 20);
  const dimensions = 1 + Math.floor(random() * 6);
  const outputs = kind === "value" ? 1 : 2 + Math.floor(random() * 4);
  const weights = Float64Array.from({ length: rows }, () => Math.floor(random() * 4) / 2);
  weights[0] = 1;
  const pick = () => Math.floor(random() * outputs);
  const targets: Targets =
    kind === "single"
      ? { kind, indices: Int32Array.from({ length: rows }, pick) }
      : kind === "multi"
        ? {
            kind,
            indices: Array.from({ length: rows }, () =>
              [...new Set([pick(), pick()])].slice(0, Math.floor(random() * 3)),
            ),
          }
        : { kind, values: Float64Array.from({ length: rows }, () => 4 * random() - 1) };
  const values = Float32Array.from({ length: rows * dimensions }, () => 2 * random() - 1);
  const features = [tensors.matrix(rows, dimensions, values)];
  const columns = 1 + Math.floor(random() * 9);
  const sparse = sparseRows(rows, columns, 3, seed);
  const takeBlocks = (heights: readonly number[]) => cutRows(sparse, heights);
  const lexical = seed % 3 === 0 ? null : { columns, takeBlocks };
  const design = runToEnd(
    makeDesign(tensors, features, { dimensions, weights, outputs, lexical, precision: "float32" }),
  );
  if (!design.ok) throw new Error(design.failure.message);
  return { design: design.value, targets, outputs, weights, l2: random() };
}

describe.each(kinds)("the objective for %s targets", (kind) => {
  it("has the gradient of central differences", () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const tensors = plainTensorBackend();
        const problem = makeProblem(tensors, kind, seed);
        const random = seededRandom(seed + 1);
        const point = Float64Array.from({ length: (designWidth(problem.design) + 1) * problem.outputs }, () =>
          Math.fround(2 * random() - 1),
        );
        const value = (parameters: Float64Array) => runToEnd(evaluateObjective(tensors, problem, parameters)).value;
        const { gradient } = runToEnd(evaluateObjective(tensors, problem, point));
        const step = 2 ** -8;
        point.forEach((_, i) => {
          const [above, below] = [step, -step].map((change) =>
            value(point.map((parameter, j) => (i === j ? parameter + change : parameter))),
          );
          const slope = ((above as number) - (below as number)) / (2 * step);
          expect(Math.abs(slope - (gradient[i] as number))).toBeLessThan(
            2e-3 * (1 + problem.weights.length * Math.abs(slope)) * 0.2,
          );
        });
      }),
      { numRuns: 30 },
    );
  });

  it("equals at W = 0, where it sums over rows, what the products give", () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const tensors = plainTensorBackend();
        const problem = makeProblem(tensors, kind, seed);
        const random = seededRandom(seed + 1);
        const flat = initialParameters(problem).map((parameter) => (parameter === 0 ? 0 : parameter + random()));
        const almostFlat = flat.slice();
        almostFlat[0] = 1e-30;
        const summed = runToEnd(evaluateObjective(tensors, problem, flat));
        const multiplied = runToEnd(evaluateObjective(tensors, problem, almostFlat));
        expect(summed.value).toBeCloseTo(multiplied.value, 4);
        summed.gradient.forEach((slope, i) => {
          expect(slope).toBeCloseTo(multiplied.gradient[i] as number, 4);
        });
      }),
    );
  });

  it("never rises on an accepted step, and ends where the gradient is zero", () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const tensors = plainTensorBackend();
        const problem = makeProblem(tensors, kind, seed);
        const gramStatistics = runToEnd(computeGramStatistics(tensors, problem.design, problem.weights, 1));
        const preconditioner = runToEnd(makePreconditioner(tensors, problem, gramStatistics));
        const start = initialParameters(problem);
        const values = [runToEnd(evaluateObjective(tensors, problem, start)).value];
        const minimum = runToEnd(
          fitHead(tensors, problem, preconditioner, start, {
            tolerance: 1e-6,
            maxEvaluations: 500,
            onStep: (value) => values.push(value),
          }),
        );
        for (const [i, value] of values.entries())
          expect(value).toBeLessThanOrEqual(values[Math.max(0, i - 1)] as number);
        expect(minimum.value).toBe(values.at(-1));
        expect(minimum.converged).toBe(true);
      }),
      { numRuns: 30 },
    );
  });
});

it("ignores rows of weight zero, whatever they hold", () => {
  const tensors = plainTensorBackend();
  const problem = makeProblem(tensors, "single", 5);
  const point = initialParameters(problem);
  const otherLabels = Int32Array.from((problem.targets as { indices: Int32Array }).indices, (label, row) =>
    problem.weights[row] === 0 ? -1 : label,
  );
  const other: FitProblem = { ...problem, targets: { kind: "single", indices: otherLabels } };
  expect(problem.weights).toContain(0);
  expect(runToEnd(evaluateObjective(tensors, other, point))).toEqual(
    runToEnd(evaluateObjective(tensors, problem, point)),
  );
});

it("stays finite for logits that exp cannot hold", () => {
  const tensors = plainTensorBackend();
  for (const kind of kinds) {
    const problem = makeProblem(tensors, kind, 3);
    const point = initialParameters(problem).map((_, i) => (i % 2 === 0 ? 1e4 : -1e4));
    const { value, gradient } = runToEnd(evaluateObjective(tensors, problem, point));
    expect(Number.isFinite(value)).toBe(true);
    expect(gradient.every(Number.isFinite)).toBe(true);
  }
});
