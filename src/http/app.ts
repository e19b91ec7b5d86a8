import { OpenAPIHono, type z } from "@hono/zod-openapi";
import { getPath, getPathNoStrict } from "hono/utils/url";
import { schemaFailure } from "../api/validation.ts";
import type { App, HttpEnv } from "./context.ts";
import { cors } from "./middleware/cors.ts";
import { handleError, handleNotFound, respondError } from "./middleware/errors.ts";
import { requestLogger } from "./middleware/request-logger.ts";
import { securityHeaders } from "./middleware/security-headers.ts";
import { apiKeyRoutes } from "./routes/api-keys.ts";
import { batchRoutes } from "./routes/batch.ts";
import { captureRoutes } from "./routes/capture.ts";
import { datasetChangeRoutes } from "./routes/dataset-changes.ts";
import { datasetExportRoutes } from "./routes/dataset-export.ts";
import { datasetRoutes } from "./routes/datasets.ts";
import { documentationRoutes } from "./routes/docs.ts";
import { embeddingAheadRoutes } from "./routes/embedding-ahead.ts";
import { embeddingRoutes } from "./routes/embeddings.ts";
import { errorPageRoutes } from "./routes/error-pages.ts";
import { evaluationRoutes } from "./routes/evaluations.ts";
import { exampleRoutes } from "./routes/examples.ts";
import { feedbackRoutes } from "./routes/feedback.ts";
import { fileRoutes } from "./routes/files.ts";
import { headReportRoutes } from "./routes/head-report.ts";
import { headRoutes } from "./routes/heads.ts";
import { healthRoutes } from "./routes/health.ts";
import { inboundHookRoutes } from "./routes/inbound-hooks.ts";
import { inboundMessageRoutes } from "./routes/inbound-messages.ts";
import { issueRoutes } from "./routes/issues.ts";
import { jobRoutes } from "./routes/jobs.ts";
import { labelNextRoutes } from "./routes/label-next.ts";
import { limitRoutes } from "./routes/limits.ts";
import { modelRoutes } from "./routes/models.ts";
import { predictionRoutes } from "./routes/predictions.ts";
import { recommendationRoutes } from "./routes/recommendations.ts";
import { retrainingRoutes } from "./routes/retraining.ts";
import { revisionRoutes } from "./routes/revisions.ts";
import { tenantRoutes } from "./routes/tenants.ts";
import { trafficRoutes } from "./routes/traffic.ts";
import { versionTestRoutes } from "./routes/version-tests.ts";
import { webhookDeliveryRoutes } from "./routes/webhook-deliveries.ts";
import { webhookEndpointRoutes } from "./routes/webhook-endpoints.ts";

const READING_METHODS: ReadonlySet<string> = new Set(["GET", "HEAD"]);

/** The whole HTTP interface. Its OpenAPI document lists the routes in this order. */
export function createApp(): App {
  const app: App = new OpenAPIHono<HttpEnv>({
    // A slash at the end is a slip where a request only reads. Where it changes something, it may be an id that is empty.
    getPath: (request) => (READING_METHODS.has(request.method) ? getPathNoStrict(request) : getPath(request)),
    // `data` is the value that was checked; hono's type lacks it.
    defaultHook: (result: { success: true } | { success: false; error: z.ZodError; data?: unknown }, c) =>
      result.success ? undefined : respondError(c, schemaFailure(result.error, result.data)),
  });
  app.use(requestLogger);
  app.use(securityHeaders);
  app.use(cors);
  tenantRoutes(app);
  apiKeyRoutes(app);
  datasetRoutes(app);
  exampleRoutes(app);
  datasetChangeRoutes(app);
  datasetExportRoutes(app);
  revisionRoutes(app);
  fileRoutes(app);
  modelRoutes(app);
  embeddingRoutes(app);
  headRoutes(app);
  headReportRoutes(app);
  predictionRoutes(app);
  evaluationRoutes(app);
  issueRoutes(app);
  feedbackRoutes(app);
  trafficRoutes(app);
  labelNextRoutes(app);
  captureRoutes(app);
  recommendationRoutes(app);
  retrainingRoutes(app);
  embeddingAheadRoutes(app);
  versionTestRoutes(app);
  inboundHookRoutes(app);
  inboundMessageRoutes(app);
  jobRoutes(app);
  webhookEndpointRoutes(app);
  webhookDeliveryRoutes(app);
  batchRoutes(app);
  limitRoutes(app);
  healthRoutes(app);
  documentationRoutes(app);
  errorPageRoutes(app);
  app.notFound(handleNotFound(app));
  app.onError(handleError);
  return app;
}
