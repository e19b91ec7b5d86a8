/** What a recommendation measures of each sample of the grid that `npm run bench -- transfer` trains both methods on. */
import { measureTask, sampleRows, type TaskFigures } from "../../src/core/advice/task-figures.ts";
import { nodeTensorBackend } from "../../src/tensor/node.ts";
import { cached, readStored } from "../shared/cached.ts";
import { embedTexts, makeTrainingSet } from "../shared/linear-probe.ts";
import type { Draw } from "../transfer/draws.ts";

const BENCH = "advice";
const UNLIMITED_BUDGET = { bytes: 4e9, operations: 1e15 };
const tensors = await nodeTensorBackend();

/** The figures, without the head. */
export interface Task {
  readonly similarity: TaskFigures["similarity"];
  readonly evaluation: TaskFigures["trained"]["evaluation"];
  readonly sample: number;
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
    const steps = measureTask(tensors, trainingSet, {
      l2: "auto",
      classWeight: null,
      seed: draw.seed,
      budget: UNLIMITED_BUDGET,
    });
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
    return { similarity, evaluation, sample: rows.length, seconds };
  });
}
