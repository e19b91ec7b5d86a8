import { createMiddleware } from "hono/factory";
import { TENANT_ID_PATTERN } from "../../api/tenants.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { getDirectory } from "../../tenant/directory.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { HttpEnv } from "../context.ts";
import { respondError } from "./errors.ts";

/** The `Location` of a 202, whose work is a job. */
export function jobLocation({ id }: { readonly id: string }): string {
  return `/v1/fine_tuning/jobs/${id}`;
}

/**
 * Handles `Idempotency-Key` on a route that creates or changes something. The ledger claims the key here, and stores the
 * response in the transaction of the change itself. A request that fails releases the key.
 */
export function idempotency(owner: "tenant" | "operator") {
  return createMiddleware<HttpEnv>(async (c, next) => {
    const header = c.req.header("idempotency-key");
    if (header === undefined) return next();
    if (header.length < 1 || header.length > 255) {
      return respondError(c, {
        code: "invalid_parameter",
        message: "An Idempotency-Key has 1 to 255 characters.",
        param: "Idempotency-Key",
      });
    }
    const tenant = owner === "tenant" ? c.var.caller.tenant : c.req.param("id");
    // The operator's path is not checked yet. A path that names no tenant is refused next.
    if (tenant !== undefined && !TENANT_ID_PATTERN.test(tenant)) return next();
    const idempotencyStore = tenant === undefined ? getDirectory(c.env.DIRECTORY) : getLedger(c.env.TENANT, tenant);
    // A header holds no line break, so a tenant's own key never equals this one.
    const key = owner === "operator" && tenant !== undefined ? `operator\n${header}` : header;
    const url = new URL(c.req.url);
    const requestHash = sha256Hex(`${c.req.method} ${url.pathname}${url.search}\n${await c.req.text()}`);
    const beginResult = await idempotencyStore.claimIdempotencyKey({ key, requestHash, claim: c.var.requestId });
    if (!beginResult.ok) return respondError(c, beginResult.failure);
    if (beginResult.value !== null) {
      const { status, body } = beginResult.value;
      c.header("idempotent-replayed", "true");
      if (status === 202) c.header("location", jobLocation(body as { id: string }));
      return new Response(JSON.stringify(body), {
        status,
        headers: { ...Object.fromEntries(c.res.headers), "content-type": "application/json" },
      });
    }
    c.set("idempotencyClaim", c.var.requestId);
    const respondAndRelease = async () => {
      await next();
      if (c.res.status >= 400) await idempotencyStore.releaseIdempotencyKey(c.var.requestId);
    };
    const done = respondAndRelease();
    // Also if the client disconnects: otherwise its key would stay claimed, and it could not repeat the request at once.
    c.executionCtx.waitUntil(done);
    await done;
  });
}
