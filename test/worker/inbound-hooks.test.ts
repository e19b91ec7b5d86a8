/// <reference types="vite/types/importMeta.d.ts" />
/** Inbound hooks: as their owner makes them, and as other systems post to them. */

import { env } from "cloudflare:workers";
import { createHmac } from "node:crypto";
import fc from "fast-check";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { Code } from "../../src/core/failure.ts";
import { limits } from "../../src/core/limits.ts";
import { makeKey } from "../../src/http/middleware/keys.ts";
import { readFields } from "../../src/ingest/fields.ts";
import { type Answer, call, newTenant, tenantWithTickets } from "./api.ts";
import { inLedger } from "./batch.ts";
import { expectGuarded, expectHidden, expectRefused, withoutRequestId } from "./expect.ts";
import {
  eventsOf,
  examplesOf,
  type Hook,
  learnHook,
  newHook,
  post,
  posted,
  type Scheme,
  schemes,
  signatureOf,
} from "./inbound.ts";

const HOOKS = "/v1/inbound_hooks";
let tenant: string;
let key: string;
const predicting = { name: "in", action: "predict", head: "support", fields: { text: "/text" }, verify: schemes.none };
const learning = {
  name: "in",
  action: "learn",
  dataset: "tickets",
  fields: { text: "/text", label: "/label" },
  verify: schemes.none,
};

async function withHead(): Promise<{ id: string; key: string }> {
  const made = await tenantWithTickets();
  const trained = await call("POST", "/v1/heads", made.key, { name: "support", dataset: "tickets" });
  expect(trained.status, trained.text).toBe(201);
  return made;
}

beforeAll(async () => {
  ({ id: tenant, key } = await withHead());
});
afterEach(() => vi.restoreAllMocks());

