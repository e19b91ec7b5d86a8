/** Labels renamed and deleted, examples deleted many at once and searched: what it answers, and that readers see all or nothing. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { type Edit, editDataset } from "../../src/tenant/data/edits.ts";
import { getLedger, type Tenant } from "../../src/tenant/tenant.ts";
import { Transactions } from "../../src/tenant/transactions.ts";
import { type ApiResponse, call, newTenant } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";
import { inLedger, tenantStub } from "./fake-batch-endpoint.ts";

let tenant: { id: string; key: string };
let path: string;
let datasets = 0;

beforeAll(async () => {
  tenant = await newTenant();
});
beforeEach(async () => {
  path = await newDataset();
});

async function newDataset(task = "single_label", options: object = { modality: "text" }): Promise<string> {
  const name = `d${++datasets}`;
  const answer = await call("POST", "/v1/datasets", tenant.key, { name, task, ...options });
  expect(answer.status, answer.text).toBe(201);
  return `/v1/datasets/${name}`;
}

async function addExamples(...examples: object[]): Promise<void> {
  const answer = await call("POST", `${path}/examples`, tenant.key, { examples });
  expect(answer.json, answer.text).toMatchObject({ added: examples.length, rejected: 0 });
}

const post = (change: string, body: object, headers: Record<string, string> = {}) =>
  call("POST", `${path}/${change}`, tenant.key, body, headers);
const getDataset = async () => (await call("GET", path, tenant.key)).json;
const list = async (query = "") => (await call("GET", `${path}/examples?limit=100${query}`, tenant.key)).json.data;
const listIds = async (query = "") => (await list(query)).map(({ id }: { id: string }) => id);

async function expectChange(answer: ApiResponse, counts: object): Promise<void> {
  expect(answer.status, answer.text).toBe(200);
  const dataset = await getDataset();
  expect(answer.json).toEqual({
    object: "dataset.change",
    id: dataset.name,
    updated: 0,
    deleted: 0,
    ...counts,
    dataset,
  });
}

const many = (count: number, label: string) =>
  Array.from({ length: count }, (_, i) => ({ id: `${label}-${i}`, text: `${label} ${i}`, label }));

/** Every text of the tenant's ledger that holds this one. */
const findTexts = (text: string) =>
  inLedger(tenant.id, ({ sql }) =>
    ["examples", "past_examples", "edits"].flatMap((table) =>
      [...sql.exec(`SELECT * FROM ${table}`).raw()].flat().filter((value) => String(value).includes(text)),
    ),
  );

describe("renaming a label", () => {
  test("changes it in every example, and in nothing else", async () => {
    await addExamples({ id: "a", text: "one", label: "Refund" }, { id: "b", text: "two", label: "login" });
    await expectChange(await post("labels/rename", { label: "Refund", to: " money back " }), { updated: 1 });
    expect(await getDataset()).toMatchObject({ examples: 2, labels: { "money back": 1, login: 1 }, revision: 2 });
    expect(await list()).toMatchObject([
      { id: "b", text: "two", label: "login" },
      { id: "a", text: "one", label: "money back" },
    ]);
    const again = { examples: [{ text: "one", label: "money back" }] };
    expect((await call("POST", `${path}/examples`, tenant.key, again)).json).toMatchObject({ added: 0, unchanged: 1 });
  });

  test("merges it into one that exists", async () => {
    await addExamples(
      { text: "one", label: "Refund" },
      { text: "two", label: "refund" },
      { text: "two", label: "Refund" },
    );
    await expectChange(await post("labels/rename", { label: "Refund", to: "refund" }), { updated: 2 });
    expect((await getDataset()).labels).toEqual({ refund: 3 });
  });

  test("among several labels leaves each once, in order", async () => {
    path = await newDataset("multi_label");
    await addExamples(
      { text: "one", labels: ["z", "m", "a"] },
      { text: "two", labels: ["a", "b"] },
      { text: "three", labels: [] },
    );
    await expectChange(await post("labels/rename", { label: "z", to: "a" }), { updated: 1 });
    expect((await list()).map(({ labels }: { labels: string[] }) => labels)).toEqual([[], ["a", "b"], ["a", "m"]]);
    expect((await getDataset()).labels).toEqual({ a: 2, b: 1, m: 1 });
  });

  test("takes the label for what is out of scope along", async () => {
    path = await newDataset("single_label", { modality: "text", out_of_scope_label: "none" });
    await addExamples({ text: "one", label: "none" }, { text: "two", label: "x" });
    await post("labels/rename", { label: "none", to: "other" });
    expect(await getDataset()).toMatchObject({ out_of_scope_label: "other", labels: { other: 1, x: 1 } });
  });

  test("to its own name makes no revision", async () => {
    await addExamples({ text: "one", label: "x" });
    await expectChange(await post("labels/rename", { label: "x", to: "x" }), { updated: 0 });
    expect((await getDataset()).revision).toBe(1);
  });

  test("refuses a label that no example has, and examples without labels", async () => {
    await addExamples({ text: "one", label: "x" });
    for (const label of ["y", ".", "..", "%", " x"])
      expectError(await post("labels/rename", { label, to: "z" }), 404, "not_found", "label");
    expectError(await post("labels/rename", { label: "x" }), 400, "missing_parameter", "to");
    expectError(await post("labels/rename", { label: "x", to: "  " }), 400, "invalid_parameter", "to");
    expectError(await post("labels/rename", { label: "x", to: "y".repeat(257) }), 422, "limit_exceeded", "to");
    path = await newDataset("regression");
    expectError(await post("labels/rename", { label: "x", to: "y" }), 422, "task_mismatch", "label");
  });
});

