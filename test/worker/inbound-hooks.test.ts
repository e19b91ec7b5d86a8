/// <reference types="vite/types/importMeta.d.ts" />
/** Inbound hooks: as their owner makes them, and as other systems post to them. */

import { env } from "cloudflare:workers";
import { createHmac } from "node:crypto";
import fc from "fast-check";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { ErrorCode } from "../../src/core/failure.ts";
import { limits } from "../../src/core/limits.ts";
import { createKey } from "../../src/http/middleware/keys.ts";
import { parseJsonKeepingDigits } from "../../src/ingest/body.ts";
import { readFields } from "../../src/ingest/fields.ts";
import { type ApiResponse, call, newTenant, tenantWithTickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden, withoutRequestId } from "./assertions.ts";
import { inLedger } from "./fake-batch-endpoint.ts";
import {
  type Hook,
  listEvents,
  listExamples,
  newHook,
  newLearnHook,
  postAccepted,
  postToHook,
  type Scheme,
  schemes,
  signatureHeaders,
} from "./inbound-hooks.ts";

const HOOKS = "/v1/inbound_hooks";
let tenant: string;
let key: string;
const predictHook = { name: "in", action: "predict", head: "support", fields: { text: "/text" }, verify: schemes.none };
const learnHookBody = {
  name: "in",
  action: "learn",
  dataset: "tickets",
  fields: { text: "/text", label: "/label" },
  verify: schemes.none,
};

async function newTenantWithHead(): Promise<{ id: string; key: string }> {
  const tenant = await tenantWithTickets();
  const trained = await call("POST", "/v1/heads", tenant.key, { name: "support", dataset: "tickets" });
  expect(trained.status, trained.text).toBe(201);
  return tenant;
}

beforeAll(async () => {
  ({ id: tenant, key } = await newTenantWithHead());
});
afterEach(() => vi.restoreAllMocks());

