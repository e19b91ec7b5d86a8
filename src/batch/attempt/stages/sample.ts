/** Stage 1b: of the examples, the sample that the submission asks for. */
import { stratifiedOrder } from "../../../core/linear/subsample.ts";
import { strataOf } from "../../../core/linear/targets.ts";
import type { Submission } from "../../../jobs/protocol.ts";
import { makeEmbeddingMatrix } from "../embedding-matrix.ts";
import type { Examples } from "../examples.ts";
import { targetsOf } from "../training-spec.ts";

/**
 * The first `sample` examples in a seeded, stratified order, in the order in which they came: of the same examples a
 * smaller sample is a part of every larger one. Those that are held out for the comparison stay beside them. Without
 * `sample`, all examples.
 */
export function sampleExamples(examples: Examples, submission: Submission): Examples {
  const { sample, hyperparameters, comparison } = submission;
  const isTested = (row: number) => comparison !== "cross_fit" && examples.heldOut[row] === true;
  const allRows = [...examples.targets.keys()];
  const trainingRows = allRows.filter((row) => !isTested(row));
  if (sample === undefined || sample >= trainingRows.length) return examples;
  const { labels, targets } = targetsOf({ submission, examples }, trainingRows);
  const order = stratifiedOrder(strataOf(targets, labels.length), hyperparameters.seed);
  const sampled = new Set(order.slice(0, sample).map((index) => trainingRows[index]));
  const rows = allRows.filter((row) => sampled.has(row) || isTested(row));
  const pick = <T>(list: readonly T[]): T[] => rows.map((row) => list[row] as T);
  const embeddings = makeEmbeddingMatrix(examples.embeddings.dimensions);
  if (examples.embeddings.count() > 0) for (const row of rows) embeddings.push(examples.embeddings.at(row));
  return {
    ...examples,
    texts: examples.texts.length > 0 ? pick(examples.texts) : [],
    embeddings,
    targets: pick(examples.targets),
    groups: Int32Array.from(rows, (row) => examples.groups[row] as number),
    heldOut: pick(examples.heldOut),
    ids: pick(examples.ids),
  };
}
