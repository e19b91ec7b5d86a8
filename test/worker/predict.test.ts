import { beforeAll, describe, expect, test, vi } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectError } from "./assertions.ts";
import { WAIT_OPTIONS } from "./fake-batch-endpoint.ts";

let key: string;

beforeAll(async () => {
  key = (await tenantWithTickets()).key;
  const values = Array.from({ length: 40 }, (_, i) => ({ embedding: [i / 40, (i % 3) / 3], value: 2 * i }));
  const multiLabelExamples = tickets().map(({ text, label }, i) => ({
    text,
    labels: i % 2 === 0 ? [label, "even"] : [label],
  }));
  for (const body of [
    { name: "single", dataset: "tickets" },
    { name: "multi", examples: multiLabelExamples },
    { name: "worded", dataset: "tickets", hyperparameters: { lexical: true } },
    { name: "worded-multi", examples: multiLabelExamples, hyperparameters: { lexical: true } },
    {
      name: "worded-value",
      examples: tickets().map(({ text }, i) => ({ text, value: i })),
      hyperparameters: { lexical: true },
    },
    { name: "value", examples: values },
    { name: "few", examples: values.slice(0, 4) },
    {
      name: "own",
      examples: values.map(({ embedding, value }) => ({ embedding, label: value < 40 ? "low" : "high" })),
    },
  ]) {
    const answer = await call("POST", "/v1/heads", key, body);
    expect(answer.status, answer.text).toBe(201);
  }
});

const postPredict = (head: string, body: object) => call("POST", `/v1/heads/${head}/predict`, key, body);

async function predictAll(head: string, body: object) {
  const answer = await postPredict(head, body);
  expect(answer.status, answer.text).toBe(200);
  expect(answer.json).toMatchObject({ object: "list", model: `${head}@1` });
  return answer.json.data;
}

describe("single_label", () => {
  test("answers a label, its score and whether it is in scope", async () => {
    const [prediction] = await predictAll("single", { input: "please refund my invoice" });
    expect(prediction).toEqual({
      index: 0,
      label: "billing",
      score: expect.any(Number),
      in_scope: true,
      scope_score: expect.any(Number),
      scores: [{ label: "billing", score: prediction.score }],
    });
  });

  test("top_k gives that many scores, highest first, which add up to one over all labels", async () => {
    const [topTwo] = await predictAll("single", { input: "late parcel", top_k: 2 });
    expect(topTwo.scores).toHaveLength(2);
    const [all] = await predictAll("single", { input: "late parcel", top_k: 100 });
    const scores = all.scores.map(({ score }: { score: number }) => score);
    expect(scores).toEqual(scores.toSorted((a: number, b: number) => b - a));
    expect(scores.reduce((sum: number, score: number) => sum + score, 0)).toBeCloseTo(1, 9);
  });

  test("coverage gives a set that grows with it and always holds the label", async () => {
    const sizes: number[] = [];
    for (const coverage of [0.5, 0.9, 0.999]) {
      const [prediction] = await predictAll("single", { input: "my card and my parcel", coverage });
      expect(prediction.set).toContain(prediction.label);
      sizes.push(prediction.set.length);
    }
    expect(sizes).toEqual(sizes.toSorted());
  });

  test("out_of_scope_threshold decides what is in scope", async () => {
    for (const [threshold, in_scope] of [
      [0, true],
      [1, false],
    ] as const) {
      const [prediction] = await predictAll("single", { input: "late parcel", out_of_scope_threshold: threshold });
      expect(prediction.in_scope).toBe(in_scope);
    }
  });
});

test("multi_label answers every label that is likelier than not, and their scores", async () => {
  const [prediction] = await predictAll("multi", { input: "refund my last invoice", top_k: 4 });
  expect(prediction).toEqual({ index: 0, labels: expect.any(Array), scores: expect.any(Array) });
  expect(prediction.scores).toHaveLength(4);
  const likelyLabels = prediction.scores.filter(({ score }: { score: number }) => score >= 0.5);
  expect(prediction.labels).toEqual(likelyLabels.map(({ label }: { label: string }) => label));
});

