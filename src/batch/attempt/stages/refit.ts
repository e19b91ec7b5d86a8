/** Stage 5: the winner, trained on all rows. */
import { encodeHead } from "../../../core/codec.ts";
import type { Centroids } from "../../../core/evaluation/centroids.ts";
import type { Candidate } from "../../../core/evaluation/comparison.ts";
import { withConfusedPairs } from "../../../core/evaluation/confused.ts";
import { noEvaluation } from "../../../core/evaluation/evaluation.ts";
import type { Scope } from "../../../core/evaluation/scope.ts";
import { ok, type Result } from "../../../core/failure.ts";
import type { TrainingSummary } from "../../../core/linear/types.ts";
import { withSketch } from "../../../core/sketch.ts";
import type { Manifest } from "../../../jobs/protocol.ts";
import type { FinalModel, FineTunedAssessment, StoredScope } from "../checkpoint.ts";
import type { TrainedLayers, TrainingContext } from "../context.ts";
import { fineTuneLayers, reportEpochs } from "../fine-tune.ts";
import { makeModel, predictRows } from "../model.ts";
import { candidateNames, reportTraining, runTraining } from "../run-training.ts";
import { prepareTraining } from "../training-spec.ts";
import { centroidRows, summarise } from "./scope.ts";

/** The first steps are all reported, later ones at this interval. */
const DENSE_STEPS = 50;
const STEP_INTERVAL = 10;

/**
 * Trains the winner on all rows.
 *
 * @param assessment of the fine-tuned candidate, whose plan, evaluation and calibration its refit takes over
 * @param startedAt when the attempt began, by `performance.now()`
 */
export function refit(
  context: TrainingContext,
  rows: readonly number[],
  winner: Candidate,
  assessment: FineTunedAssessment | null,
  startedAt: number,
): Promise<Result<FinalModel>> {
  return winner === "fine_tuned" && context.layers !== null
    ? refitLayers(context, context.layers, rows, assessment, startedAt)
    : refitHead(context, rows, winner, startedAt);
}

async function refitLayers(
  context: TrainingContext,
  layers: TrainedLayers,
  rows: readonly number[],
  assessment: FineTunedAssessment | null,
  startedAt: number,
): Promise<Result<FinalModel>> {
  const training = { name: "refit", plan: assessment?.plan ?? null, onEpoch: reportEpochs(context) } as const;
  const result = await fineTuneLayers(context, layers, rows, training);
  if (!result.ok) return result;
  const { head, delta, parameters, training: trainingSummary } = result.value;
  const { evaluation, scope: _, ...calibration } = assessment?.assessment ?? noEvaluation;
  const conformal = Float32Array.from(calibration.conformal);
  const temperature = head.task === "regression" ? 1 : calibration.temperature;
  const model = makeModel(context, layers.base, head, delta);
  // The checkpoints of older builds have neither.
  const thresholds = calibration.thresholds ?? [];
  const stored = assessment?.assessment.scope ?? null;
  const hasDistance = stored?.figures.some(({ name }) => name === "distance") ?? false;
  const trained = centroidRows(rows);
  const embeddings: Float32Array[] = [];
  await predictRows(context, trained, model, embeddings);
  const summary = await summarise(context, { rows: trained, embeddings }, head.labels, hasDistance);
  const scope = stored && toScope(stored, hasDistance, summary?.centroids ?? null);
  const ownHead = { ...head, ...calibration, thresholds, scope, temperature, conformal };
  return ok({
    candidate: "fine_tuned",
    training: manifestTraining(trainingSummary, temperature, startedAt),
    evaluation: { ...evaluation },
    parameters,
    head: encodeHead(
      summary === null ? ownHead : withSketch(ownHead, summary.sketch, (row) => context.examples.positions[row]),
    ),
    delta,
  });
}

/** The scope of a model whose scores are those of the folds' models, with its own centroids if they have any. */
function toScope(stored: StoredScope, hasDistance: boolean, centroids: Centroids | null): Scope | null {
  const scope = { ...stored, scores: Float32Array.from(stored.scores) };
  if (!hasDistance) return { ...scope, centroids: null };
  return centroids && { ...scope, centroids };
}

async function refitHead(
  context: TrainingContext,
  allRows: readonly number[],
  winner: Candidate,
  startedAt: number,
): Promise<Result<FinalModel>> {
  const spec = await prepareTraining(winner, context, allRows);
  if (!spec.ok) return spec;
  const examples = spec.value.rows.length;
  let steps = 0;
  const onStep = (objective: number, operations: number) => {
    if (++steps > DENSE_STEPS && steps % STEP_INTERVAL !== 0) return;
    const metrics = { train_loss: objective / examples, examples, operations };
    context.report(`Step ${steps} of training the ${candidateNames[winner]} on all examples.`, metrics);
  };
  const result = await runTraining(context, spec.value, { skipEvaluation: false, onStep });
  if (!result.ok) return result;
  reportTraining(context, winner, result.value);
  const { training, confused, head, sketch } = result.value;
  const idOf = (row: number) => context.examples.ids[spec.value.rows[row] as number];
  const evaluation = withConfusedPairs(result.value.evaluation, confused, idOf);
  return ok({
    candidate: winner,
    training: manifestTraining(training, training.temperature, startedAt),
    evaluation: { ...evaluation },
    parameters: 0,
    head: encodeHead(withSketch(head, sketch, (row) => context.examples.positions[spec.value.rows[row] as number])),
    delta: null,
  });
}

function manifestTraining(training: TrainingSummary, temperature: number, startedAt: number): Manifest["training"] {
  const { examples, iterations, converged, objective, l2, lexical } = training;
  const milliseconds = Math.round(performance.now() - startedAt);
  return { examples, iterations, converged, objective, l2, temperature, lexical, milliseconds };
}
