/**
 * The threshold of each label of a multi-label head: t_k, with label k predicted if p_k ≥ t_k. It is the one that gives
 * the label's largest F1 = 2 hits / (predicted + support) on held-out examples, among 0.01, 0.02, … 0.99 (Yang 2001, A
 * Study of Thresholding Strategies for Text Categorization; Lipton et al. 2014, Optimal Thresholding of Classifiers to
 * Maximize F1 Measure). Of equal ones it is the nearest to ½. A label of few examples keeps ½, since a threshold fitted
 * on them would be chance.
 */

/** The threshold of a label for which none is fitted. */
export const DEFAULT_THRESHOLD = 0.5;
const STEPS = 100;
const MIN_SUPPORT = 10;

export interface ThresholdFit {
  /** Counts a held-out example's probability of a label, and whether it has the label. */
  add(label: number, probability: number, isPositive: boolean): void;
  /** The threshold of each label. */
  thresholds(): number[];
}

export function fitThresholds(labels: number): ThresholdFit {
  const positives = new Uint32Array(labels * STEPS);
  const negatives = new Uint32Array(labels * STEPS);
  return {
    add(label, probability, isPositive) {
      const counts = isPositive ? positives : negatives;
      const bin = label * STEPS + stepOf(probability);
      counts[bin] = (counts[bin] as number) + 1;
    },
    thresholds: () =>
      Array.from({ length: labels }, (_, k) =>
        bestThreshold(positives.subarray(k * STEPS, (k + 1) * STEPS), negatives.subarray(k * STEPS, (k + 1) * STEPS)),
      ),
  };
}

/** The largest step that is not above a probability: the last threshold at which its label is predicted. */
function stepOf(probability: number): number {
  const step = Math.min(STEPS - 1, Math.floor(probability * STEPS));
  // The product is rounded, so it may be one off.
  if (step / STEPS > probability) return step - 1;
  return step + 1 < STEPS && (step + 1) / STEPS <= probability ? step + 1 : step;
}

/** The threshold for a label with so many positive and negative examples at each step. */
function bestThreshold(positives: Uint32Array, negatives: Uint32Array): number {
  const support = positives.reduce((sum, count) => sum + count, 0);
  if (support < MIN_SUPPORT) return DEFAULT_THRESHOLD;
  let [hits, predicted] = [0, 0];
  let best = { f1: -1, threshold: DEFAULT_THRESHOLD };
  for (let step = STEPS - 1; step > 0; step--) {
    const threshold = step / STEPS;
    hits += positives[step] as number;
    predicted += (positives[step] as number) + (negatives[step] as number);
    const f1 = (2 * hits) / (predicted + support);
    const isNearer = Math.abs(threshold - DEFAULT_THRESHOLD) < Math.abs(best.threshold - DEFAULT_THRESHOLD);
    if (f1 > best.f1 || (f1 === best.f1 && isNearer)) best = { f1, threshold };
  }
  return best.threshold;
}