test("regression answers a value and the interval that should hold it", async () => {
  const [prediction] = await predictAll("value", { input: { embedding: [0.5, 0] } });
  expect(prediction).toEqual({
    index: 0,
    value: expect.any(Number),
    interval: [expect.any(Number), expect.any(Number)],
  });
  expect(prediction.interval[0]).toBeLessThanOrEqual(prediction.value);
  expect(prediction.interval[1]).toBeGreaterThanOrEqual(prediction.value);
  expect(prediction.value).toBeGreaterThan(20);
  expect(prediction.value).toBeLessThan(60);
});

test("regression on too few examples for the coverage says that it knows no interval", async () => {
  const [prediction] = await predictAll("few", { input: { embedding: [0.5, 0] }, coverage: 0.99 });
  expect(prediction).toEqual({ index: 0, value: expect.any(Number), interval: null });
});

describe("inputs", () => {
  test("that are too long are cut where that is asked for, and said", async () => {
    const refunds = "refund ".repeat(Math.floor(limits.text_characters / 7));
    const long = `${refunds} and more than that`;
    const [short, cut] = await predictAll("single", { input: ["refund", { text: long }], truncate: true });
    expect(short.truncated).toBeUndefined();
    expect(cut).toMatchObject({ index: 1, truncated: true });
    const [same] = await predictAll("single", { input: refunds.trim() });
    expect(cut).toEqual({ ...same, index: 1, truncated: true });
    // An emoji is one character.
    const [emoji] = await predictAll("single", { input: "\u{1f600}".repeat(limits.text_characters) });
    expect(emoji.index).toBe(0);
  });

  test.each(["single", "worded", "worded-multi", "worded-value"])(
    "as many out as in, in order, each as it is alone, in each of its forms: %s",
    async (head) => {
      const input = [
        "refund",
        { text: "late parcel" },
        "log in",
        { text: "refund" },
        "\u0000",
        "\ud800",
        "\u{1f600} \u202e",
      ];
      const all = await predictAll(head, { input });
      expect(all.map(({ index }: { index: number }) => index)).toEqual(input.map((_, i) => i));
      for (const [i, text] of input.entries()) {
        const [prediction] = await predictAll(head, { input: text });
        expect({ ...prediction, index: i }).toEqual(all[i]);
      }
    },
  );

  test("embeddings of one's own, alone or many", async () => {
    const all = await predictAll("own", { input: [{ embedding: [0, 0] }, { embedding: [1, 0] }] });
    expect(all.map(({ label }: { label: string }) => label)).toEqual(["low", "high"]);
    await predictAll("own", { input: { embedding: [3.4e38, -3.4e38] } });
    await predictAll("value", { input: { embedding: [1e-45, -0] } });
  });

  test("as many as the limit says", async () => {
    const all = await predictAll("single", { input: Array(limits.inputs_per_request).fill("refund") });
    expect(all).toHaveLength(limits.inputs_per_request);
  });

  test.each<[string, string, object, number, string, string | null]>([
    ["no input", "single", {}, 400, "missing_parameter", "input"],
    ["null", "single", { input: null }, 400, "invalid_parameter", "input"],
    ["a number", "single", { input: 7 }, 400, "invalid_parameter", "input"],
    ["an empty list", "single", { input: [] }, 400, "invalid_parameter", "input"],
    ["a list in a list", "single", { input: [["a"]] }, 400, "invalid_parameter", "input[0]"],
    [
      "too many inputs",
      "single",
      { input: Array(limits.inputs_per_request + 1).fill("a") },
      422,
      "limit_exceeded",
      "input",
    ],
    ["an empty text", "single", { input: "" }, 422, "input_empty", "input"],
    ["a blank text among others", "single", { input: ["a", { text: "\n" }] }, 422, "input_empty", "input[1].text"],
    ["a blank bare text among others", "single", { input: ["a", "\n"] }, 422, "input_empty", "input[1]"],
    ["a blank text alone", "single", { input: { text: " " } }, 422, "input_empty", "input.text"],
    ["a huge text", "single", { input: "x".repeat(limits.text_characters + 1) }, 422, "input_too_long", "input"],
    ["an input of nothing", "single", { input: {} }, 400, "missing_parameter", "input.text"],
    [
      "an input of two kinds",
      "single",
      { input: { text: "a", embedding: [1] } },
      400,
      "unknown_parameter",
      "input.embedding",
    ],
    ["an embedding for texts", "single", { input: { embedding: [1, 2] } }, 422, "modality_mismatch", "input"],
    ["a text for embeddings", "own", { input: ["a"] }, 422, "modality_mismatch", "input[0]"],
    ["an image", "single", { input: [{ image: "aGk=" }] }, 422, "modality_not_supported", "input[0].image"],
    [
      "an embedding that is too short",
      "own",
      { input: { embedding: [1] } },
      422,
      "invalid_embedding",
      "input.embedding",
    ],
    [
      "an embedding that is too long",
      "own",
      { input: [{ embedding: [1, 2] }, { embedding: [1, 2, 3] }] },
      422,
      "invalid_embedding",
      "input[1].embedding",
    ],
    ["an empty embedding", "own", { input: { embedding: [] } }, 422, "invalid_embedding", "input.embedding"],
    [
      "an embedding beyond 32 bits",
      "own",
      { input: { embedding: [1, 1e39] } },
      422,
      "invalid_embedding",
      "input.embedding[1]",
    ],
    [
      "more numbers than an embedding may have",
      "own",
      { input: [{ embedding: Array(limits.embedding_dimensions + 1).fill(1) }] },
      422,
      "limit_exceeded",
      "input[0].embedding",
    ],
    ["an unknown head", "none", { input: "a" }, 404, "not_found", null],
    ["a head's name that none can have", "UPPER", { input: "a" }, 400, "invalid_parameter", "name"],
    ["an unknown version", "single", { input: "a", version: 2 }, 404, "not_found", null],
    ["a version as a text", "single", { input: "a", version: "1" }, 400, "invalid_parameter", "version"],
    ["true for a version", "single", { input: "a", version: true }, 400, "invalid_parameter", "version"],
    ["a version of zero", "single", { input: "a", version: 0 }, 400, "invalid_parameter", "version"],
    ["a top_k of zero", "single", { input: "a", top_k: 0 }, 400, "invalid_parameter", "top_k"],
    ["a top_k with a fraction", "single", { input: "a", top_k: 1.5 }, 400, "invalid_parameter", "top_k"],
    ["a coverage of one", "single", { input: "a", coverage: 1 }, 400, "invalid_parameter", "coverage"],
    [
      "a threshold above one",
      "single",
      { input: "a", out_of_scope_threshold: 1.1 },
      400,
      "invalid_parameter",
      "out_of_scope_threshold",
    ],
    ["an unknown field", "single", { input: "a", temperature: 2 }, 400, "unknown_parameter", "temperature"],
  ])("%s is refused", async (_what, head, body, status, code, param) => {
    expectError(await postPredict(head, body), status, code as "invalid_parameter", param);
  });

  test.each(["NaN", "Infinity", "-Infinity"])("%s in an embedding is not JSON", async (number) => {
    const json = { "content-type": "application/json" };
    const answer = await call("POST", "/v1/heads/own/predict", key, `{"input":{"embedding":[1,${number}]}}`, json);
    expectError(answer, 400, "invalid_json");
  });

  test("1e999 in an embedding is refused", async () => {
    const json = { "content-type": "application/json" };
    const answer = await call("POST", "/v1/heads/own/predict", key, '{"input":{"embedding":[1,1e999]}}', json);
    expectError(answer, 400, "invalid_parameter", "input.embedding[1]");
  });
});

