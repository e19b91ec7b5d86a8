/** The backbones of requests: those that this instance shares among tenants, and a tenant's own fine-tuned ones. */
import type { Backbone } from "../backbones/backbone.ts";
import { makeBackbones } from "../backbones/index.ts";
import { isStatic, type StaticBackbone } from "../backbones/text-static.ts";
import { bundledBackbones, textStatic } from "../backbones/workerd.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { getBackbone } from "../store/backbones.ts";
import { getLedger } from "../tenant/tenant.ts";
import type { ServedHead } from "./active-heads.ts";

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

/** A shared backbone by id, or this instance's default one. */
export function findSharedBackbone(env: Cloudflare.Env, id: string | undefined, param: string): Result<Backbone> {
  const backboneId = id ?? env.DEFAULT_BACKBONE ?? textStatic.id;
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
  const found = await getLedger(env.TENANT, tenant).findBackbone(id);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param } };
  const { base, sha256 } = found.value;
  return sha256 === null
    ? findSharedBackbone(env, base, param)
    : getFineTunedBackbone(env, tenant, { id, revision: sha256 });
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
): StaticBackbone | null {
  const backbone = getSharedBackbones(env).get(id);
  return backbone?.revision === revision && isStatic(backbone) ? backbone : null;
}
