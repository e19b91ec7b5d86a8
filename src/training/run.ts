/** A training inside one request: gather embeddings, fit in steps, store the bytes, then commit to the ledger. */

import type { YieldToEventLoop } from "../backbones/chunks.ts";
import { encodeHead } from "../core/codec.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import { edgeBudget, limits } from "../core/limits.ts";
import { costIfOverBudget } from "../core/linear/cost.ts";
import { createLexicalBudgetReader } from "../core/linear/lexical-budget.ts";
import { train } from "../core/linear/train.ts";
import type { TrainingOptions, TrainingResult, TrainingShape } from "../core/linear/types.ts";
import { runSteps } from "../core/steps.ts";
import type { Matrix } from "../core/tensors.ts";
import type { LexicalFeatures } from "../core/text/lexical.ts";
import { sha256Hex } from "../lib/hash.ts";
import { storeBytes } from "../store/content-addressed.ts";
import { headKey } from "../store/keys.ts";
import type { NewHead } from "../tenant/heads/heads.ts";
import { workerdTensorBackend } from "../tensor/workerd.ts";
import { acquireSlot, gatheringSlot, type Slot, trainingSlot } from "./slot.ts";
import type { TrainingSource } from "./source.ts";

/** Floating-point operations between two chances for other requests: some tens of milliseconds. */
const OPERATIONS_PER_STEP = 400_000_000;

interface RequestTraining extends TrainingResult {
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
  return { code: "edge_budget_exceeded", message, details: { estimate: estimate, budget: edgeBudget } };
}

const preempted = fail(
  "capacity_exceeded",
  "This training stood still for too long, and had to make room for another.",
  {
    retryAfter: 5,
  },
);

const embeddingsLost = fail("storage_unavailable", "Embeddings just gathered could not be read again. Train again.", {
  retryAfter: 5,
});

/**
 * Trains a head. Refuses before it starts what is beyond the budget, and lets other requests in between its steps.
 * Everything that it took of the backend's memory is freed, also when it fails or is abandoned.
 */
export async function runTraining(
  source: TrainingSource,
  options: Omit<TrainingOptions, "budget">,
): Promise<Result<RequestTraining>> {
  const shape = {
    task: source.task,
    examples: source.examples,
    dimensions: source.dimensions,
    outputs: Math.max(1, source.targets.labels.length),
    textBytes: source.textBytes,
  };
  const budgetFailure = checkRequestBudget(shape, options);
  if (budgetFailure) return { ok: false, failure: budgetFailure };
  const tensors = await workerdTensorBackend();
  const features = new Map<number, Matrix>();
  let steps: ReturnType<typeof train> | undefined;
  const freeMemory = () => {
    steps?.return({ ok: false, failure: { code: "capacity_exceeded", message: "abandoned" } });
    for (const matrix of features.values()) tensors.free(matrix);
    features.clear();
  };
  let isPreempted = false;
  const heldSlots = new Map<Slot, () => void>();
  const releaseSlot = (slot: Slot) => {
    heldSlots.get(slot)?.();
    heldSlots.delete(slot);
  };
  const acquire = async (slot: Slot) => {
    const acquired = await acquireSlot(slot, () => {
      isPreempted = true;
      freeMemory();
    });
    if (!acquired.ok) return acquired.failure;
    heldSlots.set(slot, acquired.value);
    return null;
  };
  try {
    const prepared = await source.prepare?.(async () => {
      if (isPreempted) return preempted.failure;
      return heldSlots.has(gatheringSlot) ? null : acquire(gatheringSlot);
    });
    if (prepared?.ok === false) return prepared;
    const slotFailure = await acquire(trainingSlot);
    if (slotFailure !== null) return { ok: false, failure: slotFailure };
    const yieldToEventLoop = async () => {
      await scheduler.wait(0);
      return isPreempted ? preempted.failure : null;
    };
    const beforeEmbedding = async () => {
      const failure = await yieldToEventLoop();
      if (failure !== null) return failure;
      // All of it was there a moment ago, and to ask a remote backbone here would keep every training waiting.
      return source.prepare === null ? null : embeddingsLost.failure;
    };
    const lexical = await readLexicalFeatures(source, shape, options, yieldToEventLoop);
    if (!lexical.ok) return lexical;
    const gathered = await source.gatherFeatures((block, values) => {
      if (isPreempted) return;
      features.set(block, tensors.matrix(values.length / source.dimensions, source.dimensions, values));
    }, beforeEmbedding);
    if (!gathered.ok) return gathered;
    // Some of its features are gone: what would be trained on the rest is not what was asked for.
    if (isPreempted) return preempted;
    releaseSlot(gatheringSlot);
    const featureBlocks = [...features].sort(([a], [b]) => a - b).map(([, matrix]) => matrix);
    const trainingData = { ...source, ...source.targets, features: featureBlocks, lexical: lexical.value };
    steps = train(tensors, trainingData, { ...options, budget: edgeBudget });
    const embedded = (prepared?.value.embedded ?? 0) + gathered.value.embedded;
    const { value: result, operations } = await runSteps(steps, OPERATIONS_PER_STEP, async () => {
      await scheduler.wait(0);
      return isPreempted ? preempted : undefined;
    });
    return result.ok ? ok({ ...result.value, operations, embedded }) : result;
  } finally {
    freeMemory();
    for (const slot of [...heldSlots.keys()]) releaseSlot(slot);
  }
}

