/** Finds what is probably wrong with the examples of a data set. */
import type { HeldOutLogits } from "../evaluation/calibration.ts";
import { fail, ok, type Result } from "../failure.ts";
import { runBounded } from "../linear/bounded.ts";
import { measureDistances } from "../linear/class-centroids.ts";
import { estimateCost } from "../linear/cost.ts";
import type { Design } from "../linear/design.ts";
import { hasHeldOutRows } from "../linear/folds.ts";
import { prepareTraining } from "../linear/prepare.ts";
import type { Targets } from "../linear/targets.ts";
import type { Cost, TrainingOptions, TrainingRows, TrainingSet, TrainingShape } from "../linear/types.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { findGroupIssues, isSameTarget } from "./equal-inputs.ts";
import type { Judge, RowIssue } from "./issue.ts";
import { findLabelErrors, type LabelErrors, labelErrorOperations } from "./label-errors.ts";
import { findNearDuplicates, nearDuplicateCost } from "./near-duplicates.ts";
import { MEMBER_L2, outOfFoldLogits } from "./out-of-fold.ts";
import { findOutliers, nearestDistances } from "./outliers.ts";

export interface DatasetIssues {
  /** Most likely first. */
  readonly issues: readonly RowIssue[];
  /** The estimated share of examples whose label is wrong. */
  readonly noise: number;
}

/** So many issues of a type are kept: the most likely ones. */
const MAX_ISSUES_PER_TYPE = 1_000;

/** A training has so many folds if it can afford them: more leave each model more examples. */
const FOLD_COUNTS = [5, 3, 2] as const;

/** How the folds are made, for `TrainingOptions` and the readers of lexical features. */
export type IssueOptions = Pick<TrainingOptions, "l2" | "classWeight" | "seed" | "lexical" | "evaluation">;

export function issueOptions(folds: number): IssueOptions {
  return {
    l2: MEMBER_L2,
    classWeight: null,
    seed: 0,
    lexical: "auto",
    evaluation: { method: "cross_validation", folds },
  };
}

/** The most folds that are within the budget. If not even two are, the cost of these. */
export function planIssues(
  shape: TrainingShape,
  budget: Cost,
): { readonly options: IssueOptions } | { readonly cost: Cost } {
  let cost: Cost = { operations: 0, bytes: 0 };
  for (const folds of FOLD_COUNTS) {
    const options = issueOptions(folds);
    cost = issueCost(shape, options);
    if (cost.operations <= budget.operations && cost.bytes <= budget.bytes) return { options };
  }
  return { cost };
}

/** What finding issues costs at most: two models of up to all features, and what is beside them. */
export function issueCost(shape: TrainingShape, options: IssueOptions): Cost {
  const model = estimateCost(shape, { ...options, lexical: true }, "int8");
  const rest = restCost(shape);
  return { operations: 2 * model.operations + rest.operations, bytes: model.bytes + rest.bytes };
}

/** What each of the two models may cost. */
export function modelBudget(shape: TrainingShape, budget: Cost): Cost {
  const rest = restCost(shape);
  return { operations: (budget.operations - rest.operations) / 2, bytes: budget.bytes - rest.bytes };
}

/**
 * The products of pairs, what is computed of logits, and the logits of the second model. For one label a row these take the
 * place of the distances to centroids, which the cost of a training has.
 */
function restCost({ task, examples, dimensions, outputs }: TrainingShape): Cost {
  const pairs = comparesPairs(examples, dimensions) ? nearDuplicateCost(examples, dimensions) : noCost;
  return {
    operations: pairs.operations + labelErrorOperations(examples * outputs),
    bytes: pairs.bytes + (task === "single_label" ? 0 : 4 * examples * outputs),
  };
}

const noCost: Cost = { operations: 0, bytes: 0 };
/** Near-duplicates are not looked for where comparing all pairs takes more operations. */
const MAX_PAIR_OPERATIONS = 4e11;

function comparesPairs(rows: number, dimensions: number): boolean {
  return nearDuplicateCost(rows, dimensions).operations <= MAX_PAIR_OPERATIONS;
}

/**
 * Finds the issues of a training set. Fails as `train` does, and with `too_few_examples` if no example can be held out.
 * The same set and backend give the same issues.
 */
export function* findDatasetIssues(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: IssueOptions,
  budget: Cost,
): Steps<Result<DatasetIssues>> {
  const result = yield* runBounded(tensors, budget, (backend) => find(backend, trainingSet, { ...options, budget }));
  return result.ok ? ok(result.value.value) : result;
}

