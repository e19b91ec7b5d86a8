/** Heads that learn: feedback on what they predicted, and the policy by which they train again by themselves. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import {
  errorResponses,
  jsonBody,
  jsonResponse,
  labelledExample,
  name,
  tenantSecurity,
  withLimit,
} from "../../api/schema.ts";
import { errorCodes } from "../../core/failure.ts";
import { defaultPolicy } from "../../core/lifecycle/policy.ts";
import { limits } from "../../core/limits.ts";
import { parseExample } from "../../ingest/example.ts";
import { MAX_ERRORS_SHOWN } from "../../ingest/rows.ts";
import { getPredictionOutcomes } from "../../serving/prediction-outcomes.ts";
import type { StoredExample } from "../../tenant/data/examples.ts";
import type { RejectedExamples } from "../../tenant/heads/feedback.ts";
import { getLedger } from "../../tenant/tenant.ts";
import { type App, addRoute, type HttpEnv } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";

const newPolicy = z
  .strictObject({
    retrain_after_examples: z
      .number()
      .int()
      .min(1)
      .max(limits.examples_per_dataset)
      .nullable()
      .default(defaultPolicy.retrain_after_examples),
    retrain_on_drift: z.boolean().default(defaultPolicy.retrain_on_drift),
    promote: z.enum(["if_not_worse", "always", "never"]).default(defaultPolicy.promote),
  })
  .openapi("NewHeadPolicy");

const policy = z
  .object({
    object: z.literal("head.policy"),
    id: z.string(),
    retrain_after_examples: z.number().int().nullable(),
    retrain_on_drift: z.boolean(),
    promote: z.enum(["if_not_worse", "always", "never"]),
    new_examples: z.number().int().openapi({ description: "new or changed since the newest version was trained" }),
    retraining: z.boolean(),
    recent: z
      .object({ judged: z.number().int(), hits: z.number().int() })
      .openapi({ description: "of the last examples learnt, how many the active version had predicted right" }),
    drifting: z.boolean(),
    last_failure: z.object({ code: z.string(), message: z.string() }).nullable(),
  })
  .openapi("HeadPolicy");

const feedback = z
  .object({
    object: z.literal("head.feedback"),
    id: z.string(),
    head: z.string(),
    version: z.number().int(),
    added: z.number().int(),
    updated: z.number().int(),
    unchanged: z.number().int(),
    rejected: z.number().int(),
    errors: z.array(z.object({ line: z.number().int(), code: z.enum(errorCodes), message: z.string() })),
    judged: z.number().int().openapi({ description: "examples whose input the data set did not have" }),
    hits: z.number().int().openapi({ description: "of those judged, how many the version predicted right" }),
    policy,
  })
  .openapi("HeadFeedback");

/** Each is checked by itself, as a row of an import is. */
const examples = withLimit(z.array(z.unknown()).min(1), limits.examples_per_feedback, "examples").openapi({
  description: "labelled examples of the head's task",
});
const newFeedback = z.strictObject({ examples }).openapi("NewHeadFeedback", {
  example: { examples: [labelledExample.parse({ text: "I was charged twice", label: "billing" })] },
});

const common = { tags: ["Heads"], security: tenantSecurity };
const params = z.object({ name });

export function feedbackRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/heads/{name}/feedback",
      summary: "Teach a head: labelled examples into the data set of its active version",
      middleware: [tenantAuth("train"), idempotency("tenant")] as const,
      request: { params, body: jsonBody(newFeedback) },
      responses: {
        200: jsonResponse(feedback, "What became of them, and how the active version had done on them"),
        ...errorResponses,
      },
    }),
    async (c) => addFeedback(c, c.req.valid("param").name, c.req.valid("json").examples),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}/policy",
      summary: "Get the policy by which a head trains again, and how it does",
      middleware: [tenantAuth("predict")] as const,
      request: { params },
      responses: { 200: jsonResponse(policy, "The policy"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getPolicy(c.req.valid("param").name)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "put",
      path: "/v1/heads/{name}/policy",
      summary: "Set the policy by which a head trains again",
      middleware: [tenantAuth("train")] as const,
      request: { params, body: jsonBody(newPolicy) },
      responses: {
        200: jsonResponse(policy, "The policy; a training that it asks for already follows"),
        ...errorResponses,
      },
    }),
    async (c) => {
      const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
      return respond(c, await tenantLedger.setPolicy(c.req.valid("param").name, c.req.valid("json")));
    },
  );
}

async function addFeedback(c: Context<HttpEnv>, head: string, rawExamples: readonly unknown[]): Promise<Response> {
  const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
  const feedbackTarget = await tenantLedger.getFeedbackTarget(head);
  if (!feedbackTarget.ok) return respondError(c, feedbackTarget.failure);
  const { dataset, version } = feedbackTarget.value;
  const validExamples: StoredExample[] = [];
  const rowErrors: RejectedExamples["errors"][number][] = [];
  for (const [index, example] of rawExamples.entries()) {
    const parsed = parseExample(example, dataset, `examples[${index}]`);
    if (parsed.ok) validExamples.push(parsed.value);
    else rowErrors.push({ line: index + 1, code: parsed.failure.code, message: parsed.failure.message });
  }
  const outcomes = await getPredictionOutcomes(c, head, version, validExamples, dataset.out_of_scope_label);
  const examplesWithOutcomes = validExamples.map((example, i) => ({
    example,
    outcomes: [outcomes[i] ?? null].filter((outcome) => outcome !== null),
  }));
  const rejections = { rejected: rowErrors.length, errors: rowErrors.slice(0, MAX_ERRORS_SHOWN) };
  c.set("logFields", { examples: validExamples.length, rejected: rowErrors.length });
  return respond(
    c,
    await tenantLedger.recordFeedback(c.var.idempotencyClaim, head, dataset, version, examplesWithOutcomes, rejections),
  );
}
