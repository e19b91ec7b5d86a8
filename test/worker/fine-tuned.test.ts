/** Fine-tuned backbones: how a job brings them, and what their tenant can do with them. */
import { SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import OpenAI from "openai";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { textStatic } from "../../src/backbones/workerd.ts";
import { limits } from "../../src/core/limits.ts";
import { sha256Hex } from "../../src/lib/hash.ts";
import { createClient } from "../../src/sdk/client.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectAuthorization, expectError, withoutRequestId } from "./assertions.ts";
import {
  describeArtifact,
  getTrainedHead,
  inLedger,
  listStoredKeys,
  makeManifest,
  mockBatchEndpoint,
  waitForJob,
} from "./fake-batch-endpoint.ts";
import {
  embedWith,
  FILTERS,
  finishAttempt,
  makeDelta,
  makeFineTunedHead,
  makeFineTunedManifest,
  model,
  runFineTuning,
  startEvaluatedJob,
} from "./fine-tuned.ts";

const WAIT_OPTIONS = { timeout: 30_000, interval: 20 };
const texts = ["please refund my invoice", "where is the parcel", "qwxz reset my password"];
const modelPath = (id: string) => `/v1/models/${encodeURIComponent(id)}`;
const listModelIds = async (key: string) =>
  (await call("GET", "/v1/models", key)).json.data
    .map(({ id }: { id: string }) => id)
    .filter((id: string) => id.startsWith("ft:"));
const postEmbeddings = (key: string, id: string, input: unknown = texts) =>
  call("POST", "/v1/embeddings", key, { model: id, input });
const embeddingRows = (json: { data: { embedding: number[] }[] }) => json.data.map(({ embedding }) => embedding);

mockBatchEndpoint();

describe("a job that trained layers", () => {
  const delta = makeDelta(1);
  let owner: { id: string; key: string };
  let job: { id: string; fine_tuned_model: string };
  const id = `ft:${model}:support`;

  beforeAll(async () => {
    owner = await tenantWithTickets();
    job = await runFineTuning(owner, delta, { suffix: "support" });
  });

  test("makes a model that is listed behind the shared ones and found by its id", async () => {
    expect(job).toMatchObject({ fine_tuned_model: id, graft: { version: 1, promoted: true, trainable: "all" } });
    const { data } = (await call("GET", "/v1/models", owner.key)).json;
    const shared = data.find((entry: { id: string }) => entry.id === model);
    expect(data.at(-1)).toEqual({
      id,
      object: "model",
      created: expect.any(Number),
      owned_by: owner.id,
      graft: {
        kind: "fine_tuned",
        modality: "text",
        dimensions: 256 + FILTERS,
        revision: sha256Hex(delta),
        license: shared.graft.license,
        parameters: shared.graft.parameters + 1000,
        bytes: delta.length,
        base: { id: model, revision: textStatic.revision },
        job: job.id,
      },
    });
    for (const path of [modelPath(id), `/v1/models/${id}`])
      expect((await call("GET", path, owner.key)).json).toEqual(data.at(-1));
    const { fine_tuned_backbones } = (await call("GET", "/v1/limits", owner.key)).json.limits;
    expect(fine_tuned_backbones).toEqual({ limit: limits.fine_tuned_backbones, used: 1 });
  });

  test("makes a head that says so, and predicts by it", async () => {
    const head = (await call("GET", "/v1/heads/support", owner.key)).json;
    expect(head).toMatchObject({
      version: 1,
      active_version: 1,
      dimensions: 256 + FILTERS,
      backbone: { id, revision: sha256Hex(delta) },
      training: { method: "fine_tune" },
    });
    expect(head.backbone).toEqual({ id, revision: sha256Hex(delta) });
    const exported = (await call("GET", "/v1/heads/support/versions/1/export", owner.key)).json;
    expect(exported).toMatchObject({ backbone: head.backbone, dimensions: 256 + FILTERS });
    const answer = await call("POST", "/v1/heads/support/predict", owner.key, { input: texts[0], top_k: 3 });
    const [embedding] = await embedWith(delta, texts.slice(0, 1));
    const logits = exported.labels.map((label: string, k: number) => {
      const sum = exported.weights[k].reduce(
        (total: number, w: number, j: number) => total + w * (embedding?.[j] ?? 0),
        0,
      );
      return { label, logit: (sum + exported.bias[k]) / exported.temperature };
    });
    expect(exported.lexical).toBeNull();
    const total = logits.reduce((sum: number, { logit }: { logit: number }) => sum + Math.exp(logit), 0);
    for (const { label, score } of answer.json.data[0].scores) {
      const { logit } = logits.find((entry: { label: string }) => entry.label === label);
      expect(score).toBeCloseTo(Math.exp(logit) / total, 5);
    }
  });

  test("makes a model that embeds as its layers do anywhere", async () => {
    const answer = await postEmbeddings(owner.key, id);
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json.model).toBe(id);
    expect(embeddingRows(answer.json)).toEqual(await embedWith(delta, texts));
    expect(answer.headers.get("x-cache")).toBe(`hit=0, miss=${texts.length}`);
    expectError(
      await call("POST", "/v1/embeddings", owner.key, { model: id, input: "a", dimensions: 256 }),
      400,
      "invalid_parameter",
      "dimensions",
    );
  });

  test("makes a model that embeds so many characters in a request, as predictions by it do", async () => {
    const input = Array(64).fill("a".repeat(32_000));
    const details = { limit: limits.characters_per_request, actual: 64 * 32_000 };
    for (const answer of [
      await postEmbeddings(owner.key, id, input),
      await call("POST", "/v1/heads/support/predict", owner.key, { input }),
    ]) {
      expectError(answer, 422, "limit_exceeded", "input");
      expect(answer.json.error.details).toEqual(details);
    }
    const long = [...Array(3).fill("one word and another "), "x ".repeat(16_000)];
    expect(embeddingRows((await postEmbeddings(owner.key, id, long)).json)).toEqual(await embedWith(delta, long));
  });

  test("makes a model on which a training counts what embedding may cost", async () => {
    const words = (from: number) => Array.from({ length: 5000 }, (_, i) => (from + i).toString(36)).join(" ");
    const examples = Array.from({ length: 270 }, (_, i) => ({ text: words(5000 * i), label: `${i % 2}` }));
    const params = { name: "costly", examples, method: "head", evaluation: { method: "none" } };
    const answer = await call("POST", "/v1/heads", owner.key, { ...params, backbone: id });
    expectError(answer, 413, "edge_budget_exceeded");
  });

  test("makes a model that other heads are trained on, from data sets and from examples, whose blocks are its revision's", async () => {
    for (const examples of [{ dataset: "tickets" }, { examples: tickets() }]) {
      const response = await call("POST", "/v1/heads", owner.key, { name: "other", backbone: id, ...examples });
      expect(response.status, response.text).toBe(201);
      expect(response.json).toMatchObject({
        dimensions: 256 + FILTERS,
        backbone: { id, revision: sha256Hex(delta) },
        training: { method: "head" },
      });
      const answer = await call("POST", "/v1/heads/other/predict", owner.key, { input: "reset my password" });
      expect(answer.json.data[0].label).toBe("login");
    }
    const blocks = await inLedger(owner.id, ({ sql }) =>
      sql.exec<{ backbone: string }>("SELECT backbone FROM blocks").toArray(),
    );
    expect(blocks).toEqual([{ backbone: `${id}@${sha256Hex(delta)}` }]);
    expect((await call("DELETE", "/v1/heads/other", owner.key)).status).toBe(200);
  });

  test("makes a head that is tested on a dataset as it predicts, and not beyond the budget", async () => {
    const response = await call("POST", "/v1/evaluations", owner.key, { head: "support", dataset: "tickets" });
    expect(response.status, response.text).toBe(201);
    const input = tickets().map(({ text }) => text);
    const { data } = (await call("POST", "/v1/heads/support/predict", owner.key, { input })).json;
    const hits = tickets().filter(({ label }, i) => data[i].label === label).length;
    expect(response.json).toMatchObject({ version: 1, dataset: { examples: input.length } });
    expect(response.json.evaluation.accuracy).toBeCloseTo(hits / input.length, 12);

    await call("POST", "/v1/datasets", owner.key, { name: "long", task: "single_label", modality: "text" });
    await call("POST", "/v1/datasets/long/examples", owner.key, { examples: tickets().slice(0, 3) });
    const countBlocks = ({ sql }: { sql: SqlStorage }) =>
      sql.exec<{ n: number }>("SELECT count(*) AS n FROM blocks").one().n;
    const before = await inLedger(owner.id, countBlocks);
    // Three texts of 2 MB cost a fine-tuned backbone more than a request may.
    const lengthen =
      "UPDATE examples SET input = hex(zeroblob(975000)) WHERE dataset = (SELECT id FROM datasets WHERE name = 'long')";
    await inLedger(owner.id, ({ sql }) => sql.exec(lengthen).toArray());
    const refused = await call("POST", "/v1/evaluations", owner.key, { head: "support", dataset: "long" });
    expectError(refused, 413, "edge_budget_exceeded", "dataset");
    const { estimate, budget } = refused.json.error.details;
    expect(estimate.operations).toBeGreaterThan(budget.operations);
    expect(await inLedger(owner.id, countBlocks)).toBe(before);
    expect((await call("GET", "/v1/evaluations?dataset=long", owner.key)).json.data).toEqual([]);
  });

  test("is not fine-tuned further, and no batch endpoint trains heads on it", async () => {
    const body = { model: id, training_file: "dataset:tickets" };
    for (const trainable of ["all", "head", undefined])
      expectError(
        await call("POST", "/v1/fine_tuning/jobs", owner.key, { ...body, trainable }),
        422,
        "not_available",
        "model",
      );
    const params = { name: "more", dataset: "tickets", backbone: id, method: "fine_tune" };
    expectError(await call("POST", "/v1/heads", owner.key, params), 422, "not_available", "backbone");
    const manyExamples = Array.from({ length: 3000 }, (_, i) => ({ text: `text ${i}`, label: `label ${i}` }));
    const oversizedBody = await call("POST", "/v1/heads", owner.key, {
      name: "more",
      examples: manyExamples,
      backbone: id,
    });
    expectError(oversizedBody, 413, "edge_budget_exceeded");
    expect((await call("GET", "/v1/files", owner.key)).json.data).toEqual([]);
  });

  test("is another tenant's nowhere", async () => {
    const otherTenant = await newTenant();
    const unknown = await call("GET", modelPath("ft:none:x"), otherTenant.key);
    expectError(unknown, 404, "not_found", "id");
    const similarId = (answer: typeof unknown) => JSON.stringify(withoutRequestId(answer)).replaceAll(id, "ft:none:x");
    for (const method of ["GET", "DELETE"])
      expect(similarId(await call(method, modelPath(id), otherTenant.key))).toBe(
        JSON.stringify(withoutRequestId(unknown)),
      );
    expect(await listModelIds(otherTenant.key)).toEqual([]);
    expectError(await postEmbeddings(otherTenant.key, id), 404, "not_found", "model");
    const params = { name: "a", examples: tickets(), backbone: id };
    expectError(await call("POST", "/v1/heads", otherTenant.key, params), 404, "not_found", "backbone");
    await call("POST", "/v1/datasets", otherTenant.key, { name: "tickets", task: "single_label", modality: "text" });
    const body = { model: id, training_file: "dataset:tickets" };
    expectError(await call("POST", "/v1/fine_tuning/jobs", otherTenant.key, body), 404, "not_found", "model");
    await expectAuthorization(owner.key, "train", "DELETE", modelPath(id));
  });

  test("OpenAI's own client lists, finds, embeds by and deletes it", async () => {
    const delta = makeDelta(2);
    const { key, ...rest } = await tenantWithTickets();
    const { fine_tuned_model } = await runFineTuning({ key, ...rest }, delta);
    const client = new OpenAI({
      apiKey: key,
      baseURL: "http://graft.test/v1",
      maxRetries: 0,
      fetch: (url, init) => SELF.fetch(url as string, init as RequestInit),
    });
    const listedIds: string[] = [];
    for await (const entry of client.models.list()) listedIds.push(entry.id);
    expect(listedIds).toContain(fine_tuned_model);
    expect((await client.models.retrieve(fine_tuned_model)).id).toBe(fine_tuned_model);
    const { data } = await client.embeddings.create({ model: fine_tuned_model, input: texts });
    expect(data.map(({ embedding }) => embedding)).toEqual(await embedWith(delta, texts));
    await expect(client.models.delete(fine_tuned_model)).rejects.toMatchObject({ status: 409, code: "model_in_use" });
    await call("DELETE", "/v1/heads/support", key);
    expect(await client.models.delete(fine_tuned_model)).toEqual({
      id: fine_tuned_model,
      object: "model",
      deleted: true,
    });
    await expect(client.models.retrieve(fine_tuned_model)).rejects.toBeInstanceOf(OpenAI.NotFoundError);
  });
});

