import { createExecutionContext, runDurableObjectAlarm, runInDurableObject, SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import OpenAI, { toFile } from "openai";
import { beforeAll, describe, expect, test } from "vitest";
import type { ErrorCode } from "../../src/core/failure.ts";
import { limits } from "../../src/core/limits.ts";
import { createApp } from "../../src/http/app.ts";
import { PART_BYTES } from "../../src/store/files.ts";
import { fileKey } from "../../src/store/keys.ts";
import { runMaintenanceTask } from "../../src/tenant/tasks/maintenance.ts";
import { getLedger, type Tenant } from "../../src/tenant/tenant.ts";
import { type ApiResponse, call, newTenant } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";

const HOUR = 3_600_000;
let tenant: string;
let key: string;

beforeAll(async () => {
  ({ id: tenant, key } = await newTenant());
});

const BOUNDARY = "----a-boundary-of-the-tests";
const FORM = { "content-type": `multipart/form-data; boundary=${BOUNDARY}` };
/** What follows on a form's file where that comes last. */
const END = `\r\n--${BOUNDARY}--\r\n`;
const PURPOSE: Field = ["purpose", "fine-tune"];

type Field = [name: string, value: string | Uint8Array, filename?: string];

function form(...fields: Field[]): Uint8Array<ArrayBuffer> {
  const parts = fields.flatMap(([name, value, filename]) => {
    const file = filename === undefined ? "" : `; filename="${filename}"`;
    return [`--${BOUNDARY}\r\ncontent-disposition: form-data; name="${name}"${file}\r\n\r\n`, value, "\r\n"];
  });
  return new Uint8Array(Buffer.concat([...parts, `--${BOUNDARY}--\r\n`].map((part) => Buffer.from(part as string))));
}

const postForm = (...fields: Field[]) => call("POST", "/v1/files", key, form(...fields), FORM);
const postFile = (content: string | Uint8Array, token = key) =>
  call("POST", "/v1/files", token, form(PURPOSE, ["file", content, "train.jsonl"]), FORM);
const toJsonl = (...lines: unknown[]) => `${lines.map((line) => JSON.stringify(line)).join("\n")}\n`;
const validContent = toJsonl({ text: "refund me", label: "billing" }, { text: "cannot log in", label: "login" });
const chatLine = (label: unknown, ...messages: unknown[]) => ({
  messages: [...messages, label].map((content, i) =>
    typeof content === "string" ? { role: i === messages.length ? "assistant" : "user", content } : content,
  ),
});

async function uploadFile(content: string | Uint8Array, token = key) {
  const answer = await postFile(content, token);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

/** What a tenant has in R2. */
async function listStored(owner = tenant): Promise<string[]> {
  return (await env.BUCKET.list({ prefix: `tenants/${owner}/` })).objects.map((object) => object.key);
}

/** A file was refused so, and nothing of it stays. */
async function expectNotStored(
  answer: ApiResponse,
  status: number,
  code: ErrorCode,
  param: string | null,
): Promise<void> {
  expectError(answer, status, code, param);
  const { data, has_more } = (await call("GET", "/v1/files?limit=100", key)).json;
  expect(has_more).toBe(false);
  expect((await listStored()).toSorted()).toEqual(data.map(({ id }: { id: string }) => fileKey(tenant, id)).toSorted());
}

/** The answer to an upload by the same application with other bindings, which may be read before its body has ended. */
async function uploadWithBindings(bindings: object, body: BodyInit, token = key): Promise<ApiResponse> {
  const request = new Request("http://graft.test/v1/files", {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, ...FORM },
    body,
  });
  const response = await createApp().fetch(request, { ...env, ...bindings }, createExecutionContext());
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: JSON.parse(text) };
}

/** R2 with other methods in place of some of its own. */
const fakeBucket = (methods: object) => ({
  BUCKET: new Proxy(env.BUCKET, {
    get: (bucket, name) => {
      const method = Reflect.get({ ...methods }, name) ?? Reflect.get(bucket, name);
      return typeof method === "function" ? method.bind(bucket) : method;
    },
  }),
});

