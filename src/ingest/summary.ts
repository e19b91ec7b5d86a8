/** What the valid rows of an import are: a sample, how often each label comes, and what looks wrong about them. */
import type { ImportFigures, ImportWarning, SampleRow } from "../api/imports.ts";
import { type Task, targetField } from "../core/head.ts";
import { truncateText } from "../core/text/characters.ts";
import type { GoodRow, ImportRow } from "./checked-row.ts";
import { createConflictFinder } from "./conflicts.ts";
import type { ReadReport } from "./report.ts";
import { measureWordCoverage, type WordCoverage } from "./word-coverage.ts";

const MAX_SAMPLE_ROWS = 20;
const MAX_EXAMPLES = 5;
const MAX_EXAMPLE_CHARACTERS = 120;
/** A text with fewer visible characters says next to nothing. */
const MIN_CHARACTERS = 3;
/** One character of these scripts may be a word. */
const WORD_CHARACTERS = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/u;
/** Of fewer examples a label's share says nothing. */
const MIN_EXAMPLES_FOR_SHARE = 10;
const DOMINANT_SHARE = 0.9;
/** UTF-8 that was read as Windows-1252, such as "cafÃ©", or what no encoding could read. */
const SUSPICIOUS = /\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2(?:\u0080|\u20ac)|\u00ef\u00bb\u00bf|[\u0080-\u009f]/;

export interface ImportSummary {
  add(row: ImportRow): void;
  readonly sample: readonly SampleRow[];
  readonly labelCounts: ReadonlyMap<string, number>;
  /** `datasetLabels`: how often each label of these rows is in the dataset as it then is. */
  warnings(report: ReadReport, datasetLabels: Readonly<Record<string, number>>): ImportWarning[];
}

/** Something that is wrong with some rows, and the first of them. */
interface Finding {
  count: number;
  readonly examples: string[];
}

const newFinding = (): Finding => ({ count: 0, examples: [] });

function addTo(finding: Finding, example: string): void {
  finding.count++;
  if (finding.examples.length < MAX_EXAMPLES) finding.examples.push(shorten(example));
}

function shorten(text: string): string {
  const short = truncateText(text, MAX_EXAMPLE_CHARACTERS);
  return short.length < text.length ? `${short}…` : text;
}

/** @param isKnown whether the backbones in the box know a word */
export function createImportSummary(task: Task, isKnown: (word: string) => boolean): ImportSummary {
  const sample: SampleRow[] = [];
  const labelCounts = new Map<string, number>();
  const conflicts = createConflictFinder();
  const [conflicting, short, suspicious] = [newFinding(), newFinding(), newFinding()];
  const coverage = measureWordCoverage(isKnown);
  let rows = 0;
  const addText = (text: string) => {
    coverage.add(text);
    if (text.length < 2 * MIN_CHARACTERS && isShort(text)) addTo(short, text);
    if (SUSPICIOUS.test(text)) addTo(suspicious, text);
  };
  return {
    sample,
    labelCounts,
    add(item) {
      if (item === null || "error" in item) return;
      rows++;
      const { row, labels } = item;
      if (sample.length < MAX_SAMPLE_ROWS) sample.push(toSample(item, task));
      for (const label of labels) labelCounts.set(label, (labelCounts.get(label) ?? 0) + 1);
      const isConflict = conflicts.add(row.inputHash, row.contentHash);
      if (typeof row.input !== "string") return;
      addText(row.input);
      if (isConflict) addTo(conflicting, row.input);
    },
    warnings: (report, datasetLabels) => [
      ...labelWarnings(labelCounts, datasetLabels),
      ...warn("conflicting_labels", conflicting, "Inputs that come with several labels"),
      ...warn("short_inputs", short, "Inputs that are nearly empty"),
      ...warn(
        "suspicious_encoding",
        suspicious,
        "Texts that look as if they were read in another encoding than theirs",
      ),
      ...coverageWarning(coverage),
      ...numericWarning(report.numericLabels, labelCounts),
      ...[...report.skipped].map(([reason, count]) =>
        warning("skipped_rows", count, [], `Rows left out, because ${reason}`),
      ),
      ...(rows === 0 ? [warning("no_rows", 0, [], "Examples found")] : []),
    ],
  };
}

