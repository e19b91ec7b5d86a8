/** Revisions of a dataset: listing, comparing, exporting and training on them, and how long they are kept. */
import { runInDurableObject, SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { toStoredExample } from "../../src/ingest/example.ts";
import { createClient } from "../../src/sdk/client.ts";
import { findDataset } from "../../src/tenant/data/datasets.ts";
import { expireHistory } from "../../src/tenant/data/history.ts";
import { mergeImport } from "../../src/tenant/data/merge.ts";
import { upsertExamples } from "../../src/tenant/heads/feedback.ts";
import { getLedger, type Ledger, type Tenant } from "../../src/tenant/tenant.ts";
import { Transactions } from "../../src/tenant/transactions.ts";
import { call, newTenant } from "./api.ts";
import { expectError } from "./assertions.ts";
import { interruptedLedger } from "./interrupted-ledger.ts";

const PATH = "/v1/datasets/d";
const DAY = 24 * 3_600_000;

/** What a head can be trained on. */
const examples = Array.from({ length: 20 }, (_, i) => ({ id: `${i}`, text: `text ${i}`, label: i % 2 ? "x" : "y" }));

let tenant: { id: string; key: string };
let ledger: Ledger;

beforeEach(async () => {
  tenant = await newTenant();
  ledger = getLedger(env.TENANT, tenant.id);
  await call("POST", "/v1/datasets", tenant.key, { name: "d", task: "single_label", modality: "text" });
});

const inLedger = <T>(work: (storage: DurableObjectStorage) => T | Promise<T>): Promise<T> =>
  runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant.id)), (_: Tenant, { storage }) => work(storage));

async function add(...examples: object[]): Promise<number> {
  const answer = await call("POST", `${PATH}/examples`, tenant.key, { examples });
  expect(answer.status, answer.text).toBe(200);
  return answer.json.dataset.revision;
}

async function exportAt(revision: number) {
  const answer = await call("GET", `${PATH}/export?revision=${revision}`, tenant.key);
  expect(answer.status, answer.text).toBe(200);
  return answer.text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}

const diff = async (from: number, to: number, more = "") =>
  (await call("GET", `${PATH}/diff?from=${from}&to=${to}${more}`, tenant.key)).json;

const listRevisions = async () =>
  (await call("GET", `${PATH}/revisions?limit=100`, tenant.key)).json.data.map(
    ({ revision }: { revision: number }) => revision,
  );

/** Expires what is due at a time, in as many steps as it takes, and once more. */
const expire = (now: number) =>
  inLedger((storage) => {
    for (const _ of [1, 2]) while (storage.transactionSync(() => expireHistory(storage.sql, now)));
  });