describe("deleting a label", () => {
  test("deletes its examples, whatever it is called", async () => {
    const labels = ["..", "a/b", "%2e%2e", "é?#", '"quoted"'];
    await addExamples(...labels.map((label) => ({ text: label, label })), { text: "kept", label: "x" });
    for (const label of labels) await expectChange(await post("labels/delete", { label }), { deleted: 1 });
    expect(await getDataset()).toMatchObject({ examples: 1, labels: { x: 1 }, revision: 1 + labels.length });
    expectError(await post("labels/delete", { label: ".." }), 404, "not_found", "label");
    expectError(await post("labels/delete", {}), 400, "missing_parameter", "label");
  });

  test("among several deletes the examples that have it", async () => {
    path = await newDataset("multi_label");
    await addExamples({ text: "one", labels: ["a", "b"] }, { text: "two", labels: ["b"] });
    await expectChange(await post("labels/delete", { label: "a" }), { deleted: 1 });
    expect((await getDataset()).labels).toEqual({ b: 1 });
  });
});

describe("deleting examples", () => {
  beforeEach(() =>
    addExamples(
      { id: "a", text: "50% off_now", label: "x" },
      { id: "b", text: "50 per cent off now", label: "x" },
      { id: "c", text: `${"é".repeat(60)} end`, label: "y" },
    ),
  );

  test.each([
    ["ids", { ids: ["a", "c", "none"] }, ["b"]],
    ["a label", { label: "x" }, ["c"]],
    ["a label that none has", { label: "z" }, ["c", "b", "a"]],
    ["a part of the text, which is no pattern", { contains: "% off_" }, ["c", "b"]],
    ["a part of more than 50 bytes", { contains: `${"é".repeat(60)} e` }, ["b", "a"]],
    ["the time of what came later", { before: Math.floor(Date.now() / 1000) + 600 }, []],
    ["the time of what came before", { before: 1 }, ["c", "b", "a"]],
  ])("by %s, after counting them", async (_, selector, left) => {
    const deleted = 3 - left.length;
    const before = await getDataset();
    const preview = await post("examples/delete", { ...selector, dry_run: true });
    await expectChange(preview, { deleted, dry_run: true });
    expect(await getDataset()).toEqual(before);
    await expectChange(await post("examples/delete", selector), { deleted });
    expect(await listIds()).toEqual(left);
    expect(await getDataset()).toMatchObject({ examples: left.length, revision: deleted === 0 ? 1 : 2 });
  });

  test("takes exactly one of them", async () => {
    expectError(await post("examples/delete", {}), 422, "missing_parameter");
    expectError(await post("examples/delete", { dry_run: true }), 422, "missing_parameter");
    expectError(await post("examples/delete", { ids: ["a"], before: 1 }), 422, "invalid_parameter", "before");
    const invalid: [object, string][] = [
      [{ ids: [] }, "ids"],
      [{ ids: [".."] }, "ids[0]"],
      [{ ids: [""] }, "ids[0]"],
      [{ label: "" }, "label"],
      [{ contains: "" }, "contains"],
      [{ before: "today" }, "before"],
      [{ before: Date.now() }, "before"],
      [{ ids: ["a"], dry_run: "yes" }, "dry_run"],
    ];
    for (const [body, param] of invalid)
      expectError(await post("examples/delete", body), 400, "invalid_parameter", param);
    const ids = Array.from({ length: limits.ids_per_deletion + 1 }, (_, i) => `${i}`);
    expectError(await post("examples/delete", { ids }), 422, "limit_exceeded", "ids");
    expect((await getDataset()).examples).toBe(3);
  });

  test("finds no text in embeddings", async () => {
    path = await newDataset("single_label", { modality: "embedding", dimensions: 2 });
    await addExamples({ id: "a", embedding: [1, 2], label: "x" }, { id: "b", embedding: [2, 1], label: "y" });
    expectError(await post("examples/delete", { contains: "1" }), 422, "modality_mismatch", "contains");
    expectError(await call("GET", `${path}/examples?contains=1`, tenant.key), 422, "modality_mismatch", "contains");
    await post("labels/rename", { label: "x", to: "y" });
    await expectChange(await post("examples/delete", { label: "y" }), { deleted: 2 });
  });

  test("leaves no text of theirs, of earlier versions neither", async () => {
    await addExamples({ id: "person", text: "quixotic one", label: "x" });
    await call("PATCH", `${path}/examples/person`, tenant.key, { text: "quixotic two" });
    await post("labels/rename", { label: "x", to: "w" });
    expect((await findTexts("quixotic")).length).toBeGreaterThan(1);
    await expectChange(await post("examples/delete", { contains: "quixotic" }), { deleted: 1 });
    expect(await findTexts("quixotic")).toEqual([]);
    const queued = "SELECT kind FROM due WHERE kind IN ('edit_dataset', 'erase_examples')";
    expect(await inLedger(tenant.id, ({ sql }) => sql.exec(queued).toArray())).toEqual([]);
  });
});

