/** Embeds single inputs. A tenant's embeddings by a backbone that is not "local" are cached in KV, one value an input. */
import type { Backbone } from "../backbones/backbone.ts";
import { embedInChunks, maxCharacters, missingRowFailure, runsEncoder } from "../backbones/chunks.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { countCharacters } from "../core/text/characters.ts";
import { shortHash, toHex } from "../lib/hash.ts";
import { inputKey } from "./keys.ts";

const INPUT_TTL_SECONDS = 7 * 24 * 3600;
/** KV's bulk get takes 100 keys an operation. A request has 1,000 operations, so the number of writes is bounded too. */
const MAX_KEYS_PER_GET = 100;
const MAX_PUTS_PER_REQUEST = 200;

export interface EmbeddedInputs {
  /** A row an input. */
  readonly rows: readonly Float32Array[];
  readonly cacheHits: number;
}

/** Fails if the texts have more than `limit` characters, of each at most `most` counted. */
function checkLength(inputs: readonly string[], limit: number, most: number): Result<never> | null {
  // A text has at most as many characters as code units, so most requests are within the limit without counting.
  if (inputs.reduce((sum, { length }) => sum + Math.min(length, most), 0) <= limit) return null;
  const actual = inputs.reduce((sum, input) => sum + Math.min(countCharacters(input), most), 0);
  if (actual <= limit) return null;
  const message = `The texts of a request have at most ${limit} characters; these have ${actual}. Send fewer inputs in a request.`;
  return fail("limit_exceeded", message, { param: "input", details: { limit, actual } });
}

export async function embedInputs(
  kv: KVNamespace,
  tenant: string,
  backbone: Backbone,
  inputs: readonly string[],
  waitUntil: (work: Promise<unknown>) => void,
): Promise<Result<EmbeddedInputs>> {
  const failure =
    checkLength(inputs, limits.characters_per_request, Number.POSITIVE_INFINITY) ??
    (runsEncoder(backbone)
      ? checkLength(inputs, limits.encoder_characters_per_request, maxCharacters(backbone))
      : null);
  if (failure !== null) return failure;
  const name = `${backbone.id}@${backbone.revision}`;
  const keys = backbone.cost !== "local" ? inputs.map((input) => inputKey(tenant, name, toHex(shortHash(input)))) : [];
  const cached = await readInputs(kv, keys, backbone.dimensions);
  const unique = [...new Set(inputs.filter((_, i) => !cached.has(keys[i] ?? "")))];
  let chunks = 0;
  const newEmbeddings = await embedInChunks(backbone, unique, async () => {
    if (chunks++ > 0) await scheduler.wait(0);
    return null;
  });
  const rowByInput = new Map<string, Float32Array>();
  for (const [i, input] of unique.entries()) {
    const row = newEmbeddings.rows[i];
    if (row !== undefined) rowByInput.set(input, row);
  }
  if (backbone.cost !== "local") waitUntil(writeInputs(kv, tenant, name, rowByInput));
  if (newEmbeddings.failure) return { ok: false, failure: newEmbeddings.failure };
  const orderedRows: Float32Array[] = [];
  for (const [i, input] of inputs.entries()) {
    const row = cached.get(keys[i] ?? "") ?? rowByInput.get(input);
    if (row === undefined) return { ok: false, failure: missingRowFailure };
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
 * KV's bulk get answers only text, so a row is its 32-bit floats in base64, after a version and a hash of the key and the
 * floats. The hash detects a value that was not written under this key.
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