describe("revisions", () => {
  test("are listed, newest first, with how many examples they have", async () => {
    await add({ id: "a", text: "one", label: "x" });
    await add({ id: "b", text: "two", label: "y" }, { id: "c", text: "three", label: "y" });
    const answer = await call("GET", `${PATH}/revisions?limit=2`, tenant.key);
    const common = { object: "dataset.revision", pinned: false, created_at: expect.any(Number) };
    expect(answer.json).toEqual({
      object: "list",
      data: [
        { ...common, id: "2", revision: 2, examples: 3 },
        { ...common, id: "1", revision: 1, examples: 1 },
      ],
      first_id: "2",
      last_id: "1",
      has_more: true,
    });
    const rest = await call("GET", `${PATH}/revisions?limit=2&after=1`, tenant.key);
    expect(rest.json).toMatchObject({ data: [{ id: "0", examples: 0 }], has_more: false });
    expectError(await call("GET", `${PATH}/revisions?after=x`, tenant.key), 400, "invalid_parameter", "after");
  });

  test("are exported as they were", async () => {
    await add({ id: "a", text: "one", label: "x" }, { id: "b", text: "two", label: "x" });
    await add({ id: "a", text: "one", label: "y" }, { id: "c", text: "three", label: "x" });
    expect(await exportAt(0)).toEqual([]);
    expect(await exportAt(1)).toEqual([
      { id: "a", text: "one", label: "x" },
      { id: "b", text: "two", label: "x" },
    ]);
    expect(await exportAt(2)).toEqual([
      { id: "a", text: "one", label: "y" },
      { id: "b", text: "two", label: "x" },
      { id: "c", text: "three", label: "x" },
    ]);
    expectError(await call("GET", `${PATH}/export?revision=3`, tenant.key), 404, "not_found", "revision");
    expectError(await call("GET", `${PATH}/export?revision=-1`, tenant.key), 400, "invalid_parameter", "revision");
  });

  test("are compared in both directions, a page at a time", async () => {
    await add({ id: "a", text: "one", label: "x" }, { id: "b", text: "two", label: "x" });
    await add({ id: "a", text: "one", label: "y" }, { id: "c", text: "three", label: "x" });
    await call("DELETE", `${PATH}/examples/b`, tenant.key);
    const created_at = expect.any(Number);
    const before = { object: "example", id: "a", text: "one", label: "x", created_at };
    const after = { ...before, label: "y" };
    const added = { object: "example", id: "c", text: "three", label: "x", created_at };
    const common = { object: "dataset.difference" };
    expect(await diff(1, 3)).toEqual({
      object: "dataset.diff",
      dataset: "d",
      from: 1,
      to: 3,
      added: 1,
      removed: 1,
      changed: 1,
      data: [
        { ...common, id: "a", type: "changed", example: after, previous: before },
        // It was deleted, so that its text is in no revision any more.
        { ...common, id: "b", type: "removed", example: null, previous: null },
        { ...common, id: "c", type: "added", example: added, previous: null },
      ],
      first_id: "0",
      last_id: "2",
      has_more: false,
    });
    expect(await diff(3, 1)).toMatchObject({ added: 1, removed: 1, changed: 1 });
    expect(await diff(2, 2)).toMatchObject({ added: 0, removed: 0, changed: 0, data: [], first_id: null });
    const first = await diff(0, 2, "&limit=2");
    expect(first).toMatchObject({ added: 3, data: [{ id: "a" }, { id: "b" }], has_more: true });
    expect(await diff(0, 2, `&limit=2&after=${first.last_id}`)).toMatchObject({
      added: 3,
      data: [{ id: "c" }],
      has_more: false,
    });
    expect(await diff(1, 3, "&type=removed")).toMatchObject({ added: 1, data: [{ id: "b" }] });
  });

  test.each([
    ["from=9&to=1", 404, "not_found", "from"],
    ["from=1&to=9", 404, "not_found", "to"],
    ["to=1", 400, "missing_parameter", "from"],
    ["from=1&to=x", 400, "invalid_parameter", "to"],
    ["from=&to=1", 400, "invalid_parameter", "from"],
    ["from=0&to=1&type=new", 400, "invalid_parameter", "type"],
    ["from=0&to=1&after=x", 400, "invalid_parameter", "after"],
  ])("compared by %s are refused", async (query, status, code, param) => {
    await add({ text: "one", label: "x" });
    expectError(await call("GET", `${PATH}/diff?${query}`, tenant.key), status, code as "not_found", param);
  });

  test("of another tenant are not found", async () => {
    const other = await newTenant();
    for (const path of ["revisions", "diff?from=0&to=0", "export?revision=0"])
      expectError(await call("GET", `${PATH}/${path}`, other.key), 404, "not_found");
  });

  test("are listed and compared by the client", async () => {
    await add({ id: "a", text: "one", label: "x" }, { id: "b", text: "two", label: "x" });
    await add({ id: "a", text: "one", label: "y" });
    const { datasets } = createClient({
      baseUrl: "http://graft.test",
      key: tenant.key,
      fetch: ((url: URL, init: RequestInit) => SELF.fetch(url, init)) as typeof fetch,
    });
    const revisions = await datasets.revisions("d", { limit: 2 });
    expect(revisions).toMatchObject({ data: [{ revision: 2 }, { revision: 1, examples: 2 }], has_more: true });
    const others = await datasets.revisions("d", { after: revisions.last_id ?? "" });
    expect(others).toMatchObject({ data: [{ revision: 0, examples: 0 }], has_more: false });
    const query = { from: 0, to: 2, type: "added", limit: 1 } as const;
    const first = await datasets.diff("d", query);
    expect(first).toMatchObject({ added: 2, changed: 0, data: [{ id: "a", type: "added" }], has_more: true });
    const second = await datasets.diff("d", { ...query, after: first.last_id ?? "" });
    expect(second).toMatchObject({ added: 2, data: [{ id: "b", example: { text: "two" } }], has_more: false });
    await expect(datasets.diff("d", { from: 7, to: 2 })).rejects.toMatchObject({ status: 404, param: "from" });
  });

  test("are trained on", async () => {
    await add(...examples);
    await add(...examples.map((example) => ({ ...example, label: "z" })));
    const train = (body: object) => call("POST", "/v1/heads", tenant.key, { name: "h", ...body });
    const head = await train({ dataset: "d", dataset_revision: 1 });
    expect(head.status, head.text).toBe(201);
    expect(head.json).toMatchObject({ labels: ["x", "y"], dataset: { name: "d", revision: 1, examples: 20 } });
    expectError(await train({ dataset: "d", dataset_revision: 3 }), 404, "not_found", "dataset_revision");
    expectError(await train({ examples, dataset_revision: 1 }), 400, "invalid_parameter", "dataset_revision");
    expectError(await train({ dataset: "d", dataset_revision: "1" }), 400, "invalid_parameter", "dataset_revision");
  });
});

