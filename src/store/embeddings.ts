/**
 * Frozen embeddings in KV. A training reads a data set's embeddings as blocks, one value for up to BLOCK_ROWS rows,
 * and embeds only what no block holds; single inputs are cached for remote backbones only. Nothing that KV does
 * (forgets, lags, refuses, answers garbage) changes a result: it costs embedding again.
 */
import type { Backbone, BackboneFailure } from "../backbones/backbone.ts";
import { type Block, decodeBlock, encodeBlock, HASH_BYTES } from "../core/codec.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { shortHash, toHex } from "../lib/hash.ts";
import { blockKey, inputKey } from "./keys.ts";

/** Blocks read at once: the platform opens six connections a request. Fewer where they are large. */
const MAX_CONCURRENT_READS = 4;
const MAX_READ_BYTES = 16_000_000;
/** How many times as long as another local backbone a fine-tuned one takes for a text, at most: for words that it has not met lately. */
const FINE_TUNED_COST_FACTOR = 25;
/** Characters that are embedded by a local backbone, or read for lexical features, in one stretch: some tens of milliseconds at most. */
export const CHARACTERS_PER_CHUNK = 50_000;
/** Reading a block does not renew it: one that has gone is made again. */
const BLOCK_TTL_SECONDS = 60 * 24 * 3600;
const INPUT_TTL_SECONDS = 7 * 24 * 3600;
/** KV's bulk get takes 100 keys an operation; a request has 1,000 operations, so writes are bounded too. */
const MAX_KEYS_PER_GET = 100;
const MAX_PUTS_PER_REQUEST = 200;

/** Positions that share a block of embeddings. */
export const BLOCK_ROWS = 1024;

/** A data set's rows as far as their embeddings go: the inputs themselves are read only where none is cached. */
export interface RowsToEmbed {
  readonly dataset: { readonly id: number };
  /** One a row, rising. */
  readonly positions: Uint32Array;
  /** rows × HASH_BYTES */
  readonly inputHashes: Uint8Array;
  /** The KV key of each block of this backbone's embeddings that was written. */
  readonly blocks: ReadonlyMap<number, string>;
}

/** Awaited before each stretch of embedding: lets others in, and ends the work where it answers a failure. */
export type YieldToEventLoop = () => Promise<Failure | null>;

export interface GatherBlocksParams {
  readonly kv: KVNamespace;
  readonly tenant: string;
  readonly backbone: Backbone;
  readonly rows: RowsToEmbed;
  /** The inputs at these positions, or where they are large only the first ones; null where an example has gone. */
  readonly readInputs: (positions: readonly number[]) => Promise<readonly (string | Uint8Array | null)[]>;
  readonly yieldToEventLoop: YieldToEventLoop;
  /**
   * Takes each block's embeddings (rows × dimensions), in any order; block numbers rise with the rows. `stored` says
   * whether KV has them, by its own answer where a remote backbone would have to be asked again.
   */
  readonly onBlock: (block: number, values: Float32Array, stored: boolean) => void;
  /** Notes in the ledger where a block was written, before the next is embedded: what is cut off goes on from there. */
  readonly recordBlock: (block: number, key: string) => Promise<unknown>;
  /** Blocks that an earlier gathering delivered and that KV did not keep. */
  readonly retainedBlocks: ReadonlyMap<number, Float32Array>;
}

export interface GatherResult {
  readonly embedded: number;
  readonly cached: number;
  readonly failure: Failure | null;
}

/**
 * Gathers the embeddings of a whole training set, block by block: blocks are read a few at once, and what none of them
 * has is embedded one block at a time, so that neither texts nor calls of a backbone add up. What was embedded before a
 * failure is kept.
 */
export async function gatherBlocks(params: GatherBlocksParams): Promise<GatherResult> {
  const ranges = splitIntoBlocks(params.rows.positions);
  const blockBytes = 4 * BLOCK_ROWS * params.backbone.dimensions;
  const concurrency = Math.max(1, Math.min(MAX_CONCURRENT_READS, Math.floor(MAX_READ_BYTES / blockBytes)));
  let embedded = 0;
  let cached = 0;
  for (let start = 0; start < ranges.length; start += concurrency) {
    const group = ranges.slice(start, start + concurrency);
    const blocks = await Promise.all(group.map((range) => readKnownBlock(params, range)));
    for (const [i, range] of group.entries()) {
      const result = await gatherBlock(params, range, blocks[i] ?? null);
      embedded += result.embedded;
      cached += result.cached;
      if (result.failure !== null) return { embedded, cached, failure: result.failure };
    }
  }
  return { embedded, cached, failure: null };
}

interface BlockRange {
  readonly block: number;
  readonly start: number;
  readonly end: number;
}

/** Which rows fall into which block of positions, in order. */
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