describe("a model's id", () => {
  test.each(["a/b ?#%é😀&=+", "..", "x".repeat(64), "100%25"])(
    "of the suffix %j, which jobs once took, is found as it is, and encoded",
    async (suffix) => {
      const owner = await tenantWithTickets();
      const made = await runFineTuning(owner, makeDelta(3), { suffix: "new" });
      expect(made.graft).toMatchObject({ kind: "fine_tuned", comparison: { kept: "fine_tuned" } });
      const id = `ft:${model}:${suffix}`;
      await inLedger(owner.id, ({ sql }) => {
        sql.exec("UPDATE backbones SET id = ?", id);
        sql.exec("UPDATE head_versions SET record = json_set(record, '$.backbone.id', ?)", id);
      });
      expect((await call("GET", modelPath(id), owner.key)).json.id).toBe(id);
      expect((await postEmbeddings(owner.key, id)).status).toBe(200);
      const params = { name: "b", dataset: "tickets", backbone: id, evaluation: { method: "none" } };
      expect((await call("POST", "/v1/heads", owner.key, params)).status).toBe(201);
      for (const name of ["b", "support"]) await call("DELETE", `/v1/heads/${name}`, owner.key);
      expect((await call("DELETE", modelPath(id), owner.key)).json).toEqual({ id, object: "model", deleted: true });
    },
  );
});

