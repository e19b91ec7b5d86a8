/**
 * The stages of an attempt:
 *
 *   data → embeddings → both candidates, without the held-out rows → their comparison → the winner, on all rows → its bytes
 *
 * Embeddings are a stage of their own where a remote backbone makes them.
 */
import { setImmediate as eventLoop } from "node:timers/promises";
import { decodeHead, encodeHead } from "../../core/codec.ts";
import type { Candidate, Comparison } from "../../core/evaluation/comparison.ts";
import { noEvaluation } from "../../core/evaluation/evaluation.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import type { TrainingResult, TrainingSummary } from "../../core/linear/types.ts";
import type { Epoch } from "../../finetune/train.ts";
import type { Artifact, Manifest } from "../../jobs/protocol.ts";
import { withRetries } from "../client/worker-client.ts";
import { artifactOf, download, upload } from "./artifact.ts";
import { type AttemptContext, type AttemptProgress, saveCheckpoint } from "./attempt.ts";
import {
  endpointBudgetFailure,
  isSameTraining,
  prepareTraining,
  runTraining,
  type TrainingContext,
} from "./candidates.ts";
import { type Checkpoint, decodeCheckpoint, submissionFingerprint, type TrainedCandidate } from "./checkpoint.ts";
import { compareHeads, emptyComparison, type Predictions, predictRows } from "./comparison.ts";
import { embedLazily, embedTexts } from "./embed.ts";
import { makeEmbeddingMatrix } from "./embedding-matrix.ts";
import { type Examples, readExamples } from "./examples.ts";
import { assessFineTuned, fineTuneLayers, makeModel, trainableBackbone } from "./fine-tune.ts";
import type { Reporter } from "./reporter.ts";

const candidateNames: Readonly<Record<Candidate, string>> = { head: "frozen head", fine_tuned: "fine-tuned candidate" };
/** Steps of the last fit that are told each, and how far apart those after them are. */
const DENSE_STEPS = 50;
const STEP_INTERVAL = 10;
/** Embeddings from which on they are kept before all are there. */
const MIN_EMBEDDINGS_TO_SAVE = 10_000;
/** Where rows are held out too few may be left to train on: nothing is judged then. */
const TOO_FEW_CODES: ReadonlySet<string> = new Set<Failure["code"]>(["too_few_labels", "too_few_examples"]);

interface PipelineState {
  readonly attempt: AttemptContext;
  readonly reporter: Reporter;
  readonly checkpoint: Checkpoint;
  readonly context: TrainingContext;
  /** Every row's number. */
  readonly allRows: readonly number[];
  readonly saveCheckpoint: () => Promise<void>;
  readonly startedAt: number;
}

/** Does the stages that are not done, and tells of them; throws where the attempt is to end. */
export async function runPipeline(
  attempt: AttemptContext,
  reporter: Reporter,
  progress: AttemptProgress,
): Promise<Result<null>> {
  const stateResult = await pullAndRestore(attempt, reporter, progress);
  if (!stateResult.ok) return stateResult;
  const state = stateResult.value;
  const { checkpoint: stages } = state;
  if (stages.comparison === null) {
    const comparison = await trainAndCompare(state);
    if (!comparison.ok) return comparison;
    stages.comparison = comparison.value;
    await state.saveCheckpoint();
  }
  const stop = attempt.cancellation.signals.pause;
  const directive = await reporter.send({ type: "evaluated", judgement: stages.comparison }, stop);
  stop.throwIfAborted();
  const winner = directive?.refit ?? null;
  if (winner === null)
    return fail("internal_error", "The Worker did not say which candidate is trained on all examples.");
  if (stages.finalModel?.candidate !== winner) {
    const refitted = await refit(state, winner);
    if (!refitted.ok) return refitted;
  }
  return uploadModel(state);
}

