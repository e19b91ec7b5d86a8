/** Attempts that are stopped on their way, and others that go on from their checkpoints. */
import { describe, expect, it } from "vitest";
import { encodeStages, nameOf, noStages } from "../../src/batch/attempt/checkpoint.ts";
import type { Artifact, Manifest, Submission } from "../../src/jobs/protocol.ts";
import { submissionOf, texts } from "./batch-data.ts";
import { harness, pace, soon } from "./batch-harness.ts";
import { progressOf, sha256Of, stop, submit, type Told } from "./batch-worker.ts";
import { type EmbeddingServer, json, startEmbeddingServer } from "./embedding-server.ts";

const h = harness();
const lines = texts(90);
/** Both candidates are trained, since the edge's budget is small. */
const job = (more: Partial<Submission> = {}) =>
  submissionOf({ edge_budget: { bytes: 56_000_000, operations: 4_000_000_000 }, ...more });

const trainings = [
  "Trained the frozen head on 70 examples.",
  "Trained the fine-tuned candidate on 72 examples.",
  "Trained the fine-tuned candidate on 90 examples.",
];

function lastCheckpoint(told: readonly Told[]): Artifact | null {
  return told.flatMap((each) => (each.type === "checkpoint" ? [each.artifact] : [])).at(-1) ?? null;
}

/** Submits the attempt after one, with the checkpoint that there is, and waits until it is done. */
async function resume(url: string, before: Submission, checkpoint: Artifact | null) {
  h.worker.direct = () => ({});
  const given = h.worker.offer({ ...before, attempt: before.attempt + 1, checkpoint }, lines);
  await soon(async () => (await submit(url, given)).status).toBe(202);
  const { manifest } = await h.worker.until("finished", given.id, given.attempt);
  return { manifest, told: h.worker.messages(given.id, given.attempt) };
}

let wholeManifest: Manifest | null = null;

/** What the same job gives when nothing stops it. */
async function undisturbed(url: string): Promise<Manifest> {
  if (wholeManifest !== null) return wholeManifest;
  const given = h.worker.offer(job({ tenant: "other" }), lines);
  await soon(async () => (await submit(url, given)).status).toBe(202);
  const { manifest } = await h.worker.until("finished", given.id);
  expect(progressOf(h.worker.messages(given.id), "Trained")).toEqual(trainings);
  wholeManifest = manifest;
  return manifest;
}

const stages: [string, (told: Told) => boolean][] = [
  ["its data are read", (told) => told.type === "progress" && told.message.startsWith("Read")],
  ["the frozen head is trained", (told) => told.type === "progress" && told.message === trainings[0]],
  ["both candidates are trained", (told) => told.type === "progress" && told.message === trainings[1]],
  ["they are compared", (told) => told.type === "evaluated"],
  ["it is in the last training", (told) => told.type === "progress" && told.message.startsWith("Step 2 ")],
  ["all is trained", (told) => told.type === "progress" && told.message === trainings[2]],
];

describe("an attempt that is paused", () => {
  it.each(stages)("when %s hands back what is done, and the next goes on to the same head", async (_, holds) => {
    const { url } = await h.start();
    const whole = await undisturbed(url);
    h.worker.direct = (told) => (holds(told) ? { directive: "pause" } : {});
    const given = h.worker.offer(job(), lines);
    await soon(async () => (await submit(url, given)).status).toBe(202);
    await h.worker.until("stopped", given.id);
    const before = h.worker.messages(given.id);
    expect(before.at(-1)?.type).toBe("stopped");
    const done = progressOf(before, "Trained");
    const checkpoint = lastCheckpoint(before);
    expect(checkpoint !== null).toBe(done.length > 0);

    const { manifest, told } = await resume(url, given, checkpoint);
    expect(progressOf(told, "Trained")).toEqual(trainings.slice(done.length));
    expect(progressOf(told).includes("Goes on from a checkpoint.")).toBe(checkpoint !== null);
    expect(manifest).toEqual({
      ...whole,
      training: { ...whole.training, milliseconds: expect.any(Number) },
    });
  });

  it("by the endpoint's other side hands back as well", async () => {
    const { url } = await h.start();
    const paused = Promise.withResolvers<Response>();
    const given = h.worker.offer(job(), lines);
    h.worker.meddle = ({ told }) => {
      if (told?.type === "progress" && told.message === trainings[0]) paused.resolve(stop(url, given, "pause"));
      return null;
    };
    await submit(url, given);
    const answer = await paused.promise;
    expect([answer.status, await answer.json()]).toEqual([
      202,
      { object: "batch.attempt", id: given.id, attempt: 1, status: "stopping" },
    ]);
    await h.worker.until("stopped", given.id);
    expect(lastCheckpoint(h.worker.messages(given.id))).not.toBeNull();
  });
});

describe("an attempt that is cancelled", () => {
  it.each(stages.filter((_, i) => i % 2 === 0))("when %s says only that it has stopped", async (_, holds) => {
    const { url } = await h.start();
    h.worker.direct = (told) => (holds(told) ? { directive: "cancel" } : {});
    const given = h.worker.offer(job(), lines);
    await submit(url, given);
    await h.logged("ended stopped");
    const told = h.worker.messages(given.id);
    const at = told.findIndex(holds);
    // What was on its way already may still be heard.
    expect(told.slice(at + 1).filter(({ type }) => type !== "checkpoint" && type !== "progress")).toEqual([
      { id: given.id, attempt: 1, type: "stopped" },
    ]);
    expect((await stop(url, given, "cancel")).status).toBe(200);
  });

  it("while it hands back does not go on with that", async () => {
    const { url } = await h.start();
    const given = h.worker.offer(job(), lines);
    h.worker.direct = (told) =>
      told.type === "progress" && told.message === trainings[0] ? { directive: "pause" } : {};
    h.worker.meddle = ({ path }) => {
      if (!path.startsWith("artifacts/")) return null;
      void stop(url, given, "cancel");
      return new Promise<Response>(() => undefined);
    };
    await submit(url, given);
    await h.worker.until("stopped", given.id);
    expect(lastCheckpoint(h.worker.messages(given.id))).toBeNull();
  });
});

