/** Lexical features over the API: what a training answers, an export holds, and what does not fit. */
import { beforeAll, describe, expect, test } from "vitest";
import { lexicalFeatures } from "../../src/core/text/lexical.ts";
import { limits } from "../../src/core/limits.ts";
import { seededRandom } from "../../src/core/random.ts";
import { words } from "../../src/core/text/words.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectRefused } from "./expect.ts";

const none = { method: "none" };
let key: string;

beforeAll(async () => {
  key = (await tenantWithTickets()).key;
});

async function trained(body: object, token = key) {
  const answer = await call("POST", "/v1/heads", token, body);
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
}

const exported = async (name: string, token = key) =>
  (await call("GET", `/v1/heads/${name}/versions/1/export`, token)).json;

describe.each([
  ["a dataset", { dataset: "tickets" }],
  ["examples sent along", { examples: tickets() }],
])("a training on %s", (what, source) => {
  const name = (lexical: unknown) => `${what.split(" ")[0] === "a" ? "stored" : "sent"}-${lexical}`;

  test.each([true, false])("has lexical features or none as it is told: %s", async (lexical) => {
    const head = await trained({ name: name(lexical), ...source, hyperparameters: { lexical } });
    expect(head.training.lexical).toBe(lexical);
    expect((await exported(name(lexical))).lexical === null).toBe(!lexical);
    const { data } = (await call("POST", `/v1/heads/${name(lexical)}/predict`, key, { input: "refund my invoice" }))
      .json;
    expect(data[0].label).toBe("billing");
  });

  test("chooses by itself where it is told nothing, as where it is told so", async () => {
    const head = await trained({ name: name("default"), ...source });
    const auto = await trained({ name: name("auto"), ...source, hyperparameters: { lexical: "auto" } });
    expect(head.training.lexical).toEqual(expect.any(Boolean));
    expect(auto.sha256).toBe(head.sha256);
    expect((await exported(name("auto"))).lexical === null).toBe(!head.training.lexical);
    const wanted = await trained({
      name: name("same"),
      ...source,
      hyperparameters: { lexical: head.training.lexical },
    });
    expect(wanted.training.lexical).toBe(head.training.lexical);
  });

  test("gives the same bytes for the same texts", async () => {
    const body = { ...source, hyperparameters: { lexical: true } };
    const one = await trained({ name: name("once"), ...body });
    expect((await trained({ name: name("twice"), ...body })).sha256).toBe(one.sha256);
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
    const { task } = await trained({ name, ...source, hyperparameters: { lexical: true } });
    const { weights, lexical, bias, temperature, labels, ...rest } = await exported(name);
    expect(rest.formula).toContain(formula);
    expect(rest.formula).toContain("embedding + lexical.weights · features");
    expect(lexical.seen).toHaveLength(lexical.idf.length);
    for (const row of lexical.weights) expect(row).toHaveLength(lexical.seen.length);
    const embedded = await call("POST", "/v1/embeddings", key, { model: "text-static-1", input: inputs });
    const predicted = await call("POST", `/v1/heads/${name}/predict`, key, {
      input: inputs,
      ...(labels.length ? { top_k: labels.length } : {}),
    });
    const read = lexicalFeatures({
      ...lexical,
      seen: Uint16Array.from(lexical.seen),
      idf: Float32Array.from(lexical.idf),
    });
    for (const [i, input] of inputs.entries()) {
      const { embedding } = embedded.json.data[i];
      const { columns, values } = read(input);
      const logits = weights.map((row: number[], k: number) => {
        const dense = row.reduce((sum, weight, j) => sum + weight * embedding[j], 0);
        const beside = columns.reduce((sum, j, m) => sum + lexical.weights[k][j] * (values[m] as number), 0);
        return (dense + beside + bias[k]) / temperature;
      });
      if (task === "regression") {
        expect(Math.abs(predicted.json.data[i].value - logits[0])).toBeLessThan(1e-4);
        continue;
      }
      const total = logits.reduce((sum: number, logit: number) => sum + Math.exp(logit), 0);
      const own = new Map(
        labels.map((label: string, k: number) => [
          label,
          task === "single_label" ? Math.exp(logits[k]) / total : 1 / (1 + Math.exp(-logits[k])),
        ]),
      );
      expect(predicted.json.data[i].scores).toHaveLength(labels.length);
      for (const { label, score } of predicted.json.data[i].scores)
        expect(score).toBeCloseTo(own.get(label) as number, 6);
    }
  });

  test("is of the tenant's own texts alone", async () => {
    const hyperparameters = { lexical: true };
    const mine = tickets().map(({ text, label }) => ({ text: `${text} zyxgromble`, label }));
    const other = await newTenant();
    await trained({ name: "own", examples: mine, evaluation: none, hyperparameters });
    await trained({ name: "own", examples: tickets(), evaluation: none, hyperparameters }, other.key);
    const count = async (token: string) => {
      const { lexical } = await exported("own", token);
      const read = lexicalFeatures({
        ...lexical,
        seen: Uint16Array.from(lexical.seen),
        idf: Float32Array.from(lexical.idf),
      });
      return read("zyxgromble").columns.length;
    };
    expect(words("zyxgromble")).toHaveLength(1);
    expect(await count(key)).toBeGreaterThan(await count(other.key));
    const stranger = await newTenant();
    expectRefused(await call("GET", "/v1/heads/own/versions/1/export", stranger.key), 404, "not_found");
    expectRefused(await call("POST", "/v1/heads/own/predict", stranger.key, { input: "a" }), 404, "not_found");
  });
});

