/** The specification of a fine-tuning job, with what the ledger knows of its examples. */
import type { HeadParams } from "../api/heads.ts";
import { defaultHyperparameters } from "../api/jobs.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { trainableLayers } from "../backbones/deltas.ts";
import { isEncoder } from "../backbones/text-use.ts";
import { textUse } from "../backbones/workerd.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import type { TrainedEncoder } from "../core/job-cost.ts";
import type { PromotionMode } from "../core/lifecycle/job.ts";
import { chooseBackbone, findTrainableBackbone, isAuto, isFineTuned } from "../serving/backbones.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import type { JobSpec } from "../tenant/jobs/jobs.ts";
import { getLedger, type Ledger } from "../tenant/tenant.ts";

/** A job's specification before it has an id, which names the head of a job that names none. */
export type NewJob = Omit<JobSpec, "head"> & { readonly head: string | null };

/** A job's specification, but for what its examples and its backbone decide. */
export type JobParams = Omit<
  NewJob,
  "tenant" | "source" | "task" | "modality" | "dimensions" | "out_of_scope_label" | "backbone" | "trainable" | "encoder"
> & {
  /** null for all layers if there are any. */
  readonly trainable: JobSpec["trainable"] | null;
};

const DATASET_PREFIX = "dataset:";
/** The model of a job whose inputs are embeddings: OpenAI's clients always name a model. */
const OWN_EMBEDDINGS_MODEL = "embedding";

/** The examples of a job. `model` is the id of its backbone, and `param` where the request names that. */
export interface JobSource {
  /** A file's id, or `dataset:` and a dataset's name. */
  readonly trainingFile: string;
  /** Of the dataset; by default its present one. */
  readonly datasetRevision?: number | null | undefined;
  readonly model: string | undefined;
  readonly param: "model" | "backbone";
}

export async function resolveJobSpec(
  { env, tenant }: TenantRequest,
  { trainingFile, datasetRevision, model, param }: JobSource,
  params: JobParams,
): Promise<Result<NewJob>> {
  const tenantLedger = getLedger(env.TENANT, tenant);
  const trainingShape = await findShape(tenantLedger, trainingFile, datasetRevision ?? null, params.validation_file);
  if (!trainingShape.ok) return trainingShape;
  const { source, ...shape } = trainingShape.value;
  const isOwnEmbeddings = shape.modality === "embedding" && param === "model";
  if (isOwnEmbeddings && model !== OWN_EMBEDDINGS_MODEL) {
    const message = `Embeddings of your own need no backbone: name '${OWN_EMBEDDINGS_MODEL}' as the model.`;
    return fail("modality_mismatch", message, { param });
  }
  if (shape.modality === "text" && isFineTuned(model)) return refuseFineTuned(tenantLedger, model, param);
  const isChosen = param === "model" || !isAuto(env, model);
  const id = isChosen ? model : textUse.id;
  const isOwn = shape.modality === "embedding" && (isOwnEmbeddings || !isChosen);
  const backbone = await chooseBackbone(env, tenant, shape.modality, isOwn ? undefined : id, param);
  if (!backbone.ok) return backbone;
  const { value } = backbone;
  const trainable = chooseLayers(env, value, params.trainable);
  if (!trainable.ok) return trainable;
  return ok({
    ...params,
    ...shape,
    trainable: trainable.value,
    encoder: trainedEncoder(value, trainable.value),
    tenant,
    source,
    dimensions: value?.dimensions ?? shape.dimensions ?? 0,
    backbone: value === null ? null : { id: value.id, revision: value.revision },
  });
}

/** The specification of a job that trains a head as `POST /v1/heads` asks for it. */
export async function resolveHeadJobSpec(
  request: TenantRequest,
  params: HeadParams,
  trainingFile: string,
  promote: PromotionMode,
  trainable: JobSpec["trainable"],
): Promise<Result<NewJob>> {
  const { seed, ...training } = params.hyperparameters;
  // Without the default, which batch endpoints of older builds do not know.
  const { detail, ...settings } = params.evaluation;
  const evaluation = detail === "full" ? { ...settings, detail } : settings;
  const spec = await resolveJobSpec(
    request,
    { trainingFile, datasetRevision: params.dataset_revision, model: params.backbone, param: "backbone" },
    {
      validation_file: null,
      head: params.name,
      promote,
      trainable,
      suffix: null,
      metadata: null,
      seed,
      hyperparameters: defaultHyperparameters,
      training,
      evaluation,
      clamp: params.clamp,
      test_dataset: params.test_dataset ?? null,
      ...(params.out_of_scope === undefined ? {} : { in_scope_recall: params.out_of_scope.in_scope_recall }),
    },
  );
  if (spec.ok && params.out_of_scope !== undefined && spec.value.task !== "single_label")
    return fail("task_mismatch", "'out_of_scope' is for one label alone. Leave it out.", { param: "out_of_scope" });
  if (!spec.ok || !params.clamp || spec.value.task === "regression") return spec;
  return fail("task_mismatch", "'clamp' is for values alone. Leave it out.", { param: "clamp" });
}

