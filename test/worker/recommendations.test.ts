/** Recommendations: what they say, what is refused, where they end, and who may ask for them. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";

const RECOMMENDATIONS = "/v1/recommendations";

let tenant: { id: string; key: string };

const ask = (body: object, key = tenant.key, headers: Record<string, string> = {}) =>
  call("POST", RECOMMENDATIONS, key, body, headers);

async function newDataset(name: string, fields: object, examples: readonly object[], key = tenant.key) {
  await call("POST", "/v1/datasets", key, { name, task: "single_label", modality: "text", ...fields });
  const added = await call("POST", `/v1/datasets/${name}/examples`, key, { examples });
  expect(added.json, added.text).toMatchObject({ added: examples.length });
}

const inLedger = <T>(id: string, work: (sql: SqlStorage) => T): Promise<T> =>
  runInDurableObject(env.TENANT.get(env.TENANT.idFromName(id)), (_: Tenant, { storage }) => work(storage.sql));

const countRows = (id: string) =>
  inLedger(id, (sql) => sql.exec<{ n: number }>("SELECT count(*) AS n FROM recommendations").one().n);

const topics = ["billing refund invoice", "login password account", "delivery parcel courier"];
const words = "please help my the about problem again today urgent".split(" ");

/** Texts of three topics, twelve each. */
const examples = topics.flatMap((topic, label) =>
  Array.from({ length: 12 }, (_, i) => ({
    id: `${label}-${i}`,
    text: `${words[i % words.length]} ${topic.split(" ")[i % 3]} ${words[(3 * i + 1) % words.length]} ${i}`,
    label: topic.split(" ")[0],
  })),
);

beforeAll(async () => {
  tenant = await tenantWithTickets();
  await newDataset("topics", {}, examples);
});