describe("a file", () => {
  test("is answered in OpenAI's shape, with what its lines hold", async () => {
    const answer = await postFile(validContent);
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json).toEqual({
      object: "file",
      id: expect.stringMatching(/^file-[0-9a-f]{32}$/),
      bytes: validContent.length,
      created_at: expect.any(Number),
      filename: "train.jsonl",
      purpose: "fine-tune",
      status: "processed",
      status_details: null,
      expires_at: null,
      graft: { task: "single_label", modality: "text", dimensions: null, examples: 2, labels: 2 },
    });
    expect((await call("GET", `/v1/files/${answer.json.id}`, key)).json).toEqual(answer.json);
    expect(await listStored()).toContain(fileKey(tenant, answer.json.id));
  });

  test("comes back byte for byte", async () => {
    const unusualContent = Buffer.from(
      `\ufeff${validContent}\r\n  \n${toJsonl({ text: "\u0000 \u{1f600} é", label: "x" })}\n\n`,
    );
    for (const content of [Buffer.from(validContent), Buffer.from(validContent.trimEnd()), unusualContent]) {
      const { id, bytes } = await uploadFile(new Uint8Array(content));
      const response = await SELF.fetch(`http://graft.test/v1/files/${id}/content`, {
        headers: { authorization: `Bearer ${key}` },
      });
      expect(response.headers.get("content-type")).toBe("application/octet-stream");
      expect(Buffer.from(await response.arrayBuffer()).equals(content)).toBe(true);
      expect(bytes).toBe(content.length);
    }
  });

  test.each<[string, unknown[], object]>([
    ["examples with ids", [0, 1, 2].map((i) => ({ id: `${i}`, text: "a", label: `${i}` })), { examples: 3, labels: 3 }],
    [
      "any number of labels",
      [
        { text: "a", labels: ["x", "y"] },
        { text: "b", labels: [] },
        { text: "c", labels: ["y"] },
      ],
      { task: "multi_label", examples: 3, labels: 2 },
    ],
    [
      "values",
      [
        { text: "a", value: 1 },
        { text: "b", value: 2 },
      ],
      { task: "regression", labels: 0 },
    ],
    [
      "embeddings",
      [
        { embedding: [1, 2, 3], label: "x" },
        { embedding: [3, 2, 1], label: "y" },
      ],
      { modality: "embedding", dimensions: 3 },
    ],
    [
      "chats",
      [chatLine("x", "a"), chatLine("y", "b"), chatLine("x", "c")],
      { task: "single_label", examples: 3, labels: 2 },
    ],
    [
      "further fields",
      [
        { text: "a", label: "x", weight: 1 },
        { text: "b", label: "y" },
      ],
      { examples: 2, labels: 2 },
    ],
    ["chats among examples", [{ text: "a", label: "x" }, chatLine("y", "b")], { task: "single_label", examples: 2 }],
  ])("may hold %s", async (_what, lines, graft) => {
    expect((await uploadFile(toJsonl(...lines))).graft).toMatchObject(graft);
  });

  test.each<[string, string, object]>([
    ["a table", "Message;Category\r\na;x\r\nb;y\r\n", { task: "single_label", examples: 2, labels: 2 }],
    ["a table of values", "text,value\na,1\nb,2\n", { task: "regression", examples: 2, labels: 0 }],
    ["a table of any number of labels", "text,labels\na,x|y\nb,\n", { task: "multi_label", examples: 2, labels: 2 }],
    ["fastText's lines", "__label__x a\n__label__y b\n", { task: "single_label", examples: 2, labels: 2 }],
    ["a list", '[{"text":"a","label":["x"]},{"text":"b","label":["y"]}]', { task: "single_label", examples: 2 }],
  ])("may be %s", async (_what, content, graft) => {
    expect((await uploadFile(content)).graft).toMatchObject(graft);
  });

  test("whose table has no header that is known says what it has", async () => {
    const answer = await postFile("a,b\nc,d\n");
    await expectNotStored(answer, 422, "invalid_csv", "text");
    expect(answer.json.error.message).toContain("'a', 'b', separated by a comma");
  });

  test("may hold chats with all that OpenAI allows in them", async () => {
    const parts = [
      { type: "text", text: "it is " },
      { type: "text", text: "late" },
    ];
    const lines = [
      { ...chatLine("x", { role: "system", content: "Sort tickets." }, "where is my parcel"), tools: [], n: { a: 1 } },
      chatLine("y", { role: "developer", content: "Sort tickets." }, { role: "user", name: "Ann", content: parts }),
      chatLine({ role: "assistant", content: [{ type: "text", text: "z" }], weight: 1 }, "a", {
        role: "assistant",
        content: null,
        tool_calls: [{}],
      }),
    ];
    expect((await uploadFile(toJsonl(...lines))).graft).toMatchObject({ examples: 3, labels: 3 });
  });

  test.each<[string, Field[], string]>([
    ["after it", [["file", validContent, "a.jsonl"], PURPOSE], "a.jsonl"],
    [
      "before it, among fields that are not known",
      [["x", "1"], PURPOSE, ["other", "no\njson", "o.txt"], ["file", validContent, "a"]],
      "a",
    ],
    ["twice, of which the last counts", [["purpose", "fine-tune"], ["file", validContent, "a"], PURPOSE], "a"],
    ["and a second file, which is passed over", [PURPOSE, ["file", validContent, "a"], ["file", "no json", "b"]], "a"],
    ["and no name", [PURPOSE, ["file", validContent]], "file"],
    ["and a path for a name", [PURPOSE, ["file", validContent, "../../a b/日本.jsonl"]], "../../a b/日本.jsonl"],
    ["and a name with control characters", [PURPOSE, ["file", validContent, "a\u0000\u0007\tb\u0085"]], "ab"],
    ["and a long name", [PURPOSE, ["file", validContent, "x".repeat(300)]], "x".repeat(256)],
  ])("is taken with the purpose %s", async (_what, fields, filename) => {
    const answer = await postForm(...fields);
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json.filename).toBe(filename);
    expect((await call("GET", `/v1/files/${answer.json.id}/content`, key)).text).toBe(validContent);
  });

  test("is taken however the body falls into chunks", async () => {
    const body = form(PURPOSE, ["file", validContent, "a.jsonl"], ["more", "1"]);
    for (const size of [1, 2, 3, 7, 64]) {
      let offset = 0;
      const stream = new ReadableStream({
        pull(controller) {
          controller.enqueue(body.slice(offset, offset + size));
          offset += size;
          if (offset >= body.length) controller.close();
        },
      });
      const answer = await call("POST", "/v1/files", key, stream, FORM);
      expect(answer.status, answer.text).toBe(200);
      expect((await call("GET", `/v1/files/${answer.json.id}/content`, key)).text).toBe(validContent);
    }
  });
});

