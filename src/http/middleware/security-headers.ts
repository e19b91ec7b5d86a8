import { createMiddleware } from "hono/factory";
import type { HttpEnv } from "../context.ts";

/**
 * Tells browsers and proxies to guess no type, to store no answer, and to run nothing that an answer contains. A page sets
 * a policy of its own.
 */
export const securityHeaders = createMiddleware<HttpEnv>(async (c, next) => {
  c.header("x-content-type-options", "nosniff");
  c.header("cache-control", "no-store");
  c.header("content-security-policy", "default-src 'none'; frame-ancestors 'none'");
  c.header("referrer-policy", "no-referrer");
  await next();
});
