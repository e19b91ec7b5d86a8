/**
 * The candidates that a job compares, each a recipe of what is trained on which rows. `head` is the frozen head as the edge
 * would train it: on as many rows as its budget allows. `fine_tuned` has all rows, and the budget of this endpoint.
 */
import { beyondBudget, type Cost, type TrainingShape } from "../../core/linear/cost.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import type { LexicalFeatures } from "../../core/text/lexical.ts";
import { readLexicalWithin } from "../../core/linear/lexical-budget.ts";
import { stratifiedOrder } from "../../core/linear/subsample.ts";
import { readTargets } from "../../core/linear/targets.ts";
import type { Matrix, Tensors } from "../../core/tensors.ts";
import { strataOf, type Trained, type TrainingOptions, train } from "../../core/linear/train.ts";
import type { Candidate, Submission } from "../../jobs/protocol.ts";
import type { Examples } from "./data.ts";

/** What all trainings of an attempt read. */
export interface Material {
  readonly submission: Submission;
  readonly examples: Examples;
  /** The embedding of a row's input. */
  readonly embed: (row: number) => Float32Array | Promise<Float32Array>;
  /** Whether embedding the texts counts towards the edge's budget. */
  readonly embedsLocally: boolean;
  /** What a training at this endpoint may cost. */
  readonly budget: Cost;
  /** Lets the event loop turn; throws where the attempt is to end. */
  readonly turn: () => Promise<void>;
}

export interface Recipe {
  /** Ascending. */
  readonly rows: readonly number[];
  readonly lexical: LexicalFeatures | null;
  readonly budget: Cost;
}

const OPERATIONS_A_TURN = 400_000_000;
const CHARACTERS_A_TURN = 50_000;
const BLOCK_ROWS = 1024;
/** What a sample shrinks to while its lexical features, which must be there, are too much. */
const SHRINK = 0.9;

