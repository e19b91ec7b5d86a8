/** What is done to KV and R2 because of what the ledger says. Each may run twice with the effect of once. */

import { deleteHeadBytes, publishHead } from "../store/heads.ts";
import { blocksPrefix, headKey, tenantPrefix } from "../store/keys.ts";
import type { Due } from "./due.ts";
import { needsBytes } from "./heads.ts";
import { expire } from "./idempotency.ts";
import { dropImport } from "./imports.ts";

const DAY_MS = 24 * 3_600_000;
/** Bytes in R2 are older than the ledger's row by the length of a request at most. */
const ORPHAN_AGE_MS = 3_600_000;
/** KV deletes one key an operation, and a request has 1,000 operations. */
const DELETES_A_RUN = 500;

/**
 * Runs one row of the `due` table; answers when it is due again, or null. Throws where it should be tried again. Times
 * are in milliseconds.
 */
export async function runDue(
  kv: KVNamespace,
  bucket: R2Bucket,
  storage: DurableObjectStorage,
  tenant: string,
  due: Due,
  now: number,
): Promise<number | null> {
  const sql = storage.sql;
  switch (due.kind) {
    case "publish_head":
      if (needsBytes(sql, due.ref)) await publishHead(kv, bucket, tenant, due.ref);
      return null;
    case "delete_bytes":
      if (!needsBytes(sql, due.ref)) await deleteHeadBytes(kv, bucket, tenant, due.ref);
      return null;
    case "delete_block":
      await kv.delete(due.ref);
      return null;
    case "delete_blocks":
      return (await deletePrefix(kv, blocksPrefix(tenant, Number(due.ref)))) ? null : now;
    case "expire_import":
      storage.transactionSync(() => dropImport(sql, due.ref));
      return null;
    case "expire_answers":
      return expire(sql, Math.floor(now / 1000)) > 0 ? now + DAY_MS : null;
    case "sweep":
      await sweep(kv, bucket, sql, tenant, now);
      return now + DAY_MS;
  }
}

/** Deletes bytes of heads that no version has: left by a training that ended between R2 and the ledger. */
async function sweep(kv: KVNamespace, bucket: R2Bucket, sql: SqlStorage, tenant: string, now: number): Promise<void> {
  const prefix = headKey(tenant, "");
  let cursor: string | undefined;
  do {
    const listed = await bucket.list({ prefix, ...(cursor === undefined ? {} : { cursor }) });
    const orphans = listed.objects.filter(
      (object) => now - object.uploaded.getTime() > ORPHAN_AGE_MS && !needsBytes(sql, object.key.slice(prefix.length)),
    );
    for (const orphan of orphans) await deleteHeadBytes(kv, bucket, tenant, orphan.key.slice(prefix.length));
    cursor = listed.truncated ? listed.cursor : undefined;
  } while (cursor !== undefined);
  const published = await kv.list({ prefix });
  for (const { name } of published.keys) if (!needsBytes(sql, name.slice(prefix.length))) await kv.delete(name);
}

async function deletePrefix(kv: KVNamespace, prefix: string): Promise<boolean> {
  const listed = await kv.list({ prefix, limit: DELETES_A_RUN });
  await Promise.all(listed.keys.map(({ name }) => kv.delete(name)));
  return listed.list_complete;
}

/** Deletes a bounded part of all bytes of a tenant; true when none is left. */
export async function erase(kv: KVNamespace, bucket: R2Bucket, tenant: string): Promise<boolean> {
  const prefix = tenantPrefix(tenant);
  const stored = await bucket.list({ prefix });
  if (stored.objects.length > 0) await bucket.delete(stored.objects.map((object) => object.key));
  const published = await deletePrefix(kv, prefix);
  return published && !stored.truncated;
}
