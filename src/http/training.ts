/** A training inside one request: gather embeddings, fit in steps, store the bytes, then commit to the ledger. */
import type { Backbone } from "../backbones/backbone.ts";
import { encodeHead } from "../core/codec.ts";
import { estimate, type TrainingShape } from "../core/cost.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import { edgeBudget, limits } from "../core/limits.ts";
import type { Matrix } from "../core/tensors.ts";
import { type Trained, type TrainingOptions, type TrainingSet, train } from "../core/train.ts";
import { BLOCK_ROWS, gatherBlocks, sameHash, toFailure, tooFew } from "../store/embeddings.ts";
import { hex, sha256Hex, shortHash } from "../store/hash.ts";
import { putHead } from "../store/heads.ts";
import type { DatasetModality } from "../tenant/datasets.ts";
import type { StoredExample } from "../tenant/examples.ts";
import type { HeadObject, NewHead } from "../tenant/heads.ts";
import type { Remote, Tenant } from "../tenant/tenant.ts";
import type { TrainingRows } from "../tenant/training-sets.ts";
import { workerdTensors } from "../tensor/workerd.ts";

/** Floating-point operations between two chances for other requests: some tens of milliseconds. */
const OPERATIONS_A_STEP = 400_000_000;
/** How long a training waits for the one before it. */
const PATIENCE_MS = 10_000;
/** A training that holds its place longer than the platform lets any request run has been ended by the platform. */
const DEAD_MS = 200_000;

/** The one training of this isolate: arrays of two would not fit its memory. */
let running: { readonly since: number; readonly abandon: () => void } | null = null;

/** Takes the isolate's one place for a training, waiting a little for it. `abandon` frees what the holder left. */
async function takePlace(abandon: () => void): Promise<Result<() => void>> {
  const asked = Date.now();
  while (running !== null) {
    if (Date.now() - running.since > DEAD_MS) {
      running.abandon();
      break;
    }
    if (Date.now() - asked > PATIENCE_MS) {
      return fail("capacity_exceeded", "Another training is running here. Try again in a few seconds.", {
        retryAfter: 5,
      });
    }
    await scheduler.wait(50);
  }
  const place = { since: Date.now(), abandon };
  running = place;
  return ok(() => {
    if (running === place) running = null;
  });
}

type Deliver = (block: number, values: Float32Array) => void;

/** What a training reads, whichever way it came. */
export interface TrainingSource {
  readonly task: Task;
  readonly modality: DatasetModality;
  readonly dimensions: number;
  readonly examples: number;
  readonly groups: Int32Array;
  readonly targets: TargetSet;
  /** Whether gathering may take minutes the first time; the second time it reads what the first has cached. */
  readonly slow: boolean;
  /** Gathers the embeddings as blocks (rows × dimensions each), in any order; the blocks' numbers rise with the rows. */
  readonly features: (deliver: Deliver) => Promise<Result<{ embedded: number }>>;
}

interface TargetSet {
  readonly labels: readonly string[];
  readonly targets: TrainingSet["targets"];
}

/** Sorted labels, and each row's target in terms of them; rows of the out-of-scope label belong to none. */
function readTargets(task: Task, json: readonly string[], outOfScopeLabel: string | null): TargetSet {
  if (task === "regression")
    return {
      labels: [],
      targets: { kind: "value", values: Float64Array.from(json, (text) => JSON.parse(text) as number) },
    };
  const parsed = json.map((text) => JSON.parse(text) as string | string[]);
  const labels = [...new Set(parsed.flat())].filter((label) => label !== outOfScopeLabel).sort();
  const index = new Map(labels.map((label, i) => [label, i]));
  const at = (label: string) => index.get(label) ?? -1;
  return {
    labels,
    targets:
      task === "single_label"
        ? { kind: "single", indices: Int32Array.from(parsed, (label) => at(label as string)) }
        : { kind: "multi", indices: parsed.map((list) => (list as string[]).map(at)) },
  };
}

