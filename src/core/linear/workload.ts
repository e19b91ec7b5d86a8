/** How large the problem is that a fit works on, and how many evaluations of its objective are affordable. */
import type { Design } from "./design.ts";
import { MAX_GRAM_DIMENSIONS } from "./gram.ts";
import { stepOperations } from "./lbfgs-memory.ts";
import { OPERATIONS_PER_LOGIT, OPERATIONS_PER_SPARSE_ENTRY } from "./objective.ts";
import { DEFAULT_FOLDS } from "./split.ts";

/** The size of what one evaluation of the objective reads. */
export interface Workload {
  readonly examples: number;
  /** Dense columns: the embeddings', or those of the row space. */
  readonly dimensions: number;
  readonly outputs: number;
  /** Sparse columns, and the entries in them. */
  readonly columns: number;
  readonly entries: number;
}

export function workload({ rows, dimensions, sparse }: Design, outputs: number): Workload {
  const entries = (sparse?.blocks ?? []).reduce((sum, block) => sum + block.entries, 0);
  return { examples: rows, dimensions, outputs, columns: sparse?.columns ?? 0, entries };
}

/** The workload of `rows` of its rows. */
export function scaleToRows(work: Workload, rows: number): Workload {
  return { ...work, examples: rows, entries: work.entries * (rows / work.examples) };
}

/** Operations of one evaluation of the objective, and of the step of L-BFGS around it. */
export function objectiveOperations({ examples, dimensions, outputs, columns, entries }: Workload): number {
  const preconditionOperations = dimensions > MAX_GRAM_DIMENSIONS ? dimensions : 2 * dimensions ** 2;
  const parameters = (dimensions + columns + 1) * outputs;
  return (
    examples * outputs * (4 * (dimensions + 1) + OPERATIONS_PER_LOGIT) +
    outputs * (preconditionOperations + columns + OPERATIONS_PER_SPARSE_ENTRY * entries) +
    stepOperations(parameters)
  );
}

/** Evaluations of the objective that an average fit takes. */
export const EVALUATIONS_PER_FIT = 10;
/**
 * Operations that the selection of l2 and features should take, if each fold takes `SELECTION_EVALUATIONS`. `fewRows` is
 * for up to `FEW_ROWS`. With more rows the mean loss of held-out rows varies less and each fold costs more, so the
 * operations fall with the square of the rows, down to `manyRows`.
 */
const SELECTION_OPERATIONS = { fewRows: 3e10, manyRows: 8e9 };
export const FEW_ROWS = 1_000;
const SELECTION_EVALUATIONS = 40;
/** What all fits with one l2 may take, beyond 20 evaluations each. */
const SELECTION_TRIAL_OPERATIONS = 2.5e10;
/** More repetitions change the selection no more than the rows themselves do (bench/few-shot.ts). */
const MAX_REPETITIONS = 4;
/** The models of all folds have at most so many parameters, and those of all repetitions: they are in memory at once. */
const MAX_FOLD_PARAMETERS = 7e5;
const MAX_REPEATED_PARAMETERS = 2e5;

/** How many rows select l2 and features, on how many folds of them, and how often these are drawn. */
export interface SelectionPlan {
  readonly rows: number;
  readonly folds: number;
  /** If the smallest class allows only two folds, there are so many more that the fits are as many. */
  readonly repetitions: number;
}

/** How often each row is held out at most: with two folds a repetition. */
export function maxHoldOuts({ folds, repetitions }: SelectionPlan): number {
  return repetitions === 1 ? 1 : Math.floor((folds * repetitions) / 2);
}

/** All rows and all folds while that is cheap, and several repetitions if there are few rows. */
export function selectionPlan(work: Workload): SelectionPlan {
  const rows = work.examples;
  const evaluation = objectiveOperations(work);
  const operations = Math.max(
    SELECTION_OPERATIONS.fewRows * Math.min(1, (FEW_ROWS / rows) ** 2),
    SELECTION_OPERATIONS.manyRows,
    EVALUATIONS_PER_FIT * evaluation,
  );
  const affordable = (operations / (SELECTION_EVALUATIONS * evaluation)) * rows;
  // A subsample of half the rows or more would cost a copy of them and gain little.
  if (affordable >= rows / 2) {
    const parameters = (work.dimensions + work.columns + 1) * work.outputs;
    const affordableFolds = Math.min(DEFAULT_FOLDS, affordable / rows, MAX_FOLD_PARAMETERS / parameters);
    const folds = Math.max(1, Math.floor(affordableFolds));
    const repetitions = Math.min(
      MAX_REPETITIONS,
      affordable / rows / folds,
      MAX_REPEATED_PARAMETERS / parameters / folds,
    );
    return { rows, folds, repetitions: Math.max(1, Math.floor(repetitions)) };
  }
  return { rows: Math.min(rows, Math.max(Math.ceil(affordable), 4 * work.outputs, 500)), folds: 1, repetitions: 1 };
}

/**
 * Evaluations of the objective that a fit may take at most. There are hundreds if they are cheap. If they are
 * expensive, there are enough to come close, and the head reports that it has not converged.
 *
 * - `selection`: a fit that selects l2. All fits of a trial share the operations of `SELECTION_TRIAL_OPERATIONS`
 * - `evaluation`: a fold's fit that is evaluated, or the head's own fit without an evaluation
 * - `final`: the head's own fit, which starts from the folds' mean
 */
export function fitEvaluationLimits(
  work: Workload,
  selectionFits = 1,
): { selection: number; evaluation: number; final: number } {
  const evaluation = objectiveOperations(work);
  const limitFor = (operations: number, minimum: number) =>
    Math.max(minimum, Math.min(500, Math.floor(operations / evaluation)));
  return {
    selection: limitFor(Math.min(5e9, SELECTION_TRIAL_OPERATIONS / selectionFits), 20),
    evaluation: limitFor(2e10, 30),
    final: limitFor(1.2e11, 30),
  };
}
