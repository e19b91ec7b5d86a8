/**
 * The accuracy of a head that is trained on other numbers of examples than those measured, by the power law of learning
 * curves (Cortes et al. 1993; Viering and Loog 2023, The Shape of Learning Curves: A Review):
 *
 *   error(m) = a + b m^−c    a, b ≥ 0
 *
 * Few points cannot tell c, and the answer depends little on it near the largest m. So each c of a grid fits a and b by
 * least squares, weighted by m, and predicts; the predictions are averaged, each weighed by how well its curve fits. What
 * is predicted is the change from the largest measured m, which is added to the accuracy measured there.
 *
 * For one c, the change is a weighted sum of the measured errors, and so one of each example's errors. The variance of
 * that sum over the examples knows that all points are measured on the same examples. To it comes that of the accuracy,
 * which is binomial, but that few models judge all examples, and their training sets overlap: so it is multiplied as by
 * Nadeau and Bengio (2003, Inference for the Generalization Error), by 1 + n / m, with n held-out examples in all and
 * models of m examples.
 */
import { mean, wilsonInterval } from "./metrics.ts";

/** How a head that is trained on so many examples does on the held-out examples, which are the same at each point. */
export interface CurvePoint {
  readonly examples: number;
  /** For each held-out example 1 if it is predicted correctly, else 0; or the mean of several trainings. */
  readonly correct: Float32Array;
}

export interface AccuracyEstimate {
  readonly value: number;
  /** 95 % */
  readonly interval: readonly [number, number];
}

/** Statistical rates are between 1/2 and 1, and measured curves mostly between 0.1 and 1. No exponent is favoured. */
const EXPONENTS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];

/** What the models of the largest point are known to do, on these held-out examples or on more of them. */
export interface MeasuredAccuracy {
  readonly accuracy: number;
  readonly heldOut: number;
}

/**
 * The expected accuracy at any number of examples, from points in ascending order of examples. One point alone says
 * nothing of other numbers: then it is null.
 */
export function fitPowerLaw(
  points: readonly CurvePoint[],
  { accuracy, heldOut }: MeasuredAccuracy,
): ((examples: number) => AccuracyEstimate) | null {
  const last = points.at(-1);
  if (last === undefined || points.length < 2) return null;
  const sizes = points.map(({ examples }) => examples / last.examples);
  const errors = points.map(({ correct }) => 1 - mean(Array.from(correct)));
  const curves = EXPONENTS.map((exponent) => fitCurve(points, sizes, errors, exponent));
  const least = Math.min(...curves.map(({ misfit }) => misfit));
  const weights = curves.map(({ misfit }) => Math.exp((least - misfit) / 2));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const factor = 1 + heldOut / last.examples;
  const measuredVariance = (factor * accuracy * (1 - accuracy)) / heldOut;
  return (examples) => {
    const predictions = curves.map(({ slope, exponent }) => {
      const rise = 1 - (examples / last.examples) ** -exponent;
      const coefficients = slope.map((weight) => rise * weight);
      const change = coefficients.reduce((sum, coefficient, j) => sum + coefficient * (errors[j] as number), 0);
      return { value: accuracy + change, variance: measuredVariance + varianceOfMean(points, coefficients) };
    });
    const average = (values: readonly number[]) =>
      values.reduce((sum, each, i) => sum + (weights[i] as number) * each, 0) / total;
    const value = Math.min(1, Math.max(0, average(predictions.map((prediction) => prediction.value))));
    const variance = average(predictions.map((prediction) => prediction.variance + (prediction.value - value) ** 2));
    return { value, interval: intervalOf(value, variance, heldOut / factor) };
  };
}

interface Curve {
  readonly exponent: number;
  /** b is the sum of these multiples of the measured errors. */
  readonly slope: readonly number[];
  /** The squared residuals in units of their variance, as many as there are degrees of freedom. */
  readonly misfit: number;
}

/** The a and b of one exponent, with m in units of the largest. */
function fitCurve(
  points: readonly CurvePoint[],
  sizes: readonly number[],
  errors: readonly number[],
  exponent: number,
): Curve {
  const x = sizes.map((size) => size ** -exponent);
  const weighted = (values: (j: number) => number) => sizes.reduce((sum, size, j) => sum + size * values(j), 0);
  const total = weighted(() => 1);
  const centre = weighted((j) => x[j] as number) / total;
  const spread = weighted((j) => ((x[j] as number) - centre) ** 2);
  const apply = (multiples: readonly number[]) =>
    multiples.reduce((sum, multiple, j) => sum + multiple * (errors[j] as number), 0);
  let slope = sizes.map((size, j) => (size * ((x[j] as number) - centre)) / spread);
  let base = sizes.map((size, j) => size / total - centre * (slope[j] as number));
  let parameters = 2;
  if (apply(slope) < 0) {
    slope = sizes.map(() => 0);
    base = sizes.map((size) => size / total);
    parameters = 1;
  } else if (apply(base) < 0) {
    const square = weighted((j) => (x[j] as number) ** 2);
    slope = sizes.map((size, j) => (size * (x[j] as number)) / square);
    base = sizes.map(() => 0);
    parameters = 1;
  }
  const freedom = points.length - parameters;
  if (freedom === 0) return { exponent, slope, misfit: 0 };
  const ratios = points.map((_, j) => {
    const residual = points.map(
      (_, k) => Number(j === k) - (base[k] as number) - (x[j] as number) * (slope[k] as number),
    );
    const variance = varianceOfMean(points, residual);
    return variance === 0 ? 0 : apply(residual) ** 2 / variance;
  });
  return { exponent, slope, misfit: freedom * mean(ratios) };
}

/** The variance of the mean over held-out examples of Σ_j coefficient_j · error_j. */
function varianceOfMean(points: readonly CurvePoint[], coefficients: readonly number[]): number {
  const count = points[0]?.correct.length ?? 0;
  let [sum, squares] = [0, 0];
  for (let i = 0; i < count; i++) {
    let value = 0;
    for (const [j, coefficient] of coefficients.entries())
      value += coefficient * (1 - ((points[j] as CurvePoint).correct[i] as number));
    sum += value;
    squares += value * value;
  }
  return count < 2 ? 0.25 : Math.max(0, squares / count - (sum / count) ** 2) / (count - 1);
}

/** Wilson's 95 % interval of a share that is known as exactly as from so many examples that it has this variance. */
function intervalOf(value: number, variance: number, count: number): [number, number] {
  const binomial = value * (1 - value);
  return wilsonInterval(value, variance === 0 || binomial === 0 ? count : Math.min(count, binomial / variance));
}

/** Operations of fitting the law to so many points of so many held-out examples, and of a few predictions. */
export function powerLawOperations(points: number, heldOut: number): number {
  return 100 * EXPONENTS.length * (points + 4) * points * heldOut;
}
