/** A stored dataset as the source of a training. */
import type { Backbone } from "../backbones/backbone.ts";
import { embeddingWork, type YieldToEventLoop } from "../backbones/chunks.ts";
import { HASH_BYTES } from "../core/block.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { encodeTargets } from "../core/linear/targets.ts";
import { BLOCK_ROWS, matchesHash } from "../store/blocks.ts";
import { type GatherBlocksParams, gatherBlocks, type StoredBlock } from "../store/gather.ts";
import type { TrainingRows } from "../tenant/data/training-sets.ts";
import type { Ledger } from "../tenant/tenant.ts";
import {
  type BlockHandler,
  parseTargets,
  type TextSource,
  type TextVisitor,
  type TrainingSource,
  visitTexts,
} from "./source.ts";

/** Where a dataset lies. */
export interface DatasetStorage {
  readonly kv: KVNamespace;
  readonly tenant: string;
  readonly ledger: Ledger;
}

/** Records a block in KV in the ledger. Deletes it if the tenant is gone, since no sweep will come. */
export async function recordBlock(
  { kv, ledger }: Pick<DatasetStorage, "kv" | "ledger">,
  dataset: number,
  { id, revision }: Backbone,
  block: number,
  stored: StoredBlock,
): Promise<void> {
  const recorded = await ledger.recordBlocks(dataset, `${id}@${revision}`, new Map([[block, stored]]));
  if (!recorded.ok && recorded.failure.code === "not_found") await kv.delete(stored.key).catch(() => undefined);
}

/**
 * @param keepsEmbeddings whether what the backbone embeds is stored, for another source of these rows as well
 * @param maxConcurrentReads of blocks
 */
export function createDatasetSource(
  storage: DatasetStorage,
  rows: TrainingRows,
  backbone: Backbone | null,
  { keepsEmbeddings = true, maxConcurrentReads }: { keepsEmbeddings?: boolean; maxConcurrentReads?: number } = {},
): TrainingSource {
  const { kv, tenant, ledger } = storage;
  const { dataset } = rows;
  const retainedBlocks = new Map<number, Float32Array>();
  const readInputs = async (positions: readonly number[]) => {
    const read = await ledger.readInputs(dataset.id, positions, dataset.revision);
    return read.ok ? read.value : positions.map(() => null);
  };
  const gather = async (
    backbone: Backbone,
    onBlock: GatherBlocksParams["onBlock"],
    yieldToEventLoop: YieldToEventLoop,
  ) => {
    const record = (block: number, stored: StoredBlock) => {
      rows.blocks.set(block, stored.key);
      return recordBlock(storage, dataset.id, backbone, block, stored);
    };
    const work = { kv, tenant, backbone, rows, readInputs, retainedBlocks };
    const done = await gatherBlocks({
      ...work,
      yieldToEventLoop,
      onBlock,
      recordBlock: keepsEmbeddings ? record : null,
      maxConcurrentReads,
    });
    return done.failure === null ? ok({ embedded: done.embedded }) : { ok: false as const, failure: done.failure };
  };
  // What KV has stored is read again from there.
  const retain: GatherBlocksParams["onBlock"] = (block, values, stored) => {
    if (!stored) retainedBlocks.set(block, values);
  };
  const forEachText: TextSource["forEachText"] = (visit, yieldToEventLoop) =>
    visitStoredTexts(rows, readInputs, visit, yieldToEventLoop);
  return {
    task: dataset.task,
    modality: dataset.modality,
    dimensions: backbone?.dimensions ?? dataset.dimensions ?? 0,
    examples: rows.positions.length,
    textBytes: remainingWork(rows, backbone),
    groups: rows.groups,
    targets: encodeTargets(dataset.task, parseTargets(rows.targets), dataset.out_of_scope_label),
    prepare: backbone?.cost === "remote" ? (yieldToEventLoop) => gather(backbone, retain, yieldToEventLoop) : null,
    texts: backbone === null ? null : { bytes: rows.inputBytes, forEachText },
    gatherFeatures: async (deliver, yieldToEventLoop) => {
      if (backbone === null)
        return gatherOwnEmbeddings(rows, dataset.dimensions ?? 0, readInputs, deliver, yieldToEventLoop);
      const deliverAndRelease: BlockHandler = async (block, values) => {
        retainedBlocks.delete(block);
        await deliver(block, values);
        // Detached, the memory is free now. V8 would let many blocks gather before it collects them.
        if (values.buffer instanceof ArrayBuffer) values.buffer.transfer(0);
      };
      return gather(backbone, deliverAndRelease, yieldToEventLoop);
    },
  };
}

