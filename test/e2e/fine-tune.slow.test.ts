/** Full fine-tuning from a client to the batch endpoint and back, each a real process: layers are trained, and serve. */
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { createDataset, type System, startSystem, type TenantClient, waitFor, waitForJobEnd } from "./processes.ts";

let system: System;
let acme: TenantClient;
let openai: OpenAI;

beforeAll(async () => {
  system = await startSystem({ bundle: inject("bundles").crashing });
  acme = await system.createTenant("acme");
  openai = new OpenAI({ apiKey: acme.key, baseURL: `${system.url}/v1`, maxRetries: 0 });
});
afterAll(() => system.close());

const BASE = "text-static-1";
const jobParams = {
  model: BASE,
  training_file: "dataset:tickets",
  promote: "always",
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 8 } } },
} as const;
const embedText = async (model: string, input: string) =>
  (await openai.embeddings.create({ model, input })).data[0]?.embedding ?? [];

describe("a job that trains all layers", () => {
  beforeAll(async () => {
    await createDataset(acme.graft, "tickets", 500);
    const job = await openai.fineTuning.jobs.create({
      ...jobParams,
      suffix: "support",
      head: "support",
      n: 1,
    } as never);
    const finishedJob = await waitForJobEnd(acme, job.id);
    expect(finishedJob).toMatchObject({
      status: "succeeded",
      fine_tuned_model: "ft:text-static-1:support",
      graft: {
        head: "support",
        version: 1,
        promoted: true,
        trainable: "all",
        kind: "fine_tuned",
        comparison: {
          test_examples: 500,
          expected_gain: expect.any(Number),
          chance_of_loss: expect.any(Number),
          kept: "fine_tuned",
        },
      },
    });
    const events = await openai.fineTuning.jobs.listEvents(job.id, { limit: 100 });
    const epochs = events.data.filter(({ message }) => message.startsWith("Epoch "));
    expect(epochs.length).toBeGreaterThan(3);
    expect(epochs.at(-1)?.data).toMatchObject({
      epoch: 1,
      train_loss: expect.any(Number),
      valid_loss: expect.any(Number),
    });
  });

  test("makes a backbone of the tenant's, which lists, embeds and is nobody else's", async () => {
    const id = "ft:text-static-1:support";
    const models = await openai.models.list();
    expect(models.data.map((model) => model.id)).toContain(id);
    const model = await openai.models.retrieve(id);
    expect(model).toMatchObject({ owned_by: "acme", graft: { kind: "fine_tuned", modality: "text", dimensions: 512 } });
    const [fineTunedRow, baseRow] = [
      await embedText(id, "my parcel is wrong"),
      await embedText(BASE, "my parcel is wrong"),
    ];
    expect(fineTunedRow.slice(0, 256)).toEqual(baseRow);
    expect(fineTunedRow).toHaveLength(512);
    expect(Math.max(...fineTunedRow.slice(256))).toBeGreaterThan(0);
    const globex = await system.createTenant("globex");
    const other = new OpenAI({ apiKey: globex.key, baseURL: `${system.url}/v1`, maxRetries: 0 });
    await expect(other.models.retrieve(id)).rejects.toMatchObject({ status: 404, code: "not_found" });
    await expect(other.embeddings.create({ model: id, input: "x" })).rejects.toMatchObject({ status: 404 });
    expect((await other.models.list()).data.map((model) => model.id)).not.toContain(id);
  });

  test("makes a head that predicts on it, with figures from examples that its folds held out", async () => {
    const head = await acme.graft.heads.get("support");
    expect(head).toMatchObject({
      training: { method: "fine_tune", examples: 500 },
      backbone: { id: "ft:text-static-1:support", revision: expect.stringMatching(/^[0-9a-f]{64}$/) },
      evaluation: { method: "cross_validation", folds: 2, examples: 500, accuracy: expect.any(Number) },
    });
    const { data } = await acme.graft.heads.predict("support", {
      input: ["my parcel is wrong", "the invoice is wrong"],
    });
    expect(data.map(({ label }) => label)).toEqual(["parcel", "invoice"]);
  });

  test("leaves a backbone that other heads are trained on, and that stays while they need it", async () => {
    const id = "ft:text-static-1:support";
    const head = await acme.graft.heads.train({ name: "second", dataset: "tickets", backbone: id });
    expect(head).toMatchObject({ object: "head", backbone: { id }, training: { method: "head" } });
    const { data } = await acme.graft.heads.predict("second", { input: "my parcel is wrong" });
    expect(data[0]?.label).toBe("parcel");
    await expect(openai.models.delete(id)).rejects.toMatchObject({ status: 409, code: "model_in_use" });
    await acme.graft.heads.delete("support");
    await expect(openai.models.delete(id)).rejects.toMatchObject({ status: 409, code: "model_in_use" });
    await acme.graft.heads.delete("second");
    expect(await openai.models.delete(id)).toEqual({ id, object: "model", deleted: true });
    await expect(openai.models.retrieve(id)).rejects.toMatchObject({ status: 404 });
    await expect(openai.models.delete(id)).rejects.toMatchObject({ status: 404 });
    await expect(openai.models.delete(BASE)).rejects.toMatchObject({ status: 400 });
  });
});

