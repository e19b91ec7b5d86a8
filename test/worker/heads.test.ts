import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";

const noEvaluation = { method: "none" };
let key: string;

beforeAll(async () => {
  key = (await tenantWithTickets()).key;
});

const postHead = (body: object, token = key) => call("POST", "/v1/heads", token, body);

async function trainHead(body: object, token = key) {
  const answer = await postHead(body, token);
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
}

describe("training", () => {
  test("answers the head with its evaluation, and it classifies", async () => {
    const head = await trainHead({ name: "support", dataset: "tickets" });
    expect(head).toEqual({
      object: "head",
      id: "support",
      version: 1,
      active_version: 1,
      task: "single_label",
      modality: "text",
      labels: ["billing", "login", "shipping"],
      dimensions: expect.any(Number),
      backbone: { id: "text-static-1", revision: expect.any(String) },
      dataset: { name: "tickets", revision: 1, examples: 18 },
      training: {
        method: "head",
        examples: 18,
        iterations: expect.any(Number),
        converged: true,
        objective: expect.any(Number),
        l2: expect.any(Number),
        temperature: expect.any(Number),
        lexical: expect.any(Boolean),
        milliseconds: expect.any(Number),
        trained_parameters: expect.any(Number),
        total_parameters: expect.any(Number),
        operations: expect.any(Number),
        usd: expect.any(Number),
      },
      evaluation: expect.objectContaining({
        method: "cross_validation",
        detail: "summary",
        confusion: { labels: ["billing", "login", "shipping"], matrix: expect.any(Array) },
        out_of_scope: {
          score: "in_scope_p_value",
          threshold: 0.03,
          in_scope_kept: expect.any(Number),
          expected_recall: null,
          auroc: null,
          curve: [],
        },
      }),
      sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
      bytes: expect.any(Number),
      created_at: expect.any(Number),
    });
    const { evaluation, training } = head;
    const model = await call("GET", "/v1/models/text-static-1", key);
    expect(training.total_parameters).toBe(model.json.graft.parameters + training.trained_parameters);
    expect(training.trained_parameters).toBeGreaterThanOrEqual(3 * (head.dimensions + 1));
    expect(training.usd).toBeCloseTo((training.operations / 12e9) * 2e-5, 12);
    expect(evaluation.generalization_gap).toBe(evaluation.train_accuracy - evaluation.accuracy);
    expect(evaluation.automation.map(({ accuracy }: { accuracy: number }) => accuracy)).toEqual([0.9, 0.95, 0.99]);
    const confusionTotal = evaluation.confusion.matrix.flat().reduce((sum: number, n: number) => sum + n, 0);
    expect(confusionTotal).toBe(18);
    expect(evaluation.per_class.map(({ support }: { support: number }) => support)).toEqual([6, 6, 6]);
    const [low, high] = evaluation.accuracy_interval;
    expect(low).toBeLessThanOrEqual(evaluation.accuracy);
    expect(high).toBeGreaterThanOrEqual(evaluation.accuracy);
    const input = ["I want a refund of the charge", "the password reset page rejects me"];
    const predicted = await call("POST", "/v1/heads/support/predict", key, { input });
    expect(predicted.json.data.map(({ label }: { label: string }) => label)).toEqual(["billing", "login"]);
  });

  test("in full detail has the learning curve, and the same head", async () => {
    const [summary, full] = [
      await trainHead({ name: "curve", dataset: "tickets" }),
      await trainHead({ name: "curve", dataset: "tickets", evaluation: { detail: "full" } }),
    ];
    expect(full.sha256).toBe(summary.sha256);
    expect(summary.evaluation.learning_curve).toBeUndefined();
    const {
      learning_curve,
      expected_accuracy,
      more_examples,
      accuracy_estimate,
      issue_count,
      label_noise,
      ...figures
    } = full.evaluation;
    const { accuracy_estimate: summaryEstimate, ...summaryFigures } = summary.evaluation;
    expect(figures).toEqual({ ...summaryFigures, detail: "full" });
    // The labels of the tickets are right.
    expect(issue_count).toBe(0);
    expect(label_noise).toBeLessThan(0.1);
    for (const { value, interval } of [
      accuracy_estimate,
      summaryEstimate,
      expected_accuracy["2x"],
      expected_accuracy["5x"],
    ]) {
      expect(interval[0]).toBeLessThanOrEqual(value);
      expect(interval[1]).toBeGreaterThanOrEqual(value);
    }
    expect(Object.keys(expected_accuracy)).toEqual(["2x", "5x"]);
    expect(learning_curve.at(-1)).toMatchObject({ examples: 14, accuracy: figures.accuracy });
    expect(Array.isArray(more_examples)).toBe(true);
    const [listed] = (await call("GET", "/v1/heads/curve/versions", key)).json.data;
    expect(listed.evaluation.more_examples).toBeUndefined();
    expect(listed.evaluation.learning_curve).toEqual(learning_curve);
  });

  test("the same data, seed and backbone give the same bytes", async () => {
    const firstHead = await trainHead({ name: "same-1", dataset: "tickets", hyperparameters: { seed: 7 } });
    const secondHead = await trainHead({ name: "same-2", dataset: "tickets", hyperparameters: { seed: 7 } });
    expect(secondHead.sha256).toBe(firstHead.sha256);
    expect(secondHead.evaluation).toEqual(firstHead.evaluation);
  });

  test("on examples sent along, of each task", async () => {
    const { key: freshKey } = await newTenant();
    const single = await trainHead({ name: "s", examples: tickets() }, freshKey);
    expect(single.dataset).toEqual({ name: null, revision: null, examples: 18 });
    const multi = await trainHead(
      { name: "m", examples: tickets().map(({ text, label }) => ({ text, labels: [label, "any"] })) },
      freshKey,
    );
    expect(multi).toMatchObject({ task: "multi_label", labels: ["any", "billing", "login", "shipping"] });
    const values = Array.from({ length: 30 }, (_, i) => ({ embedding: [i, i % 3], value: 2 * i + 1 }));
    const regression = await trainHead({ name: "r", examples: values }, freshKey);
    expect(regression).toMatchObject({ task: "regression", modality: "embedding", labels: [], dimensions: 2 });
    expect(regression.evaluation).toMatchObject({
      r2: expect.any(Number),
      mae: expect.any(Number),
      rmse: expect.any(Number),
    });
    expect((await call("GET", "/v1/datasets", freshKey)).json.data).toEqual([]);
  });

  test.each([
    [{ method: "holdout", fraction: 0.3 }, { method: "holdout" }],
    [
      { method: "cross_validation", folds: 3 },
      { method: "cross_validation", folds: 3 },
    ],
    [{ method: "none" }, { method: "none" }],
    [{ detail: "summary" }, { detail: "summary" }],
  ])("evaluates by %j", async (evaluation, expected) => {
    expect((await trainHead({ name: "evaluated", dataset: "tickets", evaluation })).evaluation).toMatchObject(expected);
  });

  test("holds out no more folds than the smallest label has examples, and says why it holds out none", async () => {
    const words = ["refund", "password", "parcel", "invoice", "weather", "music", "flight", "recipe"];
    const trainOnEach = (texts: readonly string[]) =>
      trainHead({
        name: "few",
        evaluation: { folds: 5 },
        method: "head",
        examples: words.flatMap((label) => texts.map((text) => ({ text: `${text} ${label}`, label }))),
      });
    const { evaluation, training } = await trainOnEach(["where is my", "tell me about the"]);
    expect(evaluation).toMatchObject({ method: "cross_validation", folds: 2, examples: 16 });
    expect(evaluation.accuracy).toBeGreaterThan(0.5);
    expect(evaluation.reason).toBeUndefined();
    expect(training.temperature).toBeGreaterThan(0.02);
    expect(training.temperature).toBeLessThan(3);
    const single = await trainOnEach(["where is my"]);
    expect(single.evaluation).toEqual({
      method: "none",
      detail: "summary",
      examples: 0,
      reason: "No label has two examples with different inputs, so none can be held out.",
    });
    expect(single.training.temperature).toBe(1);
  });

  test("stays with the backbone that it names, beside a head on the default one", async () => {
    const named = await trainHead({ name: "named", dataset: "tickets", backbone: "hash-text-1" });
    expect(named).toMatchObject({ backbone: { id: "hash-text-1" }, dimensions: 384 });
    const unnamed = await trainHead({ name: "unnamed", dataset: "tickets" });
    expect(unnamed).toMatchObject({ backbone: { id: "text-static-1" }, dimensions: 256 });
    const examples = tickets();
    for (const name of ["named", "unnamed"]) {
      const input = examples.map(({ text }) => text);
      const { data } = (await call("POST", `/v1/heads/${name}/predict`, key, { input })).json;
      expect(data.map(({ label }: { label: string }) => label)).toEqual(examples.map(({ label }) => label));
    }
  });

  test("takes each hyperparameter", async () => {
    const hyperparameters = { l2: 0.5, class_weight: "balanced", lexical: false, seed: 4_294_967_295 };
    const head = await trainHead({
      name: "tuned",
      dataset: "tickets",
      hyperparameters,
      method: "head",
      backbone: "hash-text-1",
    });
    expect(head.training.l2).toBeCloseTo(0.5, 6);
    expect(head.training.lexical).toBe(false);
    await trainHead({
      name: "tuned",
      dataset: "tickets",
      hyperparameters: { l2: "auto", class_weight: null, lexical: "auto" },
    });
  });

  test("with an out-of-scope label learns a threshold, and never answers that label", async () => {
    const { key: freshKey } = await newTenant();
    const body = { name: "d", task: "single_label", modality: "text", out_of_scope_label: "none of these" };
    await call("POST", "/v1/datasets", freshKey, body);
    const outOfScopeTexts = ["what is the weather", "sing me a song", "how tall is the tower", "who won the match"];
    const examples = [...tickets(), ...outOfScopeTexts.map((text) => ({ text, label: "none of these" }))];
    await call("POST", "/v1/datasets/d/examples", freshKey, { examples });
    const head = await trainHead({ name: "h", dataset: "d" }, freshKey);
    expect(head.labels).toEqual(["billing", "login", "shipping"]);
    expect(head.evaluation.out_of_scope).toMatchObject({ threshold: expect.any(Number) });
    const predicted = await call("POST", "/v1/heads/h/predict", freshKey, { input: "refund my invoice" });
    expect(predicted.json.data[0]).toMatchObject({ label: "billing", in_scope: expect.any(Boolean) });
  });

  test.each<[string, object, number, string, string | null]>([
    ["neither dataset nor examples", {}, 400, "missing_parameter", "dataset"],
    ["both", { dataset: "tickets", examples: tickets() }, 400, "invalid_parameter", "dataset"],
    ["an unknown dataset", { dataset: "none" }, 404, "not_found", "dataset"],
    ["a dataset's name that none can have", { dataset: "../x" }, 400, "invalid_parameter", "dataset"],
    ["an unknown backbone", { dataset: "tickets", backbone: "none" }, 404, "not_found", "backbone"],
    ["a name out of the pattern", { name: "Support", dataset: "tickets" }, 400, "invalid_parameter", "name"],
    ["no examples", { examples: [] }, 422, "too_few_examples", "examples"],
    ["one example", { examples: [{ text: "a", label: "x" }] }, 422, "too_few_labels", "examples"],
    [
      "one label",
      {
        examples: [
          { text: "a", label: "x" },
          { text: "b", label: "x" },
        ],
      },
      422,
      "too_few_labels",
      "examples",
    ],
    [
      "no labels at all",
      {
        examples: [
          { text: "a", labels: [] },
          { text: "b", labels: [] },
        ],
      },
      422,
      "too_few_labels",
      "examples",
    ],
    ["one value", { examples: [{ text: "a", value: 1 }] }, 422, "too_few_examples", "examples"],
    [
      "a value too large to compute with",
      {
        examples: [
          { text: "a", value: 1 },
          { text: "b", value: 1e16 },
        ],
      },
      422,
      "invalid_label",
      "examples[1].value",
    ],
    [
      "two tasks",
      {
        examples: [
          { text: "a", label: "x" },
          { text: "b", value: 1 },
        ],
      },
      422,
      "task_mismatch",
      "examples[1].value",
    ],
    [
      "two modalities",
      {
        examples: [
          { text: "a", label: "x" },
          { embedding: [1], label: "y" },
        ],
      },
      422,
      "modality_mismatch",
      "examples[1].embedding",
    ],
    [
      "embeddings of two lengths",
      {
        examples: [
          { embedding: [1], label: "x" },
          { embedding: [1, 2], label: "y" },
        ],
      },
      422,
      "invalid_embedding",
      "examples[1].embedding",
    ],
    [
      "a number that would make all embeddings alike",
      {
        examples: [
          { embedding: [1], label: "x" },
          { embedding: [1e38], label: "y" },
        ],
      },
      422,
      "invalid_embedding",
      "examples[1].embedding[0]",
    ],
    [
      "embeddings of no length",
      {
        examples: [
          { embedding: [], label: "x" },
          { embedding: [], label: "y" },
        ],
      },
      422,
      "invalid_embedding",
      "examples[0].embedding",
    ],
    [
      "a backbone for embeddings",
      {
        backbone: "hash-text-1",
        examples: [
          { embedding: [1], label: "x" },
          { embedding: [2], label: "y" },
        ],
      },
      422,
      "modality_mismatch",
      "backbone",
    ],
    [
      "a share in scope of values",
      {
        out_of_scope: { in_scope_recall: 0.9 },
        examples: [
          { text: "a", value: 1 },
          { text: "b", value: 2 },
        ],
      },
      422,
      "task_mismatch",
      "out_of_scope",
    ],
    [
      "a share in scope of all",
      { out_of_scope: { in_scope_recall: 1 }, examples: [{ text: "a", label: "x" }] },
      400,
      "invalid_parameter",
      "out_of_scope.in_scope_recall",
    ],
    ["an image", { examples: [{ image: "aGk=", label: "x" }] }, 422, "modality_not_supported", "examples[0].image"],
    [
      "an unlabelled example",
      { examples: [{ text: "a", label: "x" }, { text: "b" }] },
      400,
      "missing_parameter",
      "examples[1].label",
    ],
    ["an empty text", { examples: [{ text: " ", label: "x" }] }, 422, "input_empty", "examples[0].text"],
    [
      "too many examples",
      { examples: Array(limits.examples_per_training_request + 1).fill({ text: "a", label: "x" }) },
      422,
      "limit_exceeded",
      "examples",
    ],
    [
      "a negative l2",
      { dataset: "tickets", hyperparameters: { l2: -1 } },
      400,
      "invalid_parameter",
      "hyperparameters.l2",
    ],
    [
      "an l2 of zero",
      { dataset: "tickets", hyperparameters: { l2: 0 } },
      400,
      "invalid_parameter",
      "hyperparameters.l2",
    ],
    [
      "another class weight",
      { dataset: "tickets", hyperparameters: { class_weight: { x: 2 } } },
      400,
      "invalid_parameter",
      "hyperparameters.class_weight",
    ],
    [
      "class weights for any number of labels",
      {
        examples: [
          { text: "a", labels: ["x"] },
          { text: "b", labels: ["y"] },
        ],
        hyperparameters: { class_weight: "balanced" },
      },
      422,
      "task_mismatch",
      "hyperparameters.class_weight",
    ],
    [
      "a negative seed",
      { dataset: "tickets", hyperparameters: { seed: -1 } },
      400,
      "invalid_parameter",
      "hyperparameters.seed",
    ],
    ["one fold", { dataset: "tickets", evaluation: { folds: 1 } }, 400, "invalid_parameter", "evaluation.folds"],
    [
      "everything held out",
      { dataset: "tickets", evaluation: { fraction: 1 } },
      400,
      "invalid_parameter",
      "evaluation.fraction",
    ],
    [
      "another evaluation",
      { dataset: "tickets", evaluation: { method: "bootstrap" } },
      400,
      "invalid_parameter",
      "evaluation.method",
    ],
    ...(
      [
        ["folds", { method: "holdout", folds: 5 }],
        ["folds", { method: "none", folds: 5 }],
        ["fraction", { method: "cross_validation", fraction: 0.2 }],
        ["fraction", { method: "none", fraction: 0.2 }],
      ] as const
    ).map(([field, evaluation]): [string, object, number, string, string] => [
      `${field} for the method '${evaluation.method}'`,
      { dataset: "tickets", evaluation },
      400,
      "invalid_parameter",
      `evaluation.${field}`,
    ]),
    ["fine-tuning on what is not there", { dataset: "none", method: "fine_tune" }, 404, "not_found", "dataset"],
    [
      "fine-tuning of a backbone without layers",
      { dataset: "tickets", method: "fine_tune", backbone: "hash-text-1" },
      422,
      "not_available",
      "method",
    ],
    [
      "fine-tuning of embeddings",
      {
        examples: [
          { embedding: [1], label: "x" },
          { embedding: [2], label: "y" },
        ],
        method: "fine_tune",
      },
      422,
      "not_available",
      "method",
    ],
    [
      "lexical features of embeddings",
      {
        examples: [
          { embedding: [1], label: "x" },
          { embedding: [2], label: "y" },
        ],
        hyperparameters: { lexical: true },
      },
      422,
      "modality_mismatch",
      "hyperparameters.lexical",
    ],
    [
      "lexical features by another name",
      { dataset: "tickets", hyperparameters: { lexical: "yes" } },
      400,
      "invalid_parameter",
      "hyperparameters.lexical",
    ],
    ["promote as a text", { dataset: "tickets", promote: "false" }, 400, "invalid_parameter", "promote"],
    ["an unknown field", { dataset: "tickets", epochs: 3 }, 400, "unknown_parameter", "epochs"],
  ])("refuses %s", async (_what, body, status, code, param) => {
    expectError(await postHead({ name: "refused", ...body }), status, code as "invalid_parameter", param);
    expectError(await call("GET", "/v1/heads/refused", key), 404, "not_found");
  });

  test("on an empty dataset is refused", async () => {
    const { key: freshKey } = await newTenant();
    await call("POST", "/v1/datasets", freshKey, { name: "empty", task: "single_label", modality: "text" });
    const empty = await postHead({ name: "h", dataset: "empty" }, freshKey);
    expectError(empty, 422, "too_few_labels", "dataset");
    expect(empty.json.error.message).toContain("the 0 here have none");
  });

  test("beyond the budget is refused before it starts, with estimate and budget", async () => {
    const { key: freshKey } = await newTenant();
    await call("POST", "/v1/datasets", freshKey, {
      name: "big",
      task: "single_label",
      modality: "embedding",
      dimensions: 4096,
    });
    const embedding = new Array(4096).fill(0);
    const lines = Array.from({ length: 4000 }, (_, i) => {
      embedding[i] = 1;
      const line = `${JSON.stringify({ embedding, label: `label ${i % 100}` })}\n`;
      embedding[i] = 0;
      return line;
    });
    const headers = { "content-type": "application/x-ndjson" };
    const imported = await call("POST", "/v1/datasets/big/examples", freshKey, lines.join(""), headers);
    expect(imported.json).toMatchObject({ added: 4000 });
    const answer = await postHead({ name: "h", dataset: "big", method: "head" }, freshKey);
    expectError(answer, 413, "edge_budget_exceeded");
    const { estimate, budget } = answer.json.error.details;
    expect(estimate.bytes > budget.bytes || estimate.operations > budget.operations).toBe(true);
    expectError(await call("GET", "/v1/heads/h", freshKey), 404, "not_found");
  });

  test("on targets that one message cannot hold is refused before they are read", async () => {
    const { key: freshKey } = await newTenant();
    await call("POST", "/v1/datasets", freshKey, { name: "wide", task: "multi_label", modality: "text" });
    const labels = Array.from({ length: 256 }, (_, i) => `${i} `.padEnd(256, "\u5b57"));
    const lines = Array.from({ length: 45 }, (_, i) =>
      JSON.stringify({ text: `text ${i}`, labels: labels.slice(i % 2) }),
    );
    const headers = { "content-type": "application/x-ndjson" };
    const imported = await call("POST", "/v1/datasets/wide/examples", freshKey, lines.join("\n"), headers);
    expect(imported.json, imported.text).toMatchObject({ added: 45 });
    const answer = await postHead({ name: "h", dataset: "wide", method: "head" }, freshKey);
    expectError(answer, 413, "edge_budget_exceeded");
    const { estimate, budget } = answer.json.error.details;
    expect(budget).toEqual({ bytes: limits.training_target_bytes });
    expect(estimate.bytes).toBeGreaterThan(45 * 255 * 253 * 3);
  });

  test("on odd data gives a head or says why not", async () => {
    const { key: freshKey } = await newTenant();
    const sameExample = { text: "the same", label: "x" };
    const cases: object[][] = [
      [sameExample, sameExample, sameExample, { ...sameExample, label: "y" }],
      [
        { text: "\u0000", label: "\u0000" },
        { text: "\ud800", label: "\ud800" },
      ],
      [...tickets(), { text: "alone", label: "a class of one" }],
      [
        { embedding: [1, 1], label: "x" },
        { embedding: [1, 1], label: "y" },
      ],
      [
        { embedding: [0, 0], value: 1 },
        { embedding: [0, 0], value: 1 },
        { embedding: [0, 0], value: 1 },
      ],
      [
        { embedding: [3e38, -3e38], label: "x" },
        { embedding: [-3e38, 3e38], label: "y" },
      ],
      [
        { embedding: [1e-45], value: 1e15 },
        { embedding: [2e-45], value: -1e15 },
      ],
    ];
    for (const [index, examples] of cases.entries()) {
      const answer = await postHead({ name: `odd-${index}`, examples }, freshKey);
      expect([201, 422], `${JSON.stringify(examples)}: ${answer.text}`).toContain(answer.status);
      if (answer.status !== 201) continue;
      const input = answer.json.modality === "text" ? "a" : { embedding: Array(answer.json.dimensions).fill(1) };
      expect((await call("POST", `/v1/heads/odd-${index}/predict`, freshKey, { input })).status).toBe(200);
    }
  });
});

