/** What a recommendation measures of each sample of the grid that `npm run bench -- transfer` trains both methods on. */
import { measureTask, sampleRows, type TaskFigures } from "../../src/core/advice/task-figures.ts";
import { edgeBudget } from "../../src/core/limits.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { cached, readStored } from "../shared/cached.ts";
import { embedTexts, makeTrainingSet, readLexical } from "../shared/linear-probe.ts";
import type { Draw } from "../transfer/draws.ts";

const BENCH = "advice";
const options = { l2: "auto", lexical: "auto", evaluation: { method: "auto", detail: "full" } } as const;
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
    const { train } = draw.split;
    const labels = [...new Set(train.map(({ label }) => label))].sort();
    const indices = Int32Array.from(train, ({ label }) => labels.indexOf(label));
    const sample = sampleRows({ kind: "single", indices }, labels.length, draw.seed);
    const rows = sample === null ? train : sample.map((row) => train[row] as (typeof train)[number]);
    const trainingSet = makeTrainingSet(await embedTexts(draw.model.backbone, rows), rows);
    const started = performance.now();
    const { task, dimensions } = trainingSet;
    const shape = { task, dimensions, examples: rows.length, outputs: labels.length };
    const lexical = readLexical(shape, options, edgeBudget, rows);
    const steps = measureTask(
      tensors,
      { ...trainingSet, lexical },
      {
        l2: "auto",
        classWeight: null,
        seed: draw.seed,
        budget: UNLIMITED_BUDGET,
      },
    );
    let step = steps.next();
    while (!step.done) step = steps.next();
    for (const block of trainingSet.features) tensors.free(block);
    if (!step.value.ok) throw new Error(step.value.failure.message);
    const { trained, similarity } = step.value.value;
    const {
      per_class: _perClass,
      confusion: _confusion,
      reliability: _reliability,
      ...evaluation
    } = trained.evaluation;
    const seconds = (performance.now() - started) / 1000;
    const { operations, lexical: isLexical } = trained.training;
    return { similarity, evaluation, sample: rows.length, operations, lexical: isLexical, seconds };
  });
}
