import { OpenAPIHono, type z } from "@hono/zod-openapi";
import { HTTPException } from "hono/http-exception";
import { adminRoutes } from "./admin.ts";
import { apiKeyRoutes } from "./api-keys.ts";
import { batchRoutes } from "./batch.ts";
import { notJson } from "./body.ts";
import type { App, HttpEnv } from "./context.ts";
import { datasetRoutes } from "./datasets.ts";
import { documentationRoutes } from "./docs.ts";
import { embeddingRoutes } from "./embeddings.ts";
import { failed, schemaFailure } from "./errors.ts";
import { exampleRoutes } from "./examples.ts";
import { feedbackRoutes } from "./feedback.ts";
import { fileRoutes } from "./files.ts";
import { headRoutes } from "./heads.ts";
import { healthRoutes } from "./health.ts";
import { inboundRoutes } from "./inbound.ts";
import { inboundHookRoutes } from "./inbound-hooks.ts";
import { jobRoutes } from "./jobs.ts";
import { limitRoutes } from "./limits.ts";
import { modelRoutes } from "./models.ts";
import { predictRoutes } from "./predict.ts";
import { request } from "./request.ts";
import { retrainingRoutes } from "./retraining.ts";
import { deliveryRoutes } from "./webhook-deliveries.ts";
import { endpointRoutes } from "./webhook-endpoints.ts";

/** The whole HTTP interface. */
export function createApp(): App {
  const app: App = new OpenAPIHono<HttpEnv>({
    // What was given is there beside the error, which the type does not say.
    defaultHook: (result: { success: true } | { success: false; error: z.ZodError; data?: unknown }, c) =>
      result.success ? undefined : failed(c, schemaFailure(result.error, result.data)),
  });
  app.use(request);
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
    failed(c, {
      code: "not_found",
      message: `There is nothing at ${c.req.method} ${c.req.path}. All routes are in /openapi.json and at /docs.`,
    }),
  );
  app.onError((error, c) => {
    if (error instanceof HTTPException && error.status === 400) {
      return failed(c, {
        code: "invalid_json",
        message: "The body is not valid JSON. Check quotes, commas and brackets.",
      });
    }
    if (error instanceof HTTPException && error.status === 415) {
      return failed(c, notJson(c.req.header("content-type") ?? ""));
    }
    // What the platform throws where a ledger is overloaded, or out of reach for a moment.
    const { overloaded, retryable } = error as { overloaded?: boolean; retryable?: boolean };
    const lost = /network connection lost/i.test(String(error));
    if (overloaded || retryable || lost) {
      return failed(c, {
        code: overloaded ? "capacity_exceeded" : "storage_unavailable",
        message: "The storage behind this request did not answer. Try again in a few seconds.",
        retryAfter: 5,
      });
    }
    console.error(
      JSON.stringify({ request_id: c.var.requestId, event: "unexpected_error", error: error.stack ?? String(error) }),
    );
    return failed(c, {
      code: "internal_error",
      message: "Something went wrong on our side. Try again; if it lasts, tell us the request id.",
      retryAfter: 5,
    });
  });
  return app;
}
