import { env } from "cloudflare:workers";
import { describe, expect, test, vi } from "vitest";
import { createKey as makeKey } from "../../src/http/middleware/keys.ts";
import { sha256Hex } from "../../src/lib/hash.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { call, newTenant } from "./api.ts";
import { createKey, expectAuthorization, expectError, expectHidden } from "./assertions.ts";

const now = () => Math.floor(Date.now() / 1000);

describe("creating a key", () => {
  test("answers it with its secret, which then works within its scopes", async () => {
    const { id, key } = await newTenant();
    const expires_at = now() + 3600;
    const body = { name: "reader", scopes: ["predict", "predict"], expires_at };
    const answer = await call("POST", "/v1/api_keys", key, body);
    expect(answer.status).toBe(201);
    expect(answer.json).toEqual({
      object: "api_key",
      id: expect.stringMatching(/^key_[0-9a-f]{32}$/),
      name: "reader",
      scopes: ["predict"],
      created_at: expect.any(Number),
      expires_at,
      origins: null,
      secret: expect.stringMatching(new RegExp(`^gk_${id}_[0-9a-f]{64}$`)),
    });
    expect((await call("GET", "/v1/heads", answer.json.secret)).status).toBe(200);
    expectError(await call("GET", "/v1/api_keys", answer.json.secret), 403, "missing_scope");
  });

  test.each<[string, unknown, string, string]>([
    ["no name", { scopes: ["train"] }, "missing_parameter", "name"],
    ["an empty name", { name: "", scopes: ["train"] }, "invalid_parameter", "name"],
    ["a long name", { name: "x".repeat(201), scopes: ["train"] }, "invalid_parameter", "name"],
    ["no scopes", { name: "x" }, "missing_parameter", "scopes"],
    ["an empty list of scopes", { name: "x", scopes: [] }, "invalid_parameter", "scopes"],
    ["an unknown scope", { name: "x", scopes: ["train", "root"] }, "invalid_parameter", "scopes[1]"],
    ["a time that has passed", { name: "x", scopes: ["train"], expires_at: 1 }, "invalid_parameter", "expires_at"],
    [
      "a time with a fraction",
      { name: "x", scopes: ["train"], expires_at: 4e9 + 0.5 },
      "invalid_parameter",
      "expires_at",
    ],
    ["a time as text", { name: "x", scopes: ["train"], expires_at: "never" }, "invalid_parameter", "expires_at"],
    ["an unknown field", { name: "x", scopes: ["train"], admin: true }, "unknown_parameter", "admin"],
  ])("refuses %s", async (_what, body, code, param) => {
    const { key } = await newTenant();
    expectError(await call("POST", "/v1/api_keys", key, body), 400, code as "invalid_parameter", param);
    expect((await call("GET", "/v1/api_keys", key)).json.data).toHaveLength(1);
  });

  test.each([
    [["manage"], ["manage", "predict"], "scopes[1]"],
    [["manage"], ["train"], "scopes[0]"],
    [["manage", "train"], ["train", "manage", "predict"], "scopes[2]"],
  ])("with %j does not give %j, which it lacks in part", async (own, wanted, param) => {
    const { key } = await newTenant();
    const creator = await createKey(key, ...own);
    const body = { name: "more", scopes: wanted };
    expectError(await call("POST", "/v1/api_keys", creator, body), 403, "missing_scope", param);
    expect((await call("GET", "/v1/api_keys", key)).json.data).toHaveLength(2);
    expect((await call("POST", "/v1/api_keys", creator, { name: "as much", scopes: own })).status).toBe(201);
  });

  test("keeps a name of any characters as it was sent", async () => {
    const { key } = await newTenant();
    const name = "a\u0000b / 100 % \u{1f511} \u202e";
    expect((await call("POST", "/v1/api_keys", key, { name, scopes: ["train"] })).json.name).toBe(name);
    expect((await call("GET", "/v1/api_keys", key)).json.data[0].name).toBe(name);
  });
});

test("the list is newest first, without secrets and without the keys of others", async () => {
  const { key } = await newTenant();
  await newTenant();
  for (const name of ["one", "two", "three"]) {
    await call("POST", "/v1/api_keys", key, { name, scopes: ["train"] });
  }
  const all = await call("GET", "/v1/api_keys", key);
  expect(all.json.data.map(({ name }: { name: string }) => name)).toEqual(["three", "two", "one", "first key"]);
  expect(all.text).not.toContain("gk_");
  expect(all.json.has_more).toBe(false);
});

