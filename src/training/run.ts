/** A training inside one request: gather embeddings, fit in steps, store the bytes, then commit to the ledger. */
import { encodeHead } from "../core/codec.ts";
import { beyondBudget, type TrainingShape } from "../core/linear/cost.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import type { LexicalFeatures } from "../core/text/lexical.ts";
import { readLexicalWithin } from "../core/linear/lexical-budget.ts";
import { edgeBudget, limits } from "../core/limits.ts";
import type { Matrix } from "../core/tensors.ts";
import { type Trained, type TrainingOptions, train } from "../core/linear/train.ts";
import type { Turn } from "../store/embeddings.ts";
import { sha256Hex } from "../lib/hash.ts";
import { headKey } from "../store/keys.ts";
import { storeBytes } from "../store/published.ts";
import type { NewHead } from "../tenant/heads/heads.ts";
import { workerdTensors } from "../tensor/workerd.ts";
import { gatheringPlace, type Place, takePlace, trainingPlace } from "./slot.ts";
import type { TrainingSource } from "./source.ts";

/** Floating-point operations between two chances for other requests: some tens of milliseconds. */
const OPERATIONS_A_STEP = 400_000_000;

interface Fitted extends Trained {
  readonly operations: number;
  readonly embedded: number;
}

/** Why a training of this shape is beyond what one request may use, or null. */
export function beyondRequest(
  shape: TrainingShape,
  options: Pick<TrainingOptions, "l2" | "evaluation" | "lexical">,
): Failure | null {
  const estimated = beyondBudget(shape, options, edgeBudget);
  if (estimated === null) return null;
  const message =
    "This training is beyond what one request may use. Use fewer examples, shorter texts, or a backbone of fewer dimensions.";
  return { code: "edge_budget_exceeded", message, details: { estimate: estimated, budget: edgeBudget } };
}

const displaced = fail(
  "capacity_exceeded",
  "This training stood still for too long, and had to make room for another.",
  {
    retryAfter: 5,
  },
);

const unread = fail("storage_unavailable", "Embeddings just gathered could not be read again. Train again.", {
  retryAfter: 5,
});

/**
 * Trains a head. Refuses before it starts what is beyond the budget, and lets other requests in between its steps.
 * Everything that it took of the backend's memory is freed, also when it fails or is abandoned.
 */
export async function runTraining(
  source: TrainingSource,
  options: Omit<TrainingOptions, "budget">,
): Promise<Result<Fitted>> {
  const shape = {
    task: source.task,
    examples: source.examples,
    dimensions: source.dimensions,
    outputs: Math.max(1, source.targets.labels.length),
    textBytes: source.textBytes,
  };
  const beyond = beyondRequest(shape, options);
  if (beyond) return { ok: false, failure: beyond };
  const tensors = await workerdTensors();
  const features = new Map<number, Matrix>();
  let steps: ReturnType<typeof train> | undefined;
  const clean = () => {
    steps?.return({ ok: false, failure: { code: "capacity_exceeded", message: "abandoned" } });
    for (const matrix of features.values()) tensors.free(matrix);
    features.clear();
  };
  let abandoned = false;
  const held = new Map<Place, () => void>();
  const leave = (place: Place) => {
    held.get(place)?.();
    held.delete(place);
  };
  const take = async (place: Place) => {
    const taken = await takePlace(place, () => {
      abandoned = true;
      clean();
    });
    if (!taken.ok) return taken.failure;
    held.set(place, taken.value);
    return null;
  };
  try {
    const prepared = await source.prepare?.(async () => {
      if (abandoned) return displaced.failure;
      return held.has(gatheringPlace) ? null : take(gatheringPlace);
    });
    if (prepared?.ok === false) return prepared;
    const refused = await take(trainingPlace);
    if (refused !== null) return { ok: false, failure: refused };
    const breath = async () => {
      await scheduler.wait(0);
      return abandoned ? displaced.failure : null;
    };
    const turn = async () => {
      const refused = await breath();
      if (refused !== null) return refused;
      // All of it was there a moment ago, and to ask a remote backbone here would keep every training waiting.
      return source.prepare === null ? null : unread.failure;
    };
    const lexical = await readFeatures(source, shape, options, breath);
    if (!lexical.ok) return lexical;
    const gathered = await source.features((block, values) => {
      if (abandoned) return;
      features.set(block, tensors.matrix(values.length / source.dimensions, source.dimensions, values));
    }, turn);
    if (!gathered.ok) return gathered;
    // Some of its features are gone: what would be trained on the rest is not what was asked for.
    if (abandoned) return displaced;
    leave(gatheringPlace);
    const inOrder = [...features].sort(([a], [b]) => a - b).map(([, matrix]) => matrix);
    const set = { ...source, ...source.targets, features: inOrder, lexical: lexical.value };
    steps = train(tensors, set, { ...options, budget: edgeBudget });
    const embedded = (prepared?.value.embedded ?? 0) + gathered.value.embedded;
    let operations = 0;
    let sinceBreak = 0;
    for (;;) {
      const step = steps.next();
      if (step.done) return step.value.ok ? ok({ ...step.value.value, operations, embedded }) : step.value;
      operations += step.value;
      sinceBreak += step.value;
      if (sinceBreak < OPERATIONS_A_STEP) continue;
      sinceBreak = 0;
      await scheduler.wait(0);
      if (abandoned) return displaced;
    }
  } finally {
    clean();
    for (const place of [...held.keys()]) leave(place);
  }
}