/** Reads the data, and takes up what an earlier attempt has done of it. */
async function pullAndRestore(
  attempt: AttemptContext,
  reporter: Reporter,
  progress: AttemptProgress,
): Promise<Result<PipelineState>> {
  const { submission, backbone, budget } = attempt;
  const startedAt = performance.now();
  const stop = attempt.cancellation.signals.pause;
  const pulled = await pullExamples(attempt);
  if (!pulled.ok) return pulled;
  const examples = pulled.value;
  const allRows = [...examples.targets.keys()];
  const heldOutCount = examples.heldOut.filter(Boolean).length;
  reporter.sendProgress(`Read ${allRows.length} examples.`, { examples: allRows.length, held_out: heldOutCount });

  progress.fingerprint = submissionFingerprint(submission, examples.digest);
  const checkpointBytes = submission.checkpoint && (await download(attempt.workerClient, submission.checkpoint, stop));
  const savedCheckpoint =
    checkpointBytes && decodeCheckpoint(checkpointBytes, progress.fingerprint, submission.dimensions);
  if (savedCheckpoint) progress.checkpoint = savedCheckpoint;
  else progress.lastCheckpointSha256 = null;
  if (savedCheckpoint) reporter.sendProgress("Goes on from a checkpoint.", {});

  const { checkpoint } = progress;
  const localBackbone = backbone?.cost === "local" ? backbone : null;
  const isRemote = backbone?.cost === "remote";
  checkpoint.embeddings = isRemote ? (checkpoint.embeddings ?? makeEmbeddingMatrix(submission.dimensions)) : null;
  const embeddings = checkpoint.embeddings ?? examples.embeddings;
  const embeddingBytes = localBackbone === null ? 4 * submission.dimensions * allRows.length : 0;
  const usedBytes = embeddingBytes + examples.texts.reduce((sum, { length }) => sum + 2 * length, 0);
  const context: TrainingContext = {
    submission,
    examples,
    embed: localBackbone === null ? embeddings.at : embedLazily(localBackbone, examples.texts),
    embedsLocally: localBackbone !== null,
    budget: { bytes: budget.bytes - usedBytes, operations: budget.operations },
    yieldToEventLoop: async () => {
      await eventLoop();
      stop.throwIfAborted();
    },
  };
  const failure = endpointBudgetFailure(context, allRows);
  if (failure !== null) return { ok: false, failure };
  return ok({
    attempt,
    reporter,
    checkpoint,
    context,
    allRows,
    startedAt,
    saveCheckpoint: () => saveCheckpoint(attempt, reporter, progress, stop),
  });
}

async function pullExamples({
  submission,
  workerClient,
  cancellation,
  budget,
}: AttemptContext): Promise<Result<Examples>> {
  const outcome = await withRetries(workerClient.retryPolicy, cancellation.signals.pause, () =>
    workerClient.getStream(
      "data",
      (chunks) => readExamples(chunks, submission, budget.bytes),
      cancellation.signals.pause,
    ),
  );
  if (outcome.type === "answer") return outcome.value;
  cancellation.signals.pause.throwIfAborted();
  return fail("storage_unavailable", "The examples could not be read from the Worker.");
}

/** Sees to it that every row has its embedding of a remote backbone; they are kept each time that there are half as many again. */
async function embed({ attempt, reporter, context, checkpoint, saveCheckpoint }: PipelineState): Promise<Result<null>> {
  const { texts } = context.examples;
  const rows = checkpoint.embeddings;
  if (attempt.backbone === null || rows === null || rows.count() === texts.length) return ok(null);
  let nextSaveAt = Math.max(MIN_EMBEDDINGS_TO_SAVE, 1.5 * rows.count());
  const onBatch = async () => {
    if (rows.count() < nextSaveAt || rows.count() === texts.length) return;
    nextSaveAt = 1.5 * rows.count();
    await saveCheckpoint();
  };
  const options = {
    retryPolicy: attempt.workerClient.retryPolicy,
    signal: attempt.cancellation.signals.pause,
    yieldToEventLoop: context.yieldToEventLoop,
    onBatch,
  };
  const result = await embedTexts(attempt.backbone, texts, rows, options);
  if (!result.ok) return result;
  reporter.sendProgress(`Embedded ${texts.length} texts.`, { examples: texts.length });
  await saveCheckpoint();
  return result;
}

