/** What a recommendation measures of each sample of the grid that `npm run bench -- transfer` trains both methods on. */

import { isEncoder } from "../../src/backbones/text-use.ts";
import { measureTask, sampleRows, type TaskFigures } from "../../src/core/advice/task-figures.ts";
import { edgeBudget } from "../../src/core/limits.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { cached, readStored } from "../shared/cached.ts";
import { type Encoder, embedTexts, makeTrainingSet, readLexical } from "../shared/linear-probe.ts";
import type { LabelledText } from "../shared/text-datasets.ts";
import type { Draw } from "../transfer/draws.ts";

const BENCH = "advice";
const options = { l2: "auto", evaluation: { method: "auto", detail: "full" } } as const;
const UNLIMITED_BUDGET = { bytes: 4e9, operations: 1e15 };
const tensors = await nodeTensorBackend();

/** The figures, without the head and what grows with the labels. */
export interface Task {
  readonly similarity: TaskFigures["similarity"];
  readonly evaluation: TaskFigures["trained"]["evaluation"];
  readonly sample: number;
  readonly operations: number;
  readonly lexical: boolean;
  readonly seconds: number;
}

const caseName = ({ name }: Draw) => `${name}, figures`;

export const storedTask = (draw: Draw) => readStored<Task>(BENCH, caseName(draw));

export function measureDraw(draw: Draw): Promise<Task> {
  return cached(BENCH, caseName(draw), async () => {
    const rows = sampleOf(draw.split.train, draw.seed);
    const { backbone } = draw.model;
    return measureRows(await embedTexts(backbone, rows), rows, draw.seed, isEncoder(backbone) ? false : "auto");
  });
}

/** The rows that a recommendation measures. */
export function sampleOf(rows: readonly LabelledText[], seed: number): readonly LabelledText[] {
  const labels = [...new Set(rows.map(({ label }) => label))].sort();
  const indices = Int32Array.from(rows, ({ label }) => labels.indexOf(label));
  const sample = sampleRows({ kind: "single", indices }, labels.length, seed);
  return sample === null ? rows : sample.map((row) => rows[row] as LabelledText);
}

/** @param lexical as a recommendation has it: none beside a sentence encoder */
export function measureRows(
  encoder: Encoder,
  rows: readonly LabelledText[],
  seed: number,
  lexical: "auto" | false = false,
): Task {
  const trainingSet = makeTrainingSet(encoder, rows);
  const { task, dimensions, labels } = trainingSet;
  const started = performance.now();
  const shape = { task, dimensions, examples: rows.length, outputs: labels.length };
  const features = lexical === false ? null : readLexical(shape, { ...options, lexical }, edgeBudget, rows);
  const steps = measureTask(
    tensors,
    { ...trainingSet, lexical: features },
    { ...options, lexical, classWeight: null, seed, budget: UNLIMITED_BUDGET },
  );
  let step = steps.next();
  while (!step.done) step = steps.next();
  for (const block of trainingSet.features) tensors.free(block);
  if (!step.value.ok) throw new Error(step.value.failure.message);
  const { trained, similarity } = step.value.value;
  const { per_class: _perClass, confusion: _confusion, reliability: _reliability, ...evaluation } = trained.evaluation;
  const { operations, lexical: isLexical } = trained.training;
  const seconds = (performance.now() - started) / 1000;
  return { similarity, evaluation, sample: rows.length, operations, lexical: isLexical, seconds };
}