function warning(code: ImportWarning["code"], count: number, examples: readonly string[], what: string): ImportWarning {
  return { code, message: `${what}: ${count}.`, count, examples };
}

function warn(code: ImportWarning["code"], { count, examples }: Finding, what: string): ImportWarning[] {
  return count === 0 ? [] : [warning(code, count, examples, what)];
}

function coverageWarning(coverage: WordCoverage): ImportWarning[] {
  const unknown = coverage.unknown();
  if (unknown === null) return [];
  const { count, words, examples } = unknown;
  const what = `The texts may be in a language that the pre-trained backbones do not know: compare them by '"backbone": "auto"'. Unknown words among the first ${words}`;
  return [warning("language_not_covered", count, examples, what)];
}

function numericWarning(count: number, labels: ReadonlyMap<string, number>): ImportWarning[] {
  const numbers = [...labels.keys()].filter((label) => /^-?\d+$/.test(label)).sort((a, b) => Number(a) - Number(b));
  const what = "Labels that are whole numbers, to which '?label_names=' gives names in the order of the numbers";
  return count === 0 ? [] : [warning("numeric_labels", count, numbers.slice(0, MAX_EXAMPLES), what)];
}

function isShort(text: string): boolean {
  const visible = [...text].filter((character) => character.trim() !== "");
  return visible.length < MIN_CHARACTERS && !WORD_CHARACTERS.test(text);
}

/** Labels that are alike but for case and white space, labels with one example, and one that nearly all examples have. */
function labelWarnings(
  labelCounts: ReadonlyMap<string, number>,
  datasetLabels: Readonly<Record<string, number>>,
): ImportWarning[] {
  const [similar, rare, dominant] = [newFinding(), newFinding(), newFinding()];
  const spellings = new Map<string, Set<string>>();
  for (const label of [...Object.keys(datasetLabels), ...labelCounts.keys()]) {
    const key = label.toLowerCase().replace(/\s+/g, "");
    spellings.set(key, (spellings.get(key) ?? new Set()).add(label));
  }
  for (const labels of spellings.values())
    if (labels.size > 1 && [...labels].some((label) => labelCounts.has(label)))
      addTo(similar, [...labels].map((label) => JSON.stringify(label)).join(" and "));
  const total = Object.values(datasetLabels).reduce((sum, count) => sum + count, 0);
  for (const label of labelCounts.keys()) {
    const count = Object.hasOwn(datasetLabels, label) ? (datasetLabels[label] ?? 0) : 0;
    if (count === 1) addTo(rare, label);
    if (total >= MIN_EXAMPLES_FOR_SHARE && count > DOMINANT_SHARE * total) addTo(dominant, label);
  }
  return [
    ...warn("similar_labels", similar, "Groups of labels that differ by case or white space alone"),
    ...warn("rare_label", rare, "Labels with a single example"),
    ...warn("dominant_label", dominant, `Labels with more than ${100 * DOMINANT_SHARE} % of the examples`),
  ];
}

function toSample({ row, truncated }: GoodRow, task: Task): SampleRow {
  const input =
    typeof row.input === "string"
      ? { text: row.input }
      : { embedding: Array.from(new Float32Array(row.input.slice().buffer)) };
  return {
    line: row.line,
    ...(row.id === null ? {} : { id: row.id }),
    ...input,
    [targetField[task]]: JSON.parse(row.target),
    ...(truncated ? { truncated: true } : {}),
  };
}

/** The figures of an import, but for the rows' errors. */
export function toFigures(
  summary: ImportSummary,
  report: ReadReport,
  datasetLabels: Readonly<Record<string, number>>,
): Omit<ImportFigures, "rejected" | "errors"> {
  return {
    detected: report.detected,
    ignored_columns: [...report.ignoredColumns],
    skipped: [...report.skipped.values()].reduce((sum, count) => sum + count, 0),
    trimmed: report.trimmed,
    truncated: report.truncated,
    warnings: summary.warnings(report, datasetLabels),
  };
}
