/** The Worker as its callers see it, and shorthands for what most tests begin with. */

import { SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect } from "vitest";
import { validateResponse } from "./openapi.ts";

export interface ApiResponse {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read answers of every shape, and fail where a field is missing
  readonly json: any;
}

/** How zod speaks where a schema has no words of its own. */
const VALIDATOR_WORDS =
  /Invalid (input|option|string|key|number)|Too (small|big)|Unrecognized key|expected \w+ to|received/;

/**
 * Calls the Worker. Whatever is asked, the answer carries a request id, the rate limit and the headers for browsers, is as
 * /openapi.json says, has no words of the validator, and is no 500: every test that calls asserts that.
 */
export async function call(
  method: string,
  path: string,
  key?: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<ApiResponse> {
  const raw = body instanceof ReadableStream || typeof body === "string" || body instanceof Uint8Array;
  const response = await SELF.fetch(
    new Request(`http://graft.test${path}`, {
      method,
      headers: {
        ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined || raw ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: raw ? (body as BodyInit) : JSON.stringify(body) }),
    }),
  );
  const text = await response.text();
  const isJson = response.headers.get("content-type")?.startsWith("application/json") && method !== "HEAD";
  const json = isJson ? JSON.parse(text) : null;
  expect(response.status, text).not.toBe(500);
  expect(response.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/);
  expect(response.headers.get("ratelimit-policy")).toMatch(/^"\w+";q=\d+;w=\d+$/);
  expect(response.headers.get("x-content-type-options")).toBe("nosniff");
  expect(response.headers.get("content-security-policy")).toMatch(/^default-src 'none'; .*frame-ancestors 'none'$/);
  expect(response.headers.get("cache-control")).toBe(
    response.status < 400 && /^\/(docs|openapi\.json)/.test(path) ? "no-cache" : "no-store",
  );
  if (response.status >= 400 && json?.error) {
    expect(json.error.request_id).toBe(response.headers.get("x-request-id"));
    expect(json.error.message).not.toMatch(VALIDATOR_WORDS);
  }
  for (const { message } of json?.object === "dataset.import" ? json.errors : [])
    expect(message).not.toMatch(VALIDATOR_WORDS);
  if (method !== "HEAD") await validateResponse(method, path, response, json);
  return { status: response.status, headers: response.headers, text, json };
}

let tenantCount = 0;

/** A new tenant; answers its first key, which has all scopes. */
export async function newTenant(
  id = `tenant-${++tenantCount}-${Math.random().toString(36).slice(2, 8)}`,
): Promise<{ id: string; key: string }> {
  const answer = await call("POST", "/v1/admin/tenants", env.ADMIN_KEY, { id });
  if (answer.status !== 201) throw new Error(answer.text);
  return { id, key: answer.json.key.secret };
}

const topics = {
  billing: [
    "refund my last invoice",
    "I was charged twice",
    "the payment failed",
    "wrong amount on the bill",
    "please refund the charge",
    "my card was billed again",
  ],
  login: [
    "I cannot log in",
    "reset my password",
    "the login page rejects me",
    "locked out of my account",
    "password reset mail never came",
    "two factor login fails",
  ],
  shipping: [
    "where is my parcel",
    "the delivery is late",
    "track my shipment",
    "my order has not arrived",
    "parcel delivered to the wrong door",
    "change the delivery address",
  ],
};

/** A small separable set of support tickets, one example a text. */
export function tickets(): { text: string; label: string }[] {
  return Object.entries(topics).flatMap(([label, texts]) => texts.map((text) => ({ text, label })));
}

/** A tenant with a data set `tickets` of them. */
export async function tenantWithTickets(): Promise<{ id: string; key: string }> {
  const tenant = await newTenant();
  await call("POST", "/v1/datasets", tenant.key, { name: "tickets", task: "single_label", modality: "text" });
  const answer = await call("POST", "/v1/datasets/tickets/examples", tenant.key, { examples: tickets() });
  if (answer.status !== 200) throw new Error(answer.text);
  return tenant;
}
