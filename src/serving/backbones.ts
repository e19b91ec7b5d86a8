/** Which backbone a request means: one of those that this instance has for all, or one that fine-tuning made for its tenant. */
import type { Backbone } from "../backbones/backbone.ts";
import { backbones } from "../backbones/index.ts";
import { isStatic, type StaticBackbone } from "../backbones/text-static.ts";
import { textStatic } from "../backbones/workerd.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { getBackbone } from "../store/backbones.ts";
import { ledger } from "../tenant/tenant.ts";
import type { ServedHead } from "./active-heads.ts";

let table: { configuration: string | undefined; env: Cloudflare.Env; result: ReturnType<typeof backbones> } | undefined;

/** The backbones of this instance by id: those in the box and those that its configuration names. */
export function sharedBackbones(env: Cloudflare.Env): ReadonlyMap<string, Backbone> {
  if (table === undefined || table.env !== env || table.configuration !== env.BACKBONES) {
    const secrets = env as unknown as Record<string, unknown>;
    const secret = (name: string) => (typeof secrets[name] === "string" ? secrets[name] : undefined);
    table = { configuration: env.BACKBONES, env, result: backbones(textStatic, env.BACKBONES, secret, env.AI) };
  }
  if (!table.result.ok) throw new Error(table.result.failure.message);
  return table.result.value;
}

/** A shared backbone by id, or this instance's default one. */
export function sharedBackbone(env: Cloudflare.Env, id: string | undefined, param: string): Result<Backbone> {
  const wanted = id ?? env.DEFAULT_BACKBONE ?? textStatic.id;
  const backbone = sharedBackbones(env).get(wanted);
  return backbone
    ? ok(backbone)
    : fail("not_found", `No model '${wanted}'. GET /v1/models lists those that exist.`, { param });
}

/** Whether an id is one of a tenant's own, which no shared backbone can have. */
export function isFineTuned(id: string | undefined): id is string {
  return id?.startsWith("ft:") ?? false;
}

/** A backbone of the tenant's by id, shared or its own, or this instance's default one. */
export async function findBackbone(
  env: Cloudflare.Env,
  tenant: string,
  id: string | undefined,
  param: string,
): Promise<Result<Backbone>> {
  if (!isFineTuned(id)) return sharedBackbone(env, id, param);
  const found = await ledger(env.TENANT, tenant).findBackbone(id);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param } };
  const { base, sha256 } = found.value;
  return sha256 === null ? sharedBackbone(env, base, param) : fineTuned(env, tenant, { id, revision: sha256 });
}

/** The backbone for a modality; null for embeddings of the caller's own, which need none. */
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

/** The backbone that a head was trained on, in that revision; null for embeddings of the caller's own. */
export async function backboneOf(
  env: Cloudflare.Env,
  tenant: string,
  { id, modality, backbone }: ServedHead,
): Promise<Result<Backbone | null>> {
  if (modality === "embedding") return ok(null);
  if (isFineTuned(backbone.id)) return fineTuned(env, tenant, backbone);
  const shared = sharedBackbones(env).get(backbone.id);
  if (shared?.revision === backbone.revision) return ok(shared);
  return fail(
    "not_available",
    `Head '${id}' needs the backbone ${backbone.id}@${backbone.revision}, which this instance no longer has. Train the head again.`,
  );
}

function fineTuned(env: Cloudflare.Env, tenant: string, named: Pick<Backbone, "id" | "revision">) {
  return getBackbone(env.KV, env.BUCKET, tenant, named, (id, revision) => trainable(env, { id, revision }));
}

/** The shared backbone of this id and revision, where it has layers that fine-tuning can train; else null. */
export function trainable(
  env: Cloudflare.Env,
  { id, revision }: { readonly id: string; readonly revision: string },
): StaticBackbone | null {
  const backbone = sharedBackbones(env).get(id);
  return backbone?.revision === revision && isStatic(backbone) ? backbone : null;
}