describe("a large file", () => {
  const exampleLine = (i: number) =>
    `${JSON.stringify({ text: `${i} `.padEnd(900, "abcdefgh"), label: `l${i % 7}` })}\n`;
  const lines = (from: number, count: number) =>
    Buffer.from(Array.from({ length: count }, (_, i) => exampleLine(from + i)).join(""));
  const start = form(PURPOSE, ["file", "", "a"]).slice(0, -END.length);
  const end = Buffer.from(END);
  const CHUNK_LINES = 70;

  /** A form with a file of so many chunks of about 64 kB, which counts what was asked for. */
  function largeForm(chunks: number) {
    const sent = { bytes: 0 };
    let chunkIndex = -1;
    const body = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          const chunk =
            chunkIndex < 0 ? start : chunkIndex < chunks ? lines(chunkIndex * CHUNK_LINES, CHUNK_LINES) : end;
          sent.bytes += chunk.length;
          controller.enqueue(new Uint8Array(chunk));
          if (chunkIndex++ === chunks) controller.close();
        },
      },
      { highWaterMark: 0 },
    );
    return { body, sent };
  }

  test("of 20 MB is stored in parts and comes back byte for byte", async () => {
    const chunks = 310;
    const answer = await call("POST", "/v1/files", key, largeForm(chunks).body, FORM);
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json).toMatchObject({ graft: { examples: chunks * CHUNK_LINES, labels: 7 } });
    expect(answer.json.bytes).toBeGreaterThan(2.3 * PART_BYTES);
    const response = await SELF.fetch(`http://graft.test/v1/files/${answer.json.id}/content`, {
      headers: { authorization: `Bearer ${key}` },
    });
    const content = Buffer.from(await response.arrayBuffer());
    expect(content.equals(lines(0, chunks * CHUNK_LINES))).toBe(true);
  });

  test("is read no faster than it is stored", async () => {
    const { body, sent } = largeForm(310);
    const uploads: [before: number, after: number, bytes: number][] = [];
    const createMultipartUpload = async (name: string) => {
      const real = await env.BUCKET.createMultipartUpload(name);
      const uploadPart = async (part: number, bytes: Uint8Array) => {
        const before = sent.bytes;
        await scheduler.wait(50);
        uploads.push([before, sent.bytes, bytes.length]);
        return real.uploadPart(part, bytes);
      };
      return { uploadId: real.uploadId, uploadPart, complete: real.complete.bind(real) };
    };
    const answer = await uploadWithBindings(fakeBucket({ createMultipartUpload }), body);
    expect(answer.status, answer.text).toBe(200);
    expect(uploads.map(([, , bytes]) => bytes)).toEqual([PART_BYTES, PART_BYTES, answer.json.bytes - 2 * PART_BYTES]);
    for (const [i, [before, after]] of uploads.slice(0, 2).entries()) {
      expect(before).toBeLessThan((i + 1) * PART_BYTES + 1_000_000);
      expect(after - before).toBeLessThan(1_000_000);
    }
  });

  test("that is bad is stored no further than its first bad line", async () => {
    const { body } = largeForm(310);
    let parts = 0;
    let aborted = 0;
    const createMultipartUpload = async (name: string) => {
      const real = await env.BUCKET.createMultipartUpload(name);
      const uploadPart = (part: number, bytes: Uint8Array) => {
        parts++;
        return real.uploadPart(part, bytes);
      };
      return { uploadId: real.uploadId, uploadPart, complete: real.complete.bind(real) };
    };
    const resumeMultipartUpload = (name: string, id: string) => {
      aborted++;
      return env.BUCKET.resumeMultipartUpload(name, id);
    };
    let passedBytes = 0;
    const spoiledBody = body.pipeThrough(
      new TransformStream<Uint8Array, Uint8Array>({
        transform(chunk, controller) {
          passedBytes += chunk.length;
          if (passedBytes > PART_BYTES + 100_000 && passedBytes <= PART_BYTES + 100_000 + chunk.length)
            controller.enqueue(new TextEncoder().encode("spoiled\n"));
          controller.enqueue(chunk);
        },
      }),
    );
    const answer = await uploadWithBindings(fakeBucket({ createMultipartUpload, resumeMultipartUpload }), spoiledBody);
    await expectNotStored(answer, 422, "invalid_training_file", "file");
    expect(answer.json.error.message).toContain("1 of 21701 lines");
    expect([parts, aborted]).toEqual([1, 1]);
  });

  test("that cannot be stored says so, and keeps nothing", async () => {
    const failing = () => Promise.reject(new Error("R2 is down"));
    const createMultipartUpload = async (name: string) => {
      const real = await env.BUCKET.createMultipartUpload(name);
      return { uploadId: real.uploadId, uploadPart: failing };
    };
    await expectNotStored(
      await uploadWithBindings(fakeBucket({ createMultipartUpload }), largeForm(310).body),
      503,
      "storage_unavailable",
      null,
    );
    const smallFile = await uploadWithBindings(
      fakeBucket({ put: failing }),
      form(PURPOSE, ["file", validContent, "a"]),
    );
    await expectNotStored(smallFile, 503, "storage_unavailable", null);
    expect(smallFile.headers.get("retry-after")).toBe("5");
  });
});

