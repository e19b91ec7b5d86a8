import { createMiddleware } from "hono/factory";
import { sha256Hex } from "../../lib/hash.ts";
import { directory } from "../../tenant/directory.ts";
import { ledger } from "../../tenant/tenant.ts";
import type { HttpEnv } from "../context.ts";
import { failed } from "./errors.ts";
import { TENANT_ID } from "./keys.ts";

/**
 * Honours `Idempotency-Key` on a route that creates or changes something. The ledger that it changes claims the key
 * here, and keeps the answer in the transaction of the change itself; a request that fails gives the key free again.
 */
export function idempotent(owner: "tenant" | "operator") {
  return createMiddleware<HttpEnv>(async (c, next) => {
    const sent = c.req.header("idempotency-key");
    if (sent === undefined) return next();
    if (sent.length < 1 || sent.length > 255) {
      return failed(c, {
        code: "invalid_parameter",
        message: "An Idempotency-Key has 1 to 255 characters.",
        param: "Idempotency-Key",
      });
    }
    const tenant = owner === "tenant" ? c.var.caller.tenant : c.req.param("id");
    // The operator's path is not checked yet; what names no tenant is refused next.
    if (tenant !== undefined && !TENANT_ID.test(tenant)) return next();
    const records = tenant === undefined ? directory(c.env.DIRECTORY) : ledger(c.env.TENANT, tenant);
    // No header holds a line break, so no key of the tenant's own is the same.
    const key = owner === "operator" && tenant !== undefined ? `operator\n${sent}` : sent;
    const url = new URL(c.req.url);
    const request = sha256Hex(`${c.req.method} ${url.pathname}${url.search}\n${await c.req.text()}`);
    const begun = await records.beginIdempotent({ key, request, claim: c.var.requestId });
    if (!begun.ok) return failed(c, begun.failure);
    if (begun.value !== null) {
      c.header("idempotent-replayed", "true");
      return new Response(JSON.stringify(begun.value.body), {
        status: begun.value.status,
        headers: { ...Object.fromEntries(c.res.headers), "content-type": "application/json" },
      });
    }
    c.set("claim", c.var.requestId);
    await next();
    if (c.res.status >= 400) await records.releaseIdempotent(c.var.requestId);
  });
}
