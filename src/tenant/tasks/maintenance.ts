/** What is done to KV and R2 because of what the ledger says. Each may run twice with the effect of once. */

import { deleteArtifacts } from "../../store/artifacts.ts";
import { blockWrittenAt } from "../../store/embeddings.ts";
import { deleteFileBytes } from "../../store/files.ts";
import { artifactsPrefix, backboneKey, blocksPrefix, fileKey, headKey, tenantPrefix } from "../../store/keys.ts";
import { deleteBytes, publishBytes } from "../../store/published.ts";
import { needsLayers } from "../heads/backbones.ts";
import { deleteDeliveriesTo, expireEvents } from "../hooks/deliveries.ts";
import { DELETES_A_RUN, type Due, schedule } from "./tasks.ts";
import { needsFile } from "../data/files.ts";
import { needsBytes } from "../heads/heads.ts";
import { expire } from "../idempotency.ts";
import { dropImport } from "../data/imports.ts";
import { isActiveJob, needsArtifact } from "../jobs/jobs.ts";
import { needsBlock } from "../data/training-sets.ts";

const DAY_MS = 24 * 3_600_000;
/** Bytes are older than the ledger's row of them by the length of a request at most. */
const ORPHAN_AGE_MS = 3_600_000;
/** For about so long KV's listings still show keys that are deleted. */
const LISTING_LAG_MS = 60_000;

/** Runs work while no version of a head and no file is being committed: what it finds unneeded then stays so until it is done. */
export type Alone = <T>(work: () => Promise<T>) => Promise<T>;

/**
 * Runs one row of the `due` table; answers when it is due again, or null. Throws where it should be tried again. Times
 * are in milliseconds.
 */
export async function runDue(
  kv: KVNamespace,
  bucket: R2Bucket,
  storage: DurableObjectStorage,
  alone: Alone,
  tenant: string,
  due: Due,
  now: number,
): Promise<number | null> {
  const sql = storage.sql;
  switch (due.kind) {
    case "publish_head":
      if (needsBytes(sql, due.ref)) await publishBytes(kv, bucket, headKey(tenant, due.ref));
      return null;
    case "delete_bytes":
      await alone(async () => {
        if (!needsBytes(sql, due.ref)) await deleteBytes(kv, bucket, headKey(tenant, due.ref));
      });
      return null;
    case "publish_backbone":
      if (needsLayers(sql, due.ref)) await publishBytes(kv, bucket, backboneKey(tenant, due.ref));
      return null;
    case "delete_backbone":
      await alone(async () => {
        if (!needsLayers(sql, due.ref)) await deleteBytes(kv, bucket, backboneKey(tenant, due.ref));
      });
      return null;
    case "delete_block":
      if (!needsBlock(sql, due.ref)) await kv.delete(due.ref);
      return null;
    case "delete_blocks":
      return deletePrefix(kv, blocksPrefix(tenant, Number(due.ref)), now);
    case "delete_file":
      if (!needsFile(sql, due.ref)) await deleteFileBytes(bucket, tenant, due.ref);
      return null;
    case "expire_import":
      storage.transactionSync(() => dropImport(sql, due.ref));
      return null;
    case "expire_answers":
      return expire(sql, Math.floor(now / 1000)) > 0 ? now + DAY_MS : null;
    case "delete_artifacts": {
      const [job = "", sha256] = due.ref.split("/");
      const needed = sha256 === undefined ? isActiveJob(sql, job) : needsArtifact(sql, job, sha256);
      if (!needed) await deleteArtifacts(bucket, tenant, job, sha256);
      return null;
    }
    case "delete_deliveries":
      return storage.transactionSync(() => deleteDeliveriesTo(sql, Number(due.ref))) ? now : null;
    case "expire_events":
      return storage.transactionSync(() => expireEvents(sql, now)) ? now : null;
    case "sweep":
      if (storage.transactionSync(() => expireEvents(sql, now))) schedule(sql, "expire_events", "", now);
      await sweepStored(bucket, alone, headKey(tenant, ""), (sha256) => needsBytes(sql, sha256), now);
      await sweepStored(bucket, alone, backboneKey(tenant, ""), (sha256) => needsLayers(sql, sha256), now);
      await sweepStored(bucket, alone, fileKey(tenant, ""), (id) => needsFile(sql, id), now);
      await sweepStored(
        bucket,
        alone,
        artifactsPrefix(tenant),
        (name) => {
          const [job = "", sha256 = ""] = name.split("/");
          return needsArtifact(sql, job, sha256);
        },
        now,
      );
      return (await sweepPublished(kv, sql, tenant, now)) ? now + DAY_MS : now + LISTING_LAG_MS;
    default:
      throw new Error(`A newer Worker wrote work of kind '${due.kind}', and will do it.`);
  }
}

