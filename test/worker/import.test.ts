import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import { createApp } from "../../src/http/app.ts";
import { type ApiResponse, call, newTenant } from "./api.ts";
import { expectError } from "./assertions.ts";

const NDJSON = { "content-type": "application/x-ndjson" };
const CSV = { "content-type": "text/csv" };
const JSON_TYPE = { "content-type": "application/json" };

let key: string;
let datasets = 0;

beforeAll(async () => {
  key = (await newTenant()).key;
});

async function newDataset(task = "single_label", options: object = { modality: "text" }): Promise<string> {
  const name = `d${++datasets}`;
  const answer = await call("POST", "/v1/datasets", key, { name, task, ...options });
  expect(answer.status, answer.text).toBe(201);
  return `/v1/datasets/${name}`;
}

const importBody = (path: string, body: BodyInit, headers: Record<string, string>, query = "") =>
  call("POST", `${path}/examples${query}`, key, body, headers);
const sendJson = (path: string, ...examples: unknown[]) => call("POST", `${path}/examples`, key, { examples });

const latin1Bytes = (latin1: string) => Uint8Array.from(latin1, (character) => character.charCodeAt(0));

/** What is stored, oldest first, without the ids that were not sent. */
async function exportExamples(path: string): Promise<Record<string, unknown>[]> {
  const { text } = await call("GET", `${path}/export`, key);
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => {
    const { id, ...rest } = JSON.parse(line);
    return String(id).startsWith("ex_") ? rest : { id, ...rest };
  });
}

function importCounts(answer: ApiResponse): number[] {
  expect(answer.status, answer.text).toBe(200);
  const { added, updated, unchanged, rejected } = answer.json;
  return [added, updated, unchanged, rejected];
}

test.each([
  [0, ["beginImport", "mergeImport"]],
  [500, ["beginImport", "stageRows", "mergeImport"]],
  [501, ["beginImport", "stageRows", "stageRows", "mergeImport"]],
])("an import of %i rows asks the ledger for no more than it needs", async (rows, expected) => {
  const path = await newDataset();
  const calls: string[] = [];
  const get = (id: DurableObjectId) =>
    new Proxy(env.TENANT.get(id), {
      get: (stub, method) => {
        if (method !== "leaseApiKey") calls.push(String(method));
        return (...args: unknown[]) => Reflect.apply(Reflect.get(stub, method) as () => unknown, stub, args);
      },
    });
  const countingEnv = { ...env, TENANT: { idFromName: (name: string) => env.TENANT.idFromName(name), get } };
  const body = Array.from({ length: rows }, (_, i) => JSON.stringify({ text: `${i}`, label: "x" })).join("\n");
  const request = new Request(`http://graft.test${path}/examples`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, ...NDJSON },
    body,
  });
  const answer = await createApp().fetch(request, countingEnv as unknown as Cloudflare.Env, createExecutionContext());
  expect(await answer.json()).toMatchObject({ added: rows, rejected: 0 });
  expect(calls).toEqual(expected);
});

test.each([
  ["bad", "[]\n", NDJSON],
  ["empty", "\n", NDJSON],
  ["bad CSV", "text,label,more\n", CSV],
  ["empty CSV", "\n", CSV],
])("an import of more %s lines than the limit ends there", async (_what, line, type) => {
  const path = await newDataset();
  let sentLines = 0;
  const chunk = new TextEncoder().encode(line.repeat(10_000));
  const header = new TextEncoder().encode("text,label\n");
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => {
      if (type === CSV) controller.enqueue(header);
    },
    pull(controller) {
      sentLines += 10_000;
      if (sentLines > 10 * limits.import_rows) return controller.close();
      controller.enqueue(chunk);
    },
  });
  const answer = await importBody(path, body, type);
  expectError(answer, 422, "limit_exceeded");
  expect(answer.json.error.details).toEqual({ limit: limits.import_rows, actual: limits.import_rows + 1 });
  expect(sentLines).toBeLessThan(2 * limits.import_rows);
  expect((await call("GET", path, key)).json).toMatchObject({ examples: 0, revision: 0 });
});

test("an import answers what became of its rows, and the dataset as it is then", async () => {
  const path = await newDataset();
  const answer = await sendJson(path, { text: "a", label: "x" }, { text: "b", label: 7 });
  expect(answer.status).toBe(200);
  expect(answer.json).toEqual({
    object: "dataset.import",
    id: expect.stringMatching(/^import_[0-9a-f]{32}$/),
    added: 1,
    updated: 0,
    unchanged: 0,
    rejected: 1,
    errors: [{ line: 2, code: "invalid_parameter", message: expect.stringContaining("'label'") }],
    detected: { format: "json", system: null, encoding: "utf-8", delimiter: null, header: null, columns: {} },
    ignored_columns: [],
    skipped: 0,
    trimmed: 0,
    truncated: 0,
    warnings: [
      { code: "rare_label", message: "Labels with a single example: 1.", count: 1, examples: ["x"] },
      { code: "short_inputs", message: "Inputs that are nearly empty: 1.", count: 1, examples: ["a"] },
    ],
    dataset: (await call("GET", path, key)).json,
  });
});