describe("every change", () => {
  const changes: [string, object][] = [
    ["labels/rename", { label: "x", to: "y" }],
    ["labels/delete", { label: "x" }],
    ["examples/delete", { ids: ["a"] }],
  ];

  test.each(changes)("%s has its effect once under one Idempotency-Key", async (change, body) => {
    await addExamples({ id: "a", text: "one", label: "x" }, { id: "b", text: "two", label: "y" });
    const headers = { "idempotency-key": crypto.randomUUID() };
    const first = await post(change, body, headers);
    const second = await post(change, body, headers);
    expect([second.status, second.json, second.headers.get("idempotent-replayed")]).toEqual([200, first.json, "true"]);
    expect((await getDataset()).revision).toBe(2);
  });

  test.each(changes)("%s needs the scope 'train', and finds a dataset of the tenant alone", async (change, body) => {
    await expectAuthorization(tenant.key, "train", "POST", `${path}/${change}`, body);
    await expectHidden("POST", `${path}/${change}`, body, () => call("DELETE", path, tenant.key));
    expectError(await post(change, body), 404, "not_found");
  });
});

describe("a change of many examples", () => {
  /** What readers see while work is done, by the ledger itself: no rate limit counts so many calls. */
  async function watch(work: Promise<unknown>): Promise<object[]> {
    const ledger = getLedger(env.TENANT, tenant.id);
    const name = path.split("/").at(-1) ?? "";
    const seen: object[] = [];
    let isDone = false;
    const done = work.finally(() => {
      isDone = true;
    });
    while (!isDone) {
      const dataset = await ledger.getDataset(name);
      const page = await ledger.listExamples(name, { label: "y" }, { limit: 2 });
      if (dataset.ok && page.ok) seen.push({ labels: dataset.value.labels, listed: page.value.data.length });
      await scheduler.wait(1);
    }
    await done;
    return seen;
  }

  test("is seen as a whole or not at all, and other changes wait for it", async () => {
    await addExamples(...many(2_500, "x"), { id: "last", text: "last", label: "y" });
    const renaming = post("labels/rename", { label: "x", to: "y" });
    const added = call("POST", `${path}/examples`, tenant.key, { examples: [{ text: "late", label: "z" }] });
    const seen = await watch(renaming);
    expect(seen.filter((state) => "x" in (state as { labels: object }).labels).length).toBeGreaterThan(1);
    for (const state of seen)
      expect([
        { labels: { x: 2_500, y: 1 }, listed: 1 },
        { labels: { y: 2_501 }, listed: 2 },
        { labels: { y: 2_501, z: 1 }, listed: 2 },
      ]).toContainEqual(state);
    await Promise.all([renaming, added]);
    expect(await getDataset()).toMatchObject({ examples: 2_502, labels: { y: 2_501, z: 1 }, revision: 3 });
    expect((await post("examples/delete", { label: "y" })).json).toMatchObject({ deleted: 2_501 });
    expect(await getDataset()).toMatchObject({ examples: 1, labels: { z: 1 }, revision: 4 });
  });

  /** Runs an edit in the ledger until its object is lost before this step. */
  const runUntil = (edit: Edit, lostStep: number) =>
    runInDurableObject(tenantStub(tenant.id), async (_: Tenant, { storage }) => {
      const ledger = new Transactions(env, storage);
      const changeNow = ledger.changeNow.bind(ledger);
      let steps = 0;
      ledger.changeNow = (change) => {
        if (steps++ === lostStep) throw new Error("lost");
        return changeNow(change);
      };
      await expect(editDataset(ledger, null, path.split("/").at(-1) ?? "", edit)).rejects.toThrow("lost");
      storage.sql.exec("UPDATE due SET run_at = 1 WHERE kind IN ('edit_dataset', 'erase_examples')");
      await storage.setAlarm(1);
    });

  test.each([1, 2, 3])("goes on where it was when its object is lost before step %i", async (lostStep) => {
    await addExamples(...many(600, "x"), ...many(3, "y"));
    await runUntil({ kind: "rename", filter: { label: "x" }, to: "y" }, lostStep);
    await vi.waitUntil(async () => (await getDataset()).revision === 2);
    expect(await getDataset()).toMatchObject({ examples: 603, labels: { y: 603 } });
  });

  test.each([1, 4, 5])("and so does a deletion, with the erasure of what it deleted: step %i", async (lostStep) => {
    await addExamples(...many(600, "zygomorphic"), ...many(3, "y"));
    await runUntil({ kind: "delete", filter: { contains: "zygomorphic" } }, lostStep);
    await vi.waitUntil(async () => (await findTexts("zygomorphic ")).length === 0);
    expect(await getDataset()).toMatchObject({ examples: 3, labels: { y: 3 }, revision: 2 });
  });

  test("ends with its dataset", async () => {
    await addExamples(...many(600, "x"));
    await runUntil({ kind: "rename", filter: { label: "x" }, to: "y" }, 1);
    await call("DELETE", path, tenant.key);
    await vi.waitUntil(() =>
      inLedger(
        tenant.id,
        ({ sql }) => sql.exec("SELECT 1 FROM due WHERE kind = 'edit_dataset'").toArray().length === 0,
      ),
    );
    expect(await inLedger(tenant.id, ({ sql }) => sql.exec("SELECT * FROM edits").toArray())).toEqual([]);
  });
});