/** One block's embeddings: those that `block` has, which KV answered, and the rest embedded now. */
async function gatherBlock(params: GatherBlocksParams, range: BlockRange, block: Block | null): Promise<GatherResult> {
  const { backbone, rows } = params;
  const d = backbone.dimensions;
  const count = range.end - range.start;
  const hashes = hashesInRange(rows, range);
  if (block && toHex(block.hashes) === toHex(hashes)) {
    params.onBlock(range.block, block.rows, true);
    return { embedded: 0, cached: count, failure: null };
  }

  const values = new Float32Array(count * d);
  const rowByHash = new Map<string, number>();
  if (block) for (let i = 0; i < block.hashes.length / HASH_BYTES; i++) rowByHash.set(hashAt(block.hashes, i), i);
  const knownRows = new Set<number>();
  const missingRows: number[] = [];
  for (let i = 0; i < count; i++) {
    const found = rowByHash.get(hashAt(hashes, i));
    if (block === null || found === undefined) {
      missingRows.push(i);
      continue;
    }
    values.set(block.rows.subarray(found * d, (found + 1) * d), i * d);
    knownRows.add(i);
  }
  const cached = knownRows.size;
  let failure: Failure | null = null;
  for (let offset = 0; offset < missingRows.length && failure === null; ) {
    const inputs = await params.readInputs(missingRows.slice(offset).map((i) => rows.positions[range.start + i] ?? 0));
    const chunk = missingRows.slice(offset, offset + inputs.length);
    const texts = inputs.filter((input) => typeof input === "string");
    if (
      texts.length === 0 ||
      texts.length < chunk.length ||
      texts.some((text, nth) => !matchesHash(text, hashes, chunk[nth] ?? 0))
    ) {
      failure = datasetChangedFailure;
      break;
    }
    const result = await embedInChunks(backbone, texts, params.yieldToEventLoop);
    for (const [nth, i] of chunk.entries()) {
      const row = result.rows[nth];
      if (row === undefined) continue;
      values.set(row, i * d);
      knownRows.add(i);
    }
    failure = result.failure;
    offset += chunk.length;
  }
  let stored = knownRows.size === cached;
  if (!stored) {
    const key = await writeBlock(params, range.block, { dimensions: d, hashes, rows: values }, knownRows);
    if (key !== null) await params.recordBlock(range.block, key);
    stored = key !== null && (backbone.cost === "local" || (await readBlock(params.kv, key, d)) !== null);
  }
  if (knownRows.size === count) params.onBlock(range.block, values, stored);
  return { embedded: knownRows.size - cached, cached, failure };
}

const { failure: datasetChangedFailure } = fail(
  "dataset_changed",
  "The dataset was changed while its embeddings were gathered. Train again.",
  { retryAfter: 1 },
);

/**
 * Embeds inputs: by a remote backbone all at once, by a local one, which computes in this isolate, a stretch at a time.
 * One row an input, in order, as far as they go before a failure; those that the backbone did not give are undefined.
 */
export async function embedInChunks(
  backbone: Backbone,
  inputs: readonly string[],
  yieldToEventLoop: YieldToEventLoop,
): Promise<{ readonly rows: readonly (Float32Array | undefined)[]; readonly failure: Failure | null }> {
  const rows: (Float32Array | undefined)[] = [];
  while (rows.length < inputs.length) {
    const stopFailure = await yieldToEventLoop();
    if (stopFailure !== null) return { rows, failure: stopFailure };
    const characters = CHARACTERS_PER_CHUNK / costFactor(backbone);
    const chunk = backbone.cost === "remote" ? inputs : takeChunk(inputs, rows.length, characters);
    const embedding = await backbone.embed(chunk);
    for (const i of chunk.keys()) {
      const row = embedding.rows[i];
      rows.push(row?.length === backbone.dimensions ? row : undefined);
    }
    const failure = embedding.failure ?? (rows.includes(undefined) ? tooFewEmbeddings : null);
    if (failure !== null) return { rows, failure: toFailure(failure) };
  }
  return { rows, failure: null };
}

/** What a character counts for where work is bounded: those of the shared local backbones for one. */
export function costFactor({ kind }: Pick<Backbone, "kind">): number {
  return kind === "fine_tuned" ? FINE_TUNED_COST_FACTOR : 1;
}

/** The inputs from `start` on that are embedded in one stretch, of so many characters: at least one. */
function takeChunk(inputs: readonly string[], start: number, maxCharacters: number): readonly string[] {
  let end = start;
  for (let characters = 0; end < inputs.length && characters < maxCharacters; end++)
    characters += inputs[end]?.length ?? 0;
  return inputs.slice(start, end);
}

/** The block under a key; null where KV has none, refuses, or answers other bytes than those that the key names. */
async function readBlock(kv: KVNamespace, key: string, dimensions: number) {
  const value = await kv.get(key, "arrayBuffer").catch(() => null);
  if (value === null) return null;
  const bytes = new Uint8Array(value);
  return key.endsWith(`-${toHex(shortHash(bytes))}`) ? decodeBlock(bytes, dimensions) : null;
}

