/**
 * Where transfer learning and fine-tuning differ: a frozen head, the last layers and all layers trained on the same draws of
 * labelled sets, from two examples a class to all there are.
 *
 *   npm run bench -- transfer --data DIR
 *
 * Writes the tables and plots of docs/transfer-vs-fine-tuning.md (transfer-doc.ts). A set's training and test files are
 * those of text-sets.ts, of the test texts at most 2,000. Every run is kept, so that a measurement which was cut off goes on.
 */
import { parseArgs } from "node:util";
import { mean } from "../src/core/evaluation/metrics.ts";
import { seededRandom, shuffle } from "../src/core/random.ts";
import { accuracyOn, type Prepared, prepareSplit, type Trained, trainHead, trainLayers } from "./in-process.ts";
import { kept } from "./kept.ts";
import { noPeer, type Row } from "./report.ts";
import { draw, type Split, textSets } from "./text-sets.ts";
import { writeDoc } from "./transfer-doc.ts";

const SETS =
  /^(hwu64 full|clinc150_full|snips full|bitext_support27|query_wellformedness|multidogo_airline|goemotions_ekman single|mr_polarity 10-fold)$/;
const SIZES = [2, 5, 10, 20, 50, 100, "full"] as const;
const SMALL = 10;
const SEEDS = 3;
const MOST_TESTED = 2_000;

const methods: Record<string, (prepared: Prepared) => Promise<Trained>> = {
  head: trainHead,
  "last layers": (prepared) => trainLayers(prepared, false),
  all: (prepared) => trainLayers(prepared, true),
};

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

/** Every run, measured now or before. */
async function measure(folder: string): Promise<Run[]> {
  const all: Run[] = [];
  for (const set of textSets(folder, SETS)) {
    const { train, test } = set.splits[0] as Split;
    const tested = some(test, MOST_TESTED);
    const labels = new Set(train.map(({ label }) => label)).size;
    for (const size of SIZES) {
      const seeds = size !== "full" && size <= SMALL ? SEEDS : 1;
      // A draw that is nearly everything says what everything does.
      if (size !== "full" && size * labels > 0.8 * train.length) continue;
      for (let seed = 0; seed < seeds; seed++) {
        let prepared: Prepared | null = null;
        for (const [method, run] of Object.entries(methods)) {
          const name = `${set.name} ${size} ${method} ${seed}`;
          const done = await kept("transfer", name, async (): Promise<Run> => {
            const rows = size === "full" ? train : draw(train, size, seed);
            prepared ??= prepareSplit({ train: rows, test: tested }, seed, "auto");
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
              train: await accuracyOn(prepared, some(prepared.train, MOST_TESTED), trained.model),
              parameters,
              operations,
              seconds,
            };
          });
          console.error(
            `${name}: ${done.test.toFixed(3)} (train ${done.train.toFixed(3)}), ${done.seconds.toFixed(1)} s`,
          );
          all.push(done);
        }
      }
    }
  }
  return all;
}

function some<T>(rows: readonly T[], most: number): readonly T[] {
  return rows.length <= most ? rows : shuffle([...rows], seededRandom(7)).slice(0, most);
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
    const [name, of] = group;
    const figure = (measure: string, value: (run: Run) => number, unit = "") => {
      const values = of.map(value);
      const spread = of.length > 1 ? ([Math.min(...values), Math.max(...values)] as const) : null;
      rows.push({ case: name, measure, value: mean(values), unit, ...noPeer, spread, target: null, met: null });
    };
    figure("examples", ({ examples }) => examples);
    figure("test accuracy", ({ test }) => test);
    figure("train accuracy", ({ train }) => train);
    figure("parameters", ({ parameters }) => parameters);
    figure("operations", ({ operations }) => operations);
    figure("time", ({ seconds }) => seconds, "s");
  }
  return rows;
}