describe("a file with a bad line", () => {
  const first = { text: "a", label: "x" };
  const embedding = { embedding: [1, 2], label: "x" };
  const user = { role: "user", content: "a" };
  test.each<[string, unknown[], number, ErrorCode]>([
    ["that is no object", [first, 7], 2, "invalid_parameter"],
    ["without a label", [{ text: "a" }, first], 1, "missing_parameter"],
    ["without an input", [first, { label: "x" }], 2, "missing_parameter"],
    ["with an empty text", [first, { text: " ", label: "x" }], 2, "input_empty"],
    ["with a long text", [{ text: "x".repeat(40_000), label: "x" }, first], 1, "input_too_long"],
    ["with a long label", [first, { text: "a", label: "x".repeat(257) }], 2, "limit_exceeded"],
    ["with an image", [first, { image: "aGk=", label: "x" }], 2, "modality_not_supported"],
    ["of another task", [first, { text: "a", value: 1 }], 2, "task_mismatch"],
    ["of several labels among chats", [chatLine("x", "a"), { text: "a", labels: ["x"] }], 2, "task_mismatch"],
    ["of a chat among values", [{ text: "a", value: 1 }, chatLine("x", "a")], 2, "task_mismatch"],
    ["of another modality", [first, embedding], 2, "modality_mismatch"],
    ["of other dimensions", [embedding, { ...embedding, embedding: [1] }], 2, "invalid_embedding"],
    ["of an empty embedding", [{ embedding: [], label: "x" }, first], 1, "invalid_embedding"],
    ["of too many dimensions", [{ embedding: Array(4097).fill(0), label: "x" }], 1, "limit_exceeded"],
    ["of a chat without messages", [first, { messages: "a" }], 2, "invalid_parameter"],
    ["of a chat of no messages", [first, { messages: [] }], 2, "invalid_parameter"],
    ["of a chat without a label", [first, { messages: [user] }], 2, "invalid_parameter"],
    [
      "of a chat without a user",
      [first, { messages: [{ role: "system", content: "a" }, chatLine("x").messages[0]] }],
      2,
      "invalid_parameter",
    ],
    [
      "of a chat with an image",
      [first, chatLine("x", { role: "user", content: [{ type: "image_url", image_url: {} }] })],
      2,
      "invalid_parameter",
    ],
    ["of a chat with an empty label", [first, chatLine("", "a")], 2, "invalid_parameter"],
    [
      "of a chat whose label is a call",
      [first, chatLine({ role: "assistant", content: null, tool_calls: [] }, "a")],
      2,
      "missing_parameter",
    ],
    ["of a chat with an empty text", [first, chatLine("x", "")], 2, "input_empty"],
  ])("%s is not stored", async (_what, lines, line, code) => {
    const answer = await postFile(toJsonl(...lines));
    await expectNotStored(answer, 422, "invalid_training_file", "file");
    const { message, details } = answer.json.error;
    expect(details).toEqual({ line, code, errors: [{ line, code, message: expect.any(String) }] });
    expect(message).toContain(`1 of ${lines.length} lines are not valid. Line ${line}: ${details.errors[0].message}`);
  });

  test.each<[string, string | Uint8Array, number, ErrorCode]>([
    ["that is no JSON", `${validContent}{"text":\n`, 3, "invalid_json"],
    [
      "that is no UTF-8",
      new Uint8Array(Buffer.from(`\n${validContent}{"text":"caf\xe9 \xc3\xa9","label":"x"}`, "latin1")),
      4,
      "invalid_json",
    ],
    [
      "that is too long",
      `${validContent}{"text":"${"x".repeat(limits.import_line_bytes)}","label":"x"}`,
      3,
      "input_too_long",
    ],
    ["of a table", "text,label\na,x\nb,y\n,x\n", 4, "input_empty"],
  ])("%s is not stored", async (_what, content, line, code) => {
    const answer = await postFile(content);
    await expectNotStored(answer, 422, "invalid_training_file", "file");
    expect(answer.json.error.details).toMatchObject({ line, code });
  });

  test("and many more is told of the first hundred, and how many there are", async () => {
    const answer = await postFile(`${validContent}${"[]\n\n".repeat(250)}`);
    await expectNotStored(answer, 422, "invalid_training_file", "file");
    expect(answer.json.error.message).toContain("250 of 252 lines are not valid. Line 3: ");
    expect(answer.json.error.details.errors.map(({ line }: { line: number }) => line)).toEqual(
      Array.from({ length: 100 }, (_, i) => 3 + 2 * i),
    );
  });
});

