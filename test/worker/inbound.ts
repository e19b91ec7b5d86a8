/** Inbound hooks as other systems post to them, and what the ledger tells of it. */
import { createHmac } from "node:crypto";
import { expect } from "vitest";
import { type Answer, call } from "./api.ts";
import { inLedger, signed } from "./batch.ts";

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
  const made = await call("POST", "/v1/inbound_hooks", key, body);
  expect(made.status, made.text).toBe(201);
  return { id: made.json.id, path: new URL(made.json.url).pathname, secret: made.json.secret ?? "", scheme };
}

/** One that learns into `tickets`. */
export const learnHook = (key: string, hook: object = {}, scheme: Scheme = "none") =>
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

export interface Signing {
  readonly id?: string;
  readonly at?: number;
  readonly secret?: string;
}

/** The headers by which a sender of the hook's scheme signs a body. */
export function signatureOf(hook: Hook, body: string | Uint8Array, signing: Signing = {}): Record<string, string> {
  const secret = signing.secret ?? hook.secret;
  const mac = createHmac("sha256", secret).update(body);
  if (hook.scheme === "github") return { "x-hub-signature-256": `sha256=${mac.digest("hex")}` };
  if (hook.scheme === "shopify") return { "x-shopify-hmac-sha256": mac.digest("base64") };
  return hook.scheme === "none" ? {} : signed(String(body), { ...signing, secret });
}

/** Posts what is given, as JSON where it is no text, signed as the hook wants it. */
export function post(hook: Hook, body: unknown, signing: Signing = {}): Promise<Answer> {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return call("POST", hook.path, undefined, text, signatureOf(hook, text, signing));
}

/** Posts what is taken; answers the answer. */
export async function posted(hook: Hook, body: unknown, signing: Signing = {}): Promise<Answer> {
  const answer = await post(hook, body, signing);
  expect(answer.status, answer.text).toBe(200);
  return answer;
}

/** What a tenant's events tell, oldest first. */
// biome-ignore lint/suspicious/noExplicitAny: data of every shape
export function eventsOf(tenant: string, ...types: string[]): Promise<{ type: string; data: any }[]> {
  return inLedger(tenant, ({ sql }) =>
    sql
      .exec<{ type: string; data: string }>("SELECT type, data FROM events ORDER BY sequence")
      .toArray()
      .filter(({ type }) => types.length === 0 || types.includes(type))
      .map(({ type, data }) => ({ type, data: JSON.parse(data) })),
  );
}

/** A data set's newest hundred examples, oldest first, without their times. */
export async function examplesOf(key: string, dataset = "tickets"): Promise<Record<string, unknown>[]> {
  const { json, text, status } = await call("GET", `/v1/datasets/${dataset}/examples?limit=100`, key);
  expect(status, text).toBe(200);
  const shown = ({ object: _object, created_at: _at, ...example }: Record<string, unknown>) => example;
  return json.data.toReversed().map(shown);
}
