/** Tenants' fine-tuned backbones: deltas over a shared backbone, as bytes whose SHA-256 is the revision. */
import type { Backbone } from "../backbones/backbone.ts";
import { loadDelta, readDelta, type TrainableBackbone } from "../backbones/deltas.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { readBytes } from "./content-addressed.ts";
import { isolateCache } from "./isolate-cache.ts";
import { backboneKey } from "./keys.ts";

/** Requests that wait for another one's load poll at this interval. They stop after the timeout: that request may have ended. */
const POLL_INTERVAL_MS = 5;
const LOAD_TIMEOUT_MS = 3_000;
/** When each load in progress in this isolate began, by cache key. */
const loadStartedAt = new Map<string, number>();

/**
 * A fine-tuned backbone, from the isolate's memory, KV or R2. Concurrent requests load it once. `getBase` returns the
 * shared backbone of an id and revision; null if this instance does not have it.
 */
export async function getBackbone(
  kv: KVNamespace,
  bucket: R2Bucket,
  tenant: string,
  { id, revision }: Pick<Backbone, "id" | "revision">,
  getBase: (id: string, revision: string) => TrainableBackbone | null,
): Promise<Result<Backbone>> {
  const key = backboneKey(tenant, revision);
  // The same bytes under two ids are two backbones.
  const cacheKey = `${key}/${id}`;
  for (;;) {
    const cached = isolateCache.get(cacheKey);
    if (cached) return ok(cached as Backbone);
    const startedAt = loadStartedAt.get(cacheKey);
    if (startedAt === undefined || Date.now() - startedAt > LOAD_TIMEOUT_MS) break;
    await scheduler.wait(POLL_INTERVAL_MS);
  }
  loadStartedAt.set(cacheKey, Date.now());
  try {
    const bytes = await readBytes(kv, bucket, key);
    const delta = bytes && readDelta(bytes);
    const unreadable = () =>
      fail("storage_unavailable", `The layers of '${id}' could not be read. Try again.`, { retryAfter: 5 });
    if (!bytes || !delta) return unreadable();
    const baseBackbone = getBase(delta.base.id, delta.base.revision);
    if (baseBackbone === null) {
      const baseName = `${delta.base.id}@${delta.base.revision}`;
      return fail(
        "not_available",
        `'${id}' was made of the backbone ${baseName}, which this instance no longer has. Fine-tune again.`,
      );
    }
    const loaded = loadDelta(baseBackbone, { id, revision }, delta, bytes.length);
    if (loaded === null) return unreadable();
    isolateCache.set(cacheKey, loaded.backbone, loaded.residentBytes);
    return ok(loaded.backbone);
  } finally {
    loadStartedAt.delete(cacheKey);
  }
}
