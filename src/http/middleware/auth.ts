import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { Scope } from "../../api/api-keys.ts";
import type { Failure } from "../../core/failure.ts";
import { constantTimeEqual, sha256Hex } from "../../lib/hash.ts";
import { LruCache } from "../../lib/lru.ts";
import { toMilliseconds, toSecondsRoundedUp } from "../../lib/time.ts";
import type { KeyLease } from "../../tenant/api-keys.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { suspendedFailure } from "../../tenant/transactions.ts";
import type { HttpEnv } from "../context.ts";
import { checkBody } from "./body.ts";
import { allowOrigin } from "./cors.ts";
import { respondError } from "./errors.ts";
import { getServerKeys, verifyKey } from "./keys.ts";
import { recordWrongKey, throttledFor } from "./operator-throttle.ts";
import { checkRateLimit } from "./rate-limit.ts";

/** How long an isolate relies on what the ledger says of a key. A revocation is effective everywhere within 30 s. */
const LEASE_MS = 25_000;

interface Lease {
  readonly tenant: string;
  readonly key: KeyLease | null;
  readonly expiresAt: number;
}
const leases = new LruCache<Lease>(20_000);

export function bearerToken(c: Context<HttpEnv>): string | undefined {
  return /^Bearer (.+)$/i.exec(c.req.header("authorization") ?? "")?.[1];
}

async function leaseKey(env: Cloudflare.Env, token: string): Promise<Lease | null> {
  const now = Date.now();
  const cached = leases.get(token);
  if (cached && cached.expiresAt > now) return cached;
  const tenant = verifyKey(getServerKeys(env), token);
  if (tenant === null) return null;
  const key = await getLedger(env.TENANT, tenant).leaseApiKey(sha256Hex(token));
  const renewed = { tenant, key, expiresAt: now + LEASE_MS };
  leases.set(token, renewed, 1);
  return renewed;
}

/** Ends this isolate's leases of a key, or of every key of a tenant, after a change that it made itself. */
export function endKeyLeases(tenant: string, keyId?: string): void {
  leases.deleteWhere((lease) => lease.tenant === tenant && (keyId === undefined || lease.key?.id === keyId));
}

const invalidApiKey: Failure = {
  code: "invalid_api_key",
  message: "The API key is missing, wrong, expired or revoked. Send 'Authorization: Bearer gk_…' with a valid key.",
};

const originNotAllowed: Failure = {
  code: "origin_not_allowed",
  message: "This API key is for pages of other origins. Call from one of the key's origins, or use another key.",
};

/** Lets a request through whose key is valid, comes from where it is bound to, has the scope and is within its rate limit. */
export function tenantAuth(scope: Scope | null) {
  return createMiddleware<HttpEnv>(async (c, next) => {
    const token = bearerToken(c);
    const keyLease = token === undefined ? null : await leaseKey(c.env, token);
    if (!keyLease?.key) return respondError(c, invalidApiKey);
    const { id, scopes, expires_at, origins, suspended } = keyLease.key;
    if (expires_at !== null && toMilliseconds(expires_at) <= Date.now()) return respondError(c, invalidApiKey);
    const origin = c.req.header("origin");
    if (origins !== null) {
      if (origin === undefined || !origins.includes(origin)) return respondError(c, originNotAllowed);
      allowOrigin(c, origin);
    }
    c.set("caller", { tenant: keyLease.tenant, keyId: id, scopes });
    const { tenant } = keyLease;
    c.set("ledger", () => getLedger(c.env.TENANT, tenant));
    const rateLimitFailure = await checkRateLimit(c, id);
    if (rateLimitFailure) return respondError(c, rateLimitFailure);
    if (suspended) return respondError(c, suspendedFailure);
    if (scope !== null && !scopes.includes(scope)) {
      return respondError(c, {
        code: "missing_scope",
        message: `This API key lacks the scope '${scope}'. Use a key that has it.`,
      });
    }
    return checkBody(c, next);
  });
}

/** Lets a request through that has the operator's key. Wrong keys are logged, and throttled by the client's address. */
export const operatorAuth = createMiddleware<HttpEnv>(async (c, next) => {
  const token = bearerToken(c);
  // The platform, and the front of a server on a machine of one's own, set it; clients cannot.
  const address = c.req.header("cf-connecting-ip");
  const throttledMs = token === undefined || address === undefined ? 0 : throttledFor(address, Date.now());
  if (throttledMs > 0) {
    return respondError(c, {
      code: "rate_limited",
      message: "Too many wrong operator keys have come from this address. Wait and try again.",
      retryAfter: toSecondsRoundedUp(throttledMs),
    });
  }
  if (token === undefined || !c.env.ADMIN_KEY || !constantTimeEqual(token, c.env.ADMIN_KEY)) {
    if (token !== undefined) {
      if (address !== undefined) recordWrongKey(address, Date.now());
      const fields = { request_id: c.var.requestId, event: "wrong_operator_key", address: address ?? null };
      console.error(JSON.stringify(fields));
    }
    return respondError(c, {
      code: "invalid_api_key",
      message: "The operator's key is missing or wrong. Send 'Authorization: Bearer $ADMIN_KEY'.",
    });
  }
  return checkBody(c, next);
});