describe("a file that is refused as a whole", () => {
  const { examples_per_dataset, labels_per_dataset, import_rows } = limits;
  const manyLines = (count: number, label: (i: number) => string) =>
    Array.from({ length: count }, (_, i) => `{"text":"${i}","label":"${label(i)}"}\n`).join("");

  test.each<[string, string, ErrorCode]>([
    ["nothing", "", "too_few_examples"],
    ["empty lines", "\n \n\r\n", "too_few_examples"],
    ["one example", toJsonl({ text: "a", label: "x" }), "too_few_examples"],
    ["one label", toJsonl({ text: "a", label: "x" }, { text: "b", label: "x" }), "too_few_labels"],
    ["one label in chats", toJsonl(chatLine("x", "a"), chatLine("x", "b")), "too_few_labels"],
  ])("for it holds %s", async (_what, content, code) => {
    await expectNotStored(await postFile(content), 422, code, "file");
  });

  test.each<[string, () => string, number]>([
    ["examples", () => manyLines(examples_per_dataset + 1, (i) => `${i % 2}`), examples_per_dataset],
    ["labels", () => manyLines(labels_per_dataset + 1, (i) => `${i}`), labels_per_dataset],
    ["lines", () => "\n".repeat(import_rows + 1), import_rows],
  ])("for it has too many %s", async (what, content, limit) => {
    const answer = await postFile(content());
    await expectNotStored(answer, 422, "limit_exceeded", "file");
    expect(answer.json.error.message).toContain(what);
    expect(answer.json.error.details).toEqual({ limit, actual: limit + 1 });
  });

  test.each<[string, Field[], ErrorCode, string]>([
    ["a purpose", [["file", validContent, "a"]], "missing_parameter", "purpose"],
    ["a file", [PURPOSE], "missing_parameter", "file"],
    ["a file under its name", [PURPOSE, ["data", validContent, "a"]], "missing_parameter", "file"],
    ["anything", [], "missing_parameter", "purpose"],
  ])("for the form is without %s", async (_what, fields, code, param) => {
    await expectNotStored(await postForm(...fields), 400, code, param);
  });

  test.each(["assistants", "", "Fine-Tune", "x".repeat(5000)])("for its purpose is '%s'", async (purpose) => {
    for (const fields of [
      [
        ["purpose", purpose],
        ["file", validContent, "a"],
      ],
      [
        ["file", validContent, "a"],
        ["purpose", purpose],
      ],
    ])
      await expectNotStored(await postForm(...(fields as Field[])), 400, "invalid_parameter", "purpose");
  });

  test("for its purpose is wrong, before the rest of it is read", async () => {
    let sentBytes = 0;
    const chunk = new Uint8Array(64 * 1024).fill(32);
    const body = new ReadableStream({
      pull(controller) {
        controller.enqueue(
          sentBytes === 0 ? form(["purpose", "batch"], ["file", validContent, "a"]).slice(0, -END.length) : chunk,
        );
        sentBytes += chunk.length;
      },
    });
    await expectNotStored(await uploadWithBindings({}, body), 400, "invalid_parameter", "purpose");
    expect(sentBytes).toBeLessThan(1024 * 1024);
  });

  test.each([
    "",
    "application/json",
    "application/x-ndjson",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/mixed; boundary=x",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary=""',
    `multipart/form-data; boundary=${"x".repeat(300)}`,
  ])("for its content type is '%s'", async (type) => {
    const answer = await call("POST", "/v1/files", key, form(PURPOSE, ["file", validContent, "a"]), {
      "content-type": type,
    });
    const param = "content-type";
    if (type.endsWith("=")) await expectNotStored(answer, answer.status, answer.json.error.code, param);
    else await expectNotStored(answer, 415, "unsupported_media_type", param);
  });

  test("for its body is no form", async () => {
    for (const body of [new TextEncoder().encode(validContent), new Uint8Array(0), new Uint8Array(100_000)])
      await expectNotStored(await call("POST", "/v1/files", key, body, FORM), 400, "invalid_parameter", "content-type");
  });

  test("for its form ends early, wherever that is", async () => {
    const body = form(["file", validContent, "a"], PURPOSE);
    const closingOffset = body.length - "--\r\n".length;
    for (let length = 1; length < closingOffset; length += 5) {
      const answer = await call("POST", "/v1/files", key, body.slice(0, length), FORM);
      const hasBegun = answer.json.error.code === "upload_incomplete";
      if (hasBegun) expectError(answer, 400, "upload_incomplete");
      else expectError(answer, 400, "invalid_parameter", "content-type");
      if (length > 120) expect(hasBegun, `${length}`).toBe(true);
    }
    expect((await listStored()).length).toBe((await call("GET", "/v1/limits", key)).json.limits.files.used);
  });

  test("for the connection is cut, wherever that is", async () => {
    const body = form(PURPOSE, ["file", validContent, "a"]);
    for (let length = 0; length < body.length; length += 16) {
      let offset = 0;
      const cutStream = new ReadableStream({
        pull(controller) {
          if (offset >= length) return controller.error(new Error("the client is gone"));
          controller.enqueue(body.slice(offset, Math.min(length, offset + 20)));
          offset += 20;
        },
      });
      await expectNotStored(await uploadWithBindings({}, cutStream), 400, "upload_incomplete", null);
    }
  });

  test("for it is too large, by its declared length, before it is read", async () => {
    const length = limits.file_bytes + 2 * 1024 * 1024;
    const headers = { ...FORM, "content-length": `${length}` };
    const answer = await call("POST", "/v1/files", key, new ReadableStream(), headers);
    await expectNotStored(answer, 413, "body_too_large", "file");
    expect(answer.json.error.details).toEqual({ limit: limits.file_bytes, actual: length });
  });

  test("for it is too large, when it gets there", async () => {
    const start = form(PURPOSE, ["file", validContent, "a"]).slice(0, -END.length);
    // One bad line, so that it is not stored meanwhile.
    const chunk = new Uint8Array(1024 * 1024).fill(120);
    let sentChunks = 0;
    const body = new ReadableStream({
      pull(controller) {
        controller.enqueue(sentChunks === 0 ? start : chunk);
        sentChunks += chunk.length;
      },
    });
    const answer = await call("POST", "/v1/files", key, body, FORM);
    await expectNotStored(answer, 413, "body_too_large", "file");
    expect(answer.json.error.details.limit).toBe(limits.file_bytes);
    expect(sentChunks).toBeLessThan(limits.file_bytes + 20 * chunk.length);
  });

  test("for its form has too many fields", async () => {
    const fields = Array.from({ length: 200 }, (_, i): Field => [`f${i}`, "1"]);
    await expectNotStored(
      await postForm(...fields, PURPOSE, ["file", validContent, "a"]),
      400,
      "invalid_parameter",
      null,
    );
  });
});

