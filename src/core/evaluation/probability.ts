/** Softmax of one row of logits. It does not overflow. */
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

/** log(1 + eˣ), without overflow: the log loss of a sigmoid with the logit x for a label that is absent. */
export function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** log Σ eˣ, without overflow. */
export function logSumExp(values: Float64Array | Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const value of values) max = Math.max(max, value);
  let sum = 0;
  for (const value of values) sum += Math.exp(value - max);
  return max + Math.log(sum);
}

/** The index of the largest value, the first if there are several. */
export function argmax(values: Float64Array): number {
  let top = 0;
  for (let k = 1; k < values.length; k++) if ((values[k] as number) > (values[top] as number)) top = k;
  return top;
}
