import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import { errorCodes } from "../../src/core/failure.ts";
import { limits } from "../../src/core/limits.ts";
import { createApp } from "../../src/http/app.ts";
import { withFigures } from "../../src/http/middleware/errors.ts";
import { getLedger } from "../../src/tenant/tenant.ts";
import { call, newTenant, tenantWithTickets } from "./api.ts";
import { createKey, expectError, withoutRequestId } from "./assertions.ts";
import { openApiDocument } from "./openapi.ts";

let key: string;
let names = 0;

beforeAll(async () => {
  key = (await tenantWithTickets()).key;
});

const newDataset = () => ({ name: `n${++names}`, task: "single_label", modality: "text" });

/** The answer of the same application with other bindings. */
async function withBindings(bindings: object, request: Request): Promise<Response> {
  const context = createExecutionContext();
  const response = await createApp().fetch(request, { ...env, ...bindings }, context);
  await waitOnExecutionContext(context);
  return response;
}

const requestWithToken = (path: string, token: string) =>
  new Request(`http://graft.test${path}`, { headers: { authorization: `Bearer ${token}` } });

describe("errors", () => {
  test.each([
    ["GET", "/"],
    ["GET", "/v1"],
    ["GET", "/v1/nothing"],
    ["POST", "/v1/nothing"],
    ["GET", "//v1/datasets"],
    ["GET", "/V1/DATASETS"],
    ["GET", "/v1/datasets//"],
    ["POST", "/v1/datasets/"],
    ["DELETE", "/v1/datasets/tickets/"],
    ["DELETE", "/v1/datasets/tickets/examples/"],
    ["PUT", "/v1/nothing"],
    ["GET", "/%00%ff/../../etc/passwd"],
    ["GET", `/v1/${"x".repeat(8000)}`],
  ])("%s %s is not found", async (method, path) => {
    const body = ["POST", "PUT", "PATCH"].includes(method) ? {} : undefined;
    expectError(await call(method, path, key, body), 404, "not_found");
  });

  test.each([
    ["PUT", "/v1/datasets", "GET, HEAD, POST"],
    ["PATCH", "/v1/datasets/tickets", "GET, HEAD, DELETE"],
    ["POST", "/v1/datasets/tickets", "GET, HEAD, DELETE"],
    ["DELETE", "/v1/datasets", "GET, HEAD, POST"],
    ["OPTIONS", "/v1/datasets", "GET, HEAD, POST"],
    ["PROPFIND", "/v1/datasets", "GET, HEAD, POST"],
    ["POST", "/health/ready", "GET, HEAD"],
    ["GET", "/v1/embeddings", "POST"],
    ["HEAD", "/v1/embeddings", "POST"],
    ["GET", "/v1/inbound/none", "POST"],
    ["POST", "/docs", "GET, HEAD"],
    ["POST", "/openapi.json", "GET, HEAD"],
  ])("%s %s is not allowed, but %s are", async (method, path, allow) => {
    const answer = await call(method, path, key, ["POST", "PUT", "PATCH"].includes(method) ? {} : undefined);
    expect([answer.status, answer.headers.get("allow")]).toEqual([405, allow]);
    if (method !== "HEAD") expectError(answer, 405, "method_not_allowed");
  });

  test("a slash at the end is no matter where a request only reads", async () => {
    for (const [method, path, status] of [
      ["GET", "/v1/datasets/", 200],
      ["GET", "/v1/datasets/tickets/?", 200],
      ["HEAD", "/v1/datasets/tickets/examples/?limit=1", 200],
      ["GET", "/health/live/", 200],
      ["GET", "/v1/datasets/none/", 404],
    ] as const)
      expect((await call(method, path, key)).status, path).toBe(status);
    expect((await call("GET", "/v1/datasets/tickets", key)).status).toBe(200);
  });

  test("tell official clients not to repeat what fails again, and lead to the error's page", async () => {
    await call("POST", "/v1/datasets", key, { name: "taken", task: "single_label", modality: "text" });
    for (const [method, path, status, code, param] of [
      ["POST", "/v1/datasets", 409, "already_exists", "name"],
      ["GET", "/v1/datasets/none", 404, "not_found", null],
      ["PUT", "/v1/datasets", 405, "method_not_allowed", null],
    ] as const) {
      const body = { name: "taken", task: "single_label", modality: "text" };
      const answer = await call(method, path, key, method === "GET" ? undefined : body);
      expectError(answer, status, code, param);
      expect(answer.headers.get("x-should-retry")).toBe("false");
      expect(answer.json.error.doc_url).toBe(`http://graft.test/docs/errors/${code}`);
    }
  });

  test("every path answers HEAD as it answers GET, without the body", async () => {
    for (const [path, status] of [
      ["/health/live", 200],
      ["/v1/datasets", 200],
      ["/v1/datasets/none", 404],
      ["/nothing", 404],
    ] as const) {
      const answer = await call("HEAD", path, key);
      expect(answer.status).toBe(status);
      expect(answer.text).toBe("");
    }
  });

  test("what goes wrong inside is a 500 that says nothing of it", async () => {
    const listDatasets = () => {
      throw new Error("secret of the inside");
    };
    // This isolate holds the key's lease, so only the route itself asks the ledger.
    await call("GET", "/v1/datasets", key);
    const brokenBindings = { TENANT: { idFromName: () => "id", get: () => ({ listDatasets }) } };
    const response = await withBindings(brokenBindings, requestWithToken("/v1/datasets", key));
    expect(response.status).toBe(500);
    const text = await response.text();
    expect(text).not.toContain("secret of the inside");
    const { error } = JSON.parse(text);
    expect(error).toMatchObject({ type: "server_error", code: "internal_error", param: null });
    expect(error.request_id).toBe(response.headers.get("x-request-id"));
    expect(response.headers.get("retry-after")).toBe("5");
  });

  test("each has an id of its own", async () => {
    const firstResponse = await call("GET", "/v1/nothing", key);
    const secondResponse = await call("GET", "/v1/nothing", key);
    expect(firstResponse.json.error.request_id).not.toBe(secondResponse.json.error.request_id);
    expect(withoutRequestId(firstResponse)).toEqual(withoutRequestId(secondResponse));
  });

  test("their codes are in the document, each once", async () => {
    const { json } = await call("GET", "/openapi.json");
    expect(json.components.schemas.Error.properties.error.properties.code.enum).toEqual([...errorCodes]);
    expect(new Set(errorCodes).size).toBe(errorCodes.length);
  });

  test.each<[string, unknown, string, string]>([
    [
      "/v1/heads",
      {
        name: "h",
        examples: [
          { text: "a", label: "x" },
          { text: "b", label: 7 },
        ],
      },
      "invalid_parameter",
      "examples[1].label",
    ],
    [
      "/v1/heads",
      { name: "h", examples: [{ text: "a", labels: ["x", 7] }] },
      "invalid_parameter",
      "examples[0].labels[1]",
    ],
    [
      "/v1/heads",
      { name: "h", examples: [{ text: "a", label: "x", size: 1 }] },
      "unknown_parameter",
      "examples[0].size",
    ],
    [
      "/v1/heads",
      { name: "h", dataset: "tickets", hyperparameters: { seed: 0.5 } },
      "invalid_parameter",
      "hyperparameters.seed",
    ],
    [
      "/v1/heads",
      { name: "h", dataset: "tickets", hyperparameters: { lr: 1 } },
      "unknown_parameter",
      "hyperparameters.lr",
    ],
    ["/v1/heads/h/predict", { input: ["a", { text: 7 }] }, "invalid_parameter", "input[1].text"],
    ["/v1/heads/h/predict", { input: { embedding: [1, "2"] } }, "invalid_parameter", "input.embedding[1]"],
    ["/v1/heads/h/predict", { input: [{ embedding: [1, "2"] }] }, "invalid_parameter", "input[0].embedding[1]"],
    ["/v1/heads/h/predict", { input: { text: "a", lang: "en" } }, "unknown_parameter", "input.lang"],
    ["/v1/heads/h/predict", {}, "missing_parameter", "input"],
    ["/v1/heads/h/promote", { version: "1" }, "invalid_parameter", "version"],
    ["/v1/api_keys", { name: "k", scopes: ["train", "root"] }, "invalid_parameter", "scopes[1]"],
  ])("of %s with %j name where", async (path, body, code, param) => {
    expectError(await call("POST", path, key, body), 400, code as "invalid_parameter", param);
  });

  test.each<[string, unknown, string]>([
    ["/v1/datasets", [], "The body is not valid: it is a list, and must be an object."],
    ["/v1/datasets", null, "The body is not valid: it is null, and must be an object."],
    ["/v1/api_keys", { name: 1, scopes: ["train"] }, "'name' is not valid: it is a number, and must be a string."],
    [
      "/v1/api_keys",
      { name: "", scopes: ["train"] },
      "'name' is not valid: it must have at least 1 characters, and has 0.",
    ],
    ["/v1/api_keys", { name: "k", scopes: [] }, "'scopes' is not valid: it must have at least 1 entries, and has 0."],
    [
      "/v1/api_keys",
      { name: "k".repeat(201), scopes: ["train"] },
      "'name' is not valid: it must have at most 200 characters, and has 201.",
    ],
    [
      "/v1/datasets",
      { name: "d", task: "ranking", modality: "text" },
      "'task' is not valid: it must be one of 'single_label', 'multi_label', 'regression'.",
    ],
    ["/v1/heads/h/predict", { input: "a", top_k: 0 }, "'top_k' is not valid: it must be at least 1, and is 0."],
    [
      "/v1/heads/h/predict",
      { input: "a", top_k: 1.5 },
      "'top_k' is not valid: it is a number, and must be a whole number.",
    ],
    [
      "/v1/heads/h/predict",
      { input: "a", coverage: 2 },
      "'coverage' is not valid: it must be at most 0.999, and is 2.",
    ],
    ["/v1/heads/h/promote", { version: -1 }, "'version' is not valid: it must be above 0, and is -1."],
    [
      "/v1/fine_tuning/jobs",
      { model: "m", training_file: "f", metadata: { ["k".repeat(65)]: "v" } },
      `'metadata.${"k".repeat(65)}' is not valid: one of its keys does not fit: it must have at most 64 characters, and has 65.`,
    ],
  ])("of %s with %j say in words what is wrong", async (path, body, message) => {
    const answer = await call("POST", path, key, JSON.stringify(body), { "content-type": "application/json" });
    expect(answer.json.error.message).toBe(message);
  });

  test.each([
    ["/v1/api_keys", "expires_at", { name: "k", scopes: ["train"] }],
    ["/v1/webhook_endpoints/none/redeliver", "since", {}],
  ])("of %s refuse milliseconds for '%s', and say so", async (path, param, body) => {
    const answer = await call("POST", path, key, { ...body, [param]: Date.now() + 60_000 });
    expectError(answer, 400, "invalid_parameter", param);
    expect(answer.json.error.message).toContain("give Unix seconds, not milliseconds");
    const seconds = await call("POST", path, key, {
      ...body,
      [param]: Math.floor(Date.now() / 1000) + 9 * 365 * 86_400,
    });
    expect(seconds.status).not.toBe(400);
  });

  test("of broken JSON name the line and the column", async () => {
    const json = { "content-type": "application/json" };
    const answer = await call("POST", "/v1/datasets", key, '{\n  "name": "a",\n  "task": x\n}', json);
    expectError(answer, 400, "invalid_json");
    expect(answer.json.error.message).toContain("line 3, column 11");
  });

  test("of a query say in words what is wrong", async () => {
    const answers = await Promise.all(
      ["0", "101", "x", "1.5"].map((limit) => call("GET", `/v1/datasets?limit=${limit}`, key)),
    );
    expect(answers.map(({ json }) => json.error.message)).toEqual([
      "'limit' is not valid: it must be at least 1, and is 0.",
      "'limit' is not valid: it must be at most 100, and is 101.",
      "'limit' is not valid: it must be a whole number, in digits alone.",
      "'limit' is not valid: it must be a whole number, in digits alone.",
    ]);
  });

  test("of what is beyond a limit give the limit and the figure", async () => {
    const manyStrings = (count: number) => Array(count).fill("a");
    const example = { text: "a", label: "x" };
    const { inputs_per_request, examples_per_training_request, embedding_dimensions, label_characters } = limits;
    const embeddings = { task: "regression", modality: "embedding" };
    const oversizedBodies: [string, object, string, number][] = [
      ["/v1/heads/h/predict", { input: manyStrings(inputs_per_request + 1) }, "input", inputs_per_request],
      ["/v1/embeddings", { model: "m", input: manyStrings(inputs_per_request + 1) }, "input", inputs_per_request],
      [
        "/v1/heads",
        { name: "h", examples: Array(examples_per_training_request + 1).fill(example) },
        "examples",
        examples_per_training_request,
      ],
      [
        "/v1/heads",
        { name: "h", examples: [example, { ...example, label: "x".repeat(label_characters + 1) }] },
        "examples[1].label",
        label_characters,
      ],
      [
        "/v1/datasets",
        { name: "d", ...embeddings, dimensions: embedding_dimensions + 1 },
        "dimensions",
        embedding_dimensions,
      ],
    ];
    for (const [path, body, param, limit] of oversizedBodies) {
      const answer = await call("POST", path, key, body);
      expectError(answer, 422, "limit_exceeded", param);
      expect(answer.json.error.details).toEqual({ limit, actual: limit + 1 });
      for (const figure of [limit, limit + 1]) expect(answer.json.error.message).toContain(String(figure));
    }
  });

  test("name the limit and the figure in whole, once", () => {
    const message = (text: string, limit: number, actual: number) =>
      withFigures({ code: "limit_exceeded", message: text, details: { limit, actual } });
    expect(message("A tenant has at most 64 heads.", 64, 6)).toBe(
      "A tenant has at most 64 heads. The limit is 64; this is 6.",
    );
    for (const text of ["At most 64; this has 65.", "65 of 64 are too many."]) expect(message(text, 64, 65)).toBe(text);
  });

  test("do not echo a huge unknown field", async () => {
    const answer = await call("POST", "/v1/datasets", key, { ...newDataset(), ["x".repeat(1_000_000)]: 1 });
    expect(answer.status).toBe(400);
    expect(answer.json.error.code).toBe("unknown_parameter");
    expect(answer.text.length).toBeLessThan(2_000);
  });
});

