/**
 * Evaluates a head on a separate test set, through the HTTP API of the real Worker on this machine:
 *
 *   npm run eval -- DIR [--train train_10.csv] [--backbone ID] [--json FILE]
 *
 * DIR has train.csv and test.csv with the columns text and label. Test rows whose label is not in the training file are
 * counted as left_out, and not used:
 *
 *   macro_f1   mean F1 over the labels in the test file
 *   ece        expected calibration error of the top probability, in 15 bins of equal width
 *   log_loss   mean of -ln p(true label)
 *   *_ms       wall time of the import, of POST /v1/heads, and of all predictions in requests of 256 texts;
 *              predict_p50_ms: median of 200 requests of one text, one after the other
 */
import { createReadStream, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { expectedCalibrationError, macroF1, mean, perClassMetrics } from "../src/core/evaluation/metrics.ts";
import { exitWithError, UsageError } from "../src/lib/usage-error.ts";
import { type Client, GraftError, type Prediction } from "../src/sdk/client.ts";
import { withWorker } from "./shared/local-worker.ts";
import { peakMegabytes } from "./shared/memory.ts";
import { quantile } from "./shared/statistics.ts";
import { type LabelledText, readTexts } from "./shared/text-datasets.ts";

const BATCH = 256;
const SINGLE_REQUESTS = 200;

function readRows(file: string): LabelledText[] {
  let rows: LabelledText[];
  try {
    rows = readTexts(file);
  } catch (error) {
    throw new UsageError(`'${file}' cannot be read: ${(error as Error).message}`);
  }
  if (rows.length === 0) throw new UsageError(`'${file}' has no rows with both a text and a label.`);
  return rows;
}

async function measureTime<T>(work: () => Promise<T>): Promise<readonly [T, number]> {
  const started = performance.now();
  const result = await work();
  return [result, performance.now() - started];
}

/** The probabilities of all labels for each text, the highest first. */
async function predictAll(graft: Client, texts: readonly string[], labels: number): Promise<Prediction[]> {
  const all: Prediction[] = [];
  for (let start = 0; start < texts.length; start += BATCH) {
    const { data } = await graft.heads.predict("head", { input: texts.slice(start, start + BATCH), top_k: labels });
    all.push(...data);
  }
  return all;
}

function computeMetrics(predictions: readonly Prediction[], truth: readonly string[]) {
  const labels = [...new Set([...truth, ...predictions.map(({ label = "" }) => label)])];
  const index = new Map(labels.map((label, i) => [label, i]));
  const labelIndex = (label = "") => index.get(label) ?? -1;
  const correct = predictions.map(({ label }, i) => label === truth[i]);
  const predicted = predictions.map(({ label }) => labelIndex(label));
  const classMetrics = perClassMetrics(labels, truth.map(labelIndex), predicted);
  const trueLabelProbabilities = predictions.map(
    ({ scores }, i) => scores?.find(({ label }) => label === truth[i])?.score ?? 0,
  );
  return {
    accuracy: mean(correct.map(Number)),
    macro_f1: macroF1(classMetrics),
    ece: expectedCalibrationError(
      predictions.map(({ score = 0 }) => score),
      correct,
    ),
    log_loss: -mean(trueLabelProbabilities.map((p) => Math.log(Math.max(p, Number.MIN_VALUE)))),
  };
}

/** Trains on one file of a folder, and tests on its test.csv. */
export async function evaluate(folder: string, train: string, backbone: string | undefined) {
  const trainFile = join(folder, train);
  const trainLabels = new Set(readRows(trainFile).map(({ label }) => label));
  const testRows = readRows(join(folder, "test.csv"));
  const test = testRows.filter(({ label }) => trainLabels.has(label));
  if (test.length === 0) throw new UsageError("No label of test.csv is in the training file.");
  const texts = test.map(({ text }) => text);
  return withWorker(async ({ graft, pid }) => {
    await graft.datasets.create({ name: "data", task: "single_label", modality: "text" });
    console.error("Import …");
    const [imported, importMs] = await measureTime(() =>
      graft.datasets.import("data", createReadStream(trainFile), "text/csv"),
    );
    console.error(`Train on ${imported.dataset.examples} examples …`);
    const params = {
      name: "head",
      dataset: "data",
      method: "head" as const,
      ...(backbone === undefined ? {} : { backbone }),
    };
    const [head, trainMs] = await measureTime(() => graft.heads.train(params));
    console.error(`Predict ${texts.length} texts …`);
    const [predictions, predictMs] = await measureTime(() => predictAll(graft, texts, head.labels.length));
    const peak = peakMegabytes(pid);
    const latencies: number[] = [];
    for (let i = 0; i < SINGLE_REQUESTS; i++) {
      const [, ms] = await measureTime(() => graft.heads.predict("head", { input: texts[i % texts.length] ?? "" }));
      latencies.push(ms);
    }
    const figures = computeMetrics(
      predictions,
      test.map(({ label }) => label),
    );
    return {
      dataset: basename(resolve(folder)),
      train,
      examples: head.training.examples,
      labels: head.labels.length,
      test_examples: test.length,
      left_out: testRows.length - test.length,
      rejected: imported.rejected,
      duplicates: imported.unchanged,
      backbone: head.backbone.id,
      backbone_revision: head.backbone.revision,
      accuracy: round(figures.accuracy, 4),
      macro_f1: round(figures.macro_f1, 4),
      ece: round(figures.ece, 4),
      log_loss: round(figures.log_loss, 4),
      evaluation_method: head.evaluation?.method ?? null,
      evaluation_accuracy: head.evaluation?.accuracy === undefined ? null : round(head.evaluation.accuracy, 4),
      l2: head.training.l2,
      iterations: head.training.iterations,
      import_ms: Math.round(importMs),
      train_ms: Math.round(trainMs),
      predict_ms: Math.round(predictMs),
      predict_p50_ms: round(quantile(latencies, 0.5), 2),
      peak_rss_mb: peak === null ? null : Math.round(peak),
    };
  });
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

if (import.meta.main) {
  try {
    const options = {
      train: { type: "string", default: "train.csv" },
      backbone: { type: "string" },
      json: { type: "string" },
    } as const;
    const { values, positionals } = parseArgs({ options, allowPositionals: true });
    const [folder] = positionals;
    if (folder === undefined || positionals.length > 1) {
      throw new UsageError("Usage: npm run eval -- DIR [--train train_10.csv] [--backbone ID] [--json FILE]");
    }
    const figures = await evaluate(folder, values.train, values.backbone);
    for (const [name, value] of Object.entries(figures)) console.log(`${name.padEnd(20)}${value}`);
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
  } catch (error) {
    const isExpected = error instanceof GraftError || (error as { code?: string }).code?.startsWith("ERR_PARSE_ARGS");
    exitWithError(isExpected ? new UsageError((error as Error).message) : error);
  }
}
