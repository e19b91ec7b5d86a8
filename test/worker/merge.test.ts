/** The merge of an import: in steps that no reader sees, and that go on where they were cut off. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { toStoredExample } from "../../src/ingest/example.ts";
import { mergeImport, resumeMerge } from "../../src/tenant/data/merge.ts";
import { getLedger, type Ledger, type Tenant } from "../../src/tenant/tenant.ts";
import { Transactions } from "../../src/tenant/transactions.ts";
import { call, newTenant } from "./api.ts";
import { expectError } from "./assertions.ts";
import { listDueTasks } from "./fake-batch-endpoint.ts";
import { interruptedLedger } from "./interrupted-ledger.ts";

const PATH = "/v1/datasets/d";
const NDJSON = { "content-type": "application/x-ndjson" };
const OLD = 300;
const NEW = 900;

let tenant: { id: string; key: string };
let ledger: Ledger;

beforeEach(async () => {
  tenant = await newTenant();
  ledger = getLedger(env.TENANT, tenant.id);
  await call("POST", "/v1/datasets", tenant.key, { name: "d", task: "single_label", modality: "text" });
});

const inLedger = <T>(work: (storage: DurableObjectStorage) => T | Promise<T>): Promise<T> =>
  runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant.id)), (_: Tenant, { storage }) => work(storage));

const count = (table: string) =>
  inLedger(({ sql }) => sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n);

const makeRows = (n: number, label: string) =>
  Array.from({ length: n }, (_, i) => ({ id: `${i}`, text: `${label} ${i}`, label }));

async function importRows(rows: readonly object[]) {
  const answer = await call(
    "POST",
    `${PATH}/examples`,
    tenant.key,
    rows.map((row) => JSON.stringify(row)).join("\n"),
    NDJSON,
  );
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

/** Stages an import that replaces every example of `makeRows(OLD, "old")` and adds more, and ends with its merge to come. */
async function stageRows(id: string, rows = makeRows(NEW, "new")): Promise<Disposable> {
  const begun = await ledger.beginImport("d", id);
  if (!begun.ok) throw new Error(begun.failure.message);
  const staged = rows.map((row, i) => ({ ...toStoredExample(row.id, row.text, row.label), line: i + 1 }));
  expect(await ledger.stageRows(id, staged)).toMatchObject({ ok: true });
  return begun.value.connection as unknown as Disposable;
}

/** What a reader sees, in every way in which examples can be read. */
async function readAll() {
  const [dataset, list, byLabel, one, exported] = await Promise.all([
    call("GET", PATH, tenant.key),
    call("GET", `${PATH}/examples?limit=1`, tenant.key),
    call("GET", `${PATH}/examples?limit=100&label=old`, tenant.key),
    call("GET", `${PATH}/examples?limit=1&after=1`, tenant.key),
    call("GET", `${PATH}/export`, tenant.key),
  ]);
  const lines = exported.text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).label as string);
  return {
    examples: dataset.json.examples,
    labels: dataset.json.labels,
    newest: list.json.data[0].text,
    old: byLabel.json.data.length,
    after: one.json.data[0].text,
    exported: [lines.length, new Set(lines).size],
  };
}

const before = {
  examples: OLD,
  labels: { old: OLD },
  newest: `old ${OLD - 1}`,
  old: 100,
  after: "old 0",
  exported: [OLD, 1],
};
const after = {
  examples: NEW,
  labels: { new: NEW },
  newest: `new ${NEW - 1}`,
  old: 0,
  after: "new 0",
  exported: [NEW, 1],
};

