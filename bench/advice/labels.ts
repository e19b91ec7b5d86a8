/**
 * Whether wrong labels are found: labels of a set are flipped, and its issues are looked for as a request does, on
 * text-use-1. The sets have wrong labels of their own, which count as right here.
 */

import { MIN_WRONG_LABELS } from "../../src/core/advice/recommend.ts";
import { findDatasetIssues, modelBudget, planIssues } from "../../src/core/labels/find-issues.ts";
import type { RowIssue } from "../../src/core/labels/issue.ts";
import { edgeBudget } from "../../src/core/limits.ts";
import { createLexicalBudgetReader } from "../../src/core/linear/lexical-budget.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { encoderOf } from "../evaluation/embeddings.ts";
import { trainHead } from "../evaluation/head.ts";
import { type EvaluationSet, readSets } from "../evaluation/sets.ts";
import { cached, readStored } from "../shared/cached.ts";
import { type Encoder, makeTrainingSet } from "../shared/linear-probe.ts";
import { makeRow, type Row } from "../shared/report.ts";
import type { LabelledText } from "../shared/text-datasets.ts";
import { measureRows, sampleOf } from "./tasks.ts";

const BENCH = "advice";
const SETS = /^(clinc150_full|hwu64 full|snips full|multidogo_(airline|finance)|goemotions_ekman single)$/;
const MAX_ROWS = 5_000;
const SEED = 7;
/** Shares of flipped labels. The second is that of the target. */
const SHARES = [0, 0.05, 0.02, 0.1] as const;
const LISTED_SHARE = 0.05;
const MIN_FOUND = 0.75;
const GOOD_ACCURACY = 0.9;
const tensors = await nodeTensorBackend();

interface Baseline {
  /** Of held-out examples, by a head at the defaults of a training. */
  readonly accuracy: number;
  /** For each label the one that it is most often confused with, by name; those that are never confused have none. */
  readonly confusedWith: Readonly<Record<string, string>>;
}

interface Found {
  readonly flips: number;
  /** Flips among the first 5 % of the issues with labels, and of those of all types. */
  readonly found: number;
  readonly foundByAll: number;
  /** Labels that are more likely wrong than right, and how many of these are flips. */
  readonly likely: number;
  readonly likelyFlips: number;
  readonly noise: number;
  readonly issues: Readonly<Partial<Record<RowIssue["type"], number>>>;
  readonly seconds: number;
}

interface FlipCase {
  readonly name: string;
  readonly share: number;
  readonly kind: "random" | "confused";
}

const casesOf = ({ name }: EvaluationSet): readonly FlipCase[] => [
  ...SHARES.map((share) => ({ name: `${name}, ${100 * share} % of labels flipped`, share, kind: "random" as const })),
  { name: `${name}, 5 % flipped within confused pairs`, share: 0.05, kind: "confused" },
];
const baselineName = ({ name }: EvaluationSet) => `${name}, head`;

/** Measures what is not stored yet, unless `stored`, and answers the rows. */
export async function labelRows(data: string, stored: boolean): Promise<Row[]> {
  const sets = readSets(data).filter(({ name }) => SETS.test(name));
  for (const set of stored ? [] : sets) {
    const encoder = await encoderOf([set.train]);
    const rows = shuffle([...set.train.rows], seededRandom(SEED)).slice(0, MAX_ROWS);
    const baseline = await cached(BENCH, baselineName(set), async () => measureHead(encoder, rows));
    for (const { name, share, kind } of casesOf(set)) {
      const found = await cached(BENCH, name, async () =>
        findFlips(encoder, rows, flip(rows, share, kind === "random" ? null : baseline.confusedWith)),
      );
      console.error(`${name}: ${JSON.stringify(found)}`);
      if (kind !== "random") continue;
      await cached(BENCH, `${name}, advice`, async () => {
        const labels = flip(rows, share, null);
        const sample = sampleOf(
          rows.map(({ text }, i) => ({ text, label: labels[i] ?? "" })),
          SEED,
        );
        return measureRows(encoder, sample, SEED).evaluation.label_noise ?? 0;
      });
    }
  }
  return sets.flatMap(rowsOf);
}

function measureHead(encoder: Encoder, rows: readonly LabelledText[]): Baseline {
  const { evaluation } = trainHead(encoder, rows);
  const { labels, matrix } = evaluation.confusion ?? { labels: [], matrix: [] };
  const pairs = labels.flatMap((label, k): [string, string][] => {
    const confusions = labels.map((_, i) => (i === k ? 0 : (matrix[k]?.[i] ?? 0) + (matrix[i]?.[k] ?? 0)));
    const most = Math.max(...confusions);
    return most === 0 ? [] : [[label, labels[confusions.indexOf(most)] ?? label]];
  });
  return { accuracy: evaluation.accuracy ?? 0, confusedWith: Object.fromEntries(pairs) };
}

