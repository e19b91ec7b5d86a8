/** Both candidates, trained on the rows of a split. */
import { encodeHead } from "../../../core/codec.ts";
import type { Candidate } from "../../../core/evaluation/comparison.ts";
import { type Failure, ok, type Result } from "../../../core/failure.ts";
import type { FoldCandidates, TrainedCandidate } from "../checkpoint.ts";
import type { TrainedLayers, TrainingContext } from "../context.ts";
import { fineTuneLayers, reportEpochs } from "../fine-tune.ts";
import { reportTraining, runTraining } from "../run-training.ts";
import { isSameTraining, prepareTraining, type TrainingSpec } from "../training-spec.ts";

/** Without the test rows, too few may be left to train on. A candidate is null then. */
const TOO_FEW_CODES: ReadonlySet<string> = new Set<Failure["code"]>(["too_few_labels", "too_few_examples"]);

/** null: a candidate that cannot be trained on these rows. */
export interface TrainedCandidates {
  readonly head: TrainedCandidate | null;
  /** The same object as `head` if both trainings are the same. */
  readonly fineTuned: TrainedCandidate | null;
}

/**
 * Trains both candidates on rows.
 *
 * @param fold the number of the split
 * @param trained candidates that an earlier attempt trained; they are not trained again
 * @param onTrained is awaited after each training
 */
export async function trainCandidates(
  context: TrainingContext,
  rows: readonly number[],
  fold: number,
  trained: FoldCandidates,
  onTrained: (candidate: Candidate, result: TrainedCandidate | null) => Promise<void>,
): Promise<Result<TrainedCandidates>> {
  const { layers } = context;
  const headSpec = await prepareTraining("head", context, rows);
  const fineTunedSpec = layers === null ? await prepareTraining("fine_tuned", context, rows) : null;
  if (fineTunedSpec?.ok === false) return fineTunedSpec;

  const reuseOrTrain = async (
    candidate: Candidate,
    train: () => Promise<Result<TrainedCandidate | null>>,
  ): Promise<Result<TrainedCandidate | null>> => {
    const earlier = trained[candidate];
    if (earlier !== undefined) return ok(earlier);
    const result = await train();
    if (!result.ok && !TOO_FEW_CODES.has(result.failure.code)) return result;
    const value = result.ok ? result.value : null;
    await onTrained(candidate, value);
    return ok(value);
  };
  // No part of the rows may be within the edge's budget. Then there is no frozen head to compare with.
  const head = await reuseOrTrain("head", async () =>
    headSpec.ok ? trainHead(context, "head", headSpec.value) : ok(null),
  );
  if (!head.ok) return head;
  if (headSpec.ok && fineTunedSpec?.ok && isSameTraining(headSpec.value, fineTunedSpec.value))
    return ok({ head: head.value, fineTuned: head.value });
  const fineTuned = await reuseOrTrain("fine_tuned", async () => {
    if (fineTunedSpec?.ok) return trainHead(context, "fine_tuned", fineTunedSpec.value);
    return layers === null ? ok(null) : trainLayers(context, layers, rows, fold);
  });
  return fineTuned.ok ? ok({ head: head.value, fineTuned: fineTuned.value }) : fineTuned;
}

async function trainHead(
  context: TrainingContext,
  candidate: Candidate,
  spec: TrainingSpec,
): Promise<Result<TrainedCandidate>> {
  const result = await runTraining(context, spec, { skipEvaluation: true });
  if (!result.ok) return result;
  reportTraining(context, candidate, result.value);
  return ok({ head: encodeHead(result.value.head), delta: null, plan: null });
}

async function trainLayers(
  context: TrainingContext,
  layers: TrainedLayers,
  rows: readonly number[],
  fold: number,
): Promise<Result<TrainedCandidate>> {
  const training = { name: fold, plan: null, onEpoch: reportEpochs(context) };
  const result = await fineTuneLayers(context, layers, rows, training);
  if (!result.ok) return result;
  const { head, delta, plan } = result.value;
  return ok({ head: encodeHead(head), delta, plan });
}