describe("importing again", () => {
  test("the same id updates, or is unchanged where nothing differs", async () => {
    const path = await newDataset();
    const rows = [
      { id: "1", text: "a", label: "x" },
      { id: "2", text: "b", label: "y" },
    ];
    expect(importCounts(await sendJson(path, ...rows))).toEqual([2, 0, 0, 0]);
    expect(importCounts(await sendJson(path, ...rows))).toEqual([0, 0, 2, 0]);
    expect((await call("GET", path, key)).json.revision).toBe(1);
    expect(importCounts(await sendJson(path, { id: "1", text: "a", label: "y" }, rows[1]))).toEqual([0, 1, 1, 0]);
    expect((await call("GET", path, key)).json).toMatchObject({ revision: 2, examples: 2, labels: { y: 2 } });
  });

  test("without an id, the same input and label is stored once; another label is another example", async () => {
    const path = await newDataset();
    expect(importCounts(await sendJson(path, { text: "a", label: "x" }, { text: "a", label: "x" }))).toEqual([
      1, 0, 1, 0,
    ]);
    expect(importCounts(await sendJson(path, { text: "a", label: "x" }))).toEqual([0, 0, 1, 0]);
    expect((await call("GET", path, key)).json.revision).toBe(1);
    expect(importCounts(await sendJson(path, { text: "a", label: "y" }))).toEqual([1, 0, 0, 0]);
    expect((await call("GET", path, key)).json).toMatchObject({ revision: 2, labels: { x: 1, y: 1 } });
  });

  test("labels in another order are the same labels", async () => {
    const path = await newDataset("multi_label");
    expect(
      importCounts(await sendJson(path, { text: "a", labels: ["x", "y"] }, { text: "a", labels: ["y", "x", "y"] })),
    ).toEqual([1, 0, 1, 0]);
  });

  test("of one id twice in a body, the last counts", async () => {
    const path = await newDataset();
    const answer = await sendJson(
      path,
      { id: "1", text: "a", label: "x" },
      { id: "1", text: "b", label: "y" },
      { id: "1", text: "c", label: "z" },
    );
    const [added = 0, updated = 0, unchanged = 0, rejected = 0] = importCounts(answer);
    expect(added + updated + unchanged + rejected).toBe(3);
    expect(added).toBe(1);
    expect(await exportExamples(path)).toEqual([{ id: "1", text: "c", label: "z" }]);
  });

  test("an import of nothing but bad rows is refused, and one of none changes nothing", async () => {
    const path = await newDataset();
    const answer = await sendJson(path, { text: "", label: "x" });
    expectError(answer, 422, "import_rejected", "examples[0].text");
    expect(answer.json.error.details).toMatchObject({ added: 0, updated: 0, unchanged: 0, rejected: 1, line: 1 });
    expect(importCounts(await sendJson(path))).toEqual([0, 0, 0, 0]);
    expect((await call("GET", path, key)).json.revision).toBe(0);
  });

  test("becomes visible as a whole when its body has been read", async () => {
    const path = await newDataset();
    await sendJson(path, { id: "0", text: "before", label: "x" });
    const lines = Array.from(
      { length: 6000 },
      (_, i) => `${JSON.stringify({ id: `${i}`, text: `t${i}`, label: "y" })}\n`,
    );
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const answer = importBody(path, readable, NDJSON);
    const writer = writable.getWriter();
    await writer.write(new TextEncoder().encode(lines.slice(0, 5000).join("")));
    expect((await call("GET", path, key)).json).toMatchObject({ examples: 1, labels: { x: 1 }, revision: 1 });
    await writer.write(new TextEncoder().encode(lines.slice(5000).join("")));
    await writer.close();
    expect(importCounts(await answer)).toEqual([5999, 1, 0, 0]);
    expect((await call("GET", path, key)).json).toMatchObject({ examples: 6000, labels: { y: 6000 }, revision: 2 });
  });

  test("whose dataset is deleted meanwhile finds nothing and brings nothing back", async () => {
    const path = await newDataset();
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const answer = importBody(path, readable, NDJSON);
    const writer = writable.getWriter();
    await writer.write(new TextEncoder().encode('{"text":"a","label":"x"}\n'));
    expect((await call("DELETE", path, key)).status).toBe(200);
    await writer.close();
    expectError(await answer, 404, "not_found");
    expectError(await call("GET", path, key), 404, "not_found");
  });
});