/** Trains both candidates without the held-out rows, and compares them on those. */
async function trainAndCompare(state: PipelineState): Promise<Result<Comparison>> {
  const { attempt, context, allRows, checkpoint } = state;
  const { heldOut } = context.examples;
  const trainingRows = allRows.filter((row) => !heldOut[row]);
  if (trainingRows.length === allRows.length || trainingRows.length < 2) return ok(emptyComparison);
  const embedded = await embed(state);
  if (!embedded.ok) return embedded;
  const trainable = trainableBackbone(attempt);
  const headSpec = await prepareTraining("head", context, trainingRows);
  const fineTunedSpec = trainable === null ? await prepareTraining("fine_tuned", context, trainingRows) : null;
  if (fineTunedSpec?.ok === false) return fineTunedSpec;
  const isIdentical = fineTunedSpec !== null && headSpec.ok && isSameTraining(headSpec.value, fineTunedSpec.value);
  const trainHead = async (candidate: Candidate, spec: typeof headSpec): Promise<Result<TrainedCandidate | null>> => {
    // No part of the rows that is within the edge's budget: there is no frozen head to compare with.
    if (!spec.ok) return ok(null);
    const result = await runTraining(attempt.tensors, context, spec.value, { skipEvaluation: true });
    if (!result.ok) return result;
    reportTrained(state, candidate, result.value);
    return ok({ head: encodeHead(result.value.head), delta: null, plan: null });
  };
  const loadOrTrain = async (
    candidate: Candidate,
    train: () => Promise<Result<TrainedCandidate | null>>,
  ): Promise<Result<TrainedCandidate | null>> => {
    const existing = checkpoint.candidates[candidate];
    if (existing !== undefined) return ok(existing);
    const result = await train();
    if (!result.ok && !TOO_FEW_CODES.has(result.failure.code)) return result;
    checkpoint.candidates[candidate] = result.ok ? result.value : null;
    await state.saveCheckpoint();
    return ok(checkpoint.candidates[candidate] ?? null);
  };
  const head = await loadOrTrain("head", () => trainHead("head", headSpec));
  if (!head.ok) return head;
  const fineTuned = isIdentical
    ? head
    : await loadOrTrain("fine_tuned", () =>
        fineTunedSpec === null ? trainLayers(state, trainingRows) : trainHead("fine_tuned", fineTunedSpec),
      );
  if (!fineTuned.ok) return fineTuned;
  const heldOutRows = allRows.filter((row) => heldOut[row]);
  const predictHeldOut = async (candidate: TrainedCandidate | null): Promise<Predictions | null> => {
    const decoded = candidate && decodeHead(candidate.head);
    if (!decoded) return null;
    const model = makeModel(context, trainable?.base ?? null, decoded, candidate.delta);
    return { head: decoded, outputs: await predictRows(context, heldOutRows, model) };
  };
  const headPredictions = await predictHeldOut(head.value);
  const fineTunedPredictions = isIdentical ? headPredictions : await predictHeldOut(fineTuned.value);
  const plan = fineTuned.value?.plan ?? null;
  if (fineTunedPredictions && plan !== null)
    checkpoint.fineTunedAssessment = await assessFineTuned(context, heldOutRows, fineTunedPredictions, plan);
  if (!headPredictions || !fineTunedPredictions) return ok(emptyComparison);
  return ok(compareHeads(context, heldOutRows, headPredictions, fineTunedPredictions));
}

/** Trains the layers without the held-out rows. */
async function trainLayers(
  { attempt, reporter, context }: PipelineState,
  rows: readonly number[],
): Promise<Result<TrainedCandidate>> {
  const trainable = trainableBackbone(attempt);
  if (trainable === null) throw new Error("No layers are to be trained.");
  const tuned = await fineTuneLayers(attempt, trainable, context, rows, null, reportEpochs(reporter));
  if (!tuned.ok) return tuned;
  const { head, delta, plan } = tuned.value;
  return ok({ head: encodeHead(head), delta, plan });
}

function reportEpochs(reporter: Reporter) {
  return ({ epoch, totalEpochs, trainLoss, validLoss, validAccuracy }: Epoch) =>
    reporter.sendProgress(`Epoch ${epoch} of ${totalEpochs}.`, {
      epoch,
      train_loss: trainLoss,
      ...(validLoss === undefined ? {} : { valid_loss: validLoss }),
      ...(validAccuracy === undefined ? {} : { valid_accuracy: validAccuracy }),
    });
}

