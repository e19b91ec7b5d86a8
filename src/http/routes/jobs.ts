/** Fine-tuning jobs, in OpenAI's shape: fields that are unknown here are ignored. */
import { createRoute } from "@hono/zod-openapi";
import { defaultHeadHyperparameters } from "../../api/heads.ts";
import {
  defaultHyperparameters,
  type FineTuningJobParams,
  fineTuningJob,
  fineTuningJobCheckpoint,
  fineTuningJobEvent,
  newFineTuningJob,
} from "../../api/jobs.ts";
import { listOf, openAiPageQuery } from "../../api/lists.ts";
import { idParams } from "../../api/schema.ts";
import { type JobParams, resolveJobSpec } from "../../training/job-spec.ts";
import { createJob } from "../../training/jobs.ts";
import { type App, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import {
  addRoute,
  anyQuery,
  errorResponses,
  jsonBody,
  jsonResponse,
  type RouteContext,
  tenantSecurity,
} from "../route.ts";

const common = { tags: ["Fine-tuning"], security: tenantSecurity };

const createJobRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/fine_tuning/jobs",
  operationId: "createFineTuningJob",
  summary: "Create a fine-tuning job",
  description:
    "OpenAI's route. The job trains a head and, as 'trainable' says, layers of the backbone, and compares both with the frozen backbone on the same held-out examples.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { query: anyQuery, body: jsonBody(newFineTuningJob) },
  responses: { 200: jsonResponse(fineTuningJob, "The job, which is validated and queued next"), ...errorResponses },
});

const listJobsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/fine_tuning/jobs",
  operationId: "listFineTuningJobs",
  summary: "List fine-tuning jobs",
  description: "OpenAI's list of jobs; of those that have ended, the newest thousand.",
  middleware: [tenantAuth("train")] as const,
  request: { query: openAiPageQuery },
  responses: { 200: jsonResponse(listOf(fineTuningJob), "Jobs, newest first"), ...errorResponses },
});

const getJobRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/fine_tuning/jobs/{id}",
  operationId: "getFineTuningJob",
  summary: "Get a fine-tuning job",
  description: "The job's status, and under 'graft' its head and how the fine-tuned model compares.",
  middleware: [tenantAuth("train")] as const,
  request: { query: anyQuery, params: idParams },
  responses: { 200: jsonResponse(fineTuningJob, "The job"), ...errorResponses },
});

const listJobEventsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/fine_tuning/jobs/{id}/events",
  operationId: "listFineTuningJobEvents",
  summary: "List what a job's events tell, its metrics among them",
  description: "What has happened to the job, its training's metrics among it.",
  middleware: [tenantAuth("train")] as const,
  request: { params: idParams, query: openAiPageQuery },
  responses: { 200: jsonResponse(listOf(fineTuningJobEvent), "Events, newest first"), ...errorResponses },
});

const listCheckpointsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/fine_tuning/jobs/{id}/checkpoints",
  operationId: "listFineTuningJobCheckpoints",
  summary: "List a job's checkpoints",
  description: "Points of the training from which an attempt can go on.",
  middleware: [tenantAuth("train")] as const,
  request: { params: idParams, query: openAiPageQuery },
  responses: { 200: jsonResponse(listOf(fineTuningJobCheckpoint), "Checkpoints, newest first"), ...errorResponses },
});

const commands = {
  cancel: {
    operationId: "cancelFineTuningJob",
    summary: "Cancel a job for good",
    description: "The job ends at once; what it has trained is not kept.",
  },
  pause: {
    operationId: "pauseFineTuningJob",
    summary: "Pause a job; what it has done is kept as a checkpoint",
    description: "The job waits until it is resumed or cancelled.",
  },
  resume: {
    operationId: "resumeFineTuningJob",
    summary: "Resume a paused job from its last checkpoint",
    description: "The job waits for its turn again.",
  },
} as const;

const commandRoute = (command: keyof typeof commands) =>
  createRoute({
    ...common,
    method: "post",
    path: `/v1/fine_tuning/jobs/{id}/${command}`,
    ...commands[command],
    middleware: [tenantAuth("train"), idempotency("tenant")] as const,
    request: { query: anyQuery, params: idParams },
    responses: {
      200: jsonResponse(fineTuningJob, "The job as it is then; the same again changes nothing"),
      ...errorResponses,
    },
  });

export function jobRoutes(app: App): void {
  addRoute(app, createJobRoute, createFineTuningJob);
  addRoute(app, listJobsRoute, async (c) => respond(c, await c.var.ledger().listJobs(c.req.valid("query"))));
  addRoute(app, getJobRoute, async (c) => respond(c, await c.var.ledger().getJob(c.req.valid("param").id)));
  addRoute(app, listJobEventsRoute, async (c) =>
    respond(c, await c.var.ledger().listJobEvents(c.req.valid("param").id, c.req.valid("query"))),
  );
  addRoute(app, listCheckpointsRoute, async (c) =>
    respond(c, await c.var.ledger().listCheckpoints(c.req.valid("param").id, c.req.valid("query"))),
  );
  for (const command of ["cancel", "pause", "resume"] as const) {
    addRoute(app, commandRoute(command), async (c) => {
      const { id } = c.req.valid("param");
      return respond(c, await c.var.ledger().commandJob(c.var.idempotencyClaim, id, command));
    });
  }
}

async function createFineTuningJob(c: RouteContext<typeof createJobRoute>): Promise<Response> {
  const request = tenantRequest(c);
  const params = c.req.valid("json");
  const { training_file: trainingFile, dataset_revision: datasetRevision, model } = params;
  const source = { trainingFile, datasetRevision, model, param: "model" } as const;
  const spec = await resolveJobSpec(request, source, toJobParams(params));
  if (!spec.ok) return respondError(c, spec.failure);
  if (params.test_dataset !== undefined) {
    const testSet = await c.var.ledger().checkTestDataset(params.test_dataset, spec.value);
    if (!testSet.ok) return respondError(c, testSet.failure);
  }
  return respond(c, await createJob(request, spec.value, { claim: c.var.idempotencyClaim, status: 200 }));
}

/** The hyperparameters of OpenAI's current place, or else of its former one. */
function toJobParams(params: FineTuningJobParams): JobParams {
  const { n_epochs, batch_size, learning_rate_multiplier } =
    params.method?.supervised?.hyperparameters ?? params.hyperparameters ?? defaultHyperparameters;
  const { seed: _seed, ...training } = defaultHeadHyperparameters;
  return {
    validation_file: params.validation_file ?? null,
    head: params.head ?? null,
    promote: params.promote,
    trainable: params.trainable ?? null,
    suffix: params.suffix ?? null,
    metadata: params.metadata ?? null,
    seed: params.seed ?? 0,
    hyperparameters: { n_epochs, batch_size, learning_rate_multiplier },
    training,
    evaluation: { method: "auto" },
    test_dataset: params.test_dataset ?? null,
  };
}
