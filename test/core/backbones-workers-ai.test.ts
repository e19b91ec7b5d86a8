/** The platform's own binding answers only from afar, so a fake one speaks its protocol here. */
import { describe, expect, it } from "vitest";
import { type AiBinding, type WorkersAiOptions, workersAiBackbone } from "../../src/backbones/workers-ai.ts";

const TEXT = "the customer's own words";
const MODEL = "@cf/baai/bge-small-en-v1.5";
const identity = { id: "bge", revision: "1", license: "MIT", parameters: 33_400_000 };

type Input = Parameters<AiBinding["run"]>[1];
type Behaviour = (input: Input) => unknown;

const embeddingOf = (text: string) => [text.length, text.charCodeAt(0), 0.5];
const correctAnswer: Behaviour = ({ text }) => ({
  shape: [text.length, 3],
  data: text.map(embeddingOf),
  pooling: "cls",
});
const error =
  (message: string): Behaviour =>
  ({ text }) => {
    throw new Error(`${message} ${text[0]}`);
  };
const data =
  (change: (rows: number[][]) => unknown): Behaviour =>
  ({ text }) => ({ shape: [text.length, 3], data: change(text.map(embeddingOf)) });

function fakeBackbone(script: Behaviour[], options: Partial<WorkersAiOptions> = {}) {
  const calls: { model: string; input: Input }[] = [];
  const slept: number[] = [];
  const ai: AiBinding = {
    async run(model, input) {
      calls.push({ model, input });
      return (script.shift() ?? correctAnswer)(input);
    },
  };
  const pace = { random: () => 0.5, sleep: async (milliseconds: number) => void slept.push(milliseconds) };
  const defaults = { model: MODEL, dimensions: 3, pooling: undefined, batchSize: 100, timeout: 5_000, retries: 3 };
  return { calls, slept, backbone: workersAiBackbone(identity, { ...defaults, ...options }, ai, pace) };
}

const expectedRows = (texts: readonly string[]) => texts.map((text) => Float32Array.from(embeddingOf(text)));
const makeTexts = (count: number) => Array.from({ length: count }, (_, i) => `text ${i}`);

describe("a Workers AI backbone", () => {
  it("asks the model, with pooling where configured", async () => {
    const plain = fakeBackbone([]);
    expect(await plain.backbone.embed(["a", "bb"])).toEqual({ rows: expectedRows(["a", "bb"]), failure: null });
    expect(plain.calls).toEqual([{ model: MODEL, input: { text: ["a", "bb"] } }]);
    const pooled = fakeBackbone([], { pooling: "cls" });
    await pooled.backbone.embed(["a"]);
    expect(pooled.calls[0]?.input).toEqual({ text: ["a"], pooling: "cls" });
  });

  it("asks nothing for no input", async () => {
    const { backbone, calls } = fakeBackbone([]);
    expect(await backbone.embed([])).toEqual({ rows: [], failure: null });
    expect(calls).toHaveLength(0);
  });

  it("keeps the order over batches of at most 100", async () => {
    const { backbone, calls } = fakeBackbone([]);
    expect((await backbone.embed(makeTexts(250))).rows).toEqual(expectedRows(makeTexts(250)));
    expect(calls.map(({ input }) => input.text.length)).toEqual([100, 100, 50]);
  });

  it.each([
    ["3036: daily free allocation", "backend_rate_limited", 1],
    ["3040: Capacity temporarily exceeded", "backend_rate_limited", 4],
    ["InferenceUpstreamError: 3040: Capacity temporarily exceeded", "backend_rate_limited", 4],
    ["3007: Request timeout", "backend_timeout", 4],
    ["5007: No such model", "backend_rejected", 1],
    ["3006: Request is too large", "backend_rejected", 1],
    ["5016: model agreement", "backend_rejected", 1],
    ["Network connection lost.", "backend_unavailable", 4],
    ["1031: something new", "backend_unavailable", 4],
  ])("answers the error '%s' with %s after %i calls, without the text", async (message, code, expected) => {
    const { backbone, calls } = fakeBackbone(new Array(4).fill(error(message)));
    const { rows, failure } = await backbone.embed([TEXT]);
    expect(rows).toEqual([undefined]);
    expect(failure?.code).toBe(code);
    expect(JSON.stringify(failure)).not.toContain(TEXT);
    expect(calls).toHaveLength(expected);
  });

  it("tries again until it succeeds", async () => {
    const { backbone, slept } = fakeBackbone([error("3040: busy"), error("oops")]);
    expect(await backbone.embed(["a"])).toEqual({ rows: expectedRows(["a"]), failure: null });
    expect(slept).toEqual([250, 500]);
  });

  it("gives up after its time-out", async () => {
    const { backbone, calls } = fakeBackbone([() => new Promise(() => undefined)], { timeout: 50 });
    expect((await backbone.embed(["a"])).failure?.code).toBe("backend_timeout");
    expect(calls).toHaveLength(1);
  });

  it.each<[string, Behaviour]>([
    ["null", () => null],
    ["nothing", () => undefined],
    ["a stream", () => new ReadableStream()],
    ["a request queued for later", () => ({ status: "queued", request_id: "1" })],
    ["too few rows", data((rows) => rows.slice(1))],
    ["too many rows", data((rows) => [...rows, ...rows])],
    ["a row too short", data((rows) => rows.map((row) => row.slice(1)))],
    ["a row too long", data((rows) => rows.map((row) => [...row, 1]))],
    ["a null among the numbers", data((rows) => rows.map(() => [1, null, 2]))],
    ["NaN", data((rows) => rows.map(() => [1, Number.NaN, 2]))],
    ["a number beyond float32", data((rows) => rows.map(() => [1, 1e39, 2]))],
    ["no arrays", data((rows) => rows.map(() => "AACAPw=="))],
  ])("refuses an answer with %s, at once", async (_, behaviour) => {
    const { backbone, calls } = fakeBackbone([behaviour]);
    const { rows, failure } = await backbone.embed(["a", "b"]);
    expect(rows).toEqual([undefined, undefined]);
    expect(failure?.code).toBe("backend_invalid_answer");
    expect(calls).toHaveLength(1);
  });

  it("keeps the batches that succeeded when one fails", async () => {
    const { backbone } = fakeBackbone([correctAnswer, error("5004: invalid data"), correctAnswer], { batchSize: 2 });
    const { rows, failure } = await backbone.embed(makeTexts(6));
    const expected = expectedRows(makeTexts(6));
    expect(rows).toEqual([expected[0], expected[1], undefined, undefined, expected[4], expected[5]]);
    expect(failure?.code).toBe("backend_rejected");
  });
});