test.each(["text-static-1", "text-use-1"])(
  "trains the last layer of %s, for labels, for many labels and for values",
  async (model) => {
    const tenant = await system.createTenant(model);
    const { graft, key } = tenant;
    const client = new OpenAI({ apiKey: key, baseURL: `${system.url}/v1`, maxRetries: 0 });
    await graft.datasets.create({ name: "things", task: "single_label", modality: "text" });
    await graft.datasets.create({ name: "tags", task: "multi_label", modality: "text" });
    await graft.datasets.create({ name: "prices", task: "regression", modality: "text" });
    const things = ["invoice", "parcel", "refund", "password"];
    const rows = Array.from({ length: 120 }, (_, i) => {
      const [a, b] = [things[i % 4] as string, things[Math.floor(i / 4) % 4] as string];
      const text = `about the ${a} and then the ${b}, case ${i}`;
      return { text, label: a, labels: [...new Set([a, b])], value: (i % 4) * 10 };
    });
    for (const [name, field] of [
      ["things", "label"],
      ["tags", "labels"],
      ["prices", "value"],
    ] as const) {
      const lines = rows.map((row) => JSON.stringify({ text: row.text, [field]: row[field] })).join("\n");
      await graft.datasets.import(name, lines, "application/x-ndjson");
      const body = {
        ...jobParams,
        model,
        training_file: `dataset:${name}`,
        head: name,
        suffix: name,
        trainable: { last_layers: 1 },
      };
      const job = await client.fineTuning.jobs.create(body as never);
      const finishedJob = await waitForJobEnd(tenant, job.id);
      expect(finishedJob.error).toBeNull();
      expect(finishedJob).toMatchObject({
        status: "succeeded",
        fine_tuned_model: `ft:${model}:${name}`,
        graft: { promoted: true, trainable: { last_layers: 1 } },
      });
    }
    const labels = await graft.heads.predict("things", { input: "about the parcel and then the refund" });
    expect(labels.data[0]?.label).toBe("parcel");
    const tags = await graft.heads.predict("tags", { input: "about the parcel and then the refund" });
    expect(tags.data[0]?.labels?.toSorted()).toEqual(["parcel", "refund"]);
    const prices = await graft.heads.predict("prices", { input: "about the refund and then the parcel" });
    expect(prices.data[0]?.value).toBeGreaterThan(14);
    expect(prices.data[0]?.value).toBeLessThan(26);
    if (model !== "text-use-1") return;
    // A fine-tuned encoder takes as much text as its base.
    const input = Array<string>(200).fill("a".repeat(1_100));
    const refusal = { status: 422, code: "limit_exceeded", param: "input" };
    await expect(client.embeddings.create({ model: `ft:${model}:things`, input })).rejects.toMatchObject(refusal);
    await expect(graft.heads.predict("things", { input })).rejects.toMatchObject(refusal);
  },
);

test("a head that asks for fine-tuning becomes a job, and where the frozen head is as good its model is the base", async () => {
  const { graft } = acme;
  const job = await graft.heads.train({ name: "asked", dataset: "tickets", method: "fine_tune" });
  if (job.object !== "fine_tuning.job") throw new Error("it was trained at the edge");
  const finishedJob = await waitForJobEnd(acme, job.id);
  expect(finishedJob).toMatchObject({
    status: "succeeded",
    graft: { head: "asked", version: 1, promoted: true, trainable: "all" },
  });
  const model = finishedJob.fine_tuned_model as string;
  const head = await graft.heads.get("asked");
  if (finishedJob.graft.comparison?.verdict !== "better") {
    expect(head).toMatchObject({ training: { method: "head" }, backbone: { id: BASE } });
    expect(await embedText(model, "hello there")).toEqual(await embedText(BASE, "hello there"));
  }
  expect((await openai.models.retrieve(model)).id).toBe(model);
});

test("a recommendation is settled by what jobs measure, which nobody sees", async () => {
  const { graft } = await system.createTenant("measuring");
  await createDataset(graft, "tickets", 100);
  const asked = await graft.recommendations.create({ dataset: "tickets", backbone: BASE, measure: true });
  expect(asked).toMatchObject({ status: "measuring", expected: { fine_tune: { accuracy: expect.any(Number) } } });
  const settled = await waitFor(async () => {
    const current = await graft.recommendations.get(asked.id);
    return current.status !== "measuring" && current;
  }, "all samples are measured");
  const point = { head_accuracy: 1, fine_tuned_accuracy: expect.any(Number), seconds: expect.any(Number) };
  expect(settled).toMatchObject({
    status: "complete",
    // Where the head is right on everything, nothing can be gained.
    recommendation: "head",
    measured: {
      points: [
        { ...point, examples: 50, test_examples: 50 },
        { ...point, examples: 100, test_examples: 100 },
      ],
    },
    expected: { head: { accuracy: 1 } },
  });
  expect(settled.reasons[0]?.code).toBe("measured");
  expect((await graft.jobs.list()).data).toEqual([]);
  expect((await graft.heads.list()).data).toEqual([]);
});

test("another attempt goes on from what one had trained", async () => {
  const jobs = openai.fineTuning.jobs;
  const job = await jobs.create({ ...jobParams, suffix: "paused" } as never);
  await waitFor(async () => (await jobs.checkpoints.list(job.id)).data.length > 0, "a checkpoint is there");
  await jobs.pause(job.id);
  await jobs.resume(job.id);
  expect(await waitForJobEnd(acme, job.id)).toMatchObject({
    status: "succeeded",
    fine_tuned_model: "ft:text-static-1:paused",
  });
});
