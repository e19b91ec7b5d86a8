/**
 * Labelled sets of texts for measurements, from a folder of `NAME/{train,test,…}.csv` with the columns text and label. A
 * set's training and test files are fixed here, so that a name means the same in every measurement.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "csv-parse/sync";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import { readOptions } from "./options.ts";

export interface LabelledText {
  readonly text: string;
  readonly label: string;
}

export interface Split {
  readonly train: readonly LabelledText[];
  readonly test: readonly LabelledText[];
}

export interface TextDataset {
  readonly name: string;
  /** Whether the pre-training of text-static-1 has seen the training examples. */
  readonly seenInPretraining: boolean;
  /** One, or the folds of a cross-validation. */
  readonly splits: readonly Split[];
}

const FOLDS = 10;
const domains = ["airline", "fastfood", "finance", "insurance", "media", "software"];

/** The sets in the folder, in a fixed order; with `pattern`, those whose name matches. */
export function readTextDatasets(folder: string, pattern?: RegExp): TextDataset[] {
  const sets: TextDataset[] = [];
  const add = (name: string, seenInPretraining: boolean, splits: () => Split[]) => {
    if (existsSync(join(folder, name.split(" ")[0] as string)) && (pattern === undefined || pattern.test(name)))
      sets.push({ name, seenInPretraining, splits: splits() });
  };
  const read = (set: string, file: string) => readTexts(join(folder, set, `${file}.csv`));
  const readSplit = (set: string, train: string, test = "test") => [{ train: read(set, train), test: read(set, test) }];

  add("hwu64 5 a class", false, () => readSplit("hwu64", "train_5"));
  add("hwu64 10 a class", false, () => readSplit("hwu64", "train_10"));
  add("hwu64 full", false, () => readSplit("hwu64", "train"));
  add("snips train_small", false, () => readSplit("snips", "train_small"));
  add("snips full", false, () => readSplit("snips", "train"));
  add("bitext_support27", false, () => readSplit("bitext_support27", "train"));
  add("mr_polarity 10-fold", false, () => makeFolds(read("mr_polarity", "all")));
  add("rasa_banking 10-fold", false, () => makeFolds(read("rasa_banking", "all")));
  add("askubuntu_nlu", false, () => readSplit("askubuntu_nlu", "train"));
  add("webapps_nlu", false, () => readSplit("webapps_nlu", "train"));
  // A query is well-formed from a score of 0.8 on, as in Faruqui and Das 2018.
  const binarise = (rows: LabelledText[]) =>
    rows.map(({ text, label }) => ({ text, label: Number(label) >= 0.8 ? "well-formed" : "not" }));
  add("query_wellformedness", false, () =>
    readSplit("query_wellformedness", "train").map(({ train, test }) => ({
      train: binarise(train),
      test: binarise(test),
    })),
  );
  add("clinc150_full", true, () => readSplit("clinc150_full", "train"));
  add("clinc150_oos_plus", true, () => [
    {
      train: [...read("clinc150_oos_plus", "train"), ...read("clinc150_oos_plus", "oos_train")],
      test: [...read("clinc150_oos_plus", "test"), ...read("clinc150_oos_plus", "oos_test")],
    },
  ]);
  for (const domain of domains) add(`multidogo_${domain}`, true, () => readSplit(`multidogo_${domain}`, "train"));
  add("goemotions_ekman single", true, () => readSplit("goemotions_ekman", "train_single", "test_single"));
  return sets;
}

/** The sets in the folder `--data` that `pattern` and `--only` match, by default all. Throws if there are none. */
export function readRequestedDatasets(pattern?: RegExp): TextDataset[] {
  const { data, only } = readOptions();
  const sets = readTextDatasets(data, pattern).filter(({ name }) => new RegExp(only).test(name));
  if (sets.length === 0)
    throw new Error(`--data '${data}' has none of the sets that are measured (bench/shared/text-datasets.ts).`);
  return sets;
}

/** The rows of a file that have a text and a label. */
export function readTexts(file: string): LabelledText[] {
  const rows: Partial<LabelledText>[] = parse(readFileSync(file), {
    bom: true,
    columns: true,
    skip_empty_lines: true,
    relax_column_count: true,
  });
  return rows.filter((row): row is LabelledText => !!row.text?.trim() && !!row.label);
}

/** The splits of a ten-fold cross-validation, shuffled with a fixed seed. */
function makeFolds(rows: readonly LabelledText[]): Split[] {
  const shuffled = shuffle([...rows], seededRandom(1));
  return Array.from({ length: FOLDS }, (_, fold) => ({
    train: shuffled.filter((_, i) => i % FOLDS !== fold),
    test: shuffled.filter((_, i) => i % FOLDS === fold),
  }));
}

/** A random sample of `count` examples of each label. */
export function sampleByLabel(rows: readonly LabelledText[], count: number, seed: number): LabelledText[] {
  const counts = new Map<string, number>();
  return shuffle([...rows], seededRandom(seed)).filter(({ label }) => {
    const taken = (counts.get(label) ?? 0) + 1;
    counts.set(label, taken);
    return taken <= count;
  });
}
