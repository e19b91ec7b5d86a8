/** A training inside one request: call a remote backbone where needed, gather the features, then fit in steps. */

import type { YieldToEventLoop } from "../backbones/chunks.ts";
import { noInputs } from "../core/evaluation/input-counts.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import { edgeBudget } from "../core/limits.ts";
import { costIfOverBudget, OPERATIONS_PER_TEXT_BYTE, rowPrecision } from "../core/linear/cost.ts";
import { makeRows } from "../core/linear/design.ts";
import { createLexicalBudgetReader } from "../core/linear/lexical-budget.ts";
import { train } from "../core/linear/train.ts";
import type { Cost, TrainingOptions, TrainingResult, TrainingSet, TrainingShape } from "../core/linear/types.ts";
import { runSteps, type Steps } from "../core/steps.ts";
import type { Matrix, TensorBackend } from "../core/tensors.ts";
import type { LexicalFeatures } from "../core/text/lexical-reader.ts";
import { binUnknownWords } from "../serving/unknown-words.ts";
import { shrinkWorkerdTensorBackend, workerdTensorBackend } from "../tensor/workerd.ts";
import {
  createSlotHolder,
  gatheringSlot,
  preemptedFailure,
  type Requester,
  type SlotHolder,
  trainingSlot,
} from "./slot.ts";
import type { TrainingSource } from "./source.ts";

/**
 * Floating-point operations between two chances for other requests, and what a step counts at least: some ten
 * milliseconds of one core. 99 in 100 times it is less than 70 ms, and at most 0.1 to 0.3 s where large arrays are copied
 * or read for the first time.
 */
export const OPERATIONS_PER_YIELD = 150_000_000;
const MIN_STEP_OPERATIONS = 2_000_000;

export type RequestOptions = Omit<TrainingOptions, "budget">;

export interface RequestTraining extends TrainingResult {
  readonly operations: number;
  readonly embedded: number;
  readonly unknownWords: readonly number[] | null;
}

/** What the trainings of one request hold while they run. */
export interface RunState {
  readonly slots: SlotHolder;
  readonly tensors: TensorBackend;
  /** Blocks of the embeddings by their first row. */
  readonly features: Map<number, Matrix>;
  /** The texts that were read last, by their share of unknown words. Null if they were not all read. */
  unknownWords: readonly number[] | null;
  /** The steps that run, to be ended if another training needs their memory. */
  steps: { return(value: Result<never>): unknown } | null;
}

/** What a stage's steps end with, and what it has cost. */
export interface StageResult<T> {
  readonly value: T;
  readonly operations: number;
  readonly embedded: number;
}

/** Why a training of this shape is beyond what one request may use, or null. */
export function checkRequestBudget(
  shape: TrainingShape,
  options: Pick<TrainingOptions, "l2" | "evaluation" | "lexical">,
): Failure | null {
  const estimate = costIfOverBudget(shape, options, edgeBudget);
  if (estimate === null) return null;
  const message =
    "This training is beyond what one request may use. Use fewer examples, shorter texts, or a backbone of fewer dimensions.";
  return { code: "edge_budget_exceeded", message, details: { estimate, budget: edgeBudget } };
}

/**
 * Trains a head. Refuses a training beyond the budget before it starts, and lets other requests run between its steps.
 * It stops between two steps when its client has gone. Everything that it allocates in the backend is freed, also when it
 * fails, stops or is preempted.
 */
export async function runTraining(
  requester: Requester,
  source: TrainingSource,
  options: RequestOptions,
): Promise<Result<RequestTraining>> {
  const budgetFailure = checkRequestBudget(shapeOf(source), options);
  if (budgetFailure) return { ok: false, failure: budgetFailure };
  return withRunState(requester, (state) => trainOn(state, source, options));
}

/** The requests of this isolate that use the backend. */
let openRuns = 0;

