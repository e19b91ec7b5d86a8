/** Tests of versions on datasets: figures, comparisons, their examples, and what deletion leaves. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { mcNemar } from "../../src/core/evaluation/comparison.ts";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";

const EVALUATIONS = "/v1/evaluations";
const fast = { evaluation: { method: "none" }, hyperparameters: { l2: 1 } };

let tenant: { id: string; key: string };
/** Of tickets that the versions have not seen, of an unknown label, out of scope, and one that they were trained on. */
const testExamples = [
  { id: "t1", text: "my card was charged and I want a refund", label: "billing" },
  { id: "t2", text: "the invoice is wrong", label: "billing" },
  { id: "t3", text: "password does not work, cannot log in", label: "login" },
  { id: "t4", text: "where is my delivery", label: "shipping" },
  { id: "t5", text: "parcel lost by the courier", label: "shipping" },
  { id: "t6", text: "please refund the password", label: "login" },
  { id: "t7", text: "do you have a job for me", label: "careers" },
  { id: "t8", text: "recipe for a chocolate cake", label: "other" },
  { id: "t9", text: "  WHERE is my parcel ", label: "shipping" },
];

async function post(body: object, key = tenant.key, headers: Record<string, string> = {}) {
  const answer = await call("POST", EVALUATIONS, key, body, headers);
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
}

async function train(body: object, key = tenant.key) {
  const answer = await call("POST", "/v1/heads", key, { ...fast, ...body });
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
}

async function newDataset(
  key: string,
  dataset: { readonly name: string; readonly [field: string]: unknown },
  examples: readonly object[],
) {
  await call("POST", "/v1/datasets", key, { task: "single_label", modality: "text", ...dataset });
  const added = await call("POST", `/v1/datasets/${dataset.name}/examples`, key, { examples });
  expect(added.json, added.text).toMatchObject({ added: examples.length });
}

async function predictAll(version: number) {
  const input = testExamples.map(({ text }) => text);
  return (await call("POST", "/v1/heads/support/predict", tenant.key, { input, version })).json.data;
}

const listErrors = async (id: string, type: string, page = "") =>
  (await call("GET", `${EVALUATIONS}/${id}/errors?type=${type}${page}`, tenant.key)).json;

const idsOf = ({ data }: { data: { id: string }[] }) => data.map(({ id }) => id);

const inLedger = <T>(id: string, work: (sql: SqlStorage) => T): Promise<T> =>
  runInDurableObject(env.TENANT.get(env.TENANT.idFromName(id)), (_: Tenant, { storage }) => work(storage.sql));

const countRows = (id: string) =>
  inLedger(id, (sql) =>
    ["evaluations", "evaluation_errors"].map(
      (table) => sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n,
    ),
  );

beforeAll(async () => {
  tenant = await tenantWithTickets();
  // The first version takes one topic for another.
  const swapped: Record<string, string> = { login: "shipping", shipping: "login" };
  await train({
    name: "support",
    examples: tickets().map(({ text, label }) => ({ text, label: swapped[label] ?? label })),
  });
  await train({ name: "support", dataset: "tickets" });
  await newDataset(tenant.key, { name: "holdout", out_of_scope_label: "other" }, testExamples);
});

