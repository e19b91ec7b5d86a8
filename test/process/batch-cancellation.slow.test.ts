/** Attempts that are stopped on their way, and others that go on from their checkpoints. */
import { describe, expect, it } from "vitest";
import { emptyCheckpoint, encodeCheckpoint, submissionFingerprint } from "../../src/batch/attempt/checkpoint.ts";
import type { Artifact, Manifest, Submission } from "../../src/jobs/protocol.ts";
import { makeSubmission, makeTexts } from "./batch-data.ts";
import { pace, poll, setUpHarness } from "./batch-harness.ts";
import { type EmbeddingServer, respondJson, startEmbeddingServer } from "./embedding-server.ts";
import { type AttemptMessage, progressMessages, sha256Hex, stop, submit } from "./fake-worker.ts";

const harness = setUpHarness();
const lines = makeTexts(60);
/** Both candidates are trained in each fold, since the edge's budget is small; and fast, since nothing is selected. */
const makeJob = (overrides: Partial<Submission> = {}) =>
  makeSubmission({
    comparison: "cross_fit",
    hyperparameters: { l2: 1, class_weight: null, lexical: true, seed: 1 },
    edge_budget: { bytes: 56_000_000, operations: 300_000_000 },
    ...overrides,
  });

const trainings = [
  ...Array.from({ length: 5 }, () => [
    "Trained the frozen head.",
    "Trained the fine-tuned candidate on 48 examples.",
  ]).flat(),
  "Trained the fine-tuned candidate on 60 examples.",
];
const lastTraining = trainings.at(-1) as string;

/** The trainings that were reported. How many examples the edge's budget allows a frozen head does not matter here. */
function trainedIn(messages: readonly AttemptMessage[]): string[] {
  return progressMessages(messages, "Trained").map(withoutFrozenCount);
}

function withoutFrozenCount(message: string): string {
  return message.replace(/(?<=frozen head) on \d+ examples/, "");
}

const tells = (message: AttemptMessage | null, text: string | undefined) =>
  message?.type === "progress" && withoutFrozenCount(message.message) === text;

function lastCheckpoint(messages: readonly AttemptMessage[]): Artifact | null {
  return messages.flatMap((message) => (message.type === "checkpoint" ? [message.artifact] : [])).at(-1) ?? null;
}

/** Submits the attempt after one, with the checkpoint that there is, and waits until it is done. */
async function resume(url: string, previous: Submission, checkpoint: Artifact | null) {
  harness.worker.getDirective = () => ({});
  const submission = harness.worker.addJob({ ...previous, attempt: previous.attempt + 1, checkpoint }, lines);
  await poll(async () => (await submit(url, submission)).status).toBe(202);
  const { manifest } = await harness.worker.waitForMessage("finished", submission.id, submission.attempt);
  return { manifest, told: harness.worker.messages(submission.id, submission.attempt) };
}

let wholeManifest: Manifest | null = null;

/** What the same job gives when nothing stops it. */
async function runUninterrupted(url: string): Promise<Manifest> {
  if (wholeManifest !== null) return wholeManifest;
  const submission = harness.worker.addJob(makeJob({ tenant: "other" }), lines);
  await poll(async () => (await submit(url, submission)).status).toBe(202);
  const { manifest } = await harness.worker.waitForMessage("finished", submission.id);
  expect(trainedIn(harness.worker.messages(submission.id))).toEqual(trainings);
  wholeManifest = manifest;
  return manifest;
}

const stages: [string, (told: AttemptMessage) => boolean][] = [
  ["its data are read", (message) => message.type === "progress" && message.message.startsWith("Read")],
  ["the frozen head is trained", (message) => tells(message, trainings[0])],
  ["both candidates are trained", (message) => tells(message, trainings[1])],
  ["one fold is done", (message) => message.type === "progress" && message.message.startsWith("Fold 2 of 5")],
  ["they are compared", (message) => message.type === "evaluated"],
  ["it is in the last training", (message) => message.type === "progress" && message.message.startsWith("Step 2 ")],
  ["all is trained", (message) => tells(message, lastTraining)],
];

