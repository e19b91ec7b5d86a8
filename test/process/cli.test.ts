/** What the command line computes, without a Worker. */
import { describe, expect, test } from "vitest";
import { formatConfusion } from "../../src/cli/confusion.ts";
import { chooseHeldOutRows } from "../../src/cli/held-out.ts";

async function* exportOf(...rows: readonly (readonly [text: string, label: string])[]): AsyncGenerator<string> {
  for (const [i, [text, label]] of rows.entries()) yield JSON.stringify({ id: `${i}`, text, label });
}

describe("rows that are held out", () => {
  test("are the third of their labels, also where a text has line breaks", async () => {
    const rows = [1, 2, 3, 4].flatMap((i) => [
      [`a\n${i}`, "a"] as const,
      [`b ${i}`, "b"] as const,
      [`c ${i}`, "c"] as const,
    ]);
    expect(await chooseHeldOutRows(exportOf(...rows))).toEqual([{ id: "6", text: "a\n3", label: "a" }]);
    const many = ["d", "e", "f", "g", "h"].flatMap((label) =>
      [1, 2, 3, 4, 5, 6].map((i) => [`${label} ${i}`, label] as const),
    );
    const heldOut = await chooseHeldOutRows(exportOf(...rows, ...many));
    expect(heldOut.map(({ label }) => label)).toEqual(["a", "c", "e", "g"]);
  });

  test("have a text that comes only once", async () => {
    const rows = [
      ["a 1", "a"],
      ["a 2", "a"],
      ["same", "a"],
      ["b 1", "b"],
      ["b 2", "b"],
      ["Same ", "b"],
      ["c", "c"],
    ] as const;
    expect(await chooseHeldOutRows(exportOf(...rows))).toEqual([]);
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
