/**
 * Which embeddings of a dataset KV has. A row of `blocks` has a block's key and, in `embedded`, a digit for each position:
 * 1 where the block has the embedding of the input that is there now. Triggers (schema.ts) set it to 0 when the input is
 * replaced or its example deleted.
 */
import { HASH_BYTES } from "../../core/block.ts";
import { toHex } from "../../lib/hash.ts";
import { toSeconds } from "../../lib/time.ts";
import { BLOCK_ROWS, BLOCK_TTL_SECONDS, hashAt } from "../../store/blocks.ts";
import type { StoredBlock } from "../../store/gather.ts";

/** What is recorded of a dataset and a backbone (`<id>@<revision>`). */
export interface StoredBlocks {
  /** The KV key of each block, by its number. */
  readonly keys: ReadonlyMap<number, string>;
  /** Whether the embedding of the present input at a position is stored. */
  readonly isEmbedded: (position: number) => boolean;
}

/** @param block one block alone, by its number; by default all */
export function readStoredBlocks(
  sql: SqlStorage,
  dataset: number,
  backbone: string,
  now: number,
  block?: number,
): StoredBlocks {
  const rows = sql
    .exec<{ block: number; key: string; embedded: string | null }>(
      `SELECT block, key, ${EMBEDDED} AS embedded FROM blocks
       WHERE dataset = ?2 AND backbone = ?3 AND block = coalesce(?4, block)`,
      toSeconds(now),
      dataset,
      backbone,
      block ?? null,
    )
    .toArray();
  const digits = new Map(rows.map(({ block, embedded }) => [block, embedded]));
  return {
    keys: new Map(rows.map(({ block, key }) => [block, key])),
    isEmbedded: (position) => digits.get(Math.floor(position / BLOCK_ROWS))?.[position % BLOCK_ROWS] === "1",
  };
}

/** SQL: the digits of a block, or null if an earlier build wrote it, or KV may have it no longer at the second ?1. */
const EMBEDDED = "iif(expires_at > ?1, embedded, NULL)";

/** How many present rows of a dataset have a stored embedding, by backbone. */
export function countEmbedded(sql: SqlStorage, dataset: number, now: number): Record<string, number> {
  const counts = sql
    .exec<{ backbone: string; rows: number }>(
      `SELECT backbone, sum(length(replace(${EMBEDDED}, '0', ''))) AS rows FROM blocks WHERE dataset = ?2
       GROUP BY backbone HAVING rows > 0`,
      toSeconds(now),
      dataset,
    )
    .toArray();
  return Object.fromEntries(counts.map(({ backbone, rows }) => [backbone, rows]));
}

/** Whether the embedding of each present row of a block is stored. It only counts, which is faster than to read the rows. */
export function isBlockComplete(
  sql: SqlStorage,
  dataset: number,
  backbone: string,
  block: number,
  now: number,
): boolean {
  const { rows, embedded } = sql
    .exec<{ rows: number; embedded: number }>(
      `SELECT (SELECT count(*) FROM examples WHERE dataset = ?2 AND position >= ?5 AND position < ?6) AS rows,
         (SELECT coalesce(sum(length(replace(${EMBEDDED}, '0', ''))), 0) FROM blocks
          WHERE dataset = ?2 AND backbone = ?3 AND block = ?4) AS embedded`,
      toSeconds(now),
      dataset,
      backbone,
      block,
      block * BLOCK_ROWS,
      (block + 1) * BLOCK_ROWS,
    )
    .one();
  return rows === embedded;
}

/** Whether a row refers to the block with this KV key. */
export function isBlockReferenced(sql: SqlStorage, key: string): boolean {
  return sql.exec("SELECT 1 FROM blocks WHERE key = ? LIMIT 1", key).toArray().length > 0;
}

/** Records the key of each block, and which present rows it has. Answers the keys that are no longer needed. */
export function recordBlocks(
  sql: SqlStorage,
  dataset: number,
  backbone: string,
  blocks: ReadonlyMap<number, StoredBlock>,
  now: number,
): string[] {
  if (sql.exec("SELECT 1 FROM datasets WHERE id = ?", dataset).toArray().length === 0)
    return [...blocks.values()].map(({ key }) => key);
  const replaced: string[] = [];
  for (const [block, { key, hashes }] of blocks) {
    const old = sql
      .exec<{ key: string; expires_at: number | null }>(
        "SELECT key, expires_at FROM blocks WHERE dataset = ? AND backbone = ? AND block = ?",
        dataset,
        backbone,
        block,
      )
      .toArray()[0];
    if (old !== undefined && old.key !== key) replaced.push(old.key);
    sql.exec(
      "INSERT OR REPLACE INTO blocks (dataset, backbone, block, key, embedded, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
      dataset,
      backbone,
      block,
      key,
      embeddedDigits(sql, dataset, block, hashes),
      (old?.key === key ? old.expires_at : null) ?? toSeconds(now) + BLOCK_TTL_SECONDS,
    );
  }
  return replaced;
}

/** A digit for each position of a block: 1 where the input's hash is among `hashes`. */
function embeddedDigits(sql: SqlStorage, dataset: number, block: number, hashes: Uint8Array): string {
  const stored = new Set(Array.from({ length: hashes.length / HASH_BYTES }, (_, i) => hashAt(hashes, i)));
  const digits = new Array<string>(BLOCK_ROWS).fill("0");
  const rows = sql.exec<{ position: number; input_hash: ArrayBuffer }>(
    "SELECT position, input_hash FROM examples WHERE dataset = ? AND position >= ? AND position < ?",
    dataset,
    block * BLOCK_ROWS,
    (block + 1) * BLOCK_ROWS,
  );
  for (const { position, input_hash } of rows)
    if (stored.has(toHex(new Uint8Array(input_hash)))) digits[position % BLOCK_ROWS] = "1";
  return digits.join("");
}
