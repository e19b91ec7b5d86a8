/**
 * Heads from label names, alone and beside 1, 2 and 5 examples a class, on text-use-1 at the defaults of a training:
 *
 *   accuracy   on all test texts, the mean of some draws of examples. The peer is the head of the same examples alone
 *   score      mean score of the predicted labels less the accuracy
 *
 * and from which temperature on such heads are modest, on sets of other sources: their mean score is then the accuracy.
 */
import { join } from "node:path";
import { textUse } from "../../src/backbones/node.ts";
import { mean } from "../../src/core/evaluation/metrics.ts";
import { argmax, softmax } from "../../src/core/evaluation/probability.ts";
import { logitsOf, predict } from "../../src/core/head.ts";
import type { TrainingResult } from "../../src/core/linear/types.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import { type DescribedLabel, textsOfLabel } from "../../src/core/text/label-texts.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { encoderOf, type TextFile } from "../evaluation/embeddings.ts";
import { cached, readStored } from "../shared/cached.ts";
import { type Encoder, embedTexts, trainProbe } from "../shared/linear-probe.ts";
import { makeRow, type Row } from "../shared/report.ts";
import { spreadOf } from "../shared/statistics.ts";
import { type LabelledText, readTexts, sampleByLabel } from "../shared/text-datasets.ts";
import { descriptionsOfTickets, readableName } from "./label-names.ts";

const SIZES = [0, 1, 2, 5];
const DRAWS = 5;
const SNIPS_TARGET = 0.7;
/** Labels with examples are as good as the better of both alone within this. */
const TOLERANCE = 0.01;

interface ZeroShotSet {
  readonly name: string;
  readonly labels: readonly DescribedLabel[];
  /** Examples are drawn from these. */
  readonly train: TextFile;
  readonly test: TextFile;
}

interface Measured {
  readonly accuracy: number;
  readonly score: number;
}

interface Result {
  /** For each size, of each draw: with the texts of the labels, and without them. */
  readonly sizes: readonly {
    readonly size: number;
    readonly named: readonly Measured[];
    readonly alone: readonly Measured[];
  }[];
}

const BENCH = "advice-zero-shot";

/** @param stored reports what is stored alone */
export async function zeroShot(data: string, stored: boolean): Promise<Row[]> {
  const rows: Row[] = [];
  for (const set of readSets(data)) {
    const result = stored ? readStored<Result>(BENCH, set.name) : await cached(BENCH, set.name, () => measure(set));
    if (result !== null) rows.push(...rowsOf(set.name, result));
  }
  const temperatures: [source: string, value: number][] = [];
  for (const [source, files] of readSources(data)) {
    const name = `temperature ${source}`;
    const measureAll = async () => {
      const values: number[] = [];
      for (const file of files) values.push(await calibratedTemperature(file));
      return mean(values);
    };
    const value = stored ? readStored<number>(BENCH, name) : await cached(BENCH, name, measureAll);
    if (value !== null) temperatures.push([source, value]);
  }
  return [...rows, ...temperatureRows(temperatures)];
}

function toLabels(names: Iterable<string>, descriptions: Readonly<Record<string, string>> = {}): DescribedLabel[] {
  return [...new Set(names)].sort().map((name) => ({ name, description: descriptions[name] }));
}

function readSets(data: string): ZeroShotSet[] {
  const fromFiles = (set: string): ZeroShotSet => {
    const file = (part: string) => ({ name: `${set} ${part}`, rows: readTexts(join(data, set, `${part}.csv`)) });
    const [train, test] = [file("train"), file("test")];
    return { name: set, labels: toLabels(train.rows.map(({ label }) => label)), train, test };
  };
  const tickets = shuffle(readTexts(join("examples", "support-tickets.csv")), seededRandom(1));
  const half = Math.ceil(tickets.length / 2);
  const ofTickets = (name: string, descriptions?: Readonly<Record<string, string>>): ZeroShotSet => ({
    name,
    labels: toLabels(
      tickets.map(({ label }) => label),
      descriptions,
    ),
    train: { name: "zero-shot tickets train", rows: tickets.slice(0, half) },
    test: { name: "zero-shot tickets test", rows: tickets.slice(half) },
  });
  return [
    fromFiles("hwu64"),
    fromFiles("snips"),
    ofTickets("tickets"),
    ofTickets("tickets, described", descriptionsOfTickets),
  ];
}

/** The texts of labels, by the names that they have in the set. */
function textsOf(labels: readonly DescribedLabel[]): LabelledText[] {
  return labels.flatMap((label) => textsOfLabel(label).map((text) => ({ text, label: label.name })));
}

/** An encoder that has some texts beside those of another. */
async function withTexts(encoder: Encoder, texts: readonly LabelledText[]): Promise<Encoder> {
  const own = await embedTexts(textUse, texts);
  const known = new Set(texts.map(({ text }) => text));
  return { ...encoder, encode: (text) => (known.has(text) ? own.encode(text) : encoder.encode(text)) };
}

