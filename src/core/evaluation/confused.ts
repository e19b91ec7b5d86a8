/** The pairs of labels that a head confuses most often, with examples of each. */

/** A label, and another one that held-out examples of it are predicted as. */
export interface ConfusedPair {
  readonly label: string;
  readonly predicted: string;
  readonly count: number;
  /** Rows of the training set, the most confident prediction first. */
  readonly rows: readonly number[];
}

/** A held-out example of one label: indices of its label and of the predicted one, and the probability of that. */
export interface LabelledPrediction {
  readonly row: number;
  readonly target: number;
  readonly label: number;
  readonly top: number;
}

const MAX_PAIRS = 10;
const MAX_ROWS = 3;

/** The pairs with the most wrong predictions, most first, at most 10; of each at most 3 rows. */
export function confusedPairs(labels: readonly string[], predictions: readonly LabelledPrediction[]): ConfusedPair[] {
  const wrong = predictions.filter(({ target, label }) => target !== label);
  const pairs = [...Map.groupBy(wrong, ({ target, label }) => target * labels.length + label).entries()];
  // The labels decide between equal counts, so that the order does not depend on that of the rows.
  pairs.sort(([a, first], [b, second]) => second.length - first.length || a - b);
  return pairs.slice(0, MAX_PAIRS).map(([key, members]) => ({
    label: labels[Math.floor(key / labels.length)] as string,
    predicted: labels[key % labels.length] as string,
    count: members.length,
    rows: members
      .toSorted((a, b) => b.top - a.top || a.row - b.row)
      .slice(0, MAX_ROWS)
      .map(({ row }) => row),
  }));
}

/** A pair as an evaluation shows it: with the ids of the examples in its rows. */
export type ConfusedExamples = Omit<ConfusedPair, "rows"> & { readonly examples: readonly string[] };

/** The evaluation with its confused pairs, if it has any. `idOf` answers the id of a row's example; undefined: it has none. */
export function withConfusedPairs<E extends object>(
  evaluation: E,
  pairs: readonly ConfusedPair[],
  idOf: (row: number) => string | undefined,
): E & { readonly confused?: readonly ConfusedExamples[] } {
  if (pairs.length === 0) return evaluation;
  const confused = pairs.map(({ rows, ...pair }) => ({ ...pair, examples: rows.flatMap((row) => idOf(row) ?? []) }));
  return { ...evaluation, confused };
}
