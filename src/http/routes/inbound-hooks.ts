import { createRoute } from "@hono/zod-openapi";
import {
  type InboundHookParams,
  type InboundHookWithSecret,
  inboundHook,
  inboundHookWithSecret,
  newInboundHook,
} from "../../api/inbound-hooks.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import { ok } from "../../core/failure.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { newId } from "../../lib/id.ts";
import type { HookSpec } from "../../tenant/hooks/inbound.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { createKey } from "../middleware/keys.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";
import { generateSecret } from "./inbound-verify.ts";

const common = { tags: ["Inbound hooks"], security: tenantSecurity };

function toHookSpec({ verify, ...hook }: InboundHookParams): HookSpec {
  const { head = null, dataset = null, on_unknown_label, ...settings } = hook;
  const { secret: _secret, ...verification } = { secret: undefined, ...verify };
  return {
    ...settings,
    head,
    dataset,
    on_unknown_label: hook.action === "learn" ? (on_unknown_label ?? "reject") : null,
    verify: verification,
  };
}

export function inboundHookRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/inbound_hooks",
      summary: "Create an inbound hook, to whose URL another system posts its own JSON",
      middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
      request: { body: jsonBody(newInboundHook) },
      responses: {
        201: jsonResponse(inboundHookWithSecret, "The hook; its URL and secret are shown this once"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const { tenant } = c.var.caller;
      const hookParams = c.req.valid("json");
      const token = createKey(c.env.SERVER_KEY, tenant, crypto.getRandomValues(new Uint8Array(16)), "gi");
      const givenSecret = "secret" in hookParams.verify ? hookParams.verify.secret : undefined;
      const secret = givenSecret ?? generateSecret(hookParams.verify.scheme);
      const id = newId("hook_");
      const hook = { id, tokenHash: sha256Hex(token), secret, spec: toHookSpec(hookParams) };
      const result = await getLedger(c.env.TENANT, tenant).createHook(c.var.idempotencyClaim, hook);
      if (!result.ok) return respondError(c, result.failure);
      const url = `${new URL(c.req.url).origin}/v1/inbound/${token}`;
      const hookWithUrl: InboundHookWithSecret = { ...result.value, url };
      return respond(c, ok(secret === null ? hookWithUrl : { ...hookWithUrl, secret }), 201);
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/inbound_hooks",
      summary: "List inbound hooks",
      middleware: [tenantAuth("manage")] as const,
      request: { query: pageQuery },
      responses: { 200: jsonResponse(listOf(inboundHook), "Hooks, newest first"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).listHooks(c.req.valid("query"))),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/inbound_hooks/{id}",
      summary: "Get an inbound hook",
      middleware: [tenantAuth("manage")] as const,
      request: { params: idParams },
      responses: { 200: jsonResponse(inboundHook, "The hook"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getHook(c.req.valid("param").id)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/inbound_hooks/{id}",
      summary: "Delete an inbound hook; its URL finds nothing from then on",
      middleware: [tenantAuth("manage")] as const,
      request: { params: idParams },
      responses: { 200: jsonResponse(deletedObject("inbound_hook"), "It is gone"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).deleteHook(c.req.valid("param").id)),
  );
}
