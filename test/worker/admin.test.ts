import { createExecutionContext, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import { createApp } from "../../src/http/app.ts";
import { generateApiKey } from "../../src/http/routes/api-keys.ts";
import { type Directory, getDirectory } from "../../src/tenant/directory.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";

const operator = env.ADMIN_KEY;

describe("creating a tenant", () => {
  test("answers the tenant with its first key, which has every scope", async () => {
    const before = Math.floor(Date.now() / 1000);
    const answer = await call("POST", "/v1/admin/tenants", operator, { id: "acme", name: "Acme Ltd." });
    expect(answer.status).toBe(201);
    const { key, ...tenant } = answer.json;
    expect(tenant).toEqual({
      object: "tenant",
      id: "acme",
      name: "Acme Ltd.",
      status: "active",
      created_at: expect.any(Number),
    });
    expect(tenant.created_at).toBeGreaterThanOrEqual(before);
    expect(key).toMatchObject({ object: "api_key", scopes: ["predict", "train", "manage"], expires_at: null });
    expect(key.secret).toMatch(/^gk_acme_[0-9a-f]{64}$/);
    expect((await call("GET", "/v1/limits", key.secret)).json.id).toBe("acme");
  });

  test("makes an id of its own where none is given", async () => {
    const answer = await call("POST", "/v1/admin/tenants", operator, {});
    expect(answer.status).toBe(201);
    expect(answer.json.id).toMatch(/^[a-z0-9][a-z0-9-]{1,39}$/);
    expect(answer.json.name).toBeNull();
    expect(answer.json.key.secret.startsWith(`gk_${answer.json.id}_`)).toBe(true);
  });

  test("an id is given out once", async () => {
    await newTenant("taken");
    const again = await call("POST", "/v1/admin/tenants", operator, { id: "taken" });
    expectError(again, 409, "already_exists", "id");
  });

  test("an id is given out once also to two callers at the same time", async () => {
    const answers = await Promise.all(
      Array.from({ length: 4 }, () => call("POST", "/v1/admin/tenants", operator, { id: "contested" })),
    );
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 409)).toHaveLength(3);
  });

  test.each<[unknown, string]>([
    ["a", "one character"],
    ["Acme", "capitals"],
    ["-acme", "a leading hyphen"],
    ["a_b", "an underscore"],
    ["a".repeat(41), "41 characters"],
    ["../acme", "a path"],
    ["acme\n", "a line break"],
    ["", "nothing"],
    [7, "a number"],
    [null, "null"],
  ])("refuses the id %j: %s", async (id) => {
    expectError(await call("POST", "/v1/admin/tenants", operator, { id }), 400, "invalid_parameter", "id");
  });

  test("refuses fields that it does not know", async () => {
    const answer = await call("POST", "/v1/admin/tenants", operator, { id: "acme-2", plan: "gold" });
    expectError(answer, 400, "unknown_parameter", "plan");
    expect((await call("GET", "/v1/admin/tenants/acme-2", operator)).status).toBe(404);
  });
});

describe("reading tenants", () => {
  beforeAll(async () => {
    for (const id of ["list-a", "list-b", "list-c"]) await newTenant(id);
  });

  test("lists them, newest first, page by page", async () => {
    const first = await call("GET", "/v1/admin/tenants?limit=2", operator);
    expect(first.status).toBe(200);
    expect(first.json).toMatchObject({ object: "list", first_id: "list-c", last_id: "list-b", has_more: true });
    const second = await call("GET", "/v1/admin/tenants?limit=1&after=list-b", operator);
    expect(second.json.data.map(({ id }: { id: string }) => id)).toEqual(["list-a"]);
  });

  test("gets one", async () => {
    const answer = await call("GET", "/v1/admin/tenants/list-a", operator);
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({
      object: "tenant",
      id: "list-a",
      name: null,
      status: "active",
      created_at: expect.any(Number),
    });
  });

  test("one that does not exist is not found, and one that cannot exist is not valid", async () => {
    expectError(await call("GET", "/v1/admin/tenants/nobody", operator), 404, "not_found");
    expectError(await call("GET", "/v1/admin/tenants/Nobody", operator), 400, "invalid_parameter", "id");
  });
});

