/** Gathers the embeddings of a whole training set: from cached blocks, and from the backbone what no block has. */
import type { Backbone } from "../backbones/backbone.ts";
import { embedInChunks, type YieldToEventLoop } from "../backbones/chunks.ts";
import { type Block, HASH_BYTES, roundRows } from "../core/block.ts";
import { type Failure, fail } from "../core/failure.ts";
import { visibleText } from "../core/text/visible.ts";
import { toHex } from "../lib/hash.ts";
import {
  BLOCK_ROWS,
  blockPrecision,
  hashAt,
  joinBlocks,
  matchesHash,
  readBlock,
  selectRows,
  writeBlock,
} from "./blocks.ts";

/** Blocks read at once, because the platform opens six connections a request. Fewer if they are large. */
const MAX_CONCURRENT_READS = 4;
const MAX_READ_BYTES = 8_000_000;

/** The rows of a dataset to gather. Their inputs are read only where no embedding is cached. */
export interface RowsToEmbed {
  readonly dataset: { readonly id: number };
  /** The position of each row, ascending. */
  readonly positions: Uint32Array;
  /** rows × HASH_BYTES */
  readonly inputHashes: Uint8Array;
  /** The KV key of each block that was written for this backbone, by block number. */
  readonly blocks: ReadonlyMap<number, string>;
  /** The blocks that have a row which is not recorded as embedded. */
  readonly incompleteBlocks: ReadonlySet<number>;
  /** Whether these are no more than a part of the present rows, or past ones: their blocks have others, which stay. */
  readonly isPartial: boolean;
}

/** A block in KV, as the ledger records it. */
export interface StoredBlock {
  readonly key: string;
  /** The hashes of the inputs whose embeddings it has: rows × HASH_BYTES. */
  readonly hashes: Uint8Array;
}

export interface GatherBlocksParams {
  readonly kv: KVNamespace;
  readonly tenant: string;
  readonly backbone: Backbone;
  readonly rows: RowsToEmbed;
  /** Reads the inputs at these positions, or only the first of them if they are large; null for a deleted example. */
  readonly readInputs: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>;
  readonly yieldToEventLoop: YieldToEventLoop;
  /**
   * Takes each block's embeddings (rows × dimensions), in the order of the rows; block numbers ascend. `stored`: KV has
   * them. For a remote backbone, which would have to be called again, it was read back. What it returns is awaited.
   */
  readonly onBlock: (block: number, values: Float32Array, stored: boolean) => unknown;
  /**
   * Records a block in the ledger, before the next block is embedded: an interrupted gathering resumes there. null: what is
   * embedded is not kept.
   */
  readonly recordBlock: ((block: number, stored: StoredBlock) => Promise<unknown>) | null;
  /** Blocks read at once, each of which waits in memory for its turn. */
  readonly maxConcurrentReads?: number | undefined;
  /** Blocks that an earlier gathering delivered and KV did not store. */
  readonly retainedBlocks: ReadonlyMap<number, Float32Array>;
}

export interface GatherResult {
  readonly embedded: number;
  readonly cached: number;
  readonly failure: Failure | null;
}

/**
 * Gathers block by block: reads a few blocks at once, and embeds one block's missing rows at a time, so that at most one
 * block's texts are in memory. Rows embedded before a failure are stored.
 */
export async function gatherBlocks(params: GatherBlocksParams): Promise<GatherResult> {
  const ranges = splitIntoBlocks(params.rows.positions);
  const blockBytes = 4 * BLOCK_ROWS * params.backbone.dimensions;
  const { maxConcurrentReads = MAX_CONCURRENT_READS } = params;
  const concurrency = Math.max(1, Math.min(maxConcurrentReads, Math.floor(MAX_READ_BYTES / blockBytes)));
  let embedded = 0;
  let cached = 0;
  for (let start = 0; start < ranges.length; start += concurrency) {
    const group = ranges.slice(start, start + concurrency);
    const blocks = await Promise.all(group.map((range) => readKnownBlock(params, range)));
    for (const [i, range] of group.entries()) {
      // Copying a block takes some milliseconds, and KV may answer all of them at once.
      await scheduler.wait(0);
      const result = await gatherBlock(params, range, blocks[i] ?? null);
      embedded += result.embedded;
      cached += result.cached;
      if (result.failure !== null) return { embedded, cached, failure: result.failure };
    }
  }
  return { embedded, cached, failure: null };
}

/** The rows from `start` to before `end`, which are in one block. */
interface BlockRange {
  readonly block: number;
  readonly start: number;
  readonly end: number;
}

function splitIntoBlocks(positions: Uint32Array): BlockRange[] {
  const ranges: BlockRange[] = [];
  let start = 0;
  for (let end = 1; end <= positions.length; end++) {
    const block = Math.floor((positions[start] ?? 0) / BLOCK_ROWS);
    if (end < positions.length && Math.floor((positions[end] ?? 0) / BLOCK_ROWS) === block) continue;
    ranges.push({ block, start, end });
    start = end;
  }
  return ranges;
}