describe("a recommendation", () => {
  test("has the figures of both methods, and is stored and listed", async () => {
    const { status, json, text } = await ask({ dataset: "topics", backbone: "text-static-1" });
    expect(status, text).toBe(201);
    expect(json).toMatchObject({
      object: "recommendation",
      status: "complete",
      dataset: { name: "topics", examples: 36 },
      backbone: { id: "text-static-1" },
      comparison: {
        training_scope: { head: { trained_parameters: 3 * 257 } },
        data_requirements: {
          head: { examples_per_class: { min: 12, median: 12, max: 12 }, imbalance: 1, duplicates: 0, conflicts: 0 },
          fine_tune: { learning_curve: [] },
        },
        adaptability: { head: { all: { gain: 0 } } },
      },
      task_similarity: { examples: 36, subwords_per_word: null },
    });
    const { training_scope: scope, compute_cost: cost, overfitting_risk: risk } = json.comparison;
    expect(scope.fine_tune.trained_parameters).toBeGreaterThan(scope.head.trained_parameters);
    expect(cost.fine_tune.operations).toBeGreaterThan(cost.head.operations);
    expect(cost.head.usd).toBeGreaterThan(0);
    expect(risk.head.gap).toBeCloseTo(risk.head.train_accuracy - risk.head.held_out_accuracy, 12);
    expect(json.reasons.length).toBeGreaterThan(0);
    for (const reason of json.reasons) expect(reason.message).toMatch(/^[A-Z].*\.$/);
    const [low, high] = json.expected.head.interval;
    expect(low).toBeLessThanOrEqual(json.expected.head.accuracy);
    expect(high).toBeGreaterThanOrEqual(json.expected.head.accuracy);
    expect((await call("GET", `${RECOMMENDATIONS}/${json.id}`, tenant.key)).json).toEqual(json);
    expect((await call("GET", `${RECOMMENDATIONS}?dataset=topics`, tenant.key)).json.data).toEqual([json]);
    expect((await call("GET", `${RECOMMENDATIONS}?dataset=tickets`, tenant.key)).json.data).toEqual([]);
  });

  test("counts duplicates and conflicts of labels", async () => {
    const again = [
      { text: "  PLEASE billing help 0", label: "login" },
      { text: "please billing help 0 ", label: "billing" },
    ];
    await newDataset("repeated", {}, [...examples, ...again]);
    const { json } = await ask({ dataset: "repeated", backbone: "text-static-1" });
    const { duplicates, conflicts } = json.comparison.data_requirements.head;
    expect(duplicates).toBeCloseTo(2 / 38, 12);
    expect(conflicts).toBeCloseTo(3 / 38, 12);
  });

  test("abstains where there are too few examples, and says what to do", async () => {
    const { json } = await ask({ dataset: "tickets", backbone: "text-static-1" });
    const { examples_per_class: counts } = json.comparison.data_requirements.head;
    expect(counts.median).toBeGreaterThanOrEqual(5);
    await newDataset(
      "few",
      {},
      examples.filter(({ id }) => /-[0-2]$/.test(id)),
    );
    const few = (await ask({ dataset: "few", backbone: "text-static-1" })).json;
    expect(few).toMatchObject({ recommendation: null, runner_up: "collect_more_data", confidence: 0 });
    expect(few.reasons).toMatchObject([{ code: "too_few_examples" }]);
  });

  test("of embeddings of the caller's knows no other method than a head", async () => {
    const rows = Array.from({ length: 40 }, (_, i) => ({
      embedding: [i % 2, Math.sin(i), Math.cos(3 * i)],
      label: i % 2 ? "a" : "b",
    }));
    await newDataset("vectors", { modality: "embedding", dimensions: 3 }, rows);
    const { json, text } = await ask({ dataset: "vectors" });
    expect(json, text).toMatchObject({
      recommendation: "head",
      expected: { fine_tune: null },
      comparison: { training_scope: { fine_tune: null }, compute_cost: { fine_tune: null } },
      task_similarity: { unknown_words: null },
    });
  });

  test("of values says that it cannot tell, and what would", async () => {
    const rows = examples.map(({ text }, i) => ({ text, value: i % 7 }));
    await newDataset("values", { task: "regression" }, rows);
    const { json, text } = await ask({ dataset: "values", backbone: "text-static-1" });
    expect(json, text).toMatchObject({ recommendation: null, task_similarity: null, expected: { fine_tune: null } });
    expect(json.reasons).toMatchObject([{ code: "not_measured", message: expect.stringContaining("on a test set") }]);
  });

  test("of any number of labels says that it cannot tell, and to measure", async () => {
    const rows = examples.map(({ text, label }) => ({ text, labels: [label] }));
    await newDataset("tags", { task: "multi_label" }, rows);
    const { json, text } = await ask({ dataset: "tags", backbone: "text-static-1" });
    expect(json, text).toMatchObject({ recommendation: null, task_similarity: null, expected: { fine_tune: null } });
    expect(json.reasons).toMatchObject([{ code: "not_measured", message: expect.stringContaining("'measure'") }]);
  });

  test("judges the head on a test set, if it is named", async () => {
    const swapped: Record<string, string> = { billing: "login", login: "delivery", delivery: "billing" };
    await newDataset(
      "swapped",
      {},
      examples.map(({ text, label = "" }) => ({ text, label: swapped[label] })),
    );
    const { json } = await ask({ dataset: "topics", backbone: "text-static-1", test_dataset: "swapped" });
    expect(json.expected.head.accuracy).toBeLessThan(0.3);
  });

  test("is made once for a repeated idempotency key", async () => {
    const headers = { "idempotency-key": "recommend-once" };
    const body = { dataset: "topics", backbone: "text-static-1" };
    const before = await countRows(tenant.id);
    const [first, second] = [await ask(body, tenant.key, headers), await ask(body, tenant.key, headers)];
    expect(second.json).toEqual(first.json);
    expect(await countRows(tenant.id)).toBe(before + 1);
  });

  test("goes with its dataset", async () => {
    const owner = await newTenant();
    await newDataset("topics", {}, examples, owner.key);
    const { id } = (await ask({ dataset: "topics", backbone: "text-static-1" }, owner.key)).json;
    expect((await call("DELETE", "/v1/datasets/topics", owner.key)).status).toBe(200);
    expectError(await call("GET", `${RECOMMENDATIONS}/${id}`, owner.key), 404, "not_found");
    expect(await countRows(owner.id)).toBe(0);
  });

  test("is kept while it is among the newest", async () => {
    const owner = await newTenant();
    await newDataset("topics", {}, examples, owner.key);
    const { id } = (await ask({ dataset: "topics", backbone: "text-static-1" }, owner.key)).json;
    const copies = `WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
      INSERT INTO recommendations (id, dataset, record, bytes) SELECT 'rec_' || i, dataset, record, 100 FROM n, recommendations`;
    await inLedger(owner.id, (sql) => sql.exec(copies).toArray());
    expect((await call("GET", "/v1/limits", owner.key)).json.limits.recommendations).toEqual({
      limit: 1000,
      used: 1000,
    });
    await ask({ dataset: "topics", backbone: "text-static-1" }, owner.key);
    expect(await countRows(owner.id)).toBe(1000);
    expectError(await call("GET", `${RECOMMENDATIONS}/${id}`, owner.key), 404, "not_found");
  });
});