describe("a hook", () => {
  test("is made, shown, listed and deleted; its URL and secret are shown once", async () => {
    const body = { ...learnHookBody, fields: { ...learnHookBody.fields, id: "/id" }, verify: schemes.github };
    const response = await call("POST", HOOKS, key, body);
    expect(response.status, response.text).toBe(201);
    const { url, secret, ...shownHook } = response.json;
    expect(url).toMatch(new RegExp(`^http://graft\\.test/v1/inbound/gi_${tenant}_[0-9a-f]{64}$`));
    expect(secret).toMatch(/^[0-9a-f]{64}$/);
    expect(shownHook).toEqual({
      object: "inbound_hook",
      id: expect.stringMatching(/^hook_[0-9a-f]{32}$/),
      ...body,
      head: null,
      on_unknown_label: "reject",
      truncate: true,
      created_at: expect.any(Number),
    });
    expect((await call("GET", `${HOOKS}/${shownHook.id}`, key)).json).toEqual(shownHook);
    const olderHook = await newHook(key);
    expect((await call("GET", `${HOOKS}?limit=1`, key)).json.data.map(({ id }: { id: string }) => id)).toEqual([
      olderHook.id,
    ]);
    expect((await call("GET", `${HOOKS}?after=${olderHook.id}&limit=1`, key)).json.data).toEqual([shownHook]);
    const countHooks = async () => (await call("GET", "/v1/limits", key)).json.limits.inbound_hooks;
    const before = await countHooks();
    expect(before.limit).toBe(limits.inbound_hooks);
    const deletion = await call("DELETE", `${HOOKS}/${shownHook.id}`, key);
    expect(deletion.json).toEqual({ id: shownHook.id, object: "inbound_hook", deleted: true });
    expect((await countHooks()).used).toBe(before.used - 1);
    expectError(await call("GET", `${HOOKS}/${shownHook.id}`, key), 404, "not_found");
    expectError(await call("DELETE", `${HOOKS}/${shownHook.id}`, key), 404, "not_found");
  });

  test("has the secret that its scheme wants, or the other system's own", async () => {
    const standard = await newHook(key, {}, "standard");
    expect(standard.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    expect((await newHook(key, {}, "none")).secret).toBe("");
    for (const [verify, secret] of [
      [schemes.shopify, "hush of the shop's own making"],
      [schemes.standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    ] as const) {
      const response = await call("POST", HOOKS, key, { ...predictHook, verify: { ...verify, secret } });
      expect(response.json.secret).toBe(secret);
      expect(JSON.stringify((await call("GET", `${HOOKS}/${response.json.id}`, key)).json)).not.toContain(secret);
    }
  });

  test("made again with the same Idempotency-Key is the same one, without URL and secret", async () => {
    const headers = { "idempotency-key": "hook-1" };
    const body = { ...predictHook, verify: schemes.standard };
    const first = await call("POST", HOOKS, key, body, headers);
    const retryResponse = await call("POST", HOOKS, key, body, headers);
    const { url: _url, secret: _secret, ...otherFields } = first.json;
    expect(retryResponse.headers.get("idempotent-replayed")).toBe("true");
    expect(retryResponse.json).toEqual(otherFields);
  });

  test("is kept without its token, in no other form than its hash", async () => {
    const { path } = await newHook(key);
    const rows = await inLedger(tenant, ({ sql }) => JSON.stringify(sql.exec("SELECT * FROM inbound_hooks").toArray()));
    expect(rows).not.toContain(path.split("_").at(-1));
  });

  test("takes a key that may manage, of its own tenant", async () => {
    const { id } = await newHook(key);
    await expectAuthorization(key, "manage", "POST", HOOKS, predictHook);
    await expectAuthorization(key, "manage", "GET", HOOKS);
    await expectAuthorization(key, "manage", "GET", `${HOOKS}/${id}`);
    await expectAuthorization(key, "manage", "DELETE", `${HOOKS}/${id}`);
    await expectHidden("GET", `${HOOKS}/${id}`, undefined, () => Promise.resolve());
    await expectHidden("DELETE", `${HOOKS}/${id}`, undefined, () => call("DELETE", `${HOOKS}/${id}`, key));
    const otherTenant = await newTenant();
    expectError(await call("POST", HOOKS, otherTenant.key, predictHook), 404, "not_found", "head");
    expectError(await call("POST", HOOKS, otherTenant.key, learnHookBody), 404, "not_found", "dataset");
  });

  const verify = (change: object) => ({ ...predictHook, verify: { ...schemes.github, ...change } });
  test.each<[object, ErrorCode, string, number?]>([
    [{ ...predictHook, name: "No Name" }, "invalid_parameter", "name"],
    [{ ...predictHook, action: "guess" }, "invalid_parameter", "action"],
    [{ ...predictHook, head: undefined }, "missing_parameter", "head"],
    [{ ...predictHook, dataset: "tickets" }, "invalid_parameter", "dataset"],
    [{ ...predictHook, fields: { text: "/a", label: "/b" } }, "invalid_parameter", "fields.label"],
    [{ ...predictHook, on_unknown_label: "add" }, "invalid_parameter", "on_unknown_label"],
    [{ ...predictHook, more: 1 }, "unknown_parameter", "more"],
    [{ ...learnHookBody, dataset: undefined }, "missing_parameter", "dataset"],
    [{ ...learnHookBody, head: "support" }, "invalid_parameter", "head"],
    [{ ...learnHookBody, on_unknown_label: "maybe" }, "invalid_parameter", "on_unknown_label"],
    [{ ...learnHookBody, fields: { text: "/a" } }, "missing_parameter", "fields.label"],
    [{ ...learnHookBody, fields: { text: "/a", value: "/b" } }, "task_mismatch", "fields.value", 422],
    [{ ...learnHookBody, fields: { text: "/a", label: "/b", labels: "/c" } }, "task_mismatch", "fields.labels", 422],
    [{ ...learnHookBody, fields: { label: "/b" } }, "missing_parameter", "fields.text"],
    [{ ...predictHook, fields: {} }, "missing_parameter", "fields.text"],
    [{ ...predictHook, fields: { text: "ticket" } }, "invalid_parameter", "fields.text"],
    [{ ...predictHook, fields: { text: "" } }, "invalid_parameter", "fields.text"],
    [{ ...predictHook, fields: { text: "/a~2b" } }, "invalid_parameter", "fields.text"],
    [{ ...predictHook, fields: { text: "/a~" } }, "invalid_parameter", "fields.text"],
    [{ ...predictHook, fields: { text: `/${"a".repeat(256)}` } }, "invalid_parameter", "fields.text"],
    [{ ...predictHook, fields: { text: ["/a", "b"] } }, "invalid_parameter", "fields.text[1]"],
    [{ ...predictHook, fields: { text: [] } }, "invalid_parameter", "fields.text"],
    [{ ...predictHook, fields: { text: "/a", id: "x" } }, "invalid_parameter", "fields.id"],
    [{ ...predictHook, fields: { text: "/a", title: "/b" } }, "unknown_parameter", "fields.title"],
    [{ ...predictHook, verify: undefined }, "missing_parameter", "verify"],
    [{ ...predictHook, verify: { scheme: "rot13" } }, "invalid_parameter", "verify.scheme"],
    [
      { ...predictHook, verify: { scheme: "none", secret: "a secret of none at all" } },
      "unknown_parameter",
      "verify.secret",
    ],
    [
      { ...predictHook, verify: { scheme: "standard_webhooks", secret: "not of that form at all" } },
      "invalid_parameter",
      "verify.secret",
    ],
    [
      { ...predictHook, verify: { scheme: "standard_webhooks", secret: `whsec_${"=".repeat(32)}` } },
      "invalid_parameter",
      "verify.secret",
    ],
    [verify({ header: "x signature" }), "invalid_parameter", "verify.header"],
    [verify({ header: undefined }), "missing_parameter", "verify.header"],
    [verify({ encoding: "base32" }), "invalid_parameter", "verify.encoding"],
    [verify({ prefix: "p".repeat(33) }), "invalid_parameter", "verify.prefix"],
    [verify({ prefix: "a b" }), "invalid_parameter", "verify.prefix"],
    [verify({ secret: "fifteen letters" }), "invalid_parameter", "verify.secret"],
    [verify({ secret: "s".repeat(257) }), "invalid_parameter", "verify.secret"],
  ])("is refused: %j", async (body, code, param, status = 400) => {
    expectError(await call("POST", HOOKS, key, body), status, code, param);
  });

  test("of embeddings is refused: other systems post texts", async () => {
    await call("POST", "/v1/datasets", key, {
      name: "vectors",
      task: "single_label",
      modality: "embedding",
      dimensions: 2,
    });
    expectError(
      await call("POST", HOOKS, key, { ...learnHookBody, dataset: "vectors" }),
      422,
      "modality_mismatch",
      "dataset",
    );
    const examples = [0, 1, 2, 3].map((i) => ({ embedding: [i % 2, i], label: `${i % 2}` }));
    await call("POST", "/v1/heads", key, { name: "vectors", examples });
    expectError(await call("POST", HOOKS, key, { ...predictHook, head: "vectors" }), 422, "modality_mismatch", "head");
  });

  test("beyond the limit is refused", async () => {
    const full = await newTenantWithHead();
    await inLedger(full.id, ({ sql }) => {
      for (let i = 0; i < limits.inbound_hooks; i++)
        sql.exec("INSERT INTO inbound_hooks (id, token_hash, spec, created_at) VALUES (?1, ?1, '{}', 0)", `hook_${i}`);
    });
    const refused = await call("POST", HOOKS, full.key, predictHook);
    expectError(refused, 422, "limit_exceeded");
    expect(refused.json.error.details).toEqual({ limit: limits.inbound_hooks, actual: limits.inbound_hooks });
  });
});

describe("what is posted", () => {
  test.each(Object.keys(schemes) as Scheme[])("signed by %s is taken", async (scheme) => {
    const hook = await newHook(key, {}, scheme);
    const { json } = await postAccepted(hook, { text: "my parcel is late" });
    expect(json).toMatchObject({ object: "inbound.prediction", id: hook.id, model: "support@1", label: "shipping" });
  });

  test.each<[Scheme, string, (hook: Hook, body: string) => Record<string, string>]>([
    ["github", "without a signature", () => ({})],
    ["github", "with an empty signature", () => ({ "x-hub-signature-256": "" })],
    ["github", "with the prefix alone", () => ({ "x-hub-signature-256": "sha256=" })],
    [
      "github",
      "signed with another secret",
      (hook, body) => signatureHeaders(hook, body, { secret: "another secret" }),
    ],
    ["github", "with another body's signature", (hook) => signatureHeaders(hook, '{"text":"other"}')],
    [
      "github",
      "without the prefix",
      (hook, body) => ({
        "x-hub-signature-256": signatureHeaders(hook, body)["x-hub-signature-256"]?.slice(7) ?? "",
      }),
    ],
    [
      "github",
      "with the prefix in capitals",
      (hook, body) => ({
        "x-hub-signature-256": signatureHeaders(hook, body)["x-hub-signature-256"]?.replace("sha256", "SHA256") ?? "",
      }),
    ],
    [
      "github",
      "truncated",
      (hook, body) => ({
        "x-hub-signature-256": signatureHeaders(hook, body)["x-hub-signature-256"]?.slice(0, -2) ?? "",
      }),
    ],
    [
      "github",
      "in base64",
      (hook, body) => ({
        "x-hub-signature-256": `sha256=${createHmac("sha256", hook.secret).update(body).digest("base64")}`,
      }),
    ],
    [
      "github",
      "with SHA-1",
      (hook, body) => ({
        "x-hub-signature-256": `sha256=${createHmac("sha1", hook.secret).update(body).digest("hex")}`,
      }),
    ],
    [
      "github",
      "in another header",
      (hook, body) => ({
        "x-signature": signatureHeaders(hook, body)["x-hub-signature-256"] ?? "",
      }),
    ],
    [
      "shopify",
      "in hexadecimal",
      (hook, body) => ({
        "x-shopify-hmac-sha256": createHmac("sha256", hook.secret).update(body).digest("hex"),
      }),
    ],
    [
      "shopify",
      "in base64 without its end",
      (hook, body) => ({
        "x-shopify-hmac-sha256": createHmac("sha256", hook.secret).update(body).digest("base64").slice(0, -1),
      }),
    ],
    ["standard", "without headers", () => ({})],
    ["standard", "without an id", (hook, body) => ({ ...signatureHeaders(hook, body), "webhook-id": "" })],
    ["standard", "with another id", (hook, body) => ({ ...signatureHeaders(hook, body), "webhook-id": "msg_other" })],
    [
      "standard",
      "with another time",
      (hook, body) => ({
        ...signatureHeaders(hook, body, { timestamp: Date.now() - 60_000 }),
        "webhook-timestamp": `${Math.floor(Date.now() / 1000)}`,
      }),
    ],
    ["standard", "six minutes ago", (hook, body) => signatureHeaders(hook, body, { timestamp: Date.now() - 360_000 })],
    [
      "standard",
      "six minutes ahead",
      (hook, body) => signatureHeaders(hook, body, { timestamp: Date.now() + 360_000 }),
    ],
    [
      "standard",
      "with another secret",
      (hook, body) =>
        signatureHeaders(hook, body, {
          secret: `whsec_${Buffer.from("another secret of 32 bytes......").toString("base64")}`,
        }),
    ],
    [
      "standard",
      "with a signature of another version",
      (hook, body) => {
        const headers = signatureHeaders(hook, body);
        return { ...headers, "webhook-signature": (headers["webhook-signature"] ?? "").replace("v1,", "v2,") };
      },
    ],
  ])("to a %s hook %s is refused, and has no effect", async (scheme, _, makeHeaders) => {
    const hook = await newLearnHook(key, {}, scheme);
    const before = await listExamples(key);
    const eventCount = (await listEvents(tenant)).length;
    const body = JSON.stringify({ text: "forged", label: "billing" });
    const refused = await call("POST", hook.path, undefined, body, makeHeaders(hook, body));
    expectError(refused, 401, "invalid_signature");
    expect(await listExamples(key)).toEqual(before);
    expect(await listEvents(tenant)).toHaveLength(eventCount);
  });

  test("with any byte changed after it was signed is refused", async () => {
    const hooks = await Promise.all(
      (["github", "shopify", "standard"] as const).map((scheme) => newHook(key, {}, scheme)),
    );
    const body = Buffer.from(JSON.stringify({ text: "my parcel is late, é" }));
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...hooks),
        fc.nat(body.length - 1),
        fc.integer({ min: 1, max: 255 }),
        async (hook, index, mask) => {
          const changedBody = new Uint8Array(body);
          changedBody[index] = (changedBody[index] ?? 0) ^ mask;
          expectError(
            await call("POST", hook.path, undefined, changedBody, signatureHeaders(hook, body)),
            401,
            "invalid_signature",
          );
        },
      ),
      { numRuns: 30 },
    );
  });

  test("signed as in the documentation of GitHub is verified, in capitals as well", async () => {
    const github = { ...schemes.github, secret: "It's a Secret to Everybody" };
    const hook = await newHook(key, { verify: github });
    const signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    // Verified, and only then found to be no JSON.
    const answer = await call("POST", hook.path, undefined, "Hello, World!", { "x-hub-signature-256": signature });
    expectError(answer, 400, "invalid_json");
    const upper = { "x-hub-signature-256": signature.replace(/[0-9a-f]+$/, (digits) => digits.toUpperCase()) };
    expectError(await call("POST", hook.path, undefined, "Hello, World!", upper), 400, "invalid_json");
  });

  test("to a URL that is wrong in whatever way finds nothing, always the same", async () => {
    const hook = await newHook(key);
    const token = hook.path.split("/").at(-1) ?? "";
    const other = await newHook(key);
    await call("DELETE", `${HOOKS}/${other.id}`, key);
    const unknown = createKey(env.SERVER_KEY, tenant, new Uint8Array(16), "gi");
    const unknownTenantToken = createKey(env.SERVER_KEY, "nobody", new Uint8Array(16), "gi");
    const forgedToken = createKey("not the server's key", tenant, new Uint8Array(16), "gi");
    const tokens = [
      unknown,
      unknownTenantToken,
      forgedToken,
      key,
      token.toUpperCase(),
      token.slice(0, -1),
      `${token}0`,
      "x",
      "%00",
    ];
    const answers = await Promise.all(
      [...tokens, other.path.split("/").at(-1)].map((wrongToken) =>
        call("POST", `/v1/inbound/${wrongToken}`, undefined, "{}"),
      ),
    );
    for (const answer of answers) {
      expectError(answer, 404, "not_found");
      expect(withoutRequestId(answer)).toEqual(withoutRequestId(answers[0] as ApiResponse));
    }
    // Nor does a hook's token open anything else.
    expectError(await call("GET", "/v1/heads", token), 401, "invalid_api_key");
    expect((await postAccepted(hook, { text: "parcel" })).json.label).toBe("shipping");
  });

  test("to a hook of a key before the server's is taken; the tenant once deleted, nothing is", async () => {
    const deletedTenant = await newTenantWithHead();
    const hook = await newHook(deletedTenant.key);
    const token = createKey(env.PREVIOUS_SERVER_KEY ?? "", deletedTenant.id, new Uint8Array(16), "gi");
    await inLedger(deletedTenant.id, async ({ sql }) => {
      const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(token));
      sql.exec("UPDATE inbound_hooks SET token_hash = ? WHERE id = ?", Buffer.from(hash).toString("hex"), hook.id);
    });
    const movedHook = { ...hook, path: `/v1/inbound/${token}` };
    expect((await postAccepted(movedHook, { text: "parcel" })).status).toBe(200);
    expect((await call("DELETE", `/v1/admin/tenants/${deletedTenant.id}`, env.ADMIN_KEY)).status).toBe(202);
    expectError(await postToHook(movedHook, { text: "parcel, please" }), 404, "not_found");
  });

  test.each<[string, string | Uint8Array, number, ErrorCode]>([
    ["nothing", "", 400, "invalid_json"],
    ["no JSON", "{", 400, "invalid_json"],
    ["a form", "payload=%7B%7D", 400, "invalid_json"],
    ["no UTF-8", Uint8Array.of(0x22, 0xff, 0x22), 400, "invalid_json"],
    ["a text", '"text"', 422, "invalid_payload"],
    ["null", "null", 422, "invalid_payload"],
    ["a number", "7", 422, "invalid_payload"],
  ])("that is %s is refused", async (_, body, status, code) => {
    expectError(await call("POST", (await newHook(key)).path, undefined, body), status, code);
  });

  test("of more than 1 MiB is refused, however it comes", async () => {
    const hook = await newLearnHook(key, {}, "github");
    const body = JSON.stringify({ text: "x".repeat(limits.inbound_body_bytes) });
    const refused = await postToHook(hook, body);
    expectError(refused, 413, "body_too_large");
    const pieces = [body.slice(0, 500_000), body.slice(500_000)].map((piece) => new TextEncoder().encode(piece));
    const stream = new ReadableStream({
      pull: (controller) => {
        const piece = pieces.shift();
        if (piece === undefined) controller.close();
        else controller.enqueue(piece);
      },
    });
    expectError(await call("POST", hook.path, undefined, stream, signatureHeaders(hook, body)), 413, "body_too_large");
    const maximalBody = JSON.stringify({ text: "parcel", pad: "x".repeat(limits.inbound_body_bytes - 100) });
    expect((await postAccepted(await newHook(key), maximalBody)).json.label).toBe("shipping");
  });

  test("is read as JSON whatever its content type, and its URL may have a query", async () => {
    const hook = await newHook(key);
    const answer = await call("POST", `${hook.path}?source=a&b`, undefined, '{"text":"parcel"}', {
      "content-type": "text/plain",
    });
    expect(answer.json.label).toBe("shipping");
  });

  test("in another encoding is refused, once it is verified", async () => {
    const hook = await newHook(key, {}, "github");
    for (const [headers, param] of [
      [{ "content-encoding": "gzip" }, "content-encoding"],
      [{ "content-type": "application/json; charset=latin1" }, "content-type"],
    ] as const) {
      const body = JSON.stringify({ text: "parcel", param });
      const signedHeaders = { ...headers, ...signatureHeaders(hook, body) };
      expectError(await call("POST", hook.path, undefined, body, signedHeaders), 415, "unsupported_media_type", param);
      expectError(await call("POST", hook.path, undefined, body, headers), 401, "invalid_signature");
    }
  });

  test("nested 100,000 levels deep is refused", async () => {
    const deep = `{"text":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
    expectError(await postToHook(await newHook(key), deep), 400, "invalid_json");
    const deepWithLongId = `${deep.slice(0, -1)},"id":12345678901234567890}`;
    expectError(await postToHook(await newHook(key), deepWithLongId), 400, "invalid_json");
  });

  test("as a challenge is answered with it, once it is verified", async () => {
    const hook = await newLearnHook(key, {}, "github");
    const challenge = "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P <b>";
    const body = JSON.stringify({ token: "x", challenge, type: "url_verification" });
    const answer = await postAccepted(hook, body);
    expect(answer.text).toBe(challenge);
    expect(answer.headers.get("content-type")).toMatch(/^text\/plain/);
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    expectError(await call("POST", hook.path, undefined, body), 401, "invalid_signature");
    for (const other of ["c".repeat(257), 7, null, { a: 1 }])
      expectError(await postToHook(hook, { challenge: other }), 422, "invalid_payload", "fields.text");
  });
});

describe("a hook that predicts", () => {
  test("answers what a prediction answers, and tells it without the text", async () => {
    const hook = await newHook(key, { fields: { text: ["/subject", "/body"], id: "/id" } });
    const { json } = await postAccepted(hook, { subject: "refund please", body: "my card was charged", id: 42 });
    const directResponse = await call("POST", "/v1/heads/support/predict", key, {
      input: "refund please\nmy card was charged",
    });
    const { object, id, input_id, model, ...prediction } = json;
    expect({ object, id, input_id, model }).toEqual({
      object: "inbound.prediction",
      id: hook.id,
      input_id: "42",
      model: "support@1",
    });
    expect(prediction).toEqual(directResponse.json.data[0]);
    const [event] = (await listEvents(tenant, "inbound.predicted")).slice(-1);
    expect(event?.data).toEqual({
      id: hook.id,
      object: "inbound_hook",
      hook: "hook",
      head: "support",
      version: 1,
      input_id: "42",
      prediction,
    });
    expect(JSON.stringify(event)).not.toContain("card");
  });

  test("cuts a text beyond the limit and says so, unless it is told not to", async () => {
    const text = `refund ${"x ".repeat(limits.text_characters)}`;
    const hook = await newHook(key, { fields: { text: "/text" } });
    expect((await postAccepted(hook, { text })).json).toMatchObject({ object: "inbound.prediction", truncated: true });
    expect((await postAccepted(hook, { text: "refund" })).json.truncated).toBeUndefined();
    const strict = await newHook(key, { fields: { text: "/text" }, truncate: false });
    expectError(await postToHook(strict, { text }), 422, "input_too_long", "fields.text");
  });

  test("whose head is gone finds nothing; what it answered before, it answers again", async () => {
    const ownTenant = await newTenantWithHead();
    const hook = await newHook(ownTenant.key);
    const first = await postAccepted(hook, { text: "parcel" });
    expect((await call("DELETE", "/v1/heads/support", ownTenant.key)).status).toBe(200);
    const retryResponse = await postAccepted(hook, { text: "parcel" });
    expect(retryResponse.json).toEqual(first.json);
    expect(retryResponse.headers.get("idempotent-replayed")).toBe("true");
    expectError(await postToHook(hook, { text: "another parcel" }), 404, "not_found");
    expect(await listEvents(ownTenant.id, "inbound.predicted")).toHaveLength(1);
  });
});

describe("numbers that a double does not hold", () => {
  const ids = ["1234567890123456789", "1234567890123456790", "-9007199254740993"];

  test("keep their digits as ids and labels", async () => {
    const owner = await newTenantWithHead();
    const hook = await newLearnHook(owner.key, { on_unknown_label: "add" });
    for (const [i, id] of ids.entries()) await postAccepted(hook, `{"text": "text ${i}", "label": ${id}, "id": ${id}}`);
    const stored = (await listExamples(owner.key)).filter(({ id }) => ids.includes(String(id)));
    expect(stored.map(({ id, label }) => [id, label]).sort()).toEqual(ids.map((id) => [id, id]).sort());
    const predictHook = await newHook(owner.key, { fields: { text: "/text", id: "/id" } });
    const predicted = await postAccepted(predictHook, '{"text": "parcel", "id": 1234567890123456789}');
    expect(predicted.json.input_id).toBe("1234567890123456789");
  });

  test.each([
    ["12345678901234567890", "12345678901234567890"],
    ["9007199254740993", "9007199254740993"],
    ["0.10000000000000000001", "0.10000000000000000001"],
    // These are doubles as they stand.
    ["9007199254740991", 9007199254740991],
    ["1234567890123456", 1234567890123456],
    ["1.5", 1.5],
    ['"12345678901234567890"', "12345678901234567890"],
  ])("%s is read as %j", (json, expected) => {
    expect(parseJsonKeepingDigits(`{"a":[${json}]}`)).toEqual({ ok: true, value: { a: [expected] } });
  });
});

describe("a hook's fields", () => {
  const nested = { a: { "b/c": [{ "~d": "found" }] }, n: 7, t: true, o: {}, nil: null, many: ["x", 2], objects: [{}] };
  const fields = { text: "/a/b~1c/0/~0d" };

  test.each<[object, object]>([
    [{ text: "/a/b~1c/0/~0d" }, { text: "found" }],
    [{ text: ["/nil", "/a/b~1c/0/~0d", "/none", "/n", "/t"] }, { text: "found\n7\ntrue" }],
    [
      { ...fields, id: "/n" },
      { text: "found", id: "7" },
    ],
    [{ ...fields, id: "/none" }, { text: "found" }],
    [{ ...fields, id: "/nil" }, { text: "found" }],
    [
      { ...fields, label: "/t" },
      { text: "found", label: "true" },
    ],
    [
      { ...fields, labels: "/many" },
      { text: "found", labels: ["x", "2"] },
    ],
    [
      { ...fields, labels: "/n" },
      { text: "found", labels: ["7"] },
    ],
    [
      { ...fields, value: "/n" },
      { text: "found", value: 7 },
    ],
    [
      { ...fields, value: "/many/1" },
      { text: "found", value: 2 },
    ],
  ])("%j find %j", (pointers, expected) => {
    expect(readFields(pointers as typeof fields, nested)).toEqual({ ok: true, value: expected });
  });

  test.each<[object, string]>([
    [{ text: "/none" }, "fields.text"],
    [{ text: "/nil" }, "fields.text"],
    [{ text: "/o" }, "fields.text"],
    [{ text: "/a/b~1c/1/x" }, "fields.text"],
    [{ text: "/constructor" }, "fields.text"],
    [{ text: "/__proto__/toString" }, "fields.text"],
    [{ text: ["/none", "/nil"] }, "fields.text"],
    [{ text: ["/n", "/o"] }, "fields.text[1]"],
    [{ ...fields, label: "/none" }, "fields.label"],
    [{ ...fields, label: "/many" }, "fields.label"],
    [{ ...fields, labels: "/objects" }, "fields.labels"],
    [{ ...fields, labels: "/nil" }, "fields.labels"],
    [{ ...fields, value: "/t" }, "fields.value"],
    [{ ...fields, value: "/a/b~1c/0/~0d" }, "fields.value"],
  ])("%j lead nowhere: %s", (pointers, param) => {
    const read = readFields(pointers as typeof fields, nested);
    expect(read).toMatchObject({ ok: false, failure: { code: "invalid_payload", param } });
  });

  test("find what JSON holds at any place, and throw at nothing", () => {
    fc.assert(
      fc.property(
        fc.array(fc.string(), { minLength: 1, maxLength: 4 }),
        fc.string(),
        fc.json(),
        (path, text, other) => {
          fc.pre(!path.some((part) => part === "__proto__"));
          const pointer = path.map((part) => `/${part.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
          const body = JSON.parse(
            JSON.stringify(path.reduceRight<unknown>((inner, part) => ({ [part]: inner }), text)),
          );
          expect(readFields({ text: pointer }, body)).toEqual({ ok: true, value: { text } });
          expect(typeof readFields({ text: pointer }, JSON.parse(other)).ok).toBe("boolean");
        },
      ),
    );
  });
});

