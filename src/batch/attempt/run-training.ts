/** Trains a head at the batch endpoint. */
import type { Candidate } from "../../core/evaluation/comparison.ts";
import { fail, type Result } from "../../core/failure.ts";
import { rowPrecision } from "../../core/linear/cost.ts";
import { makeRows, type RowPrecision } from "../../core/linear/design.ts";
import { train } from "../../core/linear/train.ts";
import type { TrainingResult } from "../../core/linear/types.ts";
import { runSteps } from "../../core/steps.ts";
import type { Matrix } from "../../core/tensors.ts";
import { toTrainingOptions } from "../../jobs/protocol.ts";
import type { TrainingContext } from "./context.ts";
import { groupsOf, type TrainingSpec, targetsOf } from "./training-spec.ts";

/** The candidates' names in progress messages. */
export const candidateNames: Readonly<Record<Candidate, string>> = {
  head: "frozen head",
  fine_tuned: "fine-tuned candidate",
};

const OPERATIONS_PER_YIELD = 400_000_000;
const CHARACTERS_PER_YIELD = 50_000;
const BLOCK_ROWS = 1024;

export interface TrainingRun {
  readonly skipEvaluation: boolean;
  readonly onStep?: (objective: number, operations: number) => void;
}

/** Trains a head, and frees all that this took of the tensor backend's memory. */
export async function runTraining(
  context: TrainingContext,
  spec: TrainingSpec,
  { skipEvaluation, onStep }: TrainingRun,
): Promise<Result<TrainingResult>> {
  const { submission, tensors, yieldToEventLoop } = context;
  const { dimensions, task } = submission;
  const targets = targetsOf(context, spec.rows);
  const outputs = Math.max(1, targets.labels.length);
  const options = {
    ...toTrainingOptions(submission),
    ...(skipEvaluation ? { evaluation: { method: "none" } as const } : {}),
  };
  const shape = { task, dimensions, examples: spec.rows.length, outputs, lexical: spec.lexical };
  const precision = rowPrecision(shape, options, spec.budget) ?? "int8";
  const features: Matrix[] = [];
  let steps: ReturnType<typeof train> | undefined;
  try {
    await embedRows(context, spec.rows, precision, features);
    steps = train(
      tensors,
      { task, dimensions, ...targets, features, groups: groupsOf(context, spec.rows), lexical: spec.lexical },
      { ...options, budget: spec.budget, ...(onStep ? { onStep } : {}) },
    );
    const { value, operations } = await runSteps(steps, OPERATIONS_PER_YIELD, yieldToEventLoop);
    context.countOperations(operations);
    return value;
  } finally {
    // Without effect on a training that has ended; an abandoned one frees its memory.
    steps?.return(fail("internal_error", "The training was abandoned."));
    for (const matrix of features) tensors.free(matrix);
  }
}

/** Adds the embeddings of rows to `features`, in blocks. */
async function embedRows(
  context: TrainingContext,
  rows: readonly number[],
  precision: RowPrecision,
  features: Matrix[],
): Promise<void> {
  const { submission, examples, tensors, embed, yieldToEventLoop } = context;
  const { dimensions } = submission;
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
    features.push(makeRows(tensors, block.length, dimensions, values, precision));
    await yieldToEventLoop();
  }
}

/** Sends the results of a training as progress. */
export function reportTraining(
  { report }: TrainingContext,
  candidate: Candidate,
  { training, evaluation }: TrainingResult,
): void {
  const { examples, iterations, operations, objective } = training;
  const accuracy = evaluation.accuracy ?? evaluation.r2;
  report(`Trained the ${candidateNames[candidate]} on ${examples} examples.`, {
    train_loss: objective / examples,
    examples,
    iterations,
    operations,
    ...(accuracy === undefined ? {} : { valid_accuracy: accuracy }),
  });
}