describe("an attempt that is paused", () => {
  it.each(stages)("when %s hands back what is done, and the next goes on to the same head", async (_, matches) => {
    const { url } = await harness.start();
    const uninterruptedRun = await runUninterrupted(url);
    harness.worker.getDirective = (message) => (matches(message) ? { directive: "pause" } : {});
    const submission = harness.worker.addJob(makeJob(), lines);
    await poll(async () => (await submit(url, submission)).status).toBe(202);
    await harness.worker.waitForMessage("stopped", submission.id);
    const before = harness.worker.messages(submission.id);
    expect(before.at(-1)?.type).toBe("stopped");
    const done = trainedIn(before);
    const checkpoint = lastCheckpoint(before);
    expect(checkpoint !== null).toBe(done.length > 0);

    const { manifest, told } = await resume(url, submission, checkpoint);
    expect(trainedIn(told)).toEqual(trainings.slice(done.length));
    expect(progressMessages(told).includes("Goes on from a checkpoint.")).toBe(checkpoint !== null);
    expect(manifest).toEqual({
      ...uninterruptedRun,
      training: { ...uninterruptedRun.training, milliseconds: expect.any(Number), operations: expect.any(Number) },
    });
  });

  it("by the endpoint's other side hands back as well", async () => {
    const { url } = await harness.start();
    const isPaused = Promise.withResolvers<Response>();
    const submission = harness.worker.addJob(makeJob(), lines);
    harness.worker.intercept = ({ message }) => {
      if (tells(message, trainings[0])) isPaused.resolve(stop(url, submission, "pause"));
      return null;
    };
    await submit(url, submission);
    const answer = await isPaused.promise;
    expect([answer.status, await answer.json()]).toEqual([
      202,
      { object: "batch.attempt", id: submission.id, attempt: 1, status: "stopping" },
    ]);
    await harness.worker.waitForMessage("stopped", submission.id);
    expect(lastCheckpoint(harness.worker.messages(submission.id))).not.toBeNull();
  });
});

describe("an attempt that is cancelled", () => {
  it.each(stages.filter((_, i) => i % 2 === 0))("when %s says only that it has stopped", async (_, matches) => {
    const { url } = await harness.start();
    harness.worker.getDirective = (message) => (matches(message) ? { directive: "cancel" } : {});
    const submission = harness.worker.addJob(makeJob(), lines);
    await submit(url, submission);
    await harness.waitForLog("ended stopped");
    const messages = harness.worker.messages(submission.id);
    const index = messages.findIndex(matches);
    // What was on its way already may still be heard.
    expect(messages.slice(index + 1).filter(({ type }) => type !== "checkpoint" && type !== "progress")).toEqual([
      { id: submission.id, attempt: 1, type: "stopped" },
    ]);
    expect((await stop(url, submission, "cancel")).status).toBe(200);
  });

  it("while it hands back does not go on with that", async () => {
    const { url } = await harness.start();
    const submission = harness.worker.addJob(makeJob(), lines);
    harness.worker.getDirective = (message) => (tells(message, trainings[0]) ? { directive: "pause" } : {});
    harness.worker.intercept = ({ path }) => {
      if (!path.startsWith("artifacts/")) return null;
      void stop(url, submission, "cancel");
      return new Promise<Response>(() => undefined);
    };
    await submit(url, submission);
    await harness.worker.waitForMessage("stopped", submission.id);
    expect(lastCheckpoint(harness.worker.messages(submission.id))).toBeNull();
  });
});

