/** Makes docs/transfer-vs-fine-tuning.md and its plots from the runs of transfer.ts. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mean } from "../../src/core/evaluation/metrics.ts";
import { spreadOf } from "../shared/statistics.ts";
import { type Chart, lineChart, type Series } from "./chart.ts";
import { caveats, describeGrid, findings } from "./findings.ts";
import { formatAccuracy } from "./format.ts";
import {
  accuracy,
  gainsBySet,
  gap,
  type Method,
  meanBySet,
  methods,
  type Run,
  type Size,
  select,
  setsOf,
  sizes,
  type Value,
} from "./run.ts";

const TABLE_HEADER = `| a class | examples | head | last layers | all | train − test (head / last / all) | numbers trained (head / last / all) | GFLOP (head / last / all) | seconds (head / last / all) |
|---|---|---|---|---|---|---|---|---|`;

/** Writes the page and its plots into a folder. */
export function writePage(runs: readonly Run[], folder: string): void {
  const plotFolder = join(folder, "transfer");
  rmSync(plotFolder, { recursive: true, force: true });
  mkdirSync(plotFolder, { recursive: true });
  const models = [...new Set(runs.map(({ model }) => model))];
  const plots = models.flatMap((model) =>
    chartsOf(model, select(runs, { model })).map(([name, chart]) => {
      writeFileSync(join(plotFolder, `${model}-${name}.svg`), lineChart(chart));
      return `![${chart.title}](transfer/${model}-${name}.svg)`;
    }),
  );
  const sections = [
    preface(runs),
    fiveWays(runs, models),
    notSupported(runs, models),
    `## Plots\n\n${plots.join("\n\n")}`,
    ...models.map((model) => `## Results of ${model}\n\n${tables(select(runs, { model }))}`),
  ];
  writeFileSync(join(folder, "transfer-vs-fine-tuning.md"), `${sections.join("\n\n")}\n`);
}

function preface(runs: readonly Run[]): string {
  const seen = setsOf(runs.filter((run) => run.seenInPretraining)).map((set) => `\`${set}\``);
  const most = Math.max(...runs.map(({ examples }) => examples));
  return `# Transfer learning and fine-tuning, measured

\`npm run bench -- transfer --data DIR --json bench/results/transfer.json\` makes this page:
${describeGrid(runs)}. Each sample
is trained on in three ways, and tested on the same texts (at most 1,000 of a test set). "All examples" are those of the
set, cut to 2,000 or, with many labels, 60 a label: at most ${most.toLocaleString("en")}.

- **head**: transfer learning. The backbone is frozen; a head is trained on its embeddings, with lexical features if its own
  held-out examples favour them.
- **last layers**: the head and the last layers of the backbone. Of the deep model, \`text-use-1\`, these are the second
  transformer layer and the tanh layer (\`{"last_layers": 2}\`); of the table, \`text-static-1\`, the convolution
  (\`{"last_layers": 1}\`).
- **all**: every layer (\`"all"\`), at two sizes. Both as in [fine-tuning.md](fine-tuning.md), with the defaults.

Pre-training of \`text-static-1\`, which is a part of \`text-use-1\`, has seen the training texts of ${seen.join(", ") || "none of the sets"}.
Operations are exact, seconds depend on what else the machine did. Of all examples, a first training on nine tenths finds
how long to train; it is included. The comparison of a job, which doubles the cost, is not.`;
}

function fiveWays(runs: readonly Run[], models: readonly string[]): string {
  const items = findings.map(({ title, describe }, i) => {
    const lines = models.map((model) => `   - \`${model}\`: ${describe(select(runs, { model }))}`);
    return `${i + 1}. **${title}.**\n${lines.join("\n")}`;
  });
  return `## Five ways in which they differ\n\nMeans over the sets; differences of accuracy in points.\n\n${items.join("\n")}`;
}

function notSupported(runs: readonly Run[], models: readonly string[]): string {
  const lines = models.flatMap((model) =>
    caveats(select(runs, { model })).map((caveat) => `- \`${model}\`: ${caveat}.`),
  );
  return `## What the numbers do not support

${lines.join("\n")}
- Anything about other backbones, longer texts or languages other than English.`;
}

function chartsOf(model: string, runs: readonly Run[]): [string, Chart][] {
  const xAxis = { xTitle: "examples a class", xLabels: sizes.map(String) };
  const chart = (title: string, value: Value, more: Partial<Chart> = {}): Chart => ({
    title: `${model}: ${title}, mean of the sets`,
    ...xAxis,
    series: methods.map((method): Series => {
      const points = sizes.map((size) => meanBySet(select(runs, { size, method }), value));
      return { name: method, points };
    }),
    ...more,
  });
  const gains = setsOf(runs).map((set): Series => {
    const ofSet = select(runs, { set });
    return { name: set, points: sizes.map((size) => gainsBySet(ofSet, size, "last layers")[0]?.gain ?? null) };
  });
  return [
    ["accuracy", chart("test accuracy", accuracy)],
    ["gap", chart("train accuracy less test accuracy", gap)],
    ["seconds", chart("seconds of training", ({ seconds }) => seconds, { unit: "s", logarithmic: true })],
    ["operations", chart("floating-point operations", ({ operations }) => operations, { logarithmic: true })],
    ["parameters", chart("numbers trained", ({ parameters }) => parameters, { logarithmic: true })],
    ["gain", { title: `${model}: the last layers over the frozen head, test accuracy`, ...xAxis, series: gains }],
  ];
}

function tables(runs: readonly Run[]): string {
  return setsOf(runs)
    .map((set) => {
      const ofSet = select(runs, { set });
      const lines = sizes.flatMap((size) => tableLine(select(ofSet, { size }), size) ?? []);
      return `### ${set}, ${ofSet[0]?.labels} labels\n\n${TABLE_HEADER}\n${lines.join("\n")}`;
    })
    .join("\n\n");
}

function tableLine(runs: readonly Run[], size: Size): string | null {
  if (runs.length === 0) return null;
  const formatEach = (format: (group: readonly Run[]) => string) =>
    methods.map((method: Method) => {
      const group = select(runs, { method });
      return group.length === 0 ? "–" : format(group);
    });
  const meanOf = (value: Value, digits: number) =>
    formatEach((group) => mean(group.map(value)).toFixed(digits)).join(" / ");
  const accuracies = formatEach((group) => {
    const values = group.map(accuracy);
    const spread = values.length > 1 ? ` (${spreadOf(values).map(formatAccuracy).join("–")})` : "";
    return `${formatAccuracy(mean(values))}${spread}`;
  });
  const cells = [
    size,
    Math.round(mean(runs.map(({ examples }) => examples))),
    ...accuracies,
    formatEach((group) => formatAccuracy(mean(group.map(gap)))).join(" / "),
    `${meanOf(({ parameters }) => parameters / 1000, 0)} k`,
    meanOf(({ operations }) => operations / 1e9, 1),
    meanOf(({ seconds }) => seconds, 1),
  ];
  return `| ${cells.join(" | ")} |`;
}
