/**
 * P(X ≤ k) of k successes in n trials that each succeed with probability p, n ≥ 0: the sum of C(n, i) pⁱ (1 − p)ⁿ⁻ⁱ for
 * i from 0 to k, its terms in logarithms, so that neither many trials nor a small p make them 0 too early.
 */
export function binomialTail(k: number, n: number, p: number): number {
  if (k < 0) return 0;
  if (k >= n || p <= 0) return 1;
  if (p >= 1) return 0;
  const odds = Math.log(p) - Math.log1p(-p);
  let log = n * Math.log1p(-p);
  let tail = Math.exp(log);
  for (let i = 1; i <= k; i++) {
    log += Math.log((n - i + 1) / i) + odds;
    tail += Math.exp(log);
  }
  return Math.min(1, tail);
}
