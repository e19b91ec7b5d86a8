import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { call, tenantWithTickets, tickets } from "./api.ts";
import { expectError } from "./assertions.ts";

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
