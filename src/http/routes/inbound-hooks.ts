import { createRoute, z } from "@hono/zod-openapi";
import { ok } from "../../core/failure.ts";
import { sha256Hex } from "../../lib/hash.ts";
import { newId } from "../../lib/id.ts";
import type { HookSpec, InboundHook } from "../../tenant/hooks/inbound.ts";
import { ledger } from "../../tenant/tenant.ts";
import { tenantKey } from "../middleware/auth.ts";
import { type App, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { idempotent } from "../middleware/idempotency.ts";
import { POINTER } from "../../ingest/fields.ts";
import { newSecret } from "./inbound-verify.ts";
import { makeKey } from "../middleware/keys.ts";
import { body, deleted, errors, json, listOf, name, pageQuery, tenantSecurity, unixSeconds } from "../../api/schema.ts";

const pointer = z
  .string()
  .max(256)
  .regex(POINTER, "it is no JSON Pointer (RFC 6901), such as '/ticket/subject'")
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
  .transform((given) => given.toLowerCase());
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
const given = {
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
        z.strictObject({ ...standard, secret: given.standard }),
        z.strictObject({ ...hmac, secret: given.hmac }),
        z.strictObject(none),
      ],
      schemes,
    ),
  })
  .superRefine((wanted, context) => {
    const refuse = (path: string[], message: string) => context.addIssue({ code: "custom", path, message });
    const predicts = wanted.action === "predict";
    const [needed, other] = predicts ? (["head", "dataset"] as const) : (["dataset", "head"] as const);
    if (wanted[needed] === undefined) refuse([needed], "it is required");
    if (wanted[other] !== undefined) refuse([other], `the action '${wanted.action}' takes a ${needed}`);
    if (!predicts) return;
    for (const field of ["label", "labels", "value"] as const)
      if (wanted.fields[field] !== undefined) refuse(["fields", field], "the action 'predict' takes no label");
    if (wanted.on_unknown_label !== undefined) refuse(["on_unknown_label"], "the action 'predict' takes no label");
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
const madeHook = inboundHook
  .extend({
    url: z.string().optional().openapi(shownOnce),
    secret: z.string().optional().openapi(shownOnce),
  })
  .openapi("InboundHookWithSecret");

const common = { tags: ["Inbound hooks"], security: tenantSecurity };
const params = z.object({ id: z.string().min(1).max(100) });

function toSpec({ verify, ...wanted }: z.infer<typeof newHook>): HookSpec {
  const { head = null, dataset = null, on_unknown_label, ...rest } = wanted;
  const { secret: _secret, ...how } = { secret: undefined, ...verify };
  return {
    ...rest,
    head,
    dataset,
    on_unknown_label: wanted.action === "learn" ? (on_unknown_label ?? "reject") : null,
    verify: how,
  };
}

export function inboundHookRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/inbound_hooks",
      summary: "Create an inbound hook, to whose URL another system posts its own JSON",
      middleware: [tenantKey("manage"), idempotent("tenant")] as const,
      request: { body: body(newHook) },
      responses: { 201: json(madeHook, "The hook; its URL and secret are shown this once"), ...errors },
    }),
    async (c) => {
      const { tenant } = c.var.caller;
      const wanted = c.req.valid("json");
      const token = makeKey(c.env.SERVER_KEY, tenant, crypto.getRandomValues(new Uint8Array(16)), "gi");
      const own = "secret" in wanted.verify ? wanted.verify.secret : undefined;
      const secret = own ?? newSecret(wanted.verify.scheme);
      const id = newId("hook_");
      const hook = { id, tokenHash: sha256Hex(token), secret, spec: toSpec(wanted) };
      const made = await ledger(c.env.TENANT, tenant).createHook(c.var.claim, hook);
      if (!made.ok) return failed(c, made.failure);
      const url = `${new URL(c.req.url).origin}/v1/inbound/${token}`;
      const shown: InboundHook & { url: string } = { ...made.value, url };
      return answer(c, ok(secret === null ? shown : { ...shown, secret }), 201);
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/inbound_hooks",
      summary: "List inbound hooks",
      middleware: [tenantKey("manage")] as const,
      request: { query: pageQuery },
      responses: { 200: json(listOf(inboundHook), "Hooks, newest first"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).listHooks(c.req.valid("query"))),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/inbound_hooks/{id}",
      summary: "Get an inbound hook",
      middleware: [tenantKey("manage")] as const,
      request: { params },
      responses: { 200: json(inboundHook, "The hook"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).getHook(c.req.valid("param").id)),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/inbound_hooks/{id}",
      summary: "Delete an inbound hook; its URL finds nothing from then on",
      middleware: [tenantKey("manage")] as const,
      request: { params },
      responses: { 200: json(deleted("inbound_hook"), "It is gone"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).deleteHook(c.req.valid("param").id)),
  );
}