describe("a job that trained no layers", () => {
  test.each([
    ["the frozen head won", {}, "not_better", model],
    ["the head alone was asked for", { trainable: "head" }, "better", model],
    ["its backbone has none", { model: "hash-text-1" }, "better", "hash-text-1"],
  ] as const)("because %s makes a model that is the shared one", async (_why, job, verdict, base) => {
    const owner = await tenantWithTickets();
    const { attempt, ...running } = await startEvaluatedJob(owner, job, verdict);
    const trainedHead = base === model ? await getTrainedHead() : await trainHashHead(owner);
    await attempt.uploadArtifact(trainedHead.bytes);
    const candidate = verdict === "better" ? "fine_tuned" : "head";
    await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, candidate) as never });
    const { fine_tuned_model: id, graft } = await waitForJob(owner.key, running.job, "succeeded");
    expect(id).toBe(`ft:${base}:${running.job}`);
    expect(graft).toMatchObject({ kind: "head", comparison: { verdict, kept: candidate } });
    const shared = (await call("GET", modelPath(base), owner.key)).json;
    const modelInfo = (await call("GET", modelPath(id), owner.key)).json;
    expect(modelInfo).toEqual({
      id,
      object: "model",
      created: expect.any(Number),
      owned_by: owner.id,
      graft: { ...shared.graft, base: { id: base, revision: shared.graft.revision }, job: running.job },
    });
    expect(await listModelIds(owner.key)).toEqual([id]);
    expect(embeddingRows((await postEmbeddings(owner.key, id)).json)).toEqual(
      embeddingRows((await postEmbeddings(owner.key, base)).json),
    );
    const backbone = { id: base, revision: shared.graft.revision };
    const head = (await call("GET", "/v1/heads/support", owner.key)).json;
    expect(head).toMatchObject({ backbone, training: { method: "head" } });
    const response = await call("POST", "/v1/heads", owner.key, { name: "b", dataset: "tickets", backbone: id });
    expect(response.json).toMatchObject({ backbone });
    expect((await call("GET", "/v1/limits", owner.key)).json.limits.fine_tuned_backbones.used).toBe(0);
    expect((await call("DELETE", modelPath(id), owner.key)).status).toBe(200);
    expectError(await call("GET", modelPath(id), owner.key), 404, "not_found", "id");
    expect((await call("POST", "/v1/heads/b/predict", owner.key, { input: "a" })).status).toBe(200);
  });

  async function trainHashHead({ id: tenant, key }: { id: string; key: string }) {
    const params = { name: "hashed", dataset: "tickets", backbone: "hash-text-1" };
    const head = (await call("POST", "/v1/heads", key, params)).json;
    const object = await env.BUCKET.get(`tenants/${tenant}/heads/${head.sha256}`);
    const bytes = await object?.arrayBuffer();
    return { bytes: new Uint8Array(bytes ?? new ArrayBuffer(0)), head };
  }

  test("on embeddings names a model that is none", async () => {
    const owner = await newTenant();
    const examples = [0, 1, 2].map((i) => ({ embedding: [i, 1], value: i }));
    const pointsDataset = { name: "points", task: "regression", modality: "embedding", dimensions: 2 };
    await call("POST", "/v1/datasets", owner.key, pointsDataset);
    await call("POST", "/v1/datasets/points/examples", owner.key, { examples });
    const { attempt, job } = await startEvaluatedJob(owner, { model: "embedding", training_file: "dataset:points" });
    const pointsHead = (await call("POST", "/v1/heads", owner.key, { name: "p", dataset: "points" })).json;
    const object = await env.BUCKET.get(`tenants/${owner.id}/heads/${pointsHead.sha256}`);
    const bytes = new Uint8Array((await object?.arrayBuffer()) ?? new ArrayBuffer(0));
    await attempt.uploadArtifact(bytes);
    await attempt.sendAcceptedMessage({
      type: "finished",
      manifest: makeManifest({ bytes, head: pointsHead }, "fine_tuned") as never,
    });
    const { fine_tuned_model } = await waitForJob(owner.key, job, "succeeded");
    expect(fine_tuned_model).toBe(`ft:embedding:${job}`);
    expectError(await call("GET", modelPath(fine_tuned_model), owner.key), 404, "not_found", "id");
    expect(await listModelIds(owner.key)).toEqual([]);
  });
});

