/** Repetitions of a request whose answer is large: it is kept as a reference to the head that it shows. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { call, newTenant } from "./api.ts";
import { expectError } from "./assertions.ts";

let owner: { id: string; key: string };
beforeAll(async () => {
  owner = await newTenant();
});

/** Of so many labels that its evaluation takes more than 16 KiB. */
const examples = Array.from({ length: 600 }, (_, i) => ({
  embedding: [Math.cos(i % 100), Math.sin(i % 100), i / 1_000],
  label: `label ${i % 100}`,
}));
const params = { name: "wide", examples, method: "head", hyperparameters: { l2: 1 } };
const train = (name: string, idempotencyKey: string, more: object = {}) =>
  call("POST", "/v1/heads", owner.key, { ...params, name, ...more }, { "idempotency-key": idempotencyKey });
const promote = (name: string, version: number, idempotencyKey: string) =>
  call("POST", `/v1/heads/${name}/promote`, owner.key, { version }, { "idempotency-key": idempotencyKey });

/** Bytes of what is kept for a key. */
const storedBytes = (key: string) =>
  runInDurableObject(env.TENANT.get(env.TENANT.idFromName(owner.id)), (_: Tenant, { storage }) => {
    const row = storage.sql.exec("SELECT * FROM idempotency WHERE key = ?", key).one();
    return JSON.stringify(row).length;
  });
const age = (seconds: number) =>
  runInDurableObject(env.TENANT.get(env.TENANT.idFromName(owner.id)), (_: Tenant, { storage }) => {
    storage.sql.exec("UPDATE idempotency SET started_at = started_at - ?", seconds);
  });

describe("the answer of a training or a promotion, repeated,", () => {
  test("is the same, byte for byte, whatever became active since, and takes few bytes to keep", async () => {
    const first = await train("wide", "first");
    expect(first.status, first.text).toBe(201);
    expect(first.text.length).toBeGreaterThan(16_384);
    expect((await train("wide", "second")).json).toMatchObject({ version: 2, active_version: 2 });
    const promoted = await promote("wide", 1, "back");
    expect(promoted.json).toMatchObject({ version: 1, active_version: 1 });
    await promote("wide", 2, "forth");
    for (const _ of [1, 2]) {
      for (const [answer, repeat] of [
        [first, () => train("wide", "first")],
        [promoted, () => promote("wide", 1, "back")],
      ] as const) {
        const replay = await repeat();
        expect([replay.status, replay.text]).toEqual([answer.status, answer.text]);
        expect(replay.headers.get("idempotent-replayed")).toBe("true");
      }
    }
    expect((await call("GET", "/v1/heads/wide", owner.key)).json).toMatchObject({ active_version: 2 });
    for (const key of ["first", "second", "back", "forth"]) expect(await storedBytes(key)).toBeLessThan(500);
  });

  test("is small, and kept as it is, where the head is", async () => {
    const small = { examples: examples.filter((_, i) => i % 100 < 2) };
    const first = await train("small", "small", small);
    expect(first.text.length).toBeLessThan(16_384);
    await call("DELETE", "/v1/heads/small", owner.key);
    expect((await train("small", "small", small)).text).toBe(first.text);
  });

  test("is 404 once the head was deleted, also where another has its name, and changes nothing", async () => {
    await train("gone", "gone");
    await call("DELETE", "/v1/heads/gone", owner.key);
    for (const _ of [1, 2]) expectError(await train("gone", "gone"), 404, "not_found");
    expect((await call("GET", "/v1/heads/gone", owner.key)).status).toBe(404);
    expect((await train("gone", "anew")).json).toMatchObject({ version: 1 });
    expectError(await train("gone", "gone"), 404, "not_found");
    expectError(await train("gone", "gone", { promote: false }), 422, "idempotency_key_reused", "Idempotency-Key");
  });

  test("is forgotten after a day, and the request runs again", async () => {
    await train("daily", "daily");
    await age(86_000);
    expect((await train("daily", "daily")).json).toMatchObject({ version: 1 });
    await age(400);
    const again = await train("daily", "daily");
    expect(again.json).toMatchObject({ version: 2 });
    expect(again.headers.get("idempotent-replayed")).toBeNull();
    expect((await train("daily", "daily")).text).toBe(again.text);
  });
});

test("a large answer to a change of a dataset is kept as its counts, and shows the dataset as it is", async () => {
  await call("POST", "/v1/datasets", owner.key, { name: "broad", task: "single_label", modality: "text" });
  const rows = Array.from({ length: 100 }, (_, i) => ({ text: `text ${i}`, label: `${i} ${"long ".repeat(40)}` }));
  await call("POST", "/v1/datasets/broad/examples", owner.key, { examples: rows });
  const deleteText = () =>
    call(
      "POST",
      "/v1/datasets/broad/examples/delete",
      owner.key,
      { contains: "text 99" },
      { "idempotency-key": "cut" },
    );
  const first = await deleteText();
  expect(first.json).toMatchObject({ object: "dataset.change", deleted: 1, dataset: { examples: 99 } });
  expect(first.text.length).toBeGreaterThan(16_384);
  expect((await deleteText()).text).toBe(first.text);
  expect(await storedBytes("cut")).toBeLessThan(500);
  await call("POST", "/v1/datasets/broad/examples/delete", owner.key, { contains: "text 98" });
  expect((await deleteText()).json).toMatchObject({ updated: 0, deleted: 1, dataset: { examples: 98, revision: 3 } });
  await call("DELETE", "/v1/datasets/broad", owner.key);
  for (const _ of [1, 2]) expectError(await deleteText(), 404, "not_found");
});

test("opposite changes of a tenant at once leave it as the last of them says, in both ledgers", async () => {
  const { id, key } = await newTenant();
  const change = (status: string) => call("PATCH", `/v1/admin/tenants/${id}`, env.ADMIN_KEY, { status });
  for (let round = 0; round < 5; round++) {
    await Promise.all(["suspended", "active", "suspended", "active", "suspended"].map(change));
    const { json } = await call("GET", `/v1/admin/tenants/${id}`, env.ADMIN_KEY);
    const isServed = (await call("GET", "/v1/datasets", key)).status === 200;
    expect(json.status).toBe(isServed ? "active" : "suspended");
  }
});