/** Deletes bytes below a prefix that the ledger does not need: left by what ended between R2 and the ledger. */
async function sweepStored(
  bucket: R2Bucket,
  alone: Alone,
  prefix: string,
  needed: (name: string) => boolean,
  now: number,
): Promise<void> {
  let cursor: string | undefined;
  do {
    cursor = await alone(async () => {
      const listed = await bucket.list({ prefix, ...(cursor === undefined ? {} : { cursor }) });
      const orphans = listed.objects.filter(
        ({ key, uploaded }) => now - uploaded.getTime() > ORPHAN_AGE_MS && !needed(key.slice(prefix.length)),
      );
      if (orphans.length > 0) await bucket.delete(orphans.map(({ key }) => key));
      return listed.truncated ? listed.cursor : undefined;
    });
  } while (cursor !== undefined);
}

/** Deletes published copies that the ledger does not know, as many as one run may; true when none is left. */
async function sweepPublished(kv: KVNamespace, sql: SqlStorage, tenant: string, now: number): Promise<boolean> {
  const [heads, backbones, blocks] = [headKey(tenant, ""), backboneKey(tenant, ""), blocksPrefix(tenant)];
  const orphaned = new Map<string, (key: KVNamespaceListKey<unknown>) => boolean>([
    [heads, ({ name }) => !needsBytes(sql, name.slice(heads.length))],
    [backbones, ({ name }) => !needsLayers(sql, name.slice(backbones.length))],
    [blocks, (key) => now - blockWrittenAt(key) > ORPHAN_AGE_MS && !needsBlock(sql, key.name)],
  ]);
  let left = DELETES_A_RUN;
  for (const [prefix, isOrphaned] of orphaned) {
    left -= await deleteListed(kv, prefix, isOrphaned, left);
    if (left === 0) return false;
  }
  return true;
}

/** Deletes at most so many of the keys below a prefix that are orphaned; answers how many. */
async function deleteListed(
  kv: KVNamespace,
  prefix: string,
  orphaned: (key: KVNamespaceListKey<unknown>) => boolean,
  most: number,
): Promise<number> {
  let deleted = 0;
  let cursor: string | null = null;
  do {
    const listed: KVNamespaceListResult<unknown> = await kv.list({ prefix, cursor });
    const orphans = listed.keys.filter(orphaned).slice(0, most - deleted);
    await Promise.all(orphans.map(({ name }) => kv.delete(name)));
    deleted += orphans.length;
    cursor = listed.list_complete ? null : listed.cursor;
  } while (cursor !== null && deleted < most);
  return deleted;
}

/**
 * Deletes a bounded part of the keys that begin so; answers when to go on, or null when none is left: at once, or, where
 * the listing does not show yet that these are gone, when it will.
 */
async function deletePrefix(kv: KVNamespace, prefix: string, now: number): Promise<number | null> {
  const listed = await kv.list({ prefix, limit: DELETES_A_RUN });
  await Promise.all(listed.keys.map(({ name }) => kv.delete(name)));
  if (listed.list_complete) return null;
  const first = (await kv.list({ prefix, limit: 1 })).keys[0]?.name;
  return listed.keys.some(({ name }) => name === first) ? now + LISTING_LAG_MS : now;
}

/**
 * Deletes a bounded part of all bytes of a tenant; answers when to go on, in milliseconds, or null when none is left.
 */
export async function erase(kv: KVNamespace, bucket: R2Bucket, tenant: string, now: number): Promise<number | null> {
  const prefix = tenantPrefix(tenant);
  const stored = await bucket.list({ prefix });
  if (stored.objects.length > 0) await bucket.delete(stored.objects.map((object) => object.key));
  const next = await deletePrefix(kv, prefix, now);
  return stored.truncated ? (next ?? now) : next;
}