describe("fine-tuned again under one suffix, a backbone", () => {
  const suffix = "again";
  const id = `ft:${model}:${suffix}`;
  const [first, second, third] = [makeDelta(11), makeDelta(12), makeDelta(13)] as const;
  const predict = (key: string, head: string, version?: number) =>
    call("POST", `/v1/heads/${head}/predict`, key, { input: texts, top_k: 3, ...(version ? { version } : {}) });

  test("has a new revision, which its id means; the one before stays as long as a head needs it", async () => {
    const owner = await tenantWithTickets();
    await runFineTuning(owner, first, { suffix, head: "a" });
    const before = (await predict(owner.key, "a")).json;
    await runFineTuning(owner, second, { suffix, head: "b" });
    expect(await listModelIds(owner.key)).toEqual([id]);
    expect((await call("GET", modelPath(id), owner.key)).json.graft.revision).toBe(sha256Hex(second));
    expect(embeddingRows((await postEmbeddings(owner.key, id)).json)).toEqual(await embedWith(second, texts));
    expect((await call("GET", "/v1/heads/a", owner.key)).json.backbone).toEqual({ id, revision: sha256Hex(first) });
    expect((await predict(owner.key, "a")).json).toEqual(before);
    expect((await predict(owner.key, "b")).json.data).not.toEqual(before.data);
    expect(await listStoredKeys(owner.id, "backbones/")).toEqual([sha256Hex(first), sha256Hex(second)].sort());
    expect((await call("GET", "/v1/limits", owner.key)).json.limits.fine_tuned_backbones.used).toBe(1);

    const refused = await call("DELETE", modelPath(id), owner.key);
    expectError(refused, 409, "model_in_use", "id");
    expect(refused.json.error).toMatchObject({ details: { heads: ["a", "b"], count: 2 } });
    expect(refused.json.error.message).toContain("'a', 'b'");
    await call("DELETE", "/v1/heads/a", owner.key);
    await vi.waitUntil(async () => (await listStoredKeys(owner.id, "backbones/")).length === 1, WAIT_OPTIONS);
    expect(await listStoredKeys(owner.id, "backbones/")).toEqual([sha256Hex(second)]);
    expectError(await call("DELETE", modelPath(id), owner.key), 409, "model_in_use", "id");
    await call("DELETE", "/v1/heads/b", owner.key);
    expect((await postEmbeddings(owner.key, id)).status, "the newest stays without a head").toBe(200);
    expect((await call("DELETE", modelPath(id), owner.key)).status).toBe(200);
    expectError(await call("DELETE", modelPath(id), owner.key), 404, "not_found", "id");
    expectError(await postEmbeddings(owner.key, id), 404, "not_found", "model");
    await vi.waitUntil(async () => (await listStoredKeys(owner.id, "backbones/")).length === 0, WAIT_OPTIONS);
    await vi.waitUntil(
      async () => (await env.KV.list({ prefix: `tenants/${owner.id}/backbones/` })).keys.length === 0,
      WAIT_OPTIONS,
    );
  });

  test("drops a revision that no head needs with the next one", async () => {
    const owner = await tenantWithTickets();
    await runFineTuning(owner, first, { suffix, head: "a" });
    await call("DELETE", "/v1/heads/a", owner.key);
    await call("POST", "/v1/heads", owner.key, { name: "c", dataset: "tickets", backbone: id });
    const blocks = () =>
      inLedger(owner.id, ({ sql }) => sql.exec<{ backbone: string }>("SELECT backbone FROM blocks").toArray());
    expect(await blocks()).toEqual([{ backbone: `${id}@${sha256Hex(first)}` }]);
    await call("DELETE", "/v1/heads/c", owner.key);
    await runFineTuning(owner, second, { suffix, head: "a" });
    await vi.waitUntil(async () => (await listStoredKeys(owner.id, "backbones/")).length === 1, WAIT_OPTIONS);
    expect(await listStoredKeys(owner.id, "backbones/")).toEqual([sha256Hex(second)]);
    expect(await blocks()).toEqual([]);
  });

  test("by a job whose frozen head won is the shared one from then on, and its heads go on", async () => {
    const owner = await tenantWithTickets();
    await runFineTuning(owner, third, { suffix, head: "a" });
    const before = (await predict(owner.key, "a", 1)).json;
    const { attempt, job } = await startEvaluatedJob(owner, { suffix, head: "a", promote: "if_better" }, "not_better");
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "head") as never });
    await waitForJob(owner.key, job, "succeeded");
    expect((await call("GET", modelPath(id), owner.key)).json.graft.kind).toBe("static");
    expect((await predict(owner.key, "a", 1)).json).toEqual(before);
    expectError(await call("DELETE", modelPath(id), owner.key), 409, "model_in_use", "id");
  });

  test("by the same layers, as by two jobs at once, is one revision", async () => {
    const owner = await tenantWithTickets();
    const jobs = [
      await startEvaluatedJob(owner, { suffix, head: "a" }),
      await startEvaluatedJob(owner, { suffix, head: "b" }),
    ];
    await Promise.all(jobs.map(({ attempt }) => finishAttempt(attempt, first)));
    expect(await listModelIds(owner.key)).toEqual([id]);
    expect(await listStoredKeys(owner.id, "backbones/")).toEqual([sha256Hex(first)]);
    for (const head of ["a", "b"]) expect((await predict(owner.key, head)).status).toBe(200);
  });

  test("shares equal layers with one of another suffix, and leaves them to it", async () => {
    const owner = await tenantWithTickets();
    await runFineTuning(owner, first, { suffix, head: "a" });
    await runFineTuning(owner, first, { suffix: "twin", head: "b" });
    await call("DELETE", "/v1/heads/a", owner.key);
    expect((await call("DELETE", modelPath(id), owner.key)).status).toBe(200);
    expect((await predict(owner.key, "b")).status).toBe(200);
    expect(embeddingRows((await postEmbeddings(owner.key, `ft:${model}:twin`)).json)).toEqual(
      await embedWith(first, texts),
    );
    expect(await listStoredKeys(owner.id, "backbones/")).toEqual([sha256Hex(first)]);
  });
});

