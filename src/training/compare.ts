/** Trains on the one of several backbones whose heads predict held-out examples best. */
import type { Backbone } from "../backbones/backbone.ts";
import { type Failure, ok, type Result } from "../core/failure.ts";
import { edgeBudget } from "../core/limits.ts";
import { chooseCandidate, type HeldOutLosses, pairedDifference } from "../core/linear/candidates.ts";
import { type FeatureMeasurement, measureFeatures } from "../core/linear/measure.ts";
import { stratifiedOrder } from "../core/linear/subsample.ts";
import { strataOf } from "../core/linear/targets.ts";
import type { TrainingShape } from "../core/linear/types.ts";
import { type SelectionPlan, selectionPlan } from "../core/linear/workload.ts";
import {
  checkRequestBudget,
  type RequestOptions,
  type RequestTraining,
  type RunState,
  runStage,
  shapeOf,
  trainOn,
  withRunState,
} from "./run.ts";
import { type Requester, trainingSlot } from "./slot.ts";
import type { TrainingSource } from "./source.ts";

/** So many examples are compared. More would take longer and hardly change which backbone is best. */
const COMPARISON_ROWS = 1_000;
/** Evaluations of the objective that a fit on a sample may take. */
const MAX_EVALUATIONS = 30;
const HOPELESS_RATIO = 1.5;
const HOPELESS_STANDARD_ERRORS = 3;

export interface BackboneMeasurement extends FeatureMeasurement {
  readonly backbone: string;
}

/** A backbone with or without lexical features, and its figures on held-out examples. */
export interface BackboneCandidate {
  readonly backbone: string;
  readonly lexical: boolean;
  /** For values the mean squared error. */
  readonly log_loss: number;
  readonly accuracy: number | null;
}

/** What a training reads, and the backbones that it chooses from. */
export interface TrainingPlan {
  /** The preferred one first. Of several none is remote. null stands for the caller's own embeddings. */
  readonly backbones: readonly (Backbone | null)[];
  /** Whether a job is made of a training beyond the budget. */
  readonly canBeJob: boolean;
  /** What the training reads; the backbone's embeddings are stored for the next one. */
  readonly makeSource: (backbone: Backbone | null) => Promise<Result<TrainingSource>>;
  /** The examples, or these of them, to compare a backbone by. */
  readonly makeSample: (backbone: Backbone | null, rows: readonly number[] | null) => TrainingSource;
}

export interface ComparedTraining extends RequestTraining {
  readonly backbone: Backbone | null;
  /** What the backbone was chosen among; empty if no examples could be held out, or one alone was within the budget. */
  readonly candidates: readonly BackboneCandidate[];
}

/** Compares the backbones that are within the budget, and trains a head on the best as `runTraining` does. */
export async function runComparedTraining(
  requester: Requester,
  plan: TrainingPlan,
  options: RequestOptions,
): Promise<Result<ComparedTraining>> {
  const affordable = findAffordable(plan, options);
  if (!affordable.ok) return affordable;
  return withRunState(requester, async (state) => {
    const comparison = await compare(state, affordable.value, plan.makeSample, options);
    if (!comparison.ok) return comparison;
    const { best, candidates, selected, operations, embedded } = comparison.value;
    const source = await plan.makeSource(best);
    if (!source.ok) return source;
    const trained = await trainOn(state, source.value, { ...options, ...selected });
    if (!trained.ok) return trained;
    const work = { operations: trained.value.operations + operations, embedded: trained.value.embedded + embedded };
    return ok({ ...trained.value, ...work, backbone: best, candidates });
  });
}

type Backbones = readonly [Backbone | null, ...(Backbone | null)[]];

/**
 * The backbones with which the training is within the budget. Fails without any, and where a job can take the place of a
 * training that is beyond the budget for texts alone that one of them has not embedded yet.
 */
function findAffordable({ backbones, makeSample, canBeJob }: TrainingPlan, options: RequestOptions): Result<Backbones> {
  let failure: Failure | undefined;
  const affordable: (Backbone | null)[] = [];
  for (const backbone of backbones) {
    const shape = shapeOf(makeSample(backbone, null));
    const budgetFailure = checkRequestBudget(shape, options);
    if (budgetFailure === null) affordable.push(backbone);
    else if (canBeJob && checkRequestBudget({ ...shape, textBytes: 0 }, options) === null)
      return { ok: false, failure: budgetFailure };
    else failure = budgetFailure;
  }
  const [first, ...others] = affordable;
  if (first !== undefined) return ok([first, ...others]);
  if (failure === undefined) throw new Error("There is no backbone to train on.");
  return { ok: false, failure };
}

