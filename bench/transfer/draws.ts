/** What the comparison of transfer learning and fine-tuning trains on: the same samples of labelled sets for every method. */
import type { Backbone } from "../../src/backbones/backbone.ts";
import { textStatic, textUse } from "../../src/backbones/node.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import { readTextDatasets, type Split, sampleByLabel, type TextDataset } from "../shared/text-datasets.ts";
import {
  countTokens,
  staticTrainingOperations,
  trainingOperations,
  type Work,
  workOf,
} from "../shared/training-work.ts";
import { type Method, methods, type Size, sizes } from "./run.ts";

const SETS =
  /^(hwu64 full|clinc150_full|snips full|bitext_support27|query_wellformedness|goemotions_ekman single|mr_polarity 10-fold|multidogo_(airline|finance|insurance|media|software))$/;
/** Up to this size there are several draws. */
const SMALL_SIZE = 10;
const DRAWS = 3;
const SIZES_OF_ALL: readonly Size[] = [10, "full"];
export const MAX_TEST_ROWS = 1_000;
/** A whole set has at most so many rows, or so many a label if that is more; and so many sub-words. */
const MAX_ROWS = 2_000;
const MAX_ROWS_A_LABEL = 60;
const MAX_TOKENS = 100_000;
/** From so many rows on, a first training finds the number of epochs on a part of them. */
const ROWS_OF_TWO_TRAININGS = 2_000;

interface Model {
  readonly backbone: Backbone;
  /** How many layers are trained, from the last. */
  readonly layers: Readonly<Record<Method, number>>;
  readonly operations: (work: Work, layers: number) => number;
}

const models: readonly Model[] = [
  { backbone: textUse, layers: { head: 0, "last layers": 2, all: 4 }, operations: trainingOperations },
  {
    backbone: textStatic,
    layers: { head: 0, "last layers": 1, all: 2 },
    operations: (work, layers) => (layers === 0 ? 0 : staticTrainingOperations(work)),
  },
];

/** Trainings on one sample of a set. */
export interface Draw {
  readonly name: string;
  readonly model: Model;
  readonly set: TextDataset;
  readonly size: Size;
  readonly seed: number;
  readonly methods: readonly Method[];
  readonly split: Split;
  readonly operations: number;
}

/** All draws of the sets in the folder. */
export function readDraws(folder: string): Draw[] {
  return makeDraws(readTextDatasets(folder, SETS));
}

function makeDraws(sets: readonly TextDataset[]): Draw[] {
  return sets.flatMap((set) => {
    const { train, test } = set.splits[0] as Split;
    const labels = new Set(train.map(({ label }) => label)).size;
    const whole = capTokens(subsample(train, Math.max(MAX_ROWS, MAX_ROWS_A_LABEL * labels)));
    const testRows = subsample(test, MAX_TEST_ROWS);
    return sizes.flatMap((size) =>
      Array.from({ length: size !== "full" && size <= SMALL_SIZE ? DRAWS : 1 }, (_, seed) => {
        const split = { train: size === "full" ? whole : sampleByLabel(train, size, seed), test: testRows };
        return models.map((model) => makeDraw(model, set, size, seed, split));
      }).flat(),
    );
  });
}

function makeDraw(model: Model, set: TextDataset, size: Size, seed: number, split: Split): Draw {
  const work = workOf(split.train);
  const trainings = split.train.length < ROWS_OF_TWO_TRAININGS ? 1 : 2;
  const drawMethods = methods.filter((method) => method !== "all" || SIZES_OF_ALL.includes(size));
  const layers = drawMethods.map((method) => model.layers[method]).filter((count) => count > 0);
  const embedding = model.operations(work, 0) + model.operations(workOf(split.test), 0);
  const operations =
    embedding * drawMethods.length + layers.reduce((sum, count) => sum + trainings * model.operations(work, count), 0);
  const name = `${model.backbone.id}, ${set.name}, ${size}, draw ${seed}`;
  return { name, model, set, size, seed, methods: drawMethods, split, operations };
}

export function subsample<T>(rows: readonly T[], limit: number): readonly T[] {
  return rows.length <= limit ? rows : shuffle([...rows], seededRandom(7)).slice(0, limit);
}

function capTokens(rows: Split["train"]): Split["train"] {
  let tokens = 0;
  return rows.filter(({ text }) => {
    tokens += countTokens(text);
    return tokens <= MAX_TOKENS;
  });
}
