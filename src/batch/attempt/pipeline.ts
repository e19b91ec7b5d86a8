/**
 * The work of an attempt:
 *
 *   pull → sample → embed → crossFit → refit → upload
 *
 * Each stage is a function of its input, and knows nothing of checkpoints. This file runs the stages whose results the
 * checkpoint lacks, adds their results to it and saves them. All functions throw if the attempt is to end.
 */
import { embeddingWork } from "../../backbones/chunks.ts";
import type { Candidate } from "../../core/evaluation/comparison.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { OPERATIONS_PER_TEXT_BYTE } from "../../core/linear/cost.ts";
import { valueOrNull } from "./cancellation.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { CheckpointStore } from "./checkpoint-store.ts";
import { type AttemptContext, makeTrainingContext, type TrainingContext } from "./context.ts";
import { makeEmbeddingMatrix } from "./embedding-matrix.ts";
import type { Reporter } from "./reporter.ts";
import { emptyComparison, type Split } from "./stages/compare.ts";
import { crossFit, splitRows } from "./stages/cross-fit.ts";
import { embedTexts } from "./stages/embed.ts";
import { pullExamples } from "./stages/pull.ts";
import { refit } from "./stages/refit.ts";
import { sampleExamples } from "./stages/sample.ts";
import { uploadModel } from "./stages/upload.ts";
import { endpointBudgetFailure } from "./training-spec.ts";
import { makeTrainingStates } from "./training-states.ts";

/** From so many embeddings on, they are saved before all are there. */
const MIN_EMBEDDINGS_TO_SAVE = 10_000;

interface Pipeline {
  readonly attempt: AttemptContext;
  readonly reporter: Reporter;
  readonly context: TrainingContext;
  /** Every row's number. */
  readonly rows: readonly number[];
  /** What the candidates are trained and compared on; empty if they cannot be compared. */
  readonly splits: readonly Split[];
  /** The results so far, of earlier attempts too. */
  readonly results: Checkpoint;
  /** Uploads the results. */
  readonly save: () => Promise<void>;
  readonly startedAt: number;
}

/** Runs the stages that are not done; throws if the attempt is to end. */
export async function runPipeline(
  attempt: AttemptContext,
  reporter: Reporter,
  store: CheckpointStore,
): Promise<Result<null>> {
  const pulled = await pullAndRestore(attempt, reporter, store);
  if (!pulled.ok) return pulled;
  const pipeline = pulled.value;
  const compared = await embedTrainAndCompare(pipeline);
  if (!compared.ok) return compared;
  const winner = await askForWinner(pipeline);
  if (!winner.ok) return winner;
  const refitted = await embedAndRefit(pipeline, winner.value);
  if (!refitted.ok) return refitted;
  return uploadAndFinish(pipeline);
}

async function pullAndRestore(
  attempt: AttemptContext,
  reporter: Reporter,
  store: CheckpointStore,
): Promise<Result<Pipeline>> {
  const { submission, workerClient, cancellation, backbone, budget } = attempt;
  const startedAt = performance.now();
  const signal = cancellation.signals.pause;
  const outcome = await pullExamples(workerClient, submission, budget.bytes, signal);
  const pulled = valueOrNull(outcome, cancellation, signal);
  if (pulled === null) return fail("storage_unavailable", "The examples could not be read from the Worker.");
  if (!pulled.ok) return pulled;
  const examples = sampleExamples(pulled.value, submission);
  const rows = [...examples.targets.keys()];
  const splits = splitRows({ submission, examples }, rows);
  const heldOutCount = splits.reduce((sum, { testRows }) => sum + testRows.length, 0);
  reporter.sendProgress(`Read ${rows.length} examples.`, { examples: rows.length, held_out: heldOutCount });
  if (await store.restore(examples, signal)) reporter.sendProgress("Goes on from a checkpoint.", {});
  const results = store.results();
  // Those of a backbone of cost "local" are made on demand, which takes less than keeping them.
  const keepsEmbeddings = backbone !== null && backbone.cost !== "local";
  results.embeddings = keepsEmbeddings ? (results.embeddings ?? makeEmbeddingMatrix(submission.dimensions)) : null;
  const save = () => store.save(signal);
  const report = reporter.sendProgress;
  const trainingStates = makeTrainingStates(results, attempt.operationsPerSave, save, report);
  const countOperations = (operations: number) => {
    results.operations += operations;
  };
  const context = makeTrainingContext(attempt, examples, results.embeddings, {
    report,
    trainingStates,
    countOperations,
  });
  const failure = endpointBudgetFailure(context, rows);
  if (failure !== null) return { ok: false, failure };
  return ok({ attempt, reporter, context, rows, splits, results, save, startedAt });
}

