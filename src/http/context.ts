import { type OpenAPIHono, type RouteConfig, type RouteHandler, z } from "@hono/zod-openapi";
import type { Attempt } from "../jobs/token.ts";
import type { Scope } from "../tenant/api-keys.ts";

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

/** For routes that ignore what they do not know in a query: those in OpenAI's shape, and health checks. */
export const anyQuery = z.looseObject({});

/**
 * Registers a route with its schemas; one that names no query takes none. Handlers answer failures as well as values, which the schemas of a route's good
 * answers do not describe, so their type is a plain response; the tests check answers against /openapi.json.
 */
export function addRoute<R extends RouteConfig & { getRoutingPath(): string }>(
  app: App,
  config: R,
  handler: (c: Parameters<RouteHandler<R, HttpEnv>>[0]) => Promise<Response> | Response,
): void {
  const request = { query: z.strictObject({}), ...config.request };
  app.openapi({ ...config, request }, handler as unknown as RouteHandler<R, HttpEnv>);
}
