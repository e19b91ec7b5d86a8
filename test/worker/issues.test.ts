/** Issues of a dataset: how they are found, listed and resolved, and what is remembered of them. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import type { DatasetIssue } from "../../src/api/issues.ts";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { call, newTenant, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";

const ISSUES = "/v1/datasets/tickets/issues";

/** Each ticket as three people might put it. */
const texts = tickets().flatMap(({ text, label }) =>
  [text, `hello, ${text}`, `${text}, can you help`].map((each) => ({ text: each, label })),
);
let tenant: { id: string; key: string };

const inLedger = <T>(work: (sql: SqlStorage) => T): Promise<T> =>
  runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant.id)), (_: Tenant, { storage }) => work(storage.sql));

const count = (table: string) => inLedger((sql) => sql.exec(`SELECT count(*) AS n FROM ${table}`).one().n);

async function list(query = ""): Promise<readonly DatasetIssue[]> {
  const answer = await call("GET", `${ISSUES}${query}`, tenant.key);
  expect(answer.status, answer.text).toBe(200);
  return answer.json.data;
}

const resolve = (items: readonly object[], headers: Record<string, string> = {}) =>
  call("POST", `${ISSUES}/resolve`, tenant.key, { items }, headers);

async function findIssue(type: string, example: string): Promise<DatasetIssue> {
  const issue = (await list(`?type=${type}&limit=100`)).find((each) => each.example.id === example);
  if (issue === undefined) throw new Error(`${example} has no issue of the type ${type}.`);
  return issue;
}

const getExample = async (id: string) => (await call("GET", `/v1/datasets/tickets/examples/${id}`, tenant.key)).json;

beforeAll(async () => {
  tenant = await newTenant();
  await call("POST", "/v1/datasets", tenant.key, { name: "tickets", task: "single_label", modality: "text" });
  const examples = [
    ...texts.map((ticket, i) => ({ id: `e${i}`, ...ticket })),
    { id: "wrong", text: "please refund the invoice, the payment was charged twice", label: "shipping" },
    { id: "near", text: "where is my parcel, can you help me", label: "login" },
    { id: "conflict", text: `  ${texts[0]?.text.toUpperCase()}`, label: "login" },
    { id: "again", text: `${texts[1]?.text} `, label: texts[1]?.label },
  ];
  const added = await call("POST", "/v1/datasets/tickets/examples", tenant.key, { examples });
  expect(added.json, added.text).toMatchObject({ added: examples.length });
  const head = {
    name: "support",
    dataset: "tickets",
    backbone: "hash-text-1",
    evaluation: { method: "none" },
    hyperparameters: { l2: 1 },
  };
  expect((await call("POST", "/v1/heads", tenant.key, head)).status).toBe(201);
});

test("needs the scope 'train'", async () => {
  await expectAuthorization(tenant.key, "train", "GET", ISSUES);
  const body = { items: [{ id: "issue_0", action: "dismiss" }] };
  await expectAuthorization(tenant.key, "train", "POST", `${ISSUES}/resolve`, body);
});

