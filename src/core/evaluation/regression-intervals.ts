import { mean, Z_95 } from "./metrics.ts";

export interface RegressionIntervals {
  readonly r2_interval?: readonly [number, number];
  readonly mae_interval?: readonly [number, number];
  readonly rmse_interval?: readonly [number, number];
}

/**
 * 95 % intervals of R², MAE and RMSE of n held-out values, by the delta method on the logarithms of 1 − R², MAE and MSE,
 * so that each stays in its range and may reach further to one side. With errors e and deviations d from the mean value:
 *
 *   log MAE       ± t · sd(|e| / MAE) / √n
 *   log MSE       ± t · sd(e² / MSE) / √n
 *   log (1 − R²)  ± t · sd(e² / MSE − d² / Var) / √n
 *
 * t is Student's with n − 1 degrees of freedom (Abramowitz and Stegun 26.7.5, two terms). Fewer than three values have
 * no intervals, and values that are all equal none of R².
 */
export function regressionIntervals(truth: readonly number[], predicted: readonly number[]): RegressionIntervals {
  const n = truth.length;
  if (n < 3) return {};
  const centre = mean(truth);
  const errors = truth.map((value, i) => Math.abs(value - (predicted[i] ?? Number.NaN)));
  const squares = errors.map((error) => error * error);
  const deviations = truth.map((value) => (value - centre) ** 2);
  const [mae, mse, variance] = [mean(errors), mean(squares), mean(deviations)];
  if (mse === 0)
    return { mae_interval: [0, 0], rmse_interval: [0, 0], ...(variance === 0 ? {} : { r2_interval: [1, 1] as const }) };
  const t = Z_95 + (Z_95 ** 3 + Z_95) / (4 * (n - 1));
  const factor = (relative: readonly number[]) => Math.exp((t * standardDeviation(relative)) / Math.sqrt(n));
  const ofMae = factor(errors.map((error) => error / mae));
  const ofMse = factor(squares.map((square) => square / mse));
  const intervals = {
    mae_interval: [mae / ofMae, mae * ofMae],
    rmse_interval: [Math.sqrt(mse / ofMse), Math.sqrt(mse * ofMse)],
  } as const;
  if (variance === 0) return intervals;
  const ratio = mse / variance;
  const ofRatio = factor(squares.map((square, i) => square / mse - (deviations[i] as number) / variance));
  return { ...intervals, r2_interval: [1 - ratio * ofRatio, 1 - ratio / ofRatio] };
}

function standardDeviation(values: readonly number[]): number {
  const centre = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
}
