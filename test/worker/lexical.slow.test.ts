/** Lexical features over the API: what a training answers, an export holds, and what does not fit. */
import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { seededRandom } from "../../src/core/random.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { splitWords } from "../../src/core/text/words.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectError } from "./assertions.ts";

const noEvaluation = { method: "none" };
let key: string;

beforeAll(async () => {
  key = (await tenantWithTickets()).key;
});

async function trainHead(body: object, token = key) {
  const answer = await call("POST", "/v1/heads", token, body);
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
}

const exportHead = async (name: string, token = key) =>
  (await call("GET", `/v1/heads/${name}/versions/1/export`, token)).json;

describe.each([
  ["a dataset", { dataset: "tickets" }],
  ["examples sent along", { examples: tickets() }],
])("a training on %s", (what, source) => {
  const name = (lexical: unknown) => `${what.split(" ")[0] === "a" ? "stored" : "sent"}-${lexical}`;

  test.each([true, false])("has lexical features or none as it is told: %s", async (lexical) => {
    const head = await trainHead({ name: name(lexical), ...source, hyperparameters: { lexical } });
    expect(head.training.lexical).toBe(lexical);
    expect((await exportHead(name(lexical))).lexical === null).toBe(!lexical);
    const { data } = (await call("POST", `/v1/heads/${name(lexical)}/predict`, key, { input: "refund my invoice" }))
      .json;
    expect(data[0].label).toBe("billing");
  });

  test("chooses by itself where it is told nothing, as where it is told so", async () => {
    const head = await trainHead({ name: name("default"), ...source });
    const auto = await trainHead({ name: name("auto"), ...source, hyperparameters: { lexical: "auto" } });
    expect(head.training.lexical).toEqual(expect.any(Boolean));
    expect(auto.sha256).toBe(head.sha256);
    expect((await exportHead(name("auto"))).lexical === null).toBe(!head.training.lexical);
    const lexicalHead = await trainHead({
      name: name("same"),
      ...source,
      hyperparameters: { lexical: head.training.lexical },
    });
    expect(lexicalHead.training.lexical).toBe(head.training.lexical);
  });

  test("gives the same bytes for the same texts", async () => {
    const body = { ...source, hyperparameters: { lexical: true } };
    const first = await trainHead({ name: name("once"), ...body });
    expect((await trainHead({ name: name("twice"), ...body })).sha256).toBe(first.sha256);
  });
});

describe("an export with lexical features", () => {
  const inputs = ["where is my parcel", "refund refund refund!", "Où est mon colis ?", "entirely unseen gromblewit"];

  test.each<[string, object, string]>([
    ["one label", { dataset: "tickets" }, "softmax"],
    [
      "any number of labels",
      { examples: tickets().map(({ text, label }, i) => ({ text, labels: i % 2 ? [label] : [label, "even"] })) },
      "exp",
    ],
    ["a value", { examples: tickets().map(({ text }, i) => ({ text, value: 1e9 + i })) }, "weights[0]"],
  ])("holds all that a prediction of %s needs", async (what, source, formula) => {
    const name = `export-${what.split(" ").at(-1)}`;
    const { task } = await trainHead({ name, ...source, hyperparameters: { lexical: true } });
    const { weights, lexical, bias, temperature, labels, ...otherFields } = await exportHead(name);
    expect(otherFields.formula).toContain(formula);
    expect(otherFields.formula).toContain("embedding + lexical.weights · features");
    expect(lexical.seen).toHaveLength(lexical.idf.length);
    for (const row of lexical.weights) expect(row).toHaveLength(lexical.seen.length);
    const embedded = await call("POST", "/v1/embeddings", key, { model: "text-static-1", input: inputs });
    const predicted = await call("POST", `/v1/heads/${name}/predict`, key, {
      input: inputs,
      ...(labels.length ? { top_k: labels.length } : {}),
    });
    const read = createLexicalVectorizer({
      ...lexical,
      seenBuckets: Uint16Array.from(lexical.seen),
      idf: Float32Array.from(lexical.idf),
    });
    for (const [i, input] of inputs.entries()) {
      const { embedding } = embedded.json.data[i];
      const { columns, values } = read(input);
      const logits = weights.map((row: number[], k: number) => {
        const dense = row.reduce((sum, weight, j) => sum + weight * embedding[j], 0);
        const lexicalPart = columns.reduce((sum, j, m) => sum + lexical.weights[k][j] * (values[m] as number), 0);
        return (dense + lexicalPart + bias[k]) / temperature;
      });
      if (task === "regression") {
        expect(Math.abs(predicted.json.data[i].value - logits[0])).toBeLessThan(1e-4);
        continue;
      }
      const total = logits.reduce((sum: number, logit: number) => sum + Math.exp(logit), 0);
      const expectedScores = new Map(
        labels.map((label: string, k: number) => [
          label,
          task === "single_label" ? Math.exp(logits[k]) / total : 1 / (1 + Math.exp(-logits[k])),
        ]),
      );
      expect(predicted.json.data[i].scores).toHaveLength(labels.length);
      for (const { label, score } of predicted.json.data[i].scores)
        expect(score).toBeCloseTo(expectedScores.get(label) as number, 6);
    }
  });

  test("is of the tenant's own texts alone", async () => {
    const hyperparameters = { lexical: true };
    const ownExamples = tickets().map(({ text, label }) => ({ text: `${text} zyxgromble`, label }));
    const otherKey = await newTenant();
    await trainHead({ name: "own", examples: ownExamples, evaluation: noEvaluation, hyperparameters });
    await trainHead({ name: "own", examples: tickets(), evaluation: noEvaluation, hyperparameters }, otherKey.key);
    const count = async (token: string) => {
      const { lexical } = await exportHead("own", token);
      const read = createLexicalVectorizer({
        ...lexical,
        seenBuckets: Uint16Array.from(lexical.seen),
        idf: Float32Array.from(lexical.idf),
      });
      return read("zyxgromble").columns.length;
    };
    expect(splitWords("zyxgromble")).toHaveLength(1);
    expect(await count(key)).toBeGreaterThan(await count(otherKey.key));
    const otherTenant = await newTenant();
    expectError(await call("GET", "/v1/heads/own/versions/1/export", otherTenant.key), 404, "not_found");
    expectError(await call("POST", "/v1/heads/own/predict", otherTenant.key, { input: "a" }), 404, "not_found");
  });
});

