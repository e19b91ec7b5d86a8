import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { Scope } from "../api/api-keys.ts";
import type { Attempt } from "../jobs/token.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import type { Ledger } from "../tenant/tenant.ts";

/** Who calls, taken from the verified key alone. */
export interface Caller {
  readonly tenant: string;
  readonly keyId: string;
  readonly scopes: readonly Scope[];
}

export interface HttpEnv {
  Bindings: Cloudflare.Env;
  Variables: {
    requestId: string;
    /** Aborts when the client has gone. Middleware may put another request in the place of the first, with its own signal. */
    signal: AbortSignal;
    caller: Caller;
    /** A stub of the caller's ledger, made when it is called: a warm prediction needs none. */
    ledger: () => Ledger;
    /** On the routes that a batch endpoint calls: the attempt of its token. */
    attempt: Attempt;
    /** The request's claim of its `Idempotency-Key` in the ledger; null without a key. */
    idempotencyClaim: string | null;
    /** Further figures for the request's log line: never an input, never a secret. */
    logFields: Record<string, number | string>;
  };
}

export type App = OpenAPIHono<HttpEnv>;

/** A caller's request without HTTP, for training and serving. */
export function tenantRequest(c: Context<HttpEnv>): TenantRequest {
  return {
    env: c.env,
    tenant: c.var.caller.tenant,
    signal: c.var.signal,
    waitUntil: (work) => c.executionCtx.waitUntil(work),
    setLogFields: (fields) => c.set("logFields", fields),
  };
}
