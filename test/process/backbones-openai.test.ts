import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type OpenAiOptions, openAiBackbone, parseRetryAfterSeconds } from "../../src/backbones/openai.ts";
import {
  correctAnswer,
  type EmbeddingServer,
  embeddingOf,
  type FaultyHandler,
  respondJson,
  startEmbeddingServer,
} from "./embedding-server.ts";

const KEY = "sk-very-secret";
const TEXT = "the customer's own words";
const NOW = Date.parse("2026-01-01T00:00:00Z");
const identity = { id: "remote", revision: "1", license: "unknown", parameters: 0 };

let server: EmbeddingServer;
let sleeps: number[];
beforeEach(async () => {
  server = await startEmbeddingServer();
  sleeps = [];
});
afterEach(() => server.close());

function embed(inputs: readonly string[], options: Partial<OpenAiOptions> = {}) {
  const io = {
    fetch: (url: string, init: RequestInit) => fetch(url, init),
    random: () => 0.5,
    sleep: async (milliseconds: number) => void sleeps.push(milliseconds),
    now: () => NOW,
  };
  const defaults: OpenAiOptions = {
    baseUrl: `${server.url}/v1`,
    model: "test-model",
    dimensions: 4,
    sendDimensions: false,
    encodingFormat: "float",
    key: KEY,
    batchSize: 128,
    timeout: 5_000,
    retries: 3,
  };
  return openAiBackbone(identity, { ...defaults, ...options }, io).embed(inputs);
}

const expectedRows = (texts: readonly string[]) => texts.map((text) => Float32Array.from(embeddingOf(text)));
const makeTexts = (count: number) => Array.from({ length: count }, (_, i) => `text ${"x".repeat(i)}`);
const respondStatus =
  (code: number, headers: Record<string, string> = {}): FaultyHandler =>
  (response, call) =>
    respondJson(
      response,
      code,
      { error: { message: `no: ${call.body.input[0]} ${call.headers.authorization}` } },
      headers,
    );
const respondData =
  (change: (rows: { index: unknown; embedding: unknown }[]) => unknown): FaultyHandler =>
  (response, call) =>
    respondJson(response, 200, { object: "list", data: change(correctAnswer(call).data) });

