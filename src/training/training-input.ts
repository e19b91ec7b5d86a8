/** What a training reads, by what its request names: a dataset, or examples of its own, with texts of labels. */
import type { DatasetModality } from "../api/datasets.ts";
import type { StoredExample } from "../api/examples.ts";
import type { HeadParams } from "../api/heads.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { Task } from "../core/head.ts";
import { limits } from "../core/limits.ts";
import { inferShape, parseExample } from "../ingest/example.ts";
import { chooseBackbones } from "../serving/backbones.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import type { NewHead } from "../tenant/heads/heads.ts";
import { getBatchEndpoint } from "../tenant/jobs/job-runner.ts";
import { getLedger } from "../tenant/tenant.ts";
import type { TrainingPlan } from "./compare.ts";
import { createDatasetSource, datasetChanged, pickRows } from "./dataset-source.ts";
import { createInlineSource } from "./inline-source.ts";
import { checkLabels, joinSources, type LabelRows } from "./label-source.ts";
import { checkRequestBudget, type RequestOptions } from "./run.ts";
import type { TrainingSource } from "./source.ts";

export const lexicalNeedsTexts = fail(
  "modality_mismatch",
  "Lexical features are of texts, and these inputs are embeddings. Leave 'lexical' out.",
  { param: "hyperparameters.lexical" },
);

export interface TrainingInput {
  readonly plan: TrainingPlan;
  readonly shape: { readonly task: Task; readonly modality: DatasetModality };
  readonly dataset: NewHead["dataset"];
  /** The position of a row's example in its dataset. Examples sent with the request have none. */
  readonly positionOf: (row: number) => number | undefined;
  /** Finds the ids of the examples in these rows. Examples sent with the request have none. */
  readonly readExampleIds: (rows: readonly number[]) => Promise<(row: number) => string | undefined>;
}

/** Reads the rows of a dataset, if a training on them is within the budget. */
export async function prepareDataset(
  { env, tenant }: TenantRequest,
  params: HeadParams,
  datasetName: string,
  labelRows: LabelRows,
  options: RequestOptions,
): Promise<Result<TrainingInput>> {
  const { dataset_revision: atRevision, backbone: backboneId } = params;
  const tenantLedger = getLedger(env.TENANT, tenant);
  const current = await tenantLedger.getDataset(datasetName);
  if (!current.ok) return { ok: false, failure: { ...current.failure, param: "dataset" } };
  const { task, modality, labels, out_of_scope_label } = current.value;
  const labelFailure = checkLabels(labelRows, current.value);
  if (labelFailure !== null) return labelFailure;
  const isPast = atRevision !== undefined && atRevision !== current.value.revision;
  const size = isPast ? await tenantLedger.findRevision(datasetName, atRevision) : current;
  if (!size.ok) return size;
  const ownRows = [...labelRows.examples, ...labelRows.texts];
  const examples = size.value.examples + ownRows.length;
  const backbones = await chooseBackbones(env, tenant, modality, backboneId, "backbone");
  if (!backbones.ok) return backbones;
  if (options.lexical === true && modality !== "text") return lexicalNeedsTexts;
  // How many labels a past revision has is found when its rows are read.
  const names = new Set([...Object.keys(isPast ? {} : labels), ...labelRows.labels.map(({ name }) => name)]);
  names.delete(out_of_scope_label ?? "");
  const outputs = Math.max(1, names.size);
  const budgetFailures = backbones.value.map((backbone) => {
    const dimensions = backbone?.dimensions ?? current.value.dimensions ?? 0;
    return checkRequestBudget({ task, examples, dimensions, outputs }, options);
  });
  // Before the rows are read: those of a dataset that is far too large would not fit into the ledger's memory.
  const budgetFailure = budgetFailures.includes(null) ? null : budgetFailures.at(-1);
  if (budgetFailure) return { ok: false, failure: budgetFailure };
  const readRows = (backbone: Backbone | null, revision: number | undefined) =>
    tenantLedger.readTrainingRows(
      datasetName,
      backbone ? `${backbone.id}@${backbone.revision}` : "",
      revision,
      ownRows.map(({ groupHash }) => groupHash),
    );
  const withLabels = (source: TrainingSource, backbone: Backbone | null) => {
    if (ownRows.length === 0) return source;
    const { dimensions } = source;
    return joinSources(source, createInlineSource(task, ownRows, backbone, dimensions, labelRows.texts.length));
  };
  // Those that are cached are read with what is stored of them.
  const cached = backbones.value.find((backbone) => backbone?.cost !== "local") ?? backbones.value[0] ?? null;
  const rows = await readRows(cached, atRevision);
  if (!rows.ok) return rows;
  const { dataset } = rows.value;
  const storage = { kv: env.KV, tenant, ledger: tenantLedger };
  // The comparison and the training read it in turn, so that nothing is embedded twice.
  const cachedSource = withLabels(createDatasetSource(storage, rows.value, cached), cached);
  return ok({
    plan: {
      backbones: backbones.value,
      canBeJob: canBeJob(env, params),
      makeSource: async (backbone) => {
        if (backbone === cached) return ok(cachedSource);
        // With what is stored for this backbone. The dataset may have been changed or replaced since it was compared.
        const backboneRows = await readRows(backbone, dataset.revision);
        if (!backboneRows.ok) return backboneRows;
        return backboneRows.value.dataset.id === dataset.id
          ? ok(withLabels(createDatasetSource(storage, backboneRows.value, backbone), backbone))
          : datasetChanged;
      },
      makeSample: (backbone, indices) => {
        if (indices === null && backbone === cached) return cachedSource;
        const isStored = (index: number) => index < rows.value.positions.length;
        const sample = indices === null ? rows.value : pickRows(rows.value, indices.filter(isStored));
        // The training reads what was embedded of the sample. Of other backbones nothing is kept.
        const source =
          backbone === cached
            ? createDatasetSource(storage, sample, backbone)
            : createDatasetSource(storage, { ...sample, blocks: new Map() }, backbone, { keepsEmbeddings: false });
        return withLabels(source, backbone);
      },
    },
    shape: { task, modality },
    dataset: { name: datasetName, revision: dataset.revision, examples: rows.value.positions.length },
    positionOf: (row) => rows.value.positions[row],
    readExampleIds: async (indices) => {
      // Examples sent with labels follow those of the dataset.
      const positions = indices.flatMap((row) => rows.value.positions[row] ?? []);
      if (positions.length === 0) return () => undefined;
      const ids = await tenantLedger.readExampleIds(dataset.id, positions, dataset.revision);
      return (row) => (ids.ok ? ids.value.get(rows.value.positions[row] ?? -1) : undefined);
    },
  });
}

