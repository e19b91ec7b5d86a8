/** Fine-tuning jobs, in OpenAI's shape: fields that are not known here are ignored. */

import { createRoute } from "@hono/zod-openapi";
import type { Context } from "hono";
import {
  defaultHyperparameters,
  type FineTuningJobParams,
  fineTuningJob,
  fineTuningJobCheckpoint,
  fineTuningJobEvent,
  newFineTuningJob,
} from "../../api/jobs.ts";
import { listOf, openAiPageQuery } from "../../api/lists.ts";
import { idParams, name } from "../../api/schema.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { newId } from "../../lib/id.ts";
import { chooseBackbone, findTrainableBackbone, isFineTuned } from "../../serving/backbones.ts";
import { getBatchEndpoint } from "../../tenant/jobs/job-runner.ts";
import type { JobSpec } from "../../tenant/jobs/jobs.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App, HttpEnv } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, anyQuery, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";

const common = { tags: ["Fine-tuning"], security: tenantSecurity };
export function jobRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/fine_tuning/jobs",
      summary: "Create a fine-tuning job",
      middleware: [tenantAuth("train"), idempotency("tenant")] as const,
      request: { query: anyQuery, body: jsonBody(newFineTuningJob) },
      responses: { 200: jsonResponse(fineTuningJob, "The job, which is validated and queued next"), ...errorResponses },
    }),
    async (c) => {
      const spec = await parseJobRequest(c, c.req.valid("json"));
      return spec.ok ? respond(c, await createJob(c, spec.value, 200)) : respondError(c, spec.failure);
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/fine_tuning/jobs",
      summary: "List fine-tuning jobs",
      middleware: [tenantAuth("train")] as const,
      request: { query: openAiPageQuery },
      responses: { 200: jsonResponse(listOf(fineTuningJob), "Jobs, newest first"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).listJobs(c.req.valid("query"))),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/fine_tuning/jobs/{id}",
      summary: "Get a fine-tuning job",
      middleware: [tenantAuth("train")] as const,
      request: { query: anyQuery, params: idParams },
      responses: { 200: jsonResponse(fineTuningJob, "The job"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getJob(c.req.valid("param").id)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/fine_tuning/jobs/{id}/events",
      summary: "List what a job's events tell, its metrics among them",
      middleware: [tenantAuth("train")] as const,
      request: { params: idParams, query: openAiPageQuery },
      responses: { 200: jsonResponse(listOf(fineTuningJobEvent), "Events, newest first"), ...errorResponses },
    }),
    async (c) =>
      respond(
        c,
        await getLedger(c.env.TENANT, c.var.caller.tenant).listJobEvents(c.req.valid("param").id, c.req.valid("query")),
      ),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/fine_tuning/jobs/{id}/checkpoints",
      summary: "List a job's checkpoints",
      middleware: [tenantAuth("train")] as const,
      request: { params: idParams, query: openAiPageQuery },
      responses: { 200: jsonResponse(listOf(fineTuningJobCheckpoint), "Checkpoints, newest first"), ...errorResponses },
    }),
    async (c) =>
      respond(
        c,
        await getLedger(c.env.TENANT, c.var.caller.tenant).listCheckpoints(
          c.req.valid("param").id,
          c.req.valid("query"),
        ),
      ),
  );
  const commands = {
    cancel: "Cancel a job for good",
    pause: "Pause a job; what it has done is kept as a checkpoint",
    resume: "Resume a paused job from its last checkpoint",
  } as const;
  for (const command of ["cancel", "pause", "resume"] as const) {
    addRoute(
      app,
      createRoute({
        ...common,
        method: "post",
        path: `/v1/fine_tuning/jobs/{id}/${command}`,
        summary: commands[command],
        middleware: [tenantAuth("train"), idempotency("tenant")] as const,
        request: { query: anyQuery, params: idParams },
        responses: {
          200: jsonResponse(fineTuningJob, "The job as it is then; the same again changes nothing"),
          ...errorResponses,
        },
      }),
      async (c) => {
        const { id } = c.req.valid("param");
        return respond(
          c,
          await getLedger(c.env.TENANT, c.var.caller.tenant).commandJob(c.var.idempotencyClaim, id, command),
        );
      },
    );
  }
}

/** What is to be known of a job before it is made, beside where its examples are. */
type JobParams = Omit<
  JobSpec,
  "tenant" | "source" | "task" | "modality" | "dimensions" | "out_of_scope_label" | "backbone" | "head" | "trainable"
> & {
  readonly head: string | null;
  /** null: all layers where there are any. */
  readonly trainable: JobSpec["trainable"] | null;
};
export type NewJob = Omit<JobSpec, "head"> & { readonly head: string | null };

const noBatchEndpoint = fail("not_available", "This instance has no batch endpoint, so there are no fine-tuning jobs.");

export function newJobId(): string {
  return newId("ftjob-");
}

/** Makes a job of a specification; `status` is that of the answer. */
export async function createJob(c: Context<HttpEnv>, spec: NewJob, status: 200 | 202) {
  if (getBatchEndpoint(c.env) === null) return noBatchEndpoint;
  const id = newJobId();
  const suffix = name.safeParse(spec.suffix);
  const head = spec.head ?? (suffix.success ? suffix.data : id);
  return getLedger(c.env.TENANT, spec.tenant).createJob(c.var.idempotencyClaim, id, { ...spec, head }, status);
}

