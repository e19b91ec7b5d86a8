import { createRoute } from "@hono/zod-openapi";
import { type InboundHookParams, inboundHook, inboundHookWithSecret, newInboundHook } from "../../api/inbound-hooks.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import { ok } from "../../core/failure.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { newId } from "../../lib/id.ts";
import type { HookSpec } from "../../tenant/hooks/inbound.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { createKey } from "../middleware/keys.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";
import { generateSecret } from "./inbound-signature.ts";

const common = { tags: ["Inbound hooks"], security: tenantSecurity };

const createHookRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/inbound_hooks",
  operationId: "createInboundHook",
  summary: "Create an inbound hook, to whose URL another system posts its own JSON",
  description:
    "A URL for one other system. What it posts there is verified, and classified by a head or learnt as an example of a dataset.",
  middleware: [tenantAuth("manage"), idempotency("tenant")] as const,
  request: { body: jsonBody(newInboundHook) },
  responses: {
    201: jsonResponse(inboundHookWithSecret, "The hook; its URL and secret are shown this once"),
    ...errorResponses,
  },
});

const listHooksRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/inbound_hooks",
  operationId: "listInboundHooks",
  summary: "List inbound hooks",
  description: "The hooks without their URLs and secrets, which are shown only once.",
  middleware: [tenantAuth("manage")] as const,
  request: { query: pageQuery },
  responses: { 200: jsonResponse(listOf(inboundHook), "Hooks, newest first"), ...errorResponses },
});

const getHookRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/inbound_hooks/{id}",
  operationId: "getInboundHook",
  summary: "Get an inbound hook",
  description: "What the hook does and how its messages are verified.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: idParams },
  responses: { 200: jsonResponse(inboundHook, "The hook"), ...errorResponses },
});

const deleteHookRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/inbound_hooks/{id}",
  operationId: "deleteInboundHook",
  summary: "Delete an inbound hook; its URL finds nothing from then on",
  description: "The URL is answered with 404 at once. What was learnt stays.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: idParams },
  responses: { 200: jsonResponse(deletedObject("inbound_hook"), "It is gone"), ...errorResponses },
});

export function inboundHookRoutes(app: App): void {
  addRoute(app, createHookRoute, createHook);
  addRoute(app, listHooksRoute, async (c) => respond(c, await c.var.ledger().listHooks(c.req.valid("query"))));
  addRoute(app, getHookRoute, async (c) => respond(c, await c.var.ledger().getHook(c.req.valid("param").id)));
  addRoute(app, deleteHookRoute, async (c) => respond(c, await c.var.ledger().deleteHook(c.req.valid("param").id)));
}

async function createHook(c: RouteContext<typeof createHookRoute>): Promise<Response> {
  const params = c.req.valid("json");
  const token = createKey(c.env.SERVER_KEY, c.var.caller.tenant, crypto.getRandomValues(new Uint8Array(16)), "gi");
  const givenSecret = "secret" in params.verify ? params.verify.secret : undefined;
  const secret = givenSecret ?? generateSecret(params.verify.scheme);
  const hook = { id: newId("hook_"), tokenHash: sha256Hex(token), secret, spec: toHookSpec(params) };
  const result = await c.var.ledger().createHook(c.var.idempotencyClaim, hook);
  if (!result.ok) return respondError(c, result.failure);
  const url = `${new URL(c.req.url).origin}/v1/inbound/${token}`;
  return respond(c, ok({ ...result.value, url, ...(secret === null ? {} : { secret }) }), 201);
}

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