describe("on_error=abort", () => {
  test("stores nothing where one row is bad, and says which", async () => {
    const path = await newDataset();
    const body = '{"text":"a","label":"x"}\n{"text":"b"}\n{"text":"c","label":"x"}\nnot json\n';
    const answer = await importBody(path, body, NDJSON, "?on_error=abort");
    expectError(answer, 422, "import_rejected", "label");
    expect(answer.json.error.message).toContain("Line 2");
    expect(answer.json.error.details).toMatchObject({ line: 2, code: "missing_parameter" });
    expect(answer.json.error.details.errors).toHaveLength(2);
    expect((await call("GET", path, key)).json).toMatchObject({ examples: 0, revision: 0 });
  });

  test("of JSON names the example's path", async () => {
    const path = await newDataset();
    const examples = [
      { text: "a", label: "x" },
      { text: "b", label: "x" },
      { text: "c", label: "" },
    ];
    const answer = await call("POST", `${path}/examples?on_error=abort`, key, { examples });
    expectError(answer, 422, "import_rejected", "examples[2].label");
  });

  test("stores all where all are good", async () => {
    const path = await newDataset();
    expect(importCounts(await importBody(path, "text,label\na,x\nb,y\n", CSV, "?on_error=abort"))).toEqual([
      2, 0, 0, 0,
    ]);
  });

  test("refuses other values", async () => {
    const answer = await importBody(await newDataset(), "text,label\n", CSV, "?on_error=ignore");
    expectError(answer, 400, "invalid_parameter", "on_error");
  });
});

test("shows the first 100 errors and counts them all", async () => {
  const path = await newDataset();
  const answer = await importBody(path, "[]\n".repeat(250), NDJSON);
  expectError(answer, 422, "import_rejected");
  expect(answer.json.error.details.rejected).toBe(250);
  expect(answer.json.error.details.errors.map(({ line }: { line: number }) => line)).toEqual(
    Array.from({ length: 100 }, (_, i) => i + 1),
  );
});

describe("one bad row", () => {
  const deep = `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`;
  const rows: [string, string, object, string][] = [
    ["not an object", "single_label", [] as object, "invalid_parameter"],
    ["null", "single_label", null as unknown as object, "invalid_parameter"],
    ["no input", "single_label", { label: "x" }, "missing_parameter"],
    ["no label", "single_label", { text: "a" }, "missing_parameter"],
    ["an empty text", "single_label", { text: "", label: "x" }, "input_empty"],
    ["a blank text", "single_label", { text: " \u00a0\n", label: "x" }, "input_empty"],
    ["a huge text", "single_label", { text: "x".repeat(40_000), label: "x" }, "input_too_long"],
    ["a number for a text", "single_label", { text: 1, label: "x" }, "invalid_parameter"],
    ["two inputs", "single_label", { text: "a", embedding: [1], label: "x" }, "invalid_parameter"],
    ["an image", "single_label", { image: "aGk=", label: "x" }, "modality_not_supported"],
    ["an embedding among texts", "single_label", { embedding: [1], label: "x" }, "modality_mismatch"],
    ["an empty label", "single_label", { text: "a", label: "" }, "invalid_parameter"],
    ["a long label", "single_label", { text: "a", label: "x".repeat(257) }, "limit_exceeded"],
    ["a null label", "single_label", { text: "a", label: null }, "invalid_parameter"],
    ["labels for a label", "single_label", { text: "a", labels: ["x"] }, "task_mismatch"],
    ["a label and labels", "single_label", { text: "a", label: "x", labels: ["x"] }, "task_mismatch"],
    ["an empty id", "single_label", { id: "", text: "a", label: "x" }, "invalid_parameter"],
    ["a long id", "single_label", { id: "x".repeat(257), text: "a", label: "x" }, "invalid_parameter"],
    ["an id that no URL can end in", "single_label", { id: ".", text: "a", label: "x" }, "invalid_parameter"],
    ["another such id", "single_label", { id: "..", text: "a", label: "x" }, "invalid_parameter"],
    ["a number for an id", "single_label", { id: 1, text: "a", label: "x" }, "invalid_parameter"],
    ["an unknown field", "single_label", { text: "a", label: "x", weight: 2 }, "unknown_parameter"],
    ["a label for labels", "multi_label", { text: "a", label: "x" }, "task_mismatch"],
    ["a text for labels", "multi_label", { text: "a", labels: "x" }, "invalid_parameter"],
    ["an empty label among labels", "multi_label", { text: "a", labels: ["x", ""] }, "invalid_parameter"],
    [
      "257 labels",
      "multi_label",
      { text: "a", labels: Array.from({ length: 257 }, (_, i) => `${i}`) },
      "limit_exceeded",
    ],
    ["a label of 257 characters", "multi_label", { text: "a", labels: ["x".repeat(257)] }, "limit_exceeded"],
    ["a text for a value", "regression", { text: "a", value: "1" }, "invalid_parameter"],
    ["no value", "regression", { text: "a" }, "missing_parameter"],
  ];
  test.each(rows)("%s is refused and the others are kept", async (_what, task, bad, code) => {
    const path = await newDataset(task);
    const target = { single_label: { label: "x" }, multi_label: { labels: ["x"] }, regression: { value: 1 } }[task];
    const answer = await sendJson(path, { text: "first", ...target }, bad, { text: "last", ...target });
    expect(importCounts(answer)).toEqual([2, 0, 0, 1]);
    expect(answer.json.errors).toMatchObject([{ line: 2, code }]);
    expect(await exportExamples(path)).toEqual([
      { text: "first", ...target },
      { text: "last", ...target },
    ]);
  });

  test("nested 100,000 levels deep is refused and the others are kept", async () => {
    const path = await newDataset();
    const body = `{"text":"a","label":"x"}\n{"text":"b","label":${deep}}\n${deep}\n{"text":"c","label":"x"}`;
    expect(importCounts(await importBody(path, body, NDJSON))).toEqual([2, 0, 0, 2]);
    const answer = await importBody(path, `{"examples":[{"text":"d","label":${deep}}]}`, JSON_TYPE);
    expectError(answer, 422, "import_rejected", "examples[0]");
  });

  test.each([
    ["[1,NaN]", "invalid_json"],
    ["[1,Infinity]", "invalid_json"],
    ["[1,1e999]", "invalid_parameter"],
    ["[1,-1e999]", "invalid_parameter"],
    ["[1,1e39]", "invalid_embedding"],
    ["[1,-1e38]", "invalid_embedding"],
    ["[1,1000001]", "invalid_embedding"],
    ["[1]", "invalid_embedding"],
    ["[1,2,3]", "invalid_embedding"],
    ["[]", "invalid_embedding"],
    ['[1,"2"]', "invalid_parameter"],
    ["[1,null]", "invalid_parameter"],
    ["[[1,2]]", "invalid_parameter"],
    ['"AAAA"', "invalid_parameter"],
    [`[${"1,".repeat(limits.embedding_dimensions)}1]`, "limit_exceeded"],
  ])("the embedding %.20s is refused and the others are kept", async (embedding, code) => {
    const path = await newDataset("single_label", { modality: "embedding", dimensions: 2 });
    const line = (values: string) => `{"embedding":${values},"label":"x"}\n`;
    const answer = await importBody(path, line("[1,2]") + line(embedding) + line("[3,4]"), NDJSON);
    expect(importCounts(answer)).toEqual([2, 0, 0, 1]);
    expect(answer.json.errors).toMatchObject([{ line: 2, code }]);
  });
});