describe("searching examples", () => {
  test("takes a text literally, page after page, together with a label", async () => {
    await addExamples(
      { id: "a", text: "100% sure", label: "x" },
      { id: "b", text: "100 sure", label: "x" },
      { id: "c", text: "not 100% sure", label: "y" },
    );
    expect(await listIds("&contains=100%25%20")).toEqual(["c", "a"]);
    expect(await listIds("&contains=100%25%20&label=x")).toEqual(["a"]);
    expect(await listIds("&contains=SURE")).toEqual([]);
    const page = (await call("GET", `${path}/examples?contains=100%25&limit=1`, tenant.key)).json;
    expect(page).toMatchObject({ data: [{ id: "c" }], last_id: "c", has_more: true });
    expect(await listIds("&contains=100%25&after=c")).toEqual(["a"]);
    expectError(await call("GET", `${path}/examples?contains=`, tenant.key), 400, "invalid_parameter", "contains");
  });

  test("finds the first of many in steps", async () => {
    await addExamples({ id: "first", text: "needle", label: "y" }, ...many(5_000, "x"));
    expect(await listIds("&contains=needle")).toEqual(["first"]);
  });

  test("can be deleted while they are read, page after page", async () => {
    await addExamples(...many(7, "x"));
    const deleted: string[] = [];
    let query = "";
    for (;;) {
      const page = (await call("GET", `${path}/examples?limit=3${query}`, tenant.key)).json;
      for (const { id } of page.data) {
        expect((await call("DELETE", `${path}/examples/${id}`, tenant.key)).status).toBe(200);
        deleted.push(id);
      }
      if (!page.has_more) break;
      query = `&after=${page.last_id}`;
    }
    expect(deleted).toEqual(
      many(7, "x")
        .map(({ id }) => id)
        .toReversed(),
    );
    await addExamples(...many(7, "y"));
    await post("examples/delete", { ids: ["y-3", "y-4"] });
    expect(await listIds("&after=y-3")).toEqual(["y-2", "y-1", "y-0"]);
  });

  test("one by its id", async () => {
    await addExamples({ id: "a/é ?", text: "one", label: "x" });
    const examplePath = `${path}/examples/${encodeURIComponent("a/é ?")}`;
    expect((await call("GET", examplePath, tenant.key)).json).toEqual((await list())[0]);
    await expectAuthorization(tenant.key, "train", "GET", examplePath);
    await expectHidden("GET", examplePath, undefined, () => call("DELETE", examplePath, tenant.key));
    expectError(await call("GET", examplePath, tenant.key), 404, "not_found");
    expectError(await call("GET", `${path}/examples/${"x".repeat(257)}`, tenant.key), 400, "invalid_parameter", "id");
    for (const id of ["%2e%2e", ".", ""])
      expect((await call("GET", `${path}/examples/${id}`, tenant.key)).json.object).not.toBe("example");
  });
});