describe("deleting an example", () => {
  test("takes its text out of every revision", async () => {
    await add({ id: "a", text: "first secret", label: "x" }, { id: "b", text: "two", label: "x" });
    await call("PATCH", `${PATH}/examples/a`, tenant.key, { text: "second secret" });
    await call("DELETE", `${PATH}/examples/a`, tenant.key);
    for (const revision of [1, 2, 3]) expect(await exportAt(revision)).toEqual([{ id: "b", text: "two", label: "x" }]);
    const stored = await inLedger(({ sql }) => JSON.stringify(sql.exec("SELECT * FROM past_examples").toArray()));
    expect(stored).toContain('"a"');
    expect(stored).not.toContain("secret");
    expect(await inLedger(({ sql }) => sql.exec("SELECT history_bytes FROM datasets").one())).toEqual({
      history_bytes: 0,
    });
    expect(await diff(1, 2), "that it was changed can still be seen").toMatchObject({
      added: 0,
      removed: 0,
      changed: 1,
      data: [{ id: "a", type: "changed", example: null, previous: null }],
    });
  });
});

describe("a revision is kept", () => {
  const now = Date.now();

  test("for 30 days after the next one, and the present one for good", async () => {
    await add({ id: "a", text: "one", label: "x" });
    await add({ id: "a", text: "two", label: "x" });
    await add({ id: "a", text: "three", label: "x" });
    await expire(now + 29 * DAY);
    expect(await listRevisions()).toEqual([3, 2, 1, 0]);
    await expire(now + 31 * DAY);
    expect(await listRevisions()).toEqual([3]);
    expectError(await call("GET", `${PATH}/export?revision=2`, tenant.key), 404, "not_found", "revision");
    const left = await inLedger(({ sql }) => [
      sql.exec("SELECT count(*) AS n FROM past_examples").one().n,
      sql.exec("SELECT history_bytes FROM datasets").one().history_bytes,
    ]);
    expect(left).toEqual([0, 0]);
  });

  test("as long as a version of a head names it", async () => {
    for (const label of ["a", "b"])
      await add(...examples.map((example) => ({ ...example, label: example.label + label })));
    await call("POST", "/v1/heads", tenant.key, { name: "h", dataset: "d" });
    for (const label of ["c", "d"])
      await add(...examples.map((example) => ({ ...example, label: example.label + label })));
    await expire(now + 31 * DAY);
    expect(await listRevisions()).toEqual([4, 2]);
    expect((await exportAt(2))[0]).toMatchObject({ label: "yb" });
    expect(await diff(2, 4)).toMatchObject({ changed: 20 });
    await call("DELETE", "/v1/heads/h", tenant.key);
    await expire(now + 31 * DAY);
    expect(await listRevisions()).toEqual([4]);
  });

  test("within a bound in bytes, beyond which the oldest goes first, and one that is named last", async () => {
    await add(...examples);
    await call("POST", "/v1/heads", tenant.key, { name: "h", dataset: "d" });
    for (const label of ["a", "b", "c"])
      await add(...examples.map((example) => ({ ...example, label: example.label + label })));
    const each = await inLedger(({ sql }) =>
      Math.round(Number(sql.exec("SELECT history_bytes AS n FROM datasets").one().n) / 3),
    );
    const addBytes = (bytes: number) =>
      inLedger(({ sql }) => sql.exec("UPDATE datasets SET history_bytes = history_bytes + ?", bytes));
    await addBytes(limits.history_bytes - 2 * each);
    await expire(now);
    expect(await listRevisions(), "0 has nothing of its own, and 2 is what 1 and 3 do not have").toEqual([4, 3, 1]);
    await addBytes(2 * each);
    await expire(now);
    expect(await listRevisions()).toEqual([4]);
    const { used, limit } = (await call("GET", "/v1/limits", tenant.key)).json.limits.history_bytes;
    expect(used).toBeLessThanOrEqual(limit);
  });

  test("within that bound after an edit of many examples, too", async () => {
    await add({ text: "one", label: "x" }, { text: "two", label: "y" });
    await inLedger(({ sql }) => sql.exec("UPDATE datasets SET history_bytes = ?", limits.history_bytes));
    const renamed = await call("POST", `${PATH}/labels/rename`, tenant.key, { label: "x", to: "z" });
    expect(renamed.status, renamed.text).toBe(200);
    await vi.waitUntil(async () => String(await listRevisions()) === "2", { timeout: 10_000 });
  });
});

