/** Measures a sample of a dataset, and recommends a method from it. */
import type { RecommendationParams } from "../api/recommendations.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { isTrainable } from "../backbones/deltas.ts";
import { isEncoder } from "../backbones/text-use.ts";
import { advise } from "../core/advice/advise.ts";
import type { ComparisonInput } from "../core/advice/comparison.ts";
import { countDataset } from "../core/advice/counts.ts";
import { measureTask, sampleRows, type TaskFigures } from "../core/advice/task-figures.ts";
import type { AccuracyEstimate } from "../core/evaluation/power-law.ts";
import { type Failure, ok, type Result } from "../core/failure.ts";
import { edgeBudget } from "../core/limits.ts";
import { encodeTargets } from "../core/linear/targets.ts";
import { parsePrices } from "../core/prices.ts";
import { newId } from "../lib/id.ts";
import { chooseBackbones } from "../serving/backbones.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import type { NewRecommendationRecord } from "../tenant/data/recommendations.ts";
import type { TrainingRows } from "../tenant/data/training-sets.ts";
import type { NewMeasurement } from "../tenant/jobs/measurements.ts";
import { getLedger } from "../tenant/tenant.ts";
import { createDatasetSource, pickRows } from "./dataset-source.ts";
import { resolveMeasurement } from "./measurement.ts";
import { describeMethods } from "./method-shapes.ts";
import { checkRequestBudget, prepareSource, type RequestOptions, runStage, shapeOf, withRunState } from "./run.ts";
import { parseTargets, type TrainingSource } from "./source.ts";
import { runTest, type TestedHead } from "./test-set.ts";
import { countWords, type WordFigures } from "./word-figures.ts";

/** A recommendation before it is stored, and the number of its dataset. */
export interface DatasetRecommendation {
  readonly dataset: number;
  readonly record: NewRecommendationRecord;
  /** The jobs that are to measure it; null without `measure`. */
  readonly measurement: NewMeasurement | null;
}

const SEED = 0;

/**
 * What a sample is measured with: a head at the defaults. Beside a sentence encoder words rarely help, and would take
 * longer than the rest.
 */
function measureOptions(backbone: Backbone | null): RequestOptions {
  const lexical = backbone !== null && isEncoder(backbone) ? false : "auto";
  return { l2: "auto", classWeight: null, seed: SEED, lexical, evaluation: { method: "auto", detail: "full" } };
}

/**
 * Measures a sample of a dataset in this isolate's training slot, as a training does, and decides what the dataset needs.
 * Stores nothing but embeddings.
 */
export async function recommend(
  request: TenantRequest,
  params: RecommendationParams,
): Promise<Result<DatasetRecommendation>> {
  const prices = parsePrices(request.env.PRICES);
  if (!prices.ok) throw new Error(prices.failure.message);
  const prepared = await prepareDataset(request, params);
  if (!prepared.ok) return prepared;
  const { rows, backbone, measurement } = prepared.value;
  const { dataset } = rows;
  const { labels, targets } = encodeTargets(dataset.task, parseTargets(rows.targets), dataset.out_of_scope_label);
  const indices = sampleRows(targets, Math.max(1, labels.length), SEED);
  const storage = { kv: request.env.KV, tenant: request.tenant, ledger: getLedger(request.env.TENANT, request.tenant) };
  const source = createDatasetSource(storage, indices === null ? rows : pickRows(rows, indices), backbone);
  const measured = await measureSample(request, source, backbone);
  if (!measured.ok) return nameDataset(measured.failure);
  const { figures, words, operations, embedded } = measured.value;
  request.setLogFields({ examples: source.examples, embedded, operations });
  const { training, evaluation, head } = figures.trained;
  const tested = await testSample(request, params.test_dataset, { head, backbone });
  if (!tested.ok) return tested;
  const sample = { operations: training.operations, examples: source.examples };
  const input: ComparisonInput = {
    counts: countDataset(targets, labels.length, rows.groups),
    labels: labels.length,
    sample: source.examples,
    evaluation,
    wrongLabels: evaluation.label_noise ?? null,
    backbone: backbone?.id ?? "",
    ...describeMethods(rows, backbone, labels.length, sample),
    hasGains: dataset.task === "single_label",
    prices: prices.value,
  };
  const { reasons, ...advice } = advise(input, tested.value, params.budget ?? {});
  const record: NewRecommendationRecord = {
    id: newId("rec_"),
    status: "complete",
    dataset: { name: dataset.name, revision: dataset.revision, examples: rows.positions.length },
    backbone: backbone === null ? { id: "embedding", revision: "1" } : { id: backbone.id, revision: backbone.revision },
    ...advice,
    reasons: reasons.map((reason) => ({ ...reason, evidence: { ...reason.evidence } })),
    task_similarity: figures.similarity && {
      ...figures.similarity,
      linear_separability: evaluation.train_accuracy ?? null,
      ...words,
    },
  };
  return ok({ dataset: dataset.id, record, measurement });
}