describe("a hook", () => {
  test("is made, shown, listed and deleted; its URL and secret are shown once", async () => {
    const body = { ...learning, fields: { ...learning.fields, id: "/id" }, verify: schemes.github };
    const made = await call("POST", HOOKS, key, body);
    expect(made.status, made.text).toBe(201);
    const { url, secret, ...shown } = made.json;
    expect(url).toMatch(new RegExp(`^http://graft\\.test/v1/inbound/gi_${tenant}_[0-9a-f]{64}$`));
    expect(secret).toMatch(/^[0-9a-f]{64}$/);
    expect(shown).toEqual({
      object: "inbound_hook",
      id: expect.stringMatching(/^hook_[0-9a-f]{32}$/),
      ...body,
      head: null,
      on_unknown_label: "reject",
      created_at: expect.any(Number),
    });
    expect((await call("GET", `${HOOKS}/${shown.id}`, key)).json).toEqual(shown);
    const older = await newHook(key);
    expect((await call("GET", `${HOOKS}?limit=1`, key)).json.data.map(({ id }: { id: string }) => id)).toEqual([
      older.id,
    ]);
    expect((await call("GET", `${HOOKS}?after=${older.id}&limit=1`, key)).json.data).toEqual([shown]);
    const used = async () => (await call("GET", "/v1/limits", key)).json.limits.inbound_hooks;
    const before = await used();
    expect(before.limit).toBe(limits.inbound_hooks);
    const gone = await call("DELETE", `${HOOKS}/${shown.id}`, key);
    expect(gone.json).toEqual({ id: shown.id, object: "inbound_hook", deleted: true });
    expect((await used()).used).toBe(before.used - 1);
    expectRefused(await call("GET", `${HOOKS}/${shown.id}`, key), 404, "not_found");
    expectRefused(await call("DELETE", `${HOOKS}/${shown.id}`, key), 404, "not_found");
  });

  test("has the secret that its scheme wants, or the other system's own", async () => {
    const standard = await newHook(key, {}, "standard");
    expect(standard.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    expect((await newHook(key, {}, "none")).secret).toBe("");
    for (const [verify, secret] of [
      [schemes.shopify, "hush of the shop's own making"],
      [schemes.standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    ] as const) {
      const made = await call("POST", HOOKS, key, { ...predicting, verify: { ...verify, secret } });
      expect(made.json.secret).toBe(secret);
      expect(JSON.stringify((await call("GET", `${HOOKS}/${made.json.id}`, key)).json)).not.toContain(secret);
    }
  });

  test("made again with the same Idempotency-Key is the same one, without URL and secret", async () => {
    const headers = { "idempotency-key": "hook-1" };
    const body = { ...predicting, verify: schemes.standard };
    const first = await call("POST", HOOKS, key, body, headers);
    const again = await call("POST", HOOKS, key, body, headers);
    const { url: _url, secret: _secret, ...rest } = first.json;
    expect(again.headers.get("idempotent-replayed")).toBe("true");
    expect(again.json).toEqual(rest);
  });

  test("is kept without its token, in no other form than its hash", async () => {
    const { path } = await newHook(key);
    const rows = await inLedger(tenant, ({ sql }) => JSON.stringify(sql.exec("SELECT * FROM inbound_hooks").toArray()));
    expect(rows).not.toContain(path.split("_").at(-1));
  });

  test("takes a key that may manage, of its own tenant", async () => {
    const { id } = await newHook(key);
    await expectGuarded(key, "manage", "POST", HOOKS, predicting);
    await expectGuarded(key, "manage", "GET", HOOKS);
    await expectGuarded(key, "manage", "GET", `${HOOKS}/${id}`);
    await expectGuarded(key, "manage", "DELETE", `${HOOKS}/${id}`);
    await expectHidden("GET", `${HOOKS}/${id}`, undefined, () => Promise.resolve());
    await expectHidden("DELETE", `${HOOKS}/${id}`, undefined, () => call("DELETE", `${HOOKS}/${id}`, key));
    const stranger = await newTenant();
    expectRefused(await call("POST", HOOKS, stranger.key, predicting), 404, "not_found", "head");
    expectRefused(await call("POST", HOOKS, stranger.key, learning), 404, "not_found", "dataset");
  });

  const verify = (change: object) => ({ ...predicting, verify: { ...schemes.github, ...change } });
  test.each<[object, Code, string, number?]>([
    [{ ...predicting, name: "No Name" }, "invalid_parameter", "name"],
    [{ ...predicting, action: "guess" }, "invalid_parameter", "action"],
    [{ ...predicting, head: undefined }, "missing_parameter", "head"],
    [{ ...predicting, dataset: "tickets" }, "invalid_parameter", "dataset"],
    [{ ...predicting, fields: { text: "/a", label: "/b" } }, "invalid_parameter", "fields.label"],
    [{ ...predicting, on_unknown_label: "add" }, "invalid_parameter", "on_unknown_label"],
    [{ ...predicting, more: 1 }, "unknown_parameter", "more"],
    [{ ...learning, dataset: undefined }, "missing_parameter", "dataset"],
    [{ ...learning, head: "support" }, "invalid_parameter", "head"],
    [{ ...learning, on_unknown_label: "maybe" }, "invalid_parameter", "on_unknown_label"],
    [{ ...learning, fields: { text: "/a" } }, "missing_parameter", "fields.label"],
    [{ ...learning, fields: { text: "/a", value: "/b" } }, "task_mismatch", "fields.value", 422],
    [{ ...learning, fields: { text: "/a", label: "/b", labels: "/c" } }, "task_mismatch", "fields.labels", 422],
    [{ ...learning, fields: { label: "/b" } }, "missing_parameter", "fields.text"],
    [{ ...predicting, fields: {} }, "missing_parameter", "fields.text"],
    [{ ...predicting, fields: { text: "ticket" } }, "invalid_parameter", "fields.text"],
    [{ ...predicting, fields: { text: "" } }, "invalid_parameter", "fields.text"],
    [{ ...predicting, fields: { text: "/a~2b" } }, "invalid_parameter", "fields.text"],
    [{ ...predicting, fields: { text: "/a~" } }, "invalid_parameter", "fields.text"],
    [{ ...predicting, fields: { text: `/${"a".repeat(256)}` } }, "invalid_parameter", "fields.text"],
    [{ ...predicting, fields: { text: ["/a", "b"] } }, "invalid_parameter", "fields.text[1]"],
    [{ ...predicting, fields: { text: [] } }, "invalid_parameter", "fields.text"],
    [{ ...predicting, fields: { text: "/a", id: "x" } }, "invalid_parameter", "fields.id"],
    [{ ...predicting, fields: { text: "/a", title: "/b" } }, "unknown_parameter", "fields.title"],
    [{ ...predicting, verify: undefined }, "missing_parameter", "verify"],
    [{ ...predicting, verify: { scheme: "rot13" } }, "invalid_parameter", "verify.scheme"],
    [
      { ...predicting, verify: { scheme: "none", secret: "a secret of none at all" } },
      "unknown_parameter",
      "verify.secret",
    ],
    [
      { ...predicting, verify: { scheme: "standard_webhooks", secret: "not of that form at all" } },
      "invalid_parameter",
      "verify.secret",
    ],
    [
      { ...predicting, verify: { scheme: "standard_webhooks", secret: `whsec_${"=".repeat(32)}` } },
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
    expectRefused(await call("POST", HOOKS, key, body), status, code, param);
  });

  test("of embeddings is refused: other systems post texts", async () => {
    await call("POST", "/v1/datasets", key, {
      name: "vectors",
      task: "single_label",
      modality: "embedding",
      dimensions: 2,
    });
    expectRefused(
      await call("POST", HOOKS, key, { ...learning, dataset: "vectors" }),
      422,
      "modality_mismatch",
      "dataset",
    );
    const examples = [0, 1, 2, 3].map((i) => ({ embedding: [i % 2, i], label: `${i % 2}` }));
    await call("POST", "/v1/heads", key, { name: "vectors", examples });
    expectRefused(await call("POST", HOOKS, key, { ...predicting, head: "vectors" }), 422, "modality_mismatch", "head");
  });

  test("beyond the limit is refused", async () => {
    const full = await withHead();
    await inLedger(full.id, ({ sql }) => {
      for (let i = 0; i < limits.inbound_hooks; i++)
        sql.exec("INSERT INTO inbound_hooks (id, token_hash, spec, created_at) VALUES (?1, ?1, '{}', 0)", `hook_${i}`);
    });
    const refused = await call("POST", HOOKS, full.key, predicting);
    expectRefused(refused, 422, "limit_exceeded");
    expect(refused.json.error.details).toEqual({ limit: limits.inbound_hooks, actual: limits.inbound_hooks });
  });
});

describe("what is posted", () => {
  test.each(Object.keys(schemes) as Scheme[])("signed by %s is taken", async (scheme) => {
    const hook = await newHook(key, {}, scheme);
    const { json } = await posted(hook, { text: "my parcel is late" });
    expect(json).toMatchObject({ object: "inbound.prediction", id: hook.id, model: "support@1", label: "shipping" });
  });

  test.each<[Scheme, string, (hook: Hook, body: string) => Record<string, string>]>([
    ["github", "without a signature", () => ({})],
    ["github", "with an empty signature", () => ({ "x-hub-signature-256": "" })],
    ["github", "with the prefix alone", () => ({ "x-hub-signature-256": "sha256=" })],
    ["github", "signed with another secret", (hook, body) => signatureOf(hook, body, { secret: "another secret" })],
    ["github", "with another body's signature", (hook) => signatureOf(hook, '{"text":"other"}')],
    [
      "github",
      "without the prefix",
      (hook, body) => ({
        "x-hub-signature-256": signatureOf(hook, body)["x-hub-signature-256"]?.slice(7) ?? "",
      }),
    ],
    [
      "github",
      "with the prefix in capitals",
      (hook, body) => ({
        "x-hub-signature-256": signatureOf(hook, body)["x-hub-signature-256"]?.replace("sha256", "SHA256") ?? "",
      }),
    ],
    [
      "github",
      "truncated",
      (hook, body) => ({
        "x-hub-signature-256": signatureOf(hook, body)["x-hub-signature-256"]?.slice(0, -2) ?? "",
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
        "x-signature": signatureOf(hook, body)["x-hub-signature-256"] ?? "",
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
    ["standard", "without an id", (hook, body) => ({ ...signatureOf(hook, body), "webhook-id": "" })],
    ["standard", "with another id", (hook, body) => ({ ...signatureOf(hook, body), "webhook-id": "msg_other" })],
    [
      "standard",
      "with another time",
      (hook, body) => ({
        ...signatureOf(hook, body, { at: Date.now() - 60_000 }),
        "webhook-timestamp": `${Math.floor(Date.now() / 1000)}`,
      }),
    ],
    ["standard", "six minutes ago", (hook, body) => signatureOf(hook, body, { at: Date.now() - 360_000 })],
    ["standard", "six minutes ahead", (hook, body) => signatureOf(hook, body, { at: Date.now() + 360_000 })],
    [
      "standard",
      "with another secret",
      (hook, body) =>
        signatureOf(hook, body, {
          secret: `whsec_${Buffer.from("another secret of 32 bytes......").toString("base64")}`,
        }),
    ],
    [
      "standard",
      "with a signature of another version",
      (hook, body) => {
        const headers = signatureOf(hook, body);
        return { ...headers, "webhook-signature": (headers["webhook-signature"] ?? "").replace("v1,", "v2,") };
      },
    ],
  ])("to a %s hook %s is refused, and has no effect", async (scheme, _, headersOf) => {
    const hook = await learnHook(key, {}, scheme);
    const before = await examplesOf(key);
    const told = (await eventsOf(tenant)).length;
    const body = JSON.stringify({ text: "forged", label: "billing" });
    const refused = await call("POST", hook.path, undefined, body, headersOf(hook, body));
    expectRefused(refused, 401, "invalid_signature");
    expect(await examplesOf(key)).toEqual(before);
    expect(await eventsOf(tenant)).toHaveLength(told);
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
        async (hook, at, by) => {
          const changed = new Uint8Array(body);
          changed[at] = (changed[at] ?? 0) ^ by;
          expectRefused(
            await call("POST", hook.path, undefined, changed, signatureOf(hook, body)),
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
    expectRefused(answer, 400, "invalid_json");
    const upper = { "x-hub-signature-256": signature.replace(/[0-9a-f]+$/, (digits) => digits.toUpperCase()) };
    expectRefused(await call("POST", hook.path, undefined, "Hello, World!", upper), 400, "invalid_json");
  });

  test("to a URL that is wrong in whatever way finds nothing, always the same", async () => {
    const hook = await newHook(key);
    const token = hook.path.split("/").at(-1) ?? "";
    const other = await newHook(key);
    await call("DELETE", `${HOOKS}/${other.id}`, key);
    const unknown = makeKey(env.SERVER_KEY, tenant, new Uint8Array(16), "gi");
    const nobody = makeKey(env.SERVER_KEY, "nobody", new Uint8Array(16), "gi");
    const forged = makeKey("not the server's key", tenant, new Uint8Array(16), "gi");
    const tokens = [unknown, nobody, forged, key, token.toUpperCase(), token.slice(0, -1), `${token}0`, "x", "%00"];
    const answers = await Promise.all(
      [...tokens, other.path.split("/").at(-1)].map((wrong) => call("POST", `/v1/inbound/${wrong}`, undefined, "{}")),
    );
    for (const answer of answers) {
      expectRefused(answer, 404, "not_found");
      expect(withoutRequestId(answer)).toEqual(withoutRequestId(answers[0] as Answer));
    }
    // Nor does a hook's token open anything else.
    expectRefused(await call("GET", "/v1/heads", token), 401, "invalid_api_key");
    expect((await posted(hook, { text: "parcel" })).json.label).toBe("shipping");
  });

  test("to a hook of a key before the server's is taken; the tenant once deleted, nothing is", async () => {
    const gone = await withHead();
    const hook = await newHook(gone.key);
    const token = makeKey(env.PREVIOUS_SERVER_KEY ?? "", gone.id, new Uint8Array(16), "gi");
    await inLedger(gone.id, async ({ sql }) => {
      const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(token));
      sql.exec("UPDATE inbound_hooks SET token_hash = ? WHERE id = ?", Buffer.from(hash).toString("hex"), hook.id);
    });
    const moved = { ...hook, path: `/v1/inbound/${token}` };
    expect((await posted(moved, { text: "parcel" })).status).toBe(200);
    expect((await call("DELETE", `/v1/admin/tenants/${gone.id}`, env.ADMIN_KEY)).status).toBe(202);
    expectRefused(await post(moved, { text: "parcel, please" }), 404, "not_found");
  });

  test.each<[string, string | Uint8Array, number, Code]>([
    ["nothing", "", 400, "invalid_json"],
    ["no JSON", "{", 400, "invalid_json"],
    ["a form", "payload=%7B%7D", 400, "invalid_json"],
    ["no UTF-8", Uint8Array.of(0x22, 0xff, 0x22), 400, "invalid_json"],
    ["a text", '"text"', 422, "invalid_payload"],
    ["null", "null", 422, "invalid_payload"],
    ["a number", "7", 422, "invalid_payload"],
  ])("that is %s is refused", async (_, body, status, code) => {
    expectRefused(await call("POST", (await newHook(key)).path, undefined, body), status, code);
  });

  test("of more than 1 MiB is refused, however it comes", async () => {
    const hook = await learnHook(key, {}, "github");
    const body = JSON.stringify({ text: "x".repeat(limits.inbound_body_bytes) });
    const refused = await post(hook, body);
    expectRefused(refused, 413, "body_too_large");
    const pieces = [body.slice(0, 500_000), body.slice(500_000)].map((piece) => new TextEncoder().encode(piece));
    const stream = new ReadableStream({
      pull: (controller) => {
        const piece = pieces.shift();
        if (piece === undefined) controller.close();
        else controller.enqueue(piece);
      },
    });
    expectRefused(await call("POST", hook.path, undefined, stream, signatureOf(hook, body)), 413, "body_too_large");
    const just = JSON.stringify({ text: "parcel", pad: "x".repeat(limits.inbound_body_bytes - 100) });
    expect((await posted(await newHook(key), just)).json.label).toBe("shipping");
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
      const signed = { ...headers, ...signatureOf(hook, body) };
      expectRefused(await call("POST", hook.path, undefined, body, signed), 415, "unsupported_media_type", param);
      expectRefused(await call("POST", hook.path, undefined, body, headers), 401, "invalid_signature");
    }
  });

  test("nested 100,000 levels deep is refused", async () => {
    const deep = `{"text":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
    expectRefused(await post(await newHook(key), deep), 422, "invalid_payload", "fields.text");
  });

  test("as a challenge is answered with it, once it is verified", async () => {
    const hook = await learnHook(key, {}, "github");
    const challenge = "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P <b>";
    const body = JSON.stringify({ token: "x", challenge, type: "url_verification" });
    const answer = await posted(hook, body);
    expect(answer.text).toBe(challenge);
    expect(answer.headers.get("content-type")).toMatch(/^text\/plain/);
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    expectRefused(await call("POST", hook.path, undefined, body), 401, "invalid_signature");
    for (const other of ["c".repeat(257), 7, null, { a: 1 }])
      expectRefused(await post(hook, { challenge: other }), 422, "invalid_payload", "fields.text");
  });
});

describe("a hook that predicts", () => {
  test("answers what a prediction answers, and tells it without the text", async () => {
    const hook = await newHook(key, { fields: { text: ["/subject", "/body"], id: "/id" } });
    const { json } = await posted(hook, { subject: "refund please", body: "my card was charged", id: 42 });
    const direct = await call("POST", "/v1/heads/support/predict", key, {
      input: "refund please\nmy card was charged",
    });
    const { object, id, input_id, model, ...prediction } = json;
    expect({ object, id, input_id, model }).toEqual({
      object: "inbound.prediction",
      id: hook.id,
      input_id: "42",
      model: "support@1",
    });
    expect(prediction).toEqual(direct.json.data[0]);
    const [event] = (await eventsOf(tenant, "inbound.predicted")).slice(-1);
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

  test("whose head is gone finds nothing; what it answered before, it answers again", async () => {
    const own = await withHead();
    const hook = await newHook(own.key);
    const first = await posted(hook, { text: "parcel" });
    expect((await call("DELETE", "/v1/heads/support", own.key)).status).toBe(200);
    const again = await posted(hook, { text: "parcel" });
    expect(again.json).toEqual(first.json);
    expect(again.headers.get("idempotent-replayed")).toBe("true");
    expectRefused(await post(hook, { text: "another parcel" }), 404, "not_found");
    expect(await eventsOf(own.id, "inbound.predicted")).toHaveLength(1);
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
  ])("%j find %j", (pointers, found) => {
    expect(readFields(pointers as typeof fields, nested)).toEqual({ ok: true, value: found });
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
  let own: { id: string; key: string };
  beforeAll(async () => {
    own = await withHead();
  });
  const labelOf = async (text: string) => (await examplesOf(own.key)).filter((one) => one.text === text);

  test("adds the example, tells of it without the text, and answers what became of it", async () => {
    const hook = await learnHook(own.key, {}, "standard");
    const { json } = await posted(hook, { text: "a drone dropped it", label: "shipping", id: "t-1" });
    expect(json).toEqual({
      object: "inbound.learning",
      id: hook.id,
      dataset: "tickets",
      example: "t-1",
      outcome: "added",
    });
    expect(await labelOf("a drone dropped it")).toEqual([{ id: "t-1", text: "a drone dropped it", label: "shipping" }]);
    const [event] = (await eventsOf(own.id, "inbound.learned")).slice(-1);
    expect(event?.data).toEqual({
      id: hook.id,
      object: "inbound_hook",
      hook: "hook",
      dataset: "tickets",
      example: "t-1",
      outcome: "added",
    });
  });

  test("replaces the label of the same id, of the same input, and of both", async () => {
    const hook = await learnHook(own.key, {}, "standard");
    const learn = async (body: object) => (await posted(hook, body)).json;
    await learn({ text: "first text", label: "billing", id: "r-1" });
    expect(await learn({ text: "first text, edited", label: "login", id: "r-1" })).toMatchObject({
      outcome: "updated",
    });
    expect(await labelOf("first text")).toEqual([]);
    expect(await learn({ text: "first text, edited", label: "shipping" })).toMatchObject({
      example: "r-1",
      outcome: "updated",
    });
    expect(await learn({ text: "first text, edited", label: "shipping" })).toMatchObject({ outcome: "unchanged" });
    await learn({ text: "second text", label: "login", id: "r-2" });
    // Its id is that of one example, its text that of another: one stays.
    expect(await learn({ text: "first text, edited", label: "login", id: "r-2" })).toMatchObject({ example: "r-2" });
    expect(await labelOf("first text, edited")).toEqual([{ id: "r-2", text: "first text, edited", label: "login" }]);
    expect(await labelOf("second text")).toEqual([]);
  });

  test("what does not change anything is told by no event", async () => {
    const hook = await learnHook(own.key, {}, "standard");
    await posted(hook, { text: "said twice", label: "login" });
    const before = await eventsOf(own.id);
    const revision = (await call("GET", "/v1/datasets/tickets", own.key)).json.revision;
    expect((await posted(hook, { text: "said twice", label: "login" })).json.outcome).toBe("unchanged");
    expect(await eventsOf(own.id)).toEqual(before);
    expect((await call("GET", "/v1/datasets/tickets", own.key)).json.revision).toBe(revision);
  });

  test("refuses a label that no example has, or takes it", async () => {
    const reject = await learnHook(own.key, {}, "standard");
    const before = await examplesOf(own.key);
    const message = { text: "my invoice is in Latin", label: "languages" };
    expectRefused(await post(reject, message, { id: "msg_latin" }), 422, "invalid_label", "fields.label");
    expect(await examplesOf(own.key)).toEqual(before);
    const add = await learnHook(own.key, { on_unknown_label: "add" });
    expect((await posted(add, message)).json.outcome).toBe("added");
    // What was refused was not done: the same message goes ahead.
    const again = await posted(reject, message, { id: "msg_latin" });
    expect(again.headers.get("idempotent-replayed")).toBeNull();
    expect(again.json.outcome).toBe("unchanged");
  });

  test("of an empty data set takes any label, of every task", async () => {
    for (const [task, field, first, good, bad] of [
      ["single_label", "label", "a", "a", "b"],
      ["multi_label", "labels", ["a", "b"], ["b"], ["a", "c"]],
      ["regression", "value", 1.5, "2", null],
    ] as const) {
      const name = `empty-${task.replace("_", "-")}`;
      await call("POST", "/v1/datasets", own.key, { name, task, modality: "text" });
      const hook = await learnHook(own.key, { dataset: name, fields: { text: "/text", [field]: "/target" } });
      expect((await posted(hook, { text: "one", target: first })).json.outcome).toBe("added");
      expect((await posted(hook, { text: "two", target: good })).json.outcome).toBe("added");
      const refused = await post(hook, { text: "three", target: bad });
      if (bad === null) expectRefused(refused, 422, "invalid_payload", "fields.value");
      else expectRefused(refused, 422, "invalid_label", `fields.${field}`);
      expect(await examplesOf(own.key, name)).toHaveLength(2);
    }
  });

  test("takes a data set's out-of-scope label", async () => {
    await call("POST", "/v1/datasets", own.key, {
      name: "scoped",
      task: "single_label",
      modality: "text",
      out_of_scope_label: "other",
    });
    const hook = await learnHook(own.key, { dataset: "scoped" });
    await posted(hook, { text: "one", label: "a" });
    expect((await posted(hook, { text: "two", label: "other" })).json.outcome).toBe("added");
  });

  test.each<[object, number, Code, string]>([
    [{ label: "billing" }, 422, "invalid_payload", "fields.text"],
    [{ text: "x" }, 422, "invalid_payload", "fields.label"],
    [{ text: " \n", label: "billing" }, 422, "input_empty", "fields.text"],
    [{ text: "x".repeat(32_769), label: "billing" }, 422, "input_too_long", "fields.text"],
    [{ text: "x", label: "l".repeat(257) }, 422, "limit_exceeded", "fields.label"],
    [{ text: "x", label: "" }, 400, "invalid_parameter", "fields.label"],
    [{ text: "x", label: "billing", id: ".." }, 400, "invalid_parameter", "fields.id"],
    [{ text: "x", label: "billing", id: "i".repeat(257) }, 400, "invalid_parameter", "fields.id"],
  ])("refuses %j", async (body, status, code, param) => {
    expectRefused(await post(await learnHook(own.key), body), status, code, param);
  });

  test.each(["standard", "github", "none"] as const)("does what comes twice once, by %s", async (scheme) => {
    const hook = await learnHook(own.key, {}, scheme);
    const message = { text: `twice by ${scheme}`, label: "billing" };
    const first = await posted(hook, message, { id: "msg_twice" });
    await posted(hook, { ...message, label: "login" }, { id: "msg_between" });
    // Late, and out of order: it does not bring the older label back.
    const again = await posted(hook, message, { id: "msg_twice" });
    expect(again.json).toEqual(first.json);
    expect([first, again].map(({ headers }) => headers.get("idempotent-replayed"))).toEqual([null, "true"]);
    expect((await labelOf(message.text))[0]?.label).toBe("login");
    expect((await eventsOf(own.id, "inbound.learned")).filter(({ data }) => data.id === hook.id)).toHaveLength(2);
  });

  test("does what comes many times at once, once", async () => {
    const hook = await learnHook(own.key, {}, "standard");
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => posted(hook, { text: "at once", label: "login" }, { id: "msg_once" })),
    );
    expect(answers.filter(({ headers }) => headers.get("idempotent-replayed") === null)).toHaveLength(1);
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    expect((await eventsOf(own.id, "inbound.learned")).filter(({ data }) => data.id === hook.id)).toHaveLength(1);
  });

  test("forgets the bytes of a message after ten minutes, and its id after a day", async () => {
    const seconds = () => Math.floor(Date.now() / 1000);
    const expiries = (hook: Hook, by = 0) =>
      inLedger(own.id, ({ sql }) => {
        const number = "(SELECT number FROM inbound_hooks WHERE id = ?)";
        sql.exec(`UPDATE inbound_messages SET expires_at = expires_at - ? WHERE hook = ${number}`, by, hook.id);
        return sql
          .exec<{ at: number }>(`SELECT expires_at AS at FROM inbound_messages WHERE hook = ${number}`, hook.id)
          .toArray()
          .map(({ at }) => at - seconds());
      });
    for (const [scheme, kept] of [
      ["github", 600],
      ["standard", 86_400],
    ] as const) {
      const hook = await learnHook(own.key, {}, scheme);
      const message = { text: `kept by ${scheme}`, label: "billing" };
      await posted(hook, message, { id: "msg_kept" });
      const [left = 0] = await expiries(hook);
      expect(Math.abs(left - kept)).toBeLessThan(5);
      await expiries(hook, kept - 10);
      expect((await posted(hook, message, { id: "msg_kept" })).headers.get("idempotent-replayed")).toBe("true");
      await expiries(hook, 20);
      expect((await posted(hook, message, { id: "msg_kept" })).headers.get("idempotent-replayed")).toBeNull();
    }
  });

  test("knows a message by its own hook alone", async () => {
    const [one, two] = [await learnHook(own.key, {}, "standard"), await learnHook(own.key, {}, "standard")];
    await posted(one, { text: "of one", label: "login" }, { id: "msg_shared" });
    const answer = await posted(two, { text: "of two", label: "login" }, { id: "msg_shared" });
    expect(answer.headers.get("idempotent-replayed")).toBeNull();
  });

  test("whose data set is deleted, and perhaps made anew, learns what then fits", async () => {
    await call("POST", "/v1/datasets", own.key, { name: "brief", task: "single_label", modality: "text" });
    const hook = await learnHook(own.key, { dataset: "brief" });
    await posted(hook, { text: "one", label: "a" });
    await call("DELETE", "/v1/datasets/brief", own.key);
    expectRefused(await post(hook, { text: "two", label: "a" }), 404, "not_found");
    await call("POST", "/v1/datasets", own.key, { name: "brief", task: "regression", modality: "text" });
    expectRefused(await post(hook, { text: "three", label: "a" }), 422, "task_mismatch", "fields.label");
  });

  test("keeps within the limits of a data set", async () => {
    await call("POST", "/v1/datasets", own.key, { name: "full", task: "single_label", modality: "text" });
    const hook = await learnHook(own.key, { dataset: "full", on_unknown_label: "add" });
    for (const text of ["one", "two"]) await posted(hook, { text, label: "a" });
    await inLedger(own.id, ({ sql }) => {
      sql.exec(
        `INSERT INTO examples (dataset, position, id, input_hash, group_hash, content_hash, input, target, created_at)
         WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         SELECT id, i, 'x' || i, x'00', x'00', randomblob(8), 'x', '"a' || (i % CAST(? AS INTEGER)) || '"', 0 FROM n, datasets WHERE name = 'full'`,
        limits.examples_per_dataset - 1,
        limits.labels_per_dataset - 1,
      );
      sql.exec("UPDATE datasets SET next_position = ? WHERE name = 'full'", limits.examples_per_dataset);
    });
    const refused = await post(hook, { text: "one too many", label: "a" });
    expectRefused(refused, 422, "limit_exceeded");
    expect(refused.json.error.details.actual).toBe(limits.examples_per_dataset + 1);
    // One in place of another is none more; a label more is.
    expectRefused(await post(hook, { text: "one", label: "b" }), 422, "limit_exceeded");
    expect((await posted(hook, { text: "one", label: "a7" })).json.outcome).toBe("updated");
  });
});

test("no log line holds a token, a secret, a signature or a text", async () => {
  const lines: string[] = [];
  for (const method of ["log", "warn", "error", "info", "debug"] as const)
    vi.spyOn(console, method).mockImplementation((...given) => void lines.push(given.map(String).join(" ")));
  const message = { text: "Hippopotamus in my parcel", label: "shipping", id: "giraffe" };
  const secrets: string[] = ["Hippopotamus", "giraffe"];
  for (const scheme of Object.keys(schemes) as Scheme[]) {
    const hook = await learnHook(key, {}, scheme);
    secrets.push(hook.path.split("_").at(-1) ?? "", ...(hook.secret === "" ? [] : [hook.secret]));
    secrets.push(...Object.values(signatureOf(hook, JSON.stringify(message), { id: "msg_zebra" })).slice(0, 1));
    await post(hook, message);
    await post(hook, { ...message, label: "Hippopotamus" });
    await post(hook, "Hippopotamus");
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
    await call("POST", "/v1/heads", desk.key, { name: "support", dataset: "tickets" });
    const classify = await newHook(desk.key, JSON.parse(file("help-desk/classify.hook.json")), "standard");
    const created = await posted(classify, file("help-desk/ticket-created.json"));
    expect(created.json).toMatchObject({ input_id: "48211", model: "support@1", label: "billing_refund" });
    const learn = await newHook(
      desk.key,
      { head: undefined, ...JSON.parse(file("help-desk/learn.hook.json")) },
      "standard",
    );
    const tagged = await posted(learn, file("help-desk/ticket-tagged.json"));
    expect(tagged.json).toMatchObject({ dataset: "tickets", example: "48211", outcome: "added" });
    expect((await examplesOf(desk.key)).at(-1)).toMatchObject({ id: "48211", label: "billing_refund" });
    expect((await eventsOf(desk.id)).map(({ type }) => type).slice(-2)).toEqual([
      "inbound.predicted",
      "inbound.learned",
    ]);
    expectRefused(await post(learn, file("help-desk/ticket-created.json")), 422, "invalid_payload", "fields.label");
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
    expect((await posted(hook, labeled)).json).toMatchObject({ example: "2713358104", outcome: "added" });
    const issue = JSON.parse(labeled).issue;
    expect(await examplesOf(team.key, "issues")).toEqual([
      { id: "2713358104", text: `${issue.title}\n${issue.body}`, label: "bug" },
    ]);
    expectRefused(
      await post(hook, { zen: "Keep it logically awesome.", hook_id: 1 }),
      422,
      "invalid_payload",
      "fields.text",
    );
  });
});
