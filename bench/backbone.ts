/**
 * Accuracy at the defaults of a training, through the HTTP API of the real Worker:
 *
 *   npm run bench -- backbone --data DIR [--only PATTERN]
 *
 * DIR has labelled sets (shared/text-datasets.ts). For each set, the test accuracy of a head at the defaults and what it
 * chose, that of a head on text-static-1, and that of TF-IDF of words and characters with a linear SVM (Debian's
 * python3-sklearn). Then how much the training's seed changes with few examples, and MTEB's protocol (8 examples a class,
 * scikit-learn's logistic regression, 10 draws). Pre-training of text-static-1 has seen the training texts of some sets;
 * their names say so. What is finished is stored, so that an interrupted measurement resumes.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import type { Backbone } from "../src/backbones/backbone.ts";
import { textStatic, textUse } from "../src/backbones/node.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { type Client, GraftError, type Head, type NewHead } from "../src/sdk/client.ts";
import { accuracyOf, measureAccuracy, predictBySvm, uploadDataset } from "./shared/accuracy.ts";
import { cached } from "./shared/cached.ts";
import { embedTexts } from "./shared/linear-probe.ts";
import { type LocalWorker, withWorker } from "./shared/local-worker.ts";
import { type Peer, startPeer } from "./shared/python-peer.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { spreadOf } from "./shared/statistics.ts";
import {
  type LabelledText,
  readRequestedDatasets,
  type Split,
  sampleByLabel,
  type TextDataset,
} from "./shared/text-datasets.ts";

const SVM = "TF-IDF word+char, linear SVM";
/** The folds measured of sets that would take too long with all of them. */
const MEASURED_FOLDS: Record<string, number> = { "mr_polarity 10-fold": 3 };
const DRAWS = 10;
const SHOTS = 8;
const TRAINING_SEEDS = [0, 1, 2, 3, 4];
/** By how much accuracy may be below the SVM's, and how much the seed may change it. */
const SVM_TOLERANCE = 0.003;
const MAX_SEED_SPREAD = 0.005;
const MAX_EMBEDDING_MS = 600_000;

const targets: Record<string, number> = {
  "hwu64 5 a class": 0.75,
  "hwu64 10 a class": 0.81,
  "hwu64 full": 0.91,
  "snips train_small": 0.997,
  clinc150_full: 0.945,
  "mr_polarity 10-fold": 0.8,
  bitext_support27: 0.998,
};
const fewShotSets = ["hwu64 5 a class", "hwu64 10 a class"];
const protocolSets = ["hwu64 full", "clinc150_full"];

export async function run(): Promise<Row[]> {
  const sets = readRequestedDatasets();
  const named = (names: readonly string[]) => sets.filter(({ name }) => names.includes(name));
  const peer = startPeer<string[]>("backbone.py");
  try {
    return await withWorker(async (worker) => {
      const rows: Row[] = [];
      for (const set of sets) rows.push(...(await measureAccuracies(worker.graft, peer, set)));
      for (const set of named(fewShotSets)) rows.push(await measureSeeds(worker.graft, set));
      for (const set of named(protocolSets)) rows.push(await measureFewShot(worker, peer, set));
      return rows;
    });
  } finally {
    peer.stop();
  }
}

/**
 * Uploads a dataset and waits until its examples have been embedded ahead: a training that comes earlier embeds them itself,
 * and has no room for text-use-1 where that is beyond one request.
 */
async function uploadEmbedded(graft: Client, rows: readonly LabelledText[]): Promise<void> {
  await uploadDataset(graft, "data", rows);
  for (const started = performance.now(); performance.now() - started < MAX_EMBEDDING_MS; await setTimeout(500)) {
    const { examples, embedded } = await graft.datasets.get("data");
    if ((embedded[`${textUse.id}@${textUse.revision}`] ?? 0) >= examples) return;
  }
  throw new Error("The examples have not been embedded ahead in time.");
}

/** A head's test accuracy, or the code of the failure that its training was refused with. */
interface HeadResult {
  readonly accuracy: number;
  readonly backbone: string;
  readonly lexical: boolean;
  readonly seconds: number;
  readonly candidates: Head["training"]["candidates"];
  readonly refused: string | null;
}

async function trainAndMeasure(graft: Client, split: Split, params: Partial<NewHead>): Promise<HeadResult> {
  try {
    const { id, backbone, training } = await graft.heads.train({
      ...params,
      name: "measured",
      dataset: "data",
      method: "head",
    });
    return {
      accuracy: await measureAccuracy(graft, id, split.test),
      backbone: backbone.id,
      lexical: training.lexical ?? false,
      seconds: training.milliseconds / 1000,
      candidates: training.candidates,
      refused: null,
    };
  } catch (error) {
    if (!(error instanceof GraftError && error.code === "edge_budget_exceeded")) throw error;
    return { accuracy: 0, backbone: "", lexical: false, seconds: 0, candidates: [], refused: error.code };
  }
}

