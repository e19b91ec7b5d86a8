/** Softmax of one row of logits, whatever their size. */
export function softmax(logits: Float64Array): Float64Array {
  let maxLogit = Number.NEGATIVE_INFINITY;
  for (const logit of logits) maxLogit = Math.max(maxLogit, logit);
  const probabilities = new Float64Array(logits.length);
  let sum = 0;
  for (let k = 0; k < logits.length; k++) {
    const term = Math.exp((logits[k] as number) - maxLogit);
    probabilities[k] = term;
    sum += term;
  }
  for (let k = 0; k < logits.length; k++) probabilities[k] = (probabilities[k] as number) / sum;
  return probabilities;
}

export function sigmoid(logit: number): number {
  if (logit >= 0) return 1 / (1 + Math.exp(-logit));
  const odds = Math.exp(logit);
  return odds / (1 + odds);
}

/** log(1 + eˣ), exact for large |x|: the loss of a sigmoid whose label is wrong by the logit x. */
export function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** log Σ eˣ, whatever the size of the x. */
export function logSumExp(values: Float64Array | Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const value of values) max = Math.max(max, value);
  let sum = 0;
  for (const value of values) sum += Math.exp(value - max);
  return max + Math.log(sum);
}
