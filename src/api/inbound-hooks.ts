/** Inbound hooks, to whose URL another system posts its own JSON, and what such a post is answered. */
import { z } from "@hono/zod-openapi";
import { prediction } from "./predictions.ts";
import { type DeepReadonly, name, truncated, truncateFlag, unixSeconds } from "./schema.ts";

/** RFC 6901, with at least one token: the whole body is never a text. */
const JSON_POINTER = /^(\/([^~/]|~[01])*)+$/;
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
export type HookFields = DeepReadonly<z.output<typeof fields>>;

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
/** Given where the other system makes the secret; otherwise one is made here. */
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

export const newInboundHook = z
  .strictObject({
    name,
    action: z.enum(["predict", "learn"]),
    head: name.optional(),
    dataset: name.optional(),
    fields,
    on_unknown_label: z.enum(["reject", "add"]).optional(),
    truncate: truncateFlag.default(true),
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
export type NewInboundHook = DeepReadonly<z.input<typeof newInboundHook>>;
export type InboundHookParams = DeepReadonly<z.output<typeof newInboundHook>>;

export const inboundHook = z
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
    truncate: truncateFlag,
    verify: z.discriminatedUnion("scheme", [
      z.object(standard),
      z.object({ ...hmac, header: z.string(), prefix: z.string() }),
      z.object(none),
    ]),
    created_at: unixSeconds,
  })
  .openapi("InboundHook");
export type InboundHook = DeepReadonly<z.output<typeof inboundHook>>;
/** How a message is verified. */
export type Verification = InboundHook["verify"];

const shownOnce = { description: "shown this once: left out where an answer is replayed" };
export const inboundHookWithSecret = inboundHook
  .extend({
    url: z.string().optional().openapi(shownOnce),
    secret: z.string().optional().openapi(shownOnce),
  })
  .openapi("InboundHookWithSecret");
export type InboundHookWithSecret = DeepReadonly<z.output<typeof inboundHookWithSecret>>;

export const inboundPrediction = prediction
  .extend({
    object: z.literal("inbound.prediction"),
    id: z.string().openapi({ description: "the hook's" }),
    input_id: z.string().nullable(),
    model: z.string(),
  })
  .openapi("InboundPrediction");
export const inboundLearning = z
  .object({
    object: z.literal("inbound.learning"),
    id: z.string().openapi({ description: "the hook's" }),
    dataset: z.string(),
    example: z.string().openapi({ description: "its id in the dataset" }),
    outcome: z.enum(["added", "updated", "unchanged"]),
    truncated,
  })
  .openapi("InboundLearning");