describe("an import in several steps", () => {
  test.each([1, 2, 3])("that is cut off after %i of them is whole for readers, and goes on", async (steps) => {
    await importRows(makeRows(OLD, "old"));
    await stageRows("import_1");
    await inLedger(async (storage) => {
      await expect(mergeImport(interruptedLedger(storage, steps), "import_1")).rejects.toThrow("killed");
    });
    expect(await readAll()).toEqual(before);
    await inLedger(async (storage) => {
      expect(await resumeMerge(new Transactions(env, storage), "import_1")).toBeNull();
      expect(await resumeMerge(new Transactions(env, storage), "import_1"), "again").toBeNull();
    });
    expect(await readAll()).toEqual(after);
    expect((await call("GET", PATH, tenant.key)).json.revision).toBe(2);
    expect([await count("staged"), await count("staged_labels"), await count("imports")]).toEqual([0, 0, 0]);
  });

  test("emits one event, and answers what became of its rows", async () => {
    await importRows(makeRows(OLD, "old"));
    const answer = await importRows([...makeRows(NEW, "new"), ...makeRows(2, "new"), { text: "new 1", label: "new" }]);
    expect(answer).toMatchObject({ added: NEW - OLD, updated: OLD, unchanged: 3, dataset: { revision: 2 } });
    const types = await inLedger(({ sql }) => sql.exec("SELECT type FROM events").toArray());
    expect(types.filter(({ type }) => type === "dataset.imported")).toHaveLength(2);
    expect(await readAll()).toEqual(after);
  });

  test("keeps other changes of its dataset waiting, and those of other datasets not", async () => {
    await importRows(makeRows(OLD, "old"));
    await call("POST", "/v1/datasets", tenant.key, { name: "other", task: "single_label", modality: "text" });
    await stageRows("import_1");
    await inLedger(async (storage) => {
      await expect(mergeImport(interruptedLedger(storage, 2), "import_1")).rejects.toThrow("killed");
    });
    const waiting = call("PATCH", `${PATH}/examples/1`, tenant.key, { label: "mine" });
    const others = await call("POST", "/v1/datasets/other/examples", tenant.key, { examples: makeRows(1, "x") });
    expect(others.status).toBe(200);
    await inLedger((storage) => resumeMerge(new Transactions(env, storage), "import_1"));
    // It was made from what the merge has replaced.
    expectError(await waiting, 409, "dataset_changed");
    expect((await call("PATCH", `${PATH}/examples/1`, tenant.key, { label: "mine" })).status).toBe(200);
    expect((await call("GET", PATH, tenant.key)).json).toMatchObject({
      labels: { mine: 1, new: NEW - 1 },
      revision: 3,
    });
  });

  test.each([
    ["an import", () => importRows(makeRows(OLD, "old"))],
    ["an edit", () => call("POST", `${PATH}/examples/delete`, tenant.key, { contains: "nowhere" })],
  ])("has its dataset embedded afterwards, even if nothing has changed: %s", async (_, change) => {
    await importRows(makeRows(OLD, "old"));
    await inLedger(({ sql }) => sql.exec("DELETE FROM due WHERE kind = 'embed_dataset'"));
    await change();
    expect((await call("GET", PATH, tenant.key)).json.revision).toBe(1);
    expect(await listDueTasks(tenant.id, "embed_dataset")).toHaveLength(1);
  });

  test("whose dataset is deleted meanwhile ends, and leaves nothing", async () => {
    await importRows(makeRows(OLD, "old"));
    await stageRows("import_1");
    await inLedger(async (storage) => {
      await expect(mergeImport(interruptedLedger(storage, 2), "import_1")).rejects.toThrow("killed");
    });
    expect((await call("DELETE", PATH, tenant.key)).status).toBe(200);
    await inLedger((storage) => resumeMerge(new Transactions(env, storage), "import_1"));
    const tables = ["examples", "past_examples", "label_counts", "revisions", "staged", "staged_labels", "imports"];
    await vi.waitUntil(async () => (await Promise.all(tables.map(count))).every((n) => n === 0), 10_000);
  });
});

describe("a staged import", () => {
  test("goes with its connection, and its merge finds nothing then", async () => {
    const connection = await stageRows("import_1");
    expect(await count("staged")).toBe(NEW);
    connection[Symbol.dispose]();
    await vi.waitUntil(async () => (await count("staged")) + (await count("imports")) === 0, 10_000);
    expect(await ledger.mergeImport("import_1")).toMatchObject({ ok: false, failure: { code: "not_found" } });
    expect(await ledger.stageRows("import_1", [])).toMatchObject({ ok: false, failure: { code: "not_found" } });
  });

  test("is merged once, however often it is asked for", async () => {
    const connection = await stageRows("import_1");
    const [first, second] = await Promise.all([ledger.mergeImport("import_1"), ledger.mergeImport("import_1")]);
    expect([first, second].filter(({ ok }) => ok)).not.toEqual([]);
    connection[Symbol.dispose]();
    connection[Symbol.dispose]();
    expect((await call("GET", PATH, tenant.key)).json).toMatchObject({ examples: NEW, revision: 1 });
  });

  test("counts towards the limit of examples from its first row on, until it goes", async () => {
    await inLedger(({ sql }) => sql.exec("UPDATE datasets SET examples = ?", limits.examples_per_dataset - NEW));
    const connection = await stageRows("import_1");
    const refused = await call("POST", `${PATH}/examples`, tenant.key, { examples: [{ text: "more", label: "x" }] });
    expectError(refused, 422, "limit_exceeded");
    const limit = limits.examples_per_dataset;
    expect(refused.json.error.details).toEqual({ limit, actual: limit + 1 });
    connection[Symbol.dispose]();
    await vi.waitUntil(async () => (await count("imports")) === 0, 10_000);
    expect((await importRows([{ text: "more", label: "x" }])).added).toBe(1);
  });

  test("counts what is new alone: a full dataset takes rows that replace its examples", async () => {
    await importRows(makeRows(OLD, "old"));
    await inLedger(({ sql }) => sql.exec("UPDATE datasets SET examples = ?", limits.examples_per_dataset));
    expect(await importRows(makeRows(OLD, "new"))).toMatchObject({ added: 0, updated: OLD });
    expect(await importRows(makeRows(OLD, "new"))).toMatchObject({ added: 0, updated: 0, unchanged: OLD });
  });

  test("counts towards the tenant's bytes, which its limits show", async () => {
    const connection = await stageRows("import_1");
    const { used } = (await call("GET", "/v1/limits", tenant.key)).json.limits.staged_bytes;
    expect(used).toBeGreaterThan(NEW * 10);
    await inLedger(({ sql }) => sql.exec("UPDATE imports SET bytes = ?", limits.staged_bytes));
    const refused = await call("POST", `${PATH}/examples`, tenant.key, { examples: [{ text: "more", label: "x" }] });
    expectError(refused, 422, "limit_exceeded");
    expect(refused.json.error.details.limit).toBe(limits.staged_bytes);
    connection[Symbol.dispose]();
  });
});
