/** A batch endpoint beside a Worker, a backbone and threads that fail. */
import type { IncomingMessage } from "node:http";
import type { Context } from "hono";
import { describe, expect, it } from "vitest";
import type { Submission } from "../../src/jobs/protocol.ts";
import { ofEmbeddings, submissionOf, texts } from "./batch-data.ts";
import { harness, pace } from "./batch-harness.ts";
import { type Call, hang, type Line, ndjson, progressOf, stop, submit } from "./batch-worker.ts";
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
  it.each<[string, ((c: Context, call: Call) => Response | Promise<Response>)[]]>([
    ["answers 500, 502 and 408", [status(500), status(502), status(408)]],
    ["breaks connections", [cut, cut]],
    ["answers nothing", [() => new Promise(() => undefined)]],
    ["answers what is no directive", [(c) => c.text("<html>"), (c) => c.json({ directive: "continue" })]],
    ["redirects elsewhere", [(c) => c.redirect("http://127.0.0.1:9/")]],
  ])("%s to messages", async (_, ways) => {
    spoil(isMessage, ways);
    const given = await submitted();
    await h.worker.until("finished", given.id);
    expect(progressOf(h.worker.messages(given.id))[0]).toBe("Read 60 examples.");
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
  it.each<[string, (c: Context) => Response | Promise<Response>]>([
    ["ends them in the middle of a line", (c) => c.body(whole.slice(0, 1_001))],
    ["ends them between two lines", (c) => c.body(whole.slice(0, whole.indexOf("\n", 1_000) + 1))],
    ["leaves lines out", (c) => c.body(whole.slice(whole.indexOf("\n") + 1))],
    [
      "breaks off",
      (c) => {
        setTimeout(() => cut(c), 50);
        return begun(c);
      },
    ],
    ["stands still", begun],
    ["answers 500", status(500)],
  ])("sends the data and %s", async (_, way) => {
    spoil(({ path }) => path === "data", [way]);
    const given = await submitted();
    const { manifest } = await h.worker.until("finished", given.id);
    expect(manifest.dataset.examples).toBe(60);
    expect(h.worker.calls.filter(({ path }) => path === "data")).toHaveLength(2);
  });

  it.each<[string, ((c: Context) => Response | Promise<Response>)[]]>([
    ["breaks connections", [cut, cut, cut]],
    ["takes other bytes for them", [status(422), status(422)]],
    ["has no room at first", [status(503), status(507)]],
  ])("is sent artifacts and %s", async (_, ways) => {
    spoil(isUpload, ways);
    const given = await submitted();
    const { manifest } = await h.worker.until("finished", given.id);
    expect(h.worker.artifacts.has(manifest.artifact.sha256)).toBe(true);
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
  it.each([401, 404, 409, 410])("where a message is answered by %i", async (code) => {
    h.worker.meddle = ({ told }, c) => (told?.type === "evaluated" ? c.json({}, code as 404) : null);
    const given = await submitted();
    await h.logged("ended end");
    expect(h.worker.calls.at(-1)?.told?.type).toBe("evaluated");
    expect(h.worker.messages(given.id).map(({ type }) => type)).not.toContain("finished");
    expect(h.records()).toEqual([]);
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
    await expect.poll(async () => (await submit(url, next)).status).toBe(202);
    await h.worker.until("finished", next.id);
  });
});

describe("signs of life", () => {
  it("come while nothing else is said, and are not said again", async () => {
    hang(h.worker, (path) => path === "data");
    const { url } = await h.start({ pace: { ...pace, timeoutMs: 10_000 } });
    const given = h.worker.offer(job({ heartbeat_seconds: 0.04 }), lines);
    await submit(url, given);
    await expect.poll(() => h.worker.messages(given.id).length).toBeGreaterThan(4);
    expect(new Set(h.worker.messages(given.id).map(({ type }) => type))).toEqual(new Set(["heartbeat"]));
    await stop(url, given, "cancel");
    await h.worker.until("stopped", given.id);
  });
});

describe("a thread that", () => {
  it.each(["throws", "exits", "takes all memory"])("%s is told as a lost attempt", async (tenant) => {
    const thread = new URL("./batch-crashing-thread.ts", import.meta.url).pathname;
    const { url } = await h.start({ budget: { bytes: 1e6, operations: 1e9 } }, thread);
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
    await expect.poll(() => server.calls.length).toBe(1);
    await stop(url, given, "cancel");
    await h.worker.until("stopped", given.id);
    await server.close();
  });
});