describe("no deletion falls back to its parent", () => {
  const segments = ["", ".", "..", "%2e", "%2E%2e", ".%2e", "../..", "%2e%2e/%2e%2e"];
  const collections = [
    "/v1/datasets",
    "/v1/datasets/kept/examples",
    "/v1/heads",
    "/v1/files",
    "/v1/api_keys",
    "/v1/models",
    "/v1/inbound_hooks",
    "/v1/webhook_endpoints",
  ];
  test.each(collections)("DELETE %s/{id} with an id that is none", async (collection) => {
    const own = await newTenant();
    await call("POST", "/v1/datasets", own.key, { name: "kept", task: "single_label", modality: "text" });
    const examples = [{ id: "e", text: "a", label: "x" }];
    await call("POST", "/v1/datasets/kept/examples", own.key, { examples });
    for (const segment of segments) {
      const answer = await call("DELETE", `${collection}/${segment}`, own.key);
      expect([404, 405], `${segment}: ${answer.text}`).toContain(answer.status);
    }
    expect((await call("GET", "/v1/datasets/kept", own.key)).json).toMatchObject({ examples: 1, labels: { x: 1 } });
  });

  test.each(["", ".", "..", "%2e%2e"])("DELETE /v1/admin/tenants/%s", async (segment) => {
    const answer = await call("DELETE", `/v1/admin/tenants/${segment}`, env.ADMIN_KEY);
    expect([404, 405]).toContain(answer.status);
  });
});

describe("an export as CSV", () => {
  async function roundTrip(task: string, ...examples: object[]): Promise<string> {
    path = await newDataset(task);
    await addExamples(...examples);
    const exported = await call("GET", `${path}/export?format=csv`, tenant.key);
    expect(exported.headers.get("content-type")).toBe("text/csv; charset=utf-8");
    const source = await list();
    path = await newDataset(task);
    const imported = await call("POST", `${path}/examples`, tenant.key, exported.text, { "content-type": "text/csv" });
    expect(imported.json, imported.text).toMatchObject({ added: examples.length, rejected: 0 });
    const withoutTimes = (all: object[]) => all.map((example) => ({ ...example, created_at: 0 }));
    expect(withoutTimes(await list())).toEqual(withoutTimes(source));
    return exported.text;
  }

  test("is what an import takes", async () => {
    const text = await roundTrip(
      "single_label",
      { id: "a", text: "plain", label: "x" },
      { id: 'b,"', text: 'quoted "text", with; several\tseparators | and\r\nlines', label: "=1+1" },
      { id: "c", text: "é 日本 😀", label: "a,b" },
    );
    expect(text.split("\r\n").slice(0, 2)).toEqual(["id,text,label", "a,plain,x"]);
  });

  test("keeps labels that hold the separator, or end in what escapes it", async () => {
    const text = await roundTrip(
      "multi_label",
      { id: "a", text: "one", labels: ["a|b", "c"] },
      { id: "b", text: "two", labels: ["d\\", "e\\|f", "g"] },
      { id: "c", text: "three", labels: ["h\\"] },
      { id: "d", text: "four", labels: [] },
    );
    expect(text).toContain('a,one,"a\\|b|c"');
  });

  test("keeps values", async () => {
    expect(
      await roundTrip("regression", { id: "a", text: "one", value: -1.5e-9 }, { id: "b", text: "two", value: 3 }),
    ).toBe("id,text,value\r\na,one,-1.5e-9\r\nb,two,3\r\n");
  });

  test("has a header where there are no examples, and is refused for embeddings and of other formats", async () => {
    expect((await call("GET", `${path}/export?format=csv`, tenant.key)).text).toBe("id,text,label\r\n");
    expectError(await call("GET", `${path}/export?format=xlsx`, tenant.key), 400, "invalid_parameter", "format");
    path = await newDataset("single_label", { modality: "embedding", dimensions: 2 });
    expectError(await call("GET", `${path}/export?format=csv`, tenant.key), 422, "modality_mismatch", "format");
  });
});
