/** The table of what is due later, and its alarm. */
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { encodeHead } from "../../src/core/codec.ts";
import { sha256Hex } from "../../src/lib/hash.ts";
import { publishBytes, storeBytes } from "../../src/store/content-addressed.ts";
import { backboneKey, blockKey, blocksPrefix, headKey } from "../../src/store/keys.ts";
import { isBlockReferenced } from "../../src/tenant/data/blocks.ts";
import type { Directory } from "../../src/tenant/directory.ts";
import type { NewHead } from "../../src/tenant/heads/heads.ts";
import { readIdentity } from "../../src/tenant/schema.ts";
import { eraseTenantBytes, runMaintenanceTask, type TenantStorage } from "../../src/tenant/tasks/maintenance.ts";
import {
  MAX_DELETES_PER_RUN,
  runDueTasks,
  type ScheduledTask,
  schedule,
  setNextAlarm,
  type TaskKind,
} from "../../src/tenant/tasks/tasks.ts";
import { getLedger, type Ledger, type Tenant } from "../../src/tenant/tenant.ts";
import { linearHead } from "../contract/linear-head.ts";
import { call, newTenant } from "./api.ts";
import { failingKv, rateLimitedKv } from "./faulty-kv.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const WAIT_OPTIONS = { timeout: 30_000, interval: 20 };
let tenant = "";
let stub: DurableObjectStub<Tenant>;
/** The same ledger as the Worker calls it. */
let remote: Ledger;

beforeEach(async () => {
  tenant = (await newTenant()).id;
  stub = env.TENANT.get(env.TENANT.idFromName(tenant));
  remote = getLedger(env.TENANT, tenant);
});
afterEach(() => vi.restoreAllMocks());

function inLedger<T>(work: (storage: DurableObjectStorage, instance: Tenant) => T | Promise<T>): Promise<T> {
  return runInDurableObject(stub, (instance: Tenant, state) => work(state.storage, instance));
}

function listTasks(storage: DurableObjectStorage) {
  return storage.sql
    .exec<{ kind: string; ref: string; run_at: number; attempts: number }>(
      "SELECT kind, ref, run_at, attempts FROM due WHERE kind <> 'sweep' ORDER BY id",
    )
    .toArray();
}

/** A tenant's storage, with nothing else under way. */
function tenantStorage(storage: DurableObjectStorage, kv = env.KV): TenantStorage {
  return { kv, bucket: env.BUCKET, storage, tenant, exclusive: (work) => work() };
}

/** Runs one kind of work as the alarm does, against the given KV. */
function runTask(kind: TaskKind, ref: string, now = Date.now(), kv = env.KV): Promise<number | null> {
  const task: ScheduledTask = { id: 0, kind, ref, attempts: 0 };
  return inLedger((storage) => runMaintenanceTask(tenantStorage(storage, kv), task, now));
}

/** What a tenant has in KV and R2. */
async function listStored() {
  const prefix = `tenants/${tenant}/`;
  const [kv, r2] = await Promise.all([env.KV.list({ prefix }), env.BUCKET.list({ prefix })]);
  return { kv: kv.keys.map(({ name }) => name), r2: r2.objects.map(({ key }) => key) };
}

let seed = 0;
async function storeTrainedHead(name = "support") {
  const bytes = encodeHead(
    linearHead({
      task: "regression",
      labels: [],
      dimensions: 2,
      weights: Float32Array.of(seed++, 2),
      bias: Float32Array.of(3),
    }),
  );
  const sha256 = sha256Hex(bytes);
  await storeBytes(env.BUCKET, headKey(tenant, sha256), bytes);
  const training = { method: "head", examples: 1, iterations: 1, converged: true, objective: 0, l2: 1 } as const;
  const record: NewHead = {
    id: name,
    task: "regression",
    modality: "embedding",
    labels: [],
    dimensions: 2,
    backbone: { id: "embedding", revision: "1" },
    dataset: { name: null, revision: null, examples: 1 },
    training: { ...training, temperature: 1, milliseconds: 1 },
    evaluation: null,
    sha256,
    bytes: bytes.length,
  };
  return { record, sha256, bytes };
}

