import { execFile } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Readable } from "node:stream";
import { setTimeout } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { formatConfusion } from "../../src/cli/confusion.ts";
import { inspectCsv, readWithoutRows } from "../../src/cli/csv.ts";
import { createClient, GraftError } from "../../src/sdk/client.ts";
import { buildWorker, type Server, serve } from "../../src/server/runtime.ts";

const root = resolve(import.meta.dirname, "../..");
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "graft-demo-test-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function writeTempFile(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

interface RunResult {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
  /** Files in its temporary folder and processes that are still there after it. */
  readonly leftovers: readonly string[];
}

/** Runs a command with a temporary folder of its own; sends it SIGINT when `interruptAt` comes up on stderr. */
async function runCommand(command: string, args: readonly string[], interruptAt?: string): Promise<RunResult> {
  const temporary = mkdtempSync(join(folder, "tmp-"));
  const child = execFile(command, args, { cwd: root, env: { ...process.env, TMPDIR: temporary } });
  let out = "";
  let err = "";
  child.stdout?.on("data", (text) => (out += text));
  child.stderr?.on("data", (text) => {
    err += text;
    if (interruptAt !== undefined && text.includes(interruptAt)) child.kill("SIGINT");
  });
  const [code] = (await once(child, "close")) as [number | null];
  const listLeftovers = () => [...readdirSync(temporary), ...processesOf(temporary)];
  // A process that was told to end may take a moment to.
  for (let attempt = 0; attempt < 20 && listLeftovers().length > 0; attempt++) await setTimeout(100);
  return { code, out, err, leftovers: listLeftovers() };
}

