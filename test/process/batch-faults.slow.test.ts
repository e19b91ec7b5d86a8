/** A batch endpoint beside a Worker, a backbone and processes that fail. */
import type { IncomingMessage } from "node:http";
import type { Context } from "hono";
import { describe, expect, it } from "vitest";
import { makeWorkerClient } from "../../src/batch/client/worker-client.ts";
import type { Submission } from "../../src/jobs/protocol.ts";
import { embeddingOptions, makeSubmission, makeTexts } from "./batch-data.ts";
import { pace, poll, setUpHarness } from "./batch-harness.ts";
import { respondJson, startEmbeddingServer } from "./embedding-server.ts";
import { type Call, type DataRow, ndjson, neverRespond, secret, stop, submit } from "./fake-worker.ts";

const harness = setUpHarness();
const lines = makeTexts(60);
const smallBudget = { bytes: 56_000_000, operations: 400_000_000 };
/** Of which both candidates are trained, since the edge's budget is small. */
const makeJob = (overrides: Partial<Submission> = {}) =>
  makeSubmission({
    ...embeddingOptions,
    modality: "text",
    backbone: { id: "hash-text-1", revision: "1" },
    dimensions: 384,
    edge_budget: smallBudget,
    ...overrides,
  });

/** Breaks the connection that a call came by. */
function breakConnection(c: Context): Promise<Response> {
  (c.env as { incoming: IncomingMessage }).incoming.destroy();
  return new Promise(() => undefined);
}

/** Meddles with the first calls of a kind, one way each. */
function intercept(
  matches: (call: Call) => boolean,
  handlers: ((c: Context, call: Call) => Response | Promise<Response>)[],
): void {
  const remainingHandlers = [...handlers];
  harness.worker.intercept = (call, c) => (matches(call) ? (remainingHandlers.shift()?.(c, call) ?? null) : null);
}

const isMessage = ({ path }: Call) => path === "messages";
const isUpload = ({ method, path }: Call) => method === "PUT" && path.startsWith("artifacts/");
const respondStatus =
  (code: number, headers: Record<string, string> = {}) =>
  (c: Context) =>
    c.json({}, code as 500, headers);

async function submitJob(overrides: Partial<Submission> = {}, data: readonly DataRow[] = lines): Promise<Submission> {
  const { url } = await harness.start({ retryPolicy: { ...pace, timeoutMs: 250 } });
  const submission = harness.worker.addJob(makeJob(overrides), data);
  expect((await submit(url, submission)).status).toBe(202);
  return submission;
}

describe("a job is done where the Worker", () => {
  it("fails in every way to answer messages", async () => {
    const handlers = [
      ...[500, 502, 408].map((code) => respondStatus(code)),
      breakConnection,
      () => new Promise<Response>(() => undefined),
      (c: Context) => c.text("<html>"),
      (c: Context) => c.json({ directive: "continue" }),
      (c: Context) => c.redirect("http://127.0.0.1:9/"),
    ];
    intercept(isMessage, handlers);
    const submission = await submitJob();
    await harness.worker.waitForMessage("finished", submission.id);
    const attempts = harness.worker.calls.filter(({ message }) => message?.type === "progress" && message.step === 0);
    expect(attempts).toHaveLength(handlers.length + 1);
  });

  it("asks for patience with messages", async () => {
    intercept(isMessage, [respondStatus(429, { "retry-after": "1" })]);
    const before = performance.now();
    const submission = await submitJob();
    await harness.worker.waitForMessage("finished", submission.id);
    expect(performance.now() - before).toBeGreaterThan(1_000);
  });

  it("hears every message and does not say so", async () => {
    const messageBodies = new Set<string>();
    intercept(isMessage, []);
    harness.worker.intercept = (call, c) => {
      if (call.message === null || call.message.type === "heartbeat") return null;
      const body = JSON.stringify(call.message);
      if (messageBodies.has(body)) return null;
      messageBodies.add(body);
      return c.json({}, 503);
    };
    const submission = await submitJob();
    await harness.worker.waitForMessage("finished", submission.id);
    expect(messageBodies.size).toBe(
      harness.worker.messages(submission.id).filter(({ type }) => type !== "heartbeat").length,
    );
  });

  const fullBody = ndjson(lines);
  const respondPartially = (c: Context) =>
    c.body(new ReadableStream({ start: (to) => to.enqueue(new TextEncoder().encode(fullBody.slice(0, 1_001))) }));
  it("fails in every way to send the data whole", async () => {
    const handlers = [
      respondStatus(500),
      breakConnection,
      (c: Context) => c.body(fullBody.slice(0, 1_001)),
      (c: Context) => c.body(fullBody.slice(0, fullBody.indexOf("\n", 1_000) + 1)),
      // A line is left out.
      (c: Context) => c.body(fullBody.slice(fullBody.indexOf("\n") + 1)),
      (c: Context) => {
        setTimeout(() => breakConnection(c), 50);
        return respondPartially(c);
      },
      respondPartially,
    ];
    intercept(({ path }) => path === "data", handlers);
    const submission = await submitJob();
    const { manifest } = await harness.worker.waitForMessage("finished", submission.id);
    expect(manifest.dataset.examples).toBe(60);
    expect(harness.worker.calls.filter(({ path }) => path === "data")).toHaveLength(handlers.length + 1);
  });

  it("fails in every way to take artifacts", async () => {
    intercept(isUpload, [
      breakConnection,
      respondStatus(422),
      respondStatus(503),
      breakConnection,
      respondStatus(422),
      respondStatus(507),
    ]);
    const submission = await submitJob();
    const { manifest } = await harness.worker.waitForMessage("finished", submission.id);
    expect(harness.worker.artifacts.has(manifest.artifact.sha256)).toBe(true);
    expect(harness.log).not.toContain("checkpoint_lost");
  });

  it("loses a part of an artifact, which is sent again as a whole", async () => {
    intercept(({ path }) => path.endsWith("/2"), [breakConnection]);
    harness.worker.partBytes = 2_000;
    const { url } = await harness.start({ maxSingleUploadBytes: 0 });
    const submission = harness.worker.addJob(makeJob(), lines);
    await submit(url, submission);
    const { manifest } = await harness.worker.waitForMessage("finished", submission.id);
    expect(harness.worker.artifacts.get(manifest.artifact.sha256)).toHaveLength(manifest.artifact.bytes);
    const uploads = harness.worker.calls.filter(({ method, path }) => method === "POST" && path.endsWith("/uploads"));
    expect(new Set(uploads.map(({ path }) => path)).size).toBe(uploads.length - 1);
  });
});

