import { createRoute, z } from "@hono/zod-openapi";
import {
  deletedObject,
  errorResponses,
  jsonBody,
  jsonResponse,
  listOf,
  name,
  pageQuery,
  tenantSecurity,
  unixSeconds,
} from "../../api/schema.ts";
import { ok } from "../../core/failure.ts";
import { JSON_POINTER } from "../../ingest/fields.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { newId } from "../../lib/id.ts";
import type { HookSpec, InboundHook } from "../../tenant/hooks/inbound.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { type App, addRoute } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { createKey } from "../middleware/keys.ts";
import { generateSecret } from "./inbound-verify.ts";

const pointer = z
  .string()
  .max(256)
  .regex(JSON_POINTER, "it is no JSON Pointer (RFC 6901), such as '/ticket/subject'")
  .openapi({ example: "/ticket/subject" });
const fields = z.strictObject({
  text: z
    .union([pointer, z.array(pointer).min(1).max(10)], {
      error: "it is a JSON Pointer (RFC 6901), such as '/ticket/subject', or a list of 1 to 10 of them",
    })
    .openapi({ description: "texts of a list are joined by a line break" }),
  label: pointer.optional(),
  labels: pointer.optional(),
  value: pointer.optional(),
  id: pointer.optional(),
});

const header = z
  .string()
  .max(100)
  .regex(/^[!#$%&'*+.^_`|~0-9a-z-]+$/i, "it is no header's name")
  .transform((headerName) => headerName.toLowerCase());
const hmac = {
  scheme: z.literal("hmac_sha256"),
  header,
  prefix: z
    .string()
    .max(32)
    .regex(/^[\x21-\x7e]*$/, "a prefix has visible ASCII characters alone")
    .default(""),
  encoding: z.enum(["hex", "base64"]),
};
const standard = { scheme: z.literal("standard_webhooks") };
const none = { scheme: z.literal("none") };
/** For schemes where the other system makes the secret; else one is made. */
const secrets = {
  standard: z
    .string()
    .min(30)
    .max(256)
    .regex(/^whsec_([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/, "it is 'whsec_' and base64")
    .optional(),
  hmac: z.string().min(16).max(256).optional(),
};
const schemes = { error: "the scheme is 'standard_webhooks', 'hmac_sha256' or 'none'" };

const newHook = z
  .strictObject({
    name,
    action: z.enum(["predict", "learn"]),
    head: name.optional(),
    dataset: name.optional(),
    fields,
    on_unknown_label: z.enum(["reject", "add"]).optional(),
    verify: z.discriminatedUnion(
      "scheme",
      [
        z.strictObject({ ...standard, secret: secrets.standard }),
        z.strictObject({ ...hmac, secret: secrets.hmac }),
        z.strictObject(none),
      ],
      schemes,
    ),
  })
  .superRefine((hook, context) => {
    const addIssue = (path: string[], message: string) => context.addIssue({ code: "custom", path, message });
    const isPredict = hook.action === "predict";
    const [needed, other] = isPredict ? (["head", "dataset"] as const) : (["dataset", "head"] as const);
    if (hook[needed] === undefined) addIssue([needed], "it is required");
    if (hook[other] !== undefined) addIssue([other], `the action '${hook.action}' takes a ${needed}`);
    if (!isPredict) return;
    for (const field of ["label", "labels", "value"] as const)
      if (hook.fields[field] !== undefined) addIssue(["fields", field], "the action 'predict' takes no label");
    if (hook.on_unknown_label !== undefined) addIssue(["on_unknown_label"], "the action 'predict' takes no label");
  })
  .openapi("NewInboundHook");

const inboundHook = z
  .object({
    object: z.literal("inbound_hook"),
    id: z.string(),
    name: z.string(),
    action: z.enum(["predict", "learn"]),
    head: z.string().nullable(),
    dataset: z.string().nullable(),
    fields: z.object({
      text: z.union([z.string(), z.array(z.string())]),
      label: z.string().optional(),
      labels: z.string().optional(),
      value: z.string().optional(),
      id: z.string().optional(),
    }),
    on_unknown_label: z.enum(["reject", "add"]).nullable(),
    verify: z.discriminatedUnion("scheme", [
      z.object(standard),
      z.object({ ...hmac, header: z.string(), prefix: z.string() }),
      z.object(none),
    ]),
    created_at: unixSeconds,
  })
  .openapi("InboundHook");
const shownOnce = { description: "shown this once: left out where an answer is replayed" };
const hookWithSecret = inboundHook
  .extend({
    url: z.string().optional().openapi(shownOnce),
    secret: z.string().optional().openapi(shownOnce),
  })
  .openapi("InboundHookWithSecret");

const common = { tags: ["Inbound hooks"], security: tenantSecurity };
const params = z.object({ id: z.string().min(1).max(100) });

function toHookSpec({ verify, ...hook }: z.infer<typeof newHook>): HookSpec {
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
      request: { body: jsonBody(newHook) },
      responses: {
        201: jsonResponse(hookWithSecret, "The hook; its URL and secret are shown this once"),
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
      const hookWithUrl: InboundHook & { url: string } = { ...result.value, url };
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
      request: { params },
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
      request: { params },
      responses: { 200: jsonResponse(deletedObject("inbound_hook"), "It is gone"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).deleteHook(c.req.valid("param").id)),
  );
}