/** Processes, where there is a /proc to find them in, that were started with this temporary folder. */
function processesOf(temporary: string): string[] {
  const all = existsSync("/proc/self/environ") ? readdirSync("/proc").filter((name) => /^\d+$/.test(name)) : [];
  return all.filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/environ`, "utf8").includes(temporary);
    } catch {
      return false;
    }
  });
}

const runDemo = (...args: readonly string[]) =>
  runCommand(process.execPath, [join(root, "src/cli.ts"), "demo", ...args]);

const colours = ["red", "green", "blue"];
const things = ["door", "car", "house", "shirt", "lamp", "bag", "chair", "book", "phone", "cup", "hat", "wall"];
const rows = things.flatMap((thing) => colours.map((colour) => `"a ${colour} ${thing}, please",${colour}`));

describe("the demo", () => {
  test("trains on the example tickets, shows its evaluation and classifies unseen texts", async () => {
    const { code, out, err, leftovers } = await runDemo();
    expect(code, err).toBe(0);
    expect(out).toContain("A head trained on examples/support-tickets.csv");
    expect(out).toMatch(/8 labels, 632 examples/);
    expect(Number(/accuracy +([\d.]+) %/.exec(out)?.[1])).toBeGreaterThan(80);
    expect(out).toMatch(/billing_refund( +(\d+|·)){8} +[\d.]+ %\n/);
    expect(out).toMatch(/New laptop, and now the verification code .+ [01]\.\d\d +password_login\n/);
    expect(out).toMatch(/We won't be needing your service .+ [01]\.\d\d +cancel_account\n/);
    expect(out).toMatch(/Our bookkeeper is asking for a VAT receipt .+ [01]\.\d\d +invoice_request\n/);
    expect(out).toMatch(/Train and evaluate a head +[\d.]+ m?s\n/);
    expect(err).toContain("Build the Worker …\n");
    expect(leftovers).toEqual([]);
  });

  test("holds out rows of one's own CSV and says which it got right", async () => {
    const customFile = writeTempFile("own file.csv", `\ufefftext,label\r\n${rows.join("\r\n")}\r\n"",red\r\n`);
    const { code, out, err, leftovers } = await runDemo(customFile);
    expect(code, err).toBe(0);
    expect(out).toContain("3 labels, 33 examples");
    expect(out).toContain("line 38 left out");
    for (const colour of colours)
      expect(out).toMatch(new RegExp(`a ${colour} house, please +[01]\\.\\d\\d +\\w+ +${colour} +(right|wrong)\n`));
    expect(out).toContain(`--data-binary @'${customFile}'`);
    expect(leftovers).toEqual([]);
  });

  test.each([
    ["a missing file", () => join(folder, "none.csv"), /^There is no file '.+none\.csv'\.\n$/],
    ["a folder", () => folder, /^'.+' is not a file\.\n$/],
    ["an empty file", () => writeTempFile("empty.csv", ""), /^'.+' is empty\.\n$/],
    ["a header alone", () => writeTempFile("header.csv", "text,label\n"), /has no rows with both a text and a label/],
    [
      "no text column",
      () => writeTempFile("columns.csv", "message,label\na,b\n"),
      /it lacks 'text' and has 'message', 'label'\.\n$/,
    ],
    [
      "no label column",
      () => writeTempFile("columns.csv", "text,tag\na,b\n"),
      /it lacks 'label' and has 'text', 'tag'\.\n$/,
    ],
    [
      "one label",
      () => writeTempFile("one.csv", "text,label\na,x\nb,x\n"),
      /^All 2 rows of .+ have the label 'x'; a head needs at least 2\.\n$/,
    ],
    [
      "one more column",
      () => writeTempFile("more.csv", `text,label,note\n${rows.map((row) => `${row},`).join("\n")}\n`),
      /column 'note' is unknown/,
    ],
  ])("refuses %s in one line", async (_case, make, message) => {
    const { code, out, err, leftovers } = await runDemo(make());
    expect(code).toBe(1);
    expect(err.replace(/^.+ ….*\n/gm, "")).toMatch(message);
    expect(
      err
        .replace(/^.+ ….*\n/gm, "")
        .trim()
        .split("\n"),
    ).toHaveLength(1);
    expect(out).toBe("");
    expect(leftovers).toEqual([]);
  });

  test.each(["Build the Worker", "Start it on workerd", "Train and evaluate"])(
    "leaves nothing when stopped at '%s'",
    async (step) => {
      const { code, leftovers } = await runCommand(process.execPath, [join(root, "src/cli.ts"), "demo"], step);
      expect(code).toBe(130);
      expect(leftovers).toEqual([]);
    },
  );

  test("tells how to use it where the arguments are wrong", async () => {
    const { code, err } = await runCommand(process.execPath, [join(root, "src/cli.ts"), "train"]);
    expect(code).toBe(1);
    expect(err).toMatch(/^Usage: npm run demo/);
  });
});

describe("with a running Worker", () => {
  const adminKey = "operator-of-the-demo-test";
  let server: Server;
  beforeAll(async () => {
    const bundle = join(folder, "worker");
    await buildWorker(bundle);
    server = await serve(bundle, { port: 0, stateDir: join(folder, "state"), adminKey, log: () => undefined });
  });
  afterAll(() => server.stop());

  test("the commands that the demo prints do the same by hand", async () => {
    const customFile = writeTempFile("by hand's.csv", `text,label\n${rows.join("\n")}\n`);
    const { out } = await runDemo(customFile);
    const commands = out
      .slice(out.indexOf("# in another"))
      .replace("http://127.0.0.1:8787", server.url)
      .replace(/Bearer [0-9a-f]{32}/, `Bearer ${adminKey}`)
      .replaceAll("\ncurl", "\necho\ncurl");
    const { code, out: answers, err } = await runCommand("bash", ["-euc", commands]);
    expect(code, err).toBe(0);
    const [dataset, imported, head, predicted] = answers
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(dataset).toMatchObject({ object: "dataset", name: "tickets" });
    expect(imported).toMatchObject({ object: "dataset.import", added: 36, rejected: 0 });
    expect(head).toMatchObject({ object: "head", id: "support", version: 1, labels: ["blue", "green", "red"] });
    expect(predicted.model).toBe("support@1");
    expect(predicted.data[0].scores).toHaveLength(3);
  });

  test("the client covers a tenant's life and throws what the API refuses", async () => {
    const operator = createClient({ baseUrl: `${server.url}/`, key: adminKey });
    expect(await operator.ready()).toBe(true);
    const { key } = await operator.tenants.create({ id: "sdk-test" }, { idempotencyKey: "one" });
    expect((await operator.tenants.get("sdk-test")).status).toBe("active");
    expect((await operator.tenants.list({ limit: 1 })).data[0]?.id).toBe("sdk-test");
    const graft = createClient({ baseUrl: server.url, key: key.secret });
    await graft.datasets.create({ name: "colours", task: "single_label", modality: "text" });
    const lines = rows.map((row) => JSON.stringify({ text: row.split('"')[1], label: row.split(",").at(-1) }));
    const body = Readable.from(lines.map((line) => Buffer.from(`${line}\n`)));
    expect(await graft.datasets.import("colours", body, "application/x-ndjson")).toMatchObject({ added: 36 });
    expect(await graft.datasets.add("colours", [{ text: "a red bike", label: "red" }])).toMatchObject({ added: 1 });
    expect((await graft.datasets.examples("colours", { limit: 2, label: "red" })).data).toHaveLength(2);
    const exported = await new Response(await graft.datasets.export("colours")).text();
    expect(exported.trim().split("\n")).toHaveLength(37);
    const first = await graft.heads.train({ name: "colour", dataset: "colours", method: "head" });
    const second = await graft.heads.train({ name: "colour", dataset: "colours", method: "head", promote: false });
    expect([first.version, second.version]).toEqual([1, 2]);
    expect((await graft.heads.promote("colour", 2)).active_version).toBe(2);
    expect((await graft.heads.versions("colour")).data.map(({ version }) => version)).toEqual([2, 1]);
    expect((await graft.heads.get("colour", 1)).version).toBe(1);
    const lexicalHead = await graft.heads.train({
      name: "wordy",
      dataset: "colours",
      method: "head",
      hyperparameters: { lexical: true },
    });
    expect(lexicalHead.training.lexical).toBe(true);
    const { lexical, labels } = await graft.heads.export("wordy", 1);
    expect(lexical?.weights.map((row) => row.length)).toEqual(labels.map(() => lexical?.seen.length));
    const { data } = await graft.heads.predict("colour", { input: ["a blue door", { text: "a red cup" }] });
    expect(data.map(({ label }) => label)).toEqual(["blue", "red"]);
    const { id, graft: facts } = (await graft.models.list()).data[0] ?? expect.unreachable();
    expect((await graft.models.get(id)).graft).toEqual(facts);
    expect((await graft.embeddings.create({ model: id, input: "a" })).data[0]?.embedding).toHaveLength(
      facts.dimensions,
    );
    expect(await graft.heads.delete("colour")).toMatchObject({ deleted: true });
    expect(await graft.datasets.delete("colours")).toMatchObject({ deleted: true });

    const refusal = await graft.heads.get("colour").catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(GraftError);
    expect(refusal).toMatchObject({ status: 404, code: "not_found", requestId: expect.stringMatching(/^req_/) });
    const invalidImport = await graft.datasets
      .create({ name: "NO", task: "single_label", modality: "text" })
      .catch((e: unknown) => e);
    expect(invalidImport).toMatchObject({ status: 400, code: "invalid_parameter", param: "name" });
    const stranger = createClient({ baseUrl: server.url, key: "gk_sdk-test_wrong" });
    await expect(stranger.models.list()).rejects.toMatchObject({ status: 401, code: "invalid_api_key" });
  });
});

describe("a CSV without its held-out rows", () => {
  test("keeps every other byte and every line break, also where a row spans chunks", async () => {
    const long = "x".repeat(100_000);
    const content = `\ufefftext,label\r\na 1,a\r\n"a\n2",a\r\n"a ""3"" ${long}é",a\r\n\r\nb 1,b\r\nb 2,b\r\nb 3,b\r\nlast,b`;
    const path = writeTempFile("long.csv", content);
    const { rows, labels, heldOutRows: heldOut } = await inspectCsv(path);
    expect({ rows, labels }).toEqual({ rows: 7, labels: 2 });
    expect(heldOut).toHaveLength(1);
    let buffered = "";
    for await (const chunk of readWithoutRows(path, heldOut)) buffered += Buffer.from(chunk).toString("latin1");
    const original = Buffer.from(content).toString("latin1");
    const truncated = original.replace(/"a ""3"" x+Ã©",a/, "");
    expect(buffered).toBe(truncated);
  });

  test("may have line breaks of every kind, also mixed", async () => {
    const path = writeTempFile("mixed.csv", "text,label\r\na 1,a\na 2,a\ra 3,a\r\nb 1,b\rb 2,b\n");
    const { rows, labels, heldOutRows: heldOut } = await inspectCsv(path);
    expect({ rows, labels }).toEqual({ rows: 5, labels: 2 });
    expect(heldOut.map(({ text }) => text)).toEqual(["a 3"]);
    let buffered = "";
    for await (const chunk of readWithoutRows(path, heldOut)) buffered += Buffer.from(chunk).toString();
    expect(buffered).toBe("text,label\r\na 1,a\na 2,a\r\r\nb 1,b\rb 2,b\n");
  });

  test("holds out no text that is in the file twice", async () => {
    const path = writeTempFile("twice.csv", "text,label\na 1,a\na 2,a\nsame,a\nb 1,b\nb 2,b\nSame ,b\nc,c\n");
    expect((await inspectCsv(path)).heldOutRows).toEqual([]);
  });
});

describe("a confusion matrix", () => {
  test("is aligned, abbreviates its columns and counts wide characters as two", () => {
    const text = formatConfusion(
      {
        labels: ["返金", "bug\nreport", "buy"],
        matrix: [
          [5, 0, 1],
          [0, 120, 0],
          [0, 0, 0],
        ],
      },
      80,
    );
    expect(text.split("\n")).toEqual([
      "  true \\ predicted  返金  bug  buy   recall",
      "  返金                 5    ·    1   83.3 %",
      "  bug report           ·  120    ·  100.0 %",
      "  buy                  ·    ·    ·        –",
    ]);
  });

  test("numbers the columns where labels begin alike", () => {
    const labels = ["request_a_refund", "request_a_receipt"];
    const text = formatConfusion(
      {
        labels,
        matrix: [
          [1, 2],
          [3, 4],
        ],
      },
      80,
    );
    expect(text.split("\n")[0]).toMatch(/ 1 +2 +recall$/);
    expect(text).toMatch(/\n {2}1 request_a_refund +1 +2 +33\.3 %\n {2}2 request_a_receipt +3 +4 +57\.1 %$/);
  });

  test("becomes the most confused pairs where there are many labels", () => {
    const labels = Array.from({ length: 40 }, (_, i) => `label ${i}`);
    const matrix = labels.map((_, i) => labels.map((_, j) => (i === j ? 50 : j === i + 1 ? i : 0)));
    const lines = formatConfusion({ labels, matrix }, 100).split("\n");
    expect(lines[0]).toBe("  40 labels; the 15 most confused of 38 confused pairs:");
    expect(lines[3]).toMatch(/^ {2}label 38 +label 39 +38 +of 88$/);
    expect(lines).toHaveLength(18);
  });
});
