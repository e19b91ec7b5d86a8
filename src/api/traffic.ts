/** Which versions of a head answer, which shadow them, and what is counted of each. */
import { z } from "@hono/zod-openapi";
import { shiftFigures } from "../core/evaluation/input-shift.ts";
import { limits } from "../core/limits.ts";
import { type DeepReadonly, interval, unixSeconds, withLimit } from "./schema.ts";

const version = z.number().int().positive();
const share = z.strictObject({
  version,
  share: z.number().gt(0, "a share is above 0 and at most 1").max(1, "a share is above 0 and at most 1"),
});
/** Decimal shares add up to 1 only nearly. */
const MAX_ROUNDING = 1e-6;

export const newHeadTraffic = z
  .strictObject({
    versions: withLimit(z.array(share), limits.traffic_versions, "versions").default([]).openapi({
      description: "the versions that answer, and their shares of the inputs; empty: the active one answers all",
    }),
    shadow: withLimit(z.array(version), limits.shadow_versions, "versions").default([]).openapi({
      description: "versions that predict the same inputs after the answer; they are counted, and not shown",
    }),
  })
  .superRefine(({ versions, shadow }, context) => {
    const total = versions.reduce((sum, each) => sum + each.share, 0);
    if (versions.length > 0 && Math.abs(total - 1) > MAX_ROUNDING)
      context.addIssue({
        code: "custom",
        path: ["versions"],
        message: `the shares add up to ${Number(total.toFixed(6))}, and not to 1`,
      });
    for (const [path, list] of [
      ["versions", versions.map((each) => each.version)],
      ["shadow", shadow],
    ] as const)
      if (new Set(list).size < list.length)
        context.addIssue({ code: "custom", path: [path], message: "a version is named twice" });
  })
  .openapi("NewHeadTraffic");
export type NewHeadTrafficRequest = DeepReadonly<z.input<typeof newHeadTraffic>>;
export type NewHeadTraffic = DeepReadonly<z.output<typeof newHeadTraffic>>;

export const headTraffic = z
  .object({
    object: z.literal("head.traffic"),
    id: z.string(),
    active_version: z.number().int().nullable(),
    versions: z.array(
      z.object({ version: z.number().int(), share: z.number().openapi({ description: "of the inputs" }) }),
    ),
    shadow: z.array(z.number().int()),
    waiting_version: z.number().int().nullable().openapi({
      description: "a version that a training, a job or a policy would have made the active one, were there no shares",
    }),
    updated_at: unixSeconds.nullable().openapi({ description: "when it was set; null: it is not" }),
  })
  .openapi("HeadTraffic");
export type HeadTraffic = DeepReadonly<z.output<typeof headTraffic>>;

const shiftFigure = z.object({
  figure: z.enum(shiftFigures),
  psi: z.number().openapi({ description: "population stability index" }),
  p_value: z.number().openapi({ description: "of a chi-square test of both being drawn from one source" }),
  before: z.number().nullable().openapi({
    description:
      "of the held-out inputs: the mean of a score, or the share of inputs with unknown words; null for labels",
  }),
  after: z.number().nullable().openapi({ description: "the same of live inputs" }),
  labels: z
    .array(z.object({ label: z.string(), before: z.number(), after: z.number() }))
    .optional()
    .openapi({ description: "the labels whose shares have changed most" }),
});
export type ShiftFigureReport = DeepReadonly<z.output<typeof shiftFigure>>;

const versionTraffic = z.object({
  version: z.number().int(),
  share: z.number().openapi({ description: "of the inputs, that it answers now" }),
  shadow: z.boolean().openapi({ description: "whether it shadows the versions that answer" }),
  predictions: z.number().int().openapi({ description: "inputs that it has answered" }),
  shadow_predictions: z.number().int(),
  shed: z
    .number()
    .int()
    .openapi({ description: "inputs that it did not shadow, because there was too much else to do" }),
  mean_confidence: z.number().nullable().openapi({ description: "of its top probabilities; null for regression" }),
  confidence: z
    .array(z.number().int())
    .openapi({ description: "inputs by their top probability, in 20 bins from 0 to 1" }),
  scope: z
    .array(z.number().int())
    .nullable()
    .openapi({ description: "inputs by their scope score, in 20 bins from 0 to 1; null for a head without one" }),
  unknown_words: z.array(z.number().int()).nullable().openapi({
    description:
      "inputs by their share of unknown words: none, up to 0.1, 0.2, 0.3, 0.5, and more; null for a backbone without a vocabulary",
  }),
  labels: z
    .array(
      z.object({
        label: z.string(),
        inputs: z.number().int(),
        share: z.number().openapi({ description: "of the version's inputs" }),
      }),
    )
    .openapi({ description: "the most probable labels of its inputs, at most 100, the most frequent first" }),
  agreement: z
    .object({
      version: z.number().int(),
      inputs: z.number().int(),
      share: z.number().openapi({ description: "of these inputs, on which both agree" }),
      interval: interval.openapi({ description: "of the share, 95 %" }),
    })
    .nullable()
    .openapi({ description: "of a shadow version: how often it predicts what that version answered" }),
  feedback: z
    .object({
      judged: z.number().int(),
      hits: z.number().int(),
      accuracy: z.number(),
      accuracy_interval: interval,
    })
    .nullable()
    .openapi({ description: "on examples that came as feedback after it was trained, and whose inputs were new" }),
  shift: z.object({
    status: z.enum(["unknown", "waiting", "none", "detected"]).openapi({
      description: "unknown: too few inputs were held out at its training; waiting: too few have come yet",
    }),
    inputs: z.number().int().openapi({ description: "inputs since the last comparison" }),
    next_at: z.number().int().nullable().openapi({ description: "how many of them are compared next" }),
    since: unixSeconds.nullable(),
    figures: z.array(shiftFigure).openapi({ description: "the last comparison with what was held out" }),
    moved: z.array(z.enum(shiftFigures)),
  }),
});
export type VersionTraffic = DeepReadonly<z.output<typeof versionTraffic>>;

export const trafficReport = z
  .object({
    object: z.literal("head.traffic_report"),
    id: z.string(),
    active_version: z.number().int().nullable(),
    days: z.number().int().openapi({ description: "how far back it counts" }),
    versions: z.array(versionTraffic).openapi({ description: "newest first, at most 20" }),
  })
  .openapi("HeadTrafficReport");
export type TrafficReport = DeepReadonly<z.output<typeof trafficReport>>;