function* find(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
): Steps<Result<DatasetIssues>> {
  const prepared = yield* prepareTraining(tensors, trainingSet, options);
  if (!prepared.ok) return prepared;
  const { rows, design } = prepared.value;
  const { targets, groups } = rows;
  if (!hasHeldOutRows(rows.folds, rows.weights, rows.foldCount))
    return fail(
      "too_few_examples",
      "No label has two examples with different inputs, so none can be judged by the others.",
    );
  // Of the distances the nearest alone stay: their memory is needed.
  const nearest = yield* measureNearest(tensors, design, rows);
  const isPair = (row: number, other: number) => groups[row] !== groups[other] && !isSameTarget(targets, row, other);
  const pairs = comparesPairs(design.rows, design.dimensions) ? yield* findNearDuplicates(tensors, design, isPair) : [];
  const heldOut = yield* outOfFoldLogits(tensors, design, rows, options.seed);
  const errors = yield* findLabelErrors(targets, heldOut);
  const judge = createJudge(targets, heldOut, errors);
  const issues: RowIssue[] = [
    ...errors.errors.map(
      ({ entry, suggestion, score }): RowIssue => ({
        type: "label_error",
        row: heldOut.rows[entry] as number,
        other: null,
        suggestion: targets.kind === "value" ? (suggestion as number) + prepared.value.offset : suggestion,
        score,
      }),
    ),
    ...findGroupIssues(groups, targets, judge),
    ...pairs.flatMap(({ row, other, similarity }) => nearDuplicateIssue(targets, judge, row, other, similarity)),
    ...(nearest === null || targets.kind !== "single" ? [] : outlierIssues(targets.indices, heldOut, nearest, errors)),
  ];
  issues.sort(byScore);
  const kept = [...Map.groupBy(issues, ({ type }) => type).values()].flatMap(keepMostLikely);
  return ok({ issues: kept.sort(byScore), noise: errors.noise });
}

function byScore(a: RowIssue, b: RowIssue): number {
  return b.score - a.score || a.row - b.row;
}

/** Of the issues of a type, in their order, one for each row. */
function keepMostLikely(issues: readonly RowIssue[]): RowIssue[] {
  const rows = new Set<number>();
  const first = issues.filter(({ row }) => !rows.has(row) && rows.add(row));
  return first.slice(0, MAX_ISSUES_PER_TYPE);
}

/** The distance of each held-out row to the nearest centroid of the other rows; null where there are none. */
function* measureNearest(tensors: TensorBackend, design: Design, rows: TrainingRows): Steps<Float64Array | null> {
  const distances = yield* measureDistances(tensors, design, rows, rows.foldCount);
  return distances && nearestDistances(distances.heldOut, rows.outputs);
}

function createJudge(targets: Targets, heldOut: HeldOutLogits, { probability }: LabelErrors): Judge {
  const entryOf = new Map(Array.from(heldOut.rows, (row, entry) => [row, entry]));
  return (row, label, other) => {
    const entry = entryOf.get(row);
    if (entry === undefined || probability === null || targets.kind !== "single" || label < 0 || other < 0) return 0.5;
    const [own, theirs] = [probability(entry, label), probability(entry, other)];
    return own + theirs === 0 ? 0.5 : own / (own + theirs);
  };
}

/** Of a pair, the row whose label is the less probable one; none if each label suits its own row. */
function nearDuplicateIssue(
  targets: Targets,
  judge: Judge,
  row: number,
  other: number,
  similarity: number,
): RowIssue[] {
  if (targets.kind !== "single")
    return targets.kind === "value" ? [] : [toNearDuplicate(row, other, null, similarity / 2)];
  const labelOf = (each: number) => targets.indices[each] as number;
  const sides = [
    { row, other, own: judge(row, labelOf(row), labelOf(other)) },
    { row: other, other: row, own: judge(other, labelOf(other), labelOf(row)) },
  ].sort((a, b) => a.own - b.own);
  const [worse] = sides;
  if (worse === undefined || worse.own > 0.5) return [];
  const suggestion = labelOf(worse.other);
  return [toNearDuplicate(worse.row, worse.other, suggestion < 0 ? null : suggestion, similarity * (1 - worse.own))];
}

function toNearDuplicate(row: number, other: number, suggestion: number | null, score: number): RowIssue {
  return { type: "near_duplicate", row, other, suggestion, score };
}

/** At z = 3.5 a score of a quarter, and at most a half: far from the others isn't wrong yet. */
function outlierIssues(
  labels: Int32Array,
  heldOut: HeldOutLogits,
  distances: Float64Array,
  { errors }: LabelErrors,
): RowIssue[] {
  const wrong = new Set(errors.filter(({ score }) => score >= 0.5).map(({ entry }) => entry));
  const found = findOutliers(
    Array.from(heldOut.rows, (row) => labels[row] as number),
    distances,
  );
  return found
    .filter(({ entry }) => !wrong.has(entry))
    .map(({ entry, z }) => {
      const row = heldOut.rows[entry] as number;
      return { type: "outlier", row, other: null, suggestion: null, score: z / (z + 3.5) / 2 };
    });
}