describe("a run", () => {
  test("has the figures of the version's own predictions", async () => {
    const run = await post({ head: "support", dataset: "holdout" });
    const predictions = await predictAll(2);
    const inScope = testExamples
      .map((example, i) => ({ ...example, prediction: predictions[i] }))
      .filter(({ label }) => label !== "other");
    const hits = inScope.filter(({ label, prediction }) => label === prediction.label);
    expect(run).toEqual({
      object: "evaluation.run",
      id: expect.stringMatching(/^eval_[0-9a-f]{32}$/),
      head: "support",
      version: 2,
      dataset: { name: "holdout", revision: 1, examples: 9 },
      evaluation: expect.objectContaining({ method: "test_set", detail: "summary", examples: 8 }),
      comparison: null,
      trained_on: 1,
      out_of_scope_examples: 1,
      unknown_labels: [{ label: "careers", examples: 1 }],
      created_at: expect.any(Number),
    });
    const { evaluation } = run;
    expect(evaluation.accuracy).toBeCloseTo(hits.length / 8, 12);
    const truth = inScope.filter(({ label }) => label !== "careers");
    const confidences = inScope.map(({ prediction }) => prediction.score);
    expect(confidences.every((score) => score > 0)).toBe(true);
    expect(evaluation.confusion.labels).toEqual(["billing", "login", "shipping", "careers"]);
    for (const [row, label] of evaluation.confusion.labels.entries())
      for (const [column, predicted] of evaluation.confusion.labels.entries())
        expect(evaluation.confusion.matrix[row][column]).toBe(
          inScope.filter((each) => each.label === label && each.prediction.label === predicted).length,
        );
    const all = (
      await call("POST", "/v1/heads/support/predict", tenant.key, { input: truth.map(({ text }) => text), top_k: 3 })
    ).json.data;
    const losses = truth.map(
      ({ label }, i) => -Math.log(all[i].scores.find((s: { label: string }) => s.label === label).score),
    );
    expect(evaluation.log_loss).toBeCloseTo(
      losses.reduce((sum, loss) => sum + loss / losses.length, 0),
      6,
    );
    expect(idsOf(await listErrors(run.id, "wrong"))).toEqual(
      inScope
        .filter(({ label, prediction }) => label !== prediction.label)
        .map(({ id }) => id)
        .reverse(),
    );
    expect((await call("GET", `${EVALUATIONS}/${run.id}`, tenant.key)).json).toEqual(run);
  });

  test("compares two versions on the same rows, and lists what was fixed and broken", async () => {
    const run = await post({ head: "support", version: 2, dataset: "holdout", compare_with: 1 });
    const [older, newer] = [await predictAll(1), await predictAll(2)];
    const isHit = (predictions: { label: string }[], i: number) => predictions[i]?.label === testExamples[i]?.label;
    const rows = [...testExamples.keys()].filter((i) => testExamples[i]?.label !== "other");
    const idsWhere = (matches: (i: number) => boolean) =>
      rows
        .filter(matches)
        .map((i) => testExamples[i]?.id)
        .reverse();
    const fixed = idsWhere((i) => isHit(newer, i) && !isHit(older, i));
    const broken = idsWhere((i) => isHit(older, i) && !isHit(newer, i));
    expect(fixed.length).toBeGreaterThan(0);
    expect(run.comparison).toEqual({
      version: 1,
      accuracy: run.evaluation.accuracy,
      other_accuracy: rows.filter((i) => isHit(older, i)).length / rows.length,
      fixed: fixed.length,
      broken: broken.length,
      p_value: mcNemar(broken.length, fixed.length),
      expected_gain: expect.closeTo((fixed.length - broken.length) / rows.length, 12),
      chance_of_loss: expect.any(Number),
      trained_on: null,
    });
    const list = await listErrors(run.id, "fixed");
    expect(idsOf(list)).toEqual(fixed);
    expect(idsOf(await listErrors(run.id, "broken"))).toEqual(broken);
    const index = testExamples.findIndex(({ id }) => id === fixed[0]);
    const { text, label } = testExamples[index] ?? {};
    expect(list.data[0]).toMatchObject({
      object: "evaluation.error",
      id: fixed[0],
      text,
      label,
      prediction: { label: newer[index].label, score: expect.closeTo(newer[index].score, 3), in_scope: true },
      other_prediction: { label: older[index].label },
    });
    const first = await listErrors(run.id, "wrong", "&limit=1");
    const second = await listErrors(run.id, "wrong", `&limit=1&after=${first.last_id}`);
    expect([...idsOf(first), ...idsOf(second)]).toEqual(idsOf(await listErrors(run.id, "wrong")).slice(0, 2));
  });

  test("embeds no text twice", async () => {
    const keys = async () =>
      (await env.KV.list({ prefix: `tenants/${tenant.id}/blocks/` })).keys.map(({ name }) => name);
    await post({ head: "support", dataset: "holdout" });
    const before = await keys();
    expect(before.length).toBeGreaterThan(0);
    await post({ head: "support", dataset: "holdout" });
    expect(await keys()).toEqual(before);
  });

  test("is made once for an idempotency key", async () => {
    const headers = { "idempotency-key": crypto.randomUUID() };
    const body = { head: "support", version: 1, dataset: "holdout", compare_with: 2 };
    const first = await post(body, tenant.key, headers);
    const second = await call("POST", EVALUATIONS, tenant.key, body, headers);
    expect(second.headers.get("idempotent-replayed")).toBe("true");
    expect(second.json).toEqual(first);
    expectError(
      await call("POST", EVALUATIONS, tenant.key, { head: "support", dataset: "holdout" }, headers),
      422,
      "idempotency_key_reused",
      "Idempotency-Key",
    );
  });

  test("is listed by head and dataset, without figures per class", async () => {
    await train({ name: "second", dataset: "tickets" });
    const run = await post({ head: "second", dataset: "tickets" });
    expect(run).toMatchObject({ trained_on: 18, evaluation: { accuracy: 1 } });
    const list = async (query: string) => (await call("GET", `${EVALUATIONS}${query}`, tenant.key)).json;
    const { per_class: _perClass, confusion: _confusion, reliability: _reliability, ...evaluation } = run.evaluation;
    expect((await list("?head=second")).data).toEqual([{ ...run, evaluation }]);
    expect(idsOf(await list("?dataset=tickets"))).toEqual([run.id]);
    expect(idsOf(await list("?head=absent"))).toEqual([]);
    expect(idsOf(await list("?head=second&dataset=holdout"))).toEqual([]);
    const all = await list("?limit=2");
    expect(all.data[0].id).toBe(run.id);
    expect(all.has_more).toBe(true);
    expect((await list(`?limit=1&after=${run.id}`)).data[0].id).toBe(all.data[1].id);
  });
});