/** Embeds all texts, if not on demand, and saves the embeddings whenever there are half as many again. */
async function embed({ attempt, context, results, save }: Pipeline): Promise<Result<null>> {
  const { backbone, workerClient, cancellation } = attempt;
  const { texts } = context.examples;
  const { embeddings } = results;
  if (backbone === null || embeddings === null || embeddings.count() === texts.length) return ok(null);
  const alreadyEmbedded = embeddings.count();
  let nextSaveAt = Math.max(MIN_EMBEDDINGS_TO_SAVE, 1.5 * embeddings.count());
  const result = await embedTexts(backbone, texts, embeddings, {
    retryPolicy: workerClient.retryPolicy,
    signal: cancellation.signals.pause,
    yieldToEventLoop: context.yieldToEventLoop,
    onBatch: async () => {
      if (embeddings.count() < nextSaveAt || embeddings.count() === texts.length) return;
      nextSaveAt = 1.5 * embeddings.count();
      await save();
    },
  });
  if (!result.ok) return result;
  const embeddedTexts = texts.slice(alreadyEmbedded);
  const bytes = embeddedTexts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  context.countOperations(OPERATIONS_PER_TEXT_BYTE * embeddingWork(backbone, bytes, embeddedTexts.length));
  context.report(`Embedded ${texts.length} texts.`, { examples: texts.length });
  await save();
  return ok(null);
}

/** Trains both candidates and compares them on rows that they have not seen, unless an earlier attempt did. */
async function embedTrainAndCompare(pipeline: Pipeline): Promise<Result<null>> {
  const { context, splits, results, save } = pipeline;
  if (results.comparison !== null) return ok(null);
  if (splits.length === 0) results.comparison = emptyComparison;
  else {
    const embedded = await embed(pipeline);
    if (!embedded.ok) return embedded;
    const compared = await crossFit(context, splits, results.folds, (fold, candidate, result) => {
      results.folds[fold] = { ...results.folds[fold], [candidate]: result };
      return save();
    });
    if (!compared.ok) return compared;
    results.comparison = compared.value.comparison;
    results.fineTunedAssessment = compared.value.fineTunedAssessment;
  }
  await save();
  return ok(null);
}

/**
 * Sends the comparison. The Worker answers which candidate is trained on all rows, or that the attempt has ended: then
 * this throws.
 */
async function askForWinner({ attempt, reporter, results, startedAt }: Pipeline): Promise<Result<Candidate>> {
  if (results.comparison === null) throw new Error("Nothing was compared.");
  const signal = attempt.cancellation.signals.pause;
  const cost = {
    operations: Math.ceil(results.operations),
    milliseconds: Math.round(performance.now() - startedAt),
  };
  const directive = await reporter.send({ type: "evaluated", judgement: results.comparison, cost }, signal);
  signal.throwIfAborted();
  if (directive?.refit) return ok(directive.refit);
  return fail("internal_error", "The Worker did not say which candidate is trained on all examples.");
}

/** Trains the winner on all rows, unless an earlier attempt did. */
async function embedAndRefit(pipeline: Pipeline, winner: Candidate): Promise<Result<null>> {
  const { context, rows, results, save, startedAt } = pipeline;
  if (results.finalModel?.candidate === winner) return ok(null);
  const embedded = await embed(pipeline);
  if (!embedded.ok) return embedded;
  const refitted = await refit(context, rows, winner, results.fineTunedAssessment, startedAt);
  if (!refitted.ok) return refitted;
  const training = { ...refitted.value.training, operations: Math.ceil(results.operations) };
  results.finalModel = { ...refitted.value, training };
  await save();
  return ok(null);
}

async function uploadAndFinish({ attempt, reporter, context, rows, results }: Pipeline): Promise<Result<null>> {
  const { workerClient, cancellation, maxSingleUploadBytes } = attempt;
  if (results.finalModel === null) throw new Error("Nothing was trained.");
  const dataset = { revision: context.examples.revision, examples: rows.length };
  const signal = cancellation.signals.pause;
  const outcome = await uploadModel(workerClient, results.finalModel, dataset, maxSingleUploadBytes, signal);
  const manifest = valueOrNull(outcome, cancellation, signal);
  const failure = fail("storage_unavailable", "What was trained could not be stored by the Worker.");
  if (manifest === null) return failure;
  const directive = await reporter.send({ type: "finished", manifest }, cancellation.signals.end);
  return directive === null ? failure : ok(null);
}