async function commitHead(record: NewHead): Promise<void> {
  const result = await remote.commitHead(null, record, true);
  if (!result.ok) throw new Error(result.failure.message);
}

describe("each kind of work, run twice, has the effect of once", () => {
  test("publish_head", async () => {
    const { record, sha256 } = await storeTrainedHead();
    await commitHead(record);
    for (const _ of [1, 2]) {
      expect(await runTask("publish_head", sha256)).toBeNull();
      expect(await listStored()).toEqual({ kv: [headKey(tenant, sha256)], r2: [headKey(tenant, sha256)] });
    }
  });

  test("publish_head of a head that was deleted meanwhile publishes nothing", async () => {
    const { sha256 } = await storeTrainedHead();
    expect(await runTask("publish_head", sha256)).toBeNull();
    expect((await listStored()).kv).toEqual([]);
  });

  test("delete_bytes", async () => {
    const { sha256 } = await storeTrainedHead();
    await publishBytes(env.KV, env.BUCKET, headKey(tenant, sha256));
    for (const _ of [1, 2]) {
      expect(await runTask("delete_bytes", sha256)).toBeNull();
      expect(await listStored()).toEqual({ kv: [], r2: [] });
    }
  });

  test("delete_bytes leaves what another version has", async () => {
    const { record, sha256 } = await storeTrainedHead("a");
    await commitHead(record);
    await commitHead({ ...record, id: "b" });
    await remote.deleteHead("a");
    await runDurableObjectAlarm(stub);
    await runTask("delete_bytes", sha256);
    expect((await listStored()).r2).toEqual([headKey(tenant, sha256)]);
    await remote.deleteHead("b");
    await runDurableObjectAlarm(stub);
    expect(await listStored()).toEqual({ kv: [], r2: [] });
  });

  test("publish_backbone and delete_backbone, of one that no row names", async () => {
    const { bytes } = await storeTrainedHead();
    await env.BUCKET.delete(headKey(tenant, sha256Hex(bytes)));
    const key = backboneKey(tenant, sha256Hex(bytes));
    await storeBytes(env.BUCKET, key, bytes);
    for (const _ of [1, 2]) {
      expect(await runTask("publish_backbone", sha256Hex(bytes))).toBeNull();
      expect(await listStored()).toEqual({ kv: [], r2: [key] });
    }
    await publishBytes(env.KV, env.BUCKET, key);
    for (const _ of [1, 2]) {
      expect(await runTask("delete_backbone", sha256Hex(bytes))).toBeNull();
      expect(await listStored()).toEqual({ kv: [], r2: [] });
    }
  });

  test("delete_block", async () => {
    const key = blockKey(tenant, 7, "b@1", 0, "digest");
    await env.KV.put(key, "bytes");
    for (const _ of [1, 2]) {
      expect(await runTask("delete_block", key)).toBeNull();
      expect((await listStored()).kv).toEqual([]);
    }
  });

  test("delete_block leaves a block that came back into use", async () => {
    const dataset = await newDataset();
    const key = blockKey(tenant, dataset, "b@1", 0, "digest");
    await env.KV.put(key, "bytes");
    await remote.recordBlocks(dataset, "b@1", new Map([[0, { key, hashes: new Uint8Array() }]]));
    await runTask("delete_block", key);
    expect((await listStored()).kv).toEqual([key]);
  });

  test("delete_blocks", async () => {
    const keys = Array.from({ length: MAX_DELETES_PER_RUN + 10 }, (_, i) => blockKey(tenant, 7, "b@1", i, "digest"));
    await Promise.all(keys.map((key) => env.KV.put(key, "bytes")));
    const otherDatasetBlock = blockKey(tenant, 77, "b@1", 0, "digest");
    await env.KV.put(otherDatasetBlock, "bytes");
    const now = Date.now();
    expect(await runTask("delete_blocks", "7", now), "the rest follows at once").toBe(now);
    for (const _ of [1, 2]) {
      expect(await runTask("delete_blocks", "7", now)).toBeNull();
      expect((await listStored()).kv).toEqual([otherDatasetBlock]);
    }
  });

  test("delete_blocks waits where the listing still shows what is deleted", async () => {
    const keys = Array.from({ length: MAX_DELETES_PER_RUN + 10 }, (_, i) => blockKey(tenant, 7, "b@1", i, "digest"));
    await Promise.all(keys.map((key) => env.KV.put(key, "bytes")));
    const before = await env.KV.list({ prefix: blocksPrefix(tenant, 7) });
    const list = async ({ limit = 1000 }: KVNamespaceListOptions = {}) => ({
      ...before,
      keys: before.keys.slice(0, limit),
      list_complete: before.keys.length <= limit,
    });
    const lagging = { list, delete: (key: string) => env.KV.delete(key) } as unknown as KVNamespace;
    const now = Date.now();
    expect(await runTask("delete_blocks", "7", now, lagging)).toBe(now + MINUTE);
    expect(await runTask("delete_blocks", "7", now + MINUTE)).toBeNull();
    expect((await listStored()).kv).toEqual([]);
  });

  test("expire_import", async () => {
    await newDataset("texts");
    await remote.beginImport("texts", "import_1");
    const staged = { line: 1, id: null, input: "a", target: '"x"' };
    const hash = new Uint8Array(16);
    await remote.stageRows("import_1", [{ ...staged, inputHash: hash, groupHash: hash, contentHash: hash }]);
    const count = (table: string) =>
      inLedger(({ sql }) => sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n);
    expect(await count("staged")).toBe(1);
    for (const _ of [1, 2]) {
      expect(await runTask("expire_import", "import_1")).toBeNull();
      expect([await count("staged"), await count("imports")]).toEqual([0, 0]);
    }
    expect(await remote.mergeImport("import_1")).toMatchObject({ ok: false, failure: { code: "not_found" } });
  });

  test("expire_answers", async () => {
    await remote.claimIdempotencyKey({ key: "k", requestHash: "r", claim: "c" });
    const now = Date.now();
    for (const _ of [1, 2]) expect(await runTask("expire_answers", "", now)).toBe(now + DAY);
    for (const _ of [1, 2]) expect(await runTask("expire_answers", "", now + DAY + 1000)).toBeNull();
  });

  test("sweep", async () => {
    const activeHead = await storeTrainedHead("kept");
    await commitHead(activeHead.record);
    await publishBytes(env.KV, env.BUCKET, headKey(tenant, activeHead.sha256));
    const orphan = await storeTrainedHead("orphan");
    await publishBytes(env.KV, env.BUCKET, headKey(tenant, orphan.sha256));
    const dataset = await newDataset();
    const block = blockKey(tenant, dataset, "b@1", 0, "kept");
    await remote.recordBlocks(dataset, "b@1", new Map([[0, { key: block, hashes: new Uint8Array() }]]));
    const orphanBlock = blockKey(tenant, dataset, "b@1", 1, "orphan");
    const expirationTtl = 60 * 24 * 3600;
    for (const key of [block, orphanBlock]) await env.KV.put(key, "bytes", { expirationTtl });

    const now = Date.now();
    expect(await runTask("sweep", "", now)).toBe(now + DAY);
    const earlyKeys = await listStored();
    expect(earlyKeys.r2, "bytes whose training may not have ended yet stay").toContain(headKey(tenant, orphan.sha256));
    expect(earlyKeys.kv).toContain(orphanBlock);
    for (const _ of [1, 2]) {
      expect(await runTask("sweep", "", now + HOUR + 2000)).toBe(now + HOUR + 2000 + DAY);
      const lateKeys = await listStored();
      expect(lateKeys.r2).toEqual([headKey(tenant, activeHead.sha256)]);
      expect(lateKeys.kv.sort()).toEqual([block, headKey(tenant, activeHead.sha256)].sort());
    }
  });

  test("a sweep finds a block by its key, without reading the others", async () => {
    const dataset = await newDataset();
    const keys = Array.from({ length: 500 }, (_, i) => blockKey(tenant, dataset, "b@1", i, "digest"));
    await remote.recordBlocks(
      dataset,
      "b@1",
      new Map(keys.map((key, block) => [block, { key, hashes: new Uint8Array() }])),
    );
    await inLedger(({ sql }) => {
      let read = 0;
      const exec = (query: string, ...bindings: SqlStorageValue[]) => {
        const cursor = sql.exec(query, ...bindings);
        const rowsRead = cursor.toArray();
        read += cursor.rowsRead;
        return { toArray: () => rowsRead };
      };
      const countingSql = { exec } as unknown as SqlStorage;
      expect([...keys.slice(-1), "orphan"].map((key) => isBlockReferenced(countingSql, key))).toEqual([true, false]);
      expect(read).toBeLessThan(10);
    });
  });

  test("a sweep that has more to delete than one run may goes on when the listing shows what is gone", async () => {
    await Promise.all(
      Array.from({ length: MAX_DELETES_PER_RUN + 10 }, (_, i) => env.KV.put(headKey(tenant, `orphan-${i}`), "bytes")),
    );
    const now = Date.now();
    expect(await runTask("sweep", "", now)).toBe(now + MINUTE);
    expect(await runTask("sweep", "", now)).toBe(now + DAY);
    expect((await listStored()).kv).toEqual([]);
  });
});