/** When a block listed by KV was written, in milliseconds: KV tells when it ends, and every block lasts equally long. */
export function blockWrittenAt(key: KVNamespaceListKey<unknown>): number {
  return ((key.expiration ?? 0) - BLOCK_TTL_SECONDS) * 1000;
}

/** Writes the `known` rows of a block; its key, or null where KV would not have it. */
async function writeBlock(
  { kv, tenant, backbone, rows }: GatherBlocksParams,
  blockNumber: number,
  block: Block,
  knownRows: ReadonlySet<number>,
): Promise<string | null> {
  const isComplete = knownRows.size * HASH_BYTES === block.hashes.length;
  const bytes = encodeBlock(isComplete ? block : selectRows(block, knownRows));
  const name = `${backbone.id}@${backbone.revision}`;
  const key = blockKey(tenant, rows.dataset.id, name, blockNumber, toHex(shortHash(bytes)));
  return kv.put(key, bytes, { expirationTtl: BLOCK_TTL_SECONDS }).then(
    () => key,
    () => null,
  );
}

function selectRows({ dimensions, hashes, rows }: Block, indices: ReadonlySet<number>): Block {
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

function hashAt(hashes: Uint8Array, index: number): string {
  return toHex(hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES));
}

/** Whether an input is the one whose hash is at `index` of `hashes`. */
export function matchesHash(input: string | Uint8Array, hashes: Uint8Array, index: number): boolean {
  return toHex(shortHash(input)) === hashAt(hashes, index);
}

const tooFewEmbeddings: BackboneFailure = {
  code: "backend_invalid_answer",
  message: "The backbone answered fewer embeddings than it was asked for.",
  retryAfter: 5,
};

/** A backbone's failure as the request's: what may be tried again says when. */
function toFailure(failure: BackboneFailure): Failure {
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
  readonly cacheHits: number;
}

/** Embeds single inputs, through this tenant's cache where the backbone is remote. */
export async function embedInputs(
  kv: KVNamespace,
  tenant: string,
  backbone: Backbone,
  inputs: readonly string[],
  waitUntil: (work: Promise<unknown>) => void,
): Promise<Result<EmbeddedInputs>> {
  if (backbone.kind === "fine_tuned") {
    const limit = limits.fine_tuned_characters_per_request;
    const actual = inputs.reduce((sum, { length }) => sum + length, 0);
    const message = `A fine-tuned backbone embeds at most ${limit} characters in a request; these are ${actual}. Send fewer inputs in a request.`;
    if (actual > limit) return fail("limit_exceeded", message, { param: "input", details: { limit, actual } });
  }
  const name = `${backbone.id}@${backbone.revision}`;
  const keys = backbone.cost === "remote" ? inputs.map((input) => inputKey(tenant, name, toHex(shortHash(input)))) : [];
  const cached = await readInputs(kv, keys, backbone.dimensions);
  const unique = [...new Set(inputs.filter((_, i) => !cached.has(keys[i] ?? "")))];
  let chunks = 0;
  const newEmbeddings = await embedInChunks(backbone, unique, async () => {
    if (chunks++ > 0) await scheduler.wait(0);
    return null;
  });
  const rowByInput = new Map<string, Float32Array>();
  newEmbeddings.rows.forEach((row, i) => {
    if (row !== undefined) rowByInput.set(unique[i] ?? "", row);
  });
  if (backbone.cost === "remote") waitUntil(writeInputs(kv, tenant, name, rowByInput));
  if (newEmbeddings.failure) return { ok: false, failure: newEmbeddings.failure };
  const orderedRows: Float32Array[] = [];
  for (const [i, input] of inputs.entries()) {
    const row = cached.get(keys[i] ?? "") ?? rowByInput.get(input);
    if (row === undefined) return { ok: false, failure: toFailure(tooFewEmbeddings) };
    orderedRows.push(row);
  }
  return ok({ rows: orderedRows, cacheHits: inputs.filter((_, i) => cached.has(keys[i] ?? "")).length });
}

async function readInputs(
  kv: KVNamespace,
  keys: readonly string[],
  dimensions: number,
): Promise<Map<string, Float32Array>> {
  const found = new Map<string, Float32Array>();
  for (let i = 0; i < keys.length; i += MAX_KEYS_PER_GET) {
    const values = await kv
      .get([...new Set(keys.slice(i, i + MAX_KEYS_PER_GET))], "text")
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
  const writes = [...rows].slice(0, MAX_PUTS_PER_REQUEST).map(([input, row]) => {
    const key = inputKey(tenant, backbone, toHex(shortHash(input)));
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
  return `1:${toHex(shortHash(key, bytes))}:${Buffer.from(bytes).toString("base64")}`;
}

function decodeRow(key: string, text: string, dimensions: number): Float32Array | null {
  const [version, digest, base64] = text.split(":");
  if (version !== "1" || base64 === undefined) return null;
  const bytes = new Uint8Array(Buffer.from(base64, "base64"));
  if (bytes.length !== 4 * dimensions || digest !== toHex(shortHash(key, bytes))) return null;
  return new Float32Array(bytes.buffer);
}
