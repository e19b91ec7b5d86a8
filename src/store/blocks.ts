/**
 * A dataset's embeddings in KV, one value for a block of up to BLOCK_ROWS rows. A block that KV loses, refuses or answers
 * wrongly is read as missing: its rows are embedded again.
 */
import type { Backbone } from "../backbones/backbone.ts";
import { type Block, type BlockPrecision, decodeBlock, encodeBlock, HASH_BYTES } from "../core/block.ts";
import { shortHash, toHex } from "../lib/hash.ts";
import { blockKey } from "./keys.ts";

/** How many positions of a dataset share a block. */
export const BLOCK_ROWS = 1024;
/** Reading a block does not extend its life. A block that has expired is made again. */
export const BLOCK_TTL_SECONDS = 60 * 24 * 3600;

/** The block under a key; null if KV has none, refuses, or answers other bytes than those that the key names. */
export async function readBlock(kv: KVNamespace, key: string, dimensions: number): Promise<Block | null> {
  const value = await kv.get(key, "arrayBuffer").catch(() => null);
  if (value === null) return null;
  const bytes = new Uint8Array(value);
  return key.endsWith(`-${toHex(shortHash(bytes))}`) ? decodeBlock(bytes, dimensions) : null;
}

export interface BlockTarget {
  readonly kv: KVNamespace;
  readonly tenant: string;
  readonly dataset: number;
  readonly backbone: Pick<Backbone, "id" | "revision" | "cost">;
  readonly blockNumber: number;
}

/** Embeddings of many dimensions that take this isolate's time are kept in 8 bits a number. */
export function blockPrecision({ cost }: Pick<Backbone, "cost">): BlockPrecision {
  return cost === "local_cached" ? "int8" : "float32";
}

/** Writes a block. Returns its key, or null if KV refuses it. */
export async function writeBlock(
  { kv, tenant, dataset, backbone, blockNumber }: BlockTarget,
  block: Block,
): Promise<string | null> {
  const bytes = encodeBlock(block, blockPrecision(backbone));
  // The id of a fine-tuned backbone has a name that its tenant chose. Keys have none: they may outlast their values.
  const name = `${backbone.id.startsWith("ft:") ? "ft" : backbone.id}@${backbone.revision}`;
  const key = blockKey(tenant, dataset, name, blockNumber, toHex(shortHash(bytes)));
  return kv.put(key, bytes, { expirationTtl: BLOCK_TTL_SECONDS }).then(
    () => key,
    () => null,
  );
}

/** When a block in a listing of KV was written, in milliseconds. KV lists its expiry, and all blocks live equally long. */
export function blockWrittenAt(key: KVNamespaceListKey<unknown>): number {
  return ((key.expiration ?? 0) - BLOCK_TTL_SECONDS) * 1000;
}

/** Whether the hash at `index` is this input's. */
export function matchesHash(input: string | Uint8Array, hashes: Uint8Array, index: number): boolean {
  return toHex(shortHash(input)) === hashAt(hashes, index);
}

export function hashAt(hashes: Uint8Array, index: number): string {
  return toHex(hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES));
}

/**
 * The rows of a block, and behind them those of another that it does not have. Of the first block it takes BLOCK_ROWS at
 * most, so that rows which are joined to it again and again do not pile up.
 */
export function joinBlocks(first: Block, second: Block): Block {
  const { dimensions } = first;
  const firstRows = Math.min(first.hashes.length / HASH_BYTES, BLOCK_ROWS);
  const known = new Set(Array.from({ length: firstRows }, (_, i) => hashAt(first.hashes, i)));
  const indices = Array.from({ length: second.hashes.length / HASH_BYTES }, (_, i) => i);
  const added = selectRows(second, new Set(indices.filter((i) => !known.has(hashAt(second.hashes, i)))));
  const hashes = new Uint8Array(firstRows * HASH_BYTES + added.hashes.length);
  hashes.set(first.hashes.subarray(0, firstRows * HASH_BYTES));
  hashes.set(added.hashes, firstRows * HASH_BYTES);
  const rows = new Float32Array(firstRows * dimensions + added.rows.length);
  rows.set(first.rows.subarray(0, firstRows * dimensions));
  rows.set(added.rows, firstRows * dimensions);
  return { dimensions, hashes, rows };
}

/** Some rows of a block, as a block. */
export function selectRows(block: Block, indices: ReadonlySet<number>): Block {
  const { dimensions, hashes, rows } = block;
  if (indices.size * HASH_BYTES === hashes.length) return block;
  const selected = {
    dimensions,
    hashes: new Uint8Array(indices.size * HASH_BYTES),
    rows: new Float32Array(indices.size * dimensions),
  };
  let to = 0;
  for (const from of indices) {
    selected.hashes.set(hashes.subarray(from * HASH_BYTES, (from + 1) * HASH_BYTES), to * HASH_BYTES);
    selected.rows.set(rows.subarray(from * dimensions, (from + 1) * dimensions), to * dimensions);
    to++;
  }
  return selected;
}