describe("versions", () => {
  let freshKey: string;

  beforeAll(async () => {
    freshKey = (await tenantWithTickets()).key;
    await trainHead({ name: "h", dataset: "tickets", evaluation: noEvaluation }, freshKey);
    await trainHead({ name: "h", dataset: "tickets", evaluation: noEvaluation, hyperparameters: { l2: 3 } }, freshKey);
    await trainHead(
      { name: "h", dataset: "tickets", evaluation: noEvaluation, hyperparameters: { l2: 5 }, promote: false },
      freshKey,
    );
  });

  test("the same name makes the next one, which becomes active unless promote is false", async () => {
    expect((await call("GET", "/v1/heads/h", freshKey)).json).toMatchObject({ version: 2, active_version: 2 });
    expect((await call("GET", "/v1/heads/h/versions/3", freshKey)).json).toMatchObject({
      version: 3,
      active_version: 2,
    });
  });

  test("are listed newest first, page by page", async () => {
    const allVersions = (await call("GET", "/v1/heads/h/versions", freshKey)).json;
    expect(allVersions.data.map(({ version }: { version: number }) => version)).toEqual([3, 2, 1]);
    const first = (await call("GET", "/v1/heads/h/versions?limit=2", freshKey)).json;
    expect(first.has_more).toBe(true);
    const second = (await call("GET", `/v1/heads/h/versions?limit=2&after=${first.last_id}`, freshKey)).json;
    expect(second.data.map(({ version }: { version: number }) => version)).toEqual([1]);
    expect(second).toMatchObject({ first_id: "1", last_id: "1", has_more: false });
    for (const after of ["0", "4", "h", "-1", "1e0"]) {
      expectError(
        await call("GET", `/v1/heads/h/versions?after=${after}`, freshKey),
        400,
        "invalid_parameter",
        "after",
      );
    }
  });

  test.each(["0", "-1", "1.5", "x", "%00", "9999999999", "NaN", "0x1", "1e0", "+1"])(
    "%s is no version",
    async (version) => {
      const answer = await call("GET", `/v1/heads/h/versions/${version}`, freshKey);
      expectError(answer, 400, "invalid_parameter", "version");
    },
  );

  test("a name keeps its task until its head is deleted", async () => {
    const { key: ownKey } = await tenantWithTickets();
    const values = tickets().map(({ text }, value) => ({ text, value }));
    const train = (params: object) => call("POST", "/v1/heads", ownKey, { evaluation: noEvaluation, ...params });
    expect((await train({ name: "urgency", dataset: "tickets" })).status).toBe(201);
    for (const method of ["auto", "head", "fine_tune"]) {
      const refused = await train({ name: "urgency", examples: values, method });
      expectError(refused, 409, "task_mismatch", "name");
      expect(refused.json.error.type).toBe("conflict_error");
      expect(refused.json.error.message).toContain("single_label");
    }
    expect((await call("GET", "/v1/heads/urgency", ownKey)).json).toMatchObject({ active_version: 1, version: 1 });
    expect((await call("GET", "/v1/files", ownKey)).json.data).toEqual([]);
    await call("DELETE", "/v1/heads/urgency", ownKey);
    expect((await train({ name: "urgency", examples: values })).json).toMatchObject({ version: 1, task: "regression" });
  });

  test("one that was never made is not found", async () => {
    expectError(await call("GET", "/v1/heads/h/versions/4", freshKey), 404, "not_found");
    expectError(await call("POST", "/v1/heads/h/promote", freshKey, { version: 4 }), 404, "not_found");
    expectError(await call("POST", "/v1/heads/none/promote", freshKey, { version: 1 }), 404, "not_found");
  });

  test("promoting moves what predict serves, back as well as forth", async () => {
    for (const version of [3, 1, 2]) {
      const promoted = await call("POST", "/v1/heads/h/promote", freshKey, { version });
      expect(promoted.status).toBe(200);
      expect(promoted.json).toMatchObject({ id: "h", version, active_version: version });
      const predicted = await call("POST", "/v1/heads/h/predict", freshKey, { input: "refund" });
      expect(predicted.json.model).toBe(`h@${version}`);
    }
  });

  test.each<[unknown, string, string]>([
    [{}, "missing_parameter", "version"],
    [{ version: 0 }, "invalid_parameter", "version"],
    [{ version: "1" }, "invalid_parameter", "version"],
    [{ version: 1.5 }, "invalid_parameter", "version"],
    [{ version: 1e300 }, "invalid_parameter", "version"],
    [{ version: null }, "invalid_parameter", "version"],
    [{ version: 1, force: true }, "unknown_parameter", "force"],
  ])("promoting %j is refused", async (body, code, param) => {
    expectError(await call("POST", "/v1/heads/h/promote", freshKey, body), 400, code as "invalid_parameter", param);
  });

  test("an export holds all that a prediction needs", async () => {
    const answer = await call("GET", "/v1/heads/h/versions/2/export?format=json", freshKey);
    expect(answer.status).toBe(200);
    const { weights, lexical, bias, temperature, labels, dimensions } = answer.json;
    expect(answer.json).toMatchObject({ object: "head.export", id: "h", version: 2, format: "json" });
    expect(weights).toHaveLength(labels.length);
    const input = "where is my parcel";
    const { embedding } = (await call("POST", "/v1/embeddings", freshKey, { model: "text-static-1", input })).json
      .data[0];
    expect(embedding).toHaveLength(dimensions);
    const features =
      lexical === null ? null : createLexicalVectorizer({ ...lexical, seenBuckets: lexical.seen })(input);
    const lexicalLogit = (k: number) =>
      features?.columns.reduce((sum, j, m) => sum + lexical.weights[k][j] * (features.values[m] ?? 0), 0) ?? 0;
    const logits = weights.map(
      (row: number[], k: number) =>
        (row.reduce((sum, weight, j) => sum + weight * embedding[j], 0) + lexicalLogit(k) + bias[k]) / temperature,
    );
    const total = logits.reduce((sum: number, logit: number) => sum + Math.exp(logit), 0);
    const expectedScores = new Map(labels.map((label: string, k: number) => [label, Math.exp(logits[k]) / total]));
    const predicted = await call("POST", "/v1/heads/h/predict", freshKey, { input, version: 2, top_k: labels.length });
    for (const { label, score } of predicted.json.data[0].scores)
      expect(score).toBeCloseTo(expectedScores.get(label) as number, 6);
    const other = await call("GET", "/v1/heads/h/versions/2/export?format=onnx", freshKey);
    expectError(other, 400, "invalid_parameter", "format");
  });
});

