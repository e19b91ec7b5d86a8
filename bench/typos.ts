/**
 * The accuracy that a typing error in each test text costs, with heads trained in Node at the defaults of a training:
 *
 *   npm run bench -- typos --data DIR [--only PATTERN]
 *
 * DIR has labelled sets (shared/text-datasets.ts). One of a text's words of four letters or more has a letter deleted,
 * inserted, replaced or swapped with the next, five times over. The peer is TF-IDF of words and characters with a
 * linear SVM (Debian's python3-sklearn).
 */
import type { Backbone } from "../src/backbones/backbone.ts";
import { textStatic, textUse } from "../src/backbones/node.ts";
import { mean } from "../src/core/evaluation/metrics.ts";
import { seededRandom } from "../src/core/random.ts";
import { accuracyOf, predictBySvm } from "./shared/accuracy.ts";
import { embedTexts, testProbe, trainProbe } from "./shared/linear-probe.ts";
import { type Peer, startPeer } from "./shared/python-peer.ts";
import { makeRow, type Row } from "./shared/report.ts";
import { spreadOf } from "./shared/statistics.ts";
import { type LabelledText, readRequestedDatasets, type Split, type TextDataset } from "./shared/text-datasets.ts";

const SETS = /^(hwu64 (10 a class|full)|snips train_small|rasa_banking 10-fold|askubuntu_nlu|webapps_nlu)$/;
const DRAWS = 5;
const MAX_LOSS = 0.04;

export async function run(): Promise<Row[]> {
  const sets = readRequestedDatasets(SETS);
  const peer = startPeer<string[]>("backbone.py");
  try {
    const rows: Row[] = [];
    for (const set of sets) rows.push(...(await measure(set, peer)));
    return rows;
  } finally {
    peer.stop();
  }
}

/** Accuracies on the test texts, and on each draw of typing errors in them. */
interface Accuracies {
  readonly clean: number;
  readonly edited: readonly number[];
}

/** Of a cross-validation the first fold alone. */
async function measure({ name, splits }: TextDataset, peer: Peer<string[]>): Promise<Row[]> {
  const { train, test } = splits[0] as Split;
  const draws = Array.from({ length: DRAWS }, (_, draw) => {
    const random = seededRandom(1 + draw);
    return test.map(({ text, label }) => ({ text: addTypo(text, random), label }));
  });
  const svm = await svmAccuracies(peer, train, test, draws);
  const svmLoss = svm.clean - mean(svm.edited);
  const rows: Row[] = [];
  for (const backbone of [textStatic, textUse]) {
    const { clean, edited } = await headAccuracies(backbone, train, test, draws);
    const losses = edited.map((accuracy) => clean - accuracy);
    const isTarget = backbone === textUse && name.startsWith("hwu64");
    const format = (accuracies: Accuracies) => `${accuracies.clean.toFixed(4)}, ${mean(accuracies.edited).toFixed(4)}`;
    console.error(`${name}, ${backbone.id}: ${format({ clean, edited })}; SVM ${format(svm)}`);
    rows.push(
      makeRow({
        case: `${name}, ${backbone.id}`,
        measure: "accuracy",
        value: clean,
        peer: "TF-IDF word+char, linear SVM",
        peer_value: svm.clean,
      }),
      makeRow({
        case: `${name}, ${backbone.id}`,
        measure: "accuracy lost by a typing error",
        value: mean(losses),
        peer: "TF-IDF word+char, linear SVM",
        peer_value: svmLoss,
        spread: spreadOf(losses),
        target: isTarget ? `≤ ${MAX_LOSS}` : null,
        met: isTarget ? mean(losses) <= MAX_LOSS : null,
      }),
    );
  }
  return rows;
}

type Texts = readonly LabelledText[];

async function headAccuracies(backbone: Backbone, train: Texts, test: Texts, draws: Texts[]): Promise<Accuracies> {
  const encoder = await embedTexts(backbone, [train, test, ...draws].flat());
  const probe = trainProbe(encoder, train, { lexical: "auto", seed: 1, evaluation: { method: "none" } });
  return {
    clean: testProbe(encoder, probe, test).accuracy,
    edited: draws.map((draw) => testProbe(encoder, probe, draw).accuracy),
  };
}

async function svmAccuracies(peer: Peer<string[]>, train: Texts, test: Texts, draws: Texts[]): Promise<Accuracies> {
  const predicted = await predictBySvm(peer, train, [test, ...draws].flat());
  const accuracy = (part: number) => accuracyOf(predicted.slice(part * test.length), test);
  return { clean: accuracy(0), edited: draws.map((_, draw) => accuracy(1 + draw)) };
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
