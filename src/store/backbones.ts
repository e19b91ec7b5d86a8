/** Fine-tuned backbones of tenants: what training changed of a shared one, as bytes whose SHA-256 is the revision. */
import type { Backbone } from "../backbones/backbone.ts";
import { decodeDelta, fineTunedBackbone, residentBytes } from "../backbones/fine-tuned.ts";
import type { StaticBackbone } from "../backbones/text-static.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { hot } from "./isolate-cache.ts";
import { backboneKey } from "./keys.ts";
import { readBytes } from "./published.ts";

/** When others wait for a load they look so often whether it is done, and no longer: it may have ended with its request. */
const LOOK_MS = 5;
const PATIENCE_MS = 3_000;
/** When the loads under way in this isolate began, by key. */
const loading = new Map<string, number>();

/**
 * A fine-tuned backbone: from the isolate's memory, else KV, else R2. Asked for many times at once it is loaded once.
 * `base` answers a shared backbone, null where this instance has none of that id and revision.
 */
export async function getBackbone(
  kv: KVNamespace,
  bucket: R2Bucket,
  tenant: string,
  { id, revision }: Pick<Backbone, "id" | "revision">,
  base: (id: string, revision: string) => StaticBackbone | null,
): Promise<Result<Backbone>> {
  const key = backboneKey(tenant, revision);
  // Equal bytes under two names are two backbones.
  const name = `${key}/${id}`;
  for (;;) {
    const kept = hot.get(name);
    if (kept) return ok(kept as Backbone);
    const since = loading.get(name);
    if (since === undefined || Date.now() - since > PATIENCE_MS) break;
    await scheduler.wait(LOOK_MS);
  }
  loading.set(name, Date.now());
  try {
    const bytes = await readBytes(kv, bucket, key);
    const delta = bytes && decodeDelta(bytes);
    if (!bytes || !delta)
      return fail("storage_unavailable", `The layers of '${id}' could not be read. Try again.`, { retryAfter: 5 });
    const shared = base(delta.base.id, delta.base.revision);
    if (shared === null) {
      const wanted = `${delta.base.id}@${delta.base.revision}`;
      return fail(
        "not_available",
        `'${id}' was made of the backbone ${wanted}, which this instance no longer has. Fine-tune again.`,
      );
    }
    const made = fineTunedBackbone(shared, { id, revision }, delta, bytes.length);
    hot.set(name, made, residentBytes(delta, bytes.length));
    return ok(made);
  } finally {
    loading.delete(name);
  }
}
