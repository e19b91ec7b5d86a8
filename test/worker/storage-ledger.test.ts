/** The ledger's migrations, and its records of idempotent requests. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, test } from "vitest";
import { Directory } from "../../src/tenant/directory.ts";
import * as idempotency from "../../src/tenant/idempotency.ts";
import { createLedger, migrate, readIdentity } from "../../src/tenant/schema.ts";
import { getLedger, type Tenant } from "../../src/tenant/tenant.ts";
import { newTenant } from "./api.ts";

let tenant = "";
beforeEach(async () => {
  tenant = (await newTenant()).id;
});

function inLedger<T>(work: (storage: DurableObjectStorage) => T | Promise<T>): Promise<T> {
  const stub = env.TENANT.get(env.TENANT.idFromName(tenant));
  return runInDurableObject(stub, (_: Tenant, state) => work(state.storage));
}

describe("migrations", () => {
  const tables = (sql: SqlStorage) =>
    sql
      .exec<{ sql: string }>(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '\\_cf%' ESCAPE '\\' ORDER BY name",
      )
      .toArray()
      .map((row) => row.sql);

  test("bring a ledger that stopped at any version to the newest, and run once", async () => {
    const newestSchema = await inLedger(({ sql }) => ({ tables: tables(sql), version: readIdentity(sql)?.version }));
    const oldStub = env.TENANT.get(env.TENANT.idFromName(`${tenant}-old`));
    await runInDurableObject(oldStub, (_: Tenant, { storage }) => {
      storage.sql.exec(
        "CREATE TABLE ledger (one INTEGER PRIMARY KEY CHECK (one = 1), tenant TEXT NOT NULL, name TEXT, status TEXT NOT NULL, version INTEGER NOT NULL)",
      );
      storage.sql.exec("INSERT INTO ledger VALUES (1, ?, NULL, 'active', 0)", `${tenant}-old`);
      for (const _ of [1, 2]) {
        migrate(storage);
        expect(tables(storage.sql).map(collapseWhitespace)).toEqual(newestSchema.tables.map(collapseWhitespace));
        expect(readIdentity(storage.sql)?.version).toBe(newestSchema.version);
      }
      createLedger(storage, `${tenant}-old`, "another");
      expect(readIdentity(storage.sql)).toMatchObject({ name: "another", version: newestSchema.version });
    });
  });

  test("are applied one by one from where the ledger stands, each whole or not at all", async () => {
    await inLedger((storage) => {
      const version = readIdentity(storage.sql)?.version ?? 0;
      const earlierSchema = Array.from({ length: version }, () => "CREATE TABLE never (a)");
      const good = "CREATE TABLE extra (a); INSERT INTO extra VALUES (1)";
      const bad = "UPDATE extra SET a = 2; INSERT INTO nowhere VALUES (1)";
      expect(() => migrate(storage, [...earlierSchema, good, bad])).toThrow("nowhere");
      expect(storage.sql.exec("SELECT a FROM extra").one()).toEqual({ a: 1 });
      expect(readIdentity(storage.sql)?.version).toBe(version + 1);
      migrate(storage, [...earlierSchema, good, "UPDATE extra SET a = a + 1"]);
      migrate(storage, [...earlierSchema, good, "UPDATE extra SET a = a + 1"]);
      expect(storage.sql.exec("SELECT a FROM extra").one()).toEqual({ a: 2 });
      migrate(storage);
      expect(readIdentity(storage.sql)?.version, "an older Worker leaves a newer ledger alone").toBe(version + 2);
    });
  });
});

test("a directory that was made earlier gets what its tables lack", async () => {
  const stub = env.DIRECTORY.get(env.DIRECTORY.idFromName("earlier"));
  await runInDurableObject(stub, async (_: Directory, state) => {
    const { sql } = state.storage;
    sql.exec(
      "DROP TABLE idempotency; CREATE TABLE idempotency (key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER, body TEXT, started_at INTEGER NOT NULL)",
    );
    sql.exec("INSERT INTO idempotency VALUES ('key', 'request', 201, '{}', ?)", Math.floor(Date.now() / 1000));
    for (const claim of ["first", "second"]) {
      const directory = new Directory(state, env);
      expect(await directory.claimIdempotencyKey({ key: claim, requestHash: "another", claim })).toMatchObject({
        value: null,
      });
      expect(await directory.claimIdempotencyKey({ key: "key", requestHash: "request", claim })).toMatchObject({
        value: { status: 201 },
      });
    }
  });
});

function collapseWhitespace(text: string): string {
  return text.replace(/\s+/g, " ").replaceAll("IF NOT EXISTS ", "");
}

describe("records of idempotent requests", () => {
  const first = { key: "key", requestHash: "hash of the request", claim: "first" };
  const answer = { status: 201, body: { id: "x" } };
  const start = 1_000_000_000;
  const second = 1000;
  const day = 86_400 * second;

  test("run once, then replay", async () => {
    await inLedger(({ sql }) => {
      expect(idempotency.claimKey(sql, first, start)).toEqual({ ok: true, value: null });
      expect(idempotency.claimKey(sql, first, start + second)).toMatchObject({
        failure: { code: "request_in_progress" },
      });
      idempotency.saveResponse(sql, first.claim, answer);
      expect(idempotency.claimKey(sql, first, start + 2 * second)).toEqual({ ok: true, value: answer });
      idempotency.releaseKey(sql, first.claim);
      expect(idempotency.claimKey(sql, first, start + 3 * second), "an answer is not released").toEqual({
        ok: true,
        value: answer,
      });
    });
  });

  test("refuse another request under the same key, running or answered", async () => {
    await inLedger(({ sql }) => {
      const other = { ...first, requestHash: "another", claim: "other" };
      idempotency.claimKey(sql, first, start);
      expect(idempotency.claimKey(sql, other, start)).toMatchObject({ failure: { code: "idempotency_key_reused" } });
      idempotency.saveResponse(sql, first.claim, answer);
      expect(idempotency.claimKey(sql, other, start)).toMatchObject({ failure: { code: "idempotency_key_reused" } });
    });
  });

  test("give the key free when the request failed", async () => {
    await inLedger(({ sql }) => {
      idempotency.claimKey(sql, first, start);
      idempotency.releaseKey(sql, first.claim);
      expect(idempotency.claimKey(sql, { ...first, requestHash: "another" }, start)).toEqual({ ok: true, value: null });
    });
  });

  test("finish or release without a beginning changes nothing", async () => {
    await inLedger(({ sql }) => {
      expect(idempotency.saveResponse(sql, first.claim, answer)).toMatchObject({
        failure: { code: "request_in_progress" },
      });
      expect(idempotency.saveResponse(sql, null, answer)).toMatchObject({ ok: true });
      idempotency.releaseKey(sql, first.claim);
      expect(sql.exec("SELECT * FROM idempotency").toArray()).toEqual([]);
    });
  });

  test("of a request that came back from the dead leave the key to the one that took it over", async () => {
    const remote = getLedger(env.TENANT, tenant);
    const shape = { task: "single_label", modality: "text", dimensions: null, out_of_scope_label: null } as const;
    const successor = { ...first, claim: "second" };
    await inLedger(({ sql }) => {
      const long = Date.now() - 600 * 1000;
      expect(idempotency.claimKey(sql, first, long)).toEqual({ ok: true, value: null });
    });
    expect(await remote.claimIdempotencyKey(successor)).toEqual({ ok: true, value: null });
    const lateCreation = await remote.createDataset(first.claim, { name: "late", ...shape });
    expect(lateCreation).toMatchObject({ ok: false, failure: { code: "request_in_progress", retryAfter: 5 } });
    expect(await remote.findDataset("late"), "what it changed is undone").toMatchObject({ ok: false });
    await remote.releaseIdempotencyKey(first.claim);
    expect(await remote.claimIdempotencyKey({ ...first, claim: "third" })).toMatchObject({ ok: false });
    expect(await remote.createDataset(successor.claim, { name: "once", ...shape })).toMatchObject({ ok: true });
    expect(await remote.createDataset(first.claim, { name: "late", ...shape })).toMatchObject({ ok: false });
    expect(await remote.claimIdempotencyKey(first)).toMatchObject({ value: { status: 201, body: { id: "once" } } });
  });

  test("count a request as dead after ten minutes, and forget an answer after a day", async () => {
    await inLedger(({ sql }) => {
      idempotency.claimKey(sql, first, start);
      expect(idempotency.claimKey(sql, first, start + 599 * second)).toMatchObject({
        failure: { code: "request_in_progress" },
      });
      expect(idempotency.claimKey(sql, first, start + 600 * second)).toEqual({ ok: true, value: null });
      idempotency.saveResponse(sql, first.claim, answer);
      expect(idempotency.claimKey(sql, first, start + 600 * second + day - 1)).toEqual({ ok: true, value: answer });
      expect(idempotency.claimKey(sql, first, start + 600 * second + day)).toEqual({ ok: true, value: null });
      idempotency.saveResponse(sql, first.claim, answer);
      expect(idempotency.deleteExpiredResponses(sql, start + 600 * second + 2 * day - 1)).toBe(1);
      expect(idempotency.deleteExpiredResponses(sql, start + 600 * second + 2 * day)).toBe(0);
    });
  });

  test("are written with the change they tell of, or not at all", async () => {
    const remote = getLedger(env.TENANT, tenant);
    await remote.claimIdempotencyKey(first);
    const shape = { task: "single_label", modality: "text", dimensions: null, out_of_scope_label: null } as const;
    await remote.createDataset(null, { name: "taken", ...shape });
    expect(await remote.createDataset(first.claim, { name: "taken", ...shape })).toMatchObject({ ok: false });
    expect(await remote.claimIdempotencyKey(first)).toMatchObject({ failure: { code: "request_in_progress" } });
    await remote.createDataset(first.claim, { name: "free", ...shape });
    await remote.releaseIdempotencyKey(first.claim);
    expect(await remote.claimIdempotencyKey(first)).toMatchObject({
      ok: true,
      value: { status: 201, body: { id: "free" } },
    });
  });
});
