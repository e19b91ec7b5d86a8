/** Heads that know labels by their names and descriptions. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";

const labels = [
  { name: "billing", description: "Invoices, charges, refunds and payments." },
  { name: "LoginProblem" },
  { name: "shipping_delay", description: "A parcel that has not arrived." },
];
const names = ["LoginProblem", "billing", "shipping_delay"];
const named = (...list: string[]) => list.map((name) => ({ name }));
let owner: { id: string; key: string };

beforeAll(async () => {
  owner = await tenantWithTickets();
});

const postHead = (body: object, key = owner.key) => call("POST", "/v1/heads", key, { name: "support", ...body });
const trainHead = async (body: object, key = owner.key) => {
  const answer = await postHead(body, key);
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
};
const predict = async (name: string, input: string) =>
  (await call("POST", `/v1/heads/${name}/predict`, owner.key, { input, top_k: 3 })).json.data[0];

describe("labels alone", () => {
  test("make a zero-shot head, which predicts and does not judge what is in scope", async () => {
    const head = await trainHead({ labels, backbone: "auto" });
    expect(head).toMatchObject({
      version: 1,
      active_version: 1,
      task: "single_label",
      labels: names,
      backbone: { id: "text-use-1" },
      dataset: { name: null, revision: null, examples: 0 },
      training: { method: "zero_shot", examples: 0, lexical: false, labels },
      evaluation: { method: "none", examples: 0, reason: expect.stringContaining("no examples") },
    });
    expect(head.training).not.toHaveProperty("candidates");
    const prediction = await predict("support", "you took the money from my card twice");
    expect(prediction).toMatchObject({ label: "billing", in_scope: null });
    expect(prediction.score).toBeLessThan(0.95);
    expect((await predict("support", "I can't sign in to my account")).label).toBe("LoginProblem");
    const [listed] = (await call("GET", "/v1/heads", owner.key)).json.data;
    expect(listed.training).not.toHaveProperty("labels");
    const exported = await call("GET", "/v1/heads/support/versions/1/export", owner.key);
    expect(exported.json.weights).toHaveLength(3);
  });

  test("with examples of their own are trained on these as well, and evaluated where some can be held out", async () => {
    const one = await trainHead({
      name: "few",
      labels: [
        { name: "yes", examples: ["sure thing"] },
        { name: "no", examples: ["not at all"] },
      ],
    });
    expect(one.training).toMatchObject({ method: "head", examples: 2 });
    expect(one.evaluation).toMatchObject({ method: "none", examples: 0 });
    const examples = ["I say yes", "yes please", "oh yes", "sure, yes"];
    const four = await trainHead({
      name: "few",
      labels: [{ name: "yes", examples }, { name: "no" }],
      examples: examples.map((text) => ({ text: text.replace("yes", "no"), label: "no" })),
    });
    expect(four).toMatchObject({ version: 2, dataset: { name: null, examples: 8 }, training: { examples: 8 } });
    expect(four.evaluation).toMatchObject({ method: "cross_validation", examples: 8 });
    expect(four.evaluation.accuracy).toBeGreaterThan(0.5);
  });

  test("say clearly what is wrong with them", async () => {
    expectError(await postHead({ labels: [] }), 422, "too_few_labels", "labels");
    expectError(await postHead({ labels: named("one") }), 422, "too_few_labels", "labels");
    expectError(await postHead({ labels: named("a", "b", " a") }), 422, "invalid_label", "labels[2].name");
    expectError(await postHead({ labels: named("a", "") }), 400, "invalid_parameter", "labels[1].name");
    const long = "b".repeat(limits.label_characters + 1);
    expectError(await postHead({ labels: named("a", long) }), 422, "limit_exceeded", "labels[1].name");
    const description = "b ".repeat(limits.label_description_characters);
    const described = [{ name: "a" }, { name: "b", description }];
    expectError(await postHead({ labels: described }), 422, "limit_exceeded", "labels[1].description");
    const blank = [{ name: "a" }, { name: "b", examples: ["fine", " "] }];
    expectError(await postHead({ labels: blank }), 422, "input_empty", "labels[1].examples[1]");
    const unknown = [{ name: "a" }, { name: "b", colour: "red" }];
    expectError(await postHead({ labels: unknown }), 400, "unknown_parameter", "labels[1].colour");
    expectError(await postHead({ labels, method: "fine_tune" }), 422, "not_available", "labels");
    expectError(await postHead({}), 400, "missing_parameter", "dataset");
    const numbers = [{ embedding: [1, 2], label: "a" }];
    expectError(await postHead({ labels, examples: numbers }), 422, "modality_mismatch", "labels");
    const many = [{ text: "a text", labels: ["a"] }];
    expectError(await postHead({ labels, examples: many }), 422, "task_mismatch", "labels");
  });
});

describe("labels beside a dataset", () => {
  test("name labels that have no examples yet, and the dataset's examples are those that are evaluated", async () => {
    const head = await trainHead({ name: "both", dataset: "tickets", labels });
    expect(head.labels).toEqual(["LoginProblem", "billing", "login", "shipping", "shipping_delay"]);
    expect(head).toMatchObject({
      dataset: { name: "tickets", examples: 18 },
      training: { method: "head", examples: 18 },
    });
    expect(head.evaluation).toMatchObject({ method: "cross_validation", examples: 18 });
    for (const { label, support } of head.evaluation.per_class)
      expect(support, label).toBe(["billing", "login", "shipping"].includes(label) ? 6 : 0);
    expect((await predict("both", "I was charged twice")).label).toBe("billing");
  });

  test("an empty dataset makes a zero-shot head that learns into it, and a retraining keeps the labels", async () => {
    const { id, key } = await newTenant();
    await call("POST", "/v1/datasets", key, { name: "inbox", task: "single_label", modality: "text" });
    const first = await trainHead({ dataset: "inbox", labels }, key);
    expect(first).toMatchObject({ dataset: { name: "inbox", examples: 0 }, training: { method: "zero_shot" } });
    const feedback = await call("POST", "/v1/heads/support/feedback", key, {
      examples: [{ text: "refund my last invoice", label: "billing" }],
    });
    expect(feedback.json).toMatchObject({ added: 1, judged: 1, hits: 1 });
    await call("PUT", "/v1/heads/support/policy", key, { retrain_after_examples: 1, promote: "always" });
    await expect
      .poll(async () => (await call("GET", "/v1/heads/support", key)).json, { timeout: 20_000, interval: 50 })
      .toMatchObject({
        version: 2,
        labels: names,
        dataset: { examples: 1 },
        training: { method: "head", examples: 1, labels },
      });
    expect((await getLedger(env.TENANT, id).getPolicy("support")).ok).toBe(true);
  });

  test("are for one label a text", async () => {
    const { key } = owner;
    for (const [name, task, modality] of [
      ["tags", "multi_label", "text"],
      ["prices", "regression", "text"],
    ])
      await call("POST", "/v1/datasets", key, { name, task, modality });
    for (const dataset of ["tags", "prices"])
      expectError(await postHead({ name: dataset, dataset, labels }), 422, "task_mismatch", "labels");
    await call("POST", "/v1/datasets", key, {
      name: "scoped",
      task: "single_label",
      modality: "text",
      out_of_scope_label: "billing",
    });
    const scoped = await postHead({ name: "scoped", dataset: "scoped", labels });
    expectError(scoped, 422, "invalid_label", "labels[0].name");
    const value = {
      name: "few",
      examples: [
        { text: "a", value: 1 },
        { text: "b", value: 2 },
      ],
    };
    await trainHead({ ...value, name: "number" });
    expectError(await postHead({ name: "number", labels }), 409, "task_mismatch", "name");
  });
});

test("a head without a dataset says where its feedback can go", async () => {
  await trainHead({ name: "alone", labels });
  const answer = await call("POST", "/v1/heads/alone/feedback", owner.key, {
    examples: [{ text: "a", label: "billing" }],
  });
  expectError(answer, 422, "not_available");
  expect(answer.json.error.message).toMatch(/[Tt]rain it on a dataset/);
});