describe("a hook that learns", () => {
  let ownTenant: { id: string; key: string };
  beforeAll(async () => {
    ownTenant = await newTenantWithHead();
  });
  const findExamples = async (text: string) =>
    (await listExamples(ownTenant.key)).filter((example) => example.text === text);

  test("adds the example, tells of it without the text, and answers what became of it", async () => {
    const hook = await newLearnHook(ownTenant.key, {}, "standard");
    const { json } = await postAccepted(hook, { text: "a drone dropped it", label: "shipping", id: "t-1" });
    expect(json).toEqual({
      object: "inbound.learning",
      id: hook.id,
      dataset: "tickets",
      example: "t-1",
      outcome: "added",
    });
    expect(await findExamples("a drone dropped it")).toEqual([
      { id: "t-1", text: "a drone dropped it", label: "shipping" },
    ]);
    const [event] = (await listEvents(ownTenant.id, "inbound.learned")).slice(-1);
    expect(event?.data).toEqual({
      id: hook.id,
      object: "inbound_hook",
      hook: "hook",
      dataset: "tickets",
      example: "t-1",
      outcome: "added",
    });
  });

  test("cuts a text beyond the limit and says so, and trims and composes its label", async () => {
    const hook = await newLearnHook(ownTenant.key, { on_unknown_label: "add" });
    const message = { text: `a long text ${"x ".repeat(limits.text_characters)}`, label: " cafe\u0301\n", id: "long" };
    expect((await postAccepted(hook, message)).json).toMatchObject({ outcome: "added", truncated: true });
    const [example] = (await listExamples(ownTenant.key)).filter(({ id }) => id === "long");
    expect(example).toMatchObject({ label: "café", text: message.text.slice(0, limits.text_characters).trim() });
    const strict = await newLearnHook(ownTenant.key, { truncate: false });
    expectError(await postToHook(strict, message), 422, "input_too_long", "fields.text");
  });

  test("replaces the label of the same id, of the same input, and of both", async () => {
    const hook = await newLearnHook(ownTenant.key, {}, "standard");
    const learn = async (body: object) => (await postAccepted(hook, body)).json;
    await learn({ text: "first text", label: "billing", id: "r-1" });
    expect(await learn({ text: "first text, edited", label: "login", id: "r-1" })).toMatchObject({
      outcome: "updated",
    });
    expect(await findExamples("first text")).toEqual([]);
    expect(await learn({ text: "first text, edited", label: "shipping" })).toMatchObject({
      example: "r-1",
      outcome: "updated",
    });
    expect(await learn({ text: "first text, edited", label: "shipping" })).toMatchObject({ outcome: "unchanged" });
    await learn({ text: "second text", label: "login", id: "r-2" });
    // Its id is that of one example, its text that of another: one stays.
    expect(await learn({ text: "first text, edited", label: "login", id: "r-2" })).toMatchObject({ example: "r-2" });
    expect(await findExamples("first text, edited")).toEqual([
      { id: "r-2", text: "first text, edited", label: "login" },
    ]);
    expect(await findExamples("second text")).toEqual([]);
  });

  test("what does not change anything is told by no event", async () => {
    const hook = await newLearnHook(ownTenant.key, {}, "standard");
    await postAccepted(hook, { text: "said twice", label: "login" });
    const before = await listEvents(ownTenant.id);
    const revision = (await call("GET", "/v1/datasets/tickets", ownTenant.key)).json.revision;
    expect((await postAccepted(hook, { text: "said twice", label: "login" })).json.outcome).toBe("unchanged");
    expect(await listEvents(ownTenant.id)).toEqual(before);
    expect((await call("GET", "/v1/datasets/tickets", ownTenant.key)).json.revision).toBe(revision);
  });

  test("refuses a label that no example has, or takes it", async () => {
    const reject = await newLearnHook(ownTenant.key, {}, "standard");
    const before = await listExamples(ownTenant.key);
    const message = { text: "my invoice is in Latin", label: "languages" };
    expectError(await postToHook(reject, message, { id: "msg_latin" }), 422, "invalid_label", "fields.label");
    expect(await listExamples(ownTenant.key)).toEqual(before);
    const add = await newLearnHook(ownTenant.key, { on_unknown_label: "add" });
    expect((await postAccepted(add, message)).json.outcome).toBe("added");
    // What was refused was not done: the same message goes ahead.
    const retryResponse = await postAccepted(reject, message, { id: "msg_latin" });
    expect(retryResponse.headers.get("idempotent-replayed")).toBeNull();
    expect(retryResponse.json.outcome).toBe("unchanged");
  });

  test("of an empty data set takes any label, of every task", async () => {
    for (const [task, field, first, good, bad] of [
      ["single_label", "label", "a", "a", "b"],
      ["multi_label", "labels", ["a", "b"], ["b"], ["a", "c"]],
      ["regression", "value", 1.5, "2", null],
    ] as const) {
      const name = `empty-${task.replace("_", "-")}`;
      await call("POST", "/v1/datasets", ownTenant.key, { name, task, modality: "text" });
      const hook = await newLearnHook(ownTenant.key, { dataset: name, fields: { text: "/text", [field]: "/target" } });
      expect((await postAccepted(hook, { text: "one", target: first })).json.outcome).toBe("added");
      expect((await postAccepted(hook, { text: "two", target: good })).json.outcome).toBe("added");
      const refused = await postToHook(hook, { text: "three", target: bad });
      if (bad === null) expectError(refused, 422, "invalid_payload", "fields.value");
      else expectError(refused, 422, "invalid_label", `fields.${field}`);
      expect(await listExamples(ownTenant.key, name)).toHaveLength(2);
    }
  });

  test("takes a data set's out-of-scope label", async () => {
    await call("POST", "/v1/datasets", ownTenant.key, {
      name: "scoped",
      task: "single_label",
      modality: "text",
      out_of_scope_label: "other",
    });
    const hook = await newLearnHook(ownTenant.key, { dataset: "scoped" });
    await postAccepted(hook, { text: "one", label: "a" });
    expect((await postAccepted(hook, { text: "two", label: "other" })).json.outcome).toBe("added");
  });

  test.each<[object, number, ErrorCode, string]>([
    [{ label: "billing" }, 422, "invalid_payload", "fields.text"],
    [{ text: "x" }, 422, "invalid_payload", "fields.label"],
    [{ text: " \n", label: "billing" }, 422, "input_empty", "fields.text"],
    [{ text: "x", label: "l".repeat(257) }, 422, "limit_exceeded", "fields.label"],
    [{ text: "x", label: "" }, 400, "invalid_parameter", "fields.label"],
    [{ text: "x", label: "billing", id: ".." }, 400, "invalid_parameter", "fields.id"],
    [{ text: "x", label: "billing", id: "i".repeat(257) }, 400, "invalid_parameter", "fields.id"],
  ])("refuses %j", async (body, status, code, param) => {
    expectError(await postToHook(await newLearnHook(ownTenant.key), body), status, code, param);
  });

  test.each(["standard", "github", "none"] as const)("does what comes twice once, by %s", async (scheme) => {
    const hook = await newLearnHook(ownTenant.key, {}, scheme);
    const message = { text: `twice by ${scheme}`, label: "billing" };
    const first = await postAccepted(hook, message, { id: "msg_twice" });
    await postAccepted(hook, { ...message, label: "login" }, { id: "msg_between" });
    // Late, and out of order: it does not bring the older label back.
    const retryResponse = await postAccepted(hook, message, { id: "msg_twice" });
    expect(retryResponse.json).toEqual(first.json);
    expect([first, retryResponse].map(({ headers }) => headers.get("idempotent-replayed"))).toEqual([null, "true"]);
    expect((await findExamples(message.text))[0]?.label).toBe("login");
    expect((await listEvents(ownTenant.id, "inbound.learned")).filter(({ data }) => data.id === hook.id)).toHaveLength(
      2,
    );
  });

  test("does what comes many times at once, once", async () => {
    const hook = await newLearnHook(ownTenant.key, {}, "standard");
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => postAccepted(hook, { text: "at once", label: "login" }, { id: "msg_once" })),
    );
    expect(answers.filter(({ headers }) => headers.get("idempotent-replayed") === null)).toHaveLength(1);
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    expect((await listEvents(ownTenant.id, "inbound.learned")).filter(({ data }) => data.id === hook.id)).toHaveLength(
      1,
    );
  });

  test("forgets the bytes of a message after ten minutes, and its id after a day", async () => {
    const seconds = () => Math.floor(Date.now() / 1000);
    const expiries = (hook: Hook, offset = 0) =>
      inLedger(ownTenant.id, ({ sql }) => {
        const number = "(SELECT number FROM inbound_hooks WHERE id = ?)";
        sql.exec(`UPDATE inbound_messages SET expires_at = expires_at - ? WHERE hook = ${number}`, offset, hook.id);
        return sql
          .exec<{ at: number }>(`SELECT expires_at AS at FROM inbound_messages WHERE hook = ${number}`, hook.id)
          .toArray()
          .map(({ at }) => at - seconds());
      });
    for (const [scheme, retentionSeconds] of [
      ["github", 600],
      ["standard", 86_400],
    ] as const) {
      const hook = await newLearnHook(ownTenant.key, {}, scheme);
      const message = { text: `kept by ${scheme}`, label: "billing" };
      await postAccepted(hook, message, { id: "msg_kept" });
      const [secondsLeft = 0] = await expiries(hook);
      expect(Math.abs(secondsLeft - retentionSeconds)).toBeLessThan(5);
      await expiries(hook, retentionSeconds - 10);
      expect((await postAccepted(hook, message, { id: "msg_kept" })).headers.get("idempotent-replayed")).toBe("true");
      await expiries(hook, 20);
      expect((await postAccepted(hook, message, { id: "msg_kept" })).headers.get("idempotent-replayed")).toBeNull();
    }
  });

  test("knows a message by its own hook alone", async () => {
    const [firstHook, secondHook] = [
      await newLearnHook(ownTenant.key, {}, "standard"),
      await newLearnHook(ownTenant.key, {}, "standard"),
    ];
    await postAccepted(firstHook, { text: "of one", label: "login" }, { id: "msg_shared" });
    const answer = await postAccepted(secondHook, { text: "of two", label: "login" }, { id: "msg_shared" });
    expect(answer.headers.get("idempotent-replayed")).toBeNull();
  });

  test("whose data set is deleted, and perhaps made anew, learns what then fits", async () => {
    await call("POST", "/v1/datasets", ownTenant.key, { name: "brief", task: "single_label", modality: "text" });
    const hook = await newLearnHook(ownTenant.key, { dataset: "brief" });
    await postAccepted(hook, { text: "one", label: "a" });
    await call("DELETE", "/v1/datasets/brief", ownTenant.key);
    expectError(await postToHook(hook, { text: "two", label: "a" }), 404, "not_found");
    await call("POST", "/v1/datasets", ownTenant.key, { name: "brief", task: "regression", modality: "text" });
    expectError(await postToHook(hook, { text: "three", label: "a" }), 422, "task_mismatch", "fields.label");
  });

  test("keeps within the limits of a data set", async () => {
    await call("POST", "/v1/datasets", ownTenant.key, { name: "full", task: "single_label", modality: "text" });
    const hook = await newLearnHook(ownTenant.key, { dataset: "full", on_unknown_label: "add" });
    for (const text of ["one", "two"]) await postAccepted(hook, { text, label: "a" });
    await inLedger(ownTenant.id, ({ sql }) => {
      sql.exec(
        `INSERT INTO examples (dataset, position, id, input_hash, group_hash, content_hash, input, target, created_at)
         WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         SELECT id, i, 'x' || i, x'00', x'00', randomblob(8), 'x', '"a' || (i % CAST(? AS INTEGER)) || '"', 0 FROM n, datasets WHERE name = 'full'`,
        limits.examples_per_dataset - 1,
        limits.labels_per_dataset - 1,
      );
      // As an earlier build left it: counted when it is first read.
      sql.exec("DELETE FROM label_counts");
      sql.exec("UPDATE datasets SET examples = NULL WHERE name = 'full'");
    });
    const refused = await postToHook(hook, { text: "one too many", label: "a" });
    expectError(refused, 422, "limit_exceeded");
    expect(refused.json.error.details.actual).toBe(limits.examples_per_dataset + 1);
    // One in place of another is none more; a label more is.
    expectError(await postToHook(hook, { text: "one", label: "b" }), 422, "limit_exceeded");
    expect((await postAccepted(hook, { text: "one", label: "a7" })).json.outcome).toBe("updated");
  });
});

