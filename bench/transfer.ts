/**
 * Compares transfer learning and fine-tuning: trains a head alone, the last layers, and all layers, of text-use-1 and of
 * text-static-1, on the same samples of labelled sets.
 *
 *   npm run bench -- transfer --data DIR [--only PATTERN] [--stored]
 *
 * The sets are those of shared/text-datasets.ts. Every run is stored, so that an interrupted measurement resumes. The
 * shortest come first. When all runs are there, it writes docs/transfer-vs-fine-tuning.md and its plots (transfer/page.ts);
 * before that, a preview in .graft/bench/transfer.
 */
import { join } from "node:path";
import type { Backbone } from "../src/backbones/backbone.ts";
import { textStatic, textUse } from "../src/backbones/node.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { seededRandom, shuffle } from "../src/core/random.ts";
import { cached, readStored } from "./shared/cached.ts";
import { accuracyOn, type Prepared, prepareSplit, type Trained, trainHead, trainLayers } from "./shared/in-process.ts";
import { readOptions } from "./shared/options.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { spreadOf } from "./shared/statistics.ts";
import { readTextDatasets, type Split, sampleByLabel, type TextDataset } from "./shared/text-datasets.ts";
import {
  countTokens,
  OPERATIONS_PER_SECOND,
  staticTrainingOperations,
  trainingOperations,
  type Work,
  workOf,
} from "./shared/training-work.ts";
import { writePage } from "./transfer/page.ts";
import { type Method, methods, type Run, type Size, sizes } from "./transfer/run.ts";

const BENCH = "transfer";
const SETS =
  /^(hwu64 full|clinc150_full|snips full|bitext_support27|query_wellformedness|goemotions_ekman single|mr_polarity 10-fold|multidogo_(airline|finance|insurance|media|software))$/;
/** Up to this size there are several draws. */
const SMALL_SIZE = 10;
const DRAWS = 3;
const SIZES_OF_ALL: readonly Size[] = [10, "full"];
const MAX_TEST_ROWS = 1_000;
/** A whole set has at most so many rows, or so many a label if that is more; and so many sub-words. */
const MAX_ROWS = 2_000;
const MAX_ROWS_A_LABEL = 60;
const MAX_TOKENS = 100_000;
const MAX_HOURS = 8;
/** From so many rows on, a first training finds the number of epochs on a part of them. */
const ROWS_OF_TWO_TRAININGS = 2_000;

interface Model {
  readonly backbone: Backbone;
  /** How many layers are trained, from the last. */
  readonly layers: Readonly<Record<Method, number>>;
  readonly operations: (work: Work, layers: number) => number;
}

const models: readonly Model[] = [
  { backbone: textUse, layers: { head: 0, "last layers": 2, all: 4 }, operations: trainingOperations },
  {
    backbone: textStatic,
    layers: { head: 0, "last layers": 1, all: 2 },
    operations: (work, layers) => (layers === 0 ? 0 : staticTrainingOperations(work)),
  },
];

/** Trainings on one sample of a set. */
interface Draw {
  readonly name: string;
  readonly model: Model;
  readonly set: TextDataset;
  readonly size: Size;
  readonly seed: number;
  readonly methods: readonly Method[];
  readonly split: Split;
  readonly operations: number;
}

function makeDraws(sets: readonly TextDataset[]): Draw[] {
  return sets.flatMap((set) => {
    const { train, test } = set.splits[0] as Split;
    const labels = new Set(train.map(({ label }) => label)).size;
    const whole = capTokens(subsample(train, Math.max(MAX_ROWS, MAX_ROWS_A_LABEL * labels)));
    const testRows = subsample(test, MAX_TEST_ROWS);
    return sizes.flatMap((size) =>
      Array.from({ length: size !== "full" && size <= SMALL_SIZE ? DRAWS : 1 }, (_, seed) => {
        const split = { train: size === "full" ? whole : sampleByLabel(train, size, seed), test: testRows };
        return models.map((model) => makeDraw(model, set, size, seed, split));
      }).flat(),
    );
  });
}

function makeDraw(model: Model, set: TextDataset, size: Size, seed: number, split: Split): Draw {
  const work = workOf(split.train);
  const trainings = split.train.length < ROWS_OF_TWO_TRAININGS ? 1 : 2;
  const drawMethods = methods.filter((method) => method !== "all" || SIZES_OF_ALL.includes(size));
  const layers = drawMethods.map((method) => model.layers[method]).filter((count) => count > 0);
  const embedding = model.operations(work, 0) + model.operations(workOf(split.test), 0);
  const operations =
    embedding * drawMethods.length + layers.reduce((sum, count) => sum + trainings * model.operations(work, count), 0);
  const name = `${model.backbone.id}, ${set.name}, ${size}, draw ${seed}`;
  return { name, model, set, size, seed, methods: drawMethods, split, operations };
}