describe("other tasks:", () => {
  test("any number of labels counts as right when all of them are", async () => {
    const examples = tickets().map(({ text, label }) => ({
      text,
      labels: label === "login" ? ["login", "urgent"] : [label],
    }));
    await newDataset(tenant.key, { name: "many", task: "multi_label" }, examples);
    await newDataset(tenant.key, { name: "many-test", task: "multi_label" }, [
      ...examples.slice(0, 8),
      { id: "new", text: "please call me", labels: ["phone"] },
    ]);
    await train({ name: "many", dataset: "many" });
    const run = await post({ head: "many", dataset: "many-test" });
    expect(run.unknown_labels).toEqual([{ label: "phone", examples: 1 }]);
    expect(run.evaluation.per_class.at(-1)).toMatchObject({ label: "phone", support: 1 });
    const wrong = await listErrors(run.id, "wrong");
    expect(run.evaluation.accuracy).toBeCloseTo(1 - wrong.data.length / 9, 12);
    expect(wrong.data.find(({ id }: { id: string }) => id === "new")).toMatchObject({
      labels: ["phone"],
      prediction: { labels: expect.any(Array) },
    });
  });

  test("values, and embeddings of one's own, are compared by which version is nearer", async () => {
    const examples = Array.from({ length: 24 }, (_, i) => ({
      id: `e${i}`,
      embedding: [i / 10, (i * 7) % 5, 1],
      value: 3 * i + ((i * 7) % 5),
    }));
    const dataset = { name: "values", task: "regression", modality: "embedding", dimensions: 3 };
    await newDataset(tenant.key, dataset, examples);
    await train({ name: "values", dataset: "values", hyperparameters: { l2: 100 } });
    await train({ name: "values", dataset: "values", hyperparameters: { l2: 1e-3 } });
    const run = await post({ head: "values", dataset: "values", compare_with: 1 });
    expect(run.evaluation).toMatchObject({ examples: 24, r2: expect.any(Number), mae: expect.any(Number) });
    const { comparison } = run;
    expect(comparison.accuracy).toBe(run.evaluation.r2);
    expect(comparison.other_accuracy).toBeLessThan(comparison.accuracy);
    expect(comparison.fixed + comparison.broken).toBe(24);
    expect(comparison.p_value).toBe(mcNemar(comparison.broken, comparison.fixed));
    const fixed = await listErrors(run.id, "fixed", "&limit=100");
    expect(fixed.data).toHaveLength(comparison.fixed);
    for (const { value, prediction, other_prediction } of fixed.data)
      expect(Math.abs(prediction.value - value)).toBeLessThan(Math.abs(other_prediction.value - value));
    const wrong = await listErrors(run.id, "wrong", "&limit=100");
    for (const { value, prediction } of wrong.data)
      expect(Math.abs(prediction.value - value)).toBeGreaterThan(run.evaluation.rmse);
  });
});