test("of embeddings of one's own there are none: true is refused, and the default is to have none", async () => {
  const { key: fresh } = await newTenant();
  await call("POST", "/v1/datasets", fresh, { name: "d", task: "single_label", modality: "embedding", dimensions: 2 });
  const examples = Array.from({ length: 12 }, (_, i) => ({ embedding: [i % 2, i / 12], label: `${i % 2}` }));
  await call("POST", "/v1/datasets/d/examples", fresh, { examples });
  for (const source of [{ dataset: "d" }, { examples }]) {
    const refused = await call("POST", "/v1/heads", fresh, {
      name: "h",
      ...source,
      hyperparameters: { lexical: true },
    });
    expectRefused(refused, 422, "modality_mismatch", "hyperparameters.lexical");
    expectRefused(await call("GET", "/v1/heads/h", fresh), 404, "not_found");
  }
  for (const source of [{ dataset: "d" }, { examples }]) {
    for (const lexical of ["auto", false])
      expect((await trained({ name: "e", ...source, hyperparameters: { lexical } }, fresh)).training.lexical).toBe(
        false,
      );
  }
  expect((await exported("e", fresh)).lexical).toBeNull();
});

test("of many long texts have as many buckets as there is room for", { timeout: 60_000 }, async () => {
  const { key: fresh } = await newTenant();
  const random = seededRandom(1);
  const word = () => Math.floor(random() * 36 ** 5).toString(36);
  await call("POST", "/v1/datasets", fresh, { name: "long", task: "single_label", modality: "text" });
  const lines = Array.from({ length: 260 }, (_, i) =>
    JSON.stringify({ text: Array.from({ length: 5_400 }, word).join(" ").slice(0, 32_768), label: `label ${i % 2}` }),
  );
  const headers = { "content-type": "application/x-ndjson" };
  const imported = await call("POST", "/v1/datasets/long/examples", fresh, lines.join("\n"), headers);
  expect(imported.json).toMatchObject({ added: 260 });
  const body = { dataset: "long", evaluation: none };
  const head = await trained({ name: "h", ...body, hyperparameters: { l2: 1, lexical: true } }, fresh);
  expect(head.training.lexical).toBe(true);
  const { buckets } = (await exported("h", fresh)).lexical;
  expect([256, 512, 1024, 2048, 4096]).toContain(buckets);
});

test("of more labels than leave room for them there are none, unless they are wanted", async () => {
  const { key: fresh } = await newTenant();
  const examples = Array.from({ length: 313 }, (_, i) => ({ text: `text ${i}`, label: `label ${i}` }));
  const body = { examples, evaluation: none, backbone: "hash-text-1" };
  expect((await trained({ name: "many", ...body, hyperparameters: { l2: 1 } }, fresh)).training.lexical).toBe(false);
  const wanted = await trained({ name: "wanted", ...body, hyperparameters: { l2: 1, lexical: true } }, fresh);
  expect(wanted.training.lexical).toBe(true);
  expect((await exported("wanted", fresh)).lexical.buckets).toBe(256);
});

test("of so many labels that there is no room at all are refused where they are wanted", async () => {
  const { key: fresh } = await newTenant();
  const examples = Array.from({ length: 900 }, (_, i) => ({ text: `text ${i}`, label: `label ${i}` }));
  const body = { examples, evaluation: none, backbone: "hash-text-1" };
  const refused = await call("POST", "/v1/heads", fresh, {
    name: "h",
    ...body,
    method: "head",
    hyperparameters: { l2: 1, lexical: true },
  });
  expectRefused(refused, 413, "edge_budget_exceeded", "hyperparameters.lexical");
  const { estimate, budget } = refused.json.error.details;
  expect(estimate.bytes).toBeGreaterThan(budget.bytes);
  for (const lexical of ["auto", false])
    expect((await trained({ name: "h", ...body, hyperparameters: { l2: 1, lexical } }, fresh)).training.lexical).toBe(
      false,
    );
});

test("predictions of more text than is read in one stretch are as each alone", async () => {
  await trained({ name: "long-inputs", dataset: "tickets", evaluation: none, hyperparameters: { lexical: true } });
  const predict = async (input: string | string[]) =>
    (await call("POST", "/v1/heads/long-inputs/predict", key, { input })).json.data;
  const input = tickets().map(({ text }) => `${text} `.repeat(500).slice(0, limits.text_characters));
  const all = await predict(input);
  for (const [index, text] of input.entries()) expect(all[index]).toEqual({ ...(await predict(text))[0], index });
});