/** Reads what a caller wants to be done, and looks up what that names. */
async function parseJobRequest(c: Context<HttpEnv>, request: FineTuningJobParams): Promise<Result<NewJob>> {
  const requestedHyperparameters =
    request.method?.supervised?.hyperparameters ?? request.hyperparameters ?? defaultHyperparameters;
  const { n_epochs, batch_size, learning_rate_multiplier } = requestedHyperparameters;
  return resolveJobSpec(c, request.training_file, request.model, "model", {
    validation_file: request.validation_file ?? null,
    head: request.head ?? null,
    promote: request.promote,
    trainable: request.trainable ?? null,
    suffix: request.suffix ?? null,
    metadata: request.metadata ?? null,
    seed: request.seed ?? 0,
    hyperparameters: { n_epochs, batch_size, learning_rate_multiplier },
    training: { l2: "auto", class_weight: null, lexical: "auto" },
    evaluation: { method: "auto" },
  });
}

const DATASET_PREFIX = "dataset:";
/** The model of a job whose inputs are embeddings: OpenAI's clients always name one. */
const OWN_EMBEDDINGS_MODEL = "embedding";

/** A job's specification, with what the ledger knows of its examples; `param` is where its backbone was named. */
export async function resolveJobSpec(
  c: Context<HttpEnv>,
  trainingFile: string,
  model: string | undefined,
  param: "model" | "backbone",
  jobParams: JobParams,
): Promise<Result<NewJob>> {
  const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
  const trainingShape = trainingFile.startsWith(DATASET_PREFIX)
    ? await getDatasetShape(tenantLedger, trainingFile.slice(DATASET_PREFIX.length))
    : await getFileShape(tenantLedger, trainingFile, "training_file");
  if (!trainingShape.ok) return trainingShape;
  const { source, ...shape } = trainingShape.value;
  if (jobParams.validation_file !== null) {
    const validation = await getFileShape(tenantLedger, jobParams.validation_file, "validation_file");
    if (!validation.ok) return validation;
    const mismatch = (["task", "modality", "dimensions"] as const).find(
      (field) => validation.value[field] !== shape[field],
    );
    if (mismatch !== undefined)
      return fail(
        "task_mismatch",
        `The validation file's ${mismatch} is ${validation.value[mismatch]}, and that of the training examples ${shape[mismatch]}.`,
        {
          param: "validation_file",
        },
      );
  }
  const isOwnEmbeddings = shape.modality === "embedding" && param === "model";
  if (isOwnEmbeddings && model !== OWN_EMBEDDINGS_MODEL)
    return fail(
      "modality_mismatch",
      `Embeddings of your own need no backbone: name '${OWN_EMBEDDINGS_MODEL}' as the model.`,
      {
        param,
      },
    );
  if (shape.modality === "text" && isFineTuned(model)) {
    const fineTuned = await tenantLedger.findBackbone(model);
    if (!fineTuned.ok) return { ok: false, failure: { ...fineTuned.failure, param } };
    const { base } = fineTuned.value;
    const message = `'${model}' is fine-tuned already, and batch endpoints train shared backbones alone. Name '${base}', of which it was made.`;
    return fail("not_available", message, { param });
  }
  const backbone = await chooseBackbone(
    c.env,
    c.var.caller.tenant,
    shape.modality,
    isOwnEmbeddings ? undefined : model,
    param,
  );
  if (!backbone.ok) return backbone;
  const { value } = backbone;
  const hasLayers = value !== null && findTrainableBackbone(c.env, value) !== null;
  const layersToTrain = jobParams.trainable ?? (hasLayers ? "all" : "head");
  if (layersToTrain !== "head" && !hasLayers) {
    const subject = value === null ? "Embeddings of your own have" : `The backbone '${value.id}' has`;
    const message = `${subject} no layers that can be trained here. Use 'trainable': "head", or a static backbone such as 'text-static-1'.`;
    return fail("not_available", message, { param: "trainable" });
  }
  return ok({
    ...jobParams,
    ...shape,
    trainable: layersToTrain,
    tenant: c.var.caller.tenant,
    source,
    dimensions: value?.dimensions ?? shape.dimensions ?? 0,
    backbone: value === null ? null : { id: value.id, revision: value.revision },
  });
}

type SourceShape = Pick<JobSpec, "source" | "task" | "modality" | "out_of_scope_label"> & {
  readonly dimensions: number | null;
};

async function getDatasetShape(
  tenantLedger: ReturnType<typeof getLedger>,
  dataset: string,
): Promise<Result<SourceShape>> {
  const found = await tenantLedger.findDataset(dataset);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param: "training_file" } };
  const { id, task, modality, dimensions, out_of_scope_label } = found.value;
  return ok({ source: { kind: "dataset", name: dataset, id }, task, modality, dimensions, out_of_scope_label });
}

async function getFileShape(
  tenantLedger: ReturnType<typeof getLedger>,
  id: string,
  param: string,
): Promise<Result<SourceShape>> {
  const found = await tenantLedger.getFile(id);
  if (!found.ok) return { ok: false, failure: { ...found.failure, param } };
  const { task, modality, dimensions } = found.value.graft;
  return ok({ source: { kind: "file", id, own: false }, task, modality, dimensions, out_of_scope_label: null });
}
