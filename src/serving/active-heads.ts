import type { Result } from "../core/failure.ts";
import { LruCache } from "../lib/lru.ts";
import type { HeadLease } from "../tenant/heads/served-heads.ts";
import { getLedger } from "../tenant/tenant.ts";

/** How long an isolate relies on which versions answer. A promotion is effective everywhere within 30 s. */
const LEASE_MS = 25_000;
const MAX_LEASES = 2_000;

const leases = new LruCache<{ tenant: string; name: string; lease: HeadLease; expiresAt: number }>(MAX_LEASES);

/** A head's versions for serving: the given one, or those that answer now, which may be as old as a lease. */
export async function getHeadLease(
  env: Cloudflare.Env,
  tenant: string,
  name: string,
  version: number | null,
): Promise<Result<HeadLease>> {
  const key = `${tenant}/${name}/${version ?? ""}`;
  const now = Date.now();
  const cached = leases.get(key);
  if (cached && cached.expiresAt > now) return { ok: true, value: cached.lease };
  const lease = await getLedger(env.TENANT, tenant).leaseHead(name, version);
  if (lease.ok) leases.set(key, { tenant, name, lease: lease.value, expiresAt: now + LEASE_MS }, 1);
  return lease;
}

/** Ends this isolate's leases of a head after a change that it made itself. */
export function endHeadLeases(tenant: string, name: string): void {
  leases.deleteWhere((lease) => lease.tenant === tenant && lease.name === name);
}