/** A stored data set as the source of a training. */
export function datasetSource(
  kv: KVNamespace,
  tenantId: string,
  tenant: Remote<Tenant>,
  rows: TrainingRows,
  backbone: Backbone | null,
): TrainingSource {
  const { dataset } = rows;
  const blocks = new Map(rows.blocks);
  const readInputs = async (positions: readonly number[]) => {
    const all: (string | Uint8Array | null)[] = [];
    while (all.length < positions.length) {
      const inputs = await tenant.readInputs(dataset.id, positions.slice(all.length));
      if (!inputs.ok) return positions.map(() => null);
      all.push(...inputs.value);
    }
    return all;
  };
  return {
    task: dataset.task,
    modality: dataset.modality,
    dimensions: backbone?.dimensions ?? dataset.dimensions ?? 0,
    examples: rows.positions.length,
    groups: rows.groups,
    targets: readTargets(dataset.task, rows.targets, dataset.out_of_scope_label),
    slow: backbone?.cost === "remote",
    features: async (deliver) => {
      if (backbone === null) return ownEmbeddings(rows, dataset.dimensions ?? 0, readInputs, deliver);
      const work = { kv, tenant: tenantId, backbone, rows: { ...rows, blocks }, inputs: readInputs, deliver };
      const done = await gatherBlocks(work);
      for (const [block, key] of done.written) blocks.set(block, key);
      if (done.written.size > 0)
        await tenant.recordBlocks(dataset.id, `${backbone.id}@${backbone.revision}`, done.written);
      return done.failure === null ? ok({ embedded: done.embedded }) : { ok: false, failure: done.failure };
    },
  };
}

/** The caller's own embeddings need no backbone and no cache: they are the inputs. */
async function ownEmbeddings(
  rows: TrainingRows,
  dimensions: number,
  read: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>,
  deliver: Deliver,
): Promise<Result<{ embedded: number }>> {
  for (let start = 0; start < rows.positions.length; start += BLOCK_ROWS) {
    const inputs = await read(Array.from(rows.positions.subarray(start, start + BLOCK_ROWS)));
    const values = new Float32Array(inputs.length * dimensions);
    for (const [i, input] of inputs.entries()) {
      if (!(input instanceof Uint8Array) || !sameHash(shortHash(input), rows.inputHashes, start + i))
        return fail("dataset_changed", "The dataset was changed while it was read. Train again.", { retryAfter: 1 });
      values.set(new Float32Array(input.slice().buffer), i * dimensions);
    }
    deliver(start, values);
  }
  return ok({ embedded: 0 });
}

/** Examples sent with the request as the source of a training. */
export function inlineSource(
  task: Task,
  examples: readonly StoredExample[],
  backbone: Backbone | null,
  dimensions: number,
): TrainingSource {
  const groups = new Map<string, number>();
  return {
    task,
    modality: backbone === null ? "embedding" : "text",
    dimensions,
    examples: examples.length,
    groups: Int32Array.from(examples, ({ groupHash }) => {
      const key = hex(groupHash);
      const number = groups.get(key) ?? groups.size;
      groups.set(key, number);
      return number;
    }),
    targets: readTargets(
      task,
      examples.map(({ target }) => target),
      null,
    ),
    slow: false,
    features: async (deliver) => {
      for (let start = 0; start < examples.length; start += BLOCK_ROWS) {
        const inputs = examples.slice(start, start + BLOCK_ROWS).map(({ input }) => input);
        const values = new Float32Array(inputs.length * dimensions);
        if (backbone === null) {
          inputs.forEach((input, i) => {
            if (input instanceof Uint8Array) values.set(new Float32Array(input.slice().buffer), i * dimensions);
          });
        } else {
          const embedded = await backbone.embed(inputs.filter((input) => typeof input === "string"));
          if (embedded.failure) return { ok: false, failure: toFailure(embedded.failure) };
          for (const i of inputs.keys()) {
            const row = embedded.rows[i];
            if (row?.length !== dimensions) return { ok: false, failure: toFailure(tooFew) };
            values.set(row, i * dimensions);
          }
        }
        deliver(start, values);
      }
      return ok({ embedded: examples.length });
    },
  };
}

interface Fitted extends Trained {
  readonly operations: number;
  readonly embedded: number;
}

