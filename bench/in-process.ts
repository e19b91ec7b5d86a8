/** Heads and fine-tuned models as the batch endpoint trains them, without its processes: for measurements of training alone. */
import { textStatic } from "../src/backbones/node.ts";
import { prepareTraining, runTraining, type TrainingContext } from "../src/batch/attempt/candidates.ts";
import { type Model, predictRows } from "../src/batch/attempt/comparison.ts";
import { embedLazily } from "../src/batch/attempt/embed.ts";
import { fineTuneLayers, makeModel } from "../src/batch/attempt/fine-tune.ts";
import type { Result } from "../src/core/failure.ts";
import type { Epoch } from "../src/finetune/train.ts";
import type { Submission } from "../src/jobs/protocol.ts";
import { nodeTensorBackend } from "../src/tensor/node.ts";
import type { LabelledText, Split } from "./text-datasets.ts";

export interface Prepared {
  readonly material: TrainingContext;
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

const UNLIMITED_BUDGET = { bytes: 4e9, operations: 1e15 };

/** A split as the material of trainings, which embed its texts. */
export function prepareSplit({ train, test }: Split, seed: number, lexical: "auto" | boolean): Prepared {
  const all: readonly LabelledText[] = [...train, ...test];
  const texts = all.map(({ text }) => text);
  const groups = new Map<string, number>();
  const groupIndex = (text: string) => {
    const key = text.trim().toLowerCase();
    const group = groups.get(key) ?? groups.size;
    groups.set(key, group);
    return group;
  };
  const submission = {
    task: "single_label",
    modality: "text",
    dimensions: textStatic.dimensions,
    out_of_scope_label: null,
    hyperparameters: { l2: "auto", class_weight: null, lexical, seed },
    evaluation: { method: "none" },
    edge_budget: UNLIMITED_BUDGET,
  } as unknown as Submission;
  const material = {
    submission,
    examples: {
      texts,
      targets: all.map(({ label }) => label),
      groups: Int32Array.from(texts, groupIndex),
      heldOut: [],
    },
    embed: embedLazily(textStatic, texts),
    embedsLocally: true,
    budget: UNLIMITED_BUDGET,
    turn: async () => undefined,
  } as unknown as TrainingContext;
  return { material, train: [...train.keys()], test: [...test.keys()].map((i) => train.length + i) };
}

function orThrow<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.failure.code}: ${result.failure.message}`);
  return result.value;
}

/** The frozen head. */
export async function trainHead({ material, train }: Prepared): Promise<Trained> {
  const tensors = await nodeTensorBackend();
  const started = performance.now();
  const recipe = orThrow(await prepareTraining("fine_tuned", material, train));
  const { head, training } = orThrow(await runTraining(tensors, material, recipe, { skipEvaluation: true }));
  const lexical = head.lexical?.weights.length ?? 0;
  return {
    model: makeModel(material, null, head, null),
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
  trainRows: boolean,
  onEpoch: (epoch: Epoch) => void = () => undefined,
): Promise<Trained> {
  const tensors = await nodeTensorBackend();
  const started = performance.now();
  const work = { tensors, submission: material.submission } as unknown as Parameters<typeof fineTuneLayers>[0];
  const layers = { base: textStatic, trainRows };
  const first = orThrow(await fineTuneLayers(work, layers, material, train, null, onEpoch));
  const { head, delta, parameters, training } = orThrow(
    await fineTuneLayers(work, layers, material, train, first.plan, () => undefined),
  );
  const lexical = head.lexical?.weights.length ?? 0;
  return {
    model: makeModel(material, textStatic, head, delta),
    parameters: parameters + head.weights.length + head.bias.length + lexical,
    operations: first.training.operations + training.operations,
    seconds: (performance.now() - started) / 1000,
  };
}

/** The share of rows whose label is the most probable. */
export async function accuracyOn({ material }: Prepared, rows: readonly number[], model: Model): Promise<number> {
  const outputs = await predictRows(material, rows, model);
  const { labels } = model.head;
  const correct = rows.filter((row, i) => {
    const probabilities = outputs[i] as Float64Array;
    return labels[probabilities.indexOf(Math.max(...probabilities))] === material.examples.targets[row];
  });
  return correct.length / rows.length;
}
