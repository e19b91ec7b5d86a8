/** Heads that learn: feedback on their predictions, and the policy by which they train again. */
import { z } from "@hono/zod-openapi";
import { defaultPolicy } from "../core/lifecycle/policy.ts";
import { limits } from "../core/limits.ts";
import { labelledExample, rowError } from "./examples.ts";
import { type DeepReadonly, name, withLimit } from "./schema.ts";

export const newHeadPolicy = z
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
    test_dataset: name.nullable().default(null).openapi({
      description:
        "a dataset on which new versions are tested beside the active one. 'if_not_worse' then promotes a version only if the chance that it is worse there by more than 0.005 is at most one half",
    }),
  })
  .openapi("NewHeadPolicy");
export type NewHeadPolicy = DeepReadonly<z.input<typeof newHeadPolicy>>;

export const headPolicy = z
  .object({
    object: z.literal("head.policy"),
    id: z.string(),
    retrain_after_examples: z.number().int().nullable(),
    retrain_on_drift: z.boolean(),
    promote: z.enum(["if_not_worse", "always", "never"]),
    test_dataset: z.string().nullable().openapi({ description: "on which new versions are tested; null for none" }),
    new_examples: z.number().int().openapi({ description: "new or changed since the newest version was trained" }),
    retraining: z.boolean(),
    recent: z
      .object({ judged: z.number().int(), hits: z.number().int() })
      .openapi({ description: "of the last examples learnt, how many the active version had predicted right" }),
    drifting: z.boolean(),
    last_failure: z.object({ code: z.string(), message: z.string() }).nullable(),
  })
  .openapi("HeadPolicy");
export type HeadPolicy = DeepReadonly<z.output<typeof headPolicy>>;

export const headFeedback = z
  .object({
    object: z.literal("head.feedback"),
    id: z.string(),
    head: z.string(),
    version: z.number().int(),
    added: z.number().int(),
    updated: z.number().int(),
    unchanged: z.number().int(),
    rejected: z.number().int(),
    /** The first hundred; `line` is an example's place in the request. */
    errors: z.array(rowError),
    judged: z.number().int().openapi({ description: "examples whose input the dataset did not have" }),
    hits: z.number().int().openapi({ description: "of those judged, how many the version predicted right" }),
    policy: headPolicy,
  })
  .openapi("HeadFeedback");
export type HeadFeedback = DeepReadonly<z.output<typeof headFeedback>>;

/** Each example is checked by itself, as a row of an import is. */
const examples = withLimit(z.array(z.unknown()).min(1), limits.examples_per_feedback, "examples").openapi({
  description: "labelled examples of the head's task",
});
export const newHeadFeedback = z.strictObject({ examples }).openapi("NewHeadFeedback", {
  example: { examples: [labelledExample.parse({ text: "I was charged twice", label: "billing" })] },
});