describe("listing and deleting heads", () => {
  test("the list is newest first, by their active versions", async () => {
    const { key: freshKey } = await tenantWithTickets();
    for (const name of ["a", "b", "c"])
      await trainHead({ name, dataset: "tickets", evaluation: noEvaluation }, freshKey);
    await trainHead({ name: "a", dataset: "tickets", evaluation: noEvaluation }, freshKey);
    const first = (await call("GET", "/v1/heads?limit=2", freshKey)).json;
    expect(first).toMatchObject({ first_id: "c", last_id: "b", has_more: true });
    const second = (await call("GET", "/v1/heads?limit=2&after=b", freshKey)).json;
    expect(second.data).toMatchObject([{ id: "a", version: 2, active_version: 2 }]);
  });

  test("a deleted head is gone with all its versions, and a new one of its name begins at 1", async () => {
    const { key: freshKey } = await tenantWithTickets();
    await trainHead({ name: "h", dataset: "tickets", evaluation: noEvaluation }, freshKey);
    await trainHead({ name: "h", dataset: "tickets", evaluation: noEvaluation }, freshKey);
    await call("POST", "/v1/heads/h/predict", freshKey, { input: "a", version: 1 });
    const answer = await call("DELETE", "/v1/heads/h", freshKey);
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({ id: "h", object: "head", deleted: true });
    for (const path of ["", "/versions", "/versions/1", "/versions/1/export"]) {
      expectError(await call("GET", `/v1/heads/h${path}`, freshKey), 404, "not_found");
    }
    expectError(await call("POST", "/v1/heads/h/predict", freshKey, { input: "a" }), 404, "not_found");
    expectError(await call("POST", "/v1/heads/h/predict", freshKey, { input: "a", version: 1 }), 404, "not_found");
    expectError(await call("DELETE", "/v1/heads/h", freshKey), 404, "not_found");
    expect((await trainHead({ name: "h", dataset: "tickets", evaluation: noEvaluation }, freshKey)).version).toBe(1);
  });
});