describe("bodies", () => {
  test.each([
    ["nothing", ""],
    ["an open brace", "{"],
    ["a trailing comma", '{"name":"a",}'],
    ["single quotes", "{'name':'a'}"],
    ["NaN", '{"dimensions":NaN}'],
    ["two documents", "{}{}"],
    ["bytes that are no text", "\u0000\u0001\ufffd"],
  ])("of %s are not JSON", async (_what, body) => {
    const json = { "content-type": "application/json" };
    for (const path of ["/v1/datasets", "/v1/heads", "/v1/heads/h/predict", "/v1/embeddings", "/v1/api_keys"]) {
      expectError(await call("POST", path, key, body, json), 400, "invalid_json");
    }
  });

  test.each(["null", "[]", "7", '"text"', "true", "[[[]]]"])("of %s are refused", async (body) => {
    const json = { "content-type": "application/json" };
    for (const path of ["/v1/datasets", "/v1/heads", "/v1/heads/h/predict", "/v1/embeddings", "/v1/api_keys"]) {
      const answer = await call("POST", path, key, body, json);
      expect(answer.status, answer.text).toBe(400);
      expect(answer.json.error.param).toBeNull();
    }
  });

  test("that are not UTF-8 are refused, and a byte order mark is not", async () => {
    const json = { "content-type": "application/json" };
    const latin1 = Uint8Array.from('{"name":"café"}', (character) => character.charCodeAt(0));
    for (const path of ["/v1/datasets", "/v1/heads", "/v1/heads/h/predict", "/v1/embeddings", "/v1/api_keys"])
      expectError(await call("POST", path, key, latin1, json), 400, "invalid_json");
    const withByteOrderMark = await call("POST", "/v1/datasets", key, `\ufeff${JSON.stringify(newDataset())}`, json);
    expect(withByteOrderMark.status, withByteOrderMark.text).toBe(201);
  });

  test("in another encoding than they must have are refused, on every route that takes one", async () => {
    const { paths } = await openApiDocument();
    const jsonRoutes = Object.entries(paths).flatMap(([path, item]) =>
      Object.entries(item).flatMap(([method, { requestBody }]) => (requestBody ? [[method.toUpperCase(), path]] : [])),
    );
    expect(jsonRoutes.length).toBeGreaterThan(8);
    const json = { "content-type": "application/json" };
    for (const [method = "", template = ""] of jsonRoutes) {
      // It verifies a body before it looks at that; test/worker/inbound-hooks.test.ts does the same to it.
      if (template === "/v1/inbound/{token}") continue;
      const path = template.replace("{version}", "1").replace(/\{\w+\}/g, "none");
      const token = path.startsWith("/v1/admin/") ? env.ADMIN_KEY : key;
      const gzip = await call(method, path, token, "{}", { ...json, "content-encoding": "gzip" });
      expectError(gzip, 415, "unsupported_media_type", "content-encoding");
      const latin1 = await call(method, path, token, "{}", { "content-type": "application/json; charset=latin1" });
      expectError(latin1, 415, "unsupported_media_type", "content-type");
      expect(latin1.json.error.message).toContain("latin1");
    }
  });

  test("nested 100,000 levels deep are refused", async () => {
    const json = { "content-type": "application/json" };
    for (const deep of [
      `${"[".repeat(100_000)}${"]".repeat(100_000)}`,
      `${'{"input":'.repeat(100_000)}1${"}".repeat(100_000)}`,
      `{"name":${"[".repeat(100_000)}${"]".repeat(100_000)}}`,
    ]) {
      for (const path of ["/v1/datasets", "/v1/heads", "/v1/heads/h/predict", "/v1/embeddings", "/v1/api_keys"]) {
        const answer = await call("POST", path, key, deep, json);
        expect(answer.status, answer.text).toBe(400);
      }
    }
  });

  test.each([
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
  ])("of the content type '%s' are refused", async (type) => {
    const body = new TextEncoder().encode(JSON.stringify(newDataset()));
    const answer = await call("POST", "/v1/datasets", key, body, { "content-type": type });
    expectError(answer, 415, "unsupported_media_type", "content-type");
  });

  test.each([
    "application/json; charset=utf-8",
    "Application/JSON",
    "application/json;charset=UTF-8",
    "application/vnd.acme+json",
  ])("of the content type '%s' are read", async (type) => {
    const answer = await call("POST", "/v1/datasets", key, JSON.stringify(newDataset()), { "content-type": type });
    expect(answer.status, answer.text).toBe(201);
  });

  test.each(["application/json;", "application/json; charset", "application/json ; x=y", "application/json;;;"])(
    "of the odd content type '%s' are read or refused",
    async (type) => {
      const answer = await call("POST", "/v1/datasets", key, JSON.stringify(newDataset()), { "content-type": type });
      expect([201, 415], answer.text).toContain(answer.status);
    },
  );

  test("over the limit are refused, declared or not", async () => {
    const spaces = new Uint8Array(limits.json_body_bytes + 1).fill(32);
    const headers = { "content-type": "application/json" };
    const withLength = { ...headers, "content-length": String(spaces.length) };
    const answer = await call("POST", "/v1/datasets", key, spaces, withLength);
    expectError(answer, 413, "body_too_large");
    expect(answer.json.error.details).toEqual({ limit: limits.json_body_bytes, actual: spaces.length });
    expect(answer.json.error.message).toContain(`this is ${spaces.length}.`);
    const stream = new Response(spaces).body as ReadableStream;
    expectError(await call("POST", "/v1/datasets", key, stream, headers), 413, "body_too_large");
  });

  test("of strangers are not read", async () => {
    const chunk = new Uint8Array(64 * 1024).fill(32);
    for (const path of ["/v1/datasets", "/v1/heads", "/v1/admin/tenants"]) {
      let sentBytes = 0;
      const body = new ReadableStream({
        pull(controller) {
          sentBytes += chunk.length;
          controller.enqueue(chunk);
        },
      });
      const headers = { "content-type": "application/json" };
      expectError(await call("POST", path, undefined, body, headers), 401, "invalid_api_key");
      expect(sentBytes).toBeLessThan(1024 * 1024);
    }
  });
});

