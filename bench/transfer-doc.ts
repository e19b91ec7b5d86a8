/** Makes the tables and plots of docs/transfer-vs-fine-tuning.md from the runs of transfer.ts. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { mean } from "../src/core/evaluation/metrics.ts";
import { spreadOf } from "./shared/statistics.ts";

const DOC = "docs/transfer-vs-fine-tuning.md";
const PLOTS = "docs/transfer";
const MARKER = "<!-- What follows is made by `npm run bench -- transfer`. -->";
const METHODS = ["head", "last layers", "all"] as const;
const COLOURS: Record<string, string> = { head: "#1f77b4", "last layers": "#ff7f0e", all: "#2ca02c" };
const SIZES = ["2", "5", "10", "20", "50", "100", "full"];

/** One training, and the accuracy of its model. */
export interface Run {
  readonly set: string;
  readonly size: number | "full";
  readonly method: string;
  readonly seed: number;
  readonly examples: number;
  readonly labels: number;
  readonly test: number;
  readonly train: number;
  readonly parameters: number;
  readonly operations: number;
  readonly seconds: number;
}

type Value = (run: Run) => number;
type Method = (typeof METHODS)[number];

/** Writes the plots, and replaces what follows the marker in the document. The text before it is written by hand. */
export function writeDoc(runs: readonly Run[]): void {
  mkdirSync(PLOTS, { recursive: true });
  const plot = (file: string, title: string, unit: string, value: Value, logarithmic = false) => {
    const series = METHODS.map((method) => ({ name: method, points: meanBySize(runs, method, value) }));
    writeFileSync(`${PLOTS}/${file}.svg`, lineChart(title, unit, series, logarithmic));
    return `![${title}](transfer/${file}.svg)`;
  };
  const plots = [
    plot("accuracy", "Test accuracy, mean of the sets", "", ({ test }) => test),
    plot("gap", "Train accuracy less test accuracy, mean of the sets", "", ({ train, test }) => train - test),
    plot("seconds", "Seconds of training, mean of the sets", "s", ({ seconds }) => seconds, true),
    plot(
      "operations",
      "Floating-point operations of training, mean of the sets",
      "",
      ({ operations }) => operations,
      true,
    ),
    plot("parameters", "Numbers trained, mean of the sets", "", ({ parameters }) => parameters, true),
  ];
  const sets = [...new Set(runs.map(({ set }) => set))];
  const gains = sets.map((set) => ({
    name: set,
    points: SIZES.map((size) => gain(runs, set, size)),
  }));
  writeFileSync(
    `${PLOTS}/gain.svg`,
    lineChart("All layers over the frozen head, test accuracy by set", "", gains, false),
  );
  plots.push("![All layers over the frozen head](transfer/gain.svg)");
  const text = readFileSync(DOC, "utf8");
  const preface = text.slice(0, text.indexOf(MARKER));
  writeFileSync(DOC, `${preface}${MARKER}\n\n## Plots\n\n${plots.join("\n\n")}\n\n## Results\n\n${tables(runs, sets)}`);
}

function selectRuns(runs: readonly Run[], set: string | null, size: string, method: Method): Run[] {
  return runs.filter((run) => (set === null || run.set === set) && String(run.size) === size && run.method === method);
}

/** For each size, the mean over the sets of the mean over a set's seeds; null if no set has this size. */
function meanBySize(runs: readonly Run[], method: Method, value: Value): (number | null)[] {
  return SIZES.map((size) => {
    const sets = [...new Set(selectRuns(runs, null, size, method).map(({ set }) => set))];
    return sets.length === 0 ? null : mean(sets.map((set) => mean(selectRuns(runs, set, size, method).map(value))));
  });
}

function gain(runs: readonly Run[], set: string, size: string): number | null {
  const [all, head] = [selectRuns(runs, set, size, "all"), selectRuns(runs, set, size, "head")];
  if (all.length === 0 || head.length === 0) return null;
  return mean(all.map(({ test }) => test)) - mean(head.map(({ test }) => test));
}

