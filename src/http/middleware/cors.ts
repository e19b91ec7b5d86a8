/** Which web pages may call the API from a browser: predictions alone (https://fetch.spec.whatwg.org/#http-cors-protocol). */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import { parseOrigins } from "../../webhooks/url.ts";
import type { HttpEnv } from "../context.ts";

const PREDICT_PATH = /^\/v1\/(heads\/[^/]+\/predict|predict|embeddings|systemone)$/;
/** How long a browser may rely on the answer to a preflight. */
const PREFLIGHT_SECONDS = 600;
const EXPOSED_HEADERS = "x-request-id, retry-after, ratelimit-policy, x-should-retry, x-cache";

/** Lets the page of an origin read the answer. */
export function allowOrigin(c: Context<HttpEnv>, origin: string): void {
  if (!PREDICT_PATH.test(c.req.path)) return;
  c.header("access-control-allow-origin", origin);
  c.header("access-control-expose-headers", EXPOSED_HEADERS);
}

/**
 * Answers preflights of predictions, which carry no key: for any origin, as a key may be bound to any. Pages of
 * CORS_ORIGINS may read every answer, and others those to the keys that are bound to them: see `tenantAuth`.
 */
export const cors = createMiddleware<HttpEnv>(async (c, next) => {
  if (!PREDICT_PATH.test(c.req.path)) return next();
  c.header("vary", "origin");
  const origin = c.req.header("origin");
  if (origin === undefined) return next();
  if (c.req.method === "OPTIONS" && c.req.header("access-control-request-method") !== undefined) {
    c.header("access-control-allow-origin", origin);
    c.header("access-control-allow-methods", "POST");
    c.header("access-control-allow-headers", c.req.header("access-control-request-headers") ?? "authorization");
    c.header("access-control-max-age", String(PREFLIGHT_SECONDS));
    return c.body(null, 204);
  }
  if (parseOrigins(c.env.CORS_ORIGINS)?.has(origin)) allowOrigin(c, origin);
  return next();
});
