/// <reference types="vite/types/importMeta.d.ts" />
/** What STORAGE.md says of each stored thing: its limit, how long it is kept, and that its texts go when they are deleted. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, test, vi } from "vitest";
import { DRIFT_WINDOW } from "../../src/core/lifecycle/policy.ts";
import { limits } from "../../src/core/limits.ts";
import { shortHash } from "../../src/lib/hash.ts";
import { writeBlock } from "../../src/store/blocks.ts";
import { embedInputs } from "../../src/store/inputs.ts";
import type { Directory } from "../../src/tenant/directory.ts";
import { addBackbone } from "../../src/tenant/heads/backbones.ts";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import { newLearnHook, postAccepted } from "./inbound-hooks.ts";
import { mockReceivers, newTenantWithEndpoint, sendTestEvent, waitForAttempts } from "./webhooks.ts";

mockReceivers();

const documents = import.meta.glob<string>("../../STORAGE.md", { query: "?raw", import: "default", eager: true });
const testFiles = Object.keys(import.meta.glob("./*.test.ts"));

const inLedger = <T>(tenant: string, work: (storage: DurableObjectStorage) => T): Promise<T> =>
  runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant)), (_: Tenant, { storage }) => work(storage));

function listTables({ sql }: DurableObjectStorage): string[] {
  const query =
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '_cf_%'";
  return sql
    .exec<{ name: string }>(query)
    .toArray()
    .map(({ name }) => name);
}

/** The tables of a tenant's ledger with a row that holds a text. */
function findTables(tenant: string, text: string): Promise<string[]> {
  return inLedger(tenant, (storage) =>
    listTables(storage).filter((table) => {
      const rows = [...storage.sql.exec(`SELECT * FROM ${table}`).raw()];
      return rows.flat().some((value) => {
        const string = value instanceof ArrayBuffer ? new TextDecoder().decode(value) : String(value);
        return string.includes(text);
      });
    }),
  );
}

describe("the table of STORAGE.md", () => {
  const section =
    Object.values(documents)[0]?.split("## Limits, retention, repetition, deletion")[1]?.split("\n## ")[0] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("| `") || /^\| (?:R2|KV)/.test(line));

  test("has every table of the ledger and of the directory", async () => {
    const { id } = await newTenant();
    const directory = env.DIRECTORY.get(env.DIRECTORY.idFromName("directory"));
    const tables = [
      ...(await inLedger(id, listTables)),
      ...(await runInDurableObject(directory, (_: Directory, { storage }) => listTables(storage))),
    ];
    expect(tables.length).toBeGreaterThan(20);
    const named = rows.map((row) => row.split(" | ")[0] ?? "");
    expect(tables.filter((table) => !named.some((cell) => cell.includes(`\`${table}\``)))).toEqual([]);
  });

  test("says all of each thing, and names tests that are there", () => {
    for (const row of rows) {
      const cells = row
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim());
      expect(cells, row).toHaveLength(6);
      expect(
        cells.filter((cell) => cell === ""),
        row,
      ).toEqual([]);
      for (const name of cells[5]?.split(", ") ?? []) expect(testFiles, row).toContain(`./${name}.test.ts`);
    }
  });
});

/** A tenant whose dataset has the text by an import, by feedback and by a hook, of which a head is trained. */
async function tenantWithText(text: string) {
  const { id, key } = await tenantWithTickets();
  const examples = "/v1/datasets/tickets/examples";
  const idempotent = () => ({ "idempotency-key": crypto.randomUUID() });
  await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets" }, idempotent());
  const added = [{ id: "a", text: `${text} one`, label: "billing" }];
  expect((await call("POST", examples, key, { examples: added }, idempotent())).status).toBe(200);
  const feedback = { examples: [{ id: "b", text: `${text} two`, label: "login" }] };
  expect((await call("POST", "/v1/heads/support/feedback", key, feedback, idempotent())).status).toBe(200);
  await postAccepted(await newLearnHook(key), { text: `${text} three`, label: "login" });
  await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets" }, idempotent());
  return { id, key, examples };
}

describe("a text", () => {
  test("is in no row once its examples are deleted", async () => {
    const { id, key, examples } = await tenantWithText("quixotic");
    expect(await findTables(id, "quixotic")).toEqual(["examples"]);
    const { data } = (await call("GET", `${examples}?limit=100`, key)).json;
    const own = data.filter((example: { text: string }) => example.text.includes("quixotic"));
    expect(own).toHaveLength(3);
    for (const example of own) expect((await call("DELETE", `${examples}/${example.id}`, key)).status).toBe(200);
    expect(await findTables(id, "quixotic")).toEqual([]);
  });

  test("is in no row once its dataset is deleted, and no row of examples or blocks is left", async () => {
    const { id, key, examples } = await tenantWithText("quixotic");
    expect((await call("DELETE", examples.replace("/examples", ""), key)).status).toBe(200);
    expect(await findTables(id, "quixotic")).toEqual([]);
    const counts = await inLedger(id, ({ sql }) =>
      ["datasets", "examples", "imports", "staged", "blocks"].map(
        (table) => sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n,
      ),
    );
    expect(counts).toEqual([0, 0, 0, 0, 0]);
    await vi.waitUntil(async () => (await env.KV.list({ prefix: `tenants/${id}/blocks/` })).keys.length === 0);
  });
});

const SERIES = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)";

