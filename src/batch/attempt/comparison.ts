/** How two heads do on examples that neither was trained on. */
import { type Head, predict } from "../../core/head.ts";
import { lexicalFeatures } from "../../core/text/lexical.ts";
import { regressionFigures } from "../../core/evaluation/metrics.ts";
import type { Judgement } from "../../jobs/protocol.ts";
import type { Material } from "./candidates.ts";

const OPERATIONS_A_TURN = 50_000_000;
/** Trained layers have a product for each word that they see for the first time. */
const OPERATIONS_A_CHARACTER = 10_000;

export const notJudged: Judgement = {
  test_examples: 0,
  head_accuracy: 0,
  fine_tuned_accuracy: 0,
  only_head: 0,
  only_fine_tuned: 0,
};

/**
 * Compares what two heads said of the held-out rows, those of the out-of-scope label left out. One label is right where it
 * is the most probable, labels where exactly those have at least ½; of two values the nearer one is.
 */
export function compareHeads(
  { submission, examples }: Material,
  heldOut: readonly number[],
  frozen: Answers,
  fineTuned: Answers,
): Judgement {
  const outOfScope = submission.out_of_scope_label ?? undefined;
  const inScope = <T>(list: readonly T[]) =>
    list.filter((_, i) => examples.targets[heldOut[i] as number] !== outOfScope);
  const rows = inScope(heldOut);
  if (rows.length === 0) return notJudged;
  const [byHead, byFineTuned] = [inScope(frozen.outputs), inScope(fineTuned.outputs)];
  let onlyHead = 0;
  let onlyFineTuned = 0;
  const count = (ofHead: number, ofFineTuned: number) => {
    if (ofHead > ofFineTuned) onlyHead++;
    if (ofFineTuned > ofHead) onlyFineTuned++;
  };
  const answer = (accuracyOfHead: number, accuracyOfFineTuned: number): Judgement => ({
    test_examples: rows.length,
    head_accuracy: accuracyOfHead,
    fine_tuned_accuracy: accuracyOfFineTuned,
    only_head: onlyHead,
    only_fine_tuned: onlyFineTuned,
  });
  if (submission.task === "regression") {
    const truth = rows.map((row) => examples.targets[row] as number);
    const values = (of: readonly Float64Array[]) => of.map((each) => each[0] as number);
    const [a, b] = [values(byHead), values(byFineTuned)];
    truth.forEach((value, i) => {
      count(-Math.abs((a[i] as number) - value), -Math.abs((b[i] as number) - value));
    });
    return answer(regressionFigures(truth, a).r2, regressionFigures(truth, b).r2);
  }
  const right = (of: Head, outputs: Float64Array | undefined, row: number) =>
    Number(isRight(of, outputs as Float64Array, examples.targets[row] as string | readonly string[]));
  let [ofHead, ofFineTuned] = [0, 0];
  rows.forEach((row, i) => {
    const [a, b] = [right(frozen.head, byHead[i], row), right(fineTuned.head, byFineTuned[i], row)];
    ofHead += a;
    ofFineTuned += b;
    count(a, b);
  });
  return answer(ofHead / rows.length, ofFineTuned / rows.length);
}

/** A head, and what gives it the embedding of a row. */
export interface Model {
  readonly head: Head;
  readonly embed: Material["embed"];
}

/** A head, and what it said of some rows. */
export interface Answers {
  readonly head: Head;
  readonly outputs: readonly Float64Array[];
}

/** What a model says of rows: the outputs of `predict`. */
export async function predictions(
  material: Material,
  rows: readonly number[],
  { head, embed }: Model,
): Promise<Float64Array[]> {
  const read = head.lexical === null ? null : lexicalFeatures(head.lexical);
  const all: Float64Array[] = [];
  let operations = 0;
  for (const row of rows) {
    const text = material.examples.texts[row] ?? "";
    all.push(predict(head, await embed(row), read === null ? null : read(text)));
    operations += head.weights.length + OPERATIONS_A_CHARACTER * text.length;
    if (operations < OPERATIONS_A_TURN) continue;
    operations = 0;
    await material.turn();
  }
  return all;
}

function isRight({ task, labels }: Head, outputs: Float64Array, target: string | readonly string[]): boolean {
  if (task === "single_label") return labels[outputs.indexOf(Math.max(...outputs))] === target;
  const wanted = new Set(target);
  const chosen = labels.filter((_, k) => (outputs[k] as number) >= 0.5);
  return chosen.length === wanted.size && chosen.every((label) => wanted.has(label));
}
