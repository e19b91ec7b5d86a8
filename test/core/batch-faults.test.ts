/** A batch endpoint beside a Worker, a backbone and processes that fail. */
import type { IncomingMessage } from "node:http";
import type { Context } from "hono";
import { describe, expect, it } from "vitest";
import { edgeOf } from "../../src/batch/client/worker-client.ts";
import type { Submission } from "../../src/jobs/protocol.ts";
import { ofEmbeddings, submissionOf, texts } from "./batch-data.ts";
import { harness, pace, soon } from "./batch-harness.ts";
import { type Call, hang, type Line, ndjson, secret, stop, submit } from "./batch-worker.ts";
import { json, startEmbeddingServer } from "./embedding-server.ts";

const h = harness();
const lines = texts(60);
const small = { bytes: 56_000_000, operations: 400_000_000 };
/** Of which both candidates are trained, since the edge's budget is small. */
const job = (more: Partial<Submission> = {}) =>
  submissionOf({
    ...ofEmbeddings,
    modality: "text",
    backbone: { id: "hash-text-1", revision: "1" },
    dimensions: 384,
    edge_budget: small,
    ...more,
  });

/** Breaks the connection that a call came by. */
function cut(c: Context): Promise<Response> {
  (c.env as { incoming: IncomingMessage }).incoming.destroy();
  return new Promise(() => undefined);
}

/** Meddles with the first calls of a kind, one way each. */
function spoil(
  holds: (call: Call) => boolean,
  ways: ((c: Context, call: Call) => Response | Promise<Response>)[],
): void {
  const left = [...ways];
  h.worker.meddle = (call, c) => (holds(call) ? (left.shift()?.(c, call) ?? null) : null);
}

const isMessage = ({ path }: Call) => path === "messages";
const isUpload = ({ method, path }: Call) => method === "PUT" && path.startsWith("artifacts/");
const status =
  (code: number, headers: Record<string, string> = {}) =>
  (c: Context) =>
    c.json({}, code as 500, headers);

async function submitted(more: Partial<Submission> = {}, data: readonly Line[] = lines): Promise<Submission> {
  const { url } = await h.start({ pace: { ...pace, timeoutMs: 250 } });
  const given = h.worker.offer(job(more), data);
  expect((await submit(url, given)).status).toBe(202);
  return given;
}

describe("a job is done where the Worker", () => {
  it("fails in every way to answer messages", async () => {
    const ways = [
      ...[500, 502, 408].map((code) => status(code)),
      cut,
      () => new Promise<Response>(() => undefined),
      (c: Context) => c.text("<html>"),
      (c: Context) => c.json({ directive: "continue" }),
      (c: Context) => c.redirect("http://127.0.0.1:9/"),
    ];
    spoil(isMessage, ways);
    const given = await submitted();
    await h.worker.until("finished", given.id);
    const tries = h.worker.calls.filter(({ told }) => told?.type === "progress" && told.step === 0);
    expect(tries).toHaveLength(ways.length + 1);
  });

  it("asks for patience with messages", async () => {
    spoil(isMessage, [status(429, { "retry-after": "1" })]);
    const before = performance.now();
    const given = await submitted();
    await h.worker.until("finished", given.id);
    expect(performance.now() - before).toBeGreaterThan(1_000);
  });

  it("hears every message and does not say so", async () => {
    const heard = new Set<string>();
    spoil(isMessage, []);
    h.worker.meddle = (call, c) => {
      if (call.told === null || call.told.type === "heartbeat") return null;
      const said = JSON.stringify(call.told);
      if (heard.has(said)) return null;
      heard.add(said);
      return c.json({}, 503);
    };
    const given = await submitted();
    await h.worker.until("finished", given.id);
    expect(heard.size).toBe(h.worker.messages(given.id).filter(({ type }) => type !== "heartbeat").length);
  });

  const whole = ndjson(lines);
  const begun = (c: Context) =>
    c.body(new ReadableStream({ start: (to) => to.enqueue(new TextEncoder().encode(whole.slice(0, 1_001))) }));
  it("fails in every way to send the data whole", async () => {
    const ways = [
      status(500),
      cut,
      (c: Context) => c.body(whole.slice(0, 1_001)),
      (c: Context) => c.body(whole.slice(0, whole.indexOf("\n", 1_000) + 1)),
      // A line is left out.
      (c: Context) => c.body(whole.slice(whole.indexOf("\n") + 1)),
      (c: Context) => {
        setTimeout(() => cut(c), 50);
        return begun(c);
      },
      begun,
    ];
    spoil(({ path }) => path === "data", ways);
    const given = await submitted();
    const { manifest } = await h.worker.until("finished", given.id);
    expect(manifest.dataset.examples).toBe(60);
    expect(h.worker.calls.filter(({ path }) => path === "data")).toHaveLength(ways.length + 1);
  });

  it("fails in every way to take artifacts", async () => {
    spoil(isUpload, [cut, status(422), status(503), cut, status(422), status(507)]);
    const given = await submitted();
    const { manifest } = await h.worker.until("finished", given.id);
    expect(h.worker.artifacts.has(manifest.artifact.sha256)).toBe(true);
    expect(h.log).not.toContain("checkpoint_lost");
  });

  it("loses a part of an artifact, which is sent again as a whole", async () => {
    spoil(({ path }) => path.endsWith("/2"), [cut]);
    h.worker.partBytes = 2_000;
    const { url } = await h.start({ largestSingle: 0 });
    const given = h.worker.offer(job(), lines);
    await submit(url, given);
    const { manifest } = await h.worker.until("finished", given.id);
    expect(h.worker.artifacts.get(manifest.artifact.sha256)).toHaveLength(manifest.artifact.bytes);
    const begun = h.worker.calls.filter(({ method, path }) => method === "POST" && path.endsWith("/uploads"));
    expect(new Set(begun.map(({ path }) => path)).size).toBe(begun.length - 1);
  });
});

