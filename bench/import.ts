/**
 * A whole dataset through the API of the real Worker: import as a stream, training with the default evaluation, ten more
 * examples, training again. Measures the time and the peak memory of the runtime's process in each step.
 *
 *   npm run bench -- import --data DIR     DIR has train.csv and val.csv, such as CLINC150's 15,000 rows
 *
 * The process is the whole runtime, not only the isolate: the row "idle" is its memory before the first step.
 */
import { createReadStream, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "csv-parse/sync";
import { type LocalWorker, withWorker } from "./shared/local-worker.ts";
import { peakMegabytes, resetPeakMemory } from "./shared/memory.ts";
import { readOptions } from "./shared/options.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median, spreadOf } from "./shared/statistics.ts";

export const runs = 3;
const ADDED_EXAMPLES = 10;
const head = { name: "head", dataset: "data", backbone: "text-static-1", method: "head" } as const;

interface Step {
  readonly name: string;
  readonly seconds: number;
  readonly megabytes: number | null;
}

async function measure(
  { graft, pid }: LocalWorker,
  train: string,
  extraExamples: readonly { text: string; label: string }[],
): Promise<Step[]> {
  const steps: Step[] = [{ name: "idle", seconds: 0, megabytes: peakMegabytes(pid) }];
  async function step<T>(name: string, work: () => Promise<T>): Promise<T> {
    console.error(`${name} …`);
    resetPeakMemory(pid);
    const started = performance.now();
    const result = await work();
    steps.push({ name, seconds: (performance.now() - started) / 1000, megabytes: peakMegabytes(pid) });
    return result;
  }
  await graft.datasets.create({ name: "data", task: "single_label", modality: "text" });
  await step("import", () => graft.datasets.import("data", createReadStream(train), "text/csv"));
  await step("train", () => graft.heads.train(head));
  await step(`add ${ADDED_EXAMPLES} examples`, () => graft.datasets.add("data", extraExamples));
  await step("train again", () => graft.heads.train(head));
  return steps;
}

/** Measures each step in several runs, with a fresh Worker each. */
export async function run(): Promise<Row[]> {
  const { data } = readOptions();
  const train = join(data, "train.csv");
  if (!existsSync(train)) throw new Error(`There is no ${train}; name a folder with train.csv and val.csv by --data.`);
  const validationRows = parse(readFileSync(join(data, "val.csv")), { bom: true, columns: true }) as {
    text: string;
    label: string;
  }[];
  const extraExamples = validationRows.slice(0, ADDED_EXAMPLES).map(({ text, label }) => ({ text, label }));
  const measured: Step[][] = [];
  for (let i = 0; i < runs; i++) measured.push(await withWorker((worker) => measure(worker, train, extraExamples)));
  const names = measured[0]?.map(({ name }) => name) ?? [];
  return names.flatMap((name, i) => {
    const steps = measured.map((steps) => steps[i] as Step);
    const seconds = steps.map((step) => step.seconds);
    const memory = steps.flatMap(({ megabytes }) => (megabytes === null ? [] : [megabytes]));
    const rows = [toRow(name, "peak memory", "MB", memory)];
    return name === "idle" ? rows : [toRow(name, "time", "s", seconds), ...rows];
  });
}

function toRow(name: string, measure: string, unit: string, values: readonly number[]): Row {
  const spread = spreadOf(values);
  return makeRow({ case: name, measure, value: median(values), unit, spread });
}