describe("the list", () => {
  test("goes by pages, newest first or oldest first, in OpenAI's shape", async () => {
    const { key: freshKey } = await newTenant();
    const empty = { object: "list", data: [], first_id: null, last_id: null, has_more: false };
    expect((await call("GET", "/v1/files", freshKey)).json).toEqual(empty);
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.unshift((await uploadFile(validContent, freshKey)).id);
    const page = async (query: string) => {
      const { data, ...rest } = (await call("GET", `/v1/files?${query}`, freshKey)).json;
      return { ids: data.map(({ id }: { id: string }) => id), ...rest };
    };
    const listOf = (ids: string[]) => ({ object: "list", ids: ids, first_id: ids[0], last_id: ids.at(-1) });
    expect(await page("limit=3")).toEqual({ ...listOf(ids.slice(0, 3)), has_more: true });
    expect(await page(`limit=3&after=${ids[2]}`)).toEqual({ ...listOf(ids.slice(3)), has_more: false });
    expect(await page("order=asc&limit=2")).toEqual({ ...listOf(ids.toReversed().slice(0, 2)), has_more: true });
    expect(await page(`order=asc&after=${ids[3]}`)).toEqual({ ...listOf(ids.toReversed().slice(2)), has_more: false });
    expect(await page("limit=10000&purpose=fine-tune&future=1")).toEqual({ ...listOf(ids), has_more: false });
    expect((await call("GET", "/v1/files?purpose=batch", freshKey)).json).toEqual(empty);
    for (const [query, param] of [
      ["limit=0", "limit"],
      ["limit=many", "limit"],
      ["order=up", "order"],
      ["after=none", "after"],
    ])
      expectError(await call("GET", `/v1/files?${query}`, freshKey), 400, "invalid_parameter", param);
  });

  test("holds no more than the limit, which is shown with what is used of it", async () => {
    const { id, key: freshKey } = await newTenant();
    const keptFile = await uploadFile(validContent, freshKey);
    await runInDurableObject(env.TENANT.get(env.TENANT.idFromName(id)), (_: Tenant, { storage }) => {
      for (let i = 1; i < limits.files; i++)
        storage.sql.exec(
          "INSERT INTO files (id, filename, bytes, task, modality, examples, labels, created_at) VALUES (?, 'f', 1, 'regression', 'text', 2, 0, 1)",
          `file-${i}`,
        );
    });
    const answer = await postFile(validContent, freshKey);
    expectError(answer, 422, "limit_exceeded");
    expect(answer.json.error.details).toEqual({ limit: limits.files, actual: limits.files });
    expect(await listStored(id)).toEqual([fileKey(id, keptFile.id)]);
    const shownLimits = (await call("GET", "/v1/limits", freshKey)).json.limits;
    expect(shownLimits.files).toEqual({ limit: limits.files, used: limits.files });
    expect(shownLimits.file_bytes).toEqual({ limit: limits.file_bytes });
    expect((await call("GET", "/v1/files?limit=1000", freshKey)).json.data).toHaveLength(100);
    expect((await call("DELETE", `/v1/files/${keptFile.id}`, freshKey)).status).toBe(200);
    await uploadFile(validContent, freshKey);
  });
});

