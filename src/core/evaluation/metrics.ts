/**
 * Metrics, as scikit-learn defines those that it has. A metric with nothing to count is 0, but for those of a class
 * without examples, of which nothing is known: they are null.
 */

export interface ClassMetrics {
  readonly label: string;
  /** Null if the class has no examples, as recall and f1. */
  readonly precision: number | null;
  readonly recall: number | null;
  readonly f1: number | null;
  readonly support: number;
  /** Multi-label: the label is predicted from this probability on. */
  readonly threshold?: number;
}

/** How often a class was predicted correctly, was predicted, and was the true one. */
export interface ClassCounts {
  readonly hits: number;
  readonly predicted: number;
  readonly support: number;
}

/** counts[true class][predicted class] */
export function confusionMatrix(truth: readonly number[], predicted: readonly number[], classes: number): number[][] {
  const matrix = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  for (const [i, label] of predicted.entries()) {
    const row = matrix[truth[i] ?? -1];
    if (row !== undefined) row[label] = (row[label] ?? 0) + 1;
  }
  return matrix;
}

export function classMetrics(label: string, { hits, predicted, support }: ClassCounts): ClassMetrics {
  if (support === 0) return { label, precision: null, recall: null, f1: null, support };
  return {
    label,
    precision: ratio(hits, predicted),
    recall: ratio(hits, support),
    f1: ratio(2 * hits, predicted + support),
    support,
  };
}

/** Precision, recall and F1 of every class, from each example's true and predicted class. */
export function perClassMetrics(
  labels: readonly string[],
  truth: readonly number[],
  predicted: readonly number[],
): ClassMetrics[] {
  const classes = labels.map((label) => ({ label, hits: 0, predicted: 0, support: 0 }));
  for (const [i, label] of truth.entries()) {
    const own = classes[label];
    if (own === undefined) continue;
    own.support++;
    if (predicted[i] === label) own.hits++;
  }
  for (const label of predicted) {
    const own = classes[label];
    if (own !== undefined) own.predicted++;
  }
  return classes.map((counts) => classMetrics(counts.label, counts));
}

/**
 * The mean F1 of the classes that have examples. scikit-learn's f1_score with average="macro" also counts classes that are
 * predicted alone, as 0.
 */
export function macroF1(perClass: readonly ClassMetrics[]): number {
  return mean(perClass.flatMap(({ f1 }) => f1 ?? []));
}

/** Standard errors to each side of a 95 % interval. */
export const Z_95 = 1.959963984540054;

/** Wilson's score interval of a share in `count` trials, `z` standard errors to each side: by default 95 %. */
export function wilsonInterval(share: number, count: number, z = Z_95): [number, number] {
  if (count === 0) return [0, 1];
  const centre = (share + (z * z) / (2 * count)) / (1 + (z * z) / count);
  const margin = (z / (1 + (z * z) / count)) * Math.sqrt((share * (1 - share)) / count + (z * z) / (4 * count * count));
  return [Math.max(0, centre - margin), Math.min(1, centre + margin)];
}

/**
 * Expected calibration error (Naeini et al. 2015; Guo et al. 2017). The confidences are divided into 15 bins of equal
 * width. The error is the mean difference between a bin's mean confidence and its accuracy, weighted by the bin's size.
 */
export function expectedCalibrationError(confidences: readonly number[], isCorrect: readonly boolean[]): number {
  return binConfidences(confidences, isCorrect).error();
}

/** The bins of that error. */
export function binConfidences(confidences: readonly number[], isCorrect: readonly boolean[]): CalibrationBins {
  const bins = calibrationBins();
  for (const [i, confidence] of confidences.entries()) bins.add(confidence, isCorrect[i] === true);
  return bins;
}

/**
 * The same over bins of equal mass: the confidences in order, in 15 bins of about as many each, equal ones in one bin
 * (Nguyen and O'Connor 2015). Where most confidences are near 1, bins of equal width judge these by one or two bins.
 */
export function equalMassCalibrationError(
  confidences: readonly number[],
  isCorrect: readonly boolean[],
  count = 15,
): number {
  const ascending = [...confidences.keys()].sort((a, b) => (confidences[a] as number) - (confidences[b] as number));
  let error = 0;
  let gap = 0;
  let bin = 0;
  for (const [i, index] of ascending.entries()) {
    const confidence = confidences[index] as number;
    const isTied = i > 0 && confidences[ascending[i - 1] as number] === confidence;
    const ownBin = Math.floor((i * count) / ascending.length);
    if (ownBin !== bin && !isTied) {
      error += Math.abs(gap);
      [gap, bin] = [0, ownBin];
    }
    gap += confidence - (isCorrect[index] === true ? 1 : 0);
  }
  return ratio(error + Math.abs(gap), ascending.length);
}

/** The predictions whose confidence is in one bin. */
export interface ReliabilityBin {
  /** Their mean confidence, and the share of them that is right. */
  readonly confidence: number;
  readonly accuracy: number;
  /** How many there are: of any number of labels, an example and a label each. */
  readonly examples: number;
}

export interface CalibrationBins {
  add(confidence: number, isCorrect: boolean): void;
  error(): number;
  /** The bins that are not empty, by rising confidence. */
  reliability(): ReliabilityBin[];
}

/** The expected calibration error of confidences that are too many to keep. */
export function calibrationBins(count = 15): CalibrationBins {
  const bins = Array.from({ length: count }, () => ({ confidence: 0, correct: 0, examples: 0 }));
  return {
    add(confidence, isCorrect) {
      const bin = bins[Math.max(0, Math.min(count - 1, Math.ceil(confidence * count) - 1))];
      if (bin === undefined) return;
      bin.confidence += confidence;
      bin.correct += Number(isCorrect);
      bin.examples++;
    },
    error: () =>
      ratio(
        bins.reduce((sum, { confidence, correct }) => sum + Math.abs(confidence - correct), 0),
        bins.reduce((sum, { examples }) => sum + examples, 0),
      ),
    reliability: () =>
      bins
        .filter(({ examples }) => examples > 0)
        .map(({ confidence, correct, examples }) => ({
          confidence: confidence / examples,
          accuracy: correct / examples,
          examples,
        })),
  };
}

export function regressionMetrics(
  truth: readonly number[],
  predicted: readonly number[],
): { r2: number; mae: number; rmse: number } {
  const centre = mean(truth);
  const errors = truth.map((value, i) => value - (predicted[i] ?? Number.NaN));
  const residual = mean(errors.map((error) => error * error));
  const variance = mean(truth.map((value) => (value - centre) ** 2));
  return {
    r2: variance === 0 ? 0 : 1 - residual / variance,
    mae: mean(errors.map(Math.abs)),
    rmse: Math.sqrt(residual),
  };
}

export function mean(values: readonly number[]): number {
  return ratio(
    values.reduce((sum, value) => sum + value, 0),
    values.length,
  );
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}