describe("keys for a tenant", () => {
  test("the operator creates one with the scopes asked for", async () => {
    await newTenant("keyed");
    const answer = await call("POST", "/v1/admin/tenants/keyed/api_keys", operator, {
      name: "ci",
      scopes: ["predict"],
    });
    expect(answer.status).toBe(201);
    expect(answer.json).toMatchObject({ object: "api_key", name: "ci", scopes: ["predict"], expires_at: null });
    expect((await call("GET", "/v1/models", answer.json.secret)).status).toBe(200);
    expectError(await call("GET", "/v1/datasets", answer.json.secret), 403, "missing_scope");
  });

  test("not for a tenant that does not exist", async () => {
    const answer = await call("POST", "/v1/admin/tenants/nobody/api_keys", operator, {
      name: "x",
      scopes: ["predict"],
    });
    expectError(answer, 404, "not_found");
  });

  test("a retried creation gives the same key once more, without its secret", async () => {
    await newTenant("retried");
    const create = (name: string) =>
      call(
        "POST",
        "/v1/admin/tenants/retried/api_keys",
        operator,
        { name, scopes: ["train"] },
        { "idempotency-key": "create-key" },
      );
    const first = await create("one");
    const again = await create("one");
    const { secret, ...withoutSecret } = first.json;
    expect(secret).toBeTypeOf("string");
    expect(again.status).toBe(201);
    expect(again.headers.get("idempotent-replayed")).toBe("true");
    expect(again.json).toEqual(withoutSecret);
    expectError(await create("two"), 422, "idempotency_key_reused", "Idempotency-Key");
  });

  test("are made once also where no other ledger can be reached", async () => {
    const { id, key } = await newTenant();
    const get = () => {
      throw new Error("The directory is down.");
    };
    const alone = { ...env, DIRECTORY: { idFromName: () => null, get } } as unknown as Cloudflare.Env;
    const create = async () => {
      const request = new Request(`http://graft.test/v1/admin/tenants/${id}/api_keys`, {
        method: "POST",
        headers: { authorization: `Bearer ${operator}`, "content-type": "application/json", "idempotency-key": "k" },
        body: JSON.stringify({ name: "ci", scopes: ["predict"] }),
      });
      const response = await createApp().fetch(request, alone, createExecutionContext());
      expect(response.status).toBe(201);
      return (await response.json<{ id: string }>()).id;
    };
    expect(await create()).toBe(await create());
    expect((await call("GET", "/v1/api_keys", key)).json.data).toHaveLength(2);
  });

  test("have idempotency keys apart from the tenant's own", async () => {
    const { id, key } = await newTenant();
    const create = (path: string, token: string, name: string) =>
      call("POST", path, token, { name, scopes: ["train"] }, { "idempotency-key": "same" });
    expect((await create("/v1/api_keys", key, "own")).status).toBe(201);
    const answer = await create(`/v1/admin/tenants/${id}/api_keys`, operator, "operator's");
    expect(answer.json, answer.text).toMatchObject({ name: "operator's", secret: expect.any(String) });
  });

  test.each([
    ["nobody", 404, "not_found", null],
    ["Nobody", 400, "invalid_parameter", "id"],
  ] as const)("not for the tenant '%s', with an idempotency key", async (id, status, code, param) => {
    const body = { name: "x", scopes: ["predict"] };
    const answer = await call("POST", `/v1/admin/tenants/${id}/api_keys`, operator, body, { "idempotency-key": "k" });
    expectError(answer, status, code, param);
  });
});

test("a retried creation of a tenant gives the same tenant once more, without the key's secret", async () => {
  const create = () =>
    call("POST", "/v1/admin/tenants", operator, { id: "once" }, { "idempotency-key": "create-tenant" });
  const first = await create();
  const again = await create();
  expect(first.status).toBe(201);
  expect(again.status).toBe(201);
  expect(again.headers.get("idempotent-replayed")).toBe("true");
  const { secret: _secret, ...key } = first.json.key;
  expect(again.json).toEqual({ ...first.json, key });
});