interface PreparedDataset extends Pick<DatasetRecommendation, "measurement"> {
  readonly rows: TrainingRows;
  readonly backbone: Backbone | null;
}

/** The rows, and the backbone to measure them on: of those that a training would choose from, one that can be fine-tuned. */
async function prepareDataset(request: TenantRequest, params: RecommendationParams): Promise<Result<PreparedDataset>> {
  const { env, tenant } = request;
  const ledger = getLedger(env.TENANT, tenant);
  const dataset = await ledger.findDataset(params.dataset);
  if (!dataset.ok) return { ok: false, failure: { ...dataset.failure, param: "dataset" } };
  const { modality, revision } = dataset.value;
  if (params.test_dataset !== undefined) {
    const testSet = await ledger.checkTestDataset(params.test_dataset, params.dataset);
    if (!testSet.ok) return testSet;
  }
  const backbones = await chooseBackbones(env, tenant, modality, params.backbone, "backbone");
  if (!backbones.ok) return backbones;
  const backbone = backbones.value.find((each) => each !== null && isTrainable(each)) ?? backbones.value[0] ?? null;
  const measurement = params.measure ? await resolveMeasurement(request, params, revision) : ok(null);
  if (!measurement.ok) return measurement;
  const stored = backbone ? `${backbone.id}@${backbone.revision}` : "";
  const rows = await ledger.readTrainingRows(params.dataset, stored, revision);
  if (!rows.ok) return { ok: false, failure: { ...rows.failure, param: "dataset" } };
  return ok({ rows: rows.value, backbone, measurement: measurement.value });
}

/** How the sample's head does on a test set; null without one. */
async function testSample(
  request: TenantRequest,
  name: string | undefined,
  head: TestedHead,
): Promise<Result<AccuracyEstimate | null>> {
  if (name === undefined) return ok(null);
  const run = await runTest(request, name, [head], "test_dataset");
  if (!run.ok) return run;
  const { accuracy, accuracy_interval } = run.value.tests[0]?.result.evaluation ?? {};
  return ok(
    accuracy === undefined || accuracy_interval === undefined ? null : { value: accuracy, interval: accuracy_interval },
  );
}

/** The failure, which names the dataset if it is of its examples. */
function nameDataset(failure: Failure): Result<never> {
  const isOfExamples = failure.code === "too_few_labels" || failure.code === "too_few_examples";
  return { ok: false, failure: isOfExamples ? { ...failure, param: "dataset" } : failure };
}

interface MeasuredSample {
  readonly figures: TaskFigures;
  readonly words: WordFigures;
  readonly operations: number;
  readonly embedded: number;
}

/** Gathers the sample's embeddings and measures them, within the budget of a training. */
async function measureSample(
  request: TenantRequest,
  source: TrainingSource,
  backbone: Backbone | null,
): Promise<Result<MeasuredSample>> {
  const options = measureOptions(backbone);
  const overBudget = checkRequestBudget(shapeOf(source), options);
  if (overBudget !== null) return { ok: false, failure: overBudget };
  return withRunState(request, async (state) => {
    const prepared = await prepareSource(state, source);
    if (!prepared.ok) return prepared;
    const words = await countWords(source, backbone);
    if (!words.ok) return words;
    const measured = await runStage(state, source, options, (trainingSet) =>
      measureTask(state.tensors, trainingSet, { ...options, budget: edgeBudget }),
    );
    if (!measured.ok) return measured;
    const { value: figures, operations, embedded } = measured.value;
    return ok({ figures, words: words.value, operations, embedded: prepared.value.embedded + embedded });
  });
}
