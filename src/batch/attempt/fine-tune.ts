/** The fine-tuned candidate whose layers are trained: src/finetune does it, on what a job has of examples. */

import { decodeDelta, fineTunedBackbone } from "../../backbones/fine-tuned.ts";
import { isStatic, type StaticBackbone } from "../../backbones/text-static.ts";
import { assess } from "../../core/evaluation/evaluation.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Head } from "../../core/head.ts";
import { trainsLayers } from "../../core/lifecycle/job.ts";
import type { Targets } from "../../core/linear/objective.ts";
import { holdoutFolds, stratifiedFolds } from "../../core/linear/split.ts";
import { rowWeights, strataOf, type Training } from "../../core/linear/train.ts";
import { compose } from "../../finetune/compose.ts";
import { type Epoch, fineTune, fineTuningOperations, type Plan } from "../../finetune/train.ts";
import type { Submission } from "../../jobs/protocol.ts";
import type { Work } from "./attempt.ts";
import { type Material, prepare, targetsOf, trainBy } from "./candidates.ts";
import type { Told } from "./checkpoint.ts";
import { type Answers, type Model, predictions } from "./comparison.ts";
import { embedWhenAsked } from "./embed.ts";

const OPERATIONS_A_TURN = 400_000_000;
/** With fewer examples none is spared to tell when to stop. */
const FEWEST_HELD_OUT_OF = 200;
const HELD_OUT = 0.1;
const FOLDS = 5;
/** From so many on a head reads words as well, which costs it nothing; with fewer that is asked of held-out examples. */
const MANY = 640;

export interface Tuned {
  readonly head: Head;
  readonly delta: Uint8Array;
  readonly parameters: number;
  readonly plan: Plan;
  readonly training: Training;
}

/** The backbone whose layers a job trains, and which: the last two are the convolution and the head. null: the head alone. */
export function trainedBackbone({ submission, backbone }: Work): { base: StaticBackbone; rows: boolean } | null {
  const { trainable } = submission;
  if (backbone === null || !isStatic(backbone) || !trainsLayers(trainable)) return null;
  return { base: backbone, rows: typeof trainable === "string" || trainable.last_layers > 2 };
}

/** Trains head and layers on rows; `plan` is that of an earlier training on a part of them. */
export async function tune(
  work: Work,
  { base, rows: trainsRows }: { base: StaticBackbone; rows: boolean },
  given: Material,
  rows: readonly number[],
  plan: Plan | null,
  onEpoch: (epoch: Epoch) => void,
): Promise<Result<Tuned>> {
  const material = withWords(given, rows.length);
  const { submission, examples, turn } = material;
  const held = plan === null && rows.length >= FEWEST_HELD_OUT_OF ? heldOutOf(material, rows) : new Set<number>();
  const rest = rows.filter((row) => !held.has(row));
  const recipe = await prepare("fine_tuned", material, rest);
  if (!recipe.ok) return recipe;
  const fitted = await trainBy(work.tensors, material, recipe.value, { judge: held.size > 0 || plan !== null });
  if (!fitted.ok) return fitted;
  const frozen = fitted.value.head;
  const texts = rows.map((row) => examples.texts[row] ?? "");
  const targets = targetsOf(material, rows, frozen.labels).targets;
  // A label that only held-out rows have is none of the head's.
  const places = rows.flatMap((row, i) => (held.has(row) && isKnown(targets, i) ? [i] : []));
  const outputs = frozen.bias.length;
  const weights = rowWeights(targets, rows.length, outputs, submission.hyperparameters.class_weight);
  const { epochs = "auto", batch_size = "auto", learning_rate_multiplier = "auto", seed } = submission.hyperparameters;
  const options = {
    epochs,
    batchSize: batch_size,
    rate: learning_rate_multiplier,
    rows: trainsRows,
    seed,
    plan,
    onEpoch,
  };
  const operations = fineTuningOperations({ dimensions: base.dimensions, outputs, texts }, options);
  if (operations > material.budget.operations)
    return fail(
      "edge_budget_exceeded",
      `This fine-tuning takes ${operations} operations, where the batch endpoint allows ${material.budget.operations}.`,
    );
  const byHead = await predictions(
    material,
    places.map((i) => rows[i] as number),
    { head: { ...frozen, temperature: 1 }, embed: material.embed },
  );
  const steps = fineTune(
    base.table(),
    {
      texts,
      targets,
      outputs,
      weights,
      heldOut: places,
      headLogits: logitsOf(frozen, byHead),
      headTemperature: frozen.temperature,
    },
    options,
  );
  let done = 0;
  for (let sinceTurn = 0; ; ) {
    const step = steps.next();
    if (step.done) {
      const tuned = step.value;
      const known = Array.from(weights.keys()).filter((i) => weights[i] !== 0);
      const { delta, parameters, head } = compose(base, frozen, tuned, known);
      const training = {
        ...fitted.value.training,
        iterations: tuned.steps,
        operations: fitted.value.training.operations + done,
      };
      return ok({ head, delta, parameters, plan: tuned.plan, training });
    }
    sinceTurn += step.value;
    done += step.value;
    if (sinceTurn < OPERATIONS_A_TURN) continue;
    sinceTurn = 0;
    await turn();
  }
}

