import type { EvaluationResult } from "../evaluation/evaluation.ts";
import type { ValueRange } from "../evaluation/value-range.ts";
import { quantiseLexical } from "../head.ts";
import type { RowSketch } from "../sketch.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import type { LexicalVocabulary } from "../text/lexical.ts";
import type { Design } from "./design.ts";
import { fitHead, initialParameters } from "./fit.ts";
import type { LbfgsResult } from "./lbfgs.ts";
import type { FitProblem } from "./objective.ts";
import type { Preconditioner } from "./preconditioner.ts";
import { expandFromRowSpace, type RowSpaceBasis } from "./row-space.ts";
import type { TrainingResult, TrainingSet } from "./types.ts";
import { fitEvaluationLimits, workload } from "./workload.ts";

/**
 * The true gap is at most about twice the estimate, so this keeps it below 1e-4 (bench/train.ts). The exception is a
 * penalty so weak that the head is certain of nearly every row: the curvature that the estimate relies on is gone
 * there.
 */
const DEFAULT_TOLERANCE = 5e-5;
/** A fit with sparse columns stops earlier: thousands of columns take many steps that change hardly any prediction. */
const SPARSE_TOLERANCE_FACTOR = 4;

/** How much larger the tolerance of a fit on this design is. */
export function sparseToleranceFactor(design: Design): number {
  return design.sparse === null ? 1 : SPARSE_TOLERANCE_FACTOR;
}

export interface RefitOptions {
  readonly preconditioner: Preconditioner;
  /** The basis of the problem's design, if that is reduced to the row space. */
  readonly basis: RowSpaceBasis | null;
  /** The mean of the evaluated folds' models, or null if nothing was evaluated. */
  readonly start: Float64Array | null;
  readonly tolerance: number | undefined;
  readonly onStep: (objective: number) => void;
}

/** Fits all rows. The parameters are those of the whole design, dense columns before sparse ones. */
export function* refit(
  tensors: TensorBackend,
  problem: FitProblem,
  { preconditioner, basis, start, tolerance, onStep }: RefitOptions,
): Steps<LbfgsResult> {
  const { design, outputs } = problem;
  const limits = fitEvaluationLimits(workload(design, outputs));
  const minimum = yield* fitHead(tensors, problem, preconditioner, start ?? initialParameters(problem), {
    tolerance: tolerance ?? sparseToleranceFactor(design) * DEFAULT_TOLERANCE,
    maxEvaluations: start === null ? limits.evaluation : limits.final,
    onStep,
  });
  if (basis === null) return minimum;
  return { ...minimum, parameters: expandFromRowSpace(tensors, minimum.parameters, basis, outputs) };
}

export interface HeadParts {
  readonly design: Design;
  readonly minimum: LbfgsResult;
  /** Null if the head has no lexical features. */
  readonly vocabulary: LexicalVocabulary | null;
  readonly evaluation: EvaluationResult;
  /** In the design's scale. */
  readonly l2: number;
  /** Rows that were trained on. */
  readonly examples: number;
  /** What was subtracted from the targets. */
  readonly offset: number;
  readonly valueRange: ValueRange | null;
  readonly sketch: RowSketch;
}

/** The head on the features as they were given: w = w_z / σ, b = b_z − w·μ. `operations` is left to the caller. */
export function buildResult(
  { dimensions, labels, task }: TrainingSet,
  { design, minimum, vocabulary, evaluation, l2, examples, offset, valueRange, sketch }: HeadParts,
): TrainingResult {
  const outputs = task === "regression" ? 1 : labels.length;
  const { parameters } = minimum;
  const weights = new Float32Array(outputs * dimensions);
  const bias = new Float32Array(outputs);
  for (let k = 0; k < outputs; k++) {
    let shift = 0;
    for (let j = 0; j < dimensions; j++) {
      const weight = (parameters[j * outputs + k] as number) / design.scale;
      weights[k * dimensions + j] = weight;
      shift += weight * (design.mean[j] as number);
    }
    bias[k] = (parameters[parameters.length - outputs + k] as number) - shift;
  }
  const lexicalParameters = parameters.subarray(dimensions * outputs, parameters.length - outputs);
  const { temperature, outOfScopeThreshold, scope, thresholds, conformal } = evaluation;
  return {
    head: {
      task,
      labels,
      dimensions,
      weights,
      bias,
      lexical: vocabulary === null ? null : quantiseLexical(vocabulary, lexicalParameters, outputs),
      // Every reader of a training's texts removes them.
      visibleText: true,
      offset,
      temperature,
      outOfScopeThreshold,
      scope,
      thresholds,
      valueRange,
      conformal,
      sections: [],
    },
    training: {
      examples,
      iterations: minimum.iterations,
      converged: minimum.converged,
      objective: minimum.value,
      l2: l2 * design.scale ** 2,
      temperature,
      lexical: vocabulary !== null,
      operations: 0,
    },
    evaluation: evaluation.evaluation,
    confused: evaluation.confused,
    // Without centroids, the head holds no row of theirs.
    sketch: scope?.centroids ? sketch : { ...sketch, centroidRows: new Uint32Array(0) },
  };
}