describe("who may", () => {
  const routes: ["predict" | "train", string, string, unknown?][] = [
    ["predict", "GET", "/v1/heads/h"],
    ["predict", "GET", "/v1/heads/h/versions"],
    ["predict", "GET", "/v1/heads/h/versions/1"],
    ["train", "GET", "/v1/heads/h/versions/1/export"],
    ["train", "POST", "/v1/heads/h/promote", { version: 1 }],
    ["train", "DELETE", "/v1/heads/h"],
    ["predict", "POST", "/v1/heads/h/predict", { input: "a" }],
  ];
  test.each(routes)("a key with the scope %s, of the tenant itself: %s %s", async (scope, method, path, body) => {
    const owner = await tenantWithTickets();
    await trainHead({ name: "h", dataset: "tickets", evaluation: noEvaluation }, owner.key);
    await expectAuthorization(owner.key, scope, method, path, body);
    await expectHidden(method, path, body, async () => {
      expect((await call("GET", "/v1/heads/h", owner.key)).json).toMatchObject({ version: 1, active_version: 1 });
      await call("DELETE", "/v1/heads/h", owner.key);
    });
  });

  test("training and listing need a key with their scope; another tenant's dataset is not found", async () => {
    await expectAuthorization(key, "train", "POST", "/v1/heads", { name: "h", dataset: "tickets" });
    await expectAuthorization(key, "predict", "GET", "/v1/heads");
    const { key: otherKey } = await newTenant();
    expectError(await postHead({ name: "h", dataset: "tickets" }, otherKey), 404, "not_found", "dataset");
    expect((await call("GET", "/v1/heads", otherKey)).json.data).toEqual([]);
  });
});

