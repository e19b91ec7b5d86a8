/** Fine-tuning jobs from a client to the batch endpoint and back, each a real process, with nothing wrong. */
import OpenAI, { toFile } from "openai";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import type { FineTuningJob } from "../../src/api/jobs.ts";
import {
  createDataset,
  makeExamples,
  type System,
  startSystem,
  type TenantClient,
  waitFor,
  waitForJobEnd,
} from "./processes.ts";

let system: System;
let acme: TenantClient;
let openai: OpenAI;

beforeAll(async () => {
  system = await startSystem({ bundle: inject("bundles").crashing });
  acme = await system.createTenant("acme");
  openai = new OpenAI({ apiKey: acme.key, baseURL: `${system.url}/v1`, maxRetries: 0 });
});
afterAll(() => system.close());

test("OpenAI's client uploads a file, fine-tunes on it, and the head predicts", async () => {
  const chats = makeExamples(200).map(({ text, label }) => ({
    messages: [
      { role: "system", content: "Route the ticket." },
      { role: "user", content: text },
      { role: "assistant", content: label },
    ],
  }));
  const jsonl = chats.map((chat) => JSON.stringify(chat)).join("\n");
  const file = await openai.files.create({ file: await toFile(Buffer.from(jsonl), "t.jsonl"), purpose: "fine-tune" });
  const params = { model: "text-static-1", training_file: file.id, suffix: "router", head: "router" };
  const job = await openai.fineTuning.jobs.create(params);
  expect(job).toMatchObject({ object: "fine_tuning.job", status: "validating_files", training_file: file.id });
  const finishedJob = await waitFor(async () => {
    const current = await openai.fineTuning.jobs.retrieve(job.id);
    return current.status === "succeeded" && current;
  }, "the job succeeds");
  expect(finishedJob.fine_tuned_model).toBe("ft:text-static-1:router");
  expect(finishedJob).toMatchObject({ graft: { head: "router", version: 1, promoted: true, attempt: 1 } });
  const { kind, comparison } = (finishedJob as unknown as FineTuningJob).graft;
  expect(comparison?.kept).toBe(comparison?.verdict === "better" ? "fine_tuned" : "head");
  expect(kind).toBe(comparison?.kept);
  const events: OpenAI.FineTuning.FineTuningJobEvent[] = [];
  for await (const event of openai.fineTuning.jobs.listEvents(job.id, { limit: 5 })) events.push(event);
  expect(events.at(-1)?.message).toBe("The job was created.");
  expect(events[0]?.message).toMatch(/^The job has made version 1, which is active now/);
  expect(events.filter(({ type }) => type === "metrics").length).toBeGreaterThan(3);
  const checkpoints = await openai.fineTuning.jobs.checkpoints.list(job.id);
  expect(checkpoints.data[0]?.fine_tuning_job_id).toBe(job.id);
  const all = await openai.fineTuning.jobs.list();
  expect(all.data.map(({ id }) => id)).toEqual([job.id]);
  const { data } = await acme.graft.heads.predict("router", { input: "my parcel is wrong" });
  expect(data[0]?.label).toBe("parcel");
});

test("a data set beyond the edge's budget becomes a job, and the head's next version", async () => {
  const { graft } = acme;
  await graft.datasets.create({ name: "parts", task: "single_label", modality: "text" });
  const rows = Array.from({ length: 3_000 }, (_, i) => `{"text":"part ${i} of ${i % 2_000}","label":"${i % 2_000}"}`);
  await graft.datasets.import("parts", rows.join("\n"), "application/x-ndjson");
  const headParams = { name: "part", dataset: "parts", hyperparameters: { l2: 1, lexical: false } } as const;
  await expect(graft.heads.train({ ...headParams, method: "head" })).rejects.toMatchObject({
    code: "edge_budget_exceeded",
  });
  const job = await graft.heads.train({ ...headParams, evaluation: { method: "none" } });
  if (job.object !== "fine_tuning.job") throw new Error("it was trained at the edge");
  const finishedJob = await waitForJobEnd(acme, job.id, 100_000);
  expect(finishedJob).toMatchObject({ status: "succeeded", graft: { head: "part", version: 1, promoted: true } });
  expect((await graft.heads.get("part")).training).toMatchObject({ examples: 3_000 });
});

test("a job of values keeps the range to which its predictions are clamped", async () => {
  const { graft } = acme;
  await graft.datasets.create({ name: "prices", task: "regression", modality: "text" });
  const rows = Array.from({ length: 35 }, (_, i) => `{"text":"${i % 7} apples and ${i} pears","value":${i % 7}}`);
  await graft.datasets.import("prices", rows.join("\n"), "application/x-ndjson");
  const job = await graft.heads.train({ name: "price", dataset: "prices", method: "fine_tune", clamp: true });
  if (job.object !== "fine_tuning.job") throw new Error("it was trained at the edge");
  expect((await waitForJobEnd(acme, job.id, 100_000)).status).toBe("succeeded");
  expect((await graft.heads.get("price")).training).toMatchObject({ value_range: [0, 6] });
});

test("pausing keeps what is done, resuming goes on, and cancelling ends a job for good", async () => {
  const { graft } = acme;
  await createDataset(graft, "tickets", 100);
  const jobs = openai.fineTuning.jobs;
  const create = () => jobs.create({ model: "text-static-1", training_file: "dataset:tickets" });
  const job = await create();
  expect((await jobs.pause(job.id)).status).toBe("paused");
  expect((await jobs.pause(job.id)).status).toBe("paused");
  expect(["queued", "validating_files"]).toContain((await jobs.resume(job.id)).status);
  expect((await waitForJobEnd(acme, job.id)).status).toBe("succeeded");
  const other = await create();
  expect((await jobs.cancel(other.id)).status).toBe("cancelled");
  expect((await jobs.cancel(other.id)).status).toBe("cancelled");
  await expect(jobs.resume(other.id)).rejects.toMatchObject({ status: 409, code: "job_ended" });
});