test("a row that is no object is told of as an example, and has no param", async () => {
  const path = await newDataset();
  const answer = await importBody(path, "7\n", NDJSON, "?on_error=abort");
  expectError(answer, 422, "import_rejected");
  expect(answer.json.error.details.errors[0].message).toMatch(/^The example is not valid/);
  const json = await call("POST", `${path}/examples?on_error=abort`, key, { examples: [7] });
  expectError(json, 422, "import_rejected", "examples[0]");
});

test("a row beyond a limit says the limit and the figure", async () => {
  const answer = await sendJson(await newDataset(), { text: "a", label: "x".repeat(257) });
  expect(answer.json.error.message).toContain("at most 256 characters are allowed, and this has 257");
});

test("an id that only contains dots, or begins with one, is an id", async () => {
  const path = await newDataset();
  const ids = ["...", ".a", "a..", "a\n."];
  expect(importCounts(await sendJson(path, ...ids.map((id) => ({ id, text: id, label: "x" }))))).toEqual([4, 0, 0, 0]);
  for (const id of ids) {
    expect((await call("DELETE", `${path}/examples/${encodeURIComponent(id)}`, key)).status, id).toBe(200);
  }
});

test("0 and -0 in an embedding are the same number", async () => {
  const path = await newDataset("single_label", { modality: "embedding", dimensions: 2 });
  const line = (first: string) => `{"embedding":[${first},1],"label":"x"}\n`;
  const answer = await importBody(path, line("0") + line("-0.0") + line("-1e-60"), NDJSON);
  expect(importCounts(answer)).toEqual([1, 0, 2, 0]);
});

/** The bytes one by one, so that every boundary that there is comes to lie between two chunks. */
function byteStream(text: string): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const byte of new TextEncoder().encode(text)) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
}

