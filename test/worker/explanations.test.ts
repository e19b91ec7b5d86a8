import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { createKey, expectError } from "./assertions.ts";

let key: string;

beforeAll(async () => {
  key = (await tenantWithTickets()).key;
  const values = Array.from({ length: 20 }, (_, i) => ({ embedding: [i / 40, (i % 3) / 3], value: 2 * i }));
  for (const body of [
    { name: "single", dataset: "tickets", hyperparameters: { lexical: true } },
    { name: "multi", examples: tickets().map(({ text, label }) => ({ text, labels: [label, "ticket"] })) },
    { name: "value", examples: values },
    { name: "encoder", dataset: "tickets", backbone: "text-use-1" },
  ]) {
    const answer = await call("POST", "/v1/heads", key, { ...body, evaluation: { method: "none" } });
    expect(answer.status, answer.text).toBe(201);
  }
});

async function explain(head: string, body: object, token = key) {
  const answer = await call("POST", `/v1/heads/${head}/predict`, token, { ...body, explain: true });
  expect(answer.status, answer.text).toBe(200);
  return answer.json.data;
}

interface Part {
  weight: number;
  against?: number;
}
const sumOf = (parts: Part[], field: keyof Part) => parts.reduce((sum, part) => sum + (part[field] ?? 0), 0);

describe("an explanation", () => {
  test.each(["single", "encoder"])("of head %s adds up to the log of how much likelier the label is", async (head) => {
    const [prediction] = await explain(head, { input: "Please refund my invoice", top_k: 2 });
    const { label, scores, explanation } = prediction;
    expect(explanation).toMatchObject({ label, runner_up: scores[1].label });
    const weight = sumOf(explanation.terms, "weight") + explanation.bias;
    const against = sumOf(explanation.terms, "against") + explanation.bias_against;
    expect(weight).toBeCloseTo(explanation.logit.weight, 6);
    expect(against).toBeCloseTo(explanation.logit.against, 6);
    expect(weight - against).toBeCloseTo(Math.log(scores[0].score / scores[1].score), 4);
    expect(sumOf(Object.values(explanation.bias_parts), "weight")).toBeCloseTo(explanation.bias, 9);
    const texts = explanation.terms.map(({ text }: { text: string }) => text);
    expect(texts).toEqual(expect.arrayContaining(["refund", "invoice"]));
    for (const text of texts) expect("Please refund my invoice").toContain(text);
    const [first] = explanation.terms;
    expect(first.weight - first.against).toBeGreaterThan(0);
  });

  test("of any number of labels is of the likeliest one, and of a value adds up to it", async () => {
    const [multi] = await explain("multi", { input: "where is my parcel" });
    expect(multi.explanation.label).toBe(multi.scores[0].label);
    expect(multi.explanation).not.toHaveProperty("runner_up");
    const logit = sumOf(multi.explanation.terms, "weight") + multi.explanation.bias;
    expect(1 / (1 + Math.exp(-logit))).toBeCloseTo(multi.scores[0].score, 6);
    const [value] = await explain("value", { input: { embedding: [0.2, 0.3] } });
    expect(value.explanation).toMatchObject({ terms: [], nearest: [] });
    expect(value.explanation.bias).toBeCloseTo(value.value, 6);
    expect(value.explanation).not.toHaveProperty("label");
  });

  test("is of each input, and of what is read of one that was cut", async () => {
    const long = "refund ".repeat(6_000);
    const data = await explain("single", { input: ["where is my parcel", long], truncate: true });
    expect(data.map(({ explanation }: { explanation: { terms: unknown[] } }) => explanation.terms.length > 0)).toEqual([
      true,
      true,
    ]);
    expect(data[1].truncated).toBe(true);
    const plain = await call("POST", "/v1/heads/single/predict", key, { input: "where is my parcel", explain: false });
    expect(plain.json.data[0]).not.toHaveProperty("explanation");
  });

  test("is of few inputs, and of few characters where each text is embedded many times", async () => {
    const input = Array(limits.explained_inputs + 1).fill("a");
    const many = await call("POST", "/v1/heads/single/predict", key, { input, explain: true });
    expectError(many, 422, "limit_exceeded", "input");
    expect(many.json.error.details).toEqual({ limit: limits.explained_inputs, actual: limits.explained_inputs + 1 });
    const long = Array(limits.explained_inputs).fill("where is the parcel that I ordered ".repeat(40));
    const much = await call("POST", "/v1/heads/encoder/predict", key, { input: long, explain: true });
    expectError(much, 422, "limit_exceeded", "input");
    const wrong = await call("POST", "/v1/heads/single/predict", key, { input: "a", explain: "yes" });
    expectError(wrong, 400, "invalid_parameter", "explain");
  });
});

