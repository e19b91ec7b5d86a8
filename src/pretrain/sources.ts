/**
 * The files that the backbone is trained on, how each is used, and how often. A step draws a group by its weight, then a
 * source of the group with a probability proportional to a power of its size.
 *
 *   pairs      two columns: texts with the same meaning, or a text and its continuation
 *   adjacent   lines of running text; a pair is a line and the next one
 *   halves     lines; a pair is a line's words, split at random into two texts
 *   labelled   a text and its class, or several classes joined by "|", of which each use draws one
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { parse } from "csv-parse/sync";
import { UsageError } from "../lib/usage-error.ts";

export type SourceKind = "pairs" | "adjacent" | "halves" | "labelled";

export interface SourceGroup {
  readonly name: string;
  readonly kind: SourceKind;
  readonly weight: number;
  /** A source of the group is drawn with a probability ∝ size^power. */
  readonly power: number;
  /** Files in the folder of raw text, without .gz, or labelled tasks as "tasks/…". */
  readonly files: readonly string[];
}

const documentation = ["IntuneDocs", "OfficeDocs-SharePoint", "OfficeDocs-Support", "dynamics365smb-docs"];
const prose = [
  ...documentation.map((name) => `msdocs_${name}_sentences.txt`),
  "nltk_masc_sentences.txt",
  "nltk_movie_reviews_sentences.txt",
  "nltk_product_reviews_sentences.txt",
  "nltk_speeches_sentences.txt",
  "wikitext2_valtest_sentences.txt",
];
const domains = ["airline", "fastfood", "finance", "insurance", "media", "software"];

export const groups: readonly SourceGroup[] = [
  {
    name: "dialogue",
    kind: "pairs",
    weight: 0.3,
    power: 0.75,
    files: [
      "sgd_turn_pairs.tsv",
      "star_pairs.tsv",
      "multiwoz21_valtest_pairs.tsv",
      "taskmaster3_part_pairs.tsv",
      "taskmaster4_turn_pairs.tsv",
      "chatterbot_pairs.tsv",
    ],
  },
  {
    name: "titles and paraphrases",
    kind: "pairs",
    weight: 0.3,
    power: 0.75,
    files: [
      ...documentation.map((name) => `msdocs_${name}_title_pairs.tsv`),
      "wikisplit_paraphrase_pairs.tsv",
      "text2sql_advising_paraphrase_pairs.tsv",
    ],
  },
  { name: "adjacent sentences", kind: "adjacent", weight: 0.3, power: 0.75, files: prose },
  {
    name: "WordNet",
    kind: "pairs",
    weight: 0.6,
    power: 0.75,
    files: ["wn_gloss.tsv", "wn_syn.tsv", "wn_example.tsv", "wn_hyper.tsv"],
  },
  {
    name: "halves",
    kind: "halves",
    weight: 0.6,
    power: 0.75,
    files: [
      ...prose,
      "gap_wiki_sentences.txt",
      "clinc_wiki_sents.txt",
      "multidogo_customer_turns.txt",
      "nq_open_questions.txt",
      "polyai_span_utts.txt",
      "wikisql_questions.txt",
    ],
  },
  {
    name: "labelled",
    kind: "labelled",
    weight: 1.5,
    power: 0.5,
    files: [
      "sgd_intent_utts.tsv",
      "nlupp_utts_multilabel.tsv",
      ...domains.map((name) => `tasks/multidogo_${name}/train.csv`),
      "tasks/goemotions_ekman/train.csv",
      "labelled_movie_polarity.tsv",
      "labelled_pros_cons.tsv",
    ],
  },
  { name: "intents", kind: "labelled", weight: 1.2, power: 0.5, files: ["tasks/clinc150_full/train.csv"] },
];

/**
 * The rows of a file as two columns; the second is empty for files of lines. Rows with an empty column are left out.
 * Throws a UsageError if the file is missing or cannot be read.
 */
export function readSource(folder: string, file: string): [string, string][] {
  const path = file.startsWith("tasks/") ? join(folder, "..", file) : join(folder, `${file}.gz`);
  if (!existsSync(path)) throw new UsageError(`'${path}' is missing: models/text-static-1/CARD.md lists the data.`);
  try {
    return file.endsWith(".csv")
      ? parseLabelledRows(readFileSync(path))
      : parseLines(gunzipSync(readFileSync(path)), file);
  } catch (error) {
    throw new UsageError(`'${path}' cannot be read: ${(error as Error).message}`);
  }
}

function parseLabelledRows(csv: Buffer): [string, string][] {
  const rows: { text?: string; label?: string }[] = parse(csv, { bom: true, columns: true });
  return rows.flatMap(({ text, label }) => {
    if (text === undefined || label === undefined) throw new Error("it lacks the column 'text' or 'label'");
    return text.trim() === "" || label === "" ? [] : [[text, label]];
  });
}

function parseLines(bytes: Buffer, file: string): [string, string][] {
  const columns = file.endsWith(".tsv") ? 2 : 1;
  return bytes
    .toString("utf8")
    .split("\n")
    .map((line) => line.split("\t"))
    .filter((row) => row.length >= columns && row.slice(0, columns).every((column) => column.trim() !== ""))
    .map(([first = "", second = ""]) => [first, columns === 2 ? second : ""]);
}