test("a head on one learns from feedback, and trains again on its newest revision", async () => {
  const owner = await tenantWithTickets();
  const suffix = "learner";
  const { fine_tuned_model: id } = await runFineTuning(owner, makeDelta(61), { suffix });
  await runFineTuning(owner, makeDelta(62), { suffix, head: "newer" });
  const policy = { retrain_after_examples: 1, promote: "always" };
  expect((await call("PUT", "/v1/heads/support/policy", owner.key, policy)).status).toBe(200);
  const examples = [{ text: "bill me never again", label: "billing" }];
  const feedback = await call("POST", "/v1/heads/support/feedback", owner.key, { examples });
  expect(feedback.json).toMatchObject({ added: 1, judged: 1, version: 1 });
  const head = await vi.waitUntil(async () => {
    const { json } = await call("GET", "/v1/heads/support", owner.key);
    return json.version === 2 && json;
  }, WAIT_OPTIONS);
  expect(head).toMatchObject({
    active_version: 2,
    backbone: { id, revision: sha256Hex(makeDelta(62)) },
    training: { method: "head", examples: 19 },
  });
  const answer = await call("POST", "/v1/heads/support/predict", owner.key, { input: "reset my password" });
  expect(answer.json.data[0].label).toBe("login");
});

test("the typed client fine-tunes, finds and deletes", async () => {
  const owner = await tenantWithTickets();
  const options = { baseUrl: "http://graft.test", key: owner.key, fetch: SELF.fetch.bind(SELF) as typeof fetch };
  const graft = createClient(options);
  const job = await graft.heads.train({ name: "support", dataset: "tickets", method: "fine_tune" });
  expect(job).toMatchObject({ hyperparameters: { n_epochs: "auto" }, graft: { trainable: "all" } });
  await graft.jobs.cancel(job.id);
  const { fine_tuned_model: id } = await runFineTuning(owner, makeDelta(51));
  expect((await graft.models.get(id)).graft).toMatchObject({ kind: "fine_tuned", base: { id: model } });
  await expect(graft.models.delete(id)).rejects.toMatchObject({ status: 409, code: "model_in_use", param: "id" });
  await graft.heads.delete("support");
  expect(await graft.models.delete(id)).toEqual({ id, object: "model", deleted: true });
});

