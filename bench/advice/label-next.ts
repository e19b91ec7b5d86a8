/**
 * What to label next: a head learns 100 inputs that label_next chooses of a pool, or 100 at random. Both begin with the same
 * labelled texts, once 100 at random, once five of each label, and the accuracy on test texts is compared. The pool is 2,000
 * texts of the training file. In another case it also has 200 texts that belong to none of the labels, and what counts is how
 * many of these are chosen.
 */
import { mean } from "../../src/core/evaluation/metrics.ts";
import { type Head, judgeScope, logitsOf, outputsOf } from "../../src/core/head.ts";
import { chooseInputs, type PoolPrediction } from "../../src/core/label-next.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import type { Steps } from "../../src/core/steps.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { encoderOf, type TextFile } from "../evaluation/embeddings.ts";
import { accuracyOf, judge, trainHead } from "../evaluation/head.ts";
import { type EvaluationSet, readOutOfScope, readSets } from "../evaluation/sets.ts";
import { cached, readStored } from "../shared/cached.ts";
import type { Encoder } from "../shared/linear-probe.ts";
import { makeRow, type Row } from "../shared/report.ts";
import { spreadOf } from "../shared/statistics.ts";
import { type LabelledText, sampleByLabel } from "../shared/text-datasets.ts";

const tensors = await nodeTensorBackend();
const SETS = /^(hwu64 full|clinc150_full|snips full|bitext_support27|multidogo_airline)$/;
const SEEDS = 5;
const CHOSEN = 100;
const POOL = 2_000;
const TEST_TEXTS = 1_500;
const RANDOM_DRAWS = 3;
const OUT_OF_SCOPE = 200;
const MIN_GAIN = 0.01;
const MIN_SETS_AHEAD = 4;

const starts = {
  "100 at random": (rows: readonly LabelledText[]) => rows.slice(0, 100),
  "5 of each label": (rows: readonly LabelledText[], seed: number) => sampleByLabel(rows, 5, seed),
} as const;
type Start = keyof typeof starts;
/** Of the cases with texts out of scope: a head of all labels. */
const SCOPE_START: Start = "5 of each label";

/** Accuracies on the test texts. */
interface Comparison {
  readonly before: number;
  readonly chosen: number;
  /** The mean of the draws. */
  readonly random: number;
}

/** `isStored`: the rows of the cases that are stored, without measuring the others. */
export async function labelNextRows(data: string, isStored: boolean): Promise<Row[]> {
  const sets = readSets(data).filter(({ name }) => SETS.test(name));
  const rows: Row[] = [];
  for (const start of Object.keys(starts) as Start[]) {
    const comparisons = new Map<string, Comparison[]>();
    for (const set of sets)
      comparisons.set(set.name, await ofSeeds((seed) => comparisonCase(set, start, seed), isStored));
    rows.push(...comparisonRows(start, comparisons));
  }
  const shares: number[] = [];
  for (const set of sets.filter(({ name }) => !name.startsWith("clinc")))
    shares.push(...(await ofSeeds((seed) => scopeCase(set, data, seed), isStored)));
  if (shares.length === 0) return rows;
  const value = mean(shares);
  const pool = `pools with ${OUT_OF_SCOPE} texts out of scope, ${SCOPE_START}`;
  const row = { case: pool, measure: "share of these among the chosen", value, spread: spreadOf(shares) };
  const peer = { peer: "in the pool", peer_value: OUT_OF_SCOPE / (POOL + OUT_OF_SCOPE) };
  return [...rows, makeRow({ ...row, ...peer })];
}

interface Case<T> {
  readonly name: string;
  measure(): Promise<T>;
}

async function ofSeeds<T>(caseOf: (seed: number) => Case<T>, isStored: boolean): Promise<T[]> {
  const results: T[] = [];
  for (let seed = 0; seed < SEEDS; seed++) {
    const { name, measure } = caseOf(seed);
    const result = isStored ? readStored<T>("advice", name) : await cached("advice", name, measure);
    if (result !== null) results.push(result);
  }
  return results;
}

function comparisonCase(set: EvaluationSet, start: Start, seed: number): Case<Comparison> {
  const measure = async () => {
    const encoder = await encoderOf([set.train, set.test]);
    const { labelled, pool } = draw(set, start, seed);
    const test = shuffle([...set.test.rows], seededRandom(1)).slice(0, TEST_TEXTS);
    const accuracyWith = (added: readonly LabelledText[]) =>
      accuracyOf(judge(encoder, trainHead(encoder, [...labelled, ...added], { detail: "none", seed }).head, test));
    const draws = Array.from({ length: RANDOM_DRAWS }, (_, i) =>
      accuracyWith(shuffle([...pool], seededRandom(1_000 * (seed + 1) + i)).slice(0, CHOSEN)),
    );
    return {
      before: accuracyWith([]),
      chosen: accuracyWith(choose(encoder, trainHead(encoder, labelled, { seed }).head, pool)),
      random: mean(draws),
    };
  };
  return { name: `label-next ${set.name}, ${start}, seed ${seed}`, measure };
}