describe("refused:", () => {
  test.each<[object, number, string, string | null]>([
    [{ head: "absent", dataset: "holdout" }, 404, "not_found", "head"],
    [{ head: "support", dataset: "absent" }, 404, "not_found", "dataset"],
    [{ head: "support", dataset: "holdout", version: 9 }, 404, "not_found", "head"],
    [{ head: "support", dataset: "holdout", compare_with: 9 }, 404, "not_found", "compare_with"],
    [{ head: "support", dataset: "holdout", compare_with: 2 }, 400, "invalid_parameter", "compare_with"],
    [{ head: "support", dataset: "holdout", version: 0 }, 400, "invalid_parameter", "version"],
    [{ head: "support" }, 400, "missing_parameter", "dataset"],
    [{ head: "support", dataset: "holdout", folds: 2 }, 400, "unknown_parameter", "folds"],
    [{ head: "support", dataset: "regression-test" }, 422, "task_mismatch", "dataset"],
    [{ head: "support", dataset: "embedding-test" }, 422, "modality_mismatch", "dataset"],
    [{ head: "support", dataset: "empty-test" }, 422, "too_few_examples", "dataset"],
    [{ head: "support", dataset: "foreign-test" }, 422, "too_few_labels", "dataset"],
  ])("%j", async (body, status, code, param) => {
    if (code === "task_mismatch")
      await newDataset(tenant.key, { name: "regression-test", task: "regression" }, [{ text: "a", value: 1 }]);
    if (code === "modality_mismatch")
      await newDataset(tenant.key, { name: "embedding-test", modality: "embedding", dimensions: 2 }, [
        { embedding: [1, 2], label: "billing" },
      ]);
    if (code === "too_few_examples") await newDataset(tenant.key, { name: "empty-test" }, []).catch(() => undefined);
    if (code === "too_few_labels") await newDataset(tenant.key, { name: "foreign-test" }, [{ text: "a", label: "x" }]);
    expectError(await call("POST", EVALUATIONS, tenant.key, body), status, code as never, param);
  });

  test("lists of errors that a run does not have, and pages after nothing", async () => {
    const { id } = await post({ head: "support", dataset: "holdout" });
    const errors = (query: string) => call("GET", `${EVALUATIONS}/${id}/errors${query}`, tenant.key);
    expectError(await errors("?type=fixed"), 400, "invalid_parameter", "type");
    expectError(await errors("?type=good"), 400, "invalid_parameter", "type");
    expectError(await errors("?after=absent"), 400, "invalid_parameter", "after");
    expectError(await call("GET", `${EVALUATIONS}?head=NO`, tenant.key), 400, "invalid_parameter", "head");
    expectError(await call("GET", `${EVALUATIONS}/absent/errors`, tenant.key), 404, "not_found");
  });

  test("keys of another scope or of another tenant", async () => {
    const run = await post({ head: "support", dataset: "holdout" });
    const body = { head: "support", dataset: "holdout" };
    await expectAuthorization(tenant.key, "train", "POST", EVALUATIONS, body);
    for (const path of ["", `/${run.id}`, `/${run.id}/errors`])
      await expectAuthorization(tenant.key, "train", "GET", `${EVALUATIONS}${path}`);
    const owner = await tenantWithTickets();
    await train({ name: "support", dataset: "tickets" }, owner.key);
    const { id } = await post({ head: "support", dataset: "tickets" }, owner.key);
    const stranger = await newTenant();
    expect((await call("GET", EVALUATIONS, stranger.key)).json.data).toEqual([]);
    await expectHidden("GET", `${EVALUATIONS}/${id}/errors`, undefined, () => Promise.resolve());
    await expectHidden("GET", `${EVALUATIONS}/${id}`, undefined, () => call("DELETE", "/v1/heads/support", owner.key));
    await expectHidden("POST", EVALUATIONS, { head: "support", dataset: "tickets" }, () => Promise.resolve());
  });
});

describe("deletion", () => {
  test("of an example takes it out of the lists, and a change leaves it as the run has seen it", async () => {
    const { id } = await post({ head: "support", dataset: "holdout" });
    const before = idsOf(await listErrors(id, "wrong"));
    expect(before).toContain("t7");
    const changed = await call("PATCH", "/v1/datasets/holdout/examples/t7", tenant.key, { text: "other words" });
    expect(changed.status, changed.text).toBe(200);
    const { data } = await listErrors(id, "wrong");
    expect(data.find((error: { id: string }) => error.id === "t7")).toMatchObject({
      text: "do you have a job for me",
      label: "careers",
    });
    const revisions = (await call("GET", "/v1/datasets/holdout/revisions", tenant.key)).json.data;
    expect(revisions.find(({ revision }: { revision: number }) => revision === 1)).toMatchObject({ pinned: true });
    await call("DELETE", "/v1/datasets/holdout/examples/t7", tenant.key);
    expect(idsOf(await listErrors(id, "wrong"))).toEqual(before.filter((each) => each !== "t7"));
    expect((await listErrors(id, "wrong", "&after=t7")).data.length).toBeLessThan(before.length);
  });

  test.each(["/v1/heads/support", "/v1/datasets/holdout"])("of %s takes its runs along", async (path) => {
    const owner = await tenantWithTickets();
    await train({ name: "support", dataset: "tickets" }, owner.key);
    await newDataset(owner.key, { name: "holdout" }, testExamples);
    const { id } = await post({ head: "support", dataset: "holdout" }, owner.key);
    expect(await countRows(owner.id)).toEqual([1, 1]);
    expect((await call("DELETE", path, owner.key)).status).toBe(200);
    expectError(await call("GET", `${EVALUATIONS}/${id}`, owner.key), 404, "not_found");
    await vi.waitUntil(async () => (await countRows(owner.id)).every((count) => count === 0));
  });
});