describe("revoking a key", () => {
  test("refuses it from then on, and others go on working", async () => {
    const { key } = await newTenant();
    const { id, secret } = (await call("POST", "/v1/api_keys", key, { name: "x", scopes: ["train"] })).json;
    expect((await call("GET", "/v1/datasets", secret)).status).toBe(200);
    const revoked = await call("DELETE", `/v1/api_keys/${id}`, key);
    expect(revoked.status).toBe(200);
    expect(revoked.json).toEqual({ id, object: "api_key", deleted: true });
    expectError(await call("GET", "/v1/datasets", secret), 401, "invalid_api_key");
    expectError(await call("DELETE", `/v1/api_keys/${id}`, key), 404, "not_found");
    expect((await call("GET", "/v1/datasets", key)).status).toBe(200);
    expect((await call("GET", "/v1/api_keys", key)).json.data).toHaveLength(1);
  });

  test("another tenant's key finds no key to revoke", async () => {
    const { key } = await newTenant();
    const { id, secret } = (await call("POST", "/v1/api_keys", key, { name: "x", scopes: ["train"] })).json;
    await expectHidden("DELETE", `/v1/api_keys/${id}`, undefined, async () => {
      expect((await call("GET", "/v1/datasets", secret)).status).toBe(200);
      await call("DELETE", `/v1/api_keys/${id}`, key);
    });
  });
});

test("each route needs a key with the scope manage", async () => {
  const { key } = await newTenant();
  await expectAuthorization(key, "manage", "POST", "/v1/api_keys", { name: "x", scopes: ["train"] });
  await expectAuthorization(key, "manage", "GET", "/v1/api_keys");
  await expectAuthorization(key, "manage", "DELETE", "/v1/api_keys/key_x");
});

describe("which keys are valid", () => {
  test("not one that has expired", async () => {
    const { key } = await newTenant();
    const body = { name: "short", scopes: ["train"], expires_at: now() + 2 };
    const { secret } = (await call("POST", "/v1/api_keys", key, body)).json;
    expect((await call("GET", "/v1/datasets", secret)).status).toBe(200);
    vi.spyOn(Date, "now").mockReturnValue(1000 * (body.expires_at + 1));
    try {
      expectError(await call("GET", "/v1/datasets", secret), 401, "invalid_api_key");
    } finally {
      vi.restoreAllMocks();
    }
  });

  test("not one that is nearly right", async () => {
    const { id, key } = await newTenant();
    const { id: other, key: otherKey } = await newTenant();
    expect((await call("GET", "/v1/datasets", key)).status).toBe(200);
    const flipCharacter = (position: number) => {
      const index = key.length - 64 + position;
      return key.slice(0, index) + (key[index] === "0" ? "1" : "0") + key.slice(index + 1);
    };
    const wrongKeys = [
      flipCharacter(0),
      flipCharacter(31),
      flipCharacter(32),
      flipCharacter(63),
      key.toUpperCase(),
      key.slice(0, -1),
      `${key}0`,
      `${key} ${key}`,
      `x${key}`,
      key.slice(3),
      key.replace(`gk_${id}_`, `gk_${other}_`),
      otherKey.replace(`gk_${other}_`, `gk_${id}_`),
      key.replace(id, `${id}x`),
      `gk_${id}_`,
      `gk__${key.slice(-64)}`,
      "undefined",
      "' OR 1=1 --",
    ];
    for (const wrongKey of wrongKeys) expectError(await call("GET", "/v1/datasets", wrongKey), 401, "invalid_api_key");
  });

  test("not one that is hundreds of kilobytes long, nor under another scheme", async () => {
    const { key } = await newTenant();
    expectError(await call("GET", "/v1/datasets", key.repeat(3000)), 401, "invalid_api_key");
    for (const authorization of [key, `Basic ${btoa(`${key}:`)}`, "Bearer", `Token ${key}`]) {
      expectError(await call("GET", "/v1/datasets", undefined, undefined, { authorization }), 401, "invalid_api_key");
    }
    expect((await call("GET", "/v1/datasets", undefined, undefined, { authorization: `bearer ${key}` })).status).toBe(
      200,
    );
  });

  test("not one with a right MAC that the tenant never had, nor one of a tenant that never was", async () => {
    const { id } = await newTenant();
    const random = crypto.getRandomValues(new Uint8Array(16));
    for (const tenant of [id, "never-was"]) {
      const forged = makeKey(env.SERVER_KEY, tenant, random);
      expectError(await call("GET", "/v1/datasets", forged), 401, "invalid_api_key");
    }
  });

  test("one made by the previous server key, but not by one before that", async () => {
    const { id } = await newTenant();
    const status = async (serverKey: string) => {
      const secret = makeKey(serverKey, id, crypto.getRandomValues(new Uint8Array(16)));
      const key = { id: `key_${serverKey}`, name: "old", hash: sha256Hex(secret), scopes: ["train"] as const };
      await getLedger(env.TENANT, id).createApiKey(null, { ...key, expires_at: null, origins: null });
      return (await call("GET", "/v1/datasets", secret)).status;
    };
    expect(await status(env.PREVIOUS_SERVER_KEY ?? "")).toBe(200);
    expect(await status("a-server-key-of-last-year")).toBe(401);
  });

  test("a tenant's key opens that tenant alone", async () => {
    const one = await newTenant();
    const two = await newTenant();
    await call("POST", "/v1/datasets", one.key, { name: "mine", task: "single_label", modality: "text" });
    expect((await call("GET", "/v1/datasets", one.key)).json.data).toHaveLength(1);
    expect((await call("GET", "/v1/datasets", two.key)).json.data).toEqual([]);
    expect((await call("GET", "/v1/datasets", await createKey(two.key, "train"))).json.data).toEqual([]);
  });
});
