/** Inbound hooks as other systems post to them, and what the ledger tells of it. */
import { createHmac } from "node:crypto";
import { expect } from "vitest";
import { type ApiResponse, call } from "./api.ts";
import { inLedger, webhookHeaders } from "./fake-batch-endpoint.ts";

export const schemes = {
  standard: { scheme: "standard_webhooks" },
  github: { scheme: "hmac_sha256", header: "x-hub-signature-256", prefix: "sha256=", encoding: "hex" },
  shopify: { scheme: "hmac_sha256", header: "x-shopify-hmac-sha256", encoding: "base64" },
  none: { scheme: "none" },
} as const;
export type Scheme = keyof typeof schemes;

export interface Hook {
  readonly id: string;
  readonly path: string;
  readonly secret: string;
  readonly scheme: Scheme;
}

/** A new hook, by default one that predicts with `support`, which anybody may post to. */
export async function newHook(key: string, hook: object = {}, scheme: Scheme = "none"): Promise<Hook> {
  const body = {
    name: "hook",
    action: "predict",
    head: "support",
    fields: { text: "/text" },
    verify: schemes[scheme],
    ...hook,
  };
  const response = await call("POST", "/v1/inbound_hooks", key, body);
  expect(response.status, response.text).toBe(201);
  return {
    id: response.json.id,
    path: new URL(response.json.url).pathname,
    secret: response.json.secret ?? "",
    scheme,
  };
}

/** One that learns into `tickets`. */
export const newLearnHook = (key: string, hook: object = {}, scheme: Scheme = "none") =>
  newHook(
    key,
    {
      action: "learn",
      head: undefined,
      dataset: "tickets",
      fields: { text: "/text", label: "/label", id: "/id" },
      ...hook,
    },
    scheme,
  );

export interface SigningOptions {
  readonly id?: string;
  readonly timestamp?: number;
  readonly secret?: string;
}

/** The headers by which a sender of the hook's scheme signs a body. */
export function signatureHeaders(
  hook: Hook,
  body: string | Uint8Array,
  signing: SigningOptions = {},
): Record<string, string> {
  const secret = signing.secret ?? hook.secret;
  const mac = createHmac("sha256", secret).update(body);
  if (hook.scheme === "github") return { "x-hub-signature-256": `sha256=${mac.digest("hex")}` };
  if (hook.scheme === "shopify") return { "x-shopify-hmac-sha256": mac.digest("base64") };
  return hook.scheme === "none" ? {} : webhookHeaders(String(body), { ...signing, secret });
}

/** Posts what is given, as JSON where it is no text, signed as the hook wants it. */
export function postToHook(hook: Hook, body: unknown, signing: SigningOptions = {}): Promise<ApiResponse> {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return call("POST", hook.path, undefined, text, signatureHeaders(hook, text, signing));
}

/** Posts what is taken; answers the answer. */
export async function postAccepted(hook: Hook, body: unknown, signing: SigningOptions = {}): Promise<ApiResponse> {
  const answer = await postToHook(hook, body, signing);
  expect(answer.status, answer.text).toBe(200);
  return answer;
}

/** What a tenant's events tell, oldest first. */
// biome-ignore lint/suspicious/noExplicitAny: data of every shape
export function listEvents(tenant: string, ...types: string[]): Promise<{ type: string; data: any }[]> {
  return inLedger(tenant, ({ sql }) =>
    sql
      .exec<{ type: string; data: string }>("SELECT type, data FROM events ORDER BY sequence")
      .toArray()
      .filter(({ type }) => types.length === 0 || types.includes(type))
      .map(({ type, data }) => ({ type, data: JSON.parse(data) })),
  );
}

/** A data set's newest hundred examples, oldest first, without their times. */
export async function listExamples(key: string, dataset = "tickets"): Promise<Record<string, unknown>[]> {
  const { json, text, status } = await call("GET", `/v1/datasets/${dataset}/examples?limit=100`, key);
  expect(status, text).toBe(200);
  const withoutTimes = ({ object: _object, created_at: _at, ...example }: Record<string, unknown>) => example;
  return json.data.toReversed().map(withoutTimes);
}