describe("deleting", () => {
  const runAlarm = (tenantId: string) => runDurableObjectAlarm(env.TENANT.get(env.TENANT.idFromName(tenantId)));

  test("a file takes its bytes, and no other's", async () => {
    const { id: owner, key: freshKey } = await newTenant();
    const [firstFile, secondFile] = [
      await uploadFile(validContent, freshKey),
      await uploadFile(validContent, freshKey),
    ];
    const answer = await call("DELETE", `/v1/files/${firstFile.id}`, freshKey);
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({ id: firstFile.id, object: "file", deleted: true });
    for (const [method, path] of [
      ["GET", ""],
      ["DELETE", ""],
      ["GET", "/content"],
    ] as const)
      expectError(await call(method, `/v1/files/${firstFile.id}${path}`, freshKey), 404, "not_found");
    await runAlarm(owner);
    expect(await listStored(owner)).toEqual([fileKey(owner, secondFile.id)]);
    expect((await call("GET", `/v1/files/${secondFile.id}/content`, freshKey)).text).toBe(validContent);
  });

  test("is done once however often it runs, and leaves a file that is there", async () => {
    const { id: owner, key: freshKey } = await newTenant();
    const { id } = await uploadFile(validContent, freshKey);
    const run = (ref: string) =>
      runInDurableObject(env.TENANT.get(env.TENANT.idFromName(owner)), (_: Tenant, { storage }) =>
        runMaintenanceTask(
          { kv: env.KV, bucket: env.BUCKET, storage, tenant: owner, exclusive: (work) => work() },
          { id: 0, kind: "delete_file", ref, attempts: 0 },
          Date.now(),
        ),
      );
    await env.BUCKET.put(fileKey(owner, "file-gone"), "bytes");
    for (const ref of ["file-gone", "file-gone", id]) expect(await run(ref)).toBeNull();
    expect(await listStored(owner)).toEqual([fileKey(owner, id)]);
  });

  test("bytes that no row names is done by the sweep, once they are old", async () => {
    const { id: owner, key: freshKey } = await newTenant();
    const keptKey = fileKey(owner, (await uploadFile(validContent, freshKey)).id);
    const orphan = fileKey(owner, "file-orphan");
    await env.BUCKET.put(orphan, "bytes");
    const sweep = (now: number) =>
      runInDurableObject(env.TENANT.get(env.TENANT.idFromName(owner)), (_: Tenant, { storage }) =>
        runMaintenanceTask(
          { kv: env.KV, bucket: env.BUCKET, storage, tenant: owner, exclusive: (work) => work() },
          { id: 0, kind: "sweep", ref: "", attempts: 0 },
          now,
        ),
      );
    await sweep(Date.now());
    expect((await listStored(owner)).toSorted()).toEqual([keptKey, orphan].toSorted());
    await sweep(Date.now() + HOUR + 2000);
    expect(await listStored(owner)).toEqual([keptKey]);
  });

  test("is never done to bytes behind a row: a file whose bytes are gone gets none", async () => {
    const file = { filename: "f", bytes: 1, task: "regression", modality: "text", dimensions: null } as const;
    const committed = getLedger(env.TENANT, tenant).commitFile(
      { id: "file-lost", ...file, examples: 2, labels: 0 },
      null,
    );
    expect(await committed).toMatchObject({ ok: false, failure: { code: "storage_unavailable", retryAfter: 1 } });
    expectError(await call("GET", "/v1/files/file-lost", key), 404, "not_found");
  });

  test("a file whose bytes R2 does not give says so", async () => {
    const { id } = await uploadFile(validContent);
    const get = () => Promise.reject(new Error("R2 is down"));
    const request = new Request(`http://graft.test/v1/files/${id}/content`, {
      headers: { authorization: `Bearer ${key}` },
    });
    const response = await createApp().fetch(request, { ...env, ...fakeBucket({ get }) }, createExecutionContext());
    expect(response.status).toBe(503);
    expect(await response.json()).toMatchObject({ error: { code: "storage_unavailable" } });
  });

  test("the tenant takes its files, and one that is being uploaded", async () => {
    const { id: owner, key: freshKey } = await newTenant();
    await uploadFile(validContent, freshKey);
    const body = form(PURPOSE, ["file", validContent, "late"]);
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const lateUpload = uploadWithBindings({}, readable, freshKey);
    const writer = writable.getWriter();
    await writer.write(body.slice(0, 200));
    expect((await call("DELETE", `/v1/admin/tenants/${owner}`, env.ADMIN_KEY)).status).toBe(202);
    const directory = env.DIRECTORY.get(env.DIRECTORY.idFromName("directory"));
    await expect
      .poll(async () => {
        await runDurableObjectAlarm(directory);
        return (await call("GET", `/v1/admin/tenants/${owner}`, env.ADMIN_KEY)).json.status;
      })
      .toBe("deleted");
    expect(await listStored(owner)).toEqual([]);
    await writer.write(body.slice(200));
    await writer.close();
    expectError(await lateUpload, 404, "not_found");
    expect(await listStored(owner)).toEqual([]);
  });
});

