/** Models as they were trained, and their predictions for rows of the data. */
import { loadDelta, readDelta, type TrainableBackbone } from "../../backbones/deltas.ts";
import { type Head, predict } from "../../core/head.ts";
import { createLexicalVectorizer } from "../../core/text/lexical.ts";
import type { TrainingContext } from "./context.ts";
import { embedLazily } from "./stages/embed.ts";

/** A head, and what embeds a row for it. */
export interface Model {
  readonly head: Head;
  readonly embed: TrainingContext["embed"];
}

/** A head, and its outputs for some rows, as `predict` gives them. */
export interface Predictions {
  readonly head: Head;
  readonly outputs: readonly Float64Array[];
}

const OPERATIONS_PER_YIELD = 50_000_000;
/** Trained layers compute a product for each word that they see for the first time. */
const OPERATIONS_PER_CHARACTER = 10_000;
const MIN_PROBABILITY = 1e-30;

/** The model of a head and a delta over `base`, or of a head alone. */
export function makeModel(
  context: TrainingContext,
  base: TrainableBackbone | null,
  head: Head,
  delta: Uint8Array | null,
): Model {
  if (base === null || delta === null) return { head, embed: context.embed };
  const decoded = readDelta(delta);
  const loaded = decoded && loadDelta(base, { id: `ft:${base.id}`, revision: "" }, decoded, delta.length);
  if (!loaded) throw new Error("A delta that was made here cannot be read.");
  return { head, embed: embedLazily(loaded.backbone, context.examples.texts) };
}

/**
 * A model's outputs for rows, as `predict` gives them.
 *
 * @param embeddings takes the embedding of each row. Null: they are not kept, which would take as much memory as a training
 */
export async function predictRows(
  context: TrainingContext,
  rows: readonly number[],
  { head, embed }: Model,
  embeddings: Float32Array[] | null = null,
): Promise<Float64Array[]> {
  const extractFeatures = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  const outputs: Float64Array[] = [];
  let operations = 0;
  for (const row of rows) {
    const text = context.examples.texts[row] ?? "";
    const embedding = await embed(row);
    embeddings?.push(embedding);
    outputs.push(predict(head, embedding, extractFeatures === null ? null : extractFeatures(text)));
    operations += head.weights.length + OPERATIONS_PER_CHARACTER * text.length;
    if (operations < OPERATIONS_PER_YIELD) continue;
    operations = 0;
    await context.yieldToEventLoop();
  }
  return outputs;
}

/**
 * The logits of outputs of `predict` at temperature 1, one row after another. Softmax's are exact up to a constant. The
 * columns are `labels`; one that the head does not know has the probability ½ / (rows + 1).
 */
export function toLogits(
  { task, labels: ownLabels }: Head,
  outputs: readonly Float64Array[],
  labels: readonly string[] = ownLabels,
): Float32Array {
  const log = (p: number) => Math.log(Math.max(MIN_PROBABILITY, p));
  const toLogit = (p: number) => (task === "single_label" ? log(p) : task === "multi_label" ? log(p) - log(1 - p) : p);
  const unknown = 0.5 / (outputs.length + 1);
  const ownColumns = new Map(ownLabels.map((label, k) => [label, k]));
  const columns = task === "regression" ? [0] : labels.map((label) => ownColumns.get(label) ?? -1);
  const logits = new Float32Array(outputs.length * columns.length);
  for (const [row, output] of outputs.entries())
    for (const [i, k] of columns.entries()) logits[row * columns.length + i] = toLogit(output[k] ?? unknown);
  return logits;
}
