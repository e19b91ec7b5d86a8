/**
 * The rows and lexical features that a candidate's head is trained on. `head` is the frozen head as the edge would train it:
 * on as many rows as the edge's budget allows. `fine_tuned` has all rows and this endpoint's budget.
 */
import { embeddingWork } from "../../backbones/chunks.ts";
import type { Candidate } from "../../core/evaluation/comparison.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { costIfOverBudget } from "../../core/linear/cost.ts";
import { createLexicalBudgetReader } from "../../core/linear/lexical-budget.ts";
import { stratifiedOrder } from "../../core/linear/subsample.ts";
import { encodeTargets, strataOf, type Target } from "../../core/linear/targets.ts";
import type { Cost, TrainingShape } from "../../core/linear/types.ts";
import type { LexicalFeatures } from "../../core/text/lexical-reader.ts";
import { toTrainingOptions } from "../../jobs/protocol.ts";
import type { TrainingContext } from "./context.ts";

export interface TrainingSpec {
  /** Ascending. */
  readonly rows: readonly number[];
  readonly lexical: LexicalFeatures | null;
  readonly budget: Cost;
}

const CHARACTERS_PER_YIELD = 50_000;
/** Required lexical features may be too large for a sample of rows. It is then multiplied by this until they fit. */
const SHRINK_FACTOR = 0.9;

/**
 * The part of `allRows` (ascending) that a candidate's head is trained on. Fails with `edge_budget_exceeded` if the rows are
 * beyond the endpoint's budget, or no sample of them is within the edge's.
 */
export function prepareTraining(
  candidate: Candidate,
  context: TrainingContext,
  allRows: readonly number[],
): Promise<Result<TrainingSpec>> {
  return candidate === "head" ? prepareEdgeTraining(context, allRows) : prepareFullTraining(context, allRows);
}

async function prepareFullTraining(context: TrainingContext, rows: readonly number[]): Promise<Result<TrainingSpec>> {
  const { budget } = context;
  const failure = endpointBudgetFailure(context, rows);
  if (failure !== null) return { ok: false, failure };
  const lexical = await readLexical(context, rows, budget);
  if ("features" in lexical) return ok({ rows, lexical: lexical.features, budget });
  return { ok: false, failure: budgetFailure(lexical.cost, budget) };
}

async function prepareEdgeTraining(
  context: TrainingContext,
  allRows: readonly number[],
): Promise<Result<TrainingSpec>> {
  const { submission } = context;
  const budget = submission.edge_budget;
  const { labels, targets } = targetsOf(context, allRows);
  // Every prefix of this order has the labels in about the same proportions.
  const order = stratifiedOrder(strataOf(targets, labels.length), submission.hyperparameters.seed);
  const orderedRows = Array.from(order, (index) => allRows[index] as number);
  let textBytes = 0;
  const cumulativeBytes = [0, ...orderedRows.map((row) => (textBytes += textBytesOf(context, [row])))];
  const fullShape = shapeOf(context, allRows);
  const options = toTrainingOptions(submission);
  const fits = (size: number) => {
    const shape = {
      ...fullShape,
      examples: size,
      textBytes: embeddingWork(context.backbone, cumulativeBytes[size] ?? 0, size),
    };
    return costIfOverBudget(shape, options, budget) === null;
  };
  for (let size = largestFitting(allRows.length, fits); size >= 2; size = Math.floor(size * SHRINK_FACTOR)) {
    const rows = size === allRows.length ? allRows : orderedRows.slice(0, size).sort((a, b) => a - b);
    const lexical = await readLexical(context, rows, budget);
    if ("features" in lexical) return ok({ rows, lexical: lexical.features, budget });
  }
  return fail("edge_budget_exceeded", "No part of the examples is within the budget of a head trained at the edge.");
}

/** The failure of a training on these rows that is beyond the endpoint's budget even without lexical features, or null. */
export function endpointBudgetFailure(context: TrainingContext, rows: readonly number[]): Failure | null {
  const estimate = costIfOverBudget(shapeOf(context, rows), toTrainingOptions(context.submission), context.budget);
  return estimate && budgetFailure(estimate, context.budget);
}

function budgetFailure(estimate: Cost, budget: Cost): Failure {
  const describeCost = ({ bytes, operations }: Cost) => `${bytes} bytes and ${operations} operations`;
  const message = `This training takes ${describeCost(estimate)}, where the batch endpoint allows ${describeCost(budget)}.`;
  return { code: "edge_budget_exceeded", message, details: { estimate, budget } };
}

/** The largest size up to `limit` that fits, if all smaller ones do; 0: none. */
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

/** The targets of rows, as indices into the given labels, or into the labels that the rows have. */
export function targetsOf(
  { submission, examples }: Pick<TrainingContext, "submission" | "examples">,
  rows: readonly number[],
  labels?: readonly string[],
) {
  const rowTargets = rows.map((row) => examples.targets[row] as Target);
  return encodeTargets(submission.task, rowTargets, submission.out_of_scope_label, labels);
}

/** The groups of rows: rows of one group have the same input, but for case and spacing. */
export function groupsOf({ examples }: Pick<TrainingContext, "examples">, rows: readonly number[]): Int32Array {
  return Int32Array.from(rows, (row) => examples.groups[row] as number);
}

function shapeOf(context: TrainingContext, rows: readonly number[]): TrainingShape & { textBytes: number } {
  const { task, dimensions } = context.submission;
  const outputs = Math.max(1, targetsOf(context, rows).labels.length);
  const textBytes = embeddingWork(context.backbone, textBytesOf(context, rows), rows.length);
  return { task, examples: rows.length, dimensions, outputs, textBytes };
}

function textBytesOf({ examples }: TrainingContext, rows: readonly number[]): number {
  return rows.reduce((sum, row) => sum + Buffer.byteLength(examples.texts[row] ?? ""), 0);
}

/**
 * The lexical features of rows, null if the head has none; or the cost of a training that needs them and cannot pay for
 * them.
 */
async function readLexical(
  context: TrainingContext,
  rows: readonly number[],
  budget: Cost,
): Promise<{ readonly features: LexicalFeatures | null } | { readonly cost: Cost }> {
  const { submission, examples, yieldToEventLoop } = context;
  if (submission.modality === "embedding") return { features: null };
  const shape = shapeOf(context, rows);
  const reader = createLexicalBudgetReader(shape, toTrainingOptions(submission), budget, textBytesOf(context, rows));
  if (reader === null) return { features: null };
  let charactersLeft = 0;
  for (const row of reader.hasRoom ? rows : []) {
    const text = examples.texts[row] ?? "";
    if (charactersLeft <= 0) {
      await yieldToEventLoop();
      charactersLeft = CHARACTERS_PER_YIELD;
    }
    charactersLeft -= text.length;
    if (!reader.add(text)) break;
  }
  return reader.fit();
}

/** Whether two trainings give the same head, evaluation apart. */
export function isSameTraining(a: TrainingSpec, b: TrainingSpec): boolean {
  return a.rows.length === b.rows.length && a.lexical?.vocabulary.buckets === b.lexical?.vocabulary.buckets;
}
