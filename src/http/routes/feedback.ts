/** Heads that learn: feedback on what they predicted, and the policy by which they train again by themselves. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { codes } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { defaultPolicy } from "../../core/lifecycle/policy.ts";
import type { StoredExample } from "../../tenant/data/examples.ts";
import type { Rejected } from "../../tenant/heads/learning.ts";
import { ledger } from "../../tenant/tenant.ts";
import { tenantKey } from "../middleware/auth.ts";
import { type App, type HttpEnv, route } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import { parseExample } from "../../ingest/example.ts";
import { hitsOf } from "../../serving/outcomes.ts";
import { idempotent } from "../middleware/idempotency.ts";
import { ERRORS_SHOWN } from "../../ingest/rows.ts";
import { body, errors, json, labelledExample, limited, name, tenantSecurity } from "../../api/schema.ts";

const wantedPolicy = z
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
    errors: z.array(z.object({ line: z.number().int(), code: z.enum(codes), message: z.string() })),
    judged: z.number().int().openapi({ description: "examples whose input the data set did not have" }),
    hits: z.number().int().openapi({ description: "of those judged, how many the version predicted right" }),
    policy,
  })
  .openapi("HeadFeedback");

/** Each is checked by itself, as a row of an import is. */
const examples = limited(z.array(z.unknown()).min(1), limits.examples_per_feedback, "examples").openapi({
  description: "labelled examples of the head's task",
});
const newFeedback = z.strictObject({ examples }).openapi("NewHeadFeedback", {
  example: { examples: [labelledExample.parse({ text: "I was charged twice", label: "billing" })] },
});

const common = { tags: ["Heads"], security: tenantSecurity };
const params = z.object({ name });

export function feedbackRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/heads/{name}/feedback",
      summary: "Teach a head: labelled examples into the data set of its active version",
      middleware: [tenantKey("train"), idempotent("tenant")] as const,
      request: { params, body: body(newFeedback) },
      responses: { 200: json(feedback, "What became of them, and how the active version had done on them"), ...errors },
    }),
    async (c) => giveFeedback(c, c.req.valid("param").name, c.req.valid("json").examples),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/heads/{name}/policy",
      summary: "Get the policy by which a head trains again, and how it does",
      middleware: [tenantKey("predict")] as const,
      request: { params },
      responses: { 200: json(policy, "The policy"), ...errors },
    }),
    async (c) => answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).getPolicy(c.req.valid("param").name)),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "put",
      path: "/v1/heads/{name}/policy",
      summary: "Set the policy by which a head trains again",
      middleware: [tenantKey("train")] as const,
      request: { params, body: body(wantedPolicy) },
      responses: { 200: json(policy, "The policy; a training that it asks for already follows"), ...errors },
    }),
    async (c) => {
      const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
      return answer(c, await tenant.setPolicy(c.req.valid("param").name, c.req.valid("json")));
    },
  );
}

async function giveFeedback(c: Context<HttpEnv>, head: string, given: readonly unknown[]): Promise<Response> {
  const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
  const open = await tenant.openFeedback(head);
  if (!open.ok) return failed(c, open.failure);
  const { dataset, version } = open.value;
  const good: StoredExample[] = [];
  const errors: Rejected["errors"][number][] = [];
  for (const [index, example] of given.entries()) {
    const parsed = parseExample(example, dataset, `examples[${index}]`);
    if (parsed.ok) good.push(parsed.value);
    else errors.push({ line: index + 1, code: parsed.failure.code, message: parsed.failure.message });
  }
  const hits = await hitsOf(c, head, version, good, dataset.out_of_scope_label);
  const learning = good.map((example, i) => ({ example, hits: [hits[i] ?? null].filter((hit) => hit !== null) }));
  const rejected = { rejected: errors.length, errors: errors.slice(0, ERRORS_SHOWN) };
  c.set("figures", { examples: good.length, rejected: errors.length });
  return answer(c, await tenant.giveFeedback(c.var.claim, head, dataset, version, learning, rejected));
}
