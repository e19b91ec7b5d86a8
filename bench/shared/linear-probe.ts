/** A linear probe of a backbone: the shipped training and prediction on a set of texts, in Node. */
import type { Backbone } from "../../src/backbones/backbone.ts";
import { argmax } from "../../src/core/evaluation/probability.ts";
import { predict } from "../../src/core/head.ts";
import { type CostOptions, estimateCost } from "../../src/core/linear/cost.ts";
import type { RowPrecision } from "../../src/core/linear/design.ts";
import { createLexicalBudgetReader } from "../../src/core/linear/lexical-budget.ts";
import { train } from "../../src/core/linear/train.ts";
import type { Cost, TrainingOptions, TrainingResult, TrainingSet, TrainingShape } from "../../src/core/linear/types.ts";
import { createLexicalVectorizer } from "../../src/core/text/lexical.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import type { LabelledText } from "./text-datasets.ts";

const UNLIMITED_BUDGET = { bytes: 1e9, operations: 1e14 };
const tensors = await nodeTensorBackend();

type Text = Pick<LabelledText, "text">;

export interface Encoder {
  readonly dimensions: number;
  readonly encode: (text: string) => Float32Array;
}

/** How many texts are embedded at once. */
const BATCH_TEXTS = 256;

/** The encoder of a backbone for these texts, which are embedded beforehand. It throws for any other. */
export async function embedTexts(backbone: Backbone, texts: readonly Text[]): Promise<Encoder> {
  const distinct = [...new Set(texts.map(({ text }) => text))];
  const embeddings = new Map<string, Float32Array>();
  for (let first = 0; first < distinct.length; first += BATCH_TEXTS) {
    const batch = distinct.slice(first, first + BATCH_TEXTS);
    const { rows } = await backbone.embed(batch);
    for (const [i, text] of batch.entries()) if (rows[i] !== undefined) embeddings.set(text, rows[i]);
  }
  const encode = (text: string) => {
    const embedding = embeddings.get(text);
    if (embedding === undefined) throw new Error(`${backbone.id} has no embedding of '${text}'.`);
    return embedding;
  };
  return { dimensions: backbone.dimensions, encode };
}

export interface ProbeOptions extends Pick<TrainingOptions, "lexical" | "seed" | "evaluation"> {
  /** Texts that belong to none of the labels. */
  readonly outOfScope?: readonly Text[];
  /** Texts of labels, which the head is trained on beside the examples. */
  readonly labelTexts?: readonly LabelledText[];
  /** What the lexical features have room in. */
  readonly lexicalBudget?: Cost;
}

/** The embeddings, labels and groups of these texts; the caller frees the embeddings. */
export function makeTrainingSet(
  { dimensions, encode }: Encoder,
  rows: readonly (Text & { readonly label?: string })[],
): TrainingSet {
  const labels = [...new Set(rows.flatMap(({ label }) => label ?? []))].sort();
  const index = new Map(labels.map((label, i) => [label, i]));
  const groups = new Map<string, number>();
  const features = [];
  for (let first = 0; first < rows.length; first += 1024) {
    const part = rows.slice(first, first + 1024);
    const values = new Float32Array(part.length * dimensions);
    for (const [i, { text }] of part.entries()) values.set(encode(text), i * dimensions);
    features.push(tensors.matrix(part.length, dimensions, values));
  }
  return {
    task: "single_label",
    dimensions,
    labels,
    features,
    targets: { kind: "single", indices: Int32Array.from(rows, ({ label = "" }) => index.get(label) ?? -1) },
    groups: Int32Array.from(rows, ({ text }) => {
      const group = groups.get(text) ?? groups.size;
      groups.set(text, group);
      return group;
    }),
    lexical: null,
  };
}

/** A head that is trained on these texts, with rows of that precision. */
export function trainProbe(
  encoder: Encoder,
  inScope: readonly LabelledText[],
  { outOfScope = [], labelTexts = [], lexicalBudget = UNLIMITED_BUDGET, ...options }: ProbeOptions,
  precision: RowPrecision = "float32",
): TrainingResult {
  const rows: readonly (Text & { readonly label?: string })[] = [
    ...inScope,
    ...outOfScope.map(({ text }) => ({ text })),
    ...labelTexts,
  ];
  const trainingSet = makeTrainingSet(encoder, rows);
  const { task, dimensions, labels } = trainingSet;
  const costOptions = { l2: "auto" as const, ...options };
  const rowsShape = { task, examples: rows.length, dimensions, outputs: labels.length };
  const lexical = readLexical(rowsShape, costOptions, lexicalBudget, rows);
  // A training quantises its rows where 32-bit floats have no room.
  const { bytes } =
    precision === "float32" ? UNLIMITED_BUDGET : estimateCost({ ...rowsShape, lexical }, costOptions, precision);
  const steps = train(
    tensors,
    { ...trainingSet, lexical, labelTexts: labelTexts.length },
    {
      ...costOptions,
      classWeight: null,
      budget: { ...UNLIMITED_BUDGET, bytes },
    },
  );
  let step = steps.next();
  while (!step.done) step = steps.next();
  for (const block of trainingSet.features) tensors.free(block);
  if (!step.value.ok) throw new Error(step.value.failure.message);
  return step.value.value;
}

/** The lexical features that a training within the budget has; null if there is no room for any. */
export function readLexical(shape: TrainingShape, options: CostOptions, budget: Cost, rows: readonly Text[]) {
  const textBytes = rows.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
  const reader = createLexicalBudgetReader(shape, options, budget, textBytes);
  if (reader === null || !reader.hasRoom || !rows.every(({ text }) => reader.add(text))) return null;
  const fit = reader.fit();
  return "features" in fit ? fit.features : null;
}

/** The share of test texts whose label a head predicts, and the mean score that it gives its predictions. */
export function testProbe(
  { encode }: Encoder,
  { head }: TrainingResult,
  test: readonly LabelledText[],
): { accuracy: number; score: number } {
  const features = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  let correct = 0;
  let score = 0;
  for (const { text, label } of test) {
    const p = predict(head, encode(text), features === null ? null : features(text));
    const best = argmax(p);
    if (head.labels[best] === label) correct++;
    score += (p[best] as number) / test.length;
  }
  return { accuracy: correct / test.length, score };
}
