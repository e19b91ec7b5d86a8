import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { Failure } from "../../core/failure.ts";
import { sameSecret, sha256Hex } from "../../lib/hash.ts";
import { Lru } from "../../lib/lru.ts";
import type { KeyLease, Scope } from "../../tenant/api-keys.ts";
import { ledger } from "../../tenant/tenant.ts";
import { boundedBody } from "./body.ts";
import type { HttpEnv } from "../context.ts";
import { failed } from "./errors.ts";
import { serverKeysOf, verifyKey } from "./keys.ts";
import { overRateLimit } from "./rate-limit.ts";

/** How long an isolate relies on what the ledger said of a key: a revocation holds everywhere within 30 s. */
const LEASE_MS = 25_000;

interface Lease {
  readonly tenant: string;
  readonly key: KeyLease | null;
  readonly until: number;
}
const leases = new Lru<Lease>(20_000);

export function bearer(c: Context<HttpEnv>): string | undefined {
  return /^Bearer (.+)$/i.exec(c.req.header("authorization") ?? "")?.[1];
}

async function lease(env: Cloudflare.Env, token: string): Promise<Lease | null> {
  const now = Date.now();
  const held = leases.get(token);
  if (held && held.until > now) return held;
  const tenant = verifyKey(serverKeysOf(env), token);
  if (tenant === null) return null;
  const key = await ledger(env.TENANT, tenant).leaseApiKey(sha256Hex(token));
  const fresh = { tenant, key, until: now + LEASE_MS };
  leases.set(token, fresh, 1);
  return fresh;
}

/** Ends this isolate's leases of a key, or of every key of a tenant, after a change that it made itself. */
export function endLeases(tenant: string, keyId?: string): void {
  leases.deleteWhere((held) => held.tenant === tenant && (keyId === undefined || held.key?.id === keyId));
}

const refused: Failure = {
  code: "invalid_api_key",
  message: "The API key is missing, wrong, expired or revoked. Send 'Authorization: Bearer gk_…' with a valid key.",
};

/** Lets a request through with a valid key that has the scope and is within its rate limit. */
export function tenantKey(scope: Scope | null) {
  return createMiddleware<HttpEnv>(async (c, next) => {
    const token = bearer(c);
    const held = token === undefined ? null : await lease(c.env, token);
    if (!held?.key) return failed(c, refused);
    if (held.key.expires_at !== null && held.key.expires_at * 1000 <= Date.now()) return failed(c, refused);
    c.set("caller", { tenant: held.tenant, keyId: held.key.id, scopes: held.key.scopes });
    const limited = await overRateLimit(c, held.key.id);
    if (limited) return failed(c, limited);
    if (scope !== null && !held.key.scopes.includes(scope)) {
      return failed(c, {
        code: "missing_scope",
        message: `This API key lacks the scope '${scope}'. Use a key that has it.`,
      });
    }
    return boundedBody(c, next);
  });
}

/** Lets a request through with the operator's key. */
export const operatorKey = createMiddleware<HttpEnv>(async (c, next) => {
  const token = bearer(c);
  if (token === undefined || !c.env.ADMIN_KEY || !sameSecret(token, c.env.ADMIN_KEY)) {
    return failed(c, {
      code: "invalid_api_key",
      message: "The operator's key is missing or wrong. Send 'Authorization: Bearer $ADMIN_KEY'.",
    });
  }
  return boundedBody(c, next);
});