/** The work of embedding, where what is stored need not be embedded again: reading it costs a static backbone as much. */
function remainingWork({ inputBytes, positions, missingInputs }: TrainingRows, backbone: Backbone | null): number {
  return backbone?.cost === "local_cached"
    ? embeddingWork(backbone, missingInputs.bytes, missingInputs.count)
    : embeddingWork(backbone, inputBytes, positions.length);
}

export const datasetChanged = fail(
  "dataset_changed",
  "The dataset was changed while it was read. Send the request again.",
  {
    retryAfter: 1,
  },
);

/** Visits the texts of a stored dataset, which the ledger returns a block at a time. */
async function visitStoredTexts(
  rows: TrainingRows,
  readInputs: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>,
  visit: TextVisitor,
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<null>> {
  for (let start = 0; start < rows.positions.length; ) {
    const inputs = await readInputs(Array.from(rows.positions.subarray(start, start + BLOCK_ROWS)));
    const texts = inputs.filter((input) => typeof input === "string");
    if (
      texts.length === 0 ||
      texts.length < inputs.length ||
      texts.some((text, i) => !matchesHash(text, rows.inputHashes, start + i))
    )
      return datasetChanged;
    const visitResult = await visitTexts(texts, visit, yieldToEventLoop);
    if (!visitResult.ok) return visitResult;
    if (!visitResult.value) break;
    start += inputs.length;
  }
  return ok(null);
}

/** The caller's own embeddings are the inputs themselves: they need no backbone and no cache. */
async function gatherOwnEmbeddings(
  rows: TrainingRows,
  dimensions: number,
  readInputs: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>,
  deliver: BlockHandler,
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<{ embedded: number }>> {
  for (let start = 0; start < rows.positions.length; ) {
    const failure = await yieldToEventLoop();
    if (failure !== null) return { ok: false, failure };
    const inputs = await readInputs(Array.from(rows.positions.subarray(start, start + BLOCK_ROWS)));
    const values = new Float32Array(inputs.length * dimensions);
    for (const [i, input] of inputs.entries()) {
      if (!(input instanceof Uint8Array) || !matchesHash(input, rows.inputHashes, start + i)) return datasetChanged;
      values.set(new Float32Array(input.slice().buffer), i * dimensions);
    }
    await deliver(start, values);
    start += inputs.length;
  }
  return ok({ embedded: 0 });
}

/** Some rows of a training. */
export function pickRows(rows: TrainingRows, indices: readonly number[]): TrainingRows {
  const inputHashes = new Uint8Array(indices.length * HASH_BYTES);
  for (const [to, from] of indices.entries())
    inputHashes.set(rows.inputHashes.subarray(from * HASH_BYTES, (from + 1) * HASH_BYTES), to * HASH_BYTES);
  const share = indices.length / Math.max(1, rows.positions.length);
  return {
    ...rows,
    positions: Uint32Array.from(indices, (index) => rows.positions[index] ?? 0),
    inputHashes,
    groups: Int32Array.from(indices, (index) => rows.groups[index] ?? 0),
    targets: indices.map((index) => rows.targets[index] ?? ""),
    isPartial: true,
    // How long their texts are is known when they are read.
    inputBytes: Math.ceil(share * rows.inputBytes),
  };
}
