/**
 * Accuracy with the default backbone, through the HTTP API of the real Worker:
 *
 *   npm run bench -- backbone --data DIR
 *
 * DIR has labelled sets (shared/text-datasets.ts). For each set, the test accuracy of a head on the embeddings alone, and of
 * a head that also has lexical features if `auto` chooses them, against TF-IDF of words and characters with a linear SVM
 * (Debian's python3-sklearn). If pre-training has seen the training texts, held-out texts make the embeddings look too good
 * and mislead `auto`; lexical features are then requested by `true`. Then MTEB's protocol (8 examples a class,
 * scikit-learn's logistic regression, 10 draws), typing errors, and the cost of lexical features in a training.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { textStatic } from "../src/backbones/node.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { seededRandom } from "../src/core/random.ts";
import { type Client, GraftError } from "../src/sdk/client.ts";
import { measureAccuracy, uploadDataset } from "./shared/accuracy.ts";
import { type LocalWorker, withWorker } from "./shared/local-worker.ts";
import { type Peer, startPeer } from "./shared/python-peer.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { median, pairedRatio } from "./shared/statistics.ts";
import {
  type LabelledText,
  readTextDatasets,
  type Split,
  sampleByLabel,
  type TextDataset,
} from "./shared/text-datasets.ts";

const DRAWS = 10;
const SHOTS = 8;
const TRAININGS = 5;
const CLASSES = 77;
const EXAMPLES_PER_CLASS = 130;
/** By how much accuracy may be below the SVM's, and how much a typing error may cost. */
const SVM_TOLERANCE = 0.003;
const MAX_TYPO_LOSS = 0.03;

const targets: Record<string, { dense?: number; lexical?: number }> = {
  "hwu64 5 a class": { dense: 0.71, lexical: 0.72 },
  "hwu64 10 a class": { dense: 0.78, lexical: 0.785 },
  "hwu64 full": { dense: 0.885, lexical: 0.895 },
  "snips train_small": { lexical: 0.99 },
  clinc150_full: { lexical: 0.935 },
  "mr_polarity 10-fold": { lexical: 0.78 },
  bitext_support27: { lexical: 0.998 },
};

export async function run(): Promise<Row[]> {
  const { values } = parseArgs({
    allowPositionals: true,
    options: { data: { type: "string", default: "" }, json: { type: "string" } },
  });
  const sets = readTextDatasets(values.data);
  if (sets.length === 0)
    throw new Error(`--data '${values.data}' has none of the sets of bench/shared/text-datasets.ts.`);
  const peer = startPeer<string[]>("backbone.py");
  try {
    return await withWorker(async (worker) => {
      const rows: Row[] = [];
      for (const set of sets) rows.push(...(await measureAccuracies(worker.graft, peer, set)));
      for (const name of ["hwu64 full", "clinc150_full"]) {
        const set = sets.find((each) => each.name === name);
        if (set) rows.push(await measureFewShot(worker, peer, set));
      }
      const hwu64 = sets.find(({ name }) => name === "hwu64 full");
      if (hwu64) rows.push(await measureTypos(worker.graft, hwu64));
      const clinc150 = sets.find(({ name }) => name === "clinc150_full");
      if (clinc150) rows.push(...(await measureLexicalCosts(worker.graft, clinc150)));
      return rows;
    });
  } finally {
    peer.stop();
  }
}