describe("an encoding that is not UTF-8", () => {
  test("of some rows refuses those, by its bytes", async () => {
    const ndjson = await newDataset();
    const line = (text: string) => `{"text":"${text}","label":"x"}\n`;
    const answer = await importBody(ndjson, latin1Bytes(line("a") + line("caf\xe9") + line("caf\xc3\xa9")), NDJSON);
    expect(importCounts(answer)).toEqual([2, 0, 0, 1]);
    expect(answer.json.errors).toMatchObject([{ line: 2, code: "invalid_json" }]);
    expect((await exportExamples(ndjson)).map(({ text }) => text)).toEqual(["a", "café"]);

    const csv = await newDataset();
    const rows = await importBody(
      csv,
      latin1Bytes('text,label\na,x\n"caf\xe9\nnoir",x\ncaf\xc3\xa9,x\n\xc3\xa9,x\nb,\xff\n'),
      CSV,
    );
    expect(importCounts(rows)).toEqual([3, 0, 0, 2]);
    expect(rows.json.errors).toMatchObject([
      { line: 3, code: "invalid_csv", message: expect.stringContaining("lines 3 to 4 is not UTF-8") },
      { line: 7, code: "invalid_csv" },
    ]);
    expect((await exportExamples(csv)).map(({ text }) => text)).toEqual(["a", "café", "é"]);
  });

  test("leaves a U+FFFD that was sent as it is", async () => {
    const path = await newDataset();
    expect(importCounts(await importBody(path, "text,label\na \ufffd b,x\n", CSV))).toEqual([1, 0, 0, 0]);
    expect(importCounts(await importBody(path, '{"text":"a \ufffd b","label":"x"}', NDJSON))).toEqual([0, 0, 1, 0]);
    expect(await exportExamples(path)).toEqual([{ text: "a \ufffd b", label: "x" }]);
  });

  test("of a header or of a JSON body refuses the import", async () => {
    const path = await newDataset();
    expectError(await importBody(path, latin1Bytes("\xff\xfet\0e\0x\0t\0"), CSV), 422, "invalid_csv", "label");
    const json = latin1Bytes('{"examples":[{"text":"caf\xe9","label":"x"}]}');
    expectError(await importBody(path, json, JSON_TYPE), 400, "invalid_json");
  });

  test.each(["text/csv", "application/x-ndjson", "application/json"])("declared for %s is refused", async (type) => {
    const path = await newDataset();
    const latin1 = { "content-type": `${type}; charset=ISO-8859-1` };
    const answer = await importBody(path, "text,label\na,x\n", latin1);
    expectError(answer, 415, "unsupported_media_type", "content-type");
    expect(answer.json.error.message).toContain("ISO-8859-1");
    const gzip = await importBody(path, "text,label\na,x\n", { "content-type": type, "content-encoding": "gzip" });
    expectError(gzip, 415, "unsupported_media_type", "content-encoding");
    expect(gzip.json.error.message).toContain("gzip");
  });

  test.each(["utf-8", '"UTF-8"', "utf8"])("is not %s", async (charset) => {
    const headers = { "content-type": `text/csv; header=present; charset=${charset}`, "content-encoding": "identity" };
    expect(importCounts(await importBody(await newDataset(), "text,label\na,x\n", headers))).toEqual([1, 0, 0, 0]);
  });
});

test("huge field names are not quoted at length, however many there are", async () => {
  const path = await newDataset();
  const name = "y".repeat(100_000);
  const answer = await importBody(path, `{"text":"a","label":"x","${name}":1}\n`.repeat(100), NDJSON);
  expect(importCounts(answer)).toEqual([1, 0, 99, 0]);
  expect(answer.json.ignored_columns).toEqual([`${"y".repeat(200)}…`]);
  const unknown = await importBody(path, `{"${name}":1}\n`.repeat(100), NDJSON);
  expectError(unknown, 422, "import_rejected", "text");
  expect(unknown.text.length).toBeLessThan(50_000);
  const table = await importBody(path, `text,label,${name}\na,x,b\n`, CSV);
  expect(table.json.ignored_columns).toEqual([`${"y".repeat(200)}…`]);
  const header = await importBody(path, `${name},label\n`, CSV);
  expectError(header, 422, "invalid_csv", "text");
  expect(header.text.length).toBeLessThan(2_000);
  const json = await importBody(path, `{"${"y".repeat(100_000)}":1}`, JSON_TYPE);
  expectError(json, 400, "unknown_parameter", `${"y".repeat(200)}…`);
});

describe("a JSON body", () => {
  test.each<[string, string, string | null]>([
    ['{"examples":[', "invalid_json", null],
    ["", "invalid_json", null],
    ["nonsense", "invalid_json", null],
    ['{"examples":[{"text":"a","label":"x"}]} trailing', "invalid_json", null],
    ["null", "missing_parameter", "examples"],
    ['[{"text":"a","label":"x"}', "invalid_json", null],
    ['[{"text":"a","label":"x"}] trailing', "invalid_json", null],
    ["{}", "missing_parameter", "examples"],
    ['{"examples":{}}', "invalid_parameter", "examples"],
    ['{"examples":"a"}', "invalid_parameter", "examples"],
    ['{"examples":null}', "invalid_parameter", "examples"],
    ['{"examples":[],"mode":"fast"}', "unknown_parameter", "mode"],
    ['{"__proto__":{},"examples":[]}', "unknown_parameter", "__proto__"],
  ])("such as %s is refused", async (body, code, param) => {
    expectError(await importBody(await newDataset(), body, JSON_TYPE), 400, code as "invalid_json", param);
  });

  test("may begin with a byte order mark and name its charset", async () => {
    const path = await newDataset();
    const body = '\ufeff{"examples":[{"text":"a","label":"x"}]}';
    expect(importCounts(await importBody(path, body, { "content-type": "application/json; charset=utf-8" }))).toEqual([
      1, 0, 0, 0,
    ]);
  });
});