test.each([
  ["with an id", { id: "cut-off" }],
  ["without one", {}],
])("a creation of a tenant %s that was cut off is continued by the same call again", async (_, body) => {
  const idempotencyKey = crypto.randomUUID();
  const create = (name: string) =>
    call("POST", "/v1/admin/tenants", operator, { ...body, name }, { "idempotency-key": idempotencyKey });
  const first = await create("one");
  expect(first.status, first.text).toBe(201);
  const { id, key } = first.json;
  // As it was after the ledger was created and before the directory knew.
  await runInDurableObject(env.DIRECTORY.get(env.DIRECTORY.idFromName("directory")), (_: Directory, { storage }) => {
    storage.sql.exec("UPDATE tenants SET status = 'creating' WHERE id = ?", id);
    storage.sql.exec("DELETE FROM idempotency WHERE key = ?", idempotencyKey);
  });
  const another = { name: "another", scopes: ["train"] };
  expect((await call("POST", `/v1/admin/tenants/${id}/api_keys`, operator, another)).status).toBe(201);

  const again = await create("two");
  expect(again.status, again.text).toBe(201);
  expect(again.headers.has("idempotent-replayed")).toBe(false);
  expect(again.json).toMatchObject({ id, name: "two" });
  expect((await call("GET", `/v1/admin/tenants/${id}`, operator)).json).toMatchObject({ name: "two" });
  const keys = (await call("GET", "/v1/api_keys", again.json.key.secret)).json.data;
  expect(keys.map(({ name }: { name: string }) => name)).toEqual(["first key", "another"]);
  expectError(await call("GET", "/v1/limits", key.secret), 401, "invalid_api_key");
});

test("a creation of a tenant whose idempotency key another request has taken over is not done", async () => {
  const stub = getDirectory(env.DIRECTORY);
  const { key } = generateApiKey(env.SERVER_KEY, "overtaken", { name: "first key", scopes: ["manage"] });
  expect(await stub.create("overtaken", null, key, "lost claim")).toMatchObject({
    failure: { code: "request_in_progress" },
  });
  const answer = await call("POST", "/v1/admin/tenants", operator, { id: "overtaken" });
  expect(answer.status, answer.text).toBe(201);
  expect((await call("GET", "/v1/api_keys", answer.json.key.secret)).json.data).toHaveLength(1);
});

describe("who may", () => {
  const routes: [string, string, unknown?][] = [
    ["POST", "/v1/admin/tenants", { id: "intruder" }],
    ["GET", "/v1/admin/tenants"],
    ["GET", "/v1/admin/tenants/acme"],
    ["PATCH", "/v1/admin/tenants/acme", { status: "suspended" }],
    ["DELETE", "/v1/admin/tenants/acme"],
    ["POST", "/v1/admin/tenants/acme/api_keys", { name: "x", scopes: ["predict"] }],
  ];
  test.each(routes)("%s %s: the operator alone", async (method, path, body) => {
    const { key } = await newTenant();
    for (const wrong of [
      undefined,
      key,
      `${operator}x`,
      operator.slice(0, -1),
      operator.toUpperCase(),
      "x".repeat(9000),
    ]) {
      expectError(await call(method, path, wrong, body), 401, "invalid_api_key");
    }
    expect((await call("GET", "/v1/admin/tenants/intruder", operator)).status).toBe(404);
  });
});