describe("a training's test set", () => {
  test("tests the new version beside the active one, and leaves 'promote' as it is", async () => {
    const owner = await tenantWithTickets();
    await newDataset(owner.key, { name: "holdout", out_of_scope_label: "other" }, testExamples);
    const body = { name: "support", dataset: "tickets", test_dataset: "holdout" };
    const first = await train(body, owner.key);
    expect(first).toMatchObject({ version: 1, active_version: 1, test: { dataset: "holdout", failure: null } });
    const second = await train({ ...body, promote: false }, owner.key);
    expect(second).toMatchObject({ version: 2, active_version: 1 });
    const runs = (await call("GET", `${EVALUATIONS}?head=support`, owner.key)).json.data;
    expect(idsOf({ data: runs })).toEqual([second.test.evaluation, first.test.evaluation]);
    expect(runs[0]).toMatchObject({ version: 2, trained_on: 1, comparison: { version: 1, fixed: 0, broken: 0 } });
    expect(runs[1]).toMatchObject({ version: 1, comparison: null });
    expect(second.test.accuracy).toBe(runs[0].evaluation.accuracy);
    expect((await call("GET", "/v1/heads/support/versions/2", owner.key)).json.test).toEqual(second.test);
  });

  test.each<[object, number, string]>([
    [{ test_dataset: "absent" }, 404, "not_found"],
    [{ test_dataset: "values" }, 422, "task_mismatch"],
    [{ test_dataset: 7 }, 400, "invalid_parameter"],
  ])("%j is refused before the training", async (fields, status, code) => {
    const body = { name: "refused", dataset: "tickets", ...fields };
    expectError(await call("POST", "/v1/heads", tenant.key, body), status, code as never, "test_dataset");
    expectError(await call("GET", "/v1/heads/refused", tenant.key), 404, "not_found");
  });

  test("that shares no label with the head is told, and the version is kept", async () => {
    await newDataset(tenant.key, { name: "strange" }, [{ text: "a", label: "x" }]);
    const trained = await train({ name: "kept", dataset: "tickets", test_dataset: "strange" });
    const failure = { code: "too_few_labels", message: expect.any(String) };
    expect(trained.test).toEqual({ dataset: "strange", evaluation: null, accuracy: null, failure });
    expect(trained.active_version).toBe(1);
  });
});

test("the newest runs are kept, as many as the limits allow", async () => {
  const owner = await tenantWithTickets();
  await train({ name: "support", dataset: "tickets" }, owner.key);
  const body = { head: "support", dataset: "tickets" };
  const { id } = await post(body, owner.key);
  const SERIES = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)";
  const copy = `${SERIES} INSERT INTO evaluations (id, head, version, dataset, revision, record, bytes, created_at)
    SELECT 'eval_' || i, head, version, dataset, revision, record, 100, created_at FROM n, evaluations WHERE number = 1`;
  await inLedger(owner.id, (sql) => sql.exec(copy, 1000).toArray());
  const { limits } = (await call("GET", "/v1/limits", owner.key)).json;
  expect(limits.evaluations).toEqual({ limit: 1000, used: 1000 });
  expect(limits.evaluation_bytes.used).toBeGreaterThan(100_000);
  await post(body, owner.key);
  expect((await countRows(owner.id))[0]).toBe(1000);
  expectError(await call("GET", `${EVALUATIONS}/${id}`, owner.key), 404, "not_found");
  await inLedger(owner.id, (sql) => sql.exec("UPDATE evaluations SET bytes = 1e8").toArray());
  const last = await post(body, owner.key);
  expect((await countRows(owner.id))[0]).toBe(3);
  expect((await call("GET", EVALUATIONS, owner.key)).json.data[0].id).toBe(last.id);
});