function canBeJob(env: Cloudflare.Env, { method, labels }: HeadParams): boolean {
  return method === "auto" && labels === undefined && getBatchEndpoint(env) !== null;
}

function tooManyLabels(actual: number) {
  const limit = limits.labels_per_dataset;
  const message = `The examples of a training have at most ${limit} labels; these have more.`;
  return fail("limit_exceeded", message, { param: "examples", details: { limit, actual } });
}

/** Checks the examples of a request. */
export async function prepareInline(
  { env, tenant }: TenantRequest,
  params: HeadParams,
  labelRows: LabelRows,
): Promise<Result<TrainingInput>> {
  const rawExamples = params.examples ?? [];
  const first = rawExamples[0];
  if (first === undefined && params.labels === undefined)
    return fail("too_few_examples", "There are no examples to train on.", { param: "examples" });
  const shape = inferShape(first ?? {});
  const labelFailure = checkLabels(labelRows, { ...shape, out_of_scope_label: null });
  if (labelFailure !== null) return labelFailure;
  const examples: StoredExample[] = [];
  const labels = new Set(labelRows.labels.map(({ name }) => name));
  for (const [index, example] of rawExamples.entries()) {
    for (const label of example.labels ?? [example.label ?? ""]) labels.add(label);
    if (labels.size > limits.labels_per_dataset) return tooManyLabels(labels.size);
    const parsed = parseExample(example, shape, `examples[${index}]`);
    if (!parsed.ok) return parsed;
    examples.push(parsed.value);
  }
  examples.push(...labelRows.examples);
  const backbones = await chooseBackbones(env, tenant, shape.modality, params.backbone, "backbone");
  if (!backbones.ok) return backbones;
  const sources = new Map<Backbone | null, TrainingSource>();
  const makeSample: TrainingPlan["makeSample"] = (backbone, indices) => {
    const sample = indices === null ? examples : indices.flatMap((index) => examples[index] ?? []);
    const rows = [...sample, ...labelRows.texts];
    const known = indices === null ? sources.get(backbone) : undefined;
    const source =
      known ??
      createInlineSource(
        shape.task,
        rows,
        backbone,
        backbone?.dimensions ?? shape.dimensions ?? 0,
        labelRows.texts.length,
      );
    if (indices === null) sources.set(backbone, source);
    return source;
  };
  return ok({
    plan: {
      backbones: backbones.value,
      canBeJob: canBeJob(env, params),
      makeSample,
      makeSource: async (backbone) => ok(makeSample(backbone, null)),
    },
    shape,
    dataset: { name: null, revision: null, examples: examples.length },
    positionOf: () => undefined,
    readExampleIds: async () => () => undefined,
  });
}
