/**
 * Embedding a dataset's texts ahead of its trainings, in the background. Changes of the examples schedule the task
 * `embed_dataset`, which has the Worker embed a piece at a time: the ledger's object has other calls to serve. What is
 * embedded is recorded (blocks.ts), so a task that is cut off, or runs again, embeds only what is missing.
 */
import { backbonesToEmbedAhead } from "../../backbones/workerd.ts";
import { HASH_BYTES } from "../../core/block.ts";
import { ok, type Result } from "../../core/failure.ts";
import { makeEmbeddingToken } from "../../jobs/token.ts";
import { toMilliseconds } from "../../lib/time.ts";
import { BLOCK_ROWS } from "../../store/blocks.ts";
import type { RowsToEmbed } from "../../store/gather.ts";
import { MAX_CALLS_PER_EMBEDDING, schedule } from "../tasks/tasks.ts";
import { callWorker } from "../tasks/worker-call.ts";
import type { Transactions } from "../transactions.ts";
import { countEmbedded, isBlockComplete, readStoredBlocks } from "./blocks.ts";
import { selectDataset } from "./datasets.ts";

export const EMBEDDING_PATH = "/internal/datasets";
/** How long after its last change a dataset is embedded: changes one by one are embedded together. */
const DELAY_MS = 2_000;
/** It is not put off beyond the end of such a span, counted from 1970, however often it is changed. */
const MAX_DELAY_MS = 30_000;
/** Longer than a piece takes, with the wait for its turn. */
const CALL_TIMEOUT_MS = 120_000;

/**
 * Has the texts of a dataset embedded soon, later if they are changed again before. Call it in each transaction that
 * changes them.
 */
export function scheduleEmbedding(sql: SqlStorage, id: number, now: number): void {
  const [pending] = sql
    .exec<{ run_at: number }>("DELETE FROM due WHERE kind = 'embed_dataset' AND ref = ? RETURNING run_at", String(id))
    .toArray();
  const runAt = now + DELAY_MS;
  const spanOf = (time: number) => Math.floor(time / MAX_DELAY_MS);
  const canWait = pending === undefined || spanOf(pending.run_at) >= spanOf(runAt);
  schedule(sql, "embed_dataset", String(id), canWait ? runAt : pending.run_at);
}

/**
 * Has the Worker embed what is missing, one piece after another. Answers when to go on, or null when nothing is missing or
 * the dataset is gone. Throws what should be retried later each time.
 */
export async function runEmbedding(
  ledger: Transactions,
  ctx: DurableObjectState,
  tenant: string,
  dataset: number,
): Promise<number | null> {
  const token = makeEmbeddingToken(ledger.env.SERVER_KEY, { tenant, dataset });
  for (let call = 0; call < MAX_CALLS_PER_EMBEDDING && !ledger.isSuspended; call++) {
    if (!ledger.exists || !isIncomplete(ledger, dataset, Date.now())) return null;
    const path = `${EMBEDDING_PATH}/${dataset}/embed`;
    const answer = await callWorker<{ rows: number }>(ctx, { path, token, timeout: CALL_TIMEOUT_MS });
    if (answer.ok && answer.value.rows === 0) return null;
    if (answer.ok) continue;
    const { code, retryAfter } = answer.failure;
    // Stale: the dataset is gone, or has changed, and then this task is due again.
    if (code === "not_found" || code === "dataset_changed") return null;
    if (code === "capacity_exceeded") return Date.now() + toMilliseconds(retryAfter ?? 1);
    throw new Error(`Embedding ended with ${code}.`);
  }
  return Date.now();
}

/** Whether a dataset of texts has rows that a training by default would have to embed. */
function isIncomplete({ env, storage: { sql } }: Transactions, id: number, now: number): boolean {
  const names = backbonesToEmbedAhead(env.DEFAULT_BACKBONE).map(({ id, revision }) => `${id}@${revision}`);
  if (names.length === 0) return false;
  const dataset = selectDataset(sql, "id", id);
  if (dataset?.modality !== "text" || dataset.pending_revision !== null) return false;
  const counts = countEmbedded(sql, id, now);
  return names.some((name) => (counts[name] ?? 0) < dataset.examples);
}

interface Row extends Record<string, SqlStorageValue> {
  position: number;
  input_hash: ArrayBuffer;
  bytes: number;
}

/** How much text is embedded at a time. */
export interface PieceSize {
  readonly maxBytes: number;
  /** How many characters of a text the backbone reads. They have at least as many bytes, so no more bytes are counted. */
  readonly maxCharactersPerText: number;
}

/**
 * The rows of the last block that has some without a stored embedding: all that have one, and of the others as many as a
 * piece has. null if there is no such block. Other calls are served between two blocks.
 */
export async function readRowsToEmbed(
  ledger: Transactions,
  id: number,
  backbone: string,
  size: PieceSize,
): Promise<Result<RowsToEmbed | null>> {
  const dataset = ledger.read((sql) => ok(selectDataset(sql, "id", id)));
  if (!dataset.ok) return dataset;
  // A change in steps schedules this again when it ends.
  if (dataset.value === null || dataset.value.pending_revision !== null) return ok(null);
  for (let block = Math.floor((dataset.value.next_position - 1) / BLOCK_ROWS); block >= 0; block--) {
    const rows = ledger.read((sql, now) => ok(selectRows(sql, { dataset: id, backbone, block }, size, now)));
    if (!rows.ok || rows.value !== null) return rows;
    await scheduler.wait(0);
  }
  return ok(null);
}

function selectRows(
  sql: SqlStorage,
  { dataset, backbone, block }: { readonly dataset: number; readonly backbone: string; readonly block: number },
  { maxBytes, maxCharactersPerText }: PieceSize,
  now: number,
): RowsToEmbed | null {
  if (isBlockComplete(sql, dataset, backbone, block, now)) return null;
  const rows = sql
    .exec<Row>(
      `SELECT position, input_hash, octet_length(input) AS bytes FROM examples
       WHERE dataset = ? AND position >= ? AND position < ? ORDER BY position`,
      dataset,
      block * BLOCK_ROWS,
      (block + 1) * BLOCK_ROWS,
    )
    .toArray();
  const { keys, isEmbedded } = readStoredBlocks(sql, dataset, backbone, now, block);
  let bytes = 0;
  let missing = 0;
  const piece = rows.filter((row) => {
    if (isEmbedded(row.position)) return true;
    if (bytes >= maxBytes) return false;
    bytes += Math.min(row.bytes, maxCharactersPerText);
    missing++;
    return true;
  });
  if (missing === 0) return null;
  const inputHashes = new Uint8Array(piece.length * HASH_BYTES);
  for (const [i, { input_hash }] of piece.entries()) inputHashes.set(new Uint8Array(input_hash), i * HASH_BYTES);
  return {
    dataset: { id: dataset },
    positions: Uint32Array.from(piece, ({ position }) => position),
    inputHashes,
    blocks: keys,
    incompleteBlocks: new Set([block]),
    isPartial: false,
  };
}