test("of embeddings of one's own there are none: true is refused, and the default is to have none", async () => {
  const { key: freshKey } = await newTenant();
  await call("POST", "/v1/datasets", freshKey, {
    name: "d",
    task: "single_label",
    modality: "embedding",
    dimensions: 2,
  });
  const examples = Array.from({ length: 12 }, (_, i) => ({ embedding: [i % 2, i / 12], label: `${i % 2}` }));
  await call("POST", "/v1/datasets/d/examples", freshKey, { examples });
  for (const source of [{ dataset: "d" }, { examples }]) {
    const refused = await call("POST", "/v1/heads", freshKey, {
      name: "h",
      ...source,
      hyperparameters: { lexical: true },
    });
    expectError(refused, 422, "modality_mismatch", "hyperparameters.lexical");
    expectError(await call("GET", "/v1/heads/h", freshKey), 404, "not_found");
  }
  for (const source of [{ dataset: "d" }, { examples }]) {
    for (const lexical of ["auto", false])
      expect((await trainHead({ name: "e", ...source, hyperparameters: { lexical } }, freshKey)).training.lexical).toBe(
        false,
      );
  }
  expect((await exportHead("e", freshKey)).lexical).toBeNull();
});

test("of many long texts have as many buckets as there is room for", { timeout: 120_000 }, async () => {
  const { key: freshKey } = await newTenant();
  const random = seededRandom(1);
  const word = () => Math.floor(random() * 36 ** 5).toString(36);
  await call("POST", "/v1/datasets", freshKey, { name: "long", task: "single_label", modality: "text" });
  const lines = Array.from({ length: 260 }, (_, i) =>
    JSON.stringify({ text: Array.from({ length: 5_400 }, word).join(" ").slice(0, 32_768), label: `label ${i % 2}` }),
  );
  const headers = { "content-type": "application/x-ndjson" };
  const imported = await call("POST", "/v1/datasets/long/examples", freshKey, lines.join("\n"), headers);
  expect(imported.json).toMatchObject({ added: 260 });
  const body = { dataset: "long", evaluation: noEvaluation };
  const head = await trainHead({ name: "h", ...body, hyperparameters: { l2: 1, lexical: true } }, freshKey);
  expect(head.training.lexical).toBe(true);
  const { buckets } = (await exportHead("h", freshKey)).lexical;
  expect([256, 512, 1024, 2048, 4096]).toContain(buckets);
});

test("of more labels than leave room for them there are none, unless they are wanted", async () => {
  const { key: freshKey } = await newTenant();
  const examples = Array.from({ length: 313 }, (_, i) => ({ text: `text ${i}`, label: `label ${i}` }));
  const body = { examples, evaluation: noEvaluation, backbone: "hash-text-1" };
  expect((await trainHead({ name: "many", ...body, hyperparameters: { l2: 1 } }, freshKey)).training.lexical).toBe(
    false,
  );
  const expectedHead = await trainHead(
    { name: "wanted", ...body, hyperparameters: { l2: 1, lexical: true } },
    freshKey,
  );
  expect(expectedHead.training.lexical).toBe(true);
  expect((await exportHead("wanted", freshKey)).lexical.buckets).toBe(256);
});

test("of so many labels that there is no room at all are refused where they are wanted", async () => {
  const { key: freshKey } = await newTenant();
  const examples = Array.from({ length: 900 }, (_, i) => ({ text: `text ${i}`, label: `label ${i}` }));
  const body = { examples, evaluation: noEvaluation, backbone: "hash-text-1" };
  const refused = await call("POST", "/v1/heads", freshKey, {
    name: "h",
    ...body,
    method: "head",
    hyperparameters: { l2: 1, lexical: true },
  });
  expectError(refused, 413, "edge_budget_exceeded", "hyperparameters.lexical");
  const { estimate, budget } = refused.json.error.details;
  expect(estimate.bytes).toBeGreaterThan(budget.bytes);
  for (const lexical of ["auto", false])
    expect(
      (await trainHead({ name: "h", ...body, hyperparameters: { l2: 1, lexical } }, freshKey)).training.lexical,
    ).toBe(false);
});

test("predictions of more text than is read in one stretch are as each alone", async () => {
  await trainHead({
    name: "long-inputs",
    dataset: "tickets",
    evaluation: noEvaluation,
    hyperparameters: { lexical: true },
  });
  const predict = async (input: string | string[]) =>
    (await call("POST", "/v1/heads/long-inputs/predict", key, { input })).json.data;
  const input = tickets().map(({ text }) => `${text} `.repeat(500).slice(0, limits.text_characters));
  const all = await predict(input);
  for (const [index, text] of input.entries()) expect(all[index]).toEqual({ ...(await predict(text))[0], index });
});