async function newDataset(name = `d${++seed}`): Promise<number> {
  const shape = { task: "single_label", modality: "text", dimensions: null, out_of_scope_label: null } as const;
  await remote.createDataset(null, { name, ...shape });
  const row = await remote.findDataset(name);
  if (!row.ok) throw new Error(row.failure.message);
  return row.value.id;
}

describe("bytes that are deleted while an equal head is trained", () => {
  test("are never those of a version: the commit is refused, and training again stores them anew", async () => {
    const { record, sha256, bytes } = await storeTrainedHead();
    await runTask("delete_bytes", sha256);
    expect(await remote.commitHead(null, record, true)).toMatchObject({
      ok: false,
      failure: { code: "storage_unavailable", retryAfter: 1 },
    });
    expect(await remote.getHead("support", null)).toMatchObject({ ok: false });
    await storeBytes(env.BUCKET, headKey(tenant, sha256), bytes);
    await commitHead(record);
    await runTask("delete_bytes", sha256);
    expect((await listStored()).r2).toEqual([headKey(tenant, sha256)]);
  });

  test("whichever of the two comes first", async () => {
    for (let i = 0; i < 10; i++) {
      const { record, sha256 } = await storeTrainedHead();
      await commitHead(record);
      await remote.deleteHead("support");
      const [, committed] = await Promise.all([runDurableObjectAlarm(stub), remote.commitHead(null, record, true)]);
      const isStored = (await env.BUCKET.head(headKey(tenant, sha256))) !== null;
      expect(isStored).toBe(committed.ok);
      if (committed.ok) await remote.deleteHead("support");
    }
  });
});