async function readKnownBlock(
  { kv, rows, backbone, retainedBlocks }: GatherBlocksParams,
  range: BlockRange,
): Promise<Block | null> {
  const { dimensions } = backbone;
  const values = retainedBlocks.get(range.block);
  if (values !== undefined) return { dimensions, hashes: hashesInRange(rows, range), rows: values };
  const key = rows.blocks.get(range.block);
  return key === undefined ? null : readBlock(kv, key, dimensions);
}

function hashesInRange(rows: RowsToEmbed, range: BlockRange): Uint8Array {
  return rows.inputHashes.subarray(range.start * HASH_BYTES, range.end * HASH_BYTES);
}

/** A block's embeddings: the rows that `block` from KV has, and the others embedded now. */
async function gatherBlock(params: GatherBlocksParams, range: BlockRange, block: Block | null): Promise<GatherResult> {
  const { kv, tenant, backbone, rows } = params;
  const { dimensions } = backbone;
  const count = range.end - range.start;
  const hashes = hashesInRange(rows, range);
  if (block && toHex(block.hashes) === toHex(hashes)) {
    await recordUnchanged(params, range, block);
    await params.onBlock(range.block, block.rows, true);
    return { embedded: 0, cached: count, failure: null };
  }

  const values = new Float32Array(count * dimensions);
  const knownRows = block === null ? new Set<number>() : copyKnownRows(block, hashes, values);
  const cached = knownRows.size;
  const failure = await embedMissingRows(params, range, values, knownRows);
  let stored = knownRows.size === cached;
  if (stored && block) await recordUnchanged(params, range, block);
  if (!stored && params.recordBlock !== null) {
    const target = { kv, tenant, dataset: rows.dataset.id, backbone, blockNumber: range.block };
    const own = selectRows({ dimensions, hashes, rows: values }, knownRows);
    const written = rows.isPartial && block !== null ? joinBlocks(block, own) : own;
    const key = await writeBlock(target, written);
    if (key !== null) await params.recordBlock(range.block, { key, hashes: written.hashes });
    stored = key !== null && (backbone.cost !== "remote" || (await readBlock(kv, key, dimensions)) !== null);
  }
  if (knownRows.size === count) await params.onBlock(range.block, values, stored);
  return { embedded: knownRows.size - cached, cached, failure };
}

/** Records the rows of a block in KV that needs no change, where the ledger does not know of all of them. */
async function recordUnchanged(
  { rows, retainedBlocks, recordBlock }: GatherBlocksParams,
  range: BlockRange,
  { hashes }: Block,
): Promise<void> {
  const key = rows.blocks.get(range.block);
  if (key === undefined || retainedBlocks.has(range.block) || !rows.incompleteBlocks.has(range.block)) return;
  await recordBlock?.(range.block, { key, hashes });
}

/** Copies into `values` the rows of a block whose hashes are among `hashes`. Returns the indices of the copied rows. */
function copyKnownRows(block: Block, hashes: Uint8Array, values: Float32Array): Set<number> {
  const { dimensions } = block;
  const rowByHash = new Map<string, number>();
  for (let i = 0; i < block.hashes.length / HASH_BYTES; i++) rowByHash.set(hashAt(block.hashes, i), i);
  const knownRows = new Set<number>();
  for (let i = 0; i < hashes.length / HASH_BYTES; i++) {
    const row = rowByHash.get(hashAt(hashes, i));
    if (row === undefined) continue;
    values.set(block.rows.subarray(row * dimensions, (row + 1) * dimensions), i * dimensions);
    knownRows.add(i);
  }
  return knownRows;
}

/** Embeds the rows of a range that are not known, into `values`, and adds them to `knownRows`. */
async function embedMissingRows(
  { backbone, rows, readInputs, yieldToEventLoop }: GatherBlocksParams,
  range: BlockRange,
  values: Float32Array,
  knownRows: Set<number>,
): Promise<Failure | null> {
  const { dimensions } = backbone;
  const precision = blockPrecision(backbone);
  const hashes = hashesInRange(rows, range);
  const positions = rows.positions.subarray(range.start, range.end);
  const missing = [...positions].flatMap((position, index) => (knownRows.has(index) ? [] : [{ index, position }]));
  for (let offset = 0; offset < missing.length; ) {
    const inputs = await readInputs(missing.slice(offset).map(({ position }) => position));
    const chunk = missing.slice(offset, offset + inputs.length);
    const texts = inputs.filter((input) => typeof input === "string");
    const unchanged =
      texts.length === chunk.length && chunk.every(({ index }, nth) => matchesHash(texts[nth] ?? "", hashes, index));
    if (texts.length === 0 || !unchanged) return datasetChangedFailure;
    const result = await embedInChunks(backbone, texts.map(visibleText), yieldToEventLoop);
    for (const [nth, { index }] of chunk.entries()) {
      const row = result.rows[nth];
      if (row === undefined) continue;
      // So embeddings are the same whether they were just computed or are read again later.
      const start = index * dimensions;
      values.set(row, start);
      if (precision === "int8") roundRows(values.subarray(start, start + dimensions), dimensions);
      knownRows.add(index);
    }
    if (result.failure !== null) return result.failure;
    offset += chunk.length;
  }
  return null;
}

const { failure: datasetChangedFailure } = fail(
  "dataset_changed",
  "The dataset was changed while its embeddings were gathered. Send the request again.",
  { retryAfter: 1 },
);