/** Texts to begin with, and others to choose from. */
function draw({ train }: EvaluationSet, start: Start, seed: number) {
  const rows = shuffle([...train.rows], seededRandom(seed));
  const labelled = starts[start](rows, seed);
  const known = new Set(labelled.map(({ text }) => text));
  const others = new Map(rows.filter(({ text }) => !known.has(text)).map((row) => [row.text, row]));
  return { labelled, pool: [...others.values()].slice(0, POOL) };
}

function choose<T extends { readonly text: string }>(encoder: Encoder, head: Head, pool: readonly T[]): T[] {
  const features = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  const embeddings = pool.map(({ text }) => encoder.encode(text));
  const predictions = pool.map(({ text }, i): PoolPrediction => {
    const embedding = embeddings[i] as Float32Array;
    const logits = logitsOf(head, embedding, features === null ? null : features(text));
    const scores = Array.from(outputsOf(head, logits, head.temperature), (score, k) => ({
      label: head.labels[k] ?? "",
      score,
      threshold: 0,
    }));
    const ranked = scores.sort((a, b) => b.score - a.score).slice(0, 2);
    const { inScope, score } = judgeScope(head, logits, embedding);
    return { scores: ranked, inScope, scopeScore: head.scope === null ? null : score };
  });
  const chosen = runSteps(chooseInputs(tensors, "single_label", embeddings, predictions, CHOSEN));
  return chosen.map(({ index }) => pool[index] as T);
}

function runSteps<T>(steps: Steps<T>): T {
  for (let step = steps.next(); ; step = steps.next()) if (step.done) return step.value;
}

/** The share of texts out of scope among the chosen ones. */
function scopeCase(set: EvaluationSet, data: string, seed: number): Case<number> {
  const measure = async () => {
    const outOfScope: TextFile = readOutOfScope(data).train;
    const encoder = await encoderOf([set.train, outOfScope]);
    const { labelled, pool } = draw(set, SCOPE_START, seed);
    const strangers = outOfScope.rows.slice(0, OUT_OF_SCOPE).map(({ text }) => ({ text, isStranger: true }));
    const all = [...pool.map(({ text }) => ({ text, isStranger: false })), ...strangers];
    const chosen = choose(encoder, trainHead(encoder, labelled, { seed }).head, all);
    return chosen.filter(({ isStranger }) => isStranger).length / chosen.length;
  };
  return { name: `label-next out of scope ${set.name}, seed ${seed}`, measure };
}

function comparisonRows(start: Start, comparisons: ReadonlyMap<string, readonly Comparison[]>): Row[] {
  const measured = [...comparisons].filter(([, own]) => own.length > 0);
  if (measured.length === 0) return [];
  const gains = measured.map(([, own]) => own.map(({ chosen, random }) => chosen - random));
  const setRows = measured.flatMap(([name, own], i) => {
    const gain = mean(gains[i] ?? []);
    return [
      makeRow({
        case: `${name}, after ${start}`,
        measure: `test accuracy with ${CHOSEN} chosen; spread: gain of a seed`,
        value: mean(own.map(({ chosen }) => chosen)),
        peer: `${CHOSEN} at random`,
        peer_value: mean(own.map(({ random }) => random)),
        spread: spreadOf(gains[i] ?? []),
        target: "ahead",
        met: gain > 0,
      }),
      makeRow({
        case: `${name}, after ${start}`,
        measure: "test accuracy before",
        value: mean(own.map(({ before }) => before)),
      }),
    ];
  });
  const setGains = gains.map(mean);
  const ahead = setGains.filter((gain) => gain > 0).length;
  return [
    ...setRows,
    makeRow({
      case: `all sets, after ${start}`,
      measure: "mean gain",
      value: mean(setGains),
      spread: spreadOf(setGains),
      target: `≥ ${MIN_GAIN}`,
      met: mean(setGains) >= MIN_GAIN,
    }),
    makeRow({
      case: `all sets, after ${start}`,
      measure: "sets ahead",
      value: ahead,
      unit: `of ${measured.length}`,
      target: `≥ ${MIN_SETS_AHEAD}`,
      met: ahead >= MIN_SETS_AHEAD,
    }),
  ];
}