/** Runs work that takes slots and allocates features, and gives all of it back. */
export async function withRunState<T>(
  requester: Requester,
  work: (state: RunState) => Promise<Result<T>>,
): Promise<Result<T>> {
  openRuns++;
  const tensors = await workerdTensorBackend().catch((error) => {
    openRuns--;
    throw error;
  });
  const features = new Map<number, Matrix>();
  const freeMemory = () => {
    state.steps?.return({ ok: false, failure: preemptedFailure });
    freeFeatures(state);
  };
  const slots = createSlotHolder(requester, freeMemory);
  const state: RunState = { slots, tensors, features, unknownWords: null, steps: null };
  try {
    return await work(state);
  } finally {
    freeMemory();
    slots.releaseAll();
    if (--openRuns === 0) await shrinkWorkerdTensorBackend(tensors);
  }
}

function freeFeatures({ tensors, features }: RunState): void {
  for (const matrix of features.values()) tensors.free(matrix);
  features.clear();
}

export function shapeOf(source: TrainingSource): TrainingShape {
  return {
    task: source.task,
    examples: source.examples,
    dimensions: source.dimensions,
    outputs: Math.max(1, source.targets.labels.length),
    textBytes: source.textBytes,
  };
}

/** Trains a head that is within the budget. */
export async function trainOn(
  state: RunState,
  source: TrainingSource,
  options: RequestOptions,
): Promise<Result<RequestTraining>> {
  const { tensors } = state;
  const prepared = await prepareSource(state, source);
  if (!prepared.ok) return prepared;
  const trained = await runStage(state, source, options, (trainingSet) =>
    train(tensors, trainingSet, { ...options, budget: edgeBudget }),
  );
  if (!trained.ok) return trained;
  const { value, operations, embedded } = trained.value;
  return ok({ ...value, operations, embedded: prepared.value.embedded + embedded, unknownWords: state.unknownWords });
}

/**
 * Gathers a source's features, as many lexical ones as the budget has room for, and runs steps on them. Frees the
 * features at its end. The state holds the training's slot.
 */
export async function runStage<T>(
  state: RunState,
  source: TrainingSource,
  options: RequestOptions,
  makeSteps: (trainingSet: TrainingSet) => Steps<Result<T>>,
  budget: Cost = edgeBudget,
): Promise<Result<StageResult<T>>> {
  const { slots } = state;
  const gathered = await gather(state, source, options, budget);
  if (!gathered.ok) return gathered;
  const steps = makeSteps(gathered.value.trainingSet);
  state.steps = steps;
  const pause = async () => {
    const failure = await yieldToOthers(slots);
    return failure === null ? undefined : { ok: false as const, failure };
  };
  const { value: result, operations } = await runSteps(steps, OPERATIONS_PER_YIELD, pause, MIN_STEP_OPERATIONS);
  freeFeatures(state);
  if (!result.ok) return result;
  const { embedded } = gathered.value;
  const embeddingOperations = embedded === 0 ? 0 : OPERATIONS_PER_TEXT_BYTE * source.textBytes;
  return ok({ value: result.value, operations: operations + embeddingOperations, embedded });
}

/** Runs steps on a source's features in the training's slot. The caller has checked their cost. */
export function runInSlot<T>(
  requester: Requester,
  source: TrainingSource,
  options: RequestOptions,
  budget: Cost,
  makeSteps: (tensors: TensorBackend, trainingSet: TrainingSet) => Steps<Result<T>>,
): Promise<Result<StageResult<T>>> {
  return withRunState(requester, async (state) => {
    const prepared = await prepareSource(state, source);
    if (!prepared.ok) return prepared;
    const done = await runStage(state, source, options, (set) => makeSteps(state.tensors, set), budget);
    return done.ok ? ok({ ...done.value, embedded: prepared.value.embedded + done.value.embedded }) : done;
  });
}

