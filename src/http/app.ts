import { OpenAPIHono, type z } from "@hono/zod-openapi";
import { HTTPException } from "hono/http-exception";
import { schemaFailure } from "../api/validation.ts";
import type { App, HttpEnv } from "./context.ts";
import { notJsonFailure } from "./middleware/body.ts";
import { respondError } from "./middleware/errors.ts";
import { requestLogger } from "./middleware/request-logger.ts";
import { adminRoutes } from "./routes/admin.ts";
import { apiKeyRoutes } from "./routes/api-keys.ts";
import { batchRoutes } from "./routes/batch.ts";
import { datasetRoutes } from "./routes/datasets.ts";
import { documentationRoutes } from "./routes/docs.ts";
import { embeddingRoutes } from "./routes/embeddings.ts";
import { exampleRoutes } from "./routes/examples.ts";
import { feedbackRoutes } from "./routes/feedback.ts";
import { fileRoutes } from "./routes/files.ts";
import { headRoutes } from "./routes/heads.ts";
import { healthRoutes } from "./routes/health.ts";
import { inboundRoutes } from "./routes/inbound.ts";
import { inboundHookRoutes } from "./routes/inbound-hooks.ts";
import { jobRoutes } from "./routes/jobs.ts";
import { limitRoutes } from "./routes/limits.ts";
import { modelRoutes } from "./routes/models.ts";
import { predictRoutes } from "./routes/predict.ts";
import { retrainingRoutes } from "./routes/retraining.ts";
import { deliveryRoutes } from "./routes/webhook-deliveries.ts";
import { endpointRoutes } from "./routes/webhook-endpoints.ts";

/** The whole HTTP interface. */
export function createApp(): App {
  const app: App = new OpenAPIHono<HttpEnv>({
    // What was given is there beside the error, which the type does not say.
    defaultHook: (result: { success: true } | { success: false; error: z.ZodError; data?: unknown }, c) =>
      result.success ? undefined : respondError(c, schemaFailure(result.error, result.data)),
  });
  app.use(requestLogger);
  adminRoutes(app);
  apiKeyRoutes(app);
  datasetRoutes(app);
  exampleRoutes(app);
  fileRoutes(app);
  modelRoutes(app);
  embeddingRoutes(app);
  headRoutes(app);
  predictRoutes(app);
  feedbackRoutes(app);
  retrainingRoutes(app);
  inboundHookRoutes(app);
  inboundRoutes(app);
  jobRoutes(app);
  endpointRoutes(app);
  deliveryRoutes(app);
  batchRoutes(app);
  limitRoutes(app);
  healthRoutes(app);
  documentationRoutes(app);

  app.notFound((c) =>
    respondError(c, {
      code: "not_found",
      message: `There is nothing at ${c.req.method} ${c.req.path}. All routes are in /openapi.json and at /docs.`,
    }),
  );
  app.onError((error, c) => {
    if (error instanceof HTTPException && error.status === 400) {
      return respondError(c, {
        code: "invalid_json",
        message: "The body is not valid JSON. Check quotes, commas and brackets.",
      });
    }
    if (error instanceof HTTPException && error.status === 415) {
      return respondError(c, notJsonFailure(c.req.header("content-type") ?? ""));
    }
    // What the platform throws where a ledger is overloaded, or out of reach for a moment.
    const { overloaded, retryable } = error as { overloaded?: boolean; retryable?: boolean };
    const isConnectionLost = /network connection lost/i.test(String(error));
    if (overloaded || retryable || isConnectionLost) {
      return respondError(c, {
        code: overloaded ? "capacity_exceeded" : "storage_unavailable",
        message: "The storage behind this request did not answer. Try again in a few seconds.",
        retryAfter: 5,
      });
    }
    console.error(
      JSON.stringify({ request_id: c.var.requestId, event: "unexpected_error", error: error.stack ?? String(error) }),
    );
    return respondError(c, {
      code: "internal_error",
      message: "Something went wrong on our side. Try again; if it lasts, tell us the request id.",
      retryAfter: 5,
    });
  });
  return app;
}
