/**
 * The candidates that a job compares, each a recipe of what is trained on which rows. `head` is the frozen head as the edge
 * would train it: on as many rows as its budget allows. `fine_tuned` has all rows, and the budget of this endpoint.
 */

import type { Candidate } from "../../core/evaluation/comparison.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { costIfOverBudget } from "../../core/linear/cost.ts";
import { createLexicalBudgetReader } from "../../core/linear/lexical-budget.ts";
import { stratifiedOrder } from "../../core/linear/subsample.ts";
import { encodeTargets, strataOf } from "../../core/linear/targets.ts";
import { train } from "../../core/linear/train.ts";
import type { Cost, TrainingOptions, TrainingResult, TrainingShape } from "../../core/linear/types.ts";
import { runSteps } from "../../core/steps.ts";
import type { Matrix, TensorBackend } from "../../core/tensors.ts";
import type { LexicalFeatures } from "../../core/text/lexical.ts";
import type { Submission } from "../../jobs/protocol.ts";
import type { Examples } from "./examples.ts";

/** What all trainings of an attempt read. */
export interface TrainingContext {
  readonly submission: Submission;
  readonly examples: Examples;
  /** The embedding of a row's input. */
  readonly embed: (row: number) => Float32Array | Promise<Float32Array>;
  /** Whether embedding the texts counts towards the edge's budget. */
  readonly embedsLocally: boolean;
  /** What a training at this endpoint may cost. */
  readonly budget: Cost;
  /** Lets the event loop turn; throws where the attempt is to end. */
  readonly yieldToEventLoop: () => Promise<void>;
}

export interface TrainingSpec {
  /** Ascending. */
  readonly rows: readonly number[];
  readonly lexical: LexicalFeatures | null;
  readonly budget: Cost;
}

const OPERATIONS_PER_YIELD = 400_000_000;
const CHARACTERS_PER_YIELD = 50_000;
const BLOCK_ROWS = 1024;
/** What a sample shrinks to while its lexical features, which must be there, are too much. */
const SHRINK_FACTOR = 0.9;

function trainingOptions({ hyperparameters, evaluation }: Submission): Omit<TrainingOptions, "budget"> {
  const { l2, class_weight, lexical, seed } = hyperparameters;
  const { method, folds, fraction } = evaluation;
  return {
    l2,
    classWeight: class_weight,
    seed,
    lexical,
    evaluation: { method, ...(folds === undefined ? {} : { folds }), ...(fraction === undefined ? {} : { fraction }) },
  };
}

/**
 * What a candidate is trained on, of the rows `among` (ascending). Fails with `edge_budget_exceeded` where that is beyond
 * the endpoint's budget, or no sample is within the edge's.
 */
export async function prepareTraining(
  candidate: Candidate,
  context: TrainingContext,
  allRows: readonly number[],
): Promise<Result<TrainingSpec>> {
  const { submission } = context;
  if (candidate === "fine_tuned") {
    const { budget } = context;
    const failure = endpointBudgetFailure(context, allRows);
    if (failure !== null) return { ok: false, failure };
    const lexical = await readLexical(context, allRows, budget);
    if ("features" in lexical) return ok({ rows: allRows, lexical: lexical.features, budget });
    return { ok: false, failure: budgetFailure(lexical.cost, budget) };
  }
  const budget = submission.edge_budget;
  const { labels, targets } = targetsOf(context, allRows);
  const order = stratifiedOrder(strataOf(targets, labels.length), submission.hyperparameters.seed);
  const sample = (size: number) =>
    order
      .slice(0, size)
      .sort((a, b) => a - b)
      .map((at) => allRows[at] as number);
  const cumulativeBytes = [0];
  for (const at of order)
    cumulativeBytes.push((cumulativeBytes.at(-1) as number) + textBytesOf(context, [allRows[at] as number]));
  const fullShape = shapeOf(context, allRows);
  const fits = (size: number) => {
    const shape = {
      ...fullShape,
      examples: size,
      textBytes: context.embedsLocally ? (cumulativeBytes[size] as number) : 0,
    };
    return costIfOverBudget(shape, trainingOptions(submission), budget) === null;
  };
  for (let size = largestFitting(allRows.length, fits); size >= 2; size = Math.floor(size * SHRINK_FACTOR)) {
    const rows = size === allRows.length ? allRows : sample(size);
    const lexical = await readLexical(context, rows, budget);
    if ("features" in lexical) return ok({ rows, lexical: lexical.features, budget });
  }
  return fail("edge_budget_exceeded", "No part of the examples is within the budget of a head trained at the edge.");
}

/** Why a training on these rows is beyond what this endpoint allows, lexical features left out, or null. */
export function endpointBudgetFailure(context: TrainingContext, rows: readonly number[]): Failure | null {
  const estimate = costIfOverBudget(shapeOf(context, rows), trainingOptions(context.submission), context.budget);
  return estimate && budgetFailure(estimate, context.budget);
}