describe("the table", () => {
  const done = async () => null;
  const ignore = () => undefined;

  test("holds the same work once, at its earliest time", async () => {
    await inLedger((storage) => {
      for (const runAt of [300, 100, 200]) schedule(storage.sql, "delete_block", "x", runAt);
      expect(listTasks(storage)).toEqual([{ kind: "delete_block", ref: "x", run_at: 100, attempts: 0 }]);
    });
  });

  test("retries what fails further and further apart, up to an hour", async () => {
    await inLedger(async (storage) => {
      schedule(storage.sql, "delete_block", "x", 0);
      const failed: unknown[] = [];
      const delays: number[] = [];
      let now = 1000;
      for (let i = 0; i < 10; i++) {
        await runDueTasks(storage, now, {
          run: () => Promise.reject(new Error("KV is down")),
          onError: (task) => failed.push(task.attempts),
        });
        const nextRun = listTasks(storage)[0]?.run_at ?? 0;
        delays.push(nextRun - now);
        now = nextRun;
      }
      expect(delays).toEqual([1, 4, 16, 64, 256, 1024, 3600, 3600, 3600, 3600].map((seconds) => seconds * 1000));
      expect(failed).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
      await runDueTasks(storage, now, { run: done, onError: ignore });
      expect(listTasks(storage)).toEqual([]);
    });
  });

  test("runs the one good item behind 150 that fail, and behind 50 that fail each time", async () => {
    await inLedger(async (storage) => {
      for (let i = 0; i < 150; i++) schedule(storage.sql, "delete_block", `bad ${i}`, i);
      schedule(storage.sql, "delete_block", "good", 1000);
      const ran: string[] = [];
      const run = async ({ ref }: ScheduledTask) => {
        ran.push(ref);
        if (ref.startsWith("bad")) throw new Error("fails");
        return null;
      };
      for (let drainCount = 0; drainCount < 4; drainCount++) await runDueTasks(storage, 2000, { run, onError: ignore });
      expect(ran.filter((ref) => ref === "good")).toHaveLength(1);
      expect(listTasks(storage)).toHaveLength(150);
      expect(listTasks(storage).every(({ attempts, run_at }) => attempts === 1 && run_at === 3000)).toBe(true);
    });
  });

  test("runs in one alarm no more than the platform's operations allow, and the rest in the next", async () => {
    await inLedger(async (storage) => {
      for (let i = 0; i < 5; i++) schedule(storage.sql, "delete_blocks", String(i), i);
      schedule(storage.sql, "sweep", "", 5);
      schedule(storage.sql, "delete_block", "x", 6);
      const alarms: number[] = [];
      while (storage.sql.exec("SELECT 1 FROM due WHERE run_at < 1000").toArray().length > 0) {
        let ran = 0;
        await runDueTasks(storage, 1000, {
          async run() {
            ran++;
            return null;
          },
          onError: ignore,
        });
        alarms.push(ran);
      }
      expect(alarms).toEqual([2, 2, 3]);
    });
  });

  test("puts off work that takes the isolate down with it", async () => {
    await inLedger(async (storage) => {
      schedule(storage.sql, "delete_block", "deadly", 0);
      schedule(storage.sql, "delete_block", "good", 1);
      // A promise that never settles stands for an isolate that is gone.
      void runDueTasks(storage, 1000, { run: () => new Promise<never>(() => undefined), onError: ignore });
      await scheduler.wait(5);
      const ran: string[] = [];
      const run = async ({ ref }: ScheduledTask) => {
        ran.push(ref);
        return null;
      };
      await runDueTasks(storage, 1500, { run, onError: ignore });
      expect(ran).toEqual(["good"]);
      await runDueTasks(storage, 2500, { run, onError: ignore });
      expect(ran).toEqual(["good", "deadly"]);
    });
  });

  test("keeps work that is asked for again while it runs", async () => {
    await inLedger(async (storage) => {
      schedule(storage.sql, "delete_block", "x", 1000);
      let runCount = 0;
      const run = async () => {
        if (++runCount === 1) schedule(storage.sql, "delete_block", "x", 1000);
        return null;
      };
      await runDueTasks(storage, 1000, { run, onError: ignore });
      expect(listTasks(storage)).toHaveLength(1);
      await runDueTasks(storage, 2000, { run, onError: ignore });
      expect([runCount, listTasks(storage)]).toEqual([2, []]);
    });
  });

  test("keeps work that names its next time, its failures forgotten", async () => {
    await inLedger(async (storage) => {
      schedule(storage.sql, "delete_block", "x", 0);
      await runDueTasks(storage, 1000, { run: () => Promise.reject(new Error("once")), onError: ignore });
      await runDueTasks(storage, 2000, { run: async () => 9000, onError: ignore });
      expect(listTasks(storage)).toEqual([{ kind: "delete_block", ref: "x", run_at: 9000, attempts: 0 }]);
    });
  });

  test("has nothing of a transaction that was rolled back", async () => {
    await inLedger(async (storage) => {
      const before = await storage.getAlarm();
      expect(() =>
        storage.transactionSync(() => {
          schedule(storage.sql, "delete_block", "x", 0);
          throw new Error("refused");
        }),
      ).toThrow("refused");
      await setNextAlarm(storage);
      expect(listTasks(storage)).toEqual([]);
      expect(await storage.getAlarm()).toBe(before);
    });
    expect(await remote.deleteDataset("no such data set")).toMatchObject({ ok: false });
    expect(await inLedger(listTasks)).toEqual([]);
  });
});

