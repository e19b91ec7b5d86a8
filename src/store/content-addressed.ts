/**
 * Immutable bytes whose key ends in their SHA-256: in R2 for good, and copied to KV, from which every location reads them
 * fast. Whatever KV answers (nothing, an error, other bytes) costs a read from R2 and no more.
 */
import { sha256Hex } from "../lib/hash.ts";

const SHA256_HEX_LENGTH = 64;

/** Stores bytes durably; R2 checks them against their hash. Doing it again changes nothing. */
export async function storeBytes(bucket: R2Bucket, key: string, bytes: Uint8Array): Promise<void> {
  await bucket.put(key, bytes, { sha256: key.slice(-SHA256_HEX_LENGTH) });
}

/** Copies bytes from R2 to KV. */
export async function publishBytes(kv: KVNamespace, bucket: R2Bucket, key: string): Promise<void> {
  const object = await bucket.get(key);
  if (object) await kv.put(key, await object.arrayBuffer());
}

/** Whether bytes are stored durably. */
export async function hasBytes(bucket: R2Bucket, key: string): Promise<boolean> {
  return (await bucket.head(key)) !== null;
}

export async function deleteBytes(kv: KVNamespace, bucket: R2Bucket, key: string): Promise<void> {
  await kv.delete(key);
  await bucket.delete(key);
}

/** Bytes from KV, else from R2; null where they are nowhere to be had. */
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