describe("the list", () => {
  test("has each type, most likely first, with a suggestion and a reason", async () => {
    const issues = await list("?limit=100");
    const scores = issues.map(({ score }) => score);
    expect(scores).toEqual(scores.toSorted((a, b) => b - a));
    const find = (type: string, id: string) =>
      issues.find((issue) => issue.type === type && issue.example.id === id) ?? null;
    expect(find("label_error", "wrong")).toMatchObject({
      object: "dataset.issue",
      example: { object: "example", id: "wrong", label: "shipping" },
      suggested_label: "billing",
      reason: expect.stringContaining("expect the label 'billing'"),
    });
    expect(find("conflict", "conflict")).toMatchObject({ suggested_label: "billing", related_id: "e0" });
    expect(find("near_duplicate", "near")).toMatchObject({ suggested_label: "shipping", related_id: "e38" });
    expect(find("duplicate", "again")).toMatchObject({ suggested_label: null, related_id: "e1" });
    // The others are right.
    const flagged = issues.filter(({ type, score }) => type === "label_error" && score > 0.5);
    expect(flagged.map(({ example }) => example.id).sort()).toEqual(["conflict", "near", "wrong"]);
  });

  test("has pages, and issues of one type alone", async () => {
    const all = await list("?limit=100");
    const pages: DatasetIssue[] = [];
    for (let after = ""; ; after = `&after=${pages.at(-1)?.id}`) {
      const page = await call("GET", `${ISSUES}?limit=2${after}`, tenant.key);
      pages.push(...page.json.data);
      if (!page.json.has_more) break;
    }
    expect(pages).toEqual(all);
    expect(await list("?type=duplicate")).toEqual(all.filter(({ type }) => type === "duplicate"));
    expect(await list("?head=support&limit=100")).toEqual(all);
  });

  test("is stored without texts, and found once for a revision", async () => {
    const before = await inLedger((sql) => sql.exec("SELECT * FROM issue_lists").toArray());
    await inLedger((sql) => sql.exec("UPDATE issue_lists SET noise = 0.125"));
    await list();
    expect(await inLedger((sql) => sql.exec("SELECT * FROM issue_lists").toArray())).toEqual([
      { ...before[0], noise: 0.125 },
    ]);
    const stored = await inLedger((sql) => JSON.stringify(sql.exec("SELECT * FROM issues").toArray()));
    expect(stored).not.toContain("parcel");
  });

  test("refuses what it does not know", async () => {
    expectError(await call("GET", `${ISSUES}?type=typo`, tenant.key), 400, "invalid_parameter", "type");
    expectError(await call("GET", `${ISSUES}?head=nobody`, tenant.key), 404, "not_found", "head");
    expectError(await call("GET", `${ISSUES}?after=issue_0`, tenant.key), 400, "invalid_parameter", "after");
  });

  test("fails where there is nothing to judge by", async () => {
    await call("POST", "/v1/datasets", tenant.key, { name: "empty", task: "single_label", modality: "text" });
    expectError(await call("GET", "/v1/datasets/empty/issues", tenant.key), 422, "too_few_examples");
    const one = { examples: [{ text: "where is my parcel", label: "shipping" }] };
    await call("POST", "/v1/datasets/empty/examples", tenant.key, one);
    expectError(await call("GET", "/v1/datasets/empty/issues", tenant.key), 422, "too_few_labels");
  });
});

describe("resolving", () => {
  test("refuses a request as a whole if one item is wrong", async () => {
    const duplicate = await findIssue("duplicate", "again");
    const wrong = await findIssue("label_error", "wrong");
    const cases = [
      [{ id: "issue_0", action: "dismiss" }, 404, "not_found", "items[1].id"],
      [{ id: duplicate.id, action: "relabel" }, 400, "missing_parameter", "items[1].label"],
      [{ id: duplicate.id, action: "relabel", value: 3 }, 422, "task_mismatch", "items[1].value"],
      [{ id: duplicate.id, action: "dismiss", label: "login" }, 400, "invalid_parameter", "items[1].label"],
      [{ id: duplicate.id, action: "forget" }, 400, "invalid_parameter", "items[1].action"],
    ] as const;
    for (const [item, status, code, param] of cases)
      expectError(await resolve([{ id: wrong.id, action: "delete" }, item]), status, code, param);
    expect(await getExample("wrong")).toMatchObject({ label: "shipping" });
  });

  test("changes examples in one revision, once", async () => {
    const items = [
      { id: (await findIssue("label_error", "wrong")).id, action: "relabel" },
      { id: (await findIssue("duplicate", "again")).id, action: "delete" },
      { id: (await findIssue("near_duplicate", "near")).id, action: "relabel", label: "shipping" },
      // Its example has just changed.
      { id: (await findIssue("label_error", "near")).id, action: "delete" },
    ];
    const { revision } = (await call("GET", "/v1/datasets/tickets", tenant.key)).json;
    // A live input that is equal to the example that is deleted.
    await inLedger((sql) =>
      sql.exec(
        `INSERT INTO captured_inputs (head, version, group_hash, input, prediction, bytes, created_at, expires_at)
         SELECT heads.id, 1, group_hash, input, '{}', 1, 1, 1e10 FROM heads, examples WHERE examples.id = 'again'`,
      ),
    );
    expect(await count("captured_inputs")).toBe(1);
    const headers = { "idempotency-key": "resolve-1" };
    const first = await resolve(items, headers);
    expect(first.json, first.text).toMatchObject({
      object: "dataset.change",
      ...{ updated: 2, deleted: 1, dismissed: 0, unchanged: 1 },
      dataset: { revision: revision + 1 },
    });
    const replayed = await resolve(items, headers);
    expect(replayed.headers.get("idempotent-replayed")).toBe("true");
    expect(replayed.json).toEqual(first.json);
    expect((await resolve(items.slice(0, 3))).json).toMatchObject({
      ...{ updated: 0, deleted: 0, unchanged: 3 },
      dataset: { revision: revision + 1 },
    });
    expect(await getExample("wrong")).toMatchObject({ label: "billing" });
    expect(await getExample("near")).toMatchObject({ label: "shipping" });
    expect((await call("GET", "/v1/datasets/tickets/examples/again", tenant.key)).status).toBe(404);
    expect(await count("captured_inputs")).toBe(0);
    const left = await list("?limit=100");
    expect(left.map(({ example }) => example.id)).not.toContain("wrong");
    // Found again, of which nothing is left to resolve.
    expect((await resolve(items.slice(0, 2))).json).toMatchObject({ unchanged: 2 });
  });

  test("remembers what was dismissed until the example changes", async () => {
    const issue = await findIssue("label_error", "conflict");
    const conflict = await findIssue("conflict", "conflict");
    const dismissed = await resolve([issue, conflict].map(({ id }) => ({ id, action: "dismiss" })));
    expect(dismissed.json).toMatchObject({ dismissed: 2, unchanged: 0 });
    expect((await resolve([{ id: issue.id, action: "dismiss" }])).json).toMatchObject({ dismissed: 0, unchanged: 1 });
    const idsOf = async () => (await list("?limit=100")).map(({ id }) => id);
    expect(await idsOf()).not.toContain(issue.id);
    const more = { examples: [{ id: "more", text: "another parcel is lost", label: "shipping" }] };
    await call("POST", "/v1/datasets/tickets/examples", tenant.key, more);
    const found = await list("?limit=100");
    expect(found.map(({ example }) => example.id)).not.toContain("conflict");
    await call("PATCH", "/v1/datasets/tickets/examples/conflict", tenant.key, { label: "shipping" });
    const again = await findIssue("conflict", "conflict");
    expect(again.id).not.toBe(conflict.id);
  });

  test("what was decided goes with the example, and all of it with the dataset", async () => {
    const decisions = "resolved_issues WHERE action = 'dismiss'";
    expect(await count(decisions)).toBe(2);
    await call("DELETE", "/v1/datasets/tickets/examples/conflict", tenant.key);
    expect(await count(decisions)).toBe(0);
    expect(await count("issues")).toBeGreaterThan(0);
    const remove = () => call("DELETE", "/v1/datasets/tickets", tenant.key);
    await expectHidden("POST", `${ISSUES}/resolve`, { items: [{ id: "issue_0", action: "dismiss" }] }, remove);
    await expectHidden("GET", ISSUES, undefined, async () => undefined);
    for (const table of ["issue_lists", "issues", "resolved_issues"]) expect(await count(table), table).toBe(0);
  });
});

