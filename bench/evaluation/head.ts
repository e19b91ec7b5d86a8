/**
 * Heads on text-use-1 at the defaults of a training, and how they do on test texts. They have lexical features where a
 * request's budget has room for these; the evaluation has room for a learning curve in any case.
 */
import { equalMassCalibrationError, mean } from "../../src/core/evaluation/metrics.ts";
import type { AccuracyEstimate } from "../../src/core/evaluation/power-law.ts";
import { argmax } from "../../src/core/evaluation/probability.ts";
import { type Head, judgeScope, logitsOf, outputsOf, predictionSet } from "../../src/core/head.ts";
import { edgeBudget } from "../../src/core/limits.ts";
import type { TrainingOptions, TrainingResult } from "../../src/core/linear/types.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { type Encoder, trainProbe } from "../shared/linear-probe.ts";
import type { LabelledText } from "../shared/text-datasets.ts";

export const COVERAGE = 0.9;
type Detail = NonNullable<TrainingOptions["evaluation"]["detail"]>;

export interface HeadOptions {
  readonly detail?: Detail | "none";
  readonly seed?: number;
  readonly outOfScope?: readonly LabelledText[];
}

export function trainHead(
  encoder: Encoder,
  rows: readonly LabelledText[],
  { detail = "summary", seed = 1, outOfScope = [] }: HeadOptions = {},
): TrainingResult {
  const evaluation = detail === "none" ? { method: "none" as const } : { method: "auto" as const, detail };
  return trainProbe(encoder, rows, { lexical: "auto", seed, evaluation, outOfScope, lexicalBudget: edgeBudget });
}

/** Of one core, measured: for each example, and for each of its logits; with a learning curve twice as long. */
const SECONDS_PER_EXAMPLE = 1e-3;
const SECONDS_PER_LOGIT = 4e-5;

/** About how many seconds a training takes. */
export function trainingSeconds(examples: number, labels: number, detail: Detail = "summary"): number {
  return examples * (SECONDS_PER_EXAMPLE + labels * SECONDS_PER_LOGIT) * (detail === "full" ? 2 : 1);
}

export function countLabels(rows: readonly LabelledText[]): number {
  return new Set(rows.map(({ label }) => label)).size;
}

export interface Estimate {
  readonly value: number;
  /** Of the 95 % interval. */
  readonly low: number;
  readonly high: number;
}

/** An estimate of an evaluation. Throws if it has none. */
export function readEstimate(estimate: AccuracyEstimate | undefined): Estimate {
  if (estimate === undefined) throw new Error("The evaluation has no estimate of the accuracy.");
  const [low, high] = estimate.interval;
  return { value: estimate.value, low, high };
}

/** What a head says of a text. */
export interface Judgement {
  readonly label: string;
  /** The most probable label is the text's. */
  readonly isCorrect: boolean;
  readonly top: number;
  /** The number of labels in the conformal set, and whether the text's is one of them. */
  readonly setSize: number;
  readonly isCovered: boolean;
  /** The same of the labels whose probability is at least 1 − COVERAGE, or the most probable one. */
  readonly plainSize: number;
  readonly isPlainCovered: boolean;
  readonly scopeScore: number;
  readonly inScope: boolean | null;
}

export function judge({ encode }: Encoder, head: Head, rows: readonly LabelledText[]): Judgement[] {
  const features = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  return rows.map(({ text, label }) => {
    const logits = logitsOf(head, encode(text), features === null ? null : features(text));
    const probabilities = outputsOf(head, logits, head.temperature);
    const target = head.labels.indexOf(label);
    const best = argmax(probabilities);
    const top = probabilities[best] as number;
    const set = predictionSet(head, probabilities, COVERAGE);
    const isPlain = (k: number) => k === best || (probabilities[k] ?? 0) >= 1 - COVERAGE;
    const { inScope, score } = judgeScope(head, logits, encode(text));
    return {
      label,
      isCorrect: target === best,
      top,
      setSize: set.length,
      isCovered: set.includes(target),
      plainSize: [...probabilities.keys()].filter(isPlain).length,
      isPlainCovered: isPlain(target),
      scopeScore: score ?? 0,
      inScope,
    };
  });
}

export function accuracyOf(judgements: readonly Judgement[]): number {
  return mean(judgements.map(({ isCorrect }) => Number(isCorrect)));
}

/** The mean over the labels of the share that is right: the accuracy on a test set with as many texts of each. */
export function balancedAccuracyOf(judgements: readonly Judgement[]): number {
  return mean([...Map.groupBy(judgements, ({ label }) => label).values()].map(accuracyOf));
}

export interface Figures {
  readonly accuracy: number;
  readonly ece: number;
  readonly coverage: number;
  readonly setSize: number;
  readonly plainCoverage: number;
  readonly plainSize: number;
}

export function figuresOf(judgements: readonly Judgement[]): Figures {
  const average = (value: (judgement: Judgement) => number | boolean) => mean(judgements.map((j) => Number(value(j))));
  return {
    accuracy: accuracyOf(judgements),
    ece: equalMassCalibrationError(
      judgements.map(({ top }) => top),
      judgements.map(({ isCorrect }) => isCorrect),
    ),
    coverage: average(({ isCovered }) => isCovered),
    setSize: average(({ setSize }) => setSize),
    plainCoverage: average(({ isPlainCovered }) => isPlainCovered),
    plainSize: average(({ plainSize }) => plainSize),
  };
}
