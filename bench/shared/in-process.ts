/** Trains heads and fine-tuned models as the batch endpoint does, without its processes. It measures only the training. */
import { textStatic } from "../../src/backbones/node.ts";
import type { TrainingContext } from "../../src/batch/attempt/context.ts";
import { makeEmbeddingMatrix } from "../../src/batch/attempt/embedding-matrix.ts";
import { fineTuneLayers } from "../../src/batch/attempt/fine-tune.ts";
import { type Model, makeModel, predictRows } from "../../src/batch/attempt/model.ts";
import { runTraining } from "../../src/batch/attempt/run-training.ts";
import { embedLazily } from "../../src/batch/attempt/stages/embed.ts";
import { prepareTraining } from "../../src/batch/attempt/training-spec.ts";
import type { Result } from "../../src/core/failure.ts";
import type { Epoch } from "../../src/finetune/train.ts";
import type { Submission } from "../../src/jobs/protocol.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import type { LabelledText, Split } from "./text-datasets.ts";

export interface Prepared {
  readonly context: TrainingContext;
  readonly train: readonly number[];
  readonly test: readonly number[];
}

export interface Trained {
  readonly model: Model;
  /** How many numbers were trained. */
  readonly parameters: number;
  readonly operations: number;
  readonly seconds: number;
}

const UNLIMITED_BUDGET = { bytes: 4e9, operations: 1e15 };
const tensors = await nodeTensorBackend();

/** The context of trainings on a split, which embed its texts. */
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
  const context: TrainingContext = {
    submission,
    examples: {
      texts,
      embeddings: makeEmbeddingMatrix(textStatic.dimensions),
      targets: all.map(({ label }) => label),
      groups: Int32Array.from(texts, groupIndex),
      groupPositions: [],
      heldOut: [],
      revision: null,
      digest: "",
    },
    tensors,
    embed: embedLazily(textStatic, texts),
    backbone: textStatic,
    layers: null,
    budget: UNLIMITED_BUDGET,
    report: () => undefined,
    yieldToEventLoop: async () => undefined,
  };
  return { context, train: [...train.keys()], test: [...test.keys()].map((i) => train.length + i) };
}

function orThrow<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.failure.code}: ${result.failure.message}`);
  return result.value;
}

/** Trains a head on frozen embeddings. */
export async function trainHead({ context, train }: Prepared): Promise<Trained> {
  const started = performance.now();
  const spec = orThrow(await prepareTraining("fine_tuned", context, train));
  const { head, training } = orThrow(await runTraining(context, spec, { skipEvaluation: true }));
  const lexical = head.lexical?.weights.length ?? 0;
  return {
    model: makeModel(context, null, head, null),
    parameters: head.weights.length + head.bias.length + lexical,
    operations: training.operations,
    seconds: (performance.now() - started) / 1000,
  };
}

/**
 * Fine-tunes as a job does: the convolution and the head, and with `trainRows` the rows too. The first training holds out a
 * tenth of the examples to find the number of epochs, the second uses all of them.
 */
export async function trainLayers(
  { context, train }: Prepared,
  trainRows: boolean,
  onEpoch: (epoch: Epoch) => void = () => undefined,
): Promise<Trained> {
  const started = performance.now();
  const layers = { base: textStatic, trainRows };
  const first = orThrow(await fineTuneLayers(context, layers, train, null, onEpoch));
  const { head, delta, parameters, training } = orThrow(
    await fineTuneLayers(context, layers, train, first.plan, () => undefined),
  );
  const lexical = head.lexical?.weights.length ?? 0;
  return {
    model: makeModel(context, textStatic, head, delta),
    parameters: parameters + head.weights.length + head.bias.length + lexical,
    operations: first.training.operations + training.operations,
    seconds: (performance.now() - started) / 1000,
  };
}

/** The share of rows whose most probable label is right. */
export async function accuracyOn({ context }: Prepared, rows: readonly number[], model: Model): Promise<number> {
  const outputs = await predictRows(context, rows, model);
  const { labels } = model.head;
  const correct = rows.filter((row, i) => {
    const probabilities = outputs[i] as Float64Array;
    return labels[probabilities.indexOf(Math.max(...probabilities))] === context.examples.targets[row];
  });
  return correct.length / rows.length;
}
