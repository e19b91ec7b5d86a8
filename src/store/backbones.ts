/** Fine-tuned backbones of tenants: what training changed of a shared one, as bytes whose SHA-256 is the revision. */
import type { Backbone } from "../backbones/backbone.ts";
import { decodeDelta, fineTunedBackbone, residentBytes } from "../backbones/fine-tuned.ts";
import type { StaticBackbone } from "../backbones/text-static.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { readBytes } from "./content-addressed.ts";
import { isolateCache } from "./isolate-cache.ts";
import { backboneKey } from "./keys.ts";

/** When others wait for a load they look so often whether it is done, and no longer: it may have ended with its request. */
const POLL_INTERVAL_MS = 5;
const LOAD_TIMEOUT_MS = 3_000;
/** When the loads under way in this isolate began, by key. */
const loadStartedAt = new Map<string, number>();

/**
 * A fine-tuned backbone: from the isolate's memory, else KV, else R2. Asked for many times at once it is loaded once.
 * `base` answers a shared backbone, null where this instance has none of that id and revision.
 */
export async function getBackbone(
  kv: KVNamespace,
  bucket: R2Bucket,
  tenant: string,
  { id, revision }: Pick<Backbone, "id" | "revision">,
  getBase: (id: string, revision: string) => StaticBackbone | null,
): Promise<Result<Backbone>> {
  const key = backboneKey(tenant, revision);
  // Equal bytes under two names are two backbones.
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
    const delta = bytes && decodeDelta(bytes);
    if (!bytes || !delta)
      return fail("storage_unavailable", `The layers of '${id}' could not be read. Try again.`, { retryAfter: 5 });
    const baseBackbone = getBase(delta.base.id, delta.base.revision);
    if (baseBackbone === null) {
      const baseName = `${delta.base.id}@${delta.base.revision}`;
      return fail(
        "not_available",
        `'${id}' was made of the backbone ${baseName}, which this instance no longer has. Fine-tune again.`,
      );
    }
    const backbone = fineTunedBackbone(baseBackbone, { id, revision }, delta, bytes.length);
    isolateCache.set(cacheKey, backbone, residentBytes(delta, bytes.length));
    return ok(backbone);
  } finally {
    loadStartedAt.delete(cacheKey);
  }
}