describe("the alarm", () => {
  test("is set with the work, and set again for what remains", async () => {
    const runAt = Date.now() + HOUR;
    await inLedger(async (storage) => {
      schedule(storage.sql, "delete_block", "later", runAt);
      await setNextAlarm(storage);
      expect(await storage.getAlarm()).toBe(runAt);
      schedule(storage.sql, "delete_block", "now", 1);
      await setNextAlarm(storage);
    });
    await runDurableObjectAlarm(stub);
    await inLedger(async (storage) => {
      expect(listTasks(storage).map(({ ref }) => ref)).toEqual(["later"]);
      expect(await storage.getAlarm()).toBe(runAt);
    });
  });

  test("goes on past an item that throws, reports it without inputs, and comes back for it", async () => {
    const consoleError = vi.spyOn(console, "error").mockImplementation(() => undefined);
    const { record, sha256 } = await storeTrainedHead();
    await commitHead(record);
    // The ledger's own alarm runs here as well.
    await vi.waitUntil(async () => (await inLedger(listTasks)).length === 0, WAIT_OPTIONS);
    await env.KV.delete(headKey(tenant, sha256));
    await inLedger(async (storage, instance) => {
      schedule(storage.sql, "publish_head", sha256, 5);
      schedule(storage.sql, "kind of a newer Worker" as TaskKind, "x", 1);
      schedule(storage.sql, "delete_blocks", "1", 2);
      // A block whose name KV refuses.
      schedule(storage.sql, "delete_block", "k".repeat(600), 3);
      await instance.alarm();
      expect(listTasks(storage).map(({ kind, attempts }) => [kind, attempts])).toEqual([
        ["kind of a newer Worker", 1],
        ["delete_block", 1],
      ]);
      expect(await storage.getAlarm()).toBe(listTasks(storage)[0]?.run_at);
    });
    expect((await listStored()).kv).toEqual([headKey(tenant, sha256)]);
    expect(consoleError).toHaveBeenCalledTimes(2);
    expect(JSON.parse(String(consoleError.mock.calls[0]?.[0]))).toMatchObject({
      event: "task_failed",
      tenant,
      attempts: 0,
    });
  });

  test("publishes at last where KV fails or limits the rate for a while", async () => {
    const { record, sha256 } = await storeTrainedHead();
    await commitHead(record);
    let now = Date.now() + 1000;
    for (const kv of [failingKv(env.KV, "put").kv, rateLimitedKv(env.KV, () => now).kv]) {
      await inLedger((storage) =>
        runDueTasks(storage, now, {
          run: (task) => runMaintenanceTask(tenantStorage(storage, kv), task, now),
          onError: () => undefined,
        }),
      );
      now += 10_000;
    }
    expect((await listStored()).kv).toEqual([headKey(tenant, sha256)]);
    expect(await inLedger(listTasks)).toEqual([]);
  });

  test("work on bytes throws where KV fails, so that it is retried, and is whole once KV works", async () => {
    const { sha256 } = await storeTrainedHead();
    await publishBytes(env.KV, env.BUCKET, headKey(tenant, sha256));
    const block = blockKey(tenant, 7, "b@1", 0, "digest");
    await env.KV.put(block, "bytes");
    const work = [
      ["delete_bytes", sha256, "delete"],
      ["delete_block", block, "delete"],
      ["delete_blocks", "7", "list"],
      ["delete_blocks", "7", "delete"],
      ["sweep", "", "list"],
      ["sweep", "", "delete"],
    ] as const;
    const later = Date.now() + 2 * HOUR;
    for (const [kind, ref, fails] of work)
      await expect(runTask(kind, ref, later, failingKv(env.KV, fails).kv), kind).rejects.toThrow("KV");
    for (const fails of ["list", "delete"] as const)
      await expect(eraseTenantBytes(failingKv(env.KV, fails).kv, env.BUCKET, tenant, later)).rejects.toThrow("KV");
    expect((await listStored()).kv.sort()).toEqual([block, headKey(tenant, sha256)].sort());
    expect(await eraseTenantBytes(env.KV, env.BUCKET, tenant, later)).toBeNull();
    expect(await listStored()).toEqual({ kv: [], r2: [] });
  });

  test("of an erased ledger does nothing, and brings nothing back", async () => {
    const { record } = await storeTrainedHead();
    await commitHead(record);
    while ((await remote.erase(tenant)) !== null);
    await inLedger(async (storage, instance) => {
      await instance.alarm();
      expect(await storage.getAlarm()).toBeNull();
      expect(readIdentity(storage.sql)).toBeNull();
    });
    expect(await listStored()).toEqual({ kv: [], r2: [] });
    expect(await remote.commitHead(null, record, true)).toMatchObject({ ok: false, failure: { code: "not_found" } });
    expect(await runDurableObjectAlarm(stub)).toBe(false);
  });

  test("of a ledger that is being deleted leaves the rest to the deletion", async () => {
    const key = blockKey(tenant, 7, "b@1", 0, "digest");
    await env.KV.put(key, "bytes");
    await remote.beginDeletion();
    await inLedger(async (storage, instance) => {
      schedule(storage.sql, "delete_block", key, 0);
      await instance.alarm();
      expect(listTasks(storage)).toHaveLength(1);
    });
    expect((await listStored()).kv).toEqual([key]);
  });

  test("of the directory looks once more for what was written behind a deletion", async () => {
    const directory = env.DIRECTORY.get(env.DIRECTORY.idFromName("directory"));
    const inDirectory = <T>(work: (sql: SqlStorage, storage: DurableObjectStorage) => T | Promise<T>) =>
      runInDurableObject(directory, (_: Directory, { storage }) => work(storage.sql, storage));
    const erasure = () =>
      inDirectory((sql) =>
        sql
          .exec<{ status: string; at: number | null }>(
            "SELECT status, erase_at AS at FROM tenants WHERE id = ?",
            tenant,
          )
          .one(),
      );
    const { record } = await storeTrainedHead();
    await commitHead(record);
    expect((await call("DELETE", `/v1/admin/tenants/${tenant}`, env.ADMIN_KEY)).status).toBe(202);
    await vi.waitUntil(async () => (await erasure()).status === "deleted", WAIT_OPTIONS);
    expect(await listStored()).toEqual({ kv: [], r2: [] });
    expect((await erasure()).at).toBeGreaterThan(Date.now() + HOUR / 2);

    const lateHead = await storeTrainedHead();
    await publishBytes(env.KV, env.BUCKET, headKey(tenant, lateHead.sha256));
    await inDirectory(async (sql, storage) => {
      sql.exec("UPDATE tenants SET erase_at = ? WHERE id = ?", Date.now(), tenant);
      await storage.setAlarm(Date.now());
    });
    await vi.waitUntil(async () => (await erasure()).at === null, WAIT_OPTIONS);
    expect(await listStored()).toEqual({ kv: [], r2: [] });
  });
});
