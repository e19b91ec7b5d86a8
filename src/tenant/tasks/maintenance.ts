/** The tasks that bring KV and R2 in line with the ledger. Each may run twice and then has the same effect. */

import { deleteArtifacts } from "../../store/artifacts.ts";
import { blockWrittenAt } from "../../store/blocks.ts";
import { deleteBytes, publishBytes } from "../../store/content-addressed.ts";
import { deleteFileBytes } from "../../store/files.ts";
import { artifactsPrefix, backboneKey, blocksPrefix, fileKey, headKey, tenantPrefix } from "../../store/keys.ts";
import { abortUpload } from "../../store/uploads.ts";
import { isBlockReferenced } from "../data/blocks.ts";
import { deleteDatasetRows } from "../data/datasets.ts";
import { isFileReferenced } from "../data/files.ts";
import { expireHistory } from "../data/history.ts";
import { deleteStagedRows, dropImport } from "../data/imports.ts";
import { deleteOldPositions } from "../deleted-positions.ts";
import { isBackboneReferenced } from "../heads/backbones.ts";
import { deleteExpiredInputs } from "../heads/capture.ts";
import { deleteEvaluationErrors } from "../heads/evaluation-deletion.ts";
import { isHeadReferenced } from "../heads/heads.ts";
import { deleteOldCounts } from "../heads/traffic-counts.ts";
import { deleteEndpointDeliveries, deleteExpiredEvents } from "../hooks/deliveries.ts";
import { deleteExpiredResponses } from "../idempotency.ts";
import { isActiveJob, isArtifactReferenced } from "../jobs/jobs.ts";
import { endUpload, listUploads, parseUpload } from "../uploads.ts";
import { DAY_MS, MAX_DELETES_PER_RUN, type ScheduledTask, schedule } from "./tasks.ts";

/** Bytes are written before their row in the ledger. Unreferenced bytes of this age belong to no request any more. */
const ORPHAN_AGE_MS = 3_600_000;
/** About how long listings of KV still show deleted keys. */
const LISTING_LAG_MS = 60_000;

/** Where a tenant's bytes and rows are. */
export interface TenantStorage {
  readonly kv: KVNamespace;
  readonly bucket: R2Bucket;
  readonly storage: DurableObjectStorage;
  readonly tenant: string;
  /** Runs work while no version of a head and no file is committed: unreferenced bytes stay so until it has ended. */
  exclusive<T>(work: () => Promise<T>): Promise<T>;
}

/** Runs one task. Answers when it is due again, or null when it is done; throws if it should be retried. */
export async function runMaintenanceTask(at: TenantStorage, task: ScheduledTask, now: number): Promise<number | null> {
  const { kv, bucket, storage, tenant } = at;
  const { sql } = storage;
  switch (task.kind) {
    case "publish_head":
      if (isHeadReferenced(sql, task.ref)) await publishBytes(kv, bucket, headKey(tenant, task.ref));
      return null;
    case "publish_backbone":
      if (isBackboneReferenced(sql, task.ref)) await publishBytes(kv, bucket, backboneKey(tenant, task.ref));
      return null;
    case "expire_import":
      storage.transactionSync(() => dropImport(sql, task.ref, now));
      return null;
    case "delete_staged":
      return storage.transactionSync(() => deleteStagedRows(sql, Number(task.ref))) ? now : null;
    case "delete_examples":
      return storage.transactionSync(() => deleteDatasetRows(sql, Number(task.ref))) ? now : null;
    case "expire_answers":
      return deleteExpiredResponses(sql, now) > 0 ? now + DAY_MS : null;
    case "delete_deliveries":
      return storage.transactionSync(() => deleteEndpointDeliveries(sql, Number(task.ref))) ? now : null;
    case "expire_events":
      return storage.transactionSync(() => deleteExpiredEvents(sql, now)) ? now : null;
    case "expire_positions":
      return deleteOldPositions(sql, now) ? now : null;
    case "expire_history":
      return storage.transactionSync(() => expireHistory(sql, now)) ? now : null;
    case "delete_evaluation_errors":
      return storage.transactionSync(() => deleteEvaluationErrors(sql)) ? now : null;
    case "expire_captured":
      return storage.transactionSync(() => deleteExpiredInputs(sql, now));
    case "delete_blocks":
      return deletePrefix(kv, blocksPrefix(tenant, Number(task.ref)), now);
    case "abort_upload":
      await abortUpload(bucket, parseUpload(task.ref));
      return null;
    case "sweep":
      return sweep(at, now);
    default:
      await deleteUnreferenced(at, task);
      return null;
  }
}