interface Row {
  readonly id: string | null;
  readonly text: string;
  readonly label: string;
}
interface Stored extends Row {
  readonly id: string;
  readonly position: number;
}

/** The same changes on whole copies. */
class Model {
  rows: Stored[] = [];
  revisions = new Map<number, readonly Stored[]>([[0, []]]);
  revision = 0;
  nextPosition = 0;

  commit(rows: readonly Stored[]): void {
    if (JSON.stringify(rows) === JSON.stringify(this.rows)) return;
    this.rows = [...rows].sort((a, b) => a.position - b.position);
    this.revisions.set(++this.revision, this.rows);
  }

  import(importId: string, rows: readonly Row[]): void {
    const numbered = rows.map((row, i) => ({ ...row, line: i + 1 }));
    const result = [...this.rows];
    const insert = (row: Row, id: string) => result.push({ ...row, id, position: this.nextPosition++ });
    for (const row of numbered) {
      const { id, text, label } = row;
      if (id === null || numbered.some((other) => other.id === id && other.line > row.line)) continue;
      const index = result.findIndex((stored) => stored.id === id);
      const found = result[index];
      if (found === undefined) insert({ id, text, label }, id);
      else result[index] = { ...found, text, label };
    }
    for (const { id, text, label, line } of numbered)
      if (id === null && !result.some((stored) => stored.text === text && stored.label === label))
        insert({ id, text, label }, `ex_${importId.slice(7)}_${line}`);
    this.commit(result);
  }

