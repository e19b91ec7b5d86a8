import { decodeHead } from "../core/codec.ts";
import type { Head } from "../core/head.ts";
import { readBytes } from "./content-addressed.ts";
import { isolateCache } from "./isolate-cache.ts";
import { headKey } from "./keys.ts";

/** A head, from the isolate's memory, KV or R2; null if its bytes cannot be read. */
export async function getHead(kv: KVNamespace, bucket: R2Bucket, tenant: string, sha256: string): Promise<Head | null> {
  const key = headKey(tenant, sha256);
  const cached = isolateCache.get(key);
  if (cached) return cached as Head;
  const bytes = await readBytes(kv, bucket, key);
  if (!bytes) return null;
  const head = decodeHead(bytes);
  if (head) isolateCache.set(key, head, bytes.byteLength);
  return head;
}
