import { expect, it } from "vitest";
import { regressionMetrics } from "../../src/core/evaluation/metrics.ts";
import { regressionIntervals } from "../../src/core/evaluation/regression-intervals.ts";
import { seededRandom } from "../../src/core/random.ts";

/** A standard normal draw (Box and Muller). */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

it.each([20, 200])("covers the true R², MAE and RMSE in about 95 of 100 samples of %i values", (count) => {
  const random = seededRandom(5);
  // y = 2 x + e with x, e normal, predicted as 2 x: errors of mean size √(2/π), and a variance of 5.
  const truth = { r2: 1 - 1 / 5, mae: Math.sqrt(2 / Math.PI), rmse: 1 };
  const covered = { r2: 0, mae: 0, rmse: 0 };
  const samples = 400;
  for (let i = 0; i < samples; i++) {
    const predicted = Array.from({ length: count }, () => 2 * normal(random));
    const values = predicted.map((value) => value + normal(random));
    const intervals = regressionIntervals(values, predicted);
    for (const key of ["r2", "mae", "rmse"] as const) {
      const [low, high] = intervals[`${key}_interval`] ?? [0, 0];
      if (low <= truth[key] && truth[key] <= high) covered[key]++;
    }
  }
  for (const count of Object.values(covered)) expect(count / samples).toBeGreaterThan(0.9);
});

it("holds the figures themselves, within their ranges", () => {
  const truth = [1, 2, 4, 8];
  const predicted = [1.5, 1, 9, 7];
  const figures = regressionMetrics(truth, predicted);
  const intervals = regressionIntervals(truth, predicted);
  for (const key of ["r2", "mae", "rmse"] as const) {
    const [low, high] = intervals[`${key}_interval`] ?? [1, 0];
    expect(low).toBeLessThan(figures[key]);
    expect(high).toBeGreaterThan(figures[key]);
  }
  expect(intervals.mae_interval?.[0]).toBeGreaterThan(0);
  expect(intervals.r2_interval?.[1]).toBeLessThan(1);
});

it("gives none of what cannot be told", () => {
  expect(regressionIntervals([1, 2], [1, 2])).toEqual({});
  expect(regressionIntervals([3, 3, 3], [3, 4, 5]).r2_interval).toBeUndefined();
  expect(regressionIntervals([1, 2, 3], [1, 2, 3])).toEqual({
    mae_interval: [0, 0],
    rmse_interval: [0, 0],
    r2_interval: [1, 1],
  });
});
