/** The bytes of fine-tuned backbones: published, read, swept and erased; and the ledgers from before there were any. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { textStatic } from "../../src/backbones/workerd.ts";
import { sha256Hex } from "../../src/lib/hash.ts";
import { getBackbone } from "../../src/store/backbones.ts";
import { publishBytes, storeBytes } from "../../src/store/content-addressed.ts";
import { backboneKey } from "../../src/store/keys.ts";
import { findBackbone } from "../../src/tenant/heads/backbones.ts";
import { migrate, migrations } from "../../src/tenant/schema.ts";
import { runMaintenanceTask } from "../../src/tenant/tasks/maintenance.ts";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { call, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import { inLedger, listStoredKeys, mockBatchEndpoint } from "./fake-batch-endpoint.ts";
import { failingKv, wrapKv } from "./faulty-kv.ts";
import { embedWith, makeDelta, model, runFineTuning } from "./fine-tuned.ts";

const HOUR = 3_600_000;
const WAIT_OPTIONS = { timeout: 30_000, interval: 20 };
let owner: { id: string; key: string };
let seed = 100;

mockBatchEndpoint();
beforeEach(async () => {
  owner = await tenantWithTickets();
});

const listPublished = async (tenant: string) =>
  (await env.KV.list({ prefix: backboneKey(tenant, "") })).keys.map(({ name }) => name.slice(-64));
const predict = (head = "support") =>
  call("POST", `/v1/heads/${head}/predict`, owner.key, { input: "refund my invoice", top_k: 3 });
const loadBackbone = (bytes: Uint8Array, kv = env.KV, bucket = env.BUCKET, id = "ft:a:b") =>
  getBackbone(kv, bucket, owner.id, { id, revision: sha256Hex(bytes) }, (base, revision) =>
    base === model && revision === textStatic.revision ? textStatic : null,
  );

/** Runs the daily sweep as at a time. */
const runSweep = (now: number) =>
  inLedger(owner.id, (storage) => {
    const task = { id: 0, kind: "sweep", ref: "", attempts: 0 } as const;
    return runMaintenanceTask(
      { kv: env.KV, bucket: env.BUCKET, storage, tenant: owner.id, exclusive: (work) => work() },
      task,
      now,
    );
  });

describe("the layers of a finished job", () => {
  test("are in R2 under their hash, then in KV, and the attempt's own go", async () => {
    const delta = makeDelta(++seed);
    await runFineTuning(owner, delta);
    expect(await listStoredKeys(owner.id, "backbones/")).toEqual([sha256Hex(delta)]);
    await vi.waitUntil(async () => (await listPublished(owner.id)).length === 1, WAIT_OPTIONS);
    expect(await listPublished(owner.id)).toEqual([sha256Hex(delta)]);
    await vi.waitUntil(async () => (await listStoredKeys(owner.id, "jobs/")).length === 0, WAIT_OPTIONS);
  });

  test.each(["nothing", "other bytes"])("are read from R2 where KV has %s", async (what) => {
    const delta = makeDelta(++seed);
    await runFineTuning(owner, delta);
    await vi.waitUntil(async () => (await listPublished(owner.id)).length === 1, WAIT_OPTIONS);
    const key = backboneKey(owner.id, sha256Hex(delta));
    if (what === "nothing") await env.KV.delete(key);
    else await env.KV.put(key, makeDelta(++seed));
    expect((await predict()).status).toBe(200);
    const { json } = await call("GET", "/v1/models", owner.key);
    const input = ["where is my parcel"];
    const answer = await call("POST", "/v1/embeddings", owner.key, { model: json.data.at(-1).id, input });
    expect(answer.json.data[0].embedding).toEqual((await embedWith(delta, input))[0]);
  });

  test("serve two heads, each warm without any I/O", async () => {
    const { fine_tuned_model: backbone } = await runFineTuning(owner, makeDelta(++seed));
    await call("POST", "/v1/heads", owner.key, { name: "other", dataset: "tickets", backbone });
    for (const head of ["support", "other"]) expect((await predict(head)).status).toBe(200);
    // What is in memory is served while neither has anything.
    await env.BUCKET.delete((await env.BUCKET.list({ prefix: `tenants/${owner.id}/` })).objects.map(({ key }) => key));
    for (const { name } of (await env.KV.list({ prefix: `tenants/${owner.id}/` })).keys) await env.KV.delete(name);
    for (const head of ["support", "other"]) expect((await predict(head)).status).toBe(200);
  });
});