test("no log line holds a token, a secret, a signature or a text", async () => {
  const lines: string[] = [];
  for (const method of ["log", "warn", "error", "info", "debug"] as const)
    vi.spyOn(console, method).mockImplementation((...args) => void lines.push(args.map(String).join(" ")));
  const message = { text: "Hippopotamus in my parcel", label: "shipping", id: "giraffe" };
  const secrets: string[] = ["Hippopotamus", "giraffe"];
  for (const scheme of Object.keys(schemes) as Scheme[]) {
    const hook = await newLearnHook(key, {}, scheme);
    secrets.push(hook.path.split("_").at(-1) ?? "", ...(hook.secret === "" ? [] : [hook.secret]));
    secrets.push(...Object.values(signatureHeaders(hook, JSON.stringify(message), { id: "msg_zebra" })).slice(0, 1));
    await postToHook(hook, message);
    await postToHook(hook, { ...message, label: "Hippopotamus" });
    await postToHook(hook, "Hippopotamus");
    await call("POST", hook.path, undefined, JSON.stringify(message), { "x-hub-signature-256": "sha256=Hippopotamus" });
    await call("POST", `${hook.path}0`, undefined, JSON.stringify(message));
  }
  expect(lines.length).toBeGreaterThan(20);
  for (const secret of secrets) expect(lines.join("\n")).not.toContain(secret);
});