describe("an attempt fails, and another may do better, where the Worker", () => {
  it("never has the data", async () => {
    h.worker.meddle = ({ path }, c) => (path === "data" ? c.json({}, 500) : null);
    const { url } = await h.start({ pace: { ...pace, patienceMs: 100 } });
    const given = h.worker.offer(job(), lines);
    await submit(url, given);
    expect(await h.worker.until("failed", given.id)).toMatchObject({ retryable: true });
  });

  it("refuses the head's bytes every time", async () => {
    h.worker.meddle = (call, c) => (isUpload(call) ? c.json({}, 422) : null);
    const given = await submitted();
    const failed = await h.worker.until("failed", given.id);
    expect(failed).toMatchObject({ retryable: true, message: expect.stringMatching(/could not be stored/) });
    expect(h.log).toContain("checkpoint_lost");
  });

  it("refuses what was made", async () => {
    h.worker.meddle = ({ told }, c) => (told?.type === "finished" ? c.json({}, 422) : null);
    const given = await submitted();
    expect(await h.worker.until("failed", given.id)).toMatchObject({ retryable: true });
  });

  it("does not say which candidate it wants", async () => {
    h.worker.direct = () => ({ refit: null });
    const given = await submitted();
    expect(await h.worker.until("failed", given.id)).toMatchObject({ retryable: true });
  });
});

describe("an attempt is over without a word", () => {
  it("where a message is answered so", async () => {
    h.worker.meddle = ({ told }, c) => (told?.type === "evaluated" ? c.json({}, 409) : null);
    const given = await submitted();
    await h.logged("ended end");
    expect(h.worker.calls.at(-1)?.told?.type).toBe("evaluated");
    expect(h.worker.messages(given.id).map(({ type }) => type)).not.toContain("finished");
    expect(h.records()).toEqual([]);
  });

  it.each([401, 404, 409, 410])("which %i is", async (code) => {
    h.worker.meddle = (_, c) => c.json({}, code as 404);
    const edge = edgeOf({ url: h.worker.url, secret, pace }, job());
    expect(await edge.tell({ type: "stopped" }, new AbortController().signal)).toEqual({ type: "over" });
    expect(h.worker.calls).toHaveLength(1);
  });

  it("where it may not read the data", async () => {
    h.worker.meddle = ({ path }, c) => (path === "data" ? c.json({}, 410) : null);
    await submitted();
    await h.logged("ended end");
    expect(h.worker.calls.map(({ path }) => path)).toEqual(["data"]);
  });

  it("where a heartbeat says so", async () => {
    h.worker.meddle = ({ path }) => (path === "data" ? new Promise<Response>(() => undefined) : null);
    h.worker.direct = ({ type }) => (type === "heartbeat" ? { directive: "end" } : {});
    const given = await submitted({ heartbeat_seconds: 0.05 });
    await h.logged("ended end");
    expect(h.worker.messages(given.id).map(({ type }) => type)).toEqual(["heartbeat"]);
  });

  it("where nothing can be told for too long, and its place is free again", async () => {
    const { url } = await h.start({ pace: { ...pace, patienceMs: 100 } });
    h.worker.meddle = ({ path }, c) => (path === "messages" ? c.json({}, 500) : null);
    await submit(url, h.worker.offer(job(), lines));
    await h.logged("ended end");
    h.worker.meddle = () => null;
    const next = h.worker.offer(job({ tenant: "other" }), lines);
    await soon(async () => (await submit(url, next)).status).toBe(202);
    await h.worker.until("finished", next.id);
  });
});

