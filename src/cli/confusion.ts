import type { Evaluation } from "../sdk/client.ts";
import { displayWidth, formatPercent, formatTable, truncate } from "./terminal.ts";

/** The shortest prefixes of 3 to 8 characters that are all different; if there are none, the labels' numbers. */
function abbreviate(labels: readonly string[]): string[] {
  for (let length = 3; length <= 8; length++) {
    const short = labels.map((label) =>
      Array.from(truncate(label, 256))
        .slice(0, length)
        .join("")
        .replace(/[\s\p{P}]+$/u, ""),
    );
    if (new Set(short).size === labels.length && !short.includes("")) return short;
  }
  return labels.map((_, i) => `${i + 1}`);
}

/**
 * A confusion matrix as text: true labels down, predicted labels across, with each label's recall. If it has more than 30
 * labels or is wider than `columns`, the 15 most confused pairs of labels instead.
 */
export function formatConfusion({ labels, matrix }: NonNullable<Evaluation["confusion"]>, columns: number): string {
  const shortLabels = abbreviate(labels);
  const isNumbered = shortLabels[0] === "1";
  const names = labels.map((label, i) => (isNumbered ? `${i + 1} ` : "") + truncate(label, 24));
  const recall = (row: readonly number[], i: number) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return total === 0 ? "–" : formatPercent((row[i] ?? 0) / total);
  };
  const grid = [
    ["true \\ predicted", ...shortLabels, "recall"],
    ...matrix.map((row, i) => [
      names[i] ?? "",
      ...row.map((count) => (count === 0 ? "·" : `${count}`)),
      recall(row, i),
    ]),
  ];
  const text = formatTable(grid, 1);
  if (labels.length <= 30 && Math.max(...text.split("\n").map(displayWidth)) <= columns) return text;

  const pairs = matrix.flatMap((row, i) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return row.map((count, j) => ({ i, j, count, total })).filter((pair) => pair.i !== pair.j && pair.count > 0);
  });
  pairs.sort((a, b) => b.count - a.count || b.count / b.total - a.count / a.total);
  if (pairs.length === 0) return `  None of the ${labels.length} labels was taken for another.`;
  const topPairs = pairs.slice(0, 15).map(({ i, j, count, total }) => {
    return [truncate(labels[i] ?? "", 32), truncate(labels[j] ?? "", 32), `${count}`, `of ${total}`];
  });
  const title = `  ${labels.length} labels; the ${topPairs.length} most confused of ${pairs.length} confused pairs:`;
  return `${title}\n\n${formatTable([["true", "predicted", "times", ""], ...topPairs], 2)}`;
}
