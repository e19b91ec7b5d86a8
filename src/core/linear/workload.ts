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
/** Operations that the selection of l2 should take, if each fold takes `SELECTION_EVALUATIONS`. */
const SELECTION_OPERATIONS = 8e9;
const SELECTION_EVALUATIONS = 40;

/** How many rows select l2, and on how many folds of them: all rows and all folds while that is cheap. */
export function selectionPlan(work: Workload): { rows: number; folds: number } {
  const rows = work.examples;
  const evaluation = objectiveOperations(work);
  const operations = Math.max(SELECTION_OPERATIONS, EVALUATIONS_PER_FIT * evaluation);
  const affordable = (operations / (SELECTION_EVALUATIONS * evaluation)) * rows;
  // A subsample of half the rows or more would cost a copy of them and gain little.
  if (affordable >= rows / 2)
    return { rows, folds: Math.max(1, Math.min(DEFAULT_FOLDS, Math.floor(affordable / rows))) };
  return { rows: Math.min(rows, Math.max(Math.ceil(affordable), 4 * work.outputs, 500)), folds: 1 };
}

/**
 * Evaluations of the objective that a fit may take at most. There are hundreds if they are cheap. If they are
 * expensive, there are enough to come close, and the head reports that it has not converged.
 *
 * - `selection`: a fit that selects l2
 * - `evaluation`: a fold's fit that is evaluated, or the head's own fit without an evaluation
 * - `final`: the head's own fit, which starts from the folds' mean
 */
export function fitEvaluationLimits(work: Workload): { selection: number; evaluation: number; final: number } {
  const evaluation = objectiveOperations(work);
  const limitFor = (operations: number, minimum: number) =>
    Math.max(minimum, Math.min(500, Math.floor(operations / evaluation)));
  return { selection: limitFor(5e9, 20), evaluation: limitFor(2e10, 60), final: limitFor(1.2e11, 30) };
}
