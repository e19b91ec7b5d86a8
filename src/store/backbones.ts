/** Fine-tuned backbones, loaded from what was stored of them. */
import type { Backbone } from "../backbones/backbone.ts";
import { decodeDelta, fineTunedBackbone, KEPT_BYTES } from "../backbones/fine-tuned.ts";
import { isStatic } from "../backbones/text-static.ts";
import { getWeights } from "./heads.ts";

/**
 * The fine-tuned backbone of a delta's bytes, which its revision names: from the isolate's memory, else KV, else R2. Null
 * where they are nowhere to be had; `unfit` where the base that they change is not among the shared backbones any more.
 */
export async function getFineTuned(
  kv: KVNamespace,
  bucket: R2Bucket,
  tenant: string,
  shared: ReadonlyMap<string, Backbone>,
  { id, revision }: Pick<Backbone, "id" | "revision">,
): Promise<Backbone | "unfit" | null> {
  return getWeights<Backbone | "unfit">(kv, bucket, tenant, revision, `${id}@`, (bytes) => {
    const delta = decodeDelta(bytes);
    if (delta === null) return null;
    const base = shared.get(delta.base.id);
    if (base === undefined || !isStatic(base) || base.revision !== delta.base.revision)
      return { value: "unfit", size: 100 };
    const size = bytes.length + 4 * delta.kernel.length + NAME_BYTES * delta.rows.vocabulary.size + KEPT_BYTES;
    return { value: fineTunedBackbone(base, { id, revision }, delta, bytes.length), size };
  });
}

/** What a word of a map takes beside its row, about. */
const NAME_BYTES = 64;
