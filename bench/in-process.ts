/** Heads and fine-tuned models as the batch endpoint trains them, without its processes: for measurements of training alone. */
import { textStatic } from "../src/backbones/node.ts";
import { type Material, prepare, trainBy } from "../src/batch/attempt/candidates.ts";
import { type Model, predictions } from "../src/batch/attempt/comparison.ts";
import { embedWhenAsked } from "../src/batch/attempt/embed.ts";
import { modelOf, tune } from "../src/batch/attempt/fine-tune.ts";
import type { Result } from "../src/core/failure.ts";
import type { Epoch } from "../src/finetune/train.ts";
import type { Submission } from "../src/jobs/protocol.ts";
import { nodeTensors } from "../src/tensor/node.ts";
import type { LabelledText, Split } from "./text-sets.ts";

export interface Prepared {
  readonly material: Material;
  readonly train: readonly number[];
  readonly test: readonly number[];
}

export interface Trained {
  readonly model: Model;
  /** Numbers that were trained. */
  readonly parameters: number;
  readonly operations: number;
  readonly seconds: number;
}

const UNBOUNDED = { bytes: 4e9, operations: 1e15 };

/** A split as the material of trainings, which embed its texts. */
export function prepareSplit({ train, test }: Split, seed: number, lexical: "auto" | boolean): Prepared {
  const all: readonly LabelledText[] = [...train, ...test];
  const texts = all.map(({ text }) => text);
  const groups = new Map<string, number>();
  const groupOf = (text: string) => {
    const key = text.trim().toLowerCase();
    const known = groups.get(key) ?? groups.size;
    groups.set(key, known);
    return known;
  };
  const submission = {
    task: "single_label",
    modality: "text",
    dimensions: textStatic.dimensions,
    out_of_scope_label: null,
    hyperparameters: { l2: "auto", class_weight: null, lexical, seed },
    evaluation: { method: "none" },
    edge_budget: UNBOUNDED,
  } as unknown as Submission;
  const material = {
    submission,
    examples: {
      texts,
      targets: all.map(({ label }) => label),
      groups: Int32Array.from(texts, groupOf),
      heldOut: [],
    },
    embed: embedWhenAsked(textStatic, texts),
    embedsLocally: true,
    budget: UNBOUNDED,
    turn: async () => undefined,
  } as unknown as Material;
  return { material, train: [...train.keys()], test: [...test.keys()].map((i) => train.length + i) };
}

function orThrow<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.failure.code}: ${result.failure.message}`);
  return result.value;
}

/** The frozen head. */
export async function trainHead({ material, train }: Prepared): Promise<Trained> {
  const tensors = await nodeTensors();
  const started = performance.now();
  const recipe = orThrow(await prepare("fine_tuned", material, train));
  const { head, training } = orThrow(await trainBy(tensors, material, recipe, { judge: true }));
  const lexical = head.lexical?.weights.length ?? 0;
  return {
    model: modelOf(material, null, head, null),
    parameters: head.weights.length + head.bias.length + lexical,
    operations: training.operations,
    seconds: (performance.now() - started) / 1000,
  };
}

/**
 * The fine-tuned model as a job makes it: of the rows too, or of the convolution and the head alone. Trained first without a
 * tenth of the examples, which say how long it pays, then on all of them.
 */
export async function trainLayers(
  { material, train }: Prepared,
  rows: boolean,
  onEpoch: (epoch: Epoch) => void = () => undefined,
): Promise<Trained> {
  const tensors = await nodeTensors();
  const started = performance.now();
  const work = { tensors, submission: material.submission } as unknown as Parameters<typeof tune>[0];
  const layers = { base: textStatic, rows };
  const first = orThrow(await tune(work, layers, material, train, null, onEpoch));
  const { head, delta, parameters, training } = orThrow(
    await tune(work, layers, material, train, first.plan, () => undefined),
  );
  const lexical = head.lexical?.weights.length ?? 0;
  return {
    model: modelOf(material, textStatic, head, delta),
    parameters: parameters + head.weights.length + head.bias.length + lexical,
    operations: first.training.operations + training.operations,
    seconds: (performance.now() - started) / 1000,
  };
}

/** The share of rows whose label is the most probable. */
export async function accuracyOn({ material }: Prepared, rows: readonly number[], model: Model): Promise<number> {
  const outputs = await predictions(material, rows, model);
  const { labels } = model.head;
  const hits = rows.filter((row, i) => {
    const probabilities = outputs[i] as Float64Array;
    return labels[probabilities.indexOf(Math.max(...probabilities))] === material.examples.targets[row];
  });
  return hits.length / rows.length;
}