describe("heads of many labels", () => {
  const repeated = (count: number, length: number) =>
    Array.from({ length: count }, (_, i) => ({
      embedding: [Math.cos(i), Math.sin(i)],
      label: `${i} `.padEnd(length, "\u5b57"),
    }));
  const evaluation = { method: "none" };
  const hyperparameters = { l2: 1 };

  test("are listed without the parts of an evaluation that grow with the labels", async () => {
    const { key: freshKey } = await tenantWithTickets();
    const head = await trainHead({ name: "support", dataset: "tickets" }, freshKey);
    const { per_class, confusion, confused, reliability, held_out_inputs, ...figures } = head.evaluation;
    expect(per_class).toHaveLength(3);
    expect((await call("GET", "/v1/heads/support", freshKey)).json.evaluation).toEqual({
      ...figures,
      per_class,
      confusion,
      confused,
      reliability,
      held_out_inputs,
    });
    for (const path of ["/v1/heads", "/v1/heads/support/versions"])
      expect((await call("GET", path, freshKey)).json.data[0].evaluation).toEqual(figures);
  });

  test("are refused where their record is more than a ledger's row, counted in bytes", async () => {
    const { key: freshKey } = await newTenant();
    const answer = await postHead(
      { name: "wide", examples: repeated(3_000, 256), evaluation, hyperparameters },
      freshKey,
    );
    expectError(answer, 422, "limit_exceeded");
    const { limit, actual } = answer.json.error.details;
    expect(limit).toBe(limits.head_record_bytes);
    expect(actual).toBeGreaterThan(3_000 * 250 * 3);
    expect((await call("GET", "/v1/heads", freshKey)).json.data).toEqual([]);
  });
});