describe("queries", () => {
  test.each([
    ["GET", "/v1/datasets?lmit=5", "lmit"],
    ["GET", "/v1/datasets/tickets?limit=5", "limit"],
    ["GET", "/v1/datasets/tickets/examples?labels=x&limit=5", "labels"],
    ["POST", "/v1/datasets/tickets/examples?onerror=abort", "onerror"],
    ["DELETE", "/v1/datasets/tickets?force=1", "force"],
    ["GET", "/v1/limits?__proto__=1", "__proto__"],
    ["POST", "/v1/api_keys?scopes=train", "scopes"],
  ])("of %s %s are refused for what is unknown in them", async (method, path, param) => {
    const body = method === "POST" ? { name: "k", scopes: ["train"] } : undefined;
    expectError(await call(method, path, key, body), 400, "unknown_parameter", param);
  });

  test("of OpenAI's routes and of health checks may hold more", async () => {
    for (const path of ["/v1/models?limit=5", "/v1/models/hash-text-1?x=1", "/health/live?t=1", "/health/ready?t=1"])
      expect((await call("GET", path, key)).status, path).toBe(200);
    const body = { model: "hash-text-1", input: "a" };
    expect((await call("POST", "/v1/embeddings?api-version=1", key, body)).status).toBe(200);
  });

  test("are in the document as they are taken", async () => {
    const { json } = await call("GET", "/openapi.json");
    const names = (path: string, method: string) =>
      (json.paths[path][method].parameters ?? []).map(({ name }: { name: string }) => name);
    expect(names("/v1/datasets/{name}/examples", "get").toSorted()).toEqual([
      "after",
      "contains",
      "label",
      "limit",
      "name",
    ]);
    expect(names("/v1/models", "get")).toEqual([]);
  });
});