describe("other tasks", () => {
  async function issuesOf(name: string, task: string, examples: readonly object[]): Promise<readonly DatasetIssue[]> {
    await call("POST", "/v1/datasets", tenant.key, { name, task, modality: "embedding", dimensions: 4 });
    await call("POST", `/v1/datasets/${name}/examples`, tenant.key, { examples });
    const answer = await call("GET", `/v1/datasets/${name}/issues?type=label_error`, tenant.key);
    expect(answer.status, answer.text).toBe(200);
    return answer.json.data;
  }

  /** Points in four directions, none twice. */
  const points = Array.from({ length: 60 }, (_, i) => {
    const embedding = [0, 1, 2, 3].map((j) => (i % 4 === j ? 1 : 0) + 0.1 * Math.sin(7 * i + j));
    return { id: `p${i}`, embedding };
  });

  test("labels that are missing, or too many", async () => {
    const examples = points.map((point, i) => ({ ...point, labels: i === 8 ? ["b"] : [i % 4 === 0 ? "a" : "b"] }));
    const [first] = await issuesOf("many", "multi_label", examples);
    expect(first).toMatchObject({ example: { id: "p8" }, suggested_label: null, suggested_labels: ["a"] });
    const body = { items: [{ id: first?.id, action: "relabel" }] };
    const resolved = await call("POST", "/v1/datasets/many/issues/resolve", tenant.key, body);
    expect(resolved.json, resolved.text).toMatchObject({ updated: 1, dataset: { labels: { a: 15, b: 45 } } });
  });

  test("values far from those of similar examples", async () => {
    const examples = points.map((point, i) => ({ ...point, value: i === 8 ? 90 : (i % 4) + 0.2 * Math.cos(i) }));
    const [first] = await issuesOf("values", "regression", examples);
    expect(first).toMatchObject({ example: { id: "p8", value: 90 }, suggested_label: null });
    expect(first?.suggested_value).toBeLessThan(10);
  });
});
