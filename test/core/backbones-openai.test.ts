import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type OpenAiOptions, openAiBackbone, retryAfterSeconds } from "../../src/backbones/openai.ts";
import {
  type EmbeddingServer,
  embeddingOf,
  json,
  type Misbehaviour,
  rightAnswer,
  startEmbeddingServer,
} from "./embedding-server.ts";

const KEY = "sk-very-secret";
const TEXT = "the customer's own words";
const NOW = Date.parse("2026-01-01T00:00:00Z");
const identity = { id: "remote", revision: "1", license: "unknown", parameters: 0 };

let server: EmbeddingServer;
let slept: number[];
beforeEach(async () => {
  server = await startEmbeddingServer();
  slept = [];
});
afterEach(() => server.close());

function embed(inputs: readonly string[], options: Partial<OpenAiOptions> = {}) {
  const io = {
    fetch: (url: string, init: RequestInit) => fetch(url, init),
    random: () => 0.5,
    sleep: async (milliseconds: number) => void slept.push(milliseconds),
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

const rowsOf = (texts: readonly string[]) => texts.map((text) => Float32Array.from(embeddingOf(text)));
const texts = (count: number) => Array.from({ length: count }, (_, i) => `text ${"x".repeat(i)}`);
const status =
  (code: number, headers: Record<string, string> = {}): Misbehaviour =>
  (response, call) =>
    json(response, code, { error: { message: `no: ${call.body.input[0]} ${call.headers.authorization}` } }, headers);
const data =
  (change: (rows: { index: unknown; embedding: unknown }[]) => unknown): Misbehaviour =>
  (response, call) =>
    json(response, 200, { object: "list", data: change(rightAnswer(call).data) });

describe("an OpenAI-compatible backbone", () => {
  it("sends the model, the texts and the key, and no dimensions unless told to", async () => {
    expect(await embed(["a", "bb"])).toEqual({ rows: rowsOf(["a", "bb"]), failure: null });
    const [call] = server.calls;
    expect(call?.url).toBe("/v1/embeddings");
    expect(call?.headers.authorization).toBe(`Bearer ${KEY}`);
    expect(call?.body).toEqual({ model: "test-model", input: ["a", "bb"], encoding_format: "float" });
  });

  it("asks for dimensions and base64, and leaves the key out, where configured", async () => {
    const answer = await embed(["a"], { sendDimensions: true, encodingFormat: "base64", key: undefined });
    expect(answer).toEqual({ rows: rowsOf(["a"]), failure: null });
    expect(server.calls[0]?.headers.authorization).toBeUndefined();
    expect(server.calls[0]?.body).toMatchObject({ dimensions: 4, encoding_format: "base64" });
  });

  it("calls nobody for no input", async () => {
    expect(await embed([])).toEqual({ rows: [], failure: null });
    expect(server.calls).toHaveLength(0);
  });

  it("keeps the order over batches, four calls at a time", async () => {
    const inputs = texts(50);
    expect(await embed(inputs, { batchSize: 3 })).toEqual({ rows: rowsOf(inputs), failure: null });
    expect(server.calls.map(({ body }) => body.input.length).sort()).toEqual([2, ...new Array(16).fill(3)]);
    expect(server.mostOpen).toBeLessThanOrEqual(4);
    expect(server.mostOpen).toBeGreaterThan(1);
  });

  it("puts rows where their index says", async () => {
    server.script.push(data((rows) => rows.toReversed()));
    expect((await embed(texts(5))).rows).toEqual(rowsOf(texts(5)));
  });

  it("tries again after 500, 503, 429, 408 and a reset, waiting longer each time", async () => {
    for (const fault of [status(500), status(503), status(429)]) server.script.push(fault);
    expect(await embed(["a"])).toEqual({ rows: rowsOf(["a"]), failure: null });
    expect(slept).toEqual([250, 500, 1000]);
    server.script.push(status(408), (response) => response.socket?.resetAndDestroy());
    expect(await embed(["a"])).toEqual({ rows: rowsOf(["a"]), failure: null });
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
    server.script.push(...new Array(calls).fill(status(code)));
    const { rows, failure } = await embed([TEXT]);
    expect(rows).toEqual([undefined]);
    expect(failure?.code).toBe(expected);
    expect(failure?.message).toContain(`HTTP ${code}`);
    expect(JSON.stringify(failure)).not.toContain(TEXT);
    expect(JSON.stringify(failure)).not.toContain(KEY);
    expect(server.calls).toHaveLength(calls);
  });

  it.each([429, 503])("waits as long as Retry-After of a %i asks", async (code) => {
    server.script.push(status(code, { "retry-after": "2" }));
    server.script.push(status(code, { "retry-after": "Thu, 01 Jan 2026 00:00:07 GMT" }));
    expect((await embed(["a"])).failure).toBeNull();
    expect(slept).toEqual([2000, 7000]);
  });

  it.each([429, 503])("fails at once when a %i asks to wait too long, and says how long", async (code) => {
    server.script.push(status(code, { "retry-after": "3600" }));
    const { failure } = await embed(["a"]);
    expect(failure).toMatchObject({ code: "backend_rate_limited", retryAfter: 3600 });
    expect(slept).toEqual([]);
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
    const reset: Misbehaviour = (response) => response.socket?.resetAndDestroy();
    const halfWay: Misbehaviour = (response) => {
      response.writeHead(200, { "content-length": "1000" });
      response.write("{", () => response.socket?.resetAndDestroy());
    };
    server.script.push(reset, halfWay, reset, halfWay);
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
    server.script.push(status(code, { location: `${elsewhere.url}/v1/embeddings` }));
    expect((await embed(["a"])).failure?.code).toBe("backend_rejected");
    expect(elsewhere.calls).toHaveLength(0);
    await elsewhere.close();
  });

  it.each<[string, Misbehaviour]>([
    ["not JSON", (response) => response.end("<html>")],
    ["nothing", (response) => response.end()],
    ["null", (response) => json(response, 200, null)],
    ["no data", (response) => json(response, 200, { object: "list" })],
    ["too few rows", data((rows) => rows.slice(1))],
    ["too many rows", data((rows) => [...rows, ...rows])],
    ["an index twice", data((rows) => rows.map((row) => ({ ...row, index: 0 })))],
    ["no index", data((rows) => rows.map(({ embedding }) => ({ embedding })))],
    ["an index out of range", data((rows) => rows.map((row, i) => ({ ...row, index: i + 1 })))],
    ["a negative index", data((rows) => rows.map((row, i) => ({ ...row, index: i - 1 })))],
    ["a row too short", data((rows) => rows.map((row) => ({ ...row, embedding: [1, 2, 3] })))],
    ["a row too long", data((rows) => rows.map((row) => ({ ...row, embedding: [1, 2, 3, 4, 5] })))],
    ["a null", data((rows) => rows.map((row) => ({ ...row, embedding: [1, null, 3, 4] })))],
    ["a string among numbers", data((rows) => rows.map((row) => ({ ...row, embedding: [1, "2", 3, 4] })))],
    ["a number beyond float32", data((rows) => rows.map((row) => ({ ...row, embedding: [1, 1e39, 3, 4] })))],
    [
      "NaN",
      (response) => response.end('{"data":[{"index":0,"embedding":[NaN,1,1,1]},{"index":1,"embedding":[1,1,1,1]}]}'),
    ],
    ["NaN in base64", data((rows) => rows.map((row) => ({ ...row, embedding: "AADAfwAAgD8AAIA/AACAPw==" })))],
    ["short base64", data((rows) => rows.map((row) => ({ ...row, embedding: "AACAPwA=" })))],
    ["no base64 at all", data((rows) => rows.map((row) => ({ ...row, embedding: "!" })))],
    ["far too much", (response) => response.end(`{"data":[]${" ".repeat(200_000)}}`)],
  ])("refuses an answer with %s, at once", async (_, fault) => {
    server.script.push(fault);
    const { rows, failure } = await embed(["a", "b"]);
    expect(rows).toEqual([undefined, undefined]);
    expect(failure?.code).toBe("backend_invalid_answer");
    expect(server.calls).toHaveLength(1);
  });

  it("keeps the batches that succeeded when one fails", async () => {
    const inputs = texts(6);
    const faultyBatch: Misbehaviour = (response, call) =>
      call.body.input[0] === inputs[2] ? status(400)(response, call) : json(response, 200, rightAnswer(call));
    server.script.push(faultyBatch, faultyBatch, faultyBatch);
    const { rows, failure } = await embed(inputs, { batchSize: 2 });
    const expected = rowsOf(inputs);
    expect(rows).toEqual([expected[0], expected[1], undefined, undefined, expected[4], expected[5]]);
    expect(failure?.code).toBe("backend_rejected");
  });

  it("begins no further batch after a failure", async () => {
    server.script.push(...new Array(100).fill(status(400)));
    await embed(texts(100), { batchSize: 1 });
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
  expect(retryAfterSeconds(header, NOW)).toBe(seconds);
});
