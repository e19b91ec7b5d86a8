/** Figures of merit, as scikit-learn defines them where it does. A figure with nothing to count is 0. */

export interface ClassMetrics {
  readonly label: string;
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
  readonly support: number;
}

/** counts[true][predicted] */
export function confusionMatrix(truth: readonly number[], predicted: readonly number[], classes: number): number[][] {
  const matrix = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  truth.forEach((label, i) => {
    const row = matrix[label] as number[];
    const column = predicted[i] as number;
    row[column] = (row[column] as number) + 1;
  });
  return matrix;
}

export function classMetrics(label: string, hits: number, predicted: number, support: number): ClassMetrics {
  return {
    label,
    precision: ratio(hits, predicted),
    recall: ratio(hits, support),
    f1: ratio(2 * hits, predicted + support),
    support,
  };
}

/** How often each class was right, predicted, and true. */
function countClasses(truth: readonly number[], predicted: readonly number[], classes: number) {
  const hits = new Float64Array(classes);
  const guesses = new Float64Array(classes);
  const support = new Float64Array(classes);
  truth.forEach((label, i) => {
    const guess = predicted[i] as number;
    support[label] = (support[label] as number) + 1;
    guesses[guess] = (guesses[guess] as number) + 1;
    if (guess === label) hits[label] = (hits[label] as number) + 1;
  });
  return { hits, guesses, support };
}

/** Precision, recall and F1 of every class, from each example's true and predicted class. */
export function perClassMetrics(
  labels: readonly string[],
  truth: readonly number[],
  predicted: readonly number[],
): ClassMetrics[] {
  const { hits, guesses, support } = countClasses(truth, predicted, labels.length);
  return labels.map((label, k) => classMetrics(label, hits[k] as number, guesses[k] as number, support[k] as number));
}

/** The mean F1 of the classes that occur, in truth or in prediction (scikit-learn's f1_score with average="macro"). */
export function macroF1(labels: readonly string[], truth: readonly number[], predicted: readonly number[]): number {
  const presentClasses = new Set([...truth, ...predicted]);
  const labelMetrics = perClassMetrics(labels, truth, predicted);
  return mean(labelMetrics.filter((_, k) => presentClasses.has(k)).map(({ f1 }) => f1));
}

/** Wilson's score interval of a share of `count` trials, 95 %. */
export function wilsonInterval(share: number, count: number): [number, number] {
  if (count === 0) return [0, 1];
  const z = 1.959963984540054;
  const centre = (share + (z * z) / (2 * count)) / (1 + (z * z) / count);
  const margin = (z / (1 + (z * z) / count)) * Math.sqrt((share * (1 - share)) / count + (z * z) / (4 * count * count));
  return [Math.max(0, centre - margin), Math.min(1, centre + margin)];
}

/**
 * Expected calibration error (Naeini et al. 2015; Guo et al. 2017): over 15 equally wide bins of confidence, the mean
 * distance between a bin's confidence and its share of hits, weighted by the bin's size.
 */
export function expectedCalibrationError(confidences: readonly number[], hits: readonly boolean[]): number {
  const bins = calibrationBins();
  confidences.forEach((confidence, i) => {
    bins.add(confidence, hits[i] === true);
  });
  return bins.error();
}

/** The bins of an expected calibration error, for figures too many to keep. */
export function calibrationBins(count = 15): { add(confidence: number, hit: boolean): void; error(): number } {
  const gaps = new Float64Array(count);
  let total = 0;
  return {
    add(confidence, hit) {
      const bin = Math.max(0, Math.min(count - 1, Math.ceil(confidence * count) - 1));
      gaps[bin] = (gaps[bin] as number) + confidence - (hit ? 1 : 0);
      total++;
    },
    error: () =>
      ratio(
        gaps.reduce((sum, gap) => sum + Math.abs(gap), 0),
        total,
      ),
  };
}

export function regressionMetrics(
  truth: readonly number[],
  predicted: readonly number[],
): { r2: number; mae: number; rmse: number } {
  const centre = mean(truth);
  const errors = truth.map((value, i) => value - (predicted[i] as number));
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