describe("lists", () => {
  const lists = ["/v1/datasets", "/v1/datasets/tickets/examples", "/v1/heads", "/v1/api_keys", "/v1/inbound_hooks"];

  test.each(lists)("%s: limit is 1 to 100, and after names an object of the list", async (path) => {
    for (const limit of ["0", "101", "-1", "1.5", "many", "", "1e1", "0x10", " 5", "NaN"]) {
      expectError(await call("GET", `${path}?limit=${limit}`, key), 400, "invalid_parameter", "limit");
    }
    expect((await call("GET", `${path}?limit=100`, key)).status).toBe(200);
    for (const after of ["none", "%00", "'", "..", "\u{1f600}"]) {
      expectError(await call("GET", `${path}?after=${after}`, key), 400, "invalid_parameter", "after");
    }
  });

  test("an empty list has no ids", async () => {
    const { key: freshKey } = await newTenant();
    for (const path of ["/v1/datasets", "/v1/heads"]) {
      expect((await call("GET", path, freshKey)).json).toEqual({
        object: "list",
        data: [],
        first_id: null,
        last_id: null,
        has_more: false,
      });
    }
  });

  test("a page has 20 objects where no limit is given", async () => {
    const { key: freshKey } = await newTenant();
    for (let i = 0; i < 21; i++) {
      await call("POST", "/v1/datasets", freshKey, { ...newDataset(), name: `d${i}` });
    }
    const { json } = await call("GET", "/v1/datasets", freshKey);
    expect(json).toMatchObject({ first_id: "d20", last_id: "d1", has_more: true });
    expect(json.data).toHaveLength(20);
  });
});

