/** JSON that is small to send and large to hold is refused before it is parsed, wherever JSON is read. */
import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { type ApiResponse, call, tenantWithTickets } from "./api.ts";
import { expectError } from "./assertions.ts";

let key: string;
let hookPath: string;
beforeAll(async () => {
  ({ key } = await tenantWithTickets());
  const hook = { name: "open", action: "learn", dataset: "tickets", fields: { text: "/text", label: "/label" } };
  const created = await call("POST", "/v1/inbound_hooks", key, { ...hook, verify: { scheme: "none" } });
  hookPath = new URL(created.json.url).pathname;
});

const json = { "content-type": "application/json" };
const { json_depth: depth, json_nodes: nodes, json_elements: elements } = limits;
const nested = (levels: number) => "[".repeat(levels) + "]".repeat(levels);
const many = (count: number, element: string) => `[${Array(count).fill(element).join(",")}]`;

/** A value, its limit and its figure. */
const tooLarge: readonly [string, string, number, number][] = [
  ["nested", nested(2_000_000), depth, 2_000_000],
  ["of many empty arrays", many(3, many(nodes / 2, "[]")), nodes, 3 * (nodes / 2) + 4],
  ["of many empty objects", many(3, many(nodes / 2, "{}")), nodes, 3 * (nodes / 2) + 4],
  ["of many fields", many(nodes, '{"a":0}'), nodes, 2 * nodes + 1],
  ["a long array", many(elements + 1, "0"), elements, elements + 1],
];

function expectTooLarge(answer: ApiResponse, limit: number, actual: number): void {
  expectError(answer, 400, "invalid_json");
  expect(answer.json.error.details).toEqual({ limit, actual });
  expect(answer.json.error.message).toContain(String(limit));
}

describe.each(tooLarge)("JSON %s", (_what, value, limit, actual) => {
  test.each(["/v1/heads", "/v1/heads/none/predict", "/v1/embeddings", "/v1/datasets", "/v1/fine_tuning/jobs"])(
    "is refused by %s",
    async (path) => {
      expectTooLarge(await call("POST", path, key, value, json), limit, actual);
    },
  );

  test("is refused beside the examples of a JSON import", async () => {
    const body = `{"examples":[],"more":${value}}`;
    const more = { [depth]: 1, [nodes]: 4 }[limit] ?? 0;
    expectTooLarge(await call("POST", "/v1/datasets/tickets/examples", key, body, json), limit, actual + more);
  });
});

test("a message to a hook is bounded alike", async () => {
  expectTooLarge(await call("POST", hookPath, undefined, nested(10_000), json), depth, 10_000);
  const text = JSON.stringify({ text: "a refund please", label: "billing", other: Array(50_000).fill([]) });
  expect((await call("POST", hookPath, undefined, text, json)).status).toBe(200);
});

test("a line of an import, or of a file, is bounded alike, and the others are kept", async () => {
  const lines = [`{"text":"one more refund","label":"billing"}`, nested(500_000), many(200_000, "[]"), ""].join("\n");
  const answer = await call("POST", "/v1/datasets/tickets/examples", key, lines, {
    "content-type": "application/x-ndjson",
  });
  expect(answer.json).toMatchObject({ added: 1, rejected: 2 });
  expect(answer.json.errors).toMatchObject([
    { line: 2, code: "invalid_json", message: expect.stringContaining("500000") },
    { line: 3, code: "invalid_json", message: expect.stringContaining("200000") },
  ]);
});

test("the examples of a JSON import are bounded one by one: there may be as many as an import has rows", async () => {
  const path = "/v1/datasets/tickets/examples";
  const rows = many(150_000, "{}").replace("[", '[{"text":"the newest refund","label":"billing"},');
  const imported = await call("POST", path, key, `{"examples":${rows}}`, json);
  expect(imported.status, imported.text).toBe(200);
  expect(imported.json).toMatchObject({ added: 1, rejected: 150_000 });
  expect(imported.json.errors[0]).toMatchObject({ line: 2, code: "missing_parameter" });
  for (const [, value, limit] of tooLarge) {
    const body = `{"examples":[{"text":"kept","label":"billing"},{"embedding":${value}}]}`;
    const answer = await call("POST", path, key, body, json);
    expect(answer.status).toBe(200);
    expect(answer.json).toMatchObject({ rejected: 1, errors: [{ line: 2, code: "invalid_json" }] });
    expect(answer.json.errors[0].message).toContain(String(limit));
  }
  for (const body of [`{"examples":[],"more":${nested(100)}}`, `{"examples":[{"text":"kept"},{]}`])
    expectError(await call("POST", path, key, body, json), 400, "invalid_json");
});

test("what is allowed passes: the longest embeddings, as many as fit into a body", async () => {
  const embedding = Array(limits.embedding_dimensions).fill(0);
  const body = (count: number) => JSON.stringify({ input: Array(count).fill({ embedding }) });
  const answer = await call("POST", "/v1/heads/none/predict", key, body(2_000), json);
  expectError(answer, 404, "not_found");
  const wrong = { input: [{ embedding: [...embedding.slice(0, 3), "a"] }] };
  expectError(
    await call("POST", "/v1/heads/none/predict", key, wrong),
    400,
    "invalid_parameter",
    "input[0].embedding[3]",
  );
  const long = { input: [{ embedding: [...embedding, 0] }] };
  expectError(await call("POST", "/v1/heads/none/predict", key, long), 422, "limit_exceeded", "input[0].embedding");
});

test("a training on examples of more labels than a dataset may have is refused before it is prepared", async () => {
  const examples = Array.from({ length: 41 }, (_, i) => ({
    text: `text ${i}`,
    labels: Array.from({ length: 250 }, (_, j) => `label ${250 * i + j}`),
  }));
  const answer = await call("POST", "/v1/heads", key, { name: "wide", examples, method: "head" });
  expectError(answer, 422, "limit_exceeded", "examples");
  expect(answer.json.error.details).toEqual({ limit: limits.labels_per_dataset, actual: 10_250 });
});