describe("NDJSON", () => {
  test("may have blank lines, CRLF, a byte order mark and no line break at its end", async () => {
    const path = await newDataset();
    const body = '\ufeff{"text":"a","label":"x"}\r\n\r\n\n   \n{"text":"b","label":"x"}\r\n\n{"text":"c","label":"x"}';
    expect(importCounts(await importBody(path, body, NDJSON))).toEqual([3, 0, 0, 0]);
    expect((await exportExamples(path)).map(({ text }) => text)).toEqual(["a", "b", "c"]);
  });

  test("with broken lines keeps the others and counts lines as an editor does", async () => {
    const path = await newDataset();
    const body = '\n{"text":"a","label":"x"}\n{"text":"b"\n\n{"text":"c","label":"x"}\n}';
    const answer = await importBody(path, body, NDJSON);
    expect(importCounts(answer)).toEqual([2, 0, 0, 2]);
    expect(answer.json.errors).toMatchObject([
      { line: 3, code: "invalid_json" },
      { line: 6, code: "invalid_json" },
    ]);
  });

  test("with a line of 2 MB keeps the others", async () => {
    const path = await newDataset();
    const line = (text: string) => `${JSON.stringify({ text, label: "x" })}\n`;
    const answer = await importBody(path, line("a") + line("x".repeat(2_000_000)) + line("b"), NDJSON);
    expect(importCounts(answer)).toEqual([2, 0, 0, 1]);
    expect(answer.json.errors).toMatchObject([{ line: 2, code: "input_too_long" }]);
  });

  test("split anywhere, also inside a character, reads the same", async () => {
    const path = await newDataset();
    const body = byteStream('{"text":"größer \u{1f600}","label":"ü"}\n'.repeat(3));
    expect(importCounts(await importBody(path, body, NDJSON))).toEqual([1, 0, 2, 0]);
    expect(await exportExamples(path)).toEqual([{ text: "größer \u{1f600}", label: "ü" }]);
  });

  test("that is empty imports nothing", async () => {
    expect(importCounts(await importBody(await newDataset(), "", NDJSON))).toEqual([0, 0, 0, 0]);
  });
});