/**
 * The texts' lexical features, in as many buckets as there is room for; or null where there are no texts, the head is to
 * have none, or under `auto` where the training would not fit with any.
 */
async function readFeatures(
  source: TrainingSource,
  shape: TrainingShape,
  options: Omit<TrainingOptions, "budget">,
  turn: Turn,
): Promise<Result<LexicalFeatures | null>> {
  if (source.texts === null) return ok(null);
  const reader = readLexicalWithin(shape, options, edgeBudget, source.texts.bytes);
  if (reader === null) return ok(null);
  if (reader.wanted) {
    const read = await source.texts.show(reader.add, turn);
    if (!read.ok) return read;
  }
  const fitted = reader.fit();
  if ("features" in fitted) return ok(fitted.features);
  const message =
    "With lexical features this training is beyond what one request may use. Leave 'lexical' at 'auto', which goes without them, or use fewer examples or shorter texts.";
  return fail("edge_budget_exceeded", message, {
    details: { estimate: fitted.beyond, budget: edgeBudget },
    param: "hyperparameters.lexical",
  });
}

/** A head that was trained here, as bytes and as the record of its version. */
export function recordOf(
  fitted: Fitted,
  head: Omit<NewHead, "labels" | "dimensions" | "training" | "evaluation" | "sha256" | "bytes" | "task">,
  milliseconds: number,
): { readonly bytes: Uint8Array; readonly record: NewHead } {
  const bytes = encodeHead(fitted.head);
  const { task, labels, dimensions } = fitted.head;
  const { examples, iterations, converged, objective, l2, temperature, lexical } = fitted.training;
  const record: NewHead = {
    ...head,
    task,
    labels,
    dimensions,
    training: { method: "head", examples, iterations, converged, objective, l2, temperature, lexical, milliseconds },
    evaluation: fitted.evaluation,
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
  const store = async () => {
    const stored = await storeBytes(bucket, headKey(tenantId, sha256), bytes).then(
      () => true,
      () => false,
    );
    if (stored) return commit(record);
    return fail("storage_unavailable", "The head's weights could not be stored. Train again.", { retryAfter: 5 });
  };
  const first = await store();
  // Equal bytes, which a deleted head had, may have been deleted in between: once more.
  const committed = first.ok || first.failure.code !== "storage_unavailable" ? first : await store();
  // The tenant is gone, and with it every version that could have these bytes: nothing else would find them any more.
  if (!committed.ok && committed.failure.code === "not_found")
    await bucket.delete(headKey(tenantId, sha256)).catch(() => undefined);
  return committed;
}