function withWords(material: Material, rows: number): Material {
  const { submission } = material;
  if (submission.hyperparameters.lexical !== "auto" || rows <= MANY) return material;
  const hyperparameters: Submission["hyperparameters"] = { ...submission.hyperparameters, lexical: true };
  return { ...material, submission: { ...submission, hyperparameters } };
}

function heldOutOf(material: Material, rows: readonly number[]): Set<number> {
  const { labels, targets } = targetsOf(material, rows);
  const groups = Int32Array.from(rows, (row) => material.examples.groups[row] as number);
  const { seed } = material.submission.hyperparameters;
  const folds = holdoutFolds(strataOf(targets, labels.length), groups, HELD_OUT, FOLDS, seed);
  return new Set(rows.filter((_, i) => folds[i] === 0));
}

function isKnown(targets: Targets, row: number): boolean {
  return targets.kind !== "single" || (targets.indices[row] as number) >= 0;
}

const LEAST = 1e-30;

/** The logits that outputs of `predict` at temperature 1 are of, softmax's up to a constant; values stay. */
function logitsOf({ task }: Head, outputs: readonly Float64Array[]): Float32Array {
  const log = (p: number) => Math.log(Math.max(LEAST, p));
  const toLogit = (p: number) => (task === "single_label" ? log(p) : task === "multi_label" ? log(p) - log(1 - p) : p);
  return Float32Array.from(outputs.flatMap((each) => Array.from(each, toLogit)));
}

/** The model of a head and a delta, or of a head alone. */
export function modelOf(material: Material, base: StaticBackbone | null, head: Head, delta: Uint8Array | null): Model {
  if (base === null || delta === null) return { head, embed: material.embed };
  const decoded = decodeDelta(delta);
  if (decoded === null) throw new Error("A delta that was made here cannot be read.");
  const backbone = fineTunedBackbone(base, { id: `ft:${base.id}`, revision: "" }, decoded, delta.length);
  return { head, embed: embedWhenAsked(backbone, material.examples.texts) };
}

/**
 * What a model's answers to the judge's held-out rows, which it was trained without, tell of it: how it does, and how sure
 * it may be. Its head is one that `compose` made: at temperature 1.
 */
export async function told(
  material: Material,
  rows: readonly number[],
  { head, outputs }: Answers,
  plan: Plan,
): Promise<Told> {
  const all = targetsOf(material, rows, head.labels).targets;
  const held = { rows: Int32Array.from(rows.keys()), logits: logitsOf(head, outputs), outputs: head.bias.length };
  const groups = Int32Array.from(rows, (row) => material.examples.groups[row] as number);
  const halves = stratifiedFolds(
    strataOf(all, head.labels.length),
    groups,
    2,
    material.submission.hyperparameters.seed,
  );
  const steps = assess(head.labels, all, held, halves, { method: "holdout" });
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done) return { plan, assessment: { ...step.value, conformal: Array.from(step.value.conformal) } };
    await material.turn();
  }
}