test("a version pins, whatever is active", async () => {
  const { key: freshKey } = await tenantWithTickets();
  const evaluation = { method: "none" };
  await call("POST", "/v1/heads", freshKey, {
    name: "h",
    dataset: "tickets",
    evaluation,
    hyperparameters: { l2: 0.01 },
  });
  await call("POST", "/v1/heads", freshKey, {
    name: "h",
    dataset: "tickets",
    evaluation,
    hyperparameters: { l2: 100 },
  });
  const predictVersion = async (version?: number) =>
    (await call("POST", "/v1/heads/h/predict", freshKey, { input: "refund", ...(version ? { version } : {}) })).json;
  expect((await predictVersion()).model).toBe("h@2");
  const pinned = await predictVersion(1);
  expect(pinned.model).toBe("h@1");
  expect(pinned.data[0].score).toBeGreaterThan((await predictVersion(2)).data[0].score);
});

test("a head of which no version is active serves pinned versions alone", async () => {
  const draft = await call("POST", "/v1/heads", key, { name: "draft", dataset: "tickets", promote: false });
  expect(draft.json).toMatchObject({ version: 1, active_version: null });
  expectError(await postPredict("draft", { input: "hello" }), 404, "not_found");
  expect((await postPredict("draft", { input: "hello", version: 1 })).status).toBe(200);
  await call("POST", "/v1/heads/draft/promote", key, { version: 1 });
  expect((await postPredict("draft", { input: "hello" })).json.model).toBe("draft@1");
});

