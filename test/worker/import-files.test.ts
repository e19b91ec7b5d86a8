/** What an import answers about a file: how it was read, what a dry run would do, and what looks wrong. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../src/core/limits.ts";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { type ApiResponse, call, newTenant } from "./api.ts";
import { expectError } from "./assertions.ts";

let tenant: string;
let key: string;
let datasets = 0;

beforeAll(async () => {
  ({ id: tenant, key } = await newTenant());
});

async function newDataset(task = "single_label"): Promise<string> {
  const name = `d${++datasets}`;
  expect((await call("POST", "/v1/datasets", key, { name, task, modality: "text" })).status).toBe(201);
  return `/v1/datasets/${name}`;
}

const send = (path: string, body: BodyInit, query = "", type = "text/csv") =>
  call("POST", `${path}/examples${query}`, key, body, { "content-type": type });

async function imported(path: string, body: BodyInit, query = "", type = "text/csv") {
  const answer = await send(path, body, query, type);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

async function exported(path: string): Promise<Record<string, unknown>[]> {
  const { text } = await call("GET", `${path}/export`, key);
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));
}

const labelsOf = async (path: string) => (await call("GET", path, key)).json.labels;
const warningsOf = (answer: ApiResponse["json"]) =>
  Object.fromEntries(answer.warnings.map(({ code, count, examples }: never) => [code, { count, examples }]));

describe("what was found", () => {
  test("is named: format, separator, encoding and columns", async () => {
    const latin1 = Uint8Array.from("Nachricht;Tag;message\r\n1;süß;Schön\r\n", (character) => character.charCodeAt(0));
    const answer = await imported(await newDataset(), latin1);
    expect(answer).toMatchObject({ added: 1, ignored_columns: ["Nachricht"] });
    expect(answer.detected).toEqual({
      format: "csv",
      system: null,
      encoding: "windows-1252",
      delimiter: ";",
      header: true,
      columns: { text: "message", label: "Tag" },
    });
  });

  test.each([
    ["text/tab-separated-values", "text\tlabel\na\tx\n"],
    ["application/jsonl", '{"text":"a","label":"x"}\n'],
    ["application/ndjson", '{"text":"a","label":"x"}\n'],
    ["application/yaml", "nlu:\n- intent: x\n  examples: |\n    - a\n"],
    ["application/json", '[{"text":"a","label":"x"}]'],
    ["application/json; charset=utf-8", '{"text":"a","label":"x"}\n{"text":"a","label":"x"}\n'],
  ])("is read as '%s'", async (type, body) => {
    const path = await newDataset();
    expect(await imported(path, body, "", type)).toMatchObject({ added: 1, rejected: 0 });
    expect(await exported(path)).toMatchObject([{ text: "a", label: "x" }]);
  });

  test("may be said instead, with any media type", async () => {
    const path = await newDataset();
    const bytes = Uint8Array.from("text|label\ncaf\xe9;1|x\n", (character) => character.charCodeAt(0));
    const query = "?format=csv&delimiter=pipe&encoding=windows-1251";
    const answer = await imported(path, bytes, query, "application/x-www-form-urlencoded");
    expect(answer.detected).toMatchObject({ format: "csv", delimiter: "|", encoding: "windows-1251" });
    expect(await exported(path)).toMatchObject([{ text: "cafй;1", label: "x" }]);
    expectError(await send(path, bytes, "?format=xml"), 400, "invalid_parameter", "format");
    expectError(await send(path, bytes, "", "text/plain"), 415, "unsupported_media_type", "content-type");
  });

  test("is UTF-8 where the bytes beyond ASCII come late, and Windows-1252 where they come late and are no UTF-8", async () => {
    const rows = (text: string) => `text,label\n${"a plain text,x\n".repeat(8_000)}${text},y\n`;
    for (const encoding of ["utf-8", "windows-1252"] as const) {
      const path = await newDataset();
      const body = encoding === "utf-8" ? Buffer.from(rows("Schön")) : Buffer.from(rows("Schön"), "latin1");
      const answer = await imported(path, new Uint8Array(body));
      expect(answer.detected.encoding).toBe(encoding);
      expect((await exported(path)).at(-1)).toMatchObject({ text: "Schön", label: "y" });
    }
  });
});

describe("columns", () => {
  test.each<[string, string, string, object]>([
    ["names", "?text=Body&label=kind&id=key", "key,body,kind,message\n7,a,x,b\n", { id: "7", text: "a", label: "x" }],
    ["positions from 1", "?text=2&label=1", "x,a\n", { text: "a", label: "x" }],
    ["positions from 0", "?text=1&label=0", "x,a\n", { text: "a", label: "x" }],
    ["positions beside a header", "?text=2&label=1", "label,text\nx,a\n", { text: "a", label: "x" }],
    ["a name that is a number", "?text=2&label=1", "1,2\nx,a\n", { text: "a", label: "x" }],
  ])("are mapped by %s", async (_what, query, body, expected) => {
    const path = await newDataset();
    expect(await imported(path, body, query)).toMatchObject({ added: 1, rejected: 0 });
    expect(await exported(path)).toMatchObject([expected]);
  });

  test("of JSON are mapped by names and pointers, with the digits of long numbers", async () => {
    const path = await newDataset();
    const line = '{"ticket":{"id":1234567890123456789,"text":"a"},"kind":"x","more":1}\n';
    const query = "?text=/ticket/text&id=/ticket/id&label=kind";
    const answer = await imported(path, line, query, "application/x-ndjson");
    expect(answer.detected.columns).toEqual({ text: "/ticket/text", id: "/ticket/id", label: "kind" });
    expect(answer.ignored_columns).toEqual(["more"]);
    expect(await exported(path)).toEqual([{ id: "1234567890123456789", text: "a", label: "x" }]);
  });

  test.each<[string, string, string, string]>([
    ["no such name", "?text=body", "text,label\na,x\n", "There is no column 'body'"],
    ["no such position", "?text=3&label=1", "x,a\n", "There is no column 3"],
    ["no known name", "", "Betreff;Art\na;x\n", "'Betreff', 'Art', separated by a semicolon"],
  ])("are refused: %s", async (_what, query, body, message) => {
    const answer = await send(await newDataset(), body, query);
    expectError(answer, 422, "invalid_csv", "text");
    expect(answer.json.error.message).toContain(message);
    expect(answer.json.error.message).toContain("?text=1&label=2");
  });

  test("of two targets are refused", async () => {
    const answer = await send(await newDataset(), "a,b\n", "?label=a&value=b");
    expectError(answer, 400, "invalid_parameter", "value");
  });
});

describe("labels", () => {
  test("are split at a separator of one's own, and an escaped one is a part of a label", async () => {
    const path = await newDataset("multi_label");
    await imported(path, "text,labels\na,x|y\\|z\n");
    await imported(path, "text,labels\nb,x / y\\/z / \n", "?labels_separator=/");
    expect((await exported(path)).map(({ labels }) => labels)).toEqual([
      ["x", "y|z"],
      ["x", "y/z"],
    ]);
  });

  test("are trimmed and composed in every way in, and counted by an import", async () => {
    const path = await newDataset();
    const answer = await imported(path, "text,label\n a ,x \nb,cafe\u0301\n");
    expect(answer.trimmed).toBe(2);
    const json = await call("POST", `${path}/examples`, key, { examples: [{ text: "c", label: "\tx\n" }] });
    expect(json.json.trimmed).toBe(1);
    expect(await labelsOf(path)).toEqual({ x: 2, café: 1 });
    const blank = await call("POST", `${path}/examples`, key, { examples: [{ text: "c", label: " \n" }] });
    expectError(blank, 422, "import_rejected", "examples[0].label");
  });

  test("that are whole numbers get the names that are given", async () => {
    const path = await newDataset();
    const body = '{"text":"a","label":1}\n{"text":"b","label":0}\n{"text":"c","label":2}\n';
    const plain = await imported(path, body, "?dry_run=true", "application/jsonl");
    expect(plain.labels).toEqual({ 0: 1, 1: 1, 2: 1 });
    expect(warningsOf(plain).numeric_labels).toEqual({ count: 3, examples: ["0", "1", "2"] });
    const named = await imported(path, body, "?label_names=no|yes", "application/jsonl");
    expect(named).toMatchObject({ added: 2, errors: [{ line: 3, code: "invalid_label" }] });
    expect(await labelsOf(path)).toEqual({ no: 1, yes: 1 });
  });
});

describe("a dry run", () => {
  test("stores nothing, and answers what the import then does", async () => {
    const path = await newDataset();
    await imported(path, "id,text,label\n1,one,x\n2,two,y\n");
    const before = (await call("GET", path, key)).json;
    const body = "id,text,label\n1,one,x\n2,second,y\n3,three,x\n4,,x\n";
    const dry = await imported(path, body, "?dry_run=true");
    expect(dry).toMatchObject({ dry_run: true, added: 1, updated: 1, unchanged: 1, rejected: 1 });
    expect(dry.sample).toEqual([
      { line: 2, id: "1", text: "one", label: "x" },
      { line: 3, id: "2", text: "second", label: "y" },
      { line: 4, id: "3", text: "three", label: "x" },
    ]);
    expect(dry.labels).toEqual({ x: 2, y: 1 });
    expect((await call("GET", path, key)).json).toEqual(before);
    const { sample: _sample, labels: _labels, dry_run: _dryRun, id: _id, dataset: _dataset, ...figures } = dry;
    expect(await imported(path, body)).toMatchObject(figures);
  });

  test("shows at most twenty rows", async () => {
    const rows = Array.from({ length: 30 }, (_, i) => `text ${i},x\n`).join("");
    const { sample } = await imported(await newDataset(), `text,label\n${rows}`, "?dry_run=true");
    expect(sample.map(({ line }: { line: number }) => line)).toEqual(Array.from({ length: 20 }, (_, i) => i + 2));
  });
});

describe("warnings", () => {
  test("tell of labels and inputs that look wrong", async () => {
    const path = await newDataset();
    const rows = [
      ...Array.from({ length: 40 }, (_, i) => `a text ${i},refund`),
      "a text 1,Refund",
      "a text 1,other",
      "ok,other",
      "kaufen für cafÃ©,re fund",
    ];
    const warnings = warningsOf(await imported(path, `text,label\n${rows.join("\n")}\n`));
    expect(warnings).toEqual({
      similar_labels: { count: 1, examples: ['"Refund" and "re fund" and "refund"'] },
      rare_label: { count: 2, examples: ["Refund", "re fund"] },
      dominant_label: { count: 1, examples: ["refund"] },
      conflicting_labels: { count: 1, examples: ["a text 1"] },
      short_inputs: { count: 1, examples: ["ok"] },
      suspicious_encoding: { count: 1, examples: ["kaufen für cafÃ©"] },
    });
  });

  test("say where most words are of a language that the pre-trained backbones do not know", async () => {
    const spanish = ["¿Dónde está mi pedido? Todavía no ha llegado", "Quiero que me devuelvan el dinero de la factura"];
    const more = ["He olvidado la contraseña y no puedo entrar", "¿Cómo cambio la dirección de entrega?"];
    const csv = (texts: readonly string[]) => `text,label\n${texts.map((text, i) => `${text},${i % 2}a\n`).join("")}`;
    const { language_not_covered } = warningsOf(await imported(await newDataset(), csv([...spanish, ...more])));
    expect(language_not_covered?.count).toBeGreaterThan(10);
    expect(language_not_covered?.examples).toContain("pedido");
    // Too few words to tell.
    expect(warningsOf(await imported(await newDataset(), csv(["quiero devolver", "¿dónde está?"])))).not.toHaveProperty(
      "language_not_covered",
    );
    const english = ["where is my parcel, it has not come yet", "I would like to have my money back, please"];
    const answer = await imported(
      await newDataset(),
      csv([...english, "cant log in to teh app", "wrong adress on it"]),
    );
    expect(warningsOf(answer)).not.toHaveProperty("language_not_covered");
  });

  test("compare with the labels that the dataset has", async () => {
    const path = await newDataset();
    await imported(path, "text,label\nan input,Refund\nanother input,Refund\n");
    const { similar_labels } = warningsOf(await imported(path, "text,label\none more input,refund\n"));
    expect(similar_labels).toEqual({ count: 1, examples: ['"Refund" and "refund"'] });
  });

  test("are none where nothing looks wrong", async () => {
    const rows = ["refund my order,refund", "pay it back,refund", "where is it,delivery", "返金,delivery"];
    expect((await imported(await newDataset(), `text,label\n${rows.join("\n")}\n`)).warnings).toEqual([]);
  });
});

describe("nothing kept", () => {
  test("is refused, with what was found", async () => {
    const path = await newDataset("multi_label");
    const answer = await send(path, '{"id":1,"text":" ","label":["positive"]}\n', "", "application/jsonl");
    expectError(answer, 422, "import_rejected", "text");
    expect(answer.json.error.details).toMatchObject({ added: 0, rejected: 1, code: "input_empty", line: 1 });
    expect(answer.json.error.details.detected).toMatchObject({
      format: "ndjson",
      columns: { text: "text", labels: "label" },
    });
    expect((await call("GET", path, key)).json.revision).toBe(0);
  });

  test("because all rows are left out says why", async () => {
    const body = '{"text":"a","label":"x","answer":"reject"}\n';
    const answer = await send(await newDataset(), body, "", "application/jsonl");
    expectError(answer, 422, "import_rejected");
    expect(answer.json.error.message).toContain("the annotator's answer is 'reject'");
  });
});

describe("texts beyond the limit", () => {
  test("are cut at the end of a word where that is asked for, and counted", async () => {
    const path = await newDataset();
    const long = `${"word ".repeat(limits.text_characters / 5 - 1)}Straßenbahn`;
    const query = "?truncate=true&dry_run=true";
    const answer = await imported(path, `text,label\n${long},x\nb,y\n`, query);
    expect(answer).toMatchObject({ added: 2, truncated: 1 });
    expect(answer.sample[0]).toEqual({ line: 2, text: long.slice(0, -12), label: "x", truncated: true });
    expectError(await send(path, `text,label\n${long},x\n`), 422, "import_rejected", "text");
  });

  test("are counted in characters, not in UTF-16 code units", async () => {
    const emoji = (count: number) => "\u{1f600}".repeat(count);
    const path = await newDataset();
    const label = emoji(limits.label_characters);
    expect(await imported(path, `text,label\n${emoji(limits.text_characters)},${label}\n`)).toMatchObject({ added: 1 });
    const answer = await send(path, `text,label\n${emoji(limits.text_characters + 1)},x\n`);
    expectError(answer, 422, "import_rejected", "text");
    expect(answer.json.error.message).toContain(`this one has ${limits.text_characters + 1}`);
  });
});

test("a stored label keeps its bytes while the text of its example is changed", async () => {
  const path = await newDataset();
  await imported(path, "id,text,label\n1,one,x\n");
  await runInDurableObject(env.TENANT.get(env.TENANT.idFromName(tenant)), (_: Tenant, { storage }) => {
    storage.sql.exec("UPDATE examples SET target = ? WHERE id = '1'", JSON.stringify(" x "));
  });
  const changed = await call("PATCH", `${path}/examples/1`, key, { text: "first" });
  expect(changed.json).toMatchObject({ text: "first", label: " x " });
  const renamed = await call("PATCH", `${path}/examples/1`, key, { label: " x " });
  expect(renamed.json).toMatchObject({ text: "first", label: "x" });
});
