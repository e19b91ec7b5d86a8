import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Scope } from "../api/api-keys.ts";
import type { Attempt } from "../jobs/token.ts";

/** Who is asking, taken from the verified key alone. */
export interface Caller {
  readonly tenant: string;
  readonly keyId: string;
  readonly scopes: readonly Scope[];
}

export interface HttpEnv {
  Bindings: Cloudflare.Env;
  Variables: {
    requestId: string;
    caller: Caller;
    /** On the routes that a batch endpoint calls: whose token it was. */
    attempt: Attempt;
    /** The request's claim of its `Idempotency-Key` in the ledger; null without a key. */
    idempotencyClaim: string | null;
    /** Further figures for the request's log line: never an input, never a secret. */
    logFields: Record<string, number | string>;
  };
}

export type App = OpenAPIHono<HttpEnv>;
