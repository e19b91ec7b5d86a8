import { createExecutionContext, SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import OpenAI from "openai";
import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { createApp } from "../../src/http/app.ts";
import { call, newTenant } from "./api.ts";
import { createKey, expectAuthorization, expectError, withoutRequestId } from "./assertions.ts";

let key: string;
const model = "text-static-1";

beforeAll(async () => {
  key = (await newTenant()).key;
});

const postEmbeddings = (body: object, token = key) => call("POST", "/v1/embeddings", token, { model, ...body });

describe("models", () => {
  test.each([
    [model, { kind: "static", dimensions: 256, license: "CC-BY-SA-4.0", parameters: 23_040_000 }],
    ["hash-text-1", { kind: "hash", dimensions: 384, license: "Apache-2.0", parameters: 0 }],
  ])("the list is OpenAI's, with what a head needs to know of %s beside it", async (id, expectedFields) => {
    const { status, json } = await call("GET", "/v1/models", key);
    expect(status).toBe(200);
    expect(json.object).toBe("list");
    const entry = json.data.find((item: { id: string }) => item.id === id);
    expect(entry).toEqual({
      id,
      object: "model",
      created: expect.any(Number),
      owned_by: "graft",
      graft: { ...expectedFields, modality: "text", revision: expect.any(String), bytes: expect.any(Number) },
    });
    expect((await call("GET", `/v1/models/${id}`, key)).json).toEqual(entry);
  });

  test("one that does not exist is not found, whoever asks", async () => {
    const answer = await call("GET", "/v1/models/none", key);
    expectError(answer, 404, "not_found", "id");
    const otherResponse = await call("GET", "/v1/models/none", (await newTenant()).key);
    expect(withoutRequestId(otherResponse)).toEqual(withoutRequestId(answer));
    for (const id of ["%00", "a%2Fb", "ft:none:x", "%F0%9F%98%80", "x".repeat(200)]) {
      expectError(await call("GET", `/v1/models/${id}`, key), 404, "not_found", "id");
    }
    expectError(await call("GET", `/v1/models/${"x".repeat(201)}`, key), 400, "invalid_parameter", "id");
  });

  test("any key may read them", async () => {
    for (const scope of ["predict", "train", "manage"]) {
      expect((await call("GET", "/v1/models", await createKey(key, scope))).status).toBe(200);
    }
    await expectAuthorization(key, null, "GET", "/v1/models");
    await expectAuthorization(key, null, "GET", `/v1/models/${model}`);
  });
});

describe("embeddings", () => {
  test("one text gives one embedding of the model's dimensions and of unit norm", async () => {
    const answer = await postEmbeddings({ input: "the parcel is late" });
    expect(answer.status).toBe(200);
    const { dimensions } = (await call("GET", `/v1/models/${model}`, key)).json.graft;
    const [{ embedding }] = answer.json.data;
    expect(answer.json).toEqual({
      object: "list",
      data: [{ object: "embedding", index: 0, embedding }],
      model,
      usage: { prompt_tokens: 4, total_tokens: 4 },
    });
    expect(embedding).toHaveLength(dimensions);
    expect(Math.hypot(...embedding)).toBeCloseTo(1, 5);
    expect(answer.headers.get("x-cache")).toBe("hit=0, miss=1");
  });

  test("as many out as in, in order, each as it is alone", async () => {
    const input = ["first", "second", "first", "\u0000", "half \ud800 a pair", "\u{1f600}", " padded "];
    const all = (await postEmbeddings({ input })).json.data;
    expect(all.map(({ index }: { index: number }) => index)).toEqual(input.map((_, i) => i));
    for (const [i, text] of input.entries()) {
      expect((await postEmbeddings({ input: text })).json.data[0].embedding).toEqual(all[i].embedding);
    }
  });

  test("base64 holds the same 32-bit floats", async () => {
    const floats = (await postEmbeddings({ input: "a text" })).json.data[0].embedding;
    const base64 = (await postEmbeddings({ input: "a text", encoding_format: "base64" })).json.data[0].embedding;
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    expect(Array.from(new Float32Array(bytes.buffer))).toEqual(floats);
  });

  test("fields that it does not know are ignored, as OpenAI's clients may send them", async () => {
    expect((await postEmbeddings({ input: "a", user: "u-1", future: { field: [] } })).status).toBe(200);
  });

  test.each<[string, object, number, string, string]>([
    ["no input", {}, 400, "missing_parameter", "input"],
    ["null", { input: null }, 400, "invalid_parameter", "input"],
    ["an empty list", { input: [] }, 400, "invalid_parameter", "input"],
    ["tokens", { input: [1, 2, 3] }, 400, "invalid_parameter", "input[0]"],
    ["lists of tokens", { input: [[1, 2], [3]] }, 400, "invalid_parameter", "input[0]"],
    ["too many texts", { input: Array(limits.inputs_per_request + 1).fill("a") }, 422, "limit_exceeded", "input"],
    ["an empty text", { input: "" }, 422, "input_empty", "input"],
    ["an empty text among others", { input: ["a", " \t"] }, 422, "input_empty", "input[1]"],
    ["a huge text", { input: ["a", "x".repeat(limits.text_characters + 1)] }, 422, "input_too_long", "input[1]"],
    ["an unknown model", { input: "a", model: "none" }, 404, "not_found", "model"],
    ["a number for a model", { input: "a", model: 7 }, 400, "invalid_parameter", "model"],
    ["other dimensions", { input: "a", dimensions: 3 }, 400, "invalid_parameter", "dimensions"],
    ["another format", { input: "a", encoding_format: "hex" }, 400, "invalid_parameter", "encoding_format"],
  ])("refuses %s", async (_what, body, status, code, param) => {
    expectError(await postEmbeddings(body), status, code as "invalid_parameter", param);
  });

  test("cuts what is too long where it is told to, and says which", async () => {
    const long = `${"word ".repeat(limits.text_characters / 5)}more`;
    const { data } = (await postEmbeddings({ input: ["short", long], truncate: true })).json;
    expect(data.map(({ truncated }: { truncated?: true }) => truncated)).toEqual([undefined, true]);
    const cut = long.slice(0, -" more".length);
    expect(data[1].embedding).toEqual((await postEmbeddings({ input: cut })).json.data[0].embedding);
  });

  test("takes as many texts as the limit says", async () => {
    const answer = await postEmbeddings({
      input: Array(limits.inputs_per_request).fill("a"),
      encoding_format: "base64",
    });
    expect(answer.json.data).toHaveLength(limits.inputs_per_request);
  });

  test("refuses more numbers than an answer holds, before it asks the backbone", async () => {
    const endpoint = { kind: "openai", base_url: "https://nowhere.test/v1", model: "m", dimensions: 1536 };
    const request = new Request("http://graft.test/v1/embeddings", {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: JSON.stringify({ model: "wide", input: Array(limits.inputs_per_request).fill("a") }),
    });
    const bindings = { ...env, BACKBONES: JSON.stringify([{ id: "wide", ...endpoint }]) };
    const response = await createApp().fetch(request, bindings, createExecutionContext());
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({
      error: {
        code: "limit_exceeded",
        param: "input",
        details: { limit: limits.embedding_numbers_per_request, actual: limits.inputs_per_request * 1536 },
      },
    });
  });

  test("needs a key with the scope predict", async () => {
    await expectAuthorization(key, "predict", "POST", "/v1/embeddings", { model, input: "a" });
  });
});

describe("OpenAI's own client", () => {
  const client = (apiKey: string) =>
    new OpenAI({
      apiKey,
      baseURL: "http://graft.test/v1",
      maxRetries: 0,
      fetch: (url, init) => SELF.fetch(url as string, init as RequestInit),
    });

  test("lists and retrieves models", async () => {
    const ids: string[] = [];
    for await (const { id } of client(key).models.list()) ids.push(id);
    expect(ids).toContain(model);
    expect((await client(key).models.retrieve(model)).object).toBe("model");
  });

  test("embeds, by either encoding", async () => {
    const input = ["one", "two"];
    const floats = await client(key).embeddings.create({ model, input, encoding_format: "float" });
    const base64 = await client(key).embeddings.create({ model, input, encoding_format: "base64" });
    // Without a format the client asks for base64 and decodes it.
    const decoded = await client(key).embeddings.create({ model, input });
    expect(floats.data[0]?.embedding.length).toBeGreaterThan(1);
    expect(base64.data[0]?.embedding).toBeTypeOf("string");
    expect(decoded.data.map(({ embedding }) => Array.from(embedding))).toEqual(
      floats.data.map(({ embedding }) => embedding),
    );
  });

  test("throws the errors that it has for them, with the request's id", async () => {
    const unauthorized = client(`${key}0`).models.list();
    await expect(unauthorized).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
    const missing = client(key).embeddings.create({ model: "none", input: "a" });
    await expect(missing).rejects.toMatchObject({
      status: 404,
      code: "not_found",
      param: "model",
      type: "not_found_error",
    });
    await expect(missing).rejects.toMatchObject({ requestID: expect.stringMatching(/^req_/) });
  });
});