describe("a checkpoint", () => {
  const digest = sha256Hex(Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join("")));
  const comparison = {
    test_examples: 18,
    head_accuracy: 0.5,
    fine_tuned_accuracy: 1,
    only_head: 0,
    only_fine_tuned: 9,
  };
  const makeCheckpoint = (submission: Submission, dataDigest = digest, examples = lines.length) =>
    Buffer.concat(
      encodeCheckpoint({ ...emptyCheckpoint(), comparison }, submissionFingerprint(submission, dataDigest, examples)) ??
        [],
    );
  const otherOptions = (submission: Submission) => ({
    ...submission,
    hyperparameters: { ...submission.hyperparameters, seed: 2 },
  });
  it.each<[string, boolean, (given: Submission) => Buffer]>([
    ["of the same is taken up", true, (submission) => makeCheckpoint(submission)],
    ["of other data is not", false, (submission) => makeCheckpoint(submission, sha256Hex(Buffer.from("other data")))],
    ["of two folds is not", false, (submission) => makeCheckpoint(submission, digest, 500)],
    ["of other options is not", false, (submission) => makeCheckpoint(otherOptions(submission))],
    ["that is cut off is not", false, (submission) => makeCheckpoint(submission).subarray(0, -1)],
    ["that is none is not", false, () => Buffer.from("GBC1 but not so")],
  ])("%s", async (_, isUsed, make) => {
    const { url } = await harness.start();
    const previous = { ...makeJob(), attempt: 1 };
    const bytes = make(previous);
    harness.worker.artifacts.set(sha256Hex(bytes), bytes);
    const { told } = await resume(url, previous, { sha256: sha256Hex(bytes), bytes: bytes.length });
    expect(progressMessages(told).includes("Goes on from a checkpoint.")).toBe(isUsed);
    expect(trainedIn(told)).toEqual(trainings.slice(isUsed ? -1 : 0));
  });

  it.each([
    ["is gone", null],
    ["has other bytes than its hash names", "spoilt"],
  ])("that %s is not taken up", async (_, spoil) => {
    const { url } = await harness.start();
    const previous = makeJob();
    const bytes = makeCheckpoint(previous);
    if (spoil !== null)
      harness.worker.artifacts.set(sha256Hex(bytes), Buffer.concat([bytes.subarray(0, -6), Buffer.from(spoil)]));
    const { told } = await resume(url, previous, { sha256: sha256Hex(bytes), bytes: bytes.length });
    expect(trainedIn(told)).toEqual(trainings);
  });

  it("that another candidate won still spares the comparison", async () => {
    const { url } = await harness.start();
    harness.worker.getDirective = (message) =>
      message.type === "progress" && message.message === lastTraining ? { directive: "pause" } : {};
    const submission = harness.worker.addJob(makeJob(), lines);
    await submit(url, submission);
    await harness.worker.waitForMessage("stopped", submission.id);
    const checkpoint = lastCheckpoint(harness.worker.messages(submission.id));
    const nextSubmission = harness.worker.addJob({ ...submission, attempt: 2, checkpoint }, lines);
    harness.worker.getDirective = (message) => (message.type === "evaluated" ? { refit: "head" } : {});
    await poll(async () => (await submit(url, nextSubmission)).status).toBe(202);
    const { manifest } = await harness.worker.waitForMessage("finished", submission.id, 2);
    expect(manifest.candidate).toBe("head");
    expect(trainedIn(harness.worker.messages(submission.id, 2))).toHaveLength(1);
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
  const countInputs = (server: EmbeddingServer) => server.calls.reduce((sum, { body }) => sum + body.input.length, 0);

  it("are paid for once, however often an attempt is cut off", async () => {
    const server = await startEmbeddingServer();
    const { url } = await harness.start({ backbones: { configuration: configuration(server.url), secrets: {} } });
    harness.worker.getDirective = (message) =>
      message.type === "progress" && message.message.startsWith("Embedded") ? { directive: "pause" } : {};
    const submission = harness.worker.addJob(
      makeJob({ backbone: { id: "remote", revision: "1" }, dimensions: 4 }),
      lines,
    );
    await submit(url, submission);
    await harness.worker.waitForMessage("stopped", submission.id);
    expect(countInputs(server)).toBe(60);
    const { told } = await resume(url, submission, lastCheckpoint(harness.worker.messages(submission.id)));
    expect(countInputs(server)).toBe(60);
    expect(progressMessages(told, "Embedded")).toEqual([]);
    await server.close();
  });

  it("are kept as far as they came before it failed", async () => {
    const server = await startEmbeddingServer();
    const backbones = { configuration: configuration(server.url), secrets: {} };
    const { url } = await harness.start({ backbones, retryPolicy: { ...pace, maxElapsedMs: 100 } });
    server.script.push(null, null, null, null);
    for (let i = 0; i < 1_000; i++) server.script.push((response) => respondJson(response, 503, {}));
    const submission = harness.worker.addJob(
      makeJob({ backbone: { id: "remote", revision: "1" }, dimensions: 4 }),
      lines,
    );
    await submit(url, submission);
    expect(await harness.worker.waitForMessage("failed", submission.id)).toMatchObject({ retryable: true });
    server.script.length = 0;
    server.calls.length = 0;
    await resume(url, submission, lastCheckpoint(harness.worker.messages(submission.id)));
    expect(countInputs(server)).toBe(60 - 4 * 8);
    await server.close();
  });
});