describe("CSV", () => {
  const rows: [string, string, Record<string, unknown>[]][] = [
    [
      "plain",
      "text,label\na,x\nb,y\n",
      [
        { text: "a", label: "x" },
        { text: "b", label: "y" },
      ],
    ],
    [
      "no line break at its end",
      "text,label\na,x\nb,y",
      [
        { text: "a", label: "x" },
        { text: "b", label: "y" },
      ],
    ],
    [
      "CRLF",
      "text,label\r\na,x\r\nb,y\r\n",
      [
        { text: "a", label: "x" },
        { text: "b", label: "y" },
      ],
    ],
    ["a byte order mark", "\ufefftext,label\na,x\n", [{ text: "a", label: "x" }]],
    [
      "blank lines",
      "\n\ntext,label\n\na,x\n\n\nb,y\n\n",
      [
        { text: "a", label: "x" },
        { text: "b", label: "y" },
      ],
    ],
    [
      "quotes",
      'text,label\n"a, ""b""\r\nc",x\nd,"y\nz"\n',
      [
        { text: 'a, "b"\r\nc', label: "x" },
        { text: "d", label: "y\nz" },
      ],
    ],
    [
      "ids",
      "id,text,label\n1,a,x\n,b,y\n",
      [
        { id: "1", text: "a", label: "x" },
        { text: "b", label: "y" },
      ],
    ],
    ["columns in another order and case", " Label ,ID,TEXT\nx,1,a\n", [{ id: "1", text: "a", label: "x" }]],
    ["padded fields", "text,label\n a , x \n", [{ text: "a", label: "x" }]],
    ["further columns", "text,label,weight,,text_2\na,x,1,,b\n", [{ text: "a", label: "x" }]],
    ["a column named like a part of JavaScript", "text,label,__proto__\na,x,1\n", [{ text: "a", label: "x" }]],
    ["semicolons", "text;label\na, b;x\n", [{ text: "a, b", label: "x" }]],
    ["a header only", "text,label\n", []],
    ["a line break in a byte order mark's line", "\ufeff\ntext,label\na,x\n", [{ text: "a", label: "x" }]],
    [
      "line breaks of every kind",
      'text,label\r\na,x\nb,y\r\r\n"c\rd",z\n\re,x\r"f",y\r\n"g\r\nh",z',
      [
        { text: "a", label: "x" },
        { text: "b", label: "y" },
        { text: "c\rd", label: "z" },
        { text: "e", label: "x" },
        { text: "f", label: "y" },
        { text: "g\r\nh", label: "z" },
      ],
    ],
  ];
  test.each(rows)("with %s", async (_what, body, expected) => {
    const path = await newDataset();
    expect(importCounts(await importBody(path, body, CSV))).toEqual([expected.length, 0, 0, 0]);
    expect(importCounts(await importBody(path, byteStream(body), CSV))).toEqual([0, 0, expected.length, 0]);
    expect(await exportExamples(path)).toEqual(expected);
  });

  test("of labels and of values", async () => {
    const multi = await newDataset("multi_label");
    expect(importCounts(await importBody(multi, "text,labels\na,x|y\nb,\nc,|z|\n", CSV))).toEqual([3, 0, 0, 0]);
    expect((await exportExamples(multi)).map(({ labels }) => labels)).toEqual([["x", "y"], [], ["z"]]);
    const values = await newDataset("regression");
    const answer = await importBody(values, "text,value\na,1.5\nb, -2e3 \nc,\nd,much\ne,1e999\nf,NaN\n", CSV);
    expect(importCounts(answer)).toEqual([2, 0, 0, 4]);
    expect((await exportExamples(values)).map(({ value }) => value)).toEqual([1.5, -2000]);
    const numbers = ["+5", ".5", "5.", "1E3", "-0", "0x10", "0b11", "0o7", "1_000", "Infinity", "", "1,5"];
    const rows = numbers.map((number, i) => `n${i},"${number}"\n`);
    expect(importCounts(await importBody(values, `text,value\n${rows.join("")}`, CSV))).toEqual([5, 0, 0, 7]);
    expect((await exportExamples(values)).slice(2).map(({ value }) => value)).toEqual([5, 0.5, 5, 1000, 0]);
  });

  test.each<[string, string, string]>([
    ["no text column", "label\nx\n", "text"],
    ["no label column", "text\na\n", "label"],
    ["no header at all", "a,x\nb,y\n", "text"],
    ["the column of another task", "text,labels\na,x\n", "label"],
    ["a column twice", "text,label,text\na,x,b\n", "text"],
    ["two columns that may be the text", "message,body,label\na,b,x\n", "text"],
    ["nothing", "", "text"],
    ["a byte order mark alone", "\ufeff", "text"],
    ["line breaks alone", "\n\r\n\r", "text"],
  ])("with %s is refused", async (_what, body, param) => {
    const path = await newDataset();
    expectError(await importBody(path, body, CSV), 422, "invalid_csv", param);
    expect((await call("GET", path, key)).json.revision).toBe(0);
  });

  test("with short and long rows keeps the others, and says on which lines", async () => {
    const path = await newDataset();
    const answer = await importBody(path, 'text,label\na,x\nshort\n"b\nb",y\nlong,x,more\n,x\nc,z\n', CSV);
    expect(answer.json.errors).toMatchObject([
      { line: 3, code: "missing_parameter" },
      { line: 6, code: "invalid_csv" },
      { line: 7, code: "input_empty" },
    ]);
    expect(importCounts(answer)).toEqual([3, 0, 0, 3]);
  });

  test("with long rows by the hundred counts them all, and shows the first hundred", async () => {
    const path = await newDataset();
    const bad = "long,x,more\n".repeat(250);
    const answer = await importBody(path, `text,label\na,x\n${bad}b,y\n${bad}`, CSV);
    expect(importCounts(answer)).toEqual([2, 0, 0, 500]);
    expect(answer.json.errors.map(({ line }: { line: number }) => line)).toEqual(
      Array.from({ length: 100 }, (_, i) => i + 3),
    );
  });

  test("with a stray quote inside a field or after one keeps that row and the others", async () => {
    const path = await newDataset();
    const answer = await importBody(path, 'text,label\na,x\nb"c,x\n"d"e,x\n5" and 6",x\nf,x\n', CSV);
    expect(importCounts(answer)).toEqual([5, 0, 0, 0]);
    expect((await exportExamples(path)).map(({ text }) => text)).toEqual(["a", 'b"c', '"d"e', '5" and 6"', "f"]);
  });

  test("with a stray quote that opens a field never fuses rows, and goes on at the next line", async () => {
    const path = await newDataset();
    const body = 'text,label\n"oops,x\n"good 0","x"\n"good 1","x"\ngood 2,"x\ngood 3,"x"\ngood 4,x\n';
    const answer = await importBody(path, body, CSV);
    expect(importCounts(answer)).toEqual([2, 0, 0, 2]);
    expect(answer.json.errors).toMatchObject([
      { line: 2, code: "invalid_csv", message: expect.stringContaining("lines 2 to 3 has quotes that do not fit") },
      { line: 5, code: "invalid_csv", message: expect.stringContaining("lines 5 to 6") },
    ]);
    expect((await exportExamples(path)).map(({ text }) => text)).toEqual(["good 1", "good 4"]);
  });

  test("with a quote that is never closed loses no more than a row's size, as one row", async () => {
    const path = await newDataset();
    const rest = Array.from({ length: 100 }, (_, i) => `${i},${"x".repeat(20_000)}\n`).join("");
    const answer = await importBody(path, `text,label\na,x\n"b,x\n${rest}c,y\n`, CSV);
    const skipped = Math.ceil((limits.import_line_bytes - 3) / 20_002);
    expect(answer.json.errors[0]).toMatchObject({
      line: 3,
      code: "invalid_csv",
      message: expect.stringContaining(`lines 3 to ${3 + skipped} has more than ${limits.import_line_bytes} bytes`),
    });
    // The others after it are refused for their labels' length.
    expect(importCounts(answer)).toEqual([2, 0, 0, 1 + 100 - skipped]);
    expect((await exportExamples(path)).map(({ text }) => text)).toEqual(["a", "c"]);
  });

  test("with a quote that is not closed by the end keeps what came before it", async () => {
    const path = await newDataset();
    const answer = await importBody(path, 'text,label\na,x\n"b,x\nc,x\n', CSV);
    expect(importCounts(answer)).toEqual([1, 0, 0, 1]);
    expect(answer.json.errors).toMatchObject([
      {
        line: 3,
        code: "invalid_csv",
        message: expect.stringContaining("lines 3 to 4 has a quote that is never closed"),
      },
    ]);
    expect(await exportExamples(path)).toEqual([{ text: "a", label: "x" }]);
  });

  test("with rows beyond the limit of a row counts each once and keeps the others", async () => {
    const path = await newDataset();
    const long = "y".repeat(limits.import_line_bytes);
    const breaks = "\n".repeat(limits.import_line_bytes + 1);
    const lines = `${"z\n".repeat(1_000)}${long}`;
    const body = `text,label\na,x\n${long},x\nb,x\n"${long}",x\nc,x\n${"a,".repeat(600_000)}\nd,x\n"${long}\n`;
    const answer = await importBody(path, `${body}e,x\n"${breaks}f,x\ng,"${lines}`, CSV);
    expect(importCounts(answer)).toEqual([6, 0, 0, 6]);
    expect(answer.json.errors.slice(0, 5).map(({ line }: { line: number }) => line)).toEqual([3, 5, 7, 9, 11]);
    expect((await exportExamples(path)).map(({ text }) => text)).toEqual(["a", "b", "c", "d", "e", "f"]);
  });

  test("with a header beyond that limit is refused", async () => {
    const path = await newDataset();
    const answer = await importBody(path, `${"x".repeat(2 * limits.import_line_bytes)},label\na,b\n`, CSV);
    expectError(answer, 422, "invalid_csv");
    expect(answer.json.error.message).toContain("The row on line 1 has more than");
  });

  test("of embeddings is refused", async () => {
    const path = await newDataset("single_label", { modality: "embedding", dimensions: 2 });
    expectError(await importBody(path, "embedding,label\n1,x\n", CSV), 422, "modality_mismatch", "content-type");
  });
});