async function measureAccuracies(graft: Client, peer: Peer<string[]>, set: TextDataset): Promise<Row[]> {
  const folds = MEASURED_FOLDS[set.name] ?? set.splits.length;
  const results = [];
  for (const [fold, split] of set.splits.slice(0, folds).entries()) {
    const result = await cached("backbone", `${set.name} ${fold}`, async () => {
      await uploadEmbedded(graft, split.train);
      const defaults = await trainAndMeasure(graft, split, {});
      const byStatic = await trainAndMeasure(graft, split, { backbone: textStatic.id });
      const predicted = await predictBySvm(peer, split.train, split.test);
      return { defaults, byStatic, svm: accuracyOf(predicted, split.test) };
    });
    const { defaults } = result;
    console.error(`${set.name} ${fold}: ${format([defaults])}, ${defaults.seconds.toFixed(1)} s`);
    for (const { backbone, lexical, log_loss, accuracy } of defaults.candidates ?? [])
      console.error(`  ${backbone}${lexical ? " + lexical" : ""}: ${log_loss.toFixed(4)}, ${accuracy?.toFixed(4)}`);
    results.push(result);
  }
  const defaults = results.map((result) => result.defaults);
  const byStatic = results.map((result) => result.byStatic);
  const svm = mean(results.map((result) => result.svm));
  const accuracy = meanAccuracy(defaults);
  const required = Math.max(targets[set.name] ?? 0, svm - SVM_TOLERANCE);
  const name = `${set.name}${folds < set.splits.length ? `, ${folds} folds measured` : ""}${seenNote(set)}`;
  console.error(`${name}: ${accuracy.toFixed(4)}, text-static-1 ${format(byStatic)}, SVM ${svm.toFixed(4)}`);
  return [
    makeRow({
      case: name,
      measure: `accuracy at the defaults: ${choiceOf(defaults)}`,
      value: accuracy,
      peer: SVM,
      peer_value: svm,
      target: `≥ ${required.toFixed(4)}`,
      met: accuracy >= required,
    }),
    makeRow({ case: name, measure: `accuracy: ${choiceOf(byStatic)}`, value: meanAccuracy(byStatic) }),
  ];
}

function seenNote({ seenInPretraining }: TextDataset): string {
  return seenInPretraining ? " (seen in pre-training of text-static-1)" : "";
}

const meanAccuracy = (folds: readonly HeadResult[]) => mean(folds.map(({ accuracy }) => accuracy));

const format = (folds: readonly HeadResult[]) => `${meanAccuracy(folds).toFixed(4)} (${choiceOf(folds)})`;

/** What the trainings of a set's folds chose, with the number of folds if they differ. */
function choiceOf(folds: readonly HeadResult[]): string {
  const choices = Map.groupBy(folds, ({ backbone, lexical, refused }) =>
    refused === null ? `${backbone}${lexical ? " with lexical features" : ""}` : `refused, ${refused}`,
  );
  return [...choices]
    .map(([choice, { length }]) => (choices.size === 1 ? choice : `${choice} (${length} of ${folds.length})`))
    .join(", ");
}

/** How far apart the accuracies of trainings are that differ in their seed alone. */
async function measureSeeds(graft: Client, set: TextDataset): Promise<Row> {
  const split = set.splits[0] as Split;
  const heads: HeadResult[] = [];
  for (const seed of TRAINING_SEEDS)
    heads.push(
      await cached("backbone", `${set.name} seed ${seed}`, async () => {
        await uploadEmbedded(graft, split.train);
        return trainAndMeasure(graft, split, { hyperparameters: { seed } });
      }),
    );
  const accuracies = heads.map(({ accuracy }) => accuracy);
  const spread = spreadOf(accuracies);
  const range = spread[1] - spread[0];
  console.error(`${set.name}, seeds: ${accuracies.map((value) => value.toFixed(4)).join(" ")}, ${choiceOf(heads)}`);
  return makeRow({
    case: `${set.name}, ${heads.length} seeds of the training`,
    measure: `highest less lowest accuracy: ${choiceOf(heads)}`,
    value: range,
    spread,
    target: `≤ ${MAX_SEED_SPREAD}`,
    met: range <= MAX_SEED_SPREAD,
  });
}

/** Embeds in Node: the same bytes as in the Worker, which rounds them to 8 bits where it stores them. */
async function measureFewShot(worker: LocalWorker, peer: Peer<string[]>, set: TextDataset): Promise<Row> {
  const split = set.splits[0] as Split;
  const measure = (backbone: Backbone) =>
    cached("backbone", `${set.name} protocol ${backbone.id}`, () => fewShotAccuracies(worker, peer, split, backbone));
  const accuracies = await measure(textUse);
  const byStatic = await measure(textStatic);
  console.error(`${set.name}, MTEB's protocol: ${mean(accuracies).toFixed(4)}, ${mean(byStatic).toFixed(4)}`);
  return makeRow({
    case: `${set.name}, MTEB's protocol${seenNote(set)}`,
    measure: `accuracy of ${textUse.id}, ${SHOTS} a class, ${accuracies.length} draws`,
    value: mean(accuracies),
    peer: textStatic.id,
    peer_value: mean(byStatic),
    spread: spreadOf(accuracies),
  });
}

async function fewShotAccuracies(
  { folder }: LocalWorker,
  peer: Peer<string[]>,
  { train, test }: Split,
  backbone: Backbone,
): Promise<number[]> {
  const [trainFile, testFile] = [join(folder, "x"), join(folder, "t")];
  writeFileSync(trainFile, await embeddings(backbone, train));
  writeFileSync(testFile, await embeddings(backbone, test));
  const rowIndex = new Map(train.map((row, i) => [row, i]));
  const labels = train.map(({ label }) => label);
  const accuracies: number[] = [];
  for (let seed = 1; seed <= DRAWS; seed++) {
    const rows = sampleByLabel(train, SHOTS, seed).map((row) => rowIndex.get(row));
    const { dimensions } = backbone;
    const predicted = await peer.request({ do: "logistic", x: trainFile, test: testFile, dimensions, rows, labels });
    accuracies.push(accuracyOf(predicted, test));
  }
  return accuracies;
}

async function embeddings(backbone: Backbone, texts: readonly LabelledText[]): Promise<Float32Array<ArrayBuffer>> {
  const { dimensions, encode } = await embedTexts(backbone, texts);
  const values = new Float32Array(texts.length * dimensions);
  for (const [i, { text }] of texts.entries()) values.set(encode(text), i * dimensions);
  return values;
}