describe("an attempt fails, and another may do better, where the Worker", () => {
  it("never has the data", async () => {
    harness.worker.intercept = ({ path }, c) => (path === "data" ? c.json({}, 500) : null);
    const { url } = await harness.start({ retryPolicy: { ...pace, maxElapsedMs: 100 } });
    const submission = harness.worker.addJob(makeJob(), lines);
    await submit(url, submission);
    expect(await harness.worker.waitForMessage("failed", submission.id)).toMatchObject({ retryable: true });
  });

  it("refuses the head's bytes every time", async () => {
    harness.worker.intercept = (call, c) => (isUpload(call) ? c.json({}, 422) : null);
    const submission = await submitJob();
    const failed = await harness.worker.waitForMessage("failed", submission.id);
    expect(failed).toMatchObject({ retryable: true, message: expect.stringMatching(/could not be stored/) });
    expect(harness.log).toContain("checkpoint_lost");
  });

  it("refuses what was made", async () => {
    harness.worker.intercept = ({ message }, c) => (message?.type === "finished" ? c.json({}, 422) : null);
    const submission = await submitJob();
    expect(await harness.worker.waitForMessage("failed", submission.id)).toMatchObject({ retryable: true });
  });

  it("does not say which candidate it wants", async () => {
    harness.worker.getDirective = () => ({ refit: null });
    const submission = await submitJob();
    expect(await harness.worker.waitForMessage("failed", submission.id)).toMatchObject({ retryable: true });
  });
});

describe("an attempt is over without a word", () => {
  it("where a message is answered so", async () => {
    harness.worker.intercept = ({ message }, c) => (message?.type === "evaluated" ? c.json({}, 409) : null);
    const submission = await submitJob();
    await harness.waitForLog("ended end");
    expect(harness.worker.calls.at(-1)?.message?.type).toBe("evaluated");
    expect(harness.worker.messages(submission.id).map(({ type }) => type)).not.toContain("finished");
    expect(harness.records()).toEqual([]);
  });

  it.each([401, 404, 409, 410])("which %i is", async (code) => {
    harness.worker.intercept = (_, c) => c.json({}, code as 404);
    const edgeBudget = makeWorkerClient({ url: harness.worker.url, secret, retryPolicy: pace }, makeJob());
    expect(await edgeBudget.send({ type: "stopped" }, new AbortController().signal)).toEqual({ type: "ended" });
    expect(harness.worker.calls).toHaveLength(1);
  });

  it("where it may not read the data", async () => {
    harness.worker.intercept = ({ path }, c) => (path === "data" ? c.json({}, 410) : null);
    await submitJob();
    await harness.waitForLog("ended end");
    expect(harness.worker.calls.map(({ path }) => path)).toEqual(["data"]);
  });

  it("where a heartbeat says so", async () => {
    harness.worker.intercept = ({ path }) => (path === "data" ? new Promise<Response>(() => undefined) : null);
    harness.worker.getDirective = ({ type }) => (type === "heartbeat" ? { directive: "end" } : {});
    const submission = await submitJob({ heartbeat_seconds: 0.05 });
    await harness.waitForLog("ended end");
    expect(harness.worker.messages(submission.id).map(({ type }) => type)).toEqual(["heartbeat"]);
  });

  it("where nothing can be told for too long, and its place is free again", async () => {
    const { url } = await harness.start({ retryPolicy: { ...pace, maxElapsedMs: 100 } });
    harness.worker.intercept = ({ path }, c) => (path === "messages" ? c.json({}, 500) : null);
    await submit(url, harness.worker.addJob(makeJob(), lines));
    await harness.waitForLog("ended end");
    harness.worker.intercept = () => null;
    const nextSubmission = harness.worker.addJob(makeJob({ tenant: "other" }), lines);
    await poll(async () => (await submit(url, nextSubmission)).status).toBe(202);
    await harness.worker.waitForMessage("finished", nextSubmission.id);
  });
});