describe("signs of life", () => {
  it("come while nothing else is said, and are not said again", async () => {
    hang(h.worker, (path) => path === "data");
    const { url } = await h.start({ pace: { ...pace, timeoutMs: 10_000 } });
    const given = h.worker.offer(job({ heartbeat_seconds: 0.04 }), lines);
    await submit(url, given);
    await soon(() => h.worker.messages(given.id).length).toBeGreaterThan(4);
    expect(new Set(h.worker.messages(given.id).map(({ type }) => type))).toEqual(new Set(["heartbeat"]));
    await stop(url, given, "cancel");
    await h.worker.until("stopped", given.id);
  });
});

describe("a process that", () => {
  it.each(["is killed", "exits", "takes all memory"])("%s is told as a lost attempt", async (tenant) => {
    const program = new URL("./batch-crashing-child.ts", import.meta.url).pathname;
    const { url } = await h.start({ budget: { bytes: 1e6, operations: 1e9 } }, program);
    const given = h.worker.offer(job({ tenant }), lines);
    await submit(url, given);
    const failed = await h.worker.until("failed", given.id);
    expect(failed).toMatchObject({ retryable: true, message: expect.stringMatching(/lost this attempt/) });
    await h.logged("lost answer");
    expect(h.records()).toEqual([]);
    expect(await (await submit(url, given)).json()).toMatchObject({ status: "ended" });
  });
});

describe("a remote backbone that", () => {
  const configuration = (url: string, more = {}) =>
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
        ...more,
      },
    ]);
  const remote = { backbone: { id: "remote", revision: "1" }, dimensions: 4 };

  it("fails for a while is asked again, and what it gave is kept", async () => {
    const server = await startEmbeddingServer();
    server.script.push(
      (response) => json(response, 503, {}),
      null,
      (response) => json(response, 429, {}),
    );
    const backbones = { configuration: configuration(server.url, { batch_size: 16 }), secrets: { KEY: "sk-1" } };
    const { url } = await h.start({ backbones });
    const given = h.worker.offer(job(remote), lines);
    await submit(url, given);
    await h.worker.until("finished", given.id);
    expect(server.calls.every(({ headers }) => headers.authorization === "Bearer sk-1")).toBe(true);
    await server.close();
  });

  it.each([
    [400, false],
    [503, true],
  ])("keeps answering %i makes the attempt fail", async (code, retryable) => {
    const server = await startEmbeddingServer();
    for (let i = 0; i < 100; i++) server.script.push((response) => json(response, code, {}));
    const backbones = { configuration: configuration(server.url), secrets: { KEY: "sk-1" } };
    const { url } = await h.start({ backbones, pace: { ...pace, patienceMs: 100 } });
    const given = h.worker.offer(job(remote), lines);
    await submit(url, given);
    expect(await h.worker.until("failed", given.id)).toMatchObject({ retryable });
    await server.close();
  });

  it("answers nothing does not keep an attempt from being cancelled", async () => {
    const server = await startEmbeddingServer();
    server.script.push(() => undefined);
    const backbones = { configuration: configuration(server.url), secrets: { KEY: "sk-1" } };
    const { url } = await h.start({ backbones });
    const given = h.worker.offer(job(remote), lines);
    await submit(url, given);
    await soon(() => server.calls.length).toBe(1);
    await stop(url, given, "cancel");
    await h.worker.until("stopped", given.id);
    await server.close();
  });
});