describe("deleting", () => {
  test("a shared backbone is refused, and one that does not exist not found", async () => {
    const { key } = await newTenant();
    expectError(await call("DELETE", modelPath(model), key), 400, "invalid_parameter", "id");
    expectError(await call("DELETE", modelPath("none"), key), 404, "not_found", "id");
    expectError(await call("DELETE", modelPath("ft:none"), key), 404, "not_found", "id");
  });

  test("while a head is trained on it has the head refused", async () => {
    const owner = await tenantWithTickets();
    const { fine_tuned_model: id } = await runFineTuning(owner, makeDelta(21));
    const { backbone, ...record } = (await call("GET", "/v1/heads/support", owner.key)).json;
    await call("DELETE", "/v1/heads/support", owner.key);
    await call("DELETE", modelPath(id), owner.key);
    await env.BUCKET.put(`tenants/${owner.id}/heads/${record.sha256}`, (await makeFineTunedHead()).bytes);
    const lateCommit = await getLedger(env.TENANT, owner.id).commitHead(null, { ...record, backbone }, true);
    expect(lateCommit).toMatchObject({
      ok: false,
      failure: { code: "not_available", param: "backbone", retryAfter: 1 },
    });
    expectError(await call("GET", "/v1/heads/support", owner.key), 404, "not_found");
  });
});