function budgetFailure(estimate: Cost, budget: Cost): Failure {
  const describeCost = ({ bytes, operations }: Cost) => `${bytes} bytes and ${operations} operations`;
  const message = `This training takes ${describeCost(estimate)}, where the batch endpoint allows ${describeCost(budget)}.`;
  return { code: "edge_budget_exceeded", message, details: { estimate, budget } };
}

/** The largest size up to `most` that fits, where all below it do; 0: none. */
function largestFitting(limit: number, fits: (size: number) => boolean): number {
  if (fits(limit)) return limit;
  let [low, high] = [0, limit];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (fits(middle)) low = middle;
    else high = middle;
  }
  return low;
}

/** Rows' targets, in terms of the labels that they have or of those given. */
export function targetsOf(
  { submission, examples }: TrainingContext,
  rows: readonly number[],
  labels?: readonly string[],
) {
  const rowTargets = rows.map((row) => examples.targets[row] as Examples["targets"][number]);
  return encodeTargets(submission.task, rowTargets, submission.out_of_scope_label, labels);
}

function shapeOf(context: TrainingContext, rows: readonly number[]): TrainingShape & { textBytes: number } {
  const { task, dimensions } = context.submission;
  const outputs = Math.max(1, targetsOf(context, rows).labels.length);
  const textBytes = context.embedsLocally ? textBytesOf(context, rows) : 0;
  return { task, examples: rows.length, dimensions, outputs, textBytes };
}

function textBytesOf({ examples }: TrainingContext, rows: readonly number[]): number {
  return rows.reduce((sum, row) => sum + Buffer.byteLength(examples.texts[row] ?? ""), 0);
}

async function readLexical(
  context: TrainingContext,
  rows: readonly number[],
  budget: Cost,
): Promise<{ readonly features: LexicalFeatures | null } | { readonly cost: Cost }> {
  const { submission, examples, yieldToEventLoop } = context;
  if (submission.modality === "embedding") return { features: null };
  const shape = shapeOf(context, rows);
  const reader = createLexicalBudgetReader(shape, trainingOptions(submission), budget, textBytesOf(context, rows));
  if (reader === null) return { features: null };
  let charactersLeft = 0;
  for (const row of reader.hasRoom ? rows : []) {
    const text = examples.texts[row] as string;
    if (charactersLeft <= 0) {
      await yieldToEventLoop();
      charactersLeft = CHARACTERS_PER_YIELD;
    }
    charactersLeft -= text.length;
    if (!reader.add(text)) break;
  }
  return reader.fit();
}

/** Whether two recipes give the same head, evaluated or not. */
export function isSameTraining(a: TrainingSpec, b: TrainingSpec): boolean {
  return a.rows.length === b.rows.length && a.lexical?.vocabulary.buckets === b.lexical?.vocabulary.buckets;
}

/** Trains by a recipe, and frees all that it took of the backend's memory. `judge`: only to be judged, so not evaluated. */
export async function runTraining(
  tensors: TensorBackend,
  context: TrainingContext,
  spec: TrainingSpec,
  overrides: { readonly skipEvaluation: boolean; readonly onStep?: (objective: number, operations: number) => void },
): Promise<Result<TrainingResult>> {
  const { submission, examples, embed, yieldToEventLoop } = context;
  const { rows, lexical, budget } = spec;
  const { dimensions, task } = submission;
  const features: Matrix[] = [];
  const options = trainingOptions(submission);
  let steps: ReturnType<typeof train> | undefined;
  try {
    for (let first = 0; first < rows.length; first += BLOCK_ROWS) {
      const block = rows.slice(first, first + BLOCK_ROWS);
      const values = new Float32Array(block.length * dimensions);
      let characters = 0;
      for (const [i, row] of block.entries()) {
        values.set(await embed(row), i * dimensions);
        characters += examples.texts[row]?.length ?? 0;
        if (characters < CHARACTERS_PER_YIELD) continue;
        characters = 0;
        await yieldToEventLoop();
      }
      features.push(tensors.matrix(block.length, dimensions, values));
      await yieldToEventLoop();
    }
    const groups = Int32Array.from(rows, (row) => examples.groups[row] as number);
    const trainingSet = { task, dimensions, ...targetsOf(context, rows), features, groups, lexical };
    steps = train(tensors, trainingSet, {
      ...options,
      budget,
      ...(overrides.skipEvaluation ? { evaluation: { method: "none" } as const } : {}),
      ...(overrides.onStep ? { onStep: overrides.onStep } : {}),
    });
    return (await runSteps(steps, OPERATIONS_PER_YIELD, yieldToEventLoop)).value;
  } finally {
    steps?.return(fail("internal_error", "The training was abandoned."));
    for (const matrix of features) tensors.free(matrix);
  }
}