describe("Idempotency-Key", () => {
  const post = (path: string, body: unknown, idempotencyKey: string, token = key) =>
    call("POST", path, token, body, { "idempotency-key": idempotencyKey });

  test("gives the first answer again, also after what it made has changed", async () => {
    const body = newDataset();
    const first = await post("/v1/datasets", body, "again");
    expect(first.status).toBe(201);
    expect(first.headers.has("idempotent-replayed")).toBe(false);
    await call("DELETE", `/v1/datasets/${body.name}`, key);
    const retryResponse = await post("/v1/datasets", body, "again");
    expect(retryResponse.status).toBe(201);
    expect(retryResponse.headers.get("idempotent-replayed")).toBe("true");
    expect(retryResponse.headers.get("content-type")).toContain("application/json");
    expect(retryResponse.json).toEqual(first.json);
    expect((await call("GET", `/v1/datasets/${body.name}`, key)).status).toBe(404);
  });

  test("leaves the secret out of the second answer, and makes no second key", async () => {
    const body = { name: "k", scopes: ["train"] };
    const { key: freshKey } = await newTenant();
    const first = await post("/v1/api_keys", body, "key", freshKey);
    const retryResponse = await post("/v1/api_keys", body, "key", freshKey);
    const { secret, ...otherFields } = first.json;
    expect(secret).toMatch(/^gk_/);
    expect(retryResponse.json).toEqual(otherFields);
    expect((await call("GET", "/v1/api_keys", freshKey)).json.data).toHaveLength(2);
  });

  test("trains once, and promotes once", async () => {
    const body = { name: "once", dataset: "tickets", evaluation: { method: "none" } };
    const first = await post("/v1/heads", body, "train");
    expect(first.status, first.text).toBe(201);
    const retryResponse = await post("/v1/heads", body, "train");
    expect(retryResponse.json).toEqual(first.json);
    expect((await call("GET", "/v1/heads/once/versions", key)).json.data).toHaveLength(1);
    await call("POST", "/v1/heads", key, body);
    expect((await post("/v1/heads/once/promote", { version: 1 }, "promote")).json.active_version).toBe(1);
    await call("POST", "/v1/heads/once/promote", key, { version: 2 });
    const replayed = await post("/v1/heads/once/promote", { version: 1 }, "promote");
    expect(replayed.headers.get("idempotent-replayed")).toBe("true");
    expect((await call("GET", "/v1/heads/once", key)).json.active_version).toBe(2);
  });

  test("is refused for another body or another route", async () => {
    const body = newDataset();
    await post("/v1/datasets", body, "reused");
    const another = newDataset();
    expectError(await post("/v1/datasets", another, "reused"), 422, "idempotency_key_reused", "Idempotency-Key");
    expectError(await post("/v1/api_keys", body, "reused"), 422, "idempotency_key_reused", "Idempotency-Key");
    expect((await call("GET", `/v1/datasets/${another.name}`, key)).status).toBe(404);
  });

  test("is a tenant's own", async () => {
    const { key: otherKey } = await newTenant();
    const body = newDataset();
    expect((await post("/v1/datasets", body, "shared")).status).toBe(201);
    const otherResponse = await post("/v1/datasets", body, "shared", otherKey);
    expect(otherResponse.status).toBe(201);
    expect(otherResponse.headers.has("idempotent-replayed")).toBe(false);
  });

  test("is free again after a request that failed", async () => {
    const { key: freshKey } = await newTenant();
    const body = newDataset();
    expectError(
      await post("/v1/datasets", { ...body, task: "x" }, "failed", freshKey),
      400,
      "invalid_parameter",
      "task",
    );
    expect((await post("/v1/datasets", body, "failed", freshKey)).status).toBe(201);
    expectError(await post("/v1/datasets", body, "conflict", freshKey), 409, "already_exists", "name");
    expect((await post("/v1/datasets", { ...body, name: "another" }, "conflict", freshKey)).status).toBe(201);
    expectError(await post("/v1/heads", { name: "h", dataset: "none" }, "head", freshKey), 404, "not_found", "dataset");
    await call("DELETE", "/v1/datasets/another", freshKey);
    expect((await post("/v1/datasets", { ...body, name: "another" }, "head", freshKey)).status).toBe(201);
  });

  test("of a request that still runs is refused", async () => {
    const { id, key: freshKey } = await newTenant();
    const body = newDataset();
    const hash = async () => {
      const text = `POST /v1/datasets\n${JSON.stringify(body)}`;
      const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
      return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
    };
    const ledger = getLedger(env.TENANT, id);
    await ledger.claimIdempotencyKey({ key: "running", requestHash: await hash(), claim: "another request" });
    const answer = await post("/v1/datasets", body, "running", freshKey);
    expectError(answer, 409, "request_in_progress");
    expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    await ledger.releaseIdempotencyKey("another request");
    expect((await post("/v1/datasets", body, "running", freshKey)).status).toBe(201);
  });

  test("of two requests at once lets one run", async () => {
    const { key: freshKey } = await newTenant();
    const body = newDataset();
    const answers = await Promise.all(Array.from({ length: 5 }, () => post("/v1/datasets", body, "race", freshKey)));
    const ran = answers.filter(({ status, headers }) => status === 201 && !headers.has("idempotent-replayed"));
    expect(ran).toHaveLength(1);
    for (const answer of answers) {
      if (answer.status === 201) expect(answer.json).toEqual(ran[0]?.json);
      else expectError(answer, 409, "request_in_progress");
    }
  });

  test("has 1 to 255 characters", async () => {
    expectError(await post("/v1/datasets", newDataset(), "x".repeat(256)), 400, "invalid_parameter", "Idempotency-Key");
    expectError(await post("/v1/datasets", newDataset(), ""), 400, "invalid_parameter", "Idempotency-Key");
    expect((await post("/v1/datasets", newDataset(), "x".repeat(255))).status).toBe(201);
  });

  test("does not replay to a key without the scope", async () => {
    const body = newDataset();
    await post("/v1/datasets", body, "scoped");
    const reader = await createKey(key, "predict");
    expectError(await post("/v1/datasets", body, "scoped", reader), 403, "missing_scope");
  });
});