describe("limits", () => {
  test("too many labels are refused as they come, and the dataset stays as it was", async () => {
    const path = await newDataset();
    await sendJson(path, { text: "before", label: "x" });
    const lines = Array.from({ length: limits.labels_per_dataset + 1 }, (_, i) => `t${i},l${i}\n`);
    const answer = await importBody(path, `text,label\n${lines.join("")}`, CSV);
    expectError(answer, 422, "limit_exceeded");
    expect(answer.json.error.details).toEqual({
      limit: limits.labels_per_dataset,
      actual: limits.labels_per_dataset + 1,
    });
    expect((await call("GET", path, key)).json).toMatchObject({ examples: 1, labels: { x: 1 }, revision: 1 });
  });

  test("a body over the limit is refused by its declared length, before it is read", async () => {
    const path = await newDataset();
    const headers = { ...NDJSON, "content-length": String(limits.import_body_bytes + 1) };
    const answer = await importBody(path, new ReadableStream(), headers);
    expectError(answer, 413, "body_too_large");
    expect(answer.json.error.details).toEqual({
      limit: limits.import_body_bytes,
      actual: limits.import_body_bytes + 1,
    });
  });

  test("a body over the limit without a declared length is refused when it gets there", async () => {
    const path = await newDataset();
    await sendJson(path, { text: "before", label: "x" });
    const chunk = new Uint8Array(1024 * 1024).fill(120);
    let sentBytes = 0;
    const body = new ReadableStream({
      pull(controller) {
        sentBytes += chunk.length;
        controller.enqueue(chunk);
      },
    });
    expectError(await importBody(path, body, NDJSON), 413, "body_too_large");
    expect(sentBytes).toBeLessThan(limits.import_body_bytes + 20 * chunk.length);
    expect((await call("GET", path, key)).json).toMatchObject({ examples: 1, revision: 1 });
  });

  test("JSON has a limit of its own, declared or not", async () => {
    const path = await newDataset();
    const spaces = new Uint8Array(limits.json_body_bytes + 1).fill(32);
    const response = await importBody(path, spaces, { ...JSON_TYPE, "content-length": String(spaces.length) });
    expectError(response, 413, "body_too_large");
    const streamed = new Response(spaces).body as ReadableStream;
    expectError(await importBody(path, streamed, JSON_TYPE), 413, "body_too_large");
  });
});

test.each(["", "text/plain", "multipart/form-data", "application/jsonx", "text/csvx", "application/vnd.api+json"])(
  "the content type '%s' is refused",
  async (type) => {
    const answer = await importBody(await newDataset(), new TextEncoder().encode("text,label\n"), {
      "content-type": type,
    });
    expectError(answer, 415, "unsupported_media_type", "content-type");
  },
);