/** The labels with a share of them flipped: to any other label, or to the one that theirs is confused with. */
function flip(
  rows: readonly LabelledText[],
  share: number,
  confusedWith: Readonly<Record<string, string>> | null,
): readonly string[] {
  const labels = [...new Set(rows.map(({ label }) => label))].sort();
  const random = seededRandom(SEED + 1);
  const flipped = rows.map(({ label }) => label);
  const candidates = [...rows.keys()].filter(
    (row) => confusedWith === null || (flipped[row] as string) in confusedWith,
  );
  for (const row of shuffle(candidates, random).slice(0, Math.round(share * rows.length))) {
    const own = flipped[row] as string;
    const others = labels.filter((label) => label !== own);
    flipped[row] = confusedWith?.[own] ?? others[Math.floor(random() * others.length)] ?? own;
  }
  return flipped;
}

function findFlips(encoder: Encoder, rows: readonly LabelledText[], labels: readonly string[]): Found {
  const isFlip = (row: number) => rows[row]?.label !== labels[row];
  const started = process.cpuUsage();
  const trainingSet = makeTrainingSet(
    encoder,
    rows.map(({ text }, i) => ({ text, label: labels[i] ?? "" })),
  );
  const { task, dimensions } = trainingSet;
  const shape = { task, dimensions, examples: rows.length, outputs: trainingSet.labels.length };
  const plan = planIssues(shape, edgeBudget);
  if ("cost" in plan) throw new Error(`${rows.length} rows are beyond the budget.`);
  const budget = modelBudget(shape, edgeBudget);
  const bytes = rows.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
  const reader = createLexicalBudgetReader(shape, plan.options, budget, bytes);
  const hasAll = reader?.hasRoom && rows.every(({ text }) => reader.add(text));
  const fit = hasAll ? reader?.fit() : undefined;
  const lexical = fit !== undefined && "features" in fit ? fit.features : null;
  const steps = findDatasetIssues(tensors, { ...trainingSet, lexical }, plan.options, edgeBudget);
  let step = steps.next();
  while (!step.done) step = steps.next();
  for (const block of trainingSet.features) tensors.free(block);
  if (!step.value.ok) throw new Error(step.value.failure.message);
  const { user, system } = process.cpuUsage(started);
  const { issues, noise } = step.value.value;
  const labelErrors = issues.filter(({ type }) => type === "label_error");
  const listed = Math.round(LISTED_SHARE * rows.length);
  const countFlips = (list: readonly number[]) => [...new Set(list)].slice(0, listed).filter(isFlip).length;
  const likely = labelErrors.filter(({ score }) => score >= 0.5);
  return {
    flips: [...rows.keys()].filter(isFlip).length,
    found: countFlips(labelErrors.map(({ row }) => row)),
    foundByAll: countFlips(issues.map(({ row }) => row)),
    likely: likely.length,
    likelyFlips: likely.filter(({ row }) => isFlip(row)).length,
    noise,
    issues: Object.fromEntries([...Map.groupBy(issues, ({ type }) => type)].map(([type, list]) => [type, list.length])),
    seconds: (user + system) / 1e6,
  };
}

/** What a recommendation makes of the flips: it measures a sample with a head alone. */
function adviceRows(name: string, share: number, kind: FlipCase["kind"]): Row[] {
  const noise = readStored<number>(BENCH, `${name}, advice`);
  if (noise === null || kind !== "random") return [];
  const isAdvised = noise >= MIN_WRONG_LABELS;
  // At 2 % either may be said.
  const target = share === 0.02 ? {} : { target: share === 0 ? "0" : "1", met: isAdvised === share > 0 };
  return [
    makeRow({ case: name, measure: "estimated share of wrong labels, by a recommendation", value: noise }),
    makeRow({ case: name, measure: "it advises better labels", value: Number(isAdvised), ...target }),
  ];
}

function rowsOf(set: EvaluationSet): Row[] {
  const baseline = readStored<Baseline>(BENCH, baselineName(set));
  if (baseline === null) return [];
  const isGood = baseline.accuracy >= GOOD_ACCURACY;
  return [
    makeRow({ case: set.name, measure: "accuracy of a head, held-out", value: baseline.accuracy }),
    ...casesOf(set).flatMap(({ name, share, kind }) => {
      const found = readStored<Found>(BENCH, name);
      if (found === null) return [];
      const row = (measure: string, value: number, fields: Partial<Row> = {}) =>
        makeRow({ case: name, measure, value, ...fields });
      const isTarget = share === LISTED_SHARE && kind === "random" && isGood;
      const target = isTarget ? { target: `≥ ${MIN_FOUND}`, met: found.found / found.flips >= MIN_FOUND } : {};
      const shares =
        found.flips === 0
          ? []
          : [
              row("share of flips among the first 5 % of label errors", found.found / found.flips, {
                peer: "base rate",
                peer_value: share,
                ...target,
              }),
              row("the same among issues of all types", found.foundByAll / found.flips),
              row("precision of labels more likely wrong than right", found.likelyFlips / Math.max(1, found.likely)),
            ];
      return [
        ...shares,
        row("estimated share of wrong labels", found.noise, { peer: "flipped", peer_value: share }),
        ...adviceRows(name, share, kind),
        row("labels more likely wrong than right", found.likely, { unit: `of ${MAX_ROWS}` }),
        row("CPU time", found.seconds, { unit: "s" }),
      ];
    }),
  ];
}
