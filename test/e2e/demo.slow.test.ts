import { execFile } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { serve } from "../../src/server/runtime.ts";

const root = resolve(import.meta.dirname, "../..");
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "graft-demo-test-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function writeTempFile(name: string, content: string | Uint8Array): string {
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
async function runCommand(
  command: string,
  args: readonly string[],
  { interruptAt, env }: { readonly interruptAt?: string; readonly env?: Record<string, string> } = {},
): Promise<RunResult> {
  const temporary = mkdtempSync(join(folder, "tmp-"));
  const child = execFile(command, args, { cwd: root, env: { ...process.env, TMPDIR: temporary, ...env } });
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

const demo = [join(root, "src/cli.ts"), "demo"];
/** The demo with a Worker that is built already. */
const runDemo = (...args: readonly string[]) =>
  runCommand(process.execPath, [...demo, ...args], { env: { BUNDLE_DIR: inject("bundles").deployed } });

const colours = ["red", "green", "blue"];
const things = ["door", "car", "house", "shirt", "lamp", "bag", "chair", "book", "phone", "cup", "hat", "wall"];
const rows = things.flatMap((thing) => colours.map((colour) => `"a ${colour} ${thing}, please",${colour}`));

describe("the demo", () => {
  test("trains on the example tickets, shows its evaluation and classifies unseen texts", async () => {
    // Of the comparison of the methods, the smallest sample of each set alone.
    const { code, out, err, leftovers } = await runCommand(process.execPath, [...demo, "--seconds", "20"]);
    expect(code, err).toBe(0);
    expect(out).toContain("What was read of examples/support-tickets.csv");
    expect(out).toContain("csv, utf-8, separated by \",\"; text from 'text'; label from 'label'");
    expect(out).toMatch(/8 labels, 632 examples/);
    expect(Number(/accuracy +([\d.]+) %/.exec(out)?.[1])).toBeGreaterThan(80);
    expect(out).toMatch(/billing_refund( +(\d+|·)){8} +[\d.]+ %\n/);
    expect(out).toMatch(/New laptop, and now the verification code .+ [01]\.\d\d +password_login\n/);
    expect(out).toMatch(/We won't be needing your service .+ [01]\.\d\d +cancel_account\n/);
    expect(out).toMatch(/Our bookkeeper is asking for a VAT receipt .+ [01]\.\d\d +invoice_request\n/);
    expect(out).toMatch(/Train and evaluate a head +[\d.]+ m?s\n/);
    for (const title of ["Support tickets", "Status updates"]) {
      const section = out.slice(out.indexOf(`Both methods on the same rows. ${title}`));
      expect(section).toMatch(/Accuracy on 2\d\d other texts/);
      expect(section).toMatch(/\n +\d+ +[\d.]+ % \([\d.]+–[\d.]+\) +[\d.]+ % \([\d.]+–[\d.]+\)\n/);
      expect(section).toMatch(/what is trained +numbers +[\d,]+ +30,0\d\d,\d\d\d\n/);
      expect(section).toMatch(/the cost is +estimated +measured\n/);
      expect(section).toMatch(/Recommended: [a-z-]+.* \(confidence [\d.]+ %\)\. Measured on a sample of \d+ examples/);
    }
    expect(err).toContain("Build the Worker …\n");
    expect(leftovers).toEqual([]);
    // It trains both methods, which takes half a minute where nothing else runs.
  }, 240_000);

  test("holds out rows of one's own file and says which it got right, and what was left out and why", async () => {
    const rowsOfFile = rows.map((row) => row.replace(/^"(.*)",(.*)$/, "Süß\n$1;$2").replace("\n", " "));
    const content = `message;tag;note\r\n${rowsOfFile.join("\r\n")}\r\n;red\r\n"two\nlines";red\r\n`;
    const customFile = writeTempFile("own file.csv", Buffer.from(content, "latin1"));
    const { code, out, err, leftovers } = await runDemo(customFile);
    expect(code, err).toBe(0);
    expect(out).toContain("csv, windows-1252, separated by \";\"; text from 'message'; label from 'tag'");
    expect(out).toContain("Ignored columns: note.");
    expect(out).toContain("37 examples.");
    expect(out).toContain("3 labels, 34 examples");
    expect(out).toContain("Line 38 left out: The text is empty.");
    for (const colour of colours)
      expect(out).toMatch(new RegExp(`Süß a ${colour} house, please +[01]\\.\\d\\d +\\w+ +${colour} +(right|wrong)\n`));
    expect(out).toContain(`--data-binary @'${customFile}'`);
    expect(leftovers).toEqual([]);
  });

  test.each([
    ["a missing file", () => join(folder, "none.csv"), /^There is no file '.+none\.csv'\.\n$/],
    ["a folder", () => folder, /^'.+' is not a file\.\n$/],
    ["an empty file", () => writeTempFile("empty.csv", ""), /^'.+' is empty\.\n$/],
    [
      "a header that is not known",
      () => writeTempFile("columns.csv", "a,b\nc,d\n"),
      /^The CSV's first line has 'a', 'b', separated by a comma\. No column is known to be the text\./,
    ],
    [
      "rows of which none is good",
      () => writeTempFile("bad.csv", "text,label\n,x\n"),
      /^Nothing was stored: 1 of 1 rows are not valid\. Line 2: The text is empty/,
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

  test("says what it read of a file on which no head can be trained", async () => {
    const { code, out, err } = await runDemo(writeTempFile("one.csv", "text,label\na,x\nb,x\n,x\n"));
    expect(code).toBe(1);
    expect(out).toContain("Line 4 left out: The text is empty.");
    expect(err).toMatch(/Training needs .*two labels/);
  });

  test.each(["Build the Worker", "Start it on workerd", "Train a head and fine-tune"])(
    "leaves nothing when stopped at '%s'",
    async (step) => {
      const env: Record<string, string> = step === "Build the Worker" ? {} : { BUNDLE_DIR: inject("bundles").deployed };
      const { code, leftovers } = await runCommand(process.execPath, demo, { interruptAt: step, env });
      expect(code).toBe(130);
      expect(leftovers).toEqual([]);
    },
  );

  test("tells how to use it where the arguments are wrong", async () => {
    for (const wrong of [["train"], ["demo", "--seconds", "none"]]) {
      const { code, err } = await runCommand(process.execPath, [join(root, "src/cli.ts"), ...wrong]);
      expect(code).toBe(1);
      expect(err).toMatch(/^Usage: npm run demo/);
    }
  });
});

test("the commands that the demo prints do the same by hand", async () => {
  const adminKey = "operator-of-the-demo-test";
  const options = { port: 0, stateDir: join(folder, "state"), adminKey, log: () => undefined };
  const server = await serve(inject("bundles").deployed, options);
  try {
    const customFile = writeTempFile("by hand's.csv", `${rows.join("\n")}\n`);
    const { out } = await runDemo(customFile, "--text", "1", "--label", "2");
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
  } finally {
    await server.stop();
  }
});