describe("the nearest training examples", () => {
  interface Nearest {
    id: string;
    text?: string;
    label?: string;
    similarity: number;
  }

  const nearestOf = async (head: string, input: unknown, token = key): Promise<Nearest[]> =>
    (await explain(head, { input }, token))[0].explanation.nearest;

  test.each(["single", "encoder"])("of head %s are shown with their ids, the nearest first", async (head) => {
    const [example] = (await call("GET", "/v1/datasets/tickets/examples?contains=charged", key)).json.data;
    const nearest = await nearestOf(head, "I was charged twice!");
    expect(nearest).toHaveLength(5);
    expect(nearest[0]).toMatchObject({ id: example.id, text: "I was charged twice", label: "billing" });
    expect(nearest[0]?.similarity).toBeGreaterThan(0.9);
    const similarities = nearest.map(({ similarity }) => similarity);
    expect(similarities).toEqual(similarities.toSorted((a, b) => b - a));
  });

  test("are not shown to a key that may only predict, and none are known of examples sent with the request", async () => {
    const predictKey = await createKey(key, "predict");
    const [prediction] = await explain("single", { input: "I was charged twice" }, predictKey);
    expect(prediction.explanation.nearest).toEqual([]);
    expect(prediction.explanation.terms).not.toEqual([]);
    expect(await nearestOf("multi", "where is my parcel")).toEqual([]);
  });

  test("are of embeddings and values too, and of any number of labels", async () => {
    const { key: own } = await newTenant();
    const sets = [
      { name: "values", task: "regression", modality: "embedding", dimensions: 2 },
      { name: "tags", task: "multi_label", modality: "text" },
    ];
    for (const set of sets) expect((await call("POST", "/v1/datasets", own, set)).status).toBe(201);
    const values = Array.from({ length: 12 }, (_, i) => ({ id: `v${i}`, embedding: [i / 12, 1 - i / 12], value: i }));
    await call("POST", "/v1/datasets/values/examples", own, { examples: values });
    const tags = tickets().map(({ text, label }, i) => ({
      id: `t${i}`,
      text,
      labels: i % 2 ? [label] : [label, "even"],
    }));
    await call("POST", "/v1/datasets/tags/examples", own, { examples: tags });
    for (const { name } of sets)
      await call("POST", "/v1/heads", own, { name, dataset: name, evaluation: { method: "none" } });
    const [first] = await nearestOf("values", { embedding: [0.5, 0.5] }, own);
    expect(first).toEqual({ id: "v6", value: 6, similarity: expect.closeTo(1, 1) });
    const [tagged] = await nearestOf("tags", "where is my parcel", own);
    expect(tagged).toMatchObject({ id: "t12", text: "where is my parcel", labels: ["even", "shipping"] });
  });

  test("that were deleted are shown no more, and the deletion says which versions hold their embeddings", async () => {
    const { key: own } = await tenantWithTickets();
    for (const name of ["a", "b"])
      await call("POST", "/v1/heads", own, { name, dataset: "tickets", evaluation: { method: "none" } });
    const ids = async (contains: string) =>
      (await call("GET", `/v1/datasets/tickets/examples?contains=${contains}`, own)).json.data.map(
        ({ id }: { id: string }) => id,
      );
    const [charged] = await ids("charged");
    expect((await nearestOf("a", "I was charged twice", own))[0]?.id).toBe(charged);
    const one = await call("DELETE", `/v1/datasets/tickets/examples/${charged}`, own);
    expect(one.json).toEqual({ id: charged, object: "example", deleted: true, versions_with_vectors: ["b@1", "a@1"] });
    const left = await nearestOf("a", "I was charged twice", own);
    expect(left).toHaveLength(5);
    expect(left.map(({ id }) => id)).not.toContain(charged);

    // A version that was trained later does not hold it.
    const retrained = await call("POST", "/v1/heads", own, { name: "c", dataset: "tickets" });
    expect(retrained.status, retrained.text).toBe(201);
    const remove = (body: object, headers = {}) =>
      call("POST", "/v1/datasets/tickets/examples/delete", own, body, headers);
    const all = ["c@1", "b@1", "a@1"];
    const preview = await remove({ contains: "parcel", dry_run: true });
    expect(preview.json).toMatchObject({ deleted: 2, dry_run: true, versions_with_vectors: all });
    const again = { "idempotency-key": "delete-parcels" };
    for (const _ of [1, 2]) {
      const many = await remove({ contains: "parcel" }, again);
      expect(many.json).toMatchObject({ deleted: 2, versions_with_vectors: all });
    }
    const none = (await remove({ contains: "no such text" })).json;
    expect(none.deleted).toBe(0);
    expect(none).not.toHaveProperty("versions_with_vectors");
    expect((await call("DELETE", "/v1/heads/b", own)).status).toBe(200);
    const label = await call("POST", "/v1/datasets/tickets/labels/delete", own, { label: "login" });
    expect(label.json.versions_with_vectors).toEqual(["c@1", "a@1"]);
    const renamed = await call("POST", "/v1/datasets/tickets/labels/rename", own, { label: "billing", to: "bill" });
    expect(renamed.json).not.toHaveProperty("versions_with_vectors");
    // They are shown as the version was trained on them.
    expect((await nearestOf("a", "please refund the charge", own))[0]).toMatchObject({ label: "billing" });
    expect((await call("DELETE", "/v1/datasets/tickets", own)).status).toBe(200);
    expect(await nearestOf("a", "please refund the charge", own)).toEqual([]);
  });
});