describe("a cold backbone", () => {
  const storeDelta = async (bytes: Uint8Array) => {
    await storeBytes(env.BUCKET, backboneKey(owner.id, sha256Hex(bytes)), bytes);
  };

  test("asked for many times at once is loaded once", async () => {
    const bytes = makeDelta(++seed);
    await storeDelta(bytes);
    await publishBytes(env.KV, env.BUCKET, backboneKey(owner.id, sha256Hex(bytes)));
    const { kv, operations } = wrapKv(env.KV);
    const loaded = await Promise.all(Array.from({ length: 20 }, () => loadBackbone(bytes, kv)));
    expect(operations.get).toBe(1);
    expect(new Set(loaded.map((result) => result.ok && result.value)).size).toBe(1);
    expect(loaded[0]).toMatchObject({ ok: true, value: { id: "ft:a:b", revision: sha256Hex(bytes) } });
    await loadBackbone(bytes, kv);
    expect(operations.get).toBe(1);
  });

  test("is read from R2 where KV fails, and a failure of both may be tried again", async () => {
    const bytes = makeDelta(++seed);
    const { kv } = failingKv(env.KV, "get");
    expect(await loadBackbone(bytes, kv)).toMatchObject({ failure: { code: "storage_unavailable", retryAfter: 5 } });
    await storeDelta(bytes);
    expect(await loadBackbone(bytes, kv)).toMatchObject({ ok: true });
  });

  test("whose load ended with its request does not hold up others for long", async () => {
    const bytes = makeDelta(++seed);
    await storeDelta(bytes);
    const hangingKv = { get: () => new Promise<never>(() => undefined) } as unknown as KVNamespace;
    void loadBackbone(bytes, hangingKv);
    expect(await loadBackbone(bytes)).toMatchObject({ ok: true });
  });

  test("of a shared one that this instance does not have is not available", async () => {
    const bytes = makeDelta(++seed, { base: { id: model, revision: "0" } });
    await storeDelta(bytes);
    expect(await loadBackbone(bytes)).toMatchObject({ failure: { code: "not_available" } });
  });

  test("is its tenant's own: another's key finds no bytes", async () => {
    const bytes = makeDelta(++seed);
    await storeDelta(bytes);
    expect(await loadBackbone(bytes)).toMatchObject({ ok: true });
    owner = await tenantWithTickets();
    expect(await loadBackbone(bytes)).toMatchObject({ failure: { code: "storage_unavailable" } });
  });
});

describe("what no row names", () => {
  test("the sweep removes from R2 and KV once it is old, and nothing else", async () => {
    const [delta, orphan] = [makeDelta(++seed), makeDelta(++seed)];
    await runFineTuning(owner, delta);
    await vi.waitUntil(async () => (await listPublished(owner.id)).length === 1, WAIT_OPTIONS);
    const key = backboneKey(owner.id, sha256Hex(orphan));
    await storeBytes(env.BUCKET, key, orphan);
    await runSweep(Date.now());
    expect(await listStoredKeys(owner.id, "backbones/"), "its job may not have ended").toHaveLength(2);
    await publishBytes(env.KV, env.BUCKET, key);
    for (const _ of [1, 2]) {
      await runSweep(Date.now() + HOUR + 2000);
      expect(await listStoredKeys(owner.id, "backbones/")).toEqual([sha256Hex(delta)]);
      expect(await listPublished(owner.id)).toEqual([sha256Hex(delta)]);
    }
    expect((await predict()).status).toBe(200);
  });

  test("goes with its tenant", async () => {
    await runFineTuning(owner, makeDelta(++seed));
    await vi.waitUntil(async () => (await listPublished(owner.id)).length === 1, WAIT_OPTIONS);
    expect((await call("DELETE", `/v1/admin/tenants/${owner.id}`, env.ADMIN_KEY)).status).toBe(202);
    await vi.waitUntil(async () => (await listStoredKeys(owner.id)).length === 0, WAIT_OPTIONS);
    await vi.waitUntil(async () => (await listPublished(owner.id)).length === 0, WAIT_OPTIONS);
    expectError(await call("GET", "/v1/models", owner.key), 401, "invalid_api_key");
  });
});

test("a ledger from before there were fine-tuned backbones gets those of its jobs that have succeeded", async () => {
  const stub = env.TENANT.get(env.TENANT.idFromName(`${owner.id}-before`));
  const introduction = migrations.findIndex((statements) => statements.includes("CREATE TABLE backbones"));
  await runInDurableObject(stub, (_: Tenant, storage) => {
    const { sql } = storage.storage;
    sql.exec(
      "CREATE TABLE ledger (one INTEGER PRIMARY KEY CHECK (one = 1), tenant TEXT NOT NULL, name TEXT, status TEXT NOT NULL, version INTEGER NOT NULL)",
    );
    sql.exec("INSERT INTO ledger VALUES (1, 'before', NULL, 'active', 0)");
    migrate(storage.storage, migrations.slice(0, introduction));
    const backbone = { id: model, revision: "7" };
    const jobs: [string, string, object][] = [
      ["ftjob-1", "succeeded", { backbone, suffix: null, dimensions: 256 }],
      ["ftjob-2", "succeeded", { backbone, suffix: "named", dimensions: 256 }],
      ["ftjob-3", "failed", { backbone, suffix: null, dimensions: 256 }],
      ["ftjob-4", "succeeded", { backbone: null, suffix: null, dimensions: 2 }],
    ];
    for (const [id, status, spec] of jobs)
      sql.exec(
        "INSERT INTO jobs (id, status, spec, state, created_at) VALUES (?, ?, ?, ?, 1)",
        ...[id, status, JSON.stringify(spec), JSON.stringify({ finishedAt: 5500 })],
      );
    migrate(storage.storage);
    expect(sql.exec<{ id: string }>("SELECT id FROM backbones ORDER BY number").toArray()).toEqual([
      { id: `ft:${model}:ftjob-1` },
      { id: `ft:${model}:named` },
    ]);
    expect(findBackbone(sql, `ft:${model}:named`)).toEqual({
      ok: true,
      value: {
        ...{ id: `ft:${model}:named`, revision: "7", base: model, base_revision: "7", job: "ftjob-2", sha256: null },
        ...{ bytes: 0, parameters: 0, dimensions: 256, created_at: 5 },
      },
    });
  });
});