function subsample<T>(rows: readonly T[], limit: number): readonly T[] {
  return rows.length <= limit ? rows : shuffle([...rows], seededRandom(7)).slice(0, limit);
}

function capTokens(rows: Split["train"]): Split["train"] {
  let tokens = 0;
  return rows.filter(({ text }) => {
    tokens += countTokens(text);
    return tokens <= MAX_TOKENS;
  });
}

const runName = ({ name }: Draw, method: Method) => `${name}, ${method}`;

/** The draw's runs, newly measured or stored. */
async function measure(draw: Draw): Promise<Run[]> {
  const { model, set, size, seed, split } = draw;
  let prepared: Prepared | null = null;
  const runs: Run[] = [];
  for (const method of draw.methods) {
    const result = await cached(BENCH, runName(draw, method), async (): Promise<Run> => {
      prepared ??= await prepareSplit(split, seed, "auto", model.backbone);
      const layers = model.layers[method];
      const trained: Trained = await (layers === 0 ? trainHead(prepared) : trainLayers(prepared, layers));
      const { parameters, operations, seconds } = trained;
      return {
        model: model.backbone.id,
        set: set.name,
        seenInPretraining: set.seenInPretraining,
        size,
        method,
        seed,
        examples: split.train.length,
        labels: new Set(split.train.map(({ label }) => label)).size,
        test: await accuracyOn(prepared, prepared.test, trained.model),
        train: await accuracyOn(prepared, subsample(prepared.train, MAX_TEST_ROWS), trained.model),
        parameters,
        operations,
        seconds,
      };
    });
    const { test, train, seconds } = result;
    console.error(`${runName(draw, method)}: ${test.toFixed(3)} (train ${train.toFixed(3)}), ${seconds.toFixed(1)} s`);
    runs.push(result);
  }
  return runs;
}

const storedRuns = (draw: Draw) =>
  draw.methods.flatMap((method) => readStored<Run>(BENCH, runName(draw, method)) ?? []);

export async function run(): Promise<Row[]> {
  const { data, only, stored } = readOptions();
  const draws = makeDraws(readTextDatasets(data, SETS));
  const hoursOf = (some: readonly Draw[]) =>
    some.reduce((sum, { operations }) => sum + operations, 0) / OPERATIONS_PER_SECOND / 3600;
  const isOpen = (draw: Draw) => storedRuns(draw).length < draw.methods.length;
  const chosen = draws.filter((draw) => new RegExp(only).test(draw.name));
  const open = chosen.filter(isOpen).sort((a, b) => a.operations - b.operations);
  console.error(
    `About ${hoursOf(draws).toFixed(1)} CPU-hours at ${OPERATIONS_PER_SECOND / 1e9} GFLOP a second in all,`,
  );
  console.error(
    `${hoursOf(open).toFixed(2)} of them in the ${open.length} of ${chosen.length} draws that are to be measured.`,
  );
  for (const draw of stored ? [] : open) await measure(draw);
  const runs = draws.flatMap(storedRuns);
  if (runs.length === 0) return [];
  const isComplete = !draws.some(isOpen);
  writePage(runs, isComplete ? "docs" : join(".graft", "bench", BENCH));
  const hours = hoursOf(draws);
  const estimate = { case: "all runs", measure: "CPU time by their operations", value: hours, unit: "h" };
  return [makeRow({ ...estimate, target: `≤ ${MAX_HOURS}`, met: hours <= MAX_HOURS }), ...runRows(runs)];
}

function runRows(runs: readonly Run[]): Row[] {
  const groups = Map.groupBy(runs, ({ model, set, size, method }) => `${model}, ${set}, ${size} a class, ${method}`);
  return [...groups].flatMap(([name, group]) => {
    const row = (measure: string, value: (run: Run) => number, unit = "") => {
      const values = group.map(value);
      return makeRow({
        case: name,
        measure,
        value: mean(values),
        unit,
        spread: values.length > 1 ? spreadOf(values) : null,
      });
    };
    return [
      row("examples", ({ examples }) => examples),
      row("test accuracy", ({ test }) => test),
      row("train accuracy", ({ train }) => train),
      row("parameters", ({ parameters }) => parameters),
      row("operations", ({ operations }) => operations),
      row("time", ({ seconds }) => seconds, "s"),
    ];
  });
}
