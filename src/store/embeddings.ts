/**
 * Frozen embeddings in KV. A training reads a data set's embeddings as blocks, one value for up to BLOCK_ROWS rows,
 * and embeds only what no block holds; single inputs are cached for remote backbones only. Nothing that KV does
 * (forgets, lags, refuses, answers garbage) changes a result: it costs embedding again.
 */
import type { Backbone, BackboneFailure } from "../backbones/backbone.ts";
import { type Block, decodeBlock, encodeBlock, HASH_BYTES } from "../core/codec.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import { hex, shortHash } from "./hash.ts";
import { blockKey, inputKey } from "./keys.ts";

/** Blocks read, embedded and written at once: the platform opens six connections a request. */
const AT_ONCE = 4;
/** Reading a block does not renew it: one that has gone is made again. */
const BLOCK_TTL_SECONDS = 60 * 24 * 3600;
const INPUT_TTL_SECONDS = 7 * 24 * 3600;
/** KV's bulk get takes 100 keys an operation; a request has 1,000 operations, so writes are bounded too. */
const KEYS_A_GET = 100;
const PUTS_A_REQUEST = 200;

/** Positions that share a block of embeddings. */
export const BLOCK_ROWS = 1024;

/** A data set's rows as far as their embeddings go: the inputs themselves are read only where none is cached. */
export interface EmbeddedRows {
  readonly dataset: { readonly id: number };
  /** One a row, rising. */
  readonly positions: Uint32Array;
  /** rows × HASH_BYTES */
  readonly inputHashes: Uint8Array;
  /** The KV key of each block of this backbone's embeddings that was written. */
  readonly blocks: ReadonlyMap<number, string>;
}

export interface BlockWork {
  readonly kv: KVNamespace;
  readonly tenant: string;
  readonly backbone: Backbone;
  readonly rows: EmbeddedRows;
  /** The inputs at these positions; null where an example has gone. */
  readonly inputs: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>;
  /** Takes each block's embeddings (rows × dimensions), in any order; block numbers rise with the rows. */
  readonly deliver: (block: number, values: Float32Array) => void;
}

export interface BlocksDone {
  /** Blocks that were written, by number: to be recorded in the ledger. */
  readonly written: ReadonlyMap<number, string>;
  readonly embedded: number;
  readonly cached: number;
  readonly failure: Failure | null;
}