type SourceShape = Pick<JobSpec, "source" | "task" | "modality" | "out_of_scope_label"> & {
  readonly dimensions: number | null;
};

/** What the training examples are. Fails if the validation file is of another shape. */
async function findShape(
  tenantLedger: Ledger,
  trainingFile: string,
  revision: number | null,
  validationFile: string | null,
): Promise<Result<SourceShape>> {
  const isDataset = trainingFile.startsWith(DATASET_PREFIX);
  if (!isDataset && revision !== null)
    return fail("invalid_parameter", "A file has no revisions. Leave 'dataset_revision' out, or name a dataset.", {
      param: "dataset_revision",
    });
  const training = isDataset
    ? await findDatasetShape(tenantLedger, trainingFile.slice(DATASET_PREFIX.length), revision)
    : await findFileShape(tenantLedger, trainingFile, "training_file");
  if (!training.ok || validationFile === null) return training;
  const validation = await findFileShape(tenantLedger, validationFile, "validation_file");
  if (!validation.ok) return validation;
  if (validationFile === trainingFile) {
    const message = "The validation file is the training file, so nothing would be left to train on. Leave it out.";
    return fail("invalid_parameter", message, { param: "validation_file" });
  }
  const mismatch = (["task", "modality", "dimensions"] as const).find(
    (field) => validation.value[field] !== training.value[field],
  );
  if (mismatch === undefined) return training;
  const message = `The validation file's ${mismatch} is ${validation.value[mismatch]}, and that of the training examples ${training.value[mismatch]}.`;
  return fail("task_mismatch", message, { param: "validation_file" });
}

async function findDatasetShape(
  tenantLedger: Ledger,
  name: string,
  atRevision: number | null,
): Promise<Result<SourceShape>> {
  const dataset = await tenantLedger.findDataset(name);
  if (!dataset.ok) return { ok: false, failure: { ...dataset.failure, param: "training_file" } };
  const { id, task, modality, dimensions, out_of_scope_label } = dataset.value;
  const revision = atRevision ?? dataset.value.revision;
  return ok({
    source: { kind: "dataset", name, id, revision },
    task,
    modality,
    dimensions,
    out_of_scope_label,
  });
}

async function findFileShape(tenantLedger: Ledger, id: string, param: string): Promise<Result<SourceShape>> {
  const file = await tenantLedger.getFile(id);
  if (!file.ok) return { ok: false, failure: { ...file.failure, param } };
  const { task, modality, dimensions } = file.value.graft;
  return ok({ source: { kind: "file", id, own: false }, task, modality, dimensions, out_of_scope_label: null });
}

async function refuseFineTuned(tenantLedger: Ledger, model: string, param: string): Promise<Result<never>> {
  const fineTuned = await tenantLedger.findBackbone(model);
  if (!fineTuned.ok) return { ok: false, failure: { ...fineTuned.failure, param } };
  const { base } = fineTuned.value;
  const message = `'${model}' is fine-tuned already, and batch endpoints train shared backbones alone. Name '${base}', of which it was made.`;
  return fail("not_available", message, { param });
}

/** What is trained of a sentence encoder, by which the job's cost is estimated; null if nothing is. */
function trainedEncoder(backbone: Backbone | null, trainable: JobSpec["trainable"]): TrainedEncoder | null {
  if (backbone === null || !isEncoder(backbone) || trainable === "head") return null;
  const { widths, hidden } = backbone.shape;
  return { widths, hidden, layers: trainable === "all" ? trainableLayers(backbone) : trainable.last_layers };
}

/** Which layers a job trains: by default all of them, or the head alone where the backbone has no trainable layers. */
function chooseLayers(
  env: Cloudflare.Env,
  backbone: Backbone | null,
  requested: JobSpec["trainable"] | null,
): Result<JobSpec["trainable"]> {
  const trained = backbone && findTrainableBackbone(env, backbone);
  const trainable = requested ?? (trained ? "all" : "head");
  const layers = trained ? trainableLayers(trained) : 0;
  if (trained && typeof trainable === "object" && trainable.last_layers > layers) {
    const message = `'${trained.id}' has ${layers} layers that can be trained, and not ${trainable.last_layers}.`;
    return fail("invalid_parameter", message, { param: "trainable.last_layers" });
  }
  if (trainable === "head" || trained) return ok(trainable);
  const subject = backbone === null ? "Embeddings of your own have" : `The backbone '${backbone.id}' has`;
  const message = `${subject} no layers that can be trained here. Use 'trainable': "head", or the model 'text-use-1' or 'text-static-1'.`;
  return fail("not_available", message, { param: "trainable" });
}
