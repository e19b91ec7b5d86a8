/**
 * Immutable bytes whose key ends in their SHA-256. R2 stores them durably. KV has a copy that every location reads fast.
 * If KV has none, fails or answers other bytes, they are read from R2.
 */
import { sha256Hex } from "../lib/hash.ts";

const SHA256_HEX_LENGTH = 64;

/** Stores bytes durably. R2 checks their hash. Storing them twice changes nothing. */
export async function storeBytes(bucket: R2Bucket, key: string, bytes: Uint8Array): Promise<void> {
  await bucket.put(key, bytes, { sha256: key.slice(-SHA256_HEX_LENGTH) });
}

/** Copies bytes from R2 to KV. */
export async function publishBytes(kv: KVNamespace, bucket: R2Bucket, key: string): Promise<void> {
  const object = await bucket.get(key);
  if (object) await kv.put(key, await object.arrayBuffer());
}

/** Whether the bytes are in R2. */
export async function hasBytes(bucket: R2Bucket, key: string): Promise<boolean> {
  return (await bucket.head(key)) !== null;
}

export async function deleteBytes(kv: KVNamespace, bucket: R2Bucket, key: string): Promise<void> {
  await kv.delete(key);
  await bucket.delete(key);
}

/** The bytes from KV, or else from R2; null if neither returns them. */
export async function readBytes(kv: KVNamespace, bucket: R2Bucket, key: string): Promise<Uint8Array | null> {
  return (await readFromKv(kv, key)) ?? (await readFromBucket(bucket, key));
}

async function readFromKv(kv: KVNamespace, key: string): Promise<Uint8Array | null> {
  const bytes = await kv.get(key, "arrayBuffer").catch(() => null);
  return bytes && sha256Hex(new Uint8Array(bytes)) === key.slice(-SHA256_HEX_LENGTH) ? new Uint8Array(bytes) : null;
}

async function readFromBucket(bucket: R2Bucket, key: string): Promise<Uint8Array | null> {
  const object = await bucket.get(key).catch(() => null);
  const bytes = await object?.arrayBuffer().catch(() => null);
  return bytes ? new Uint8Array(bytes) : null;
}
