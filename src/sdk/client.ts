/**
 * A typed client of the HTTP API. It needs fetch alone, so it runs in Node, in browsers and in Workers.
 *
 * @example
 *   const graft = createClient({ baseUrl: "http://127.0.0.1:8787", key: "gk_acme_…" });
 *   await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
 *   await graft.datasets.import("tickets", csv, "text/csv");
 *   const head = await graft.heads.train({ name: "support", dataset: "tickets", method: "head" });
 *   const { data } = await graft.heads.predict("support", { input: "I want my money back" });
 */
import { datasetCalls } from "./datasets.ts";
import { evaluationCalls } from "./evaluations.ts";
import { headCalls } from "./heads.ts";
import { fileCalls, jobCalls } from "./jobs.ts";
import { embeddingCalls, modelCalls } from "./models.ts";
import { recommendationCalls } from "./recommendations.ts";
import { tenantCalls } from "./tenants.ts";
import { type ClientOptions, createTransport, trimSlashes } from "./transport.ts";
import { inboundHookCalls, webhookDeliveryCalls, webhookEndpointCalls } from "./webhooks.ts";

export type { ApiKey, ApiKeyWithSecret } from "../api/api-keys.ts";
export type { Dataset, NewDataset } from "../api/datasets.ts";
export type { Embeddings } from "../api/embeddings.ts";
export type { EvaluationError, EvaluationRun, NewEvaluationRun } from "../api/evaluations.ts";
export type { Example, Input, LabelledExample } from "../api/examples.ts";
export type { HeadFeedback, HeadPolicy, NewHeadPolicy } from "../api/feedback.ts";
export type { File } from "../api/files.ts";
export type { Evaluation, Head, HeadExport, NewHead } from "../api/heads.ts";
export type { DatasetImport, ImportQuery, ImportType } from "../api/imports.ts";
export type { InboundHook, NewInboundHook } from "../api/inbound-hooks.ts";
export type { FineTuningJob, FineTuningJobEvent, NewFineTuningJob } from "../api/jobs.ts";
export type { List } from "../api/lists.ts";
export type { Model } from "../api/models.ts";
export type { Prediction, Predictions, PredictRequest } from "../api/predictions.ts";
export type { NewRecommendation, Recommendation } from "../api/recommendations.ts";
export type { Tenant } from "../api/tenants.ts";
export type {
  NewWebhookEndpoint,
  WebhookDelivery,
  WebhookDeliveryWithAttempts,
  WebhookEndpoint,
} from "../api/webhooks.ts";
export { GraftError } from "./errors.ts";
export type { ClientOptions, RequestOptions } from "./transport.ts";

export type Client = ReturnType<typeof createClient>;

/**
 * A client for one key. Every call resolves to the API's response, or throws a `GraftError`. Where no response came,
 * it throws fetch's own error.
 */
export function createClient(options: ClientOptions) {
  const transport = createTransport(options);
  const send = options.fetch ?? fetch;
  return {
    /** Whether the server is ready: its tensor backend, storage and default backbone answer. */
    async ready(): Promise<boolean> {
      const response = await send(`${trimSlashes(options.baseUrl)}/health/ready`).catch(() => null);
      await response?.body?.cancel();
      return response?.ok ?? false;
    },
    tenants: tenantCalls(transport),
    datasets: datasetCalls(transport),
    models: modelCalls(transport),
    embeddings: embeddingCalls(transport),
    heads: headCalls(transport),
    evaluations: evaluationCalls(transport),
    recommendations: recommendationCalls(transport),
    inboundHooks: inboundHookCalls(transport),
    files: fileCalls(transport),
    jobs: jobCalls(transport),
    webhookEndpoints: webhookEndpointCalls(transport),
    webhookDeliveries: webhookDeliveryCalls(transport),
  };
}