describe("an OpenAI-compatible backbone", () => {
  it("sends the model, the texts and the key, and no dimensions unless told to", async () => {
    expect(await embed(["a", "bb"])).toEqual({ rows: expectedRows(["a", "bb"]), failure: null });
    const [call] = server.calls;
    expect(call?.url).toBe("/v1/embeddings");
    expect(call?.headers.authorization).toBe(`Bearer ${KEY}`);
    expect(call?.body).toEqual({ model: "test-model", input: ["a", "bb"], encoding_format: "float" });
  });

  it("asks for dimensions and base64, and leaves the key out, where configured", async () => {
    const answer = await embed(["a"], { sendDimensions: true, encodingFormat: "base64", key: undefined });
    expect(answer).toEqual({ rows: expectedRows(["a"]), failure: null });
    expect(server.calls[0]?.headers.authorization).toBeUndefined();
    expect(server.calls[0]?.body).toMatchObject({ dimensions: 4, encoding_format: "base64" });
  });

  it("calls nobody for no input", async () => {
    expect(await embed([])).toEqual({ rows: [], failure: null });
    expect(server.calls).toHaveLength(0);
  });

  it("keeps the order over batches, four calls at a time", async () => {
    const inputs = makeTexts(50);
    expect(await embed(inputs, { batchSize: 3 })).toEqual({ rows: expectedRows(inputs), failure: null });
    expect(server.calls.map(({ body }) => body.input.length).sort()).toEqual([2, ...new Array(16).fill(3)]);
    expect(server.maxOpenCalls).toBeLessThanOrEqual(4);
    expect(server.maxOpenCalls).toBeGreaterThan(1);
  });

  it("puts rows where their index says", async () => {
    server.script.push(respondData((rows) => rows.toReversed()));
    expect((await embed(makeTexts(5))).rows).toEqual(expectedRows(makeTexts(5)));
  });

  it("tries again after 500, 503, 429, 408 and a reset, waiting longer each time", async () => {
    for (const fault of [respondStatus(500), respondStatus(503), respondStatus(429)]) server.script.push(fault);
    expect(await embed(["a"])).toEqual({ rows: expectedRows(["a"]), failure: null });
    expect(sleeps).toEqual([250, 500, 1000]);
    server.script.push(respondStatus(408), (response) => response.socket?.resetAndDestroy());
    expect(await embed(["a"])).toEqual({ rows: expectedRows(["a"]), failure: null });
  });

  it.each([
    [400, "backend_rejected", 1],
    [401, "backend_rejected", 1],
    [403, "backend_rejected", 1],
    [404, "backend_rejected", 1],
    [422, "backend_rejected", 1],
    [429, "backend_rate_limited", 4],
    [500, "backend_unavailable", 4],
    [503, "backend_unavailable", 4],
  ])("answers HTTP %i with %s after %i calls, and repeats neither key nor text", async (code, expected, calls) => {
    server.script.push(...new Array(calls).fill(respondStatus(code)));
    const { rows, failure } = await embed([TEXT]);
    expect(rows).toEqual([undefined]);
    expect(failure?.code).toBe(expected);
    expect(failure?.message).toContain(`HTTP ${code}`);
    expect(JSON.stringify(failure)).not.toContain(TEXT);
    expect(JSON.stringify(failure)).not.toContain(KEY);
    expect(server.calls).toHaveLength(calls);
  });

  it.each([429, 503])("waits as long as Retry-After of a %i asks", async (code) => {
    server.script.push(respondStatus(code, { "retry-after": "2" }));
    server.script.push(respondStatus(code, { "retry-after": "Thu, 01 Jan 2026 00:00:07 GMT" }));
    expect((await embed(["a"])).failure).toBeNull();
    expect(sleeps).toEqual([2000, 7000]);
  });

  it.each([429, 503])("fails at once when a %i asks to wait too long, and says how long", async (code) => {
    server.script.push(respondStatus(code, { "retry-after": "3600" }));
    const { failure } = await embed(["a"]);
    expect(failure).toMatchObject({ code: "backend_rate_limited", retryAfter: 3600 });
    expect(sleeps).toEqual([]);
  });

  it("gives up after its time-out, without asking again", async () => {
    server.script.push(() => undefined);
    const { failure } = await embed(["a"], { timeout: 100 });
    expect(failure?.code).toBe("backend_timeout");
    expect(server.calls).toHaveLength(1);
  });

  it("gives up after its time-out on an answer that begins and stalls", async () => {
    server.script.push((response) => response.writeHead(200).write('{"data":['));
    expect((await embed(["a"], { timeout: 100 })).failure?.code).toBe("backend_timeout");
  });

  it("calls an endpoint that resets every connection, or half-way, unavailable", async () => {
    const reset: FaultyHandler = (response) => response.socket?.resetAndDestroy();
    const cutMidway: FaultyHandler = (response) => {
      response.writeHead(200, { "content-length": "1000" });
      response.write("{", () => response.socket?.resetAndDestroy());
    };
    server.script.push(reset, cutMidway, reset, cutMidway);
    expect((await embed(["a"])).failure?.code).toBe("backend_unavailable");
    expect(server.calls).toHaveLength(4);
  });

  it("calls an endpoint that nobody listens on unavailable", async () => {
    const { url } = server;
    await server.close();
    expect((await embed(["a"], { baseUrl: url })).failure?.code).toBe("backend_unavailable");
    server = await startEmbeddingServer();
  });

  it.each([301, 302, 307, 308])("does not follow a %i with the key", async (code) => {
    const elsewhere = await startEmbeddingServer();
    server.script.push(respondStatus(code, { location: `${elsewhere.url}/v1/embeddings` }));
    expect((await embed(["a"])).failure?.code).toBe("backend_rejected");
    expect(elsewhere.calls).toHaveLength(0);
    await elsewhere.close();
  });

  it.each<[string, FaultyHandler]>([
    ["not JSON", (response) => response.end("<html>")],
    ["nothing", (response) => response.end()],
    ["null", (response) => respondJson(response, 200, null)],
    ["no data", (response) => respondJson(response, 200, { object: "list" })],
    ["too few rows", respondData((rows) => rows.slice(1))],
    ["too many rows", respondData((rows) => [...rows, ...rows])],
    ["an index twice", respondData((rows) => rows.map((row) => ({ ...row, index: 0 })))],
    ["no index", respondData((rows) => rows.map(({ embedding }) => ({ embedding })))],
    ["an index out of range", respondData((rows) => rows.map((row, i) => ({ ...row, index: i + 1 })))],
    ["a negative index", respondData((rows) => rows.map((row, i) => ({ ...row, index: i - 1 })))],
    ["a row too short", respondData((rows) => rows.map((row) => ({ ...row, embedding: [1, 2, 3] })))],
    ["a row too long", respondData((rows) => rows.map((row) => ({ ...row, embedding: [1, 2, 3, 4, 5] })))],
    ["a null", respondData((rows) => rows.map((row) => ({ ...row, embedding: [1, null, 3, 4] })))],
    ["a string among numbers", respondData((rows) => rows.map((row) => ({ ...row, embedding: [1, "2", 3, 4] })))],
    ["a number beyond float32", respondData((rows) => rows.map((row) => ({ ...row, embedding: [1, 1e39, 3, 4] })))],
    [
      "NaN",
      (response) => response.end('{"data":[{"index":0,"embedding":[NaN,1,1,1]},{"index":1,"embedding":[1,1,1,1]}]}'),
    ],
    ["NaN in base64", respondData((rows) => rows.map((row) => ({ ...row, embedding: "AADAfwAAgD8AAIA/AACAPw==" })))],
    ["short base64", respondData((rows) => rows.map((row) => ({ ...row, embedding: "AACAPwA=" })))],
    ["no base64 at all", respondData((rows) => rows.map((row) => ({ ...row, embedding: "!" })))],
    ["far too much", (response) => response.end(`{"data":[]${" ".repeat(200_000)}}`)],
  ])("refuses an answer with %s, at once", async (_, fault) => {
    server.script.push(fault);
    const { rows, failure } = await embed(["a", "b"]);
    expect(rows).toEqual([undefined, undefined]);
    expect(failure?.code).toBe("backend_invalid_answer");
    expect(server.calls).toHaveLength(1);
  });

  it("keeps the batches that succeeded when one fails", async () => {
    const inputs = makeTexts(6);
    const faultyBatch: FaultyHandler = (response, call) =>
      call.body.input[0] === inputs[2]
        ? respondStatus(400)(response, call)
        : respondJson(response, 200, correctAnswer(call));
    server.script.push(faultyBatch, faultyBatch, faultyBatch);
    const { rows, failure } = await embed(inputs, { batchSize: 2 });
    const expected = expectedRows(inputs);
    expect(rows).toEqual([expected[0], expected[1], undefined, undefined, expected[4], expected[5]]);
    expect(failure?.code).toBe("backend_rejected");
  });

  it("begins no further batch after a failure", async () => {
    server.script.push(...new Array(100).fill(respondStatus(400)));
    await embed(makeTexts(100), { batchSize: 1 });
    expect(server.calls.length).toBeLessThanOrEqual(4);
  });
});

it.each([
  [null, undefined],
  ["3", 3],
  ["0", 0],
  ["1.5", 1.5],
  ["Thu, 01 Jan 2026 00:01:00 GMT", 60],
  ["Wed, 31 Dec 2025 00:00:00 GMT", 0],
  ["soon", undefined],
  ["86401", 86_400],
  ["9".repeat(400), 86_400],
  ["Fri, 01 Jan 2077 00:00:00 GMT", 86_400],
  ["-5", undefined],
])("reads Retry-After %s as %s seconds", (header, seconds) => {
  expect(parseRetryAfterSeconds(header, NOW)).toBe(seconds);
});
