import { createMiddleware } from "hono/factory";
import { routePath } from "hono/route";
import { newId } from "../../lib/id.ts";
import type { HttpEnv } from "../context.ts";
import { RATE_LIMIT_POLICY } from "./rate-limit.ts";

/**
 * Gives the request its id, and writes its one log line, which has no inputs and no secrets. Health checks that succeed
 * have none: they come every few seconds.
 */
export const requestLogger = createMiddleware<HttpEnv>(async (c, next) => {
  const startedAt = Date.now();
  const requestId = newId("req_");
  c.set("requestId", requestId);
  c.set("signal", c.req.raw.signal);
  c.set("idempotencyClaim", null);
  c.set("logFields", {});
  c.header("x-request-id", requestId);
  c.header("ratelimit-policy", RATE_LIMIT_POLICY);
  await next();
  const route = routePath(c, -1);
  if (route.startsWith("/health/") && c.res.ok) return;
  const logEntry = {
    request_id: requestId,
    tenant: c.var.caller?.tenant ?? c.var.attempt?.tenant ?? null,
    route: `${c.req.method} ${route}`,
    status: c.res.status,
    milliseconds: Date.now() - startedAt,
    ...c.var.logFields,
  };
  console.log(JSON.stringify(logEntry));
});