/** Gathers the embeddings of a whole training set, block by block. What was embedded before a failure is kept. */
export async function gatherBlocks(work: BlockWork): Promise<BlocksDone> {
  const ranges = blockRanges(work.rows.positions);
  const written = new Map<number, string>();
  let embedded = 0;
  let cached = 0;
  let failure: Failure | null = null;
  const next = ranges.values();
  const worker = async () => {
    for (const range of next) {
      if (failure !== null) return;
      const done = await gatherBlock(work, range);
      embedded += done.embedded;
      cached += done.cached;
      if (done.key !== null) written.set(range.block, done.key);
      if (done.failure !== null) failure = done.failure;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return { written, embedded, cached, failure };
}

interface Range {
  readonly block: number;
  readonly start: number;
  readonly end: number;
}

/** Which rows fall into which block of positions, in order. */
function blockRanges(positions: Uint32Array): Range[] {
  const ranges: Range[] = [];
  let start = 0;
  for (let end = 1; end <= positions.length; end++) {
    const block = Math.floor((positions[start] ?? 0) / BLOCK_ROWS);
    if (end < positions.length && Math.floor((positions[end] ?? 0) / BLOCK_ROWS) === block) continue;
    ranges.push({ block, start, end });
    start = end;
  }
  return ranges;
}

async function gatherBlock(
  work: BlockWork,
  range: Range,
): Promise<{ key: string | null; embedded: number; cached: number; failure: Failure | null }> {
  const { kv, tenant, backbone, rows } = work;
  const name = `${backbone.id}@${backbone.revision}`;
  const count = range.end - range.start;
  const d = backbone.dimensions;
  const hashes = rows.inputHashes.subarray(range.start * HASH_BYTES, range.end * HASH_BYTES);
  const known = rows.blocks.get(range.block);
  const block = known === undefined ? null : await readBlock(kv, known, d);
  if (block && hex(block.hashes) === hex(hashes)) {
    work.deliver(range.block, block.rows);
    return { key: null, embedded: 0, cached: count, failure: null };
  }

  const values = new Float32Array(count * d);
  const at = new Map<string, number>();
  if (block) for (let i = 0; i < block.hashes.length / HASH_BYTES; i++) at.set(hashAt(block.hashes, i), i);
  const missing: number[] = [];
  for (let i = 0; i < count; i++) {
    const found = at.get(hashAt(hashes, i));
    if (block && found !== undefined) values.set(block.rows.subarray(found * d, (found + 1) * d), i * d);
    else missing.push(i);
  }
  if (missing.length === 0) {
    work.deliver(range.block, values);
    return { key: null, embedded: 0, cached: count, failure: null };
  }
  const texts = await work.inputs(missing.map((i) => rows.positions[range.start + i] ?? 0));
  const present = texts.filter((text) => typeof text === "string");
  if (
    present.length < missing.length ||
    present.some((text, i) => !sameHash(shortHash(text), hashes, missing[i] ?? 0))
  ) {
    const changed = fail(
      "dataset_changed",
      "The dataset was changed while its embeddings were gathered. Train again.",
      { retryAfter: 1 },
    );
    return { key: null, embedded: 0, cached: 0, failure: changed.failure };
  }
  const result = await backbone.embed(present);
  const kept = new Set(Array.from({ length: count }, (_, i) => i));
  missing.forEach((i, nth) => {
    const row = result.rows[nth];
    if (row?.length === d) values.set(row, i * d);
    else kept.delete(i);
  });
  const key = await writeBlock(kv, tenant, rows.dataset.id, name, range.block, d, hashes, values, kept);
  const complete = kept.size === count;
  if (complete) work.deliver(range.block, values);
  const failure = result.failure ?? (complete ? null : tooFew);
  const cached = count - missing.length;
  return { key, embedded: kept.size - cached, cached, failure: failure && toFailure(failure) };
}

/** The block under a key; null where KV has none, refuses, or answers other bytes than those that the key names. */
async function readBlock(kv: KVNamespace, key: string, dimensions: number) {
  const value = await kv.get(key, "arrayBuffer").catch(() => null);
  if (value === null) return null;
  const bytes = new Uint8Array(value);
  return key.endsWith(`-${hex(shortHash(bytes))}`) ? decodeBlock(bytes, dimensions) : null;
}

/** When a block listed by KV was written, in milliseconds: KV tells when it ends, and every block lasts equally long. */
export function blockWrittenAt(key: KVNamespaceListKey<unknown>): number {
  return ((key.expiration ?? 0) - BLOCK_TTL_SECONDS) * 1000;
}

/** Writes the rows of a block that are known; its key, or null where KV would not have it. */
async function writeBlock(
  kv: KVNamespace,
  tenant: string,
  dataset: number,
  backbone: string,
  block: number,
  dimensions: number,
  hashes: Uint8Array,
  values: Float32Array,
  kept: ReadonlySet<number>,
): Promise<string | null> {
  if (kept.size === 0) return null;
  const all = { dimensions, hashes, rows: values };
  const bytes = encodeBlock(kept.size * HASH_BYTES === hashes.length ? all : pickRows(all, kept));
  const key = blockKey(tenant, dataset, backbone, block, hex(shortHash(bytes)));
  return kv.put(key, bytes, { expirationTtl: BLOCK_TTL_SECONDS }).then(
    () => key,
    () => null,
  );
}

function pickRows({ dimensions, hashes, rows }: Block, wanted: ReadonlySet<number>): Block {
  const picked = {
    dimensions,
    hashes: new Uint8Array(wanted.size * HASH_BYTES),
    rows: new Float32Array(wanted.size * dimensions),
  };
  let to = 0;
  for (const from of wanted) {
    picked.hashes.set(hashes.subarray(from * HASH_BYTES, (from + 1) * HASH_BYTES), to * HASH_BYTES);
    picked.rows.set(rows.subarray(from * dimensions, (from + 1) * dimensions), to * dimensions);
    to++;
  }
  return picked;
}

function hashAt(hashes: Uint8Array, index: number): string {
  return hex(hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES));
}

/** Whether a hash is the one at `index` of `hashes`. */
export function sameHash(hash: Uint8Array, hashes: Uint8Array, index: number): boolean {
  return hex(hash) === hashAt(hashes, index);
}

export const tooFew: BackboneFailure = {
  code: "backend_invalid_answer",
  message: "The backbone answered fewer embeddings than it was asked for.",
  retryAfter: 5,
};

/** A backbone's failure as the request's: what may be tried again says when. */
export function toFailure(failure: BackboneFailure): Failure {
  const retryable =
    failure.code === "backend_unavailable" ||
    failure.code === "backend_timeout" ||
    failure.code === "backend_rate_limited";
  const retryAfter = failure.retryAfter ?? (retryable ? 5 : undefined);
  return { code: failure.code, message: failure.message, ...(retryAfter === undefined ? {} : { retryAfter }) };
}

export interface EmbeddedInputs {
  /** One row an input. */
  readonly rows: readonly Float32Array[];
  readonly hits: number;
}

/** Embeds single inputs, through this tenant's cache where the backbone is remote. */
export async function embedInputs(
  kv: KVNamespace,
  tenant: string,
  backbone: Backbone,
  inputs: readonly string[],
  later: (work: Promise<unknown>) => void,
): Promise<Result<EmbeddedInputs>> {
  const name = `${backbone.id}@${backbone.revision}`;
  const keys = backbone.cost === "remote" ? inputs.map((input) => inputKey(tenant, name, hex(shortHash(input)))) : [];
  const cached = await readInputs(kv, keys, backbone.dimensions);
  const unique = [...new Set(inputs.filter((_, i) => !cached.has(keys[i] ?? "")))];
  const fresh = await backbone.embed(unique);
  const rows = new Map<string, Float32Array>();
  fresh.rows.forEach((row, i) => {
    if (row?.length === backbone.dimensions) rows.set(unique[i] ?? "", row);
  });
  if (backbone.cost === "remote") later(writeInputs(kv, tenant, name, rows));
  if (fresh.failure) return { ok: false, failure: toFailure(fresh.failure) };
  const found: Float32Array[] = [];
  for (const [i, input] of inputs.entries()) {
    const row = cached.get(keys[i] ?? "") ?? rows.get(input);
    if (row === undefined) return { ok: false, failure: toFailure(tooFew) };
    found.push(row);
  }
  return ok({ rows: found, hits: inputs.filter((_, i) => cached.has(keys[i] ?? "")).length });
}

async function readInputs(
  kv: KVNamespace,
  keys: readonly string[],
  dimensions: number,
): Promise<Map<string, Float32Array>> {
  const found = new Map<string, Float32Array>();
  for (let i = 0; i < keys.length; i += KEYS_A_GET) {
    const values = await kv
      .get([...new Set(keys.slice(i, i + KEYS_A_GET))], "text")
      .catch(() => new Map<string, string | null>());
    for (const [key, text] of values) {
      const row = text === null ? null : decodeRow(key, text, dimensions);
      if (row) found.set(key, row);
    }
  }
  return found;
}

async function writeInputs(
  kv: KVNamespace,
  tenant: string,
  backbone: string,
  rows: ReadonlyMap<string, Float32Array>,
): Promise<void> {
  const writes = [...rows].slice(0, PUTS_A_REQUEST).map(([input, row]) => {
    const key = inputKey(tenant, backbone, hex(shortHash(input)));
    return kv.put(key, encodeRow(key, row), { expirationTtl: INPUT_TTL_SECONDS });
  });
  await Promise.allSettled(writes);
}

/**
 * KV's bulk get answers text alone, so a row is kept as base64 of its 32-bit floats, after a version and a hash of key
 * and floats: what was not written under this key is not taken for its value.
 */
function encodeRow(key: string, row: Float32Array): string {
  const bytes = new Uint8Array(row.buffer, row.byteOffset, row.byteLength);
  return `1:${hex(shortHash(key, bytes))}:${Buffer.from(bytes).toString("base64")}`;
}

function decodeRow(key: string, text: string, dimensions: number): Float32Array | null {
  const [version, digest, base64] = text.split(":");
  if (version !== "1" || base64 === undefined) return null;
  const bytes = new Uint8Array(Buffer.from(base64, "base64"));
  if (bytes.length !== 4 * dimensions || digest !== hex(shortHash(key, bytes))) return null;
  return new Float32Array(bytes.buffer);
}