async function measureAccuracies(graft: Client, peer: Peer<string[]>, set: TextDataset): Promise<Row[]> {
  const dense: number[] = [];
  const lexical: number[] = [];
  const svm: number[] = [];
  let lexicalCount = 0;
  for (const split of set.splits) {
    await uploadDataset(graft, "data", split.train);
    const denseHead = await graft.heads.train({
      name: "alone",
      dataset: "data",
      method: "head",
      hyperparameters: { lexical: false },
    });
    dense.push(await measureAccuracy(graft, denseHead.id, split.test));
    const hyperparameters = set.seenInPretraining ? { lexical: true } : {};
    const lexicalHead = await graft.heads
      .train({ name: "beside", dataset: "data", method: "head", hyperparameters })
      .catch((error) => {
        if (error instanceof GraftError && error.code === "edge_budget_exceeded") return denseHead;
        throw error;
      });
    if (lexicalHead.training.lexical) lexicalCount++;
    lexical.push(await measureAccuracy(graft, lexicalHead.id, split.test));
    const predicted = await peer.request({
      do: "svm",
      texts: split.train.map(({ text }) => text),
      labels: split.train.map(({ label }) => label),
      test: split.test.map(({ text }) => text),
    });
    svm.push(mean(split.test.map(({ label }, i) => Number(label === predicted[i]))));
  }
  const target = targets[set.name] ?? {};
  const name = set.seenInPretraining ? `${set.name} (seen in pre-training)` : set.name;
  const featureName = lexicalCount === 0 ? "embeddings, for there was no better" : "with lexical features";
  console.error(`${name}: ${mean(dense).toFixed(4)}, ${mean(lexical).toFixed(4)}, SVM ${mean(svm).toFixed(4)}`);
  const requiredAccuracy = Math.max(target.lexical ?? 0, mean(svm) - SVM_TOLERANCE);
  return [
    makeRow({
      case: name,
      measure: "accuracy, embeddings alone",
      value: mean(dense),
      target: target.dense === undefined ? null : `≥ ${target.dense}`,
      met: target.dense === undefined ? null : mean(dense) >= target.dense,
    }),
    makeRow({
      case: name,
      measure: `accuracy, ${featureName}`,
      value: mean(lexical),
      peer: "TF-IDF word+char, linear SVM",
      peer_value: mean(svm),
      target: `≥ ${requiredAccuracy.toFixed(4)}`,
      met: mean(lexical) >= requiredAccuracy,
    }),
  ];
}

/** Embeds in Node: the Worker's embeddings are the same bytes (test/contract/text-static.test.ts). */
async function measureFewShot({ folder }: LocalWorker, peer: Peer<string[]>, set: TextDataset): Promise<Row> {
  const { train, test } = set.splits[0] as Split;
  const [trainFile, testFile] = [join(folder, "x"), join(folder, "t")];
  writeFileSync(trainFile, await embeddings(train));
  writeFileSync(testFile, await embeddings(test));
  const rowIndex = new Map(train.map((row, i) => [row, i]));
  const accuracies: number[] = [];
  for (let seed = 1; seed <= DRAWS; seed++) {
    const rows = sampleByLabel(train, SHOTS, seed).map((row) => rowIndex.get(row));
    const labels = train.map(({ label }) => label);
    const predicted = await peer.request({
      do: "logistic",
      x: trainFile,
      test: testFile,
      dimensions: textStatic.dimensions,
      rows,
      labels,
    });
    accuracies.push(mean(test.map(({ label }, i) => Number(label === predicted[i]))));
  }
  return makeRow({
    case: `${set.name}${set.seenInPretraining ? " (seen in pre-training)" : ""}, MTEB's protocol`,
    measure: `accuracy, ${SHOTS} a class, ${DRAWS} draws`,
    value: mean(accuracies),
    spread: [Math.min(...accuracies), Math.max(...accuracies)],
  });
}

async function embeddings(texts: readonly LabelledText[]): Promise<Float32Array<ArrayBuffer>> {
  const { rows } = await textStatic.embed(texts.map(({ text }) => text));
  const values = new Float32Array(texts.length * textStatic.dimensions);
  for (const [i, row] of rows.entries()) if (row) values.set(row, i * textStatic.dimensions);
  return values;
}