/** Trains the winner on all rows. */
async function refit(state: PipelineState, candidate: Candidate): Promise<Result<null>> {
  const { attempt, reporter, context, checkpoint, startedAt } = state;
  const embedded = await embed(state);
  if (!embedded.ok) return embedded;
  const trainable = candidate === "fine_tuned" ? trainableBackbone(attempt) : null;
  if (trainable !== null) {
    const tuned = await fineTuneLayers(
      attempt,
      trainable,
      context,
      state.allRows,
      checkpoint.fineTunedAssessment?.plan ?? null,
      reportEpochs(reporter),
    );
    if (!tuned.ok) return tuned;
    const { head, delta, parameters, training } = tuned.value;
    const { evaluation, ...calibration } = checkpoint.fineTunedAssessment?.assessment ?? noEvaluation;
    const conformal = Float32Array.from(calibration.conformal);
    const temperature = head.task === "regression" ? 1 : calibration.temperature;
    checkpoint.finalModel = {
      candidate,
      training: manifestTraining(training, temperature, startedAt),
      evaluation: { ...evaluation },
      parameters,
      head: encodeHead({ ...head, ...calibration, temperature, conformal }),
      delta,
    };
    await state.saveCheckpoint();
    return ok(null);
  }
  const spec = await prepareTraining(candidate, context, state.allRows);
  if (!spec.ok) return spec;
  const rows = spec.value.rows.length;
  let steps = 0;
  const onStep = (objective: number, operations: number) => {
    if (++steps > DENSE_STEPS && steps % STEP_INTERVAL !== 0) return;
    const metrics = { train_loss: objective / rows, examples: rows, operations };
    reporter.sendProgress(`Step ${steps} of training the ${candidateNames[candidate]} on all examples.`, metrics);
  };
  const result = await runTraining(attempt.tensors, context, spec.value, { skipEvaluation: false, onStep });
  if (!result.ok) return result;
  reportTrained(state, candidate, result.value);
  const { training, evaluation, head } = result.value;
  checkpoint.finalModel = {
    candidate,
    training: manifestTraining(training, training.temperature, startedAt),
    evaluation: { ...evaluation },
    parameters: 0,
    head: encodeHead(head),
    delta: null,
  };
  await state.saveCheckpoint();
  return ok(null);
}

function manifestTraining(training: TrainingSummary, temperature: number, startedAt: number): Manifest["training"] {
  const { examples, iterations, converged, objective, l2, lexical } = training;
  const milliseconds = Math.round(performance.now() - startedAt);
  return { examples, iterations, converged, objective, l2, temperature, lexical, milliseconds };
}

function reportTrained(
  { reporter }: PipelineState,
  candidate: Candidate,
  { training, evaluation }: TrainingResult,
): void {
  const { examples, iterations, operations, objective } = training;
  const accuracy = evaluation.accuracy ?? evaluation.r2;
  reporter.sendProgress(`Trained the ${candidateNames[candidate]} on ${examples} examples.`, {
    train_loss: objective / examples,
    examples,
    iterations,
    operations,
    ...(accuracy === undefined ? {} : { valid_accuracy: accuracy }),
  });
}

/** Uploads the trained layers, if there are any, and the head, and says that they are there. */
async function uploadModel({ attempt, reporter, checkpoint, context, allRows }: PipelineState): Promise<Result<null>> {
  const { cancellation } = attempt;
  const stop = cancellation.signals.pause;
  if (checkpoint.finalModel === null) throw new Error("Nothing was trained.");
  const { head, delta, parameters, ...manifestFields } = checkpoint.finalModel;
  const artifacts: Artifact[] = [];
  const uploadFailure = fail("storage_unavailable", "What was trained could not be stored by the Worker.");
  for (const bytes of delta === null ? [head] : [head, delta]) {
    const artifact = artifactOf([bytes]);
    const result = await upload(attempt.workerClient, [bytes], artifact, attempt.maxSingleUploadBytes, stop);
    stop.throwIfAborted();
    if (result.type !== "answer") return uploadFailure;
    artifacts.push(artifact);
  }
  const [artifact, deltaArtifact] = artifacts as [Artifact, Artifact?];
  const dimensions = decodeHead(head)?.dimensions ?? 0;
  const backbone = deltaArtifact === undefined ? null : { artifact: deltaArtifact, parameters, dimensions };
  const dataset = { revision: context.examples.revision, examples: allRows.length };
  const manifest = { ...manifestFields, artifact, backbone, dataset };
  const directive = await reporter.send({ type: "finished", manifest }, cancellation.signals.end);
  return directive === null ? uploadFailure : ok(null);
}