/** Has a remote backbone embed what no cache has. Then takes the slot for the arrays. */
export async function prepareSource(
  { slots }: RunState,
  source: TrainingSource,
): Promise<Result<{ embedded: number }>> {
  const prepared = await source.prepare?.(() => slots.acquire(gatheringSlot));
  if (prepared?.ok === false) return prepared;
  const failure = await slots.acquire(trainingSlot);
  return failure === null ? ok({ embedded: prepared?.value.embedded ?? 0 }) : { ok: false, failure };
}

async function yieldToOthers(slots: SlotHolder): Promise<Failure | null> {
  await scheduler.wait(0);
  return slots.stopReason;
}

const embeddingsLost = fail("storage_unavailable", "Embeddings just gathered could not be read again. Train again.", {
  retryAfter: 5,
});

/** Reads the lexical features, and copies the embeddings into the backend. */
async function gather(
  state: RunState,
  source: TrainingSource,
  options: RequestOptions,
  budget: Cost,
): Promise<Result<{ trainingSet: TrainingSet; embedded: number }>> {
  const { slots, tensors, features } = state;
  const shape = shapeOf(source);
  const yieldToEventLoop = () => yieldToOthers(slots);
  const beforeEmbedding = async () => {
    const failure = await yieldToEventLoop();
    if (failure !== null) return failure;
    // `prepare` has just gathered all of it. Calling a remote backbone here would keep every other training waiting.
    return source.prepare === null ? null : embeddingsLost.failure;
  };
  const lexical = await readLexicalFeatures(state, source, { shape, options, budget }, yieldToEventLoop);
  if (!lexical.ok) return lexical;
  const precision = rowPrecision({ ...shape, lexical: lexical.value }, options, budget) ?? "int8";
  const gathered = await source.gatherFeatures((block, values) => {
    if (slots.stopReason !== null) return;
    features.set(block, makeRows(tensors, values.length / source.dimensions, source.dimensions, values, precision));
  }, beforeEmbedding);
  if (!gathered.ok) return gathered;
  // Some features have been freed; a head trained on the others is not what was asked for.
  const { stopReason } = slots;
  if (stopReason !== null) return { ok: false, failure: stopReason };
  slots.release(gatheringSlot);
  const featureBlocks = [...features].sort(([a], [b]) => a - b).map(([, matrix]) => matrix);
  const trainingSet = { ...source, ...source.targets, features: featureBlocks, lexical: lexical.value };
  return ok({ trainingSet, embedded: gathered.value.embedded });
}

/**
 * The texts' lexical features, in as many buckets as the budget has room for. null where there are no texts, where the
 * head must not have any, or under `auto` where the training would not fit with them.
 */
async function readLexicalFeatures(
  state: RunState,
  source: TrainingSource,
  {
    shape,
    options,
    budget,
  }: { readonly shape: TrainingShape; readonly options: RequestOptions; readonly budget: Cost },
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<LexicalFeatures | null>> {
  if (source.texts === null) return ok(null);
  const reader = createLexicalBudgetReader(shape, options, budget, source.texts.bytes);
  if (reader === null) return ok(null);
  if (reader.hasRoom) {
    const unknownWords = [...noInputs.unknown_words];
    let count = 0;
    const add = (text: string) => {
      const bin = binUnknownWords(text);
      unknownWords[bin] = (unknownWords[bin] ?? 0) + 1;
      count++;
      return reader.add(text);
    };
    const readResult = await source.texts.forEachText(add, yieldToEventLoop);
    if (!readResult.ok) return readResult;
    if (count === source.examples) state.unknownWords = unknownWords;
  }
  const fitResult = reader.fit();
  if ("features" in fitResult) return ok(fitResult.features);
  const message =
    "With lexical features this training is beyond what one request may use. Leave 'lexical' at 'auto', which goes without them, or use fewer examples or shorter texts.";
  return fail("edge_budget_exceeded", message, {
    details: { estimate: fitResult.cost, budget },
    param: "hyperparameters.lexical",
  });
}