/** The accuracy that a typing error in each test text costs. */
async function measureTypos(graft: Client, set: TextDataset): Promise<Row> {
  const { train, test } = set.splits[0] as Split;
  await uploadDataset(graft, "data", train);
  const { id } = await graft.heads.train({ name: "typos", dataset: "data", method: "head" });
  const random = seededRandom(1);
  const clean = await measureAccuracy(graft, id, test);
  const edited = await measureAccuracy(
    graft,
    id,
    test.map(({ text, label }) => ({ text: addTypo(text, random), label })),
  );
  return makeRow({
    case: `${set.name}, one typing error in each text`,
    measure: "accuracy lost",
    value: clean - edited,
    target: `≤ ${MAX_TYPO_LOSS}`,
    met: clean - edited <= MAX_TYPO_LOSS,
  });
}

/** Deletes, inserts, replaces or swaps a letter in one of a text's words, in one of four letters or more if there is one. */
function addTypo(text: string, random: () => number): string {
  const words = [...text.matchAll(/\p{L}+/gu)];
  const long = words.filter(([word]) => word.length >= 4);
  const candidates = long.length > 0 ? long : words;
  const match = candidates[Math.floor(random() * candidates.length)];
  if (match === undefined) return text;
  const [word] = match;
  const position = Math.floor(random() * word.length);
  const letter = String.fromCharCode(97 + Math.floor(26 * random()));
  const edits = [
    word.slice(0, position) + word.slice(position + 1),
    word.slice(0, position) + letter + word.slice(position),
    word.slice(0, position) + letter + word.slice(position + 1),
    word.slice(0, position) +
      word
        .slice(position, position + 2)
        .split("")
        .reverse()
        .join("") +
      word.slice(position + 2),
  ];
  const edited = edits[Math.floor(random() * edits.length)] ?? word;
  return text.slice(0, match.index) + edited + text.slice(match.index + word.length);
}

/** The time that lexical features add to a training on 130 examples of each of a set's first 77 classes, and the head's size. */
async function measureLexicalCosts(graft: Client, set: TextDataset): Promise<Row[]> {
  const { train, test } = set.splits[0] as Split;
  const all = [...train, ...test];
  const labels = [...new Set(all.map(({ label }) => label))].sort().slice(0, CLASSES);
  const rows = sampleByLabel(
    all.filter(({ label }) => labels.includes(label)),
    EXAMPLES_PER_CLASS,
    1,
  );
  await uploadDataset(graft, "data", rows);
  const timeTraining = async (lexical: boolean | "auto") => {
    const { training, bytes } = await graft.heads.train({
      name: "costs",
      dataset: "data",
      method: "head",
      hyperparameters: { lexical },
    });
    return { milliseconds: training.milliseconds, bytes };
  };
  const denseTimes: number[] = [];
  const lexicalTimes: number[] = [];
  const autoTimes: number[] = [];
  let headBytes = 0;
  for (let i = -1; i < TRAININGS; i++) {
    const denseResult = await timeTraining(false);
    const lexicalResult = await timeTraining(true);
    const autoResult = await timeTraining("auto");
    if (i < 0) continue;
    denseTimes.push(denseResult.milliseconds);
    lexicalTimes.push(lexicalResult.milliseconds);
    autoTimes.push(autoResult.milliseconds);
    headBytes = lexicalResult.bytes;
  }
  const name = `${rows.length} examples × ${labels.length} classes`;
  const peer = "without lexical features";
  const row = (measure: string, values: number[], target: string | null): Row => {
    const { ratio, spread } = pairedRatio(values, denseTimes);
    const met = target === null ? null : ratio <= 2;
    const value = median(values);
    return { case: name, measure, value, unit: "ms", peer, peer_value: median(denseTimes), ratio, spread, target, met };
  };
  return [
    row("training with lexical features", lexicalTimes, "ratio ≤ 2"),
    row("training that chooses between both", autoTimes, null),
    makeRow({
      case: name,
      measure: "head with lexical features",
      value: headBytes / 1e6,
      unit: "MB",
      target: "≤ 2",
      met: headBytes <= 2e6,
    }),
  ];
}
