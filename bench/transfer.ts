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
import { mean } from "../src/core/evaluation/metrics.ts";
import { cached } from "./shared/cached.ts";
import { accuracyOn, type Prepared, prepareSplit, type Trained, trainHead, trainLayers } from "./shared/in-process.ts";
import { readOptions } from "./shared/options.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { spreadOf } from "./shared/statistics.ts";
import { OPERATIONS_PER_SECOND } from "./shared/training-work.ts";
import { type Draw, MAX_TEST_ROWS, readDraws, subsample } from "./transfer/draws.ts";
import { writePage } from "./transfer/page.ts";
import type { Run } from "./transfer/run.ts";
import { BENCH, runName, storedRuns } from "./transfer/stored.ts";

const MAX_HOURS = 8;

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

export async function run(): Promise<Row[]> {
  const { data, only, stored } = readOptions();
  const draws = readDraws(data);
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
