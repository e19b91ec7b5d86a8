/**
 * Compares transfer learning and fine-tuning: trains a head alone, the last layers, and all layers, on the same samples of
 * labelled sets, from two examples a class to the whole set.
 *
 *   npm run bench -- transfer --data DIR
 *
 * Writes the tables and plots of docs/transfer-vs-fine-tuning.md (transfer-doc.ts). The sets are those of
 * shared/text-datasets.ts, with at most 2,000 test texts. Every run is stored, so that an interrupted measurement resumes.
 */
import { parseArgs } from "node:util";
import { mean } from "../src/core/evaluation/metrics.ts";
import { seededRandom, shuffle } from "../src/core/random.ts";
import { cached } from "./shared/cached.ts";
import { accuracyOn, type Prepared, prepareSplit, type Trained, trainHead, trainLayers } from "./shared/in-process.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { spreadOf } from "./shared/statistics.ts";
import { readTextDatasets, type Split, sampleByLabel } from "./shared/text-datasets.ts";
import { type Run, writeDoc } from "./transfer-doc.ts";

const SETS =
  /^(hwu64 full|clinc150_full|snips full|bitext_support27|query_wellformedness|multidogo_airline|goemotions_ekman single|mr_polarity 10-fold)$/;
const SIZES = [2, 5, 10, 20, 50, 100, "full"] as const;
const SMALL_SIZE = 10;
const SEEDS = 3;
const MAX_TEST_ROWS = 2_000;

const methods: Record<string, (prepared: Prepared) => Promise<Trained>> = {
  head: trainHead,
  "last layers": (prepared) => trainLayers(prepared, 1),
  all: (prepared) => trainLayers(prepared, 2),
};

/** Every run, newly measured or stored. */
async function measure(folder: string): Promise<Run[]> {
  const all: Run[] = [];
  for (const set of readTextDatasets(folder, SETS)) {
    const { train, test } = set.splits[0] as Split;
    const testRows = subsample(test, MAX_TEST_ROWS);
    const labels = new Set(train.map(({ label }) => label)).size;
    for (const size of SIZES) {
      const seeds = size !== "full" && size <= SMALL_SIZE ? SEEDS : 1;
      // A sample of nearly the whole set shows the same as the whole set.
      if (size !== "full" && size * labels > 0.8 * train.length) continue;
      for (let seed = 0; seed < seeds; seed++) {
        let prepared: Prepared | null = null;
        for (const [method, run] of Object.entries(methods)) {
          const name = `${set.name} ${size} ${method} ${seed}`;
          const result = await cached("transfer", name, async (): Promise<Run> => {
            const rows = size === "full" ? train : sampleByLabel(train, size, seed);
            prepared ??= await prepareSplit({ train: rows, test: testRows }, seed, "auto");
            const trained = await run(prepared);
            const { parameters, operations, seconds } = trained;
            return {
              set: set.name,
              size,
              method,
              seed,
              examples: rows.length,
              labels,
              test: await accuracyOn(prepared, prepared.test, trained.model),
              train: await accuracyOn(prepared, subsample(prepared.train, MAX_TEST_ROWS), trained.model),
              parameters,
              operations,
              seconds,
            };
          });
          console.error(
            `${name}: ${result.test.toFixed(3)} (train ${result.train.toFixed(3)}), ${result.seconds.toFixed(1)} s`,
          );
          all.push(result);
        }
      }
    }
  }
  return all;
}

function subsample<T>(rows: readonly T[], limit: number): readonly T[] {
  return rows.length <= limit ? rows : shuffle([...rows], seededRandom(7)).slice(0, limit);
}

export async function run(): Promise<Row[]> {
  const { values } = parseArgs({
    allowPositionals: true,
    options: { data: { type: "string", default: "" }, json: { type: "string" } },
  });
  const all = await measure(values.data);
  writeDoc(all);
  const rows: Row[] = [];
  for (const group of Map.groupBy(all, ({ set, size, method }) => `${set}, ${size} a class, ${method}`).entries()) {
    const [name, groupRuns] = group;
    const addRow = (measure: string, value: (run: Run) => number, unit = "") => {
      const values = groupRuns.map(value);
      const spread = groupRuns.length > 1 ? spreadOf(values) : null;
      rows.push(makeRow({ case: name, measure, value: mean(values), unit, spread }));
    };
    addRow("examples", ({ examples }) => examples);
    addRow("test accuracy", ({ test }) => test);
    addRow("train accuracy", ({ train }) => train);
    addRow("parameters", ({ parameters }) => parameters);
    addRow("operations", ({ operations }) => operations);
    addRow("time", ({ seconds }) => seconds, "s");
  }
  return rows;
}