describe("a checkpoint", () => {
  const digest = sha256Of(Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join("")));
  const judgement = { test_examples: 18, head_accuracy: 0.5, fine_tuned_accuracy: 1, only_head: 0, only_fine_tuned: 9 };
  const madeOf = (given: Submission, of = digest) =>
    Buffer.concat(encodeStages({ ...noStages(), judgement }, nameOf(given, of)) ?? []);
  const otherOptions = (given: Submission) => ({ ...given, hyperparameters: { ...given.hyperparameters, seed: 2 } });
  it.each<[string, boolean, (given: Submission) => Buffer]>([
    ["of the same is taken up", true, (given) => madeOf(given)],
    ["of other data is not", false, (given) => madeOf(given, sha256Of(Buffer.from("other data")))],
    ["of other options is not", false, (given) => madeOf(otherOptions(given))],
    ["that is cut off is not", false, (given) => madeOf(given).subarray(0, -1)],
    ["that is none is not", false, () => Buffer.from("GBC1 but not so")],
  ])("%s", async (_, used, make) => {
    const { url } = await h.start();
    const before = { ...job(), attempt: 1 };
    const bytes = make(before);
    h.worker.artifacts.set(sha256Of(bytes), bytes);
    const { told } = await resume(url, before, { sha256: sha256Of(bytes), bytes: bytes.length });
    expect(progressOf(told).includes("Goes on from a checkpoint.")).toBe(used);
    expect(progressOf(told, "Trained")).toEqual(trainings.slice(used ? 2 : 0));
  });

  it.each([
    ["is gone", null],
    ["has other bytes than its hash names", "spoilt"],
  ])("that %s is not taken up", async (_, spoilt) => {
    const { url } = await h.start();
    const before = job();
    const bytes = madeOf(before);
    if (spoilt !== null)
      h.worker.artifacts.set(sha256Of(bytes), Buffer.concat([bytes.subarray(0, -6), Buffer.from(spoilt)]));
    const { told } = await resume(url, before, { sha256: sha256Of(bytes), bytes: bytes.length });
    expect(progressOf(told, "Trained")).toEqual(trainings);
  });

  it("that another candidate won still spares the comparison", async () => {
    const { url } = await h.start();
    h.worker.direct = (told) =>
      told.type === "progress" && told.message === trainings[2] ? { directive: "pause" } : {};
    const given = h.worker.offer(job(), lines);
    await submit(url, given);
    await h.worker.until("stopped", given.id);
    const checkpoint = lastCheckpoint(h.worker.messages(given.id));
    const next = h.worker.offer({ ...given, attempt: 2, checkpoint }, lines);
    h.worker.direct = (told) => (told.type === "evaluated" ? { refit: "head" } : {});
    await soon(async () => (await submit(url, next)).status).toBe(202);
    const { manifest } = await h.worker.until("finished", given.id, 2);
    expect(manifest.candidate).toBe("head");
    expect(progressOf(h.worker.messages(given.id, 2), "Trained")).toHaveLength(1);
  });
});

describe("a remote backbone's embeddings", () => {
  const configuration = (url: string) =>
    JSON.stringify([
      {
        kind: "openai",
        id: "remote",
        base_url: url,
        model: "m",
        dimensions: 4,
        revision: "1",
        batch_size: 8,
        retries: 0,
      },
    ]);
  const asked = (server: EmbeddingServer) => server.calls.reduce((sum, { body }) => sum + body.input.length, 0);

  it("are paid for once, however often an attempt is cut off", async () => {
    const server = await startEmbeddingServer();
    const { url } = await h.start({ backbones: { configuration: configuration(server.url), secrets: {} } });
    h.worker.direct = (told) =>
      told.type === "progress" && told.message.startsWith("Embedded") ? { directive: "pause" } : {};
    const given = h.worker.offer(job({ backbone: { id: "remote", revision: "1" }, dimensions: 4 }), lines);
    await submit(url, given);
    await h.worker.until("stopped", given.id);
    expect(asked(server)).toBe(90);
    const { told } = await resume(url, given, lastCheckpoint(h.worker.messages(given.id)));
    expect(asked(server)).toBe(90);
    expect(progressOf(told, "Embedded")).toEqual([]);
    await server.close();
  });

  it("are kept as far as they came before it failed", async () => {
    const server = await startEmbeddingServer();
    const backbones = { configuration: configuration(server.url), secrets: {} };
    const { url } = await h.start({ backbones, pace: { ...pace, patienceMs: 100 } });
    server.script.push(null, null, null, null);
    for (let i = 0; i < 1_000; i++) server.script.push((response) => json(response, 503, {}));
    const given = h.worker.offer(job({ backbone: { id: "remote", revision: "1" }, dimensions: 4 }), lines);
    await submit(url, given);
    expect(await h.worker.until("failed", given.id)).toMatchObject({ retryable: true });
    server.script.length = 0;
    server.calls.length = 0;
    await resume(url, given, lastCheckpoint(h.worker.messages(given.id)));
    expect(asked(server)).toBe(90 - 4 * 8);
    await server.close();
  });
});
