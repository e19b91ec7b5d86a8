/** What the command line computes, without a Worker. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { formatConfusion } from "../../src/cli/confusion.ts";
import { inspectCsv, readWithoutRows } from "../../src/cli/csv.ts";

const folder = mkdtempSync(join(tmpdir(), "graft-cli-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function writeTempFile(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

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
