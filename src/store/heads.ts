import { decodeHead } from "../core/codec.ts";
import type { Head } from "../core/head.ts";
import { sha256Hex } from "./hash.ts";
import { headKey } from "./keys.ts";
import { Lru } from "./lru.ts";

/** Bytes of decoded heads and fine-tuned backbones that an isolate keeps. */
const KEPT_BYTES = 24_000_000;
const hot = new Lru<unknown>(KEPT_BYTES);
/** What is being loaded: those who ask for it meanwhile wait for the same. */
const loading = new Map<string, Promise<unknown>>();

/** Stores a head's bytes durably; R2 checks them against their hash. Doing it again changes nothing. */
export async function putHead(bucket: R2Bucket, tenant: string, sha256: string, bytes: Uint8Array): Promise<void> {
  await bucket.put(headKey(tenant, sha256), bytes, { sha256 });
}

/** Copies a head's bytes from R2 to KV, where every location reads them fast. */
export async function publishHead(kv: KVNamespace, bucket: R2Bucket, tenant: string, sha256: string): Promise<void> {
  const object = await bucket.get(headKey(tenant, sha256));
  if (object) await kv.put(headKey(tenant, sha256), await object.arrayBuffer());
}

/** Whether a head's bytes are stored durably. */
export async function hasHead(bucket: R2Bucket, tenant: string, sha256: string): Promise<boolean> {
  return (await bucket.head(headKey(tenant, sha256))) !== null;
}

export async function deleteHeadBytes(
  kv: KVNamespace,
  bucket: R2Bucket,
  tenant: string,
  sha256: string,
): Promise<void> {
  await kv.delete(headKey(tenant, sha256));
  await bucket.delete(headKey(tenant, sha256));
}

/** A head's weights; null where the bytes are nowhere to be had. */
export function getHead(kv: KVNamespace, bucket: R2Bucket, tenant: string, sha256: string): Promise<Head | null> {
  return getWeights(kv, bucket, tenant, sha256, "", (bytes) => {
    const head = decodeHead(bytes);
    return head && { value: head, size: bytes.byteLength };
  });
}

/**
 * Weights: from the isolate's memory, else KV, else R2. Whatever KV answers (nothing, an error, other bytes) costs the
 * read from R2 and no more. Null where the bytes are nowhere to be had, or `decode` makes nothing of them; `as` tells
 * apart what the same bytes are decoded to.
 */
export async function getWeights<T>(
  kv: KVNamespace,
  bucket: R2Bucket,
  tenant: string,
  sha256: string,
  as: string,
  decode: (bytes: Uint8Array) => { readonly value: T; readonly size: number } | null,
): Promise<T | null> {
  const key = headKey(tenant, sha256);
  const name = `${as}${key}`;
  const kept = hot.get(name);
  if (kept !== undefined) return kept as T;
  const begun = loading.get(name);
  if (begun !== undefined) return begun as Promise<T | null>;
  const load = async () => {
    const bytes = (await readPublished(kv, key, sha256)) ?? (await readStored(bucket, key));
    const decoded = bytes && decode(bytes);
    if (decoded) hot.set(name, decoded.value, decoded.size);
    return decoded?.value ?? null;
  };
  const loaded = load().finally(() => loading.delete(name));
  loading.set(name, loaded);
  return loaded;
}

async function readPublished(kv: KVNamespace, key: string, sha256: string): Promise<Uint8Array | null> {
  const bytes = await kv.get(key, "arrayBuffer").catch(() => null);
  return bytes && sha256Hex(new Uint8Array(bytes)) === sha256 ? new Uint8Array(bytes) : null;
}

async function readStored(bucket: R2Bucket, key: string): Promise<Uint8Array | null> {
  const object = await bucket.get(key).catch(() => null);
  const bytes = await object?.arrayBuffer().catch(() => null);
  return bytes ? new Uint8Array(bytes) : null;
}