describe("at most so many are kept:", () => {
  test("API keys; a revoked one is deleted, also one that an earlier build kept", async () => {
    const { id, key } = await newTenant();
    await inLedger(id, ({ sql }) =>
      sql.exec(
        `${SERIES} INSERT INTO api_keys (id, name, hash, scopes, created_at) SELECT 'key_' || i, 'x', 'hash ' || i, 'train', 0 FROM n`,
        limits.api_keys - 1,
      ),
    );
    const body = { name: "one more", scopes: ["train"] };
    expectError(await call("POST", "/v1/api_keys", key, body), 422, "limit_exceeded");
    await inLedger(id, ({ sql }) => sql.exec("UPDATE api_keys SET revoked_at = 1 WHERE id = 'key_2'"));
    expect((await call("DELETE", "/v1/api_keys/key_1", key)).status).toBe(200);
    expectError(await call("DELETE", "/v1/api_keys/key_1", key), 404, "not_found");
    const left = await inLedger(id, ({ sql }) =>
      sql.exec("SELECT id FROM api_keys WHERE id IN ('key_1', 'key_2')").toArray(),
    );
    expect(left).toEqual([]);
    expect((await call("POST", "/v1/api_keys", key, body)).status).toBe(201);
  });

  test("heads", async () => {
    const { id, key } = await tenantWithTickets();
    await inLedger(id, ({ sql }) =>
      sql.exec(`${SERIES} INSERT INTO heads (name, last_version) SELECT 'head-' || i, 0 FROM n`, limits.heads),
    );
    const refused = await call("POST", "/v1/heads", key, { name: "one-more", dataset: "tickets" });
    expectError(refused, 422, "limit_exceeded");
    expect(refused.json.error.details).toEqual({ limit: limits.heads, actual: limits.heads });
  });

  test("judgements of a head: those of the last examples of its active version", async () => {
    const { id, key } = await tenantWithTickets();
    await call("POST", "/v1/heads", key, { name: "support", dataset: "tickets", evaluation: { method: "none" } });
    const examples = Array.from({ length: DRIFT_WINDOW + 20 }, (_, i) => ({ text: `refund ${i}`, label: "billing" }));
    expect((await call("POST", "/v1/heads/support/feedback", key, { examples })).status).toBe(200);
    const count = () =>
      inLedger(id, ({ sql }) => sql.exec<{ n: number }>("SELECT count(*) AS n FROM judged_examples").one().n);
    expect(await count()).toBe(DRIFT_WINDOW);
    await call("DELETE", "/v1/heads/support", key);
    expect(await count()).toBe(0);
  });

  test("attempts at a delivery: the newest", async () => {
    const endpoint = await newTenantWithEndpoint();
    const { id } = await sendTestEvent(endpoint);
    await vi.waitUntil(() => endpoint.arrivals.length === 1);
    await waitForAttempts(endpoint.tenant);
    await inLedger(endpoint.tenant, ({ sql }) => {
      sql.exec(`${SERIES} INSERT INTO delivery_attempts (delivery, attempt, started_at) SELECT 1, i + 1, 0 FROM n`, 59);
      sql.exec("UPDATE deliveries SET attempt = 60");
    });
    expect((await call("POST", `/v1/webhook_deliveries/${id}/redeliver`, endpoint.key)).status).toBe(200);
    await vi.waitUntil(() => endpoint.arrivals.length === 2);
    const kept = await inLedger(endpoint.tenant, ({ sql }) =>
      sql.exec("SELECT count(*) AS n, min(attempt) AS oldest, max(attempt) AS newest FROM delivery_attempts").one(),
    );
    expect(kept).toEqual({ n: 50, oldest: 12, newest: 61 });
  });

  test("backbones whose layers were not trained", async () => {
    const { id } = await newTenant();
    const rows = await inLedger(id, ({ sql }) => {
      const columns = "id, revision, base, base_revision, job, bytes, parameters, dimensions, created_at";
      sql.exec(
        `${SERIES} INSERT INTO backbones (${columns}) SELECT 'ft:b:' || i, '1', 'b', '1', 'j', 0, 0, 4, 0 FROM n`,
        limits.ended_jobs,
      );
      const added = { id: "ft:b:last", revision: "1", base: "b", base_revision: "1", job: "j" };
      const unchanged = { sha256: null, bytes: 0, parameters: 0, dimensions: 4, created_at: 0 };
      addBackbone(sql, { ...added, ...unchanged }, Date.now());
      return sql
        .exec<{ id: string }>("SELECT id FROM backbones ORDER BY number")
        .toArray()
        .map((row) => row.id);
    });
    expect(rows).toHaveLength(limits.ended_jobs);
    expect([rows[0], rows.at(-1)]).toEqual(["ft:b:2", "ft:b:last"]);
  });
});

test("blocks in KV expire after 60 days, and inputs after 7", async () => {
  const dayAfter = (days: number) => Date.now() / 1000 + days * 86_400;
  const shared = {
    id: "remote",
    revision: "1",
    modality: "text",
    dimensions: 1,
    license: "none",
    parameters: 0,
    bytes: 0,
  } as const;
  const embed = async (inputs: readonly string[]) => ({ rows: inputs.map(() => Float32Array.of(1)), failure: null });
  const writes: Promise<unknown>[] = [];
  await embedInputs(env.KV, "expiry", { ...shared, cost: "remote", kind: "openai", embed }, ["a"], (work) =>
    writes.push(work),
  );
  await Promise.all(writes);
  const block = { dimensions: 1, hashes: shortHash("a"), rows: Float32Array.of(1) };
  const backbone = { ...shared, cost: "remote" } as const;
  await writeBlock({ kv: env.KV, tenant: "expiry", dataset: 1, backbone, blockNumber: 0 }, block);
  const { keys } = await env.KV.list({ prefix: "tenants/expiry/" });
  const days = keys.map(({ name, expiration = 0 }) => [
    name.split("/")[2],
    Math.round((expiration - dayAfter(0)) / 86_400),
  ]);
  expect(days).toEqual([
    ["blocks", 60],
    ["inputs", 7],
  ]);
});