describe("the number of fine-tuned backbones", () => {
  const fillWithModels = (tenant: string) =>
    inLedger(tenant, ({ sql }) => {
      for (let i = 0; i < limits.fine_tuned_backbones; i++)
        sql.exec(
          "INSERT INTO backbones (id, revision, base, base_revision, job, sha256, bytes, parameters, dimensions, created_at) VALUES (?, '1', 'b', '1', 'j', ?, 1, 1, 1, 1)",
          `ft:b:${i}`,
          `${i}`,
        );
    });

  test("is limited when a job is made, unless it makes one of them again or trains no layers", async () => {
    const owner = await tenantWithTickets();
    await fillWithModels(owner.id);
    const make = (body: object) =>
      call("POST", "/v1/fine_tuning/jobs", owner.key, { model, training_file: "dataset:tickets", ...body });
    const refused = await make({});
    expectError(refused, 422, "limit_exceeded");
    expect(refused.json.error.details).toEqual({
      limit: limits.fine_tuned_backbones,
      actual: limits.fine_tuned_backbones,
    });
    expect((await make({ trainable: "head" })).status).toBe(200);
    await inLedger(owner.id, ({ sql }) =>
      sql.exec("UPDATE backbones SET id = ? WHERE id = 'ft:b:0'", `ft:${model}:known`),
    );
    expect((await make({ suffix: "known" })).status).toBe(200);
  });

  test("is limited when it finishes, and nothing of it stays", async () => {
    const owner = await tenantWithTickets();
    const { attempt, job } = await startEvaluatedJob(owner);
    await fillWithModels(owner.id);
    const delta = makeDelta(31);
    const { made, manifest } = await makeFineTunedManifest(delta);
    for (const bytes of [delta, made.bytes]) await attempt.uploadArtifact(bytes);
    await attempt.sendAcceptedMessage({ type: "finished", manifest: manifest as never });
    const failed = await waitForJob(owner.key, job, "failed");
    expect(failed.error.message).toContain(`at most ${limits.fine_tuned_backbones}`);
    expect(failed.fine_tuned_model).toBeNull();
    expectError(await call("GET", "/v1/heads/support", owner.key), 404, "not_found");
    expectError(await call("GET", modelPath(`ft:${model}:${job}`), owner.key), 404, "not_found", "id");
  });
});

