import type { Head } from "../api/heads.ts";
import { fail, type Result } from "../core/failure.ts";
import { LruCache } from "../lib/lru.ts";
import { getLedger } from "../tenant/tenant.ts";

/** How long an isolate relies on which version is active. A promotion is effective everywhere within 30 s. */
const LEASE_MS = 25_000;
const MAX_LEASES = 2_000;

/** The part of a version's record that a prediction needs. The evaluation is large; the labels come with the weights. */
export type ServedHead = Pick<Head, "id" | "version" | "task" | "modality" | "dimensions" | "backbone" | "sha256"> & {
  /** 0 for regression. */
  readonly labelCount: number;
};

export function toServedHead({ id, version, task, modality, labels, dimensions, backbone, sha256 }: Head): ServedHead {
  return { id, version, task, modality, labelCount: labels.length, dimensions, backbone, sha256 };
}

const leases = new LruCache<{ tenant: string; name: string; head: ServedHead; expiresAt: number }>(MAX_LEASES);

/** A head's record for serving: the given version, or the active one, which may be as old as a lease. */
export async function getServedHead(
  env: Cloudflare.Env,
  tenant: string,
  name: string,
  version: number | null,
): Promise<Result<ServedHead>> {
  const key = `${tenant}/${name}/${version ?? ""}`;
  const now = Date.now();
  const lease = leases.get(key);
  if (lease && lease.expiresAt > now) return { ok: true, value: lease.head };
  const found = await getLedger(env.TENANT, tenant).getHead(name, version);
  if (!found.ok) return found;
  if (version === null && found.value.active_version === null) {
    return fail("not_found", `No version of head '${name}' is active yet. Promote one, or name a 'version'.`);
  }
  const head = toServedHead(found.value);
  leases.set(key, { tenant, name, head, expiresAt: now + LEASE_MS }, 1);
  return { ok: true, value: head };
}

/** Ends this isolate's leases of a head after a change that it made itself. */
export function endHeadLeases(tenant: string, name: string): void {
  leases.deleteWhere((lease) => lease.tenant === tenant && lease.name === name);
}
