/**
 * P(X ≤ k) of k successes in n trials, each of which succeeds with probability p: the sum of C(n, i) pⁱ (1 − p)ⁿ⁻ⁱ for
 * i from 0 to k. The terms are computed as logarithms, so that neither many trials nor a small p underflows too early.
 */
export function binomialCdf(k: number, n: number, p: number): number {
  if (k < 0) return 0;
  if (k >= n || p <= 0) return 1;
  if (p >= 1) return 0;
  const logOdds = Math.log(p) - Math.log1p(-p);
  let logTerm = n * Math.log1p(-p);
  let cdf = Math.exp(logTerm);
  for (let i = 1; i <= k; i++) {
    logTerm += Math.log((n - i + 1) / i) + logOdds;
    cdf += Math.exp(logTerm);
  }
  return Math.min(1, cdf);
}
