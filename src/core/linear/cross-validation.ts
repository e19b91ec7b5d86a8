/** Fits that leave one fold out each, and the logits that they give the rows of that fold. */
import type { HeldOutLogits } from "../evaluation/calibration.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import type { Design } from "./design.ts";
import { fitHead, initialParameters, type StoppingCriteria } from "./fit.ts";
import { computeGramStatistics, type GramStatistics } from "./gram.ts";
import { atOtherL2, type FitProblem, type ObjectiveAtL2, visitLogits } from "./objective.ts";
import { freePreconditioner, makePreconditioner, type Preconditioner } from "./preconditioner.ts";
import type { Targets } from "./targets.ts";

/** A training set that is divided into folds. `weights` are zero for rows that are never trained on. */
export interface CrossValidationData {
  readonly design: Design;
  readonly gramStatistics: GramStatistics;
  readonly targets: Targets;
  readonly outputs: number;
  readonly weights: Float64Array;
  /** Rows with the same group have the same input. */
  readonly groups: Int32Array;
  /** In each repetition, the fold in which each row is held out, or −1. */
  readonly repetitions: readonly Int32Array[];
}

/** A fold's model, and the objective there if it is known. */
export interface FoldModel {
  readonly parameters: Float64Array;
  readonly objective: ObjectiveAtL2 | null;
}

export interface FoldFitOptions {
  /** Folds 0 … foldCount − 1 of each repetition are held out in turn. */
  readonly foldCount: number;
  readonly l2: number;
  /**
   * One for all folds, computed from all rows and perhaps for another l2; or "own": each fold computes its own from the
   * rows that it trains on.
   */
  readonly preconditioner: Preconditioner | "own";
  /** Each fold's own earlier model. Another fold's would have been trained on the held-out rows. */
  readonly warmStarts: readonly FoldModel[] | null;
  readonly criteria: StoppingCriteria;
}

export interface HeldOutFit {
  readonly heldOut: HeldOutLogits;
  /** Whether every fold's model came within the tolerance. */
  readonly converged: boolean;
  /** Each fold's model, one repetition after another. */
  readonly models: readonly FoldModel[];
}

/**
 * Fits one model for each of the first `foldCount` folds of each repetition and collects the logits of the rows that it
 * was not trained on.
 */
export function* fitFolds(
  tensors: TensorBackend,
  data: CrossValidationData,
  { foldCount, l2, preconditioner, warmStarts, criteria }: FoldFitOptions,
): Steps<HeldOutFit> {
  const { design, targets, outputs, repetitions, weights } = data;
  const parts = repetitions.flatMap((folds) => Array.from({ length: foldCount }, (_, fold) => ({ folds, fold })));
  const heldOutRows = parts.map(({ folds, fold }) => Array.from(folds.keys()).filter((row) => folds[row] === fold));
  const rows = Int32Array.from(heldOutRows.flat());
  const logits = new Float32Array(rows.length * outputs);
  const models: FoldModel[] = [];
  let converged = true;
  let entry = 0;
  for (const [part, { folds, fold }] of parts.entries()) {
    const trainWeights = weights.map((weight, row) => (folds[row] === fold ? 0 : weight));
    const problem: FitProblem = { design, targets, outputs, weights: trainWeights, l2 };
    const earlier = warmStarts?.[part];
    const start = earlier?.parameters ?? initialParameters(problem);
    const atStart = earlier?.objective ? atOtherL2(earlier.objective, start, outputs, l2) : undefined;
    const foldPreconditioner =
      preconditioner === "own"
        ? yield* makeFoldPreconditioner(tensors, problem, data.gramStatistics.seed)
        : preconditioner;
    const minimum = yield* fitHead(tensors, problem, foldPreconditioner, start, { ...criteria, atStart });
    if (preconditioner === "own") freePreconditioner(tensors, foldPreconditioner);
    converged &&= minimum.converged;
    const { parameters, value } = minimum;
    models.push({ parameters, objective: { l2, value, gradient: new Float32Array(minimum.gradient) } });
    yield* visitLogits(tensors, design, outputs, parameters, (first, height, values) => {
      for (let i = 0; i < height; i++) {
        if (folds[first + i] !== fold) continue;
        logits.set(values.subarray(i * outputs, (i + 1) * outputs), entry * outputs);
        entry++;
      }
    });
  }
  return { heldOut: { rows, logits, outputs }, models, converged };
}

function* makeFoldPreconditioner(tensors: TensorBackend, problem: FitProblem, seed: number): Steps<Preconditioner> {
  const gramStatistics = yield* computeGramStatistics(tensors, problem.design, problem.weights, seed);
  return yield* makePreconditioner(tensors, problem, gramStatistics);
}

/** With at least so many rows per dimension, folds may share the preconditioner of all rows. */
const MIN_ROWS_PER_DIMENSION = 8;

/**
 * Whether folds need preconditioners of their own. With few rows per dimension, only held-out rows have anything along
 * some directions. In the metric of all rows, a fold's model would seem to be at its optimum although it has learnt
 * nothing along them.
 */
export function needsFoldPreconditioners(rows: number, dimensions: number): boolean {
  return rows < MIN_ROWS_PER_DIMENSION * dimensions;
}