/** Why a training of this shape is beyond what one request may use, or null. */
export function beyondBudget(
  shape: TrainingShape,
  options: Pick<TrainingOptions, "l2" | "evaluation">,
): Failure | null {
  const estimated = estimate(shape, options);
  if (!(estimated.bytes > edgeBudget.bytes || estimated.operations > edgeBudget.operations)) return null;
  const message =
    "This training is beyond what one request may use. Use fewer examples, or a backbone of fewer dimensions.";
  return { code: "edge_budget_exceeded", message, details: { estimate: estimated, budget: edgeBudget } };
}

const displaced = fail("capacity_exceeded", "This training took too long, and had to make room for another.", {
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
  };
  const beyond = beyondBudget(shape, options);
  if (beyond) return { ok: false, failure: beyond };
  // A tenant's slow backbone keeps no other tenant's training waiting: it is asked before the place is taken.
  const asked = source.slow ? await source.features(() => undefined) : ok({ embedded: 0 });
  if (!asked.ok) return asked;
  const tensors = await workerdTensors();
  const features = new Map<number, Matrix>();
  let steps: ReturnType<typeof train> | undefined;
  const clean = () => {
    steps?.return({ ok: false, failure: { code: "capacity_exceeded", message: "abandoned" } });
    for (const matrix of features.values()) tensors.free(matrix);
    features.clear();
  };
  let abandoned = false;
  const place = await takePlace(() => {
    abandoned = true;
    clean();
  });
  if (!place.ok) return place;
  try {
    const gathered = await source.features((block, values) => {
      if (abandoned) return;
      features.set(block, tensors.matrix(values.length / source.dimensions, source.dimensions, values));
    });
    if (!gathered.ok) return gathered;
    // Some of its features are gone: what would be trained on the rest is not what was asked for.
    if (abandoned) return displaced;
    const inOrder = [...features].sort(([a], [b]) => a - b).map(([, matrix]) => matrix);
    steps = train(tensors, { ...source, ...source.targets, features: inOrder }, { ...options, budget: edgeBudget });
    let operations = 0;
    let sinceBreak = 0;
    for (;;) {
      const step = steps.next();
      if (step.done)
        return step.value.ok
          ? ok({ ...step.value.value, operations, embedded: asked.value.embedded + gathered.value.embedded })
          : step.value;
      operations += step.value;
      sinceBreak += step.value;
      if (sinceBreak < OPERATIONS_A_STEP) continue;
      sinceBreak = 0;
      await scheduler.wait(0);
      if (abandoned) return displaced;
    }
  } finally {
    clean();
    place.value();
  }
}

/** Stores a trained head: bytes first, then the ledger, which publishes them. */
export async function storeHead(
  bucket: R2Bucket,
  tenantId: string,
  tenant: Remote<Tenant>,
  fitted: Fitted,
  head: Omit<NewHead, "labels" | "dimensions" | "training" | "evaluation" | "sha256" | "bytes" | "task">,
  milliseconds: number,
  promote: boolean,
  claim: string | null,
): Promise<Result<HeadObject>> {
  const bytes = encodeHead(fitted.head);
  const sha256 = sha256Hex(bytes);
  const { examples, iterations, converged, objective, l2, temperature } = fitted.training;
  const record: NewHead = {
    ...head,
    task: fitted.head.task,
    labels: fitted.head.labels,
    dimensions: fitted.head.dimensions,
    training: { method: "head", examples, iterations, converged, objective, l2, temperature, milliseconds },
    evaluation: fitted.evaluation,
    sha256,
    bytes: bytes.length,
  };
  const size = Buffer.byteLength(JSON.stringify(record));
  if (size > limits.head_record_bytes) {
    const limit = limits.head_record_bytes;
    const message = `A head's labels and evaluation have at most ${limit} bytes as JSON; these have ${size}. Use fewer or shorter labels.`;
    return fail("limit_exceeded", message, { details: { limit, actual: size } });
  }
  const store = async () => {
    const stored = await putHead(bucket, tenantId, sha256, bytes).then(
      () => true,
      () => false,
    );
    if (stored) return tenant.commitHead(claim, record, promote);
    return fail("storage_unavailable", "The head's weights could not be stored. Train again.", { retryAfter: 5 });
  };
  const committed = await store();
  // Equal bytes, which a deleted head had, may have been deleted in between: once more.
  return committed.ok || committed.failure.code !== "storage_unavailable" ? committed : store();
}