interface ComparisonResult {
  readonly best: Backbone | null;
  readonly candidates: readonly BackboneCandidate[];
  /** What the comparison has selected with all examples, so that the training need not select it again. */
  readonly selected: Partial<Pick<RequestOptions, "l2" | "lexical">>;
  readonly operations: number;
  readonly embedded: number;
}

/** Measures the backbones on a sample of the examples. Holds the training's slot from here on. */
async function compare(
  state: RunState,
  backbones: Backbones,
  makeSample: TrainingPlan["makeSample"],
  options: RequestOptions,
): Promise<Result<ComparisonResult>> {
  const { slots, tensors } = state;
  const [preferred] = backbones;
  let [operations, embedded] = [0, 0];
  const { examples, labelTexts = 0 } = makeSample(preferred, null);
  if (backbones.length === 1 || examples === labelTexts)
    return ok({ best: preferred, candidates: [], selected: {}, operations, embedded });
  const failure = await slots.acquire(trainingSlot);
  if (failure !== null) return { ok: false, failure };
  const rows = comparisonRows(makeSample(preferred, null), options.seed);
  const samples = backbones.map((backbone) => ({ id: backbone?.id ?? "", source: makeSample(backbone, rows) }));
  const plan = comparisonPlan(samples.map(({ source }) => shapeOf(source)));
  // On a sample the training selects again, so that its figures need only rank the backbones.
  const effort = rows === null ? { plan } : { plan: { ...plan, repetitions: 1 }, maxEvaluations: MAX_EVALUATIONS };
  const measurements: BackboneMeasurement[] = [];
  for (const { id, source } of samples) {
    const measured = await runStage(state, source, options, (trainingSet) =>
      measureFeatures(
        tensors,
        trainingSet,
        { ...options, budget: edgeBudget },
        { ...effort, nearbyL2: measurements[0]?.l2 ?? null, triesMore: (heldOut) => canWin(heldOut, measurements) },
      ),
    );
    if (!measured.ok) return measured;
    operations += measured.value.operations;
    embedded += measured.value.embedded;
    for (const measurement of measured.value.value) measurements.push({ backbone: id, ...measurement });
  }
  const choice = chooseBackbone(measurements);
  if (choice === null) return ok({ best: preferred, candidates: [], selected: {}, operations, embedded });
  const best = backbones.find((backbone) => backbone?.id === choice.best.backbone) ?? preferred;
  const { l2, lexical } = choice.best;
  return ok({
    best,
    candidates: choice.candidates,
    selected: rows === null ? { l2, lexical } : {},
    operations,
    embedded,
  });
}

/** The rows on which backbones are compared: a stratified sample, or null for all. */
function comparisonRows({ examples, targets }: TrainingSource, seed: number): number[] | null {
  if (examples <= COMPARISON_ROWS) return null;
  const order = stratifiedOrder(strataOf(targets.targets, targets.labels.length), seed);
  return order.slice(0, COMPARISON_ROWS).sort((a, b) => a - b);
}

/** The folds of a comparison, which must be the same for each backbone: those that the widest can afford. */
function comparisonPlan(shapes: readonly TrainingShape[]): SelectionPlan {
  const most = (key: "examples" | "dimensions" | "outputs") => Math.max(...shapes.map((shape) => shape[key]));
  const work = { examples: most("examples"), dimensions: most("dimensions"), outputs: most("outputs") };
  return selectionPlan({ ...work, columns: 0, entries: 0 });
}

/**
 * Whether lexical features may make the best of a backbone that has these losses without them: not if its mean loss is half
 * as large again as the least one, and chance does not explain it.
 */
function canWin({ losses, mean }: HeldOutLosses, measurements: readonly BackboneMeasurement[]): boolean {
  const best = measurements.reduce<HeldOutLosses | null>(
    (least, { heldOut }) => (least === null || heldOut.mean < least.mean ? heldOut : least),
    null,
  );
  if (best === null || mean < HOPELESS_RATIO * best.mean) return true;
  const difference = pairedDifference(losses, best.losses);
  return difference.mean < HOPELESS_STANDARD_ERRORS * difference.standardError;
}

/**
 * The backbone to train on, with or without lexical features: of the measurements, which are in the order of preference,
 * the first whose loss exceeds the least by at most a standard error (`chooseCandidate`). Without lexical features comes
 * first: a simpler head, and one that does not depend on the luck of the folds. null without measurements.
 */
export function chooseBackbone(
  measurements: readonly BackboneMeasurement[],
): { readonly best: BackboneMeasurement; readonly candidates: readonly BackboneCandidate[] } | null {
  const best = measurements[chooseCandidate(measurements.map(({ heldOut }) => heldOut))];
  if (best === undefined) return null;
  const candidates = measurements.map(({ backbone, lexical, heldOut, accuracy }) => ({
    backbone,
    lexical,
    log_loss: heldOut.mean,
    accuracy,
  }));
  return { best, candidates };
}
