/** What is done to KV and R2 because of what the ledger says. Each may run twice with the effect of once. */

import { deleteArtifacts } from "../../store/artifacts.ts";
import { blockWrittenAt } from "../../store/blocks.ts";
import { deleteBytes, publishBytes } from "../../store/content-addressed.ts";
import { deleteFileBytes } from "../../store/files.ts";
import { artifactsPrefix, backboneKey, blocksPrefix, fileKey, headKey, tenantPrefix } from "../../store/keys.ts";
import { isFileReferenced } from "../data/files.ts";
import { dropImport } from "../data/imports.ts";
import { isBlockReferenced } from "../data/training-sets.ts";
import { isBackboneReferenced } from "../heads/backbones.ts";
import { isHeadReferenced } from "../heads/heads.ts";
import { deleteEndpointDeliveries, deleteExpiredEvents } from "../hooks/deliveries.ts";
import { deleteExpiredResponses } from "../idempotency.ts";
import { isActiveJob, isArtifactReferenced } from "../jobs/jobs.ts";
import { MAX_DELETES_PER_RUN, type ScheduledTask, schedule } from "./tasks.ts";

const DAY_MS = 24 * 3_600_000;
/** Bytes are older than the ledger's row of them by the length of a request at most. */
const ORPHAN_AGE_MS = 3_600_000;
/** For about so long KV's listings still show keys that are deleted. */
const LISTING_LAG_MS = 60_000;

/** Runs work while no version of a head and no file is being committed: what it finds unneeded then stays so until it is done. */
export type RunExclusive = <T>(work: () => Promise<T>) => Promise<T>;

/**
 * Runs one row of the `due` table; answers when it is due again, or null. Throws where it should be tried again. Times
 * are in milliseconds.
 */
export async function runMaintenanceTask(
  kv: KVNamespace,
  bucket: R2Bucket,
  storage: DurableObjectStorage,
  exclusive: RunExclusive,
  tenant: string,
  task: ScheduledTask,
  now: number,
): Promise<number | null> {
  const sql = storage.sql;
  switch (task.kind) {
    case "publish_head":
      if (isHeadReferenced(sql, task.ref)) await publishBytes(kv, bucket, headKey(tenant, task.ref));
      return null;
    case "delete_bytes":
      await exclusive(async () => {
        if (!isHeadReferenced(sql, task.ref)) await deleteBytes(kv, bucket, headKey(tenant, task.ref));
      });
      return null;
    case "publish_backbone":
      if (isBackboneReferenced(sql, task.ref)) await publishBytes(kv, bucket, backboneKey(tenant, task.ref));
      return null;
    case "delete_backbone":
      await exclusive(async () => {
        if (!isBackboneReferenced(sql, task.ref)) await deleteBytes(kv, bucket, backboneKey(tenant, task.ref));
      });
      return null;
    case "delete_block":
      if (!isBlockReferenced(sql, task.ref)) await kv.delete(task.ref);
      return null;
    case "delete_blocks":
      return deletePrefix(kv, blocksPrefix(tenant, Number(task.ref)), now);
    case "delete_file":
      if (!isFileReferenced(sql, task.ref)) await deleteFileBytes(bucket, tenant, task.ref);
      return null;
    case "expire_import":
      storage.transactionSync(() => dropImport(sql, task.ref));
      return null;
    case "expire_answers":
      return deleteExpiredResponses(sql, now) > 0 ? now + DAY_MS : null;
    case "delete_artifacts": {
      const [job = "", sha256] = task.ref.split("/");
      const isReferenced = sha256 === undefined ? isActiveJob(sql, job) : isArtifactReferenced(sql, job, sha256);
      if (!isReferenced) await deleteArtifacts(bucket, tenant, job, sha256);
      return null;
    }
    case "delete_deliveries":
      return storage.transactionSync(() => deleteEndpointDeliveries(sql, Number(task.ref))) ? now : null;
    case "expire_events":
      return storage.transactionSync(() => deleteExpiredEvents(sql, now)) ? now : null;
    case "sweep":
      if (storage.transactionSync(() => deleteExpiredEvents(sql, now))) schedule(sql, "expire_events", "", now);
      await sweepBucket(bucket, exclusive, headKey(tenant, ""), (sha256) => isHeadReferenced(sql, sha256), now);
      await sweepBucket(bucket, exclusive, backboneKey(tenant, ""), (sha256) => isBackboneReferenced(sql, sha256), now);
      await sweepBucket(bucket, exclusive, fileKey(tenant, ""), (id) => isFileReferenced(sql, id), now);
      await sweepBucket(
        bucket,
        exclusive,
        artifactsPrefix(tenant),
        (name) => {
          const [job = "", sha256 = ""] = name.split("/");
          return isArtifactReferenced(sql, job, sha256);
        },
        now,
      );
      return (await sweepKv(kv, sql, tenant, now)) ? now + DAY_MS : now + LISTING_LAG_MS;
    default:
      throw new Error(`A newer Worker wrote work of kind '${task.kind}', and will do it.`);
  }
}