/**
 * The texts' lexical features, in as many buckets as there is room for; or null where there are no texts, the head is to
 * have none, or under `auto` where the training would not fit with any.
 */
async function readLexicalFeatures(
  source: TrainingSource,
  shape: TrainingShape,
  options: Omit<TrainingOptions, "budget">,
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<LexicalFeatures | null>> {
  if (source.texts === null) return ok(null);
  const reader = createLexicalBudgetReader(shape, options, edgeBudget, source.texts.bytes);
  if (reader === null) return ok(null);
  if (reader.hasRoom) {
    const readResult = await source.texts.forEachText(reader.add, yieldToEventLoop);
    if (!readResult.ok) return readResult;
  }
  const fitResult = reader.fit();
  if ("features" in fitResult) return ok(fitResult.features);
  const message =
    "With lexical features this training is beyond what one request may use. Leave 'lexical' at 'auto', which goes without them, or use fewer examples or shorter texts.";
  return fail("edge_budget_exceeded", message, {
    details: { estimate: fitResult.cost, budget: edgeBudget },
    param: "hyperparameters.lexical",
  });
}

/** A head that was trained here, as bytes and as the record of its version. */
export function toHeadRecord(
  result: RequestTraining,
  head: Omit<NewHead, "labels" | "dimensions" | "training" | "evaluation" | "sha256" | "bytes" | "task">,
  milliseconds: number,
): { readonly bytes: Uint8Array; readonly record: NewHead } {
  const bytes = encodeHead(result.head);
  const { task, labels, dimensions } = result.head;
  const { examples, iterations, converged, objective, l2, temperature, lexical } = result.training;
  const record: NewHead = {
    ...head,
    task,
    labels,
    dimensions,
    training: { method: "head", examples, iterations, converged, objective, l2, temperature, lexical, milliseconds },
    evaluation: result.evaluation,
    sha256: sha256Hex(bytes),
    bytes: bytes.length,
  };
  return { bytes, record };
}

/** Stores a head, trained here or at a batch endpoint: bytes first, then the ledger by `commit`, which publishes them. */
export async function storeHead<T>(
  bucket: R2Bucket,
  tenantId: string,
  bytes: Uint8Array,
  record: NewHead,
  commit: (head: NewHead) => Promise<Result<T>>,
): Promise<Result<T>> {
  const { sha256 } = record;
  const size = Buffer.byteLength(JSON.stringify(record));
  if (size > limits.head_record_bytes) {
    const limit = limits.head_record_bytes;
    const message = `A head's labels and evaluation have at most ${limit} bytes as JSON; these have ${size}. Use fewer or shorter labels.`;
    return fail("limit_exceeded", message, { details: { limit, actual: size } });
  }
  const storeAndCommit = async () => {
    const stored = await storeBytes(bucket, headKey(tenantId, sha256), bytes).then(
      () => true,
      () => false,
    );
    if (stored) return commit(record);
    return fail("storage_unavailable", "The head's weights could not be stored. Train again.", { retryAfter: 5 });
  };
  const first = await storeAndCommit();
  // Equal bytes, which a deleted head had, may have been deleted in between: once more.
  const result = first.ok || first.failure.code !== "storage_unavailable" ? first : await storeAndCommit();
  // The tenant is gone, and with it every version that could have these bytes: nothing else would find them any more.
  if (!result.ok && result.failure.code === "not_found")
    await bucket.delete(headKey(tenantId, sha256)).catch(() => undefined);
  return result;
}