describe("signs of life", () => {
  it("come while nothing else is said, and are not said again", async () => {
    neverRespond(harness.worker, (path) => path === "data");
    const { url } = await harness.start({ retryPolicy: { ...pace, timeoutMs: 10_000 } });
    const submission = harness.worker.addJob(makeJob({ heartbeat_seconds: 0.04 }), lines);
    await submit(url, submission);
    await poll(() => harness.worker.messages(submission.id).length).toBeGreaterThan(4);
    expect(new Set(harness.worker.messages(submission.id).map(({ type }) => type))).toEqual(new Set(["heartbeat"]));
    await stop(url, submission, "cancel");
    await harness.worker.waitForMessage("stopped", submission.id);
  });
});

describe("a process that", () => {
  it.each(["is killed", "exits", "takes all memory"])("%s is told as a lost attempt", async (tenant) => {
    const program = new URL("./batch-crashing-child.ts", import.meta.url).pathname;
    const { url } = await harness.start({ budget: { bytes: 1e6, operations: 1e9 } }, program);
    const submission = harness.worker.addJob(makeJob({ tenant }), lines);
    await submit(url, submission);
    const failed = await harness.worker.waitForMessage("failed", submission.id);
    const message = expect.stringMatching(/lost this attempt/);
    expect(failed).toMatchObject({ retryable: true, endpoint_restarted: false, message });
    await harness.waitForLog("attempt_lost answer");
    expect(harness.records()).toEqual([]);
    for (const answer of [await submit(url, submission), await stop(url, submission, "cancel")])
      expect(await answer.json()).toEqual({ object: "batch.attempt", id: submission.id, attempt: 1, status: "ended" });
  });
});

describe("a remote backbone that", () => {
  const configuration = (url: string, extra = {}) =>
    JSON.stringify([
      {
        kind: "openai",
        id: "remote",
        base_url: `${url}/v1`,
        model: "m",
        dimensions: 4,
        revision: "1",
        retries: 0,
        secret: "KEY",
        ...extra,
      },
    ]);
  const remote = { backbone: { id: "remote", revision: "1" }, dimensions: 4 };

  it("fails for a while is asked again, and what it gave is kept", async () => {
    const server = await startEmbeddingServer();
    server.script.push(
      (response) => respondJson(response, 503, {}),
      null,
      (response) => respondJson(response, 429, {}),
    );
    const backbones = { configuration: configuration(server.url, { batch_size: 16 }), secrets: { KEY: "sk-1" } };
    const { url } = await harness.start({ backbones });
    const submission = harness.worker.addJob(makeJob(remote), lines);
    await submit(url, submission);
    await harness.worker.waitForMessage("finished", submission.id);
    expect(server.calls.every(({ headers }) => headers.authorization === "Bearer sk-1")).toBe(true);
    await server.close();
  });

  it.each([
    [400, false],
    [503, true],
  ])("keeps answering %i makes the attempt fail", async (code, retryable) => {
    const server = await startEmbeddingServer();
    for (let i = 0; i < 100; i++) server.script.push((response) => respondJson(response, code, {}));
    const backbones = { configuration: configuration(server.url), secrets: { KEY: "sk-1" } };
    const { url } = await harness.start({ backbones, retryPolicy: { ...pace, maxElapsedMs: 100 } });
    const submission = harness.worker.addJob(makeJob(remote), lines);
    await submit(url, submission);
    expect(await harness.worker.waitForMessage("failed", submission.id)).toMatchObject({ retryable });
    await server.close();
  });

  it("answers nothing does not keep an attempt from being cancelled", async () => {
    const server = await startEmbeddingServer();
    server.script.push(() => undefined);
    const backbones = { configuration: configuration(server.url), secrets: { KEY: "sk-1" } };
    const { url } = await harness.start({ backbones });
    const submission = harness.worker.addJob(makeJob(remote), lines);
    await submit(url, submission);
    await poll(() => server.calls.length).toBe(1);
    await stop(url, submission, "cancel");
    await harness.worker.waitForMessage("stopped", submission.id);
    await server.close();
  });
});