describe("deleting a tenant", () => {
  test("takes everything it had, and its id stays taken", async () => {
    const { id, key } = await tenantWithTickets();
    const otherTenant = await tenantWithTickets();
    for (const apiKey of [key, otherTenant.key]) {
      const trained = await call("POST", "/v1/heads", apiKey, { name: "support", dataset: "tickets" });
      expect(trained.status, trained.text).toBe(201);
    }
    const stub = (tenant: string) => env.TENANT.get(env.TENANT.idFromName(tenant));
    await runDurableObjectAlarm(stub(id));
    await runDurableObjectAlarm(stub(otherTenant.id));
    expect(await listStored(id)).not.toEqual({ kv: [], r2: [] });
    const others = await listStored(otherTenant.id);

    const answer = await call("DELETE", `/v1/admin/tenants/${id}`, operator);
    expect(answer.status).toBe(202);
    expect(answer.json).toMatchObject({ object: "tenant", id, status: "deleting" });
    expectError(await call("GET", "/v1/limits", key), 401, "invalid_api_key");
    expectError(
      await call("POST", `/v1/admin/tenants/${id}/api_keys`, operator, { name: "late", scopes: ["predict"] }),
      404,
      "not_found",
    );

    const directory = env.DIRECTORY.get(env.DIRECTORY.idFromName("directory"));
    await expect
      .poll(async () => {
        await runDurableObjectAlarm(directory);
        return (await call("GET", `/v1/admin/tenants/${id}`, operator)).json.status;
      })
      .toBe("deleted");
    expect(await listStored(id)).toEqual({ kv: [], r2: [] });
    expectError(await call("GET", "/v1/limits", key), 401, "invalid_api_key");
    expectError(await call("POST", "/v1/admin/tenants", operator, { id }), 409, "already_exists", "id");

    const again = await call("DELETE", `/v1/admin/tenants/${id}`, operator);
    expect(again.status).toBe(202);
    expect(again.json.status).toBe("deleted");

    expect(await listStored(otherTenant.id)).toEqual(others);
    const predicted = await call("POST", "/v1/heads/support/predict", otherTenant.key, { input: "refund me" });
    expect(predicted.status).toBe(200);
  });

  test("leaves neither its name nor the answer to its creation in the directory", async () => {
    const { id } = await newTenant();
    const headers = { "idempotency-key": crypto.randomUUID() };
    const body = { id: `${id}-named`, name: "a name that goes" };
    expect((await call("POST", "/v1/admin/tenants", operator, body, headers)).status).toBe(201);
    const directory = env.DIRECTORY.get(env.DIRECTORY.idFromName("directory"));
    const countAnswers = () =>
      runInDurableObject(directory, (_: Directory, { storage }) => {
        const rows = storage.sql.exec("SELECT body FROM idempotency WHERE body LIKE '%a name that goes%'").toArray();
        return rows.length;
      });
    expect(await countAnswers()).toBe(1);
    expect((await call("DELETE", `/v1/admin/tenants/${body.id}`, operator)).status).toBe(202);
    await expect
      .poll(
        async () => {
          await runDurableObjectAlarm(directory);
          return (await call("GET", `/v1/admin/tenants/${body.id}`, operator)).json;
        },
        { timeout: 10_000 },
      )
      .toMatchObject({ status: "deleted", name: null });
    expect(await countAnswers()).toBe(0);
    expectError(await call("POST", "/v1/admin/tenants", operator, body, headers), 409, "already_exists", "id");
  });

  test("one that is being created is deleted whole, or refused until it is there", async () => {
    const [created, deleted] = await Promise.all([
      call("POST", "/v1/admin/tenants", operator, { id: "hasty" }),
      call("DELETE", "/v1/admin/tenants/hasty", operator),
    ]);
    expect(created.status, created.text).toBe(201);
    if (deleted.status !== 202) expect(["request_in_progress", "not_found"]).toContain(deleted.json.error.code);
    const last = await call("DELETE", "/v1/admin/tenants/hasty", operator);
    expect(last.status, last.text).toBe(202);
    expectError(await call("GET", "/v1/datasets", created.json.key.secret), 401, "invalid_api_key");
  });

  test("one that does not exist is not found", async () => {
    expectError(await call("DELETE", "/v1/admin/tenants/nobody", operator), 404, "not_found");
  });
});

async function listStored(tenant: string): Promise<{ kv: string[]; r2: string[] }> {
  const kv = await env.KV.list({ prefix: `tenants/${tenant}/` });
  const r2 = await env.BUCKET.list({ prefix: `tenants/${tenant}/` });
  return { kv: kv.keys.map(({ name }) => name), r2: r2.objects.map((object) => object.key) };
}