describe("the examples of the documentation", () => {
  const files = import.meta.glob<string>("../../examples/**/*.{json,csv}", {
    query: "?raw",
    import: "default",
    eager: true,
  });
  const file = (name: string) => files[`../../examples/${name}`] ?? "";

  test("a help desk: a new ticket is classified, and the tag of an agent learnt", async () => {
    const desk = await newTenant();
    await call("POST", "/v1/datasets", desk.key, { name: "tickets", task: "single_label", modality: "text" });
    const csv = file("support-tickets.csv");
    await call("POST", "/v1/datasets/tickets/examples", desk.key, csv, { "content-type": "text/csv" });
    const training = { evaluation: { method: "none" }, hyperparameters: { l2: 1 } };
    await call("POST", "/v1/heads", desk.key, { name: "support", dataset: "tickets", ...training });
    const classify = await newHook(desk.key, JSON.parse(file("help-desk/classify.hook.json")), "standard");
    const ticketCreated = await postAccepted(classify, file("help-desk/ticket-created.json"));
    expect(ticketCreated.json).toMatchObject({ input_id: "48211", model: "support@1", label: "billing_refund" });
    const learn = await newHook(
      desk.key,
      { head: undefined, ...JSON.parse(file("help-desk/learn.hook.json")) },
      "standard",
    );
    const tagged = await postAccepted(learn, file("help-desk/ticket-tagged.json"));
    expect(tagged.json).toMatchObject({ dataset: "tickets", example: "48211", outcome: "added" });
    expect((await listExamples(desk.key)).at(-1)).toMatchObject({ id: "48211", label: "billing_refund" });
    expect((await listEvents(desk.id)).map(({ type }) => type).slice(-2)).toEqual([
      "inbound.predicted",
      "inbound.learned",
    ]);
    expectError(await postToHook(learn, file("help-desk/ticket-created.json")), 422, "invalid_payload", "fields.label");
  });

  test("GitHub: the label of an issue is learnt", async () => {
    const team = await newTenant();
    await call("POST", "/v1/datasets", team.key, { name: "issues", task: "single_label", modality: "text" });
    const hook = await newHook(
      team.key,
      { head: undefined, ...JSON.parse(file("github-issues/learn.hook.json")) },
      "github",
    );
    const labeled = file("github-issues/issue-labeled.json");
    expect((await postAccepted(hook, labeled)).json).toMatchObject({ example: "2713358104", outcome: "added" });
    const issue = JSON.parse(labeled).issue;
    expect(await listExamples(team.key, "issues")).toEqual([
      { id: "2713358104", text: `${issue.title}\n${issue.body}`, label: "bug" },
    ]);
    expectError(
      await postToHook(hook, { zen: "Keep it logically awesome.", hook_id: 1 }),
      422,
      "invalid_payload",
      "fields.text",
    );
  });
});
