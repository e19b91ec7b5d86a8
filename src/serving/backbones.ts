/** The backbones of requests: those that this instance shares among tenants, and a tenant's own fine-tuned ones. */
import type { Backbone } from "../backbones/backbone.ts";
import { isTrainable, type TrainableBackbone } from "../backbones/deltas.ts";
import { hashText } from "../backbones/hash-text.ts";
import { AUTO, makeBackbones } from "../backbones/index.ts";
import { vocabularyKey } from "../backbones/subwords.ts";
import { bundledBackbones, textStatic, textUse } from "../backbones/workerd.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { getBackbone } from "../store/backbones.ts";
import type { ServedHead } from "../tenant/heads/served-heads.ts";
import { getLedger } from "../tenant/tenant.ts";

let cache:
  | { configuration: string | undefined; env: Cloudflare.Env; result: ReturnType<typeof makeBackbones> }
  | undefined;

/** The shared backbones by id: the built-in ones and those of the configuration. */
export function getSharedBackbones(env: Cloudflare.Env): ReadonlyMap<string, Backbone> {
  if (cache === undefined || cache.env !== env || cache.configuration !== env.BACKBONES) {
    const secrets = env as unknown as Record<string, unknown>;
    const getSecret = (name: string) => (typeof secrets[name] === "string" ? secrets[name] : undefined);
    cache = {
      configuration: env.BACKBONES,
      env,
      result: makeBackbones(bundledBackbones, env.BACKBONES, getSecret, env.AI),
    };
  }
  if (!cache.result.ok) throw new Error(cache.result.failure.message);
  return cache.result.value;
}

/** The backbones among which `auto` chooses, the preferred one first: those in the box. */
const autoBackbones: readonly Backbone[] = [textUse, textStatic, hashText];

/** Whether the pre-trained backbones in the box have an embedding of this word itself. */
export function isKnownWord(word: string): boolean {
  return textStatic.table().vocabulary.has(vocabularyKey(word));
}

/** Whether words of inputs to this backbone are known or unknown to it: those in the box, and what was fine-tuned of them. */
export function hasVocabulary(backbone: Backbone | null): boolean {
  return backbone !== null && ["static", "sentence_encoder", "fine_tuned"].includes(backbone.kind);
}

/** Whether a training with this `backbone` chooses one by its examples. */
export function isAuto(env: Cloudflare.Env, id: string | undefined): boolean {
  return (id ?? env.DEFAULT_BACKBONE ?? AUTO) === AUTO;
}

/** A shared backbone by id. Without an id it is this instance's default one, which must not be `auto`. */
export function findSharedBackbone(env: Cloudflare.Env, id: string | undefined, param: string): Result<Backbone> {
  const backboneId = id ?? env.DEFAULT_BACKBONE ?? AUTO;
  const backbone = getSharedBackbones(env).get(backboneId);
  return backbone
    ? ok(backbone)
    : fail("not_found", `No model '${backboneId}'. GET /v1/models lists those that exist.`, { param });
}

/** Whether an id is that of a tenant's own backbone. No shared backbone can have such an id. */
export function isFineTuned(id: string | undefined): id is string {
  return id?.startsWith("ft:") ?? false;
}

/** A backbone by id, shared or the tenant's own; without an id this instance's default one. */
export async function findBackbone(
  env: Cloudflare.Env,
  tenant: string,
  id: string | undefined,
  param: string,
): Promise<Result<Backbone>> {
  if (!isFineTuned(id)) return findSharedBackbone(env, id, param);
  const fineTuned = await getLedger(env.TENANT, tenant).findBackbone(id);
  if (!fineTuned.ok) return { ok: false, failure: { ...fineTuned.failure, param } };
  const { base, sha256 } = fineTuned.value;
  return sha256 === null
    ? findSharedBackbone(env, base, param)
    : getFineTunedBackbone(env, tenant, { id, revision: sha256 });
}

/** The backbones that a training chooses from: the one that it names, or under `auto` those in the box. */
export async function chooseBackbones(
  env: Cloudflare.Env,
  tenant: string,
  modality: "text" | "embedding",
  id: string | undefined,
  param: string,
): Promise<Result<readonly (Backbone | null)[]>> {
  if (isAuto(env, id)) return ok(modality === "text" ? autoBackbones : [null]);
  const backbone = await chooseBackbone(env, tenant, modality, id, param);
  return backbone.ok ? ok([backbone.value]) : backbone;
}

/** The backbone for a modality; null for the caller's own embeddings, which need none. */
export async function chooseBackbone(
  env: Cloudflare.Env,
  tenant: string,
  modality: "text" | "embedding",
  id: string | undefined,
  param: string,
): Promise<Result<Backbone | null>> {
  if (modality === "text") return findBackbone(env, tenant, id, param);
  if (id === undefined) return ok(null);
  return fail("modality_mismatch", `Embeddings of your own need no backbone. Leave '${param}' out.`, { param });
}

/** The backbone and revision on which a head was trained; null for the caller's own embeddings. */
export async function getHeadBackbone(
  env: Cloudflare.Env,
  tenant: string,
  { id, modality, backbone }: ServedHead,
): Promise<Result<Backbone | null>> {
  if (modality === "embedding") return ok(null);
  if (isFineTuned(backbone.id)) return getFineTunedBackbone(env, tenant, backbone);
  const shared = getSharedBackbones(env).get(backbone.id);
  if (shared?.revision === backbone.revision) return ok(shared);
  return fail(
    "not_available",
    `Head '${id}' needs the backbone ${backbone.id}@${backbone.revision}, which this instance no longer has. Train the head again.`,
  );
}

function getFineTunedBackbone(env: Cloudflare.Env, tenant: string, ref: Pick<Backbone, "id" | "revision">) {
  return getBackbone(env.KV, env.BUCKET, tenant, ref, (id, revision) => findTrainableBackbone(env, { id, revision }));
}

/** The shared backbone of this id and revision if it has trainable layers, otherwise null. */
export function findTrainableBackbone(
  env: Cloudflare.Env,
  { id, revision }: { readonly id: string; readonly revision: string },
): TrainableBackbone | null {
  const backbone = getSharedBackbones(env).get(id);
  return backbone?.revision === revision && isTrainable(backbone) ? backbone : null;
}