describe("rate limits", () => {
  test("a key over its limit is refused until the window has passed, and others are not", async () => {
    const firstKey = await createKey(key, "train");
    const secondKey = await createKey(key, "train");
    const keyIds: string[] = [];
    const denyingLimiter = { limit: async ({ key: id }: { key: string }) => ({ success: keyIds.push(id) > 1 }) };
    const first = await withBindings({ RATE_LIMIT: denyingLimiter }, requestWithToken("/v1/datasets", firstKey));
    expect(first.status).toBe(429);
    expect(await first.json()).toMatchObject({ error: { type: "rate_limit_error", code: "rate_limited" } });
    const wait = Number(first.headers.get("retry-after"));
    expect(wait).toBeGreaterThanOrEqual(1);
    expect(first.headers.get("ratelimit-policy")).toContain(`;w=${wait}`);
    const again = await call("GET", "/v1/datasets", firstKey);
    expectError(again, 429, "rate_limited");
    expect((await call("GET", "/v1/datasets", secondKey)).status).toBe(200);
    expect(keyIds).toHaveLength(1);
  });

  test("a limiter that does not answer turns nobody away", async () => {
    const trainKey = await createKey(key, "train");
    const failingLimiter = { limit: () => Promise.reject(new Error("the limiter is down")) };
    expect(
      (await withBindings({ RATE_LIMIT: failingLimiter }, requestWithToken("/v1/datasets", trainKey))).status,
    ).toBe(200);
  });

  test("the limiter is asked once for ten requests of a key", async () => {
    const trainKey = await createKey(key, "train");
    let limiterCalls = 0;
    const countingLimiter = { limit: async () => ({ success: ++limiterCalls > 0 }) };
    for (let i = 0; i < 25; i++) {
      expect(
        (await withBindings({ RATE_LIMIT: countingLimiter }, requestWithToken("/v1/datasets", trainKey))).status,
      ).toBe(200);
    }
    expect(limiterCalls).toBe(3);
  });
});