/** Runs a task that deletes bytes, unless a row refers to them again. */
async function deleteUnreferenced(
  { kv, bucket, storage: { sql }, tenant, exclusive }: TenantStorage,
  { kind, ref }: ScheduledTask,
): Promise<void> {
  switch (kind) {
    case "delete_bytes":
      return exclusive(async () => {
        if (!isHeadReferenced(sql, ref)) await deleteBytes(kv, bucket, headKey(tenant, ref));
      });
    case "delete_backbone":
      return exclusive(async () => {
        if (!isBackboneReferenced(sql, ref)) await deleteBytes(kv, bucket, backboneKey(tenant, ref));
      });
    case "delete_block":
      if (!isBlockReferenced(sql, ref)) await kv.delete(ref);
      return;
    case "delete_file":
      if (!isFileReferenced(sql, ref)) await deleteFileBytes(bucket, tenant, ref);
      return;
    case "delete_artifacts": {
      const [job = "", sha256] = ref.split("/");
      const isReferenced = sha256 === undefined ? isActiveJob(sql, job) : isArtifactReferenced(sql, job, sha256);
      if (isReferenced) return;
      if (sha256 === undefined) await abortUploads(bucket, sql, artifactsPrefix(tenant, job));
      await deleteArtifacts(bucket, tenant, job, sha256);
      return;
    }
    default:
      throw new Error(`A newer Worker wrote work of kind '${kind}', and will do it.`);
  }
}

/** Deletes all bytes and published copies that no row refers to, and what has expired. Answers when to sweep again. */
async function sweep(at: TenantStorage, now: number): Promise<number> {
  const { kv, storage, tenant } = at;
  const { sql } = storage;
  if (storage.transactionSync(() => deleteExpiredEvents(sql, now))) schedule(sql, "expire_events", "", now);
  schedule(sql, "expire_history", "", now);
  if (deleteOldPositions(sql, now)) schedule(sql, "expire_positions", "", now);
  storage.transactionSync(() => deleteOldCounts(sql, now));
  await sweepBucket(at, headKey(tenant, ""), (sha256) => isHeadReferenced(sql, sha256), now);
  await sweepBucket(at, backboneKey(tenant, ""), (sha256) => isBackboneReferenced(sql, sha256), now);
  await sweepBucket(at, fileKey(tenant, ""), (id) => isFileReferenced(sql, id), now);
  const isReferencedArtifact = (name: string) => {
    const [job = "", sha256 = ""] = name.split("/");
    return isArtifactReferenced(sql, job, sha256);
  };
  await sweepBucket(at, artifactsPrefix(tenant), isReferencedArtifact, now);
  return (await sweepKv(kv, sql, tenant, now)) ? now + DAY_MS : now + LISTING_LAG_MS;
}

/** Deletes unreferenced bytes below a prefix. Requests that ended between R2 and the ledger leave such bytes. */
async function sweepBucket(
  { bucket, exclusive }: TenantStorage,
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

/** Deletes unreferenced published copies, as many as one task may. Answers whether none is left. */
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

/** Deletes orphaned keys below a prefix, at most `limit`. Answers how many. */
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
 * Deletes a bounded part of the keys below a prefix. Answers when to go on, or null when none is left. If the listing
 * still shows the deleted keys, that is when it no longer will.
 */
async function deletePrefix(kv: KVNamespace, prefix: string, now: number): Promise<number | null> {
  const listed = await kv.list({ prefix, limit: MAX_DELETES_PER_RUN });
  await Promise.all(listed.keys.map(({ name }) => kv.delete(name)));
  if (listed.list_complete) return null;
  const first = (await kv.list({ prefix, limit: 1 })).keys[0]?.name;
  return listed.keys.some(({ name }) => name === first) ? now + LISTING_LAG_MS : now;
}

/** Aborts the uploads that have not ended, of what is below a prefix of R2's keys. What they have completed is listed after it. */
export async function abortUploads(bucket: R2Bucket, sql: SqlStorage, prefix: string): Promise<void> {
  const uploads = listUploads(sql, prefix);
  await Promise.all(uploads.map((upload) => abortUpload(bucket, upload)));
  for (const upload of uploads) endUpload(sql, upload);
}

/** Deletes a bounded part of all bytes of a tenant. Answers when to go on, or null when none is left. */
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
