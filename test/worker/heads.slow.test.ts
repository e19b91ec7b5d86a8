/** Heads whose data or records are larger than one message between the Worker and the ledger. */
import { expect, test } from "vitest";
import { call, newTenant } from "./api.ts";

const noEvaluation = { method: "none" };
const hyperparameters = { l2: 1 };

async function trainHead(body: object, token: string) {
  const answer = await call("POST", "/v1/heads", token, body);
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
}

const repeated = (count: number, length: number) =>
  Array.from({ length: count }, (_, i) => ({
    embedding: [Math.cos(i), Math.sin(i)],
    label: `${i} `.padEnd(length, "\u5b57"),
  }));

test("a training reads inputs of more than one message's size, texts and embeddings", async () => {
  const { key: freshKey } = await newTenant();
  const headers = { "content-type": "application/x-ndjson" };
  const importExamples = async (name: string, body: object, inputs: readonly object[]) => {
    await call("POST", "/v1/datasets", freshKey, { name, task: "single_label", ...body });
    const lines = inputs.map((input, i) => JSON.stringify({ ...input, label: i % 2 ? "odd" : "even" })).join("\n");
    const imported = await call("POST", `/v1/datasets/${name}/examples`, freshKey, lines, headers);
    expect(imported.json).toMatchObject({ added: inputs.length });
  };
  const long = "ы ".repeat(10_000);
  await importExamples(
    "long",
    { modality: "text" },
    Array.from({ length: 1_200 }, (_, i) => ({ text: `${i} ${long}` })),
  );
  const wide = Array.from({ length: 700 }, (_, i) => ({
    embedding: Array.from({ length: 2048 }, (_, j) => +(i === j)),
  }));
  await importExamples("wide", { modality: "embedding", dimensions: 2048 }, wide);
  // Reading the lexical features of so much text would take most of the time.
  const lexical = (dataset: string) => (dataset === "long" ? { lexical: false } : {});
  for (const dataset of ["long", "wide"])
    expect(
      (
        await trainHead(
          {
            name: dataset,
            dataset,
            evaluation: noEvaluation,
            hyperparameters: { ...hyperparameters, ...lexical(dataset) },
          },
          freshKey,
        )
      ).dataset.examples,
    ).toBe(dataset === "long" ? 1_200 : 700);
}, 120_000);

test("versions of many labels are on pages that one message can hold", async () => {
  const { key: freshKey } = await newTenant();
  const body = { name: "large", examples: repeated(2_000, 250), evaluation: noEvaluation, hyperparameters };
  for (let i = 0; i < 12; i++) await trainHead(body, freshKey);
  const versions: number[] = [];
  for (let after = "", more = true; more; ) {
    const { json } = await call("GET", `/v1/heads/large/versions?limit=100${after}`, freshKey);
    versions.push(...json.data.map(({ version }: { version: number }) => version));
    expect(json.data.length).toBeLessThan(12);
    more = json.has_more;
    after = `&after=${json.last_id}`;
  }
  expect(versions).toEqual(Array.from({ length: 12 }, (_, i) => 12 - i));
});