async function measure({ name, labels, train, test }: ZeroShotSet): Promise<Result> {
  const labelTexts = textsOf(labels);
  const encoder = await withTexts(await encoderOf([train, test]), labelTexts);
  const trainAndJudge = (examples: readonly LabelledText[], texts: readonly LabelledText[]) =>
    judge(
      encoder,
      trainProbe(encoder, examples, { labelTexts: texts, lexical: "auto", seed: 1, evaluation: { method: "auto" } }),
      test.rows,
    );
  const sizes = SIZES.map((size) => {
    const draws = Array.from({ length: size === 0 ? 1 : DRAWS }, (_, draw) =>
      sampleByLabel(train.rows, size, 1 + draw),
    );
    const named = draws.map((examples) => trainAndJudge(examples, labelTexts));
    const alone = size === 0 ? [] : draws.map((examples) => trainAndJudge(examples, []));
    const [own, other] = [named, alone].map((list) => mean(list.map(({ accuracy }) => accuracy)));
    console.error(`${name}, ${size} a class: ${own?.toFixed(3)}, without names ${other?.toFixed(3)}`);
    return { size, named, alone };
  });
  return { sizes };
}

function judge({ encode }: Encoder, { head }: TrainingResult, test: readonly LabelledText[]): Measured {
  const features = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  const judged = test.map(({ text, label }) => {
    const p = predict(head, encode(text), features === null ? null : features(text));
    const best = argmax(p);
    return { isCorrect: head.labels[best] === label, score: p[best] as number };
  });
  const accuracy = mean(judged.map(({ isCorrect }) => Number(isCorrect)));
  return { accuracy, score: mean(judged.map(({ score }) => score)) - accuracy };
}

function rowsOf(name: string, { sizes }: Result): Row[] {
  const accuraciesOf = (list: readonly Measured[]) => list.map(({ accuracy }) => accuracy);
  const zero = mean(accuraciesOf(sizes[0]?.named ?? []));
  return sizes.flatMap(({ size, named, alone }) => {
    const accuracies = accuraciesOf(named);
    const value = mean(accuracies);
    const peer = size === 0 ? null : mean(accuraciesOf(alone));
    const best = Math.max(zero, peer ?? 0);
    const target =
      size > 0
        ? { target: `≥ ${best.toFixed(2)} − ${TOLERANCE}`, met: value >= best - TOLERANCE }
        : name === "snips"
          ? { target: `≥ ${SNIPS_TARGET}`, met: value >= SNIPS_TARGET }
          : {};
    const label = `${name}, ${size} a class`;
    return [
      makeRow({
        case: label,
        measure: "accuracy",
        value,
        spread: spreadOf(accuracies),
        ...(peer === null ? {} : { peer: "examples alone", peer_value: peer }),
        ...target,
      }),
      makeRow({ case: label, measure: "score − accuracy", value: mean(named.map(({ score }) => score)) }),
    ];
  });
}

/** The sets that the temperature comes from, by their source: none of them is one of those above. */
function readSources(data: string): [source: string, files: TextFile[]][] {
  const read = (set: string, file: string): TextFile => ({
    name: `zero-shot ${set}`,
    rows: readTexts(join(data, set, `${file}.csv`)).flatMap(({ text, label }) => {
      const name = readableName(set, label);
      return name === null ? [] : [{ text, label: name }];
    }),
  });
  const domains = ["airline", "fastfood", "finance", "insurance", "media", "software"];
  return [
    ["CLINC150", [read("clinc150_full", "test")]],
    ["Bitext", [read("bitext_support27", "test")]],
    ["Rasa banking", [read("rasa_banking", "all")]],
    ["Ask Ubuntu", [read("askubuntu_nlu", "test")]],
    ["web applications", [read("webapps_nlu", "test")]],
    ["GoEmotions", [read("goemotions_ekman", "test_single")]],
    ["MultiDoGO", domains.map((domain) => read(`multidogo_${domain}`, "test"))],
  ];
}

/** The temperature at which a zero-shot head's mean score is its accuracy. */
async function calibratedTemperature(file: TextFile): Promise<number> {
  const labelTexts = textsOf(toLabels(file.rows.map(({ label }) => label)));
  const encoder = await withTexts(await encoderOf([file]), labelTexts);
  const { head } = trainProbe(encoder, [], {
    labelTexts,
    lexical: false,
    seed: 1,
    evaluation: { method: "none" },
  });
  const logits = file.rows.map(({ text }) => logitsOf(head, encoder.encode(text), null));
  const accuracy = mean(
    logits.map((values, i) => Number(head.labels[argmax(values)] === (file.rows[i] as LabelledText).label)),
  );
  // The mean score falls as the temperature rises.
  let [low, high] = [0.01, 10];
  while (high / low > 1.001) {
    const middle = Math.sqrt(low * high);
    const score = mean(logits.map((values) => Math.max(...softmax(values.map((logit) => logit / middle)))));
    if (score > accuracy) low = middle;
    else high = middle;
  }
  console.error(`${file.name}: accuracy ${accuracy.toFixed(3)}, temperature ${low.toFixed(3)}`);
  return low;
}

function temperatureRows(temperatures: readonly (readonly [source: string, value: number])[]): Row[] {
  const sorted = temperatures.map(([, value]) => value).sort((a, b) => a - b);
  if (sorted.length === 0) return [];
  // Of n numbers, the quantile at 3 (n − 1) / 4, between two of them.
  const quartile = (values: readonly number[]) => {
    const at = (3 * (values.length - 1)) / 4;
    const [below, above] = [values[Math.floor(at)] as number, values[Math.ceil(at)] as number];
    return below + (at - Math.floor(at)) * (above - below);
  };
  const withoutOne = sorted.map((_, left) => quartile(sorted.filter((_, i) => i !== left)));
  return [
    ...temperatures.map(([source, value]) =>
      makeRow({ case: source, measure: "temperature at which score = accuracy", value }),
    ),
    makeRow({
      case: "all sources",
      measure: "upper quartile, spread with one left out",
      value: quartile(sorted),
      spread: spreadOf(withoutOne),
    }),
  ];
}
