/** Trains heads and fine-tuned models as the batch endpoint does, without its processes. It measures only the training. */
import type { Backbone } from "../../src/backbones/backbone.ts";
import { isTrainable, trainableLayers } from "../../src/backbones/deltas.ts";
import { textStatic } from "../../src/backbones/node.ts";
import { makeTrainedLayers, type TrainingContext } from "../../src/batch/attempt/context.ts";
import { type EmbeddingMatrix, makeEmbeddingMatrix } from "../../src/batch/attempt/embedding-matrix.ts";
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
  /** Of the layers; null: none were trained. */
  readonly delta: Uint8Array | null;
  /** How many numbers were trained. */
  readonly parameters: number;
  readonly operations: number;
  readonly seconds: number;
}

const BATCH_SIZE = 512;
const UNLIMITED_BUDGET = { bytes: 4e9, operations: 1e15 };
const tensors = await nodeTensorBackend();

/** The context of trainings on a split, whose texts are embedded by a backbone. */
export async function prepareSplit(
  { train, test }: Split,
  seed: number,
  lexical: "auto" | boolean,
  backbone: Backbone = textStatic,
): Promise<Prepared> {
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
    dimensions: backbone.dimensions,
    out_of_scope_label: null,
    hyperparameters: { l2: "auto", class_weight: null, lexical, seed },
    evaluation: { method: "none" },
    edge_budget: UNLIMITED_BUDGET,
  } as unknown as Submission;
  const embeddings = makeEmbeddingMatrix(backbone.dimensions);
  if (backbone.cost !== "local") await embedAll(backbone, texts, embeddings);
  const context: TrainingContext = {
    submission,
    examples: {
      texts,
      embeddings,
      targets: all.map(({ label }) => label),
      groups: Int32Array.from(texts, groupIndex),
      groupPositions: [],
      heldOut: [],
      positions: [],
      ids: [],
      revision: null,
      digest: "",
    },
    tensors,
    embed: backbone.cost === "local" ? embedLazily(backbone, texts) : embeddings.at,
    backbone,
    layers: null,
    budget: UNLIMITED_BUDGET,
    countOperations: () => undefined,
    report: () => undefined,
    trainingStates: null,
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
    delta: null,
    parameters: head.weights.length + head.bias.length + lexical,
    operations: training.operations,
    seconds: (performance.now() - started) / 1000,
  };
}

async function embedAll(backbone: Backbone, texts: readonly string[], into: EmbeddingMatrix): Promise<void> {
  for (let first = 0; first < texts.length; first += BATCH_SIZE) {
    const { rows } = await backbone.embed(texts.slice(first, first + BATCH_SIZE));
    for (const row of rows) into.push(row as Float32Array);
  }
}

/**
 * Fine-tunes as a job does, so many layers of the backbone from the last. The first training holds out a tenth of the
 * examples, if they are not few, to find the number of epochs; the second then uses all of them.
 */
export async function trainLayers(
  { context, train }: Prepared,
  lastLayers: number,
  onEpoch: (epoch: Epoch) => void = () => undefined,
): Promise<Trained> {
  const started = performance.now();
  const { backbone } = context;
  if (backbone === null || !isTrainable(backbone)) throw new Error("The backbone has no layers to train.");
  const layers = makeTrainedLayers(backbone, Math.min(lastLayers, trainableLayers(backbone)));
  let hasHeldOut = false;
  const onFirstEpoch = (epoch: Epoch) => {
    hasHeldOut ||= epoch.validLoss !== undefined;
    onEpoch(epoch);
  };
  const first = orThrow(await fineTuneLayers(context, layers, train, { name: 0, plan: null, onEpoch: onFirstEpoch }));
  // Where the first training has held nothing out, the second would be the same.
  const refit = { name: "refit", plan: first.plan, onEpoch: () => undefined } as const;
  const second = hasHeldOut ? orThrow(await fineTuneLayers(context, layers, train, refit)) : null;
  const { head, delta, parameters } = second ?? first;
  const lexical = head.lexical?.weights.length ?? 0;
  return {
    model: makeModel(context, backbone, head, delta),
    delta,
    parameters: parameters + head.weights.length + head.bias.length + lexical,
    operations: first.training.operations + (second?.training.operations ?? 0),
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