describe("who may", () => {
  test("upload and list: a key with the scope train", async () => {
    await expectAuthorization(key, "train", "POST", "/v1/files", {});
    await expectAuthorization(key, "train", "GET", "/v1/files");
    const { key: otherKey } = await newTenant();
    await uploadFile(validContent);
    expect((await call("GET", "/v1/files", otherKey)).json.data).toEqual([]);
  });

  test.each([
    ["GET", ""],
    ["GET", "/content"],
    ["DELETE", ""],
  ])("%s a file%s: the tenant itself", async (method, suffix) => {
    const { key: owner } = await newTenant();
    const { id } = await uploadFile(validContent, owner);
    const path = `/v1/files/${id}${suffix}`;
    await expectAuthorization(owner, "train", method, path);
    await expectHidden(method, path, undefined, async () => {
      expect((await call("GET", `/v1/files/${id}`, owner)).status).toBe(200);
      await call("DELETE", `/v1/files/${id}`, owner);
    });
  });

  test("ids of any kind find nothing, and are no part of a key", async () => {
    for (const id of ["none", "%00", "a%2Fb", "..%2Fheads", "%F0%9F%98%80", "x".repeat(200)])
      for (const suffix of ["", "/content"])
        expectError(await call("GET", `/v1/files/${id}${suffix}`, key), 404, "not_found");
    expectError(await call("GET", `/v1/files/${"x".repeat(201)}`, key), 400, "invalid_parameter", "id");
  });
});

describe("OpenAI's own client", () => {
  const client = new OpenAI({
    apiKey: "set below",
    baseURL: "http://graft.test/v1",
    maxRetries: 0,
    fetch: (url, init) => SELF.fetch(url as string, init as RequestInit),
  });
  beforeAll(() => {
    client.apiKey = key;
  });

  test("uploads, waits for, retrieves, reads and deletes a file", async () => {
    const createdFile = await client.files.create({
      file: await toFile(Buffer.from(validContent), '日本 "1".jsonl'),
      purpose: "fine-tune",
    });
    expect(createdFile).toMatchObject({
      object: "file",
      bytes: validContent.length,
      purpose: "fine-tune",
      status: "processed",
    });
    expect(createdFile.filename).toContain("日本");
    expect(await client.files.waitForProcessing(createdFile.id)).toEqual(createdFile);
    expect(await client.files.retrieve(createdFile.id)).toEqual(createdFile);
    expect(await (await client.files.content(createdFile.id)).text()).toBe(validContent);
    expect(await client.files.delete(createdFile.id)).toMatchObject({ id: createdFile.id, deleted: true });
    await expect(client.files.retrieve(createdFile.id)).rejects.toBeInstanceOf(OpenAI.NotFoundError);
  });

  test("lists every file, page after page", async () => {
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) ids.unshift((await uploadFile(validContent)).id);
    const listedIds: string[] = [];
    for await (const { id } of client.files.list({ limit: 2, purpose: "fine-tune" })) listedIds.push(id);
    expect(listedIds.slice(0, 3)).toEqual(ids);
    expect(new Set(listedIds).size).toBe(listedIds.length);
    expect(listedIds).toHaveLength((await call("GET", "/v1/limits", key)).json.limits.files.used);
  });

  test("throws what was wrong with a file", async () => {
    const bad = client.files.create({
      file: await toFile(Buffer.from(`${validContent}{}\n`), "bad.jsonl"),
      purpose: "fine-tune",
    });
    await expect(bad).rejects.toMatchObject({ status: 422, code: "invalid_training_file", param: "file" });
  });
});