test.each<[object, number, string, string]>([
  [{}, 400, "missing_parameter", "dataset"],
  [{ dataset: "absent" }, 404, "not_found", "dataset"],
  [{ dataset: "topics", backbone: "absent" }, 404, "not_found", "backbone"],
  [{ dataset: "topics", test_dataset: "absent" }, 404, "not_found", "test_dataset"],
  [{ dataset: "topics", budget: { seconds: 0 } }, 400, "invalid_parameter", "budget.seconds"],
  [{ dataset: "topics", budget: { euros: 1 } }, 400, "unknown_parameter", "budget.euros"],
  [{ dataset: "topics", measure: "yes" }, 400, "invalid_parameter", "measure"],
])("%j is refused", async (body, status, code, param) => {
  expectError(await ask(body), status, code as never, param);
});

test("a dataset of one label is refused", async () => {
  await newDataset(
    "single",
    {},
    examples.filter(({ label }) => label === "billing"),
  );
  expectError(await ask({ dataset: "single" }), 422, "too_few_labels", "dataset");
});

test("with 'measure', jobs measure both methods", async () => {
  const owner = await newTenant();
  const rows = [...examples, ...examples.map(({ text, label }) => ({ text: `${text} once more`, label }))];
  await newDataset("topics", {}, rows, owner.key);
  const { status, json, text } = await ask(
    { dataset: "topics", backbone: "text-static-1", measure: true, budget: { seconds: 3600 } },
    owner.key,
  );
  expect(status, text).toBe(202);
  expect(json).toMatchObject({ status: "measuring", dataset: { examples: 72 } });
  expect((await call("GET", `${RECOMMENDATIONS}/${json.id}`, owner.key)).json).toEqual(json);
  expect((await call("GET", "/v1/fine_tuning/jobs", owner.key)).json.data).toEqual([]);
});

test("recommendations want a key with the scope train, and are hidden from other tenants", async () => {
  const owner = await newTenant();
  await newDataset("topics", {}, examples, owner.key);
  const body = { dataset: "topics", backbone: "text-static-1" };
  const { id } = (await ask(body, owner.key)).json;
  await expectAuthorization(owner.key, "train", "POST", RECOMMENDATIONS, body);
  await expectAuthorization(owner.key, "train", "GET", RECOMMENDATIONS);
  await expectAuthorization(owner.key, "train", "GET", `${RECOMMENDATIONS}/${id}`);
  await expectHidden("GET", `${RECOMMENDATIONS}/${id}`, undefined, () =>
    call("DELETE", "/v1/datasets/topics", owner.key),
  );
  expectError(await ask(body, (await newTenant()).key), 404, "not_found", "dataset");
});

describe("a training with a goal", () => {
  const quick = { evaluation: { method: "none" }, hyperparameters: { l2: 1 } };

  test("for accuracy follows a recommendation, and says why", async () => {
    const body = { name: "accurate", dataset: "topics", backbone: "text-static-1", goal: "accuracy", ...quick };
    const { status, json, text } = await call("POST", "/v1/heads", tenant.key, body);
    expect([201, 202], text).toContain(status);
    const choice = status === 201 ? json.training.choice : json.graft.choice;
    const recommendation = (await call("GET", `${RECOMMENDATIONS}/${choice.recommendation}`, tenant.key)).json;
    expect(choice).toMatchObject({ goal: "accuracy", message: recommendation.reasons[0].message });
    const advised = [recommendation.recommendation, recommendation.runner_up].find((method) =>
      ["head", "fine_tune"].includes(method),
    );
    expect(choice.method).toBe(advised);
  });

  test.each([
    ["latency", "text-static-1"],
    ["cost", "text-static-1"],
  ])("for %s trains a head in the request", async (goal, backbone) => {
    const body = { name: goal, dataset: "topics", goal, ...quick };
    const { json, text } = await call("POST", "/v1/heads", tenant.key, body);
    expect(json, text).toMatchObject({
      backbone: { id: backbone },
      training: { method: "head", choice: { goal, method: "head", recommendation: null } },
    });
    expect((await call("GET", `/v1/heads/${goal}`, tenant.key)).json.training.choice).toEqual(json.training.choice);
  });

  test.each<[object, number, string, string]>([
    [{ dataset: "topics", goal: "speed" }, 400, "invalid_parameter", "goal"],
    [{ dataset: "topics", goal: "cost", method: "head" }, 400, "invalid_parameter", "goal"],
    [{ examples, goal: "cost" }, 400, "invalid_parameter", "goal"],
    [{ dataset: "absent", goal: "cost" }, 404, "not_found", "dataset"],
    [{ dataset: "absent", goal: "accuracy" }, 404, "not_found", "dataset"],
  ])("%j is refused", async (fields, status, code, param) => {
    const answer = await call("POST", "/v1/heads", tenant.key, { name: "refused", ...fields });
    expectError(answer, status, code as never, param);
  });
});