test("options are refused where they mean nothing", async () => {
  expectError(await postPredict("multi", { input: "hello", coverage: 0.9 }), 422, "task_mismatch", "coverage");
  const threshold = await postPredict("multi", { input: "hello", out_of_scope_threshold: 0.5 });
  expectError(threshold, 422, "task_mismatch", "out_of_scope_threshold");
  expectError(await postPredict("single", { input: "hello", threshold: 0.5 }), 422, "task_mismatch", "threshold");
  expectError(await postPredict("multi", { input: "hello", threshold: 1.5 }), 400, "invalid_parameter", "threshold");
});

test("a multi-label head predicts by the threshold of each label, or by that of the request", async () => {
  const examples = Array.from({ length: 160 }, (_, i) => ({
    embedding: [Math.sin(i), i % 8 === 0 ? 0.3 + Math.cos(i) : Math.cos(3 * i) - 0.3],
    labels: [...(Math.sin(i) > 0 ? ["often"] : []), ...(i % 8 === 0 ? ["rare"] : [])],
  }));
  const { json: head } = await call("POST", "/v1/heads", key, { name: "thresholds", examples });
  const thresholds = new Map<string, number>(
    head.evaluation.per_class.map((metrics: { label: string; threshold: number }) => [
      metrics.label,
      metrics.threshold,
    ]),
  );
  expect(thresholds.get("rare")).toBeLessThan(0.5);
  const exported = await call("GET", "/v1/heads/thresholds/versions/1/export", key);
  expect(exported.json).toMatchObject({ thresholds: [...thresholds.values()], value_range: null });
  const input = examples.map(({ embedding }) => ({ embedding }));
  const { data: all } = (await postPredict("thresholds", { input, top_k: 2 })).json;
  const { data: shown } = (await postPredict("thresholds", { input })).json;
  const { data: overridden } = (await postPredict("thresholds", { input, threshold: 0.9 })).json;
  for (const [i, { scores, labels }] of all.entries()) {
    const above = (thresholdOf: (label: string) => number) =>
      scores
        .filter(({ label, score }: { label: string; score: number }) => score >= thresholdOf(label))
        .map(({ label }: { label: string }) => label);
    expect(labels).toEqual(above((label) => thresholds.get(label) ?? 1));
    expect(overridden[i].labels).toEqual(above(() => 0.9));
    expect(shown[i].scores.map(({ label }: { label: string }) => label)).toEqual(expect.arrayContaining(labels));
  }
  expect(all.some(({ labels }: { labels: string[] }) => labels.includes("rare"))).toBe(true);
});

