/**
 * Whether live inputs are unlike the held-out ones, by what is counted of both. For each figure, with r_i of R held-out and
 * n_i of N live inputs in bin i:
 *
 *   χ² = Σ (√(N/R) r_i − √(R/N) n_i)² / (r_i + n_i)       two samples of one distribution (Press et al. 2007, "Numerical
 *                                                          Recipes", 14.3.3); as many degrees of freedom as bins less one
 *   PSI = Σ (q_i − p_i) ln(q_i / p_i)                      population stability index; p_i = (r_i + ½) / (R + bins / 2), q_i likewise
 *
 * The test says whether chance explains the difference, the index whether it is large enough to matter: by convention from
 * 0.25 on. The head that serves is trained on more examples than the heads of the folds, and so is more certain of inputs like
 * them. So a confidence or a scope score counts as moved only where its mean has fallen. Inputs that are unlike the examples
 * and predicted with certainty move the labels or the unknown words.
 */
import { chiSquareTail } from "./gamma.ts";
import { COUNTED_LABELS, type InputCounts, SCORE_BINS } from "./input-counts.ts";

export const shiftFigures = ["confidence", "scope", "unknown_words", "labels"] as const;
export type ShiftFigure = (typeof shiftFigures)[number];

/** How one figure of live inputs differs from that of held-out ones. */
export interface FigureShift {
  readonly figure: ShiftFigure;
  readonly psi: number;
  readonly p_value: number;
  /** The mean of a score, or the share of inputs with unknown words. Null for labels. */
  readonly before: number | null;
  readonly after: number | null;
  /** Of labels, those whose shares have changed most. */
  readonly labels?: readonly { readonly index: number; readonly before: number; readonly after: number }[];
}

/** From this index on a difference matters. */
export const LARGE_INDEX = 0.25;
/** How many labels a comparison names. */
const MOVED_LABELS = 5;
/** Bins are merged until each is expected to have so many inputs of the smaller sample (Cochran 1954). */
const MIN_EXPECTED = 5;
/** With fewer held-out inputs there is no comparison. */
export const MIN_REFERENCE_INPUTS = 40;

/** The figures that both have, each with its difference. Empty where too few inputs were held out. */
export function compareInputs(reference: InputCounts, live: InputCounts, labels: number): FigureShift[] {
  if (reference.inputs < MIN_REFERENCE_INPUTS) return [];
  const compared: FigureShift[] = [];
  for (const figure of shiftFigures) {
    const [before, after] = [binsOf(reference, figure, labels), binsOf(live, figure, labels)];
    const [r, n] = [sum(before), sum(after)];
    // A figure that only some of the inputs have is not compared: a version's weights decide which figures it has.
    if (r < MIN_REFERENCE_INPUTS || n === 0) continue;
    const shift = compareBins(mergeBins(before, after, figure !== "labels"));
    if (shift !== null) compared.push({ figure, ...shift, ...describe(figure, reference, live, before, after) });
  }
  return compared;
}

function binsOf(counts: InputCounts, figure: ShiftFigure, labels: number): readonly number[] {
  if (figure !== "labels") return counts[figure];
  return Array.from({ length: Math.min(labels, COUNTED_LABELS + 1) }, (_, index) => counts.labels[index] ?? 0);
}

/**
 * Merges bins until each is expected to have enough inputs: neighbours where their order means something, else the rarest
 * ones. The counts of both samples together decide, so that the test stays valid.
 */
function mergeBins(before: readonly number[], after: readonly number[], ordered: boolean): [number, number][] {
  const [r, n] = [sum(before), sum(after)];
  const enough = (MIN_EXPECTED * (r + n)) / Math.min(r, n);
  const pairs = before.map((count, i): [number, number] => [count, after[i] ?? 0]);
  if (!ordered) pairs.sort((a, b) => a[0] + a[1] - (b[0] + b[1]));
  const merged: [number, number][] = [];
  let open: [number, number] = [0, 0];
  for (const [ri, ni] of pairs) {
    open = [open[0] + ri, open[1] + ni];
    if (open[0] + open[1] < enough) continue;
    merged.push(open);
    open = [0, 0];
  }
  const last = merged.at(-1);
  if (last === undefined) return [open];
  last[0] += open[0];
  last[1] += open[1];
  return merged;
}

function compareBins(bins: readonly (readonly [number, number])[]): Pick<FigureShift, "psi" | "p_value"> | null {
  if (bins.length < 2) return null;
  const r = sum(bins.map(([ri]) => ri));
  const n = sum(bins.map(([, ni]) => ni));
  const [a, b] = [Math.sqrt(n / r), Math.sqrt(r / n)];
  let chiSquare = 0;
  let psi = 0;
  for (const [ri, ni] of bins) {
    chiSquare += (a * ri - b * ni) ** 2 / (ri + ni);
    const p = (ri + 0.5) / (r + bins.length / 2);
    const q = (ni + 0.5) / (n + bins.length / 2);
    psi += (q - p) * Math.log(q / p);
  }
  return { psi, p_value: chiSquareTail(chiSquare, bins.length - 1) };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function describe(
  figure: ShiftFigure,
  reference: InputCounts,
  live: InputCounts,
  before: readonly number[],
  after: readonly number[],
): Pick<FigureShift, "before" | "after" | "labels"> {
  if (figure !== "labels") return { before: figureMean(reference, figure), after: figureMean(live, figure) };
  const [r, n] = [sum(before), sum(after)];
  const shares = before.map((count, index) => ({ index, before: count / r, after: (after[index] ?? 0) / n }));
  const change = (label: (typeof shares)[number]) => Math.abs(label.after - label.before);
  return { before: null, after: null, labels: shares.sort((a, b) => change(b) - change(a)).slice(0, MOVED_LABELS) };
}

/** The mean of a score, or the share of inputs with an unknown word. Of a histogram, the mean of the middles of its bins. */
export function figureMean(counts: InputCounts, figure: Exclude<ShiftFigure, "labels">): number {
  if (figure === "confidence") return counts.confidence_sum / sum(counts.confidence);
  if (figure === "unknown_words") return 1 - (counts.unknown_words[0] ?? 0) / sum(counts.unknown_words);
  return sum(counts.scope.map((count, i) => (count * (i + 0.5)) / SCORE_BINS)) / sum(counts.scope);
}

/** Whether the difference is of the kind that inputs unlike the examples make. */
export function pointsToShift({ figure, before, after }: FigureShift): boolean {
  const isScore = figure === "confidence" || figure === "scope";
  return !isScore || (before ?? 0) > (after ?? 0);
}