/** Deletes bytes below a prefix that the ledger does not need: left by what ended between R2 and the ledger. */
async function sweepBucket(
  bucket: R2Bucket,
  exclusive: RunExclusive,
  prefix: string,
  isReferenced: (name: string) => boolean,
  now: number,
): Promise<void> {
  let cursor: string | undefined;
  do {
    cursor = await exclusive(async () => {
      const listed = await bucket.list({ prefix, ...(cursor === undefined ? {} : { cursor }) });
      const orphans = listed.objects.filter(
        ({ key, uploaded }) => now - uploaded.getTime() > ORPHAN_AGE_MS && !isReferenced(key.slice(prefix.length)),
      );
      if (orphans.length > 0) await bucket.delete(orphans.map(({ key }) => key));
      return listed.truncated ? listed.cursor : undefined;
    });
  } while (cursor !== undefined);
}

/** Deletes published copies that the ledger does not know, as many as one run may; true when none is left. */
async function sweepKv(kv: KVNamespace, sql: SqlStorage, tenant: string, now: number): Promise<boolean> {
  const [heads, backbones, blocks] = [headKey(tenant, ""), backboneKey(tenant, ""), blocksPrefix(tenant)];
  const orphanChecks = new Map<string, (key: KVNamespaceListKey<unknown>) => boolean>([
    [heads, ({ name }) => !isHeadReferenced(sql, name.slice(heads.length))],
    [backbones, ({ name }) => !isBackboneReferenced(sql, name.slice(backbones.length))],
    [blocks, (key) => now - blockWrittenAt(key) > ORPHAN_AGE_MS && !isBlockReferenced(sql, key.name)],
  ]);
  let deletesLeft = MAX_DELETES_PER_RUN;
  for (const [prefix, isOrphaned] of orphanChecks) {
    deletesLeft -= await deleteOrphanedKeys(kv, prefix, isOrphaned, deletesLeft);
    if (deletesLeft === 0) return false;
  }
  return true;
}

/** Deletes at most so many of the keys below a prefix that are orphaned; answers how many. */
async function deleteOrphanedKeys(
  kv: KVNamespace,
  prefix: string,
  isOrphaned: (key: KVNamespaceListKey<unknown>) => boolean,
  limit: number,
): Promise<number> {
  let deleted = 0;
  let cursor: string | null = null;
  do {
    const listed: KVNamespaceListResult<unknown> = await kv.list({ prefix, cursor });
    const orphans = listed.keys.filter(isOrphaned).slice(0, limit - deleted);
    await Promise.all(orphans.map(({ name }) => kv.delete(name)));
    deleted += orphans.length;
    cursor = listed.list_complete ? null : listed.cursor;
  } while (cursor !== null && deleted < limit);
  return deleted;
}

/**
 * Deletes a bounded part of the keys that begin so; answers when to go on, or null when none is left: at once, or, where
 * the listing does not show yet that these are gone, when it will.
 */
async function deletePrefix(kv: KVNamespace, prefix: string, now: number): Promise<number | null> {
  const listed = await kv.list({ prefix, limit: MAX_DELETES_PER_RUN });
  await Promise.all(listed.keys.map(({ name }) => kv.delete(name)));
  if (listed.list_complete) return null;
  const first = (await kv.list({ prefix, limit: 1 })).keys[0]?.name;
  return listed.keys.some(({ name }) => name === first) ? now + LISTING_LAG_MS : now;
}

/**
 * Deletes a bounded part of all bytes of a tenant; answers when to go on, in milliseconds, or null when none is left.
 */
export async function eraseTenantBytes(
  kv: KVNamespace,
  bucket: R2Bucket,
  tenant: string,
  now: number,
): Promise<number | null> {
  const prefix = tenantPrefix(tenant);
  const listed = await bucket.list({ prefix });
  if (listed.objects.length > 0) await bucket.delete(listed.objects.map((object) => object.key));
  const next = await deletePrefix(kv, prefix, now);
  return listed.truncated ? (next ?? now) : next;
}