function optionsOf({ hyperparameters, evaluation }: Submission): Omit<TrainingOptions, "budget"> {
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
export async function prepare(
  candidate: Candidate,
  material: Material,
  among: readonly number[],
): Promise<Result<Recipe>> {
  const { submission } = material;
  if (candidate === "fine_tuned") {
    const { budget } = material;
    const beyond = beyondEndpoint(material, among);
    if (beyond !== null) return { ok: false, failure: beyond };
    const lexical = await readLexical(material, among, budget);
    if ("features" in lexical) return ok({ rows: among, lexical: lexical.features, budget });
    return { ok: false, failure: tooLarge(lexical.beyond, budget) };
  }
  const budget = submission.edge_budget;
  const { labels, targets } = targetsOf(material, among);
  const order = stratifiedOrder(strataOf(targets, labels.length), submission.hyperparameters.seed);
  const sample = (size: number) =>
    order
      .slice(0, size)
      .sort((a, b) => a - b)
      .map((at) => among[at] as number);
  const bytesOfFirst = [0];
  for (const at of order) bytesOfFirst.push((bytesOfFirst.at(-1) as number) + bytesOf(material, [among[at] as number]));
  const whole = shapeOf(material, among);
  const fits = (size: number) => {
    const shape = { ...whole, examples: size, textBytes: material.embedsLocally ? (bytesOfFirst[size] as number) : 0 };
    return beyondBudget(shape, optionsOf(submission), budget) === null;
  };
  for (let size = largest(among.length, fits); size >= 2; size = Math.floor(size * SHRINK)) {
    const rows = size === among.length ? among : sample(size);
    const lexical = await readLexical(material, rows, budget);
    if ("features" in lexical) return ok({ rows, lexical: lexical.features, budget });
  }
  return fail("edge_budget_exceeded", "No part of the examples is within the budget of a head trained at the edge.");
}

/** Why a training on these rows is beyond what this endpoint allows, lexical features left out, or null. */
export function beyondEndpoint(material: Material, rows: readonly number[]): Failure | null {
  const beyond = beyondBudget(shapeOf(material, rows), optionsOf(material.submission), material.budget);
  return beyond && tooLarge(beyond, material.budget);
}

function tooLarge(estimate: Cost, budget: Cost): Failure {
  const figures = ({ bytes, operations }: Cost) => `${bytes} bytes and ${operations} operations`;
  const message = `This training takes ${figures(estimate)}, where the batch endpoint allows ${figures(budget)}.`;
  return { code: "edge_budget_exceeded", message, details: { estimate, budget } };
}

/** The largest size up to `most` that fits, where all below it do; 0: none. */
function largest(most: number, fits: (size: number) => boolean): number {
  if (fits(most)) return most;
  let [within, beyond] = [0, most];
  while (beyond - within > 1) {
    const middle = (within + beyond) >> 1;
    if (fits(middle)) within = middle;
    else beyond = middle;
  }
  return within;
}

/** Rows' targets, in terms of the labels that they have or of those given. */
export function targetsOf({ submission, examples }: Material, rows: readonly number[], labels?: readonly string[]) {
  const given = rows.map((row) => examples.targets[row] as Examples["targets"][number]);
  return readTargets(submission.task, given, submission.out_of_scope_label, labels);
}

function shapeOf(material: Material, rows: readonly number[]): TrainingShape & { textBytes: number } {
  const { task, dimensions } = material.submission;
  const outputs = Math.max(1, targetsOf(material, rows).labels.length);
  const textBytes = material.embedsLocally ? bytesOf(material, rows) : 0;
  return { task, examples: rows.length, dimensions, outputs, textBytes };
}

function bytesOf({ examples }: Material, rows: readonly number[]): number {
  return rows.reduce((sum, row) => sum + Buffer.byteLength(examples.texts[row] ?? ""), 0);
}

async function readLexical(
  material: Material,
  rows: readonly number[],
  budget: Cost,
): Promise<{ readonly features: LexicalFeatures | null } | { readonly beyond: Cost }> {
  const { submission, examples, turn } = material;
  if (submission.modality === "embedding") return { features: null };
  const shape = shapeOf(material, rows);
  const reader = readLexicalWithin(shape, optionsOf(submission), budget, bytesOf(material, rows));
  if (reader === null) return { features: null };
  let left = 0;
  for (const row of reader.wanted ? rows : []) {
    const text = examples.texts[row] as string;
    if (left <= 0) {
      await turn();
      left = CHARACTERS_A_TURN;
    }
    left -= text.length;
    if (!reader.add(text)) break;
  }
  return reader.fit();
}

/** Whether two recipes give the same head, evaluated or not. */
export function isSame(a: Recipe, b: Recipe): boolean {
  return a.rows.length === b.rows.length && a.lexical?.lexical.buckets === b.lexical?.lexical.buckets;
}

/** Trains by a recipe, and frees all that it took of the backend's memory. `judge`: only to be judged, so not evaluated. */
export async function trainBy(
  tensors: Tensors,
  material: Material,
  recipe: Recipe,
  how: { readonly judge: boolean; readonly onStep?: (objective: number, operations: number) => void },
): Promise<Result<Trained>> {
  const { submission, examples, embed, turn } = material;
  const { rows, lexical, budget } = recipe;
  const { dimensions, task } = submission;
  const features: Matrix[] = [];
  let operations = 0;
  const options = optionsOf(submission);
  let steps: ReturnType<typeof train> | undefined;
  try {
    for (let first = 0; first < rows.length; first += BLOCK_ROWS) {
      const part = rows.slice(first, first + BLOCK_ROWS);
      const values = new Float32Array(part.length * dimensions);
      let characters = 0;
      for (const [i, row] of part.entries()) {
        values.set(await embed(row), i * dimensions);
        characters += examples.texts[row]?.length ?? 0;
        if (characters < CHARACTERS_A_TURN) continue;
        characters = 0;
        await turn();
      }
      features.push(tensors.matrix(part.length, dimensions, values));
      await turn();
    }
    const groups = Int32Array.from(rows, (row) => examples.groups[row] as number);
    const set = { task, dimensions, ...targetsOf(material, rows), features, groups, lexical };
    steps = train(tensors, set, {
      ...options,
      budget,
      ...(how.judge ? { evaluation: { method: "none" } as const } : {}),
      onStep: (objective) => how.onStep?.(objective, operations),
    });
    for (let sinceTurn = 0; ; ) {
      const step = steps.next();
      if (step.done) return step.value;
      operations += step.value;
      sinceTurn += step.value;
      if (sinceTurn < OPERATIONS_A_TURN) continue;
      sinceTurn = 0;
      await turn();
    }
  } finally {
    steps?.return(fail("internal_error", "The training was abandoned."));
    for (const matrix of features) tensors.free(matrix);
  }
}