  learn({ id, text, label }: Row, newId: string): void {
    const found = this.rows.filter((row) => row.id === id || row.text === text);
    const first = found.find((row) => row.id === id) ?? found[0];
    if (first === undefined) {
      this.commit([...this.rows, { id: id ?? newId, text, label, position: this.nextPosition++ }]);
      return;
    }
    if (found.length === 1 && first.text === text && first.label === label) return;
    const others = this.rows.filter((row) => !found.includes(row));
    this.commit([...others, { id: id ?? first.id, text, label, position: first.position }]);
  }

  delete(id: string): void {
    const found = this.rows.find((row) => row.id === id);
    if (found === undefined) return;
    this.commit(this.rows.filter((row) => row !== found));
    for (const [revision, rows] of this.revisions)
      this.revisions.set(
        revision,
        rows.filter((row) => row.position !== found.position && row.id !== id),
      );
  }
}

describe("any sequence of changes", () => {
  const row = fc.record({
    id: fc.option(fc.constantFrom("p", "q", "r"), { nil: null }),
    text: fc.constantFrom("one", "two", "three"),
    label: fc.constantFrom("x", "y"),
  });
  const change = fc.oneof(
    fc.record({ type: fc.constant("import" as const), rows: fc.array(row, { maxLength: 6 }), isCut: fc.boolean() }),
    fc.record({ type: fc.constant("learn" as const), row }),
    fc.record({ type: fc.constant("delete" as const), id: fc.constantFrom("p", "q", "r") }),
  );
  let imports = 0;

  async function importRows(rows: readonly Row[], isCut: boolean): Promise<string> {
    const id = `import_${++imports}`;
    await ledger.beginImport("d", id);
    const staged = rows.map(({ id, text, label }, i) => ({ ...toStoredExample(id, text, label), line: i + 1 }));
    await ledger.stageRows(id, staged);
    await inLedger(async (storage) => {
      // Cut off after its first step, which may be its last.
      if (isCut) await mergeImport(interruptedLedger(storage, 1), id).catch(() => null);
      await mergeImport(new Transactions(env, storage), id);
    });
    return id;
  }

  const learn = ({ id, text, label }: Row) =>
    inLedger((storage) =>
      storage.transactionSync(() => {
        const dataset = findDataset(storage.sql, "d");
        if (!dataset.ok) throw new Error("no dataset");
        const lesson = { example: toStoredExample(id, text, label), outcomes: [] };
        const learned = upsertExamples(storage.sql, dataset.value, [lesson], "add", Date.now());
        return learned.ok ? (learned.value[0]?.id ?? "") : "";
      }),
    );

  test("leaves every revision as a copy of the whole would be", { timeout: 60_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 8 }), async (changes) => {
        await call("DELETE", PATH, tenant.key);
        await call("POST", "/v1/datasets", tenant.key, { name: "d", task: "single_label", modality: "text" });
        const model = new Model();
        for (const one of changes) {
          if (one.type === "import") model.import(await importRows(one.rows, one.isCut), one.rows);
          else if (one.type === "learn") model.learn(one.row, await learn(one.row));
          else {
            await ledger.deleteExample("d", one.id);
            model.delete(one.id);
          }
        }
        const { examples, labels, revision } = (await call("GET", PATH, tenant.key)).json;
        const counts = Object.groupBy(model.rows, ({ label }) => label);
        expect(labels).toEqual(
          Object.fromEntries(Object.entries(counts).map(([label, rows]) => [label, rows?.length])),
        );
        expect([examples, revision]).toEqual([model.rows.length, model.revision]);
        for (const [number, rows] of model.revisions)
          expect(await exportAt(number), `revision ${number}`).toEqual(
            rows.map(({ id, text, label }) => ({ id, text, label })),
          );
      }),
      { numRuns: 40 },
    );
  });
});