describe("an attempt's layers", () => {
  const delta = makeDelta(41);
  const wrongBackbone = (bytes: Uint8Array) => ({
    artifact: describeArtifact(bytes),
    parameters: 1,
    dimensions: 256 + FILTERS,
  });
  const largeDelta = new Uint8Array(limits.backbone_bytes + 1);
  const cutDelta = delta.slice(0, -4);
  const otherBase = makeDelta(42, { base: { id: "hash-text-1", revision: "1" } });
  const otherRevision = makeDelta(43, { base: { id: model, revision: "0" } });
  const noNumber = makeDelta(44, { bias: new Float32Array(FILTERS).fill(Number.NaN) });
  const narrow = makeDelta(45, {
    dimensions: 128,
    rows: new Float32Array(4 * 128).fill(1),
    kernel: new Float32Array(FILTERS * 3 * 128).fill(1),
  });

  const encoderLayers = JSON.stringify({ base: { id: model, revision: textStatic.revision }, layers: 1 });
  const ofEncoder = new Uint8Array(4 + 4 + encoderLayers.length);
  ofEncoder.set(Buffer.from(`GFE1\0\0\0\0${encoderLayers}`));
  ofEncoder[4] = encoderLayers.length;

  test.each<[string, Uint8Array<ArrayBuffer> | null, object, string, string]>([
    ["missing", null, { backbone: wrongBackbone(delta) }, "invalid_artifact", "manifest.backbone.artifact"],
    [
      "of another length",
      delta,
      { backbone: { ...wrongBackbone(delta), artifact: { ...describeArtifact(delta), bytes: 1 } } },
      "invalid_artifact",
      "manifest.backbone.artifact",
    ],
    ["too large", largeDelta, { backbone: wrongBackbone(largeDelta) }, "limit_exceeded", "manifest.backbone.artifact"],
    ["cut off", cutDelta, { backbone: wrongBackbone(cutDelta) }, "invalid_artifact", "manifest.backbone.artifact"],
    [
      "of another backbone",
      otherBase,
      { backbone: wrongBackbone(otherBase) },
      "invalid_artifact",
      "manifest.backbone.artifact",
    ],
    [
      "of another revision",
      otherRevision,
      { backbone: wrongBackbone(otherRevision) },
      "invalid_artifact",
      "manifest.backbone.artifact",
    ],
    [
      "an encoder's",
      ofEncoder,
      { backbone: wrongBackbone(ofEncoder) },
      "invalid_artifact",
      "manifest.backbone.artifact",
    ],
    ["not finite", noNumber, { backbone: wrongBackbone(noNumber) }, "invalid_artifact", "manifest.backbone.artifact"],
    [
      "of other dimensions",
      narrow,
      { backbone: wrongBackbone(narrow) },
      "invalid_artifact",
      "manifest.backbone.artifact",
    ],
    [
      "told to be of other dimensions",
      delta,
      { backbone: { ...wrongBackbone(delta), dimensions: 256 } },
      "invalid_artifact",
      "manifest.backbone.artifact",
    ],
    ["not those of the head", delta, { backbone: null }, "invalid_artifact", "manifest.artifact"],
  ])("that are %s are refused, and the job goes on", async (_what, bytes, change, code, param) => {
    const owner = await tenantWithTickets();
    const { attempt, job } = await startEvaluatedJob(owner);
    const { made, manifest } = await makeFineTunedManifest(delta);
    await attempt.uploadArtifact(made.bytes);
    if (bytes !== null) expect((await attempt.uploadArtifact(bytes)).status).toBe(200);
    for (const _ of [1, 2]) {
      const answer = await attempt.tell({ type: "finished", manifest: { ...manifest, ...change } });
      expectError(answer, 422, code as "invalid_artifact", param);
    }
    expect(await listStoredKeys(owner.id, "backbones/")).toEqual([]);
    expect(await listModelIds(owner.key)).toEqual([]);
    await attempt.uploadArtifact(delta);
    await attempt.sendAcceptedMessage({ type: "finished", manifest: manifest as never });
    await waitForJob(owner.key, job, "succeeded");
    expect(await listStoredKeys(owner.id, "backbones/")).toEqual([sha256Hex(delta)]);
  });

  test.each([
    ["where the head alone was to be trained", { trainable: "head" }, "better", "fine_tuned"],
    ["of the frozen head", {}, "not_better", "head"],
  ] as const)("%s are refused", async (_what, job, verdict, candidate) => {
    const owner = await tenantWithTickets();
    const { attempt } = await startEvaluatedJob(owner, job, verdict);
    const { made, manifest } = await makeFineTunedManifest(delta);
    for (const bytes of [delta, made.bytes]) await attempt.uploadArtifact(bytes);
    const answer = await attempt.tell({ type: "finished", manifest: { ...manifest, candidate } });
    expectError(answer, 422, "invalid_artifact", "manifest.backbone");
  });

  test("told at once, twice and late make one model and one version", async () => {
    const owner = await tenantWithTickets();
    const { attempt, job } = await startEvaluatedJob(owner);
    const { made, manifest } = await makeFineTunedManifest(delta);
    for (const bytes of [delta, made.bytes]) await attempt.uploadArtifact(bytes);
    const finishedMessage = { type: "finished", manifest } as const;
    const responses = await Promise.all([attempt.tell(finishedMessage), attempt.tell(finishedMessage)]);
    expect(responses.map(({ status }) => status).toSorted()).toEqual([200, 409]);
    expectError(await attempt.tell(finishedMessage), 409, "attempt_ended");
    expect(await listModelIds(owner.key)).toEqual([`ft:${model}:${job}`]);
    expect((await call("GET", "/v1/heads/support/versions", owner.key)).json.data).toHaveLength(1);
  });

  test("of a job that is to pause make nothing", async () => {
    const owner = await tenantWithTickets();
    const { attempt, job } = await startEvaluatedJob(owner);
    await inLedger(owner.id, ({ sql }) =>
      sql.exec("UPDATE jobs SET status = 'paused', state = json_set(state, '$.status', 'paused') WHERE id = ?", job),
    );
    expect((await finishAttempt(attempt, delta)).directive).toBe("pause");
    expect(await listModelIds(owner.key)).toEqual([]);
  });

  test("that are not named are a backbone as it was, also by an endpoint that does not know of them", async () => {
    const owner = await tenantWithTickets();
    const { attempt, job } = await startEvaluatedJob(owner);
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({
      type: "finished",
      manifest: { ...makeManifest(trainedHead, "fine_tuned"), backbone: null } as never,
    });
    const { fine_tuned_model } = await waitForJob(owner.key, job, "succeeded");
    expect((await call("GET", modelPath(fine_tuned_model), owner.key)).json.graft.kind).toBe("static");
  });
});