function tables(runs: readonly Run[], sets: readonly string[]): string {
  const header =
    "| a class | examples | head | last layers | all | train − test (head / all) | numbers trained (head / all) | GFLOP (head / all) | seconds (head / last / all) |\n|---|---|---|---|---|---|---|---|---|";
  return sets
    .map((set) => {
      const lines = SIZES.flatMap((size) => {
        const [head, last, all] = METHODS.map((method) => selectRuns(runs, set, size, method));
        const first = head?.[0];
        if (!head || !last || !all || first === undefined || all.length === 0) return [];
        const meanOf = (group: readonly Run[], value: Value) => mean(group.map(value));
        const accuracy = (group: readonly Run[]) => {
          const values = group.map(({ test }) => test);
          const [low, high] = spreadOf(values).map((value) => value.toFixed(3));
          return group.length > 1 ? `${mean(values).toFixed(3)} (${low}–${high})` : mean(values).toFixed(3);
        };
        const gap: Value = ({ train, test }) => train - test;
        const formatPair = (value: Value, digits: number) =>
          `${meanOf(head, value).toFixed(digits)} / ${meanOf(all, value).toFixed(digits)}`;
        const thousands: Value = ({ parameters }) => parameters / 1000;
        return [
          `| ${size} | ${Math.round(meanOf(head, ({ examples }) => examples))} | ${accuracy(head)} | ${accuracy(last)} | ${accuracy(all)} | ${formatPair(gap, 3)} | ${formatPair(thousands, 0)} k | ${formatPair(({ operations }) => operations / 1e9, 1)} | ${[head, last, all].map((group) => meanOf(group, ({ seconds }) => seconds).toFixed(1)).join(" / ")} |`,
        ];
      });
      return `### ${set}, ${runs.find((run) => run.set === set)?.labels} labels\n\n${header}\n${lines.join("\n")}\n`;
    })
    .join("\n");
}

interface Series {
  readonly name: string;
  readonly points: readonly (number | null)[];
}

const WIDTH = 640;
const HEIGHT = 360;
const [LEFT, RIGHT, TOP, BOTTOM] = [64, 170, 36, 44];
const PALETTE = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"];

/** A line chart over the sizes, as SVG. */
function lineChart(title: string, unit: string, series: readonly Series[], logarithmic: boolean): string {
  const transform = (value: number) => (logarithmic ? Math.log10(value) : value);
  const values = series.flatMap(({ points }) => points.filter((value) => value !== null).map(transform));
  const margin = (Math.max(...values) - Math.min(...values)) * 0.05 || 0.1;
  const [low, high] = [Math.min(...values) - margin, Math.max(...values) + margin];
  const x = (i: number) => LEFT + (i * (WIDTH - LEFT - RIGHT)) / (SIZES.length - 1);
  const y = (value: number) => TOP + ((high - transform(value)) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const label = (value: number) =>
    Math.abs(value) >= 1e9
      ? `${(value / 1e9).toFixed(1)}G`
      : Math.abs(value) >= 1e6
        ? `${(value / 1e6).toFixed(1)}M`
        : Math.abs(value) >= 1e3
          ? `${(value / 1e3).toFixed(1)}k`
          : value.toFixed(Math.abs(value) < 10 ? 2 : 0);
  const ticks = Array.from({ length: 5 }, (_, i) => low + ((high - low) * i) / 4).map((tick) =>
    logarithmic ? 10 ** tick : tick,
  );
  const gridLines = ticks.map(
    (tick) =>
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(tick).toFixed(1)}" y2="${y(tick).toFixed(1)}" stroke="#ddd"/><text x="${LEFT - 6}" y="${(y(tick) + 4).toFixed(1)}" text-anchor="end">${label(tick)}${unit}</text>`,
  );
  const sizes = SIZES.map(
    (size, i) => `<text x="${x(i).toFixed(1)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${size}</text>`,
  );
  const lines = series.map(({ name, points }, n) => {
    const colour = COLOURS[name] ?? PALETTE[n % PALETTE.length];
    const coordinates = points.flatMap((value, i) =>
      value === null ? [] : [`${x(i).toFixed(1)},${y(value).toFixed(1)}`],
    );
    const dots = coordinates.map(
      (point) => `<circle cx="${point.split(",")[0]}" cy="${point.split(",")[1]}" r="3" fill="${colour}"/>`,
    );
    const legendY = TOP + 16 * n + 8;
    return `<polyline points="${coordinates.join(" ")}" fill="none" stroke="${colour}" stroke-width="2"/>${dots.join("")}<rect x="${WIDTH - RIGHT + 14}" y="${legendY - 8}" width="10" height="10" fill="${colour}"/><text x="${WIDTH - RIGHT + 30}" y="${legendY + 1}">${name}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12"><title>${title}</title><rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/><text x="${LEFT}" y="20" font-size="14">${title}</text>${gridLines.join("")}${sizes.join("")}<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}" text-anchor="middle">examples a class</text>${lines.join("")}</svg>\n`;
}