test("a head that clamps answers no value beyond those it was trained on, and trains so again", async () => {
  const owner = await newTenant();
  const dataset = { name: "points", task: "regression", modality: "embedding", dimensions: 1 };
  await call("POST", "/v1/datasets", owner.key, dataset);
  const examples = Array.from({ length: 40 }, (_, i) => ({ embedding: [i], value: 10 + i }));
  await call("POST", "/v1/datasets/points/examples", owner.key, { examples });
  const params = { name: "clamped", dataset: "points", clamp: true };
  const { json: head } = await call("POST", "/v1/heads", owner.key, params);
  expect(head.training.value_range).toEqual([10, 49]);
  const input = [{ embedding: [1000] }, { embedding: [-1000] }];
  const { json } = await call("POST", "/v1/heads/clamped/predict", owner.key, { input });
  expect(json.data.map(({ value }: { value: number }) => value)).toEqual([49, 10]);
  for (const { interval } of json.data) expect([interval[0] >= 10, interval[1] <= 49]).toEqual([true, true]);
  const free = await call("POST", "/v1/heads", owner.key, { ...params, name: "free", clamp: false });
  expect(free.json.training.value_range).toBeUndefined();
  const freePrediction = await call("POST", "/v1/heads/free/predict", owner.key, { input: input[0] });
  expect(freePrediction.json.data[0].value).toBeGreaterThan(500);
  const exported = await call("GET", "/v1/heads/clamped/versions/1/export", owner.key);
  expect(exported.json).toMatchObject({ thresholds: null, value_range: [10, 49] });
  const labelled = { name: "labelled", examples: tickets(), clamp: true };
  for (const method of ["head", "fine_tune"])
    expectError(await call("POST", "/v1/heads", owner.key, { ...labelled, method }), 422, "task_mismatch", "clamp");
  const policy = { retrain_after_examples: 1, promote: "always" };
  await call("PUT", "/v1/heads/clamped/policy", owner.key, policy);
  await call("POST", "/v1/datasets/points/examples", owner.key, { examples: [{ embedding: [40], value: 60 }] });
  const retrained = await vi.waitUntil(async () => {
    const { json: current } = await call("GET", "/v1/heads/clamped", owner.key);
    return current.version === 2 && current;
  }, WAIT_OPTIONS);
  expect(retrained.training.value_range).toEqual([10, 60]);
});

test.each([
  ["more than an encoder does in a request", Array(200).fill("a".repeat(1_100)), 200_000, 200 * 1_024],
  ["more than any backbone does in a request", Array(64).fill("a".repeat(32_000)), 2_000_000, 64 * 32_000],
])("text-use-1 embeds no %s", async (_, input, limit, actual) => {
  const answer = await call("POST", "/v1/embeddings", key, { model: "text-use-1", input });
  expectError(answer, 422, "limit_exceeded", "input");
  expect(answer.json.error.details).toEqual({ limit, actual });
});

test("more characters than the limit says are refused before any is embedded, however they are divided", async () => {
  const limit = limits.characters_per_request;
  const full = Array(62).fill("word ".repeat(6_451));
  const rest = "w".repeat(limit - 62 * 32_255);
  const embed = (input: string[]) => call("POST", "/v1/embeddings", key, { model: "hash-text-1", input });
  expect((await embed([...full, rest])).status).toBe(200);
  const input = [...full, `${rest}!`];
  for (const answer of [await embed(input), await postPredict("single", { input })]) {
    expectError(answer, 422, "limit_exceeded", "input");
    expect(answer.json.error.details).toEqual({ limit, actual: limit + 1 });
  }
});

test("more scores than an answer holds, or more work than one stretch takes, are refused with the limit", async () => {
  const labels = Array.from({ length: 400 }, (_, i) => ({
    embedding: [Math.cos(i), Math.sin(i)],
    label: `label ${i}`,
  }));
  const body = { name: "many", examples: labels, evaluation: { method: "none" }, hyperparameters: { l2: 1 } };
  expect((await call("POST", "/v1/heads", key, body)).status).toBe(201);
  const input = Array.from({ length: 2_000 }, () => ({ embedding: [1, 0] }));
  const answer = await postPredict("many", { input, top_k: 400 });
  expectError(answer, 422, "limit_exceeded", "input");
  expect(answer.json.error.details).toEqual({ limit: limits.scores_per_request, actual: 800_000 });
  expectError(await postPredict("many", { input, coverage: 0.9 }), 422, "limit_exceeded", "input");
  expect((await postPredict("many", { input })).status).toBe(200);
  const multiLabelled = labels.map(({ embedding, label }) => ({ embedding, labels: [label] }));
  expect((await call("POST", "/v1/heads", key, { ...body, name: "several", examples: multiLabelled })).status).toBe(
    201,
  );
  expectError(await postPredict("several", { input }), 422, "limit_exceeded", "input");
});
