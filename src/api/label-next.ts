/** Which inputs of a pool to label next. */
import { z } from "@hono/zod-openapi";
import { limits } from "../core/limits.ts";
import { input } from "./examples.ts";
import { type DeepReadonly, withLimit } from "./schema.ts";

const DEFAULT_COUNT = 20;

export const labelNextRequest = z
  .strictObject({
    inputs: withLimit(z.array(input).min(1), limits.inputs_per_request, "inputs").openapi({
      description: `the pool: inputs without labels; all texts together have at most ${limits.characters_per_request} characters`,
    }),
    count: withLimit(z.number().int().min(1), limits.inputs_to_label, "inputs").default(DEFAULT_COUNT).openapi({
      description: "how many to choose; all where there are fewer different ones",
    }),
  })
  .openapi("LabelNextRequest");
export type LabelNextRequest = DeepReadonly<z.input<typeof labelNextRequest>>;

export const inputsToLabel = z
  .object({
    object: z.literal("list"),
    model: z.string().openapi({ description: "the head and the version whose probabilities were used" }),
    data: z.array(
      z.object({
        index: z.number().int(),
        input: input.openapi({ description: "the input as it was sent" }),
        score: z.number().openapi({
          description:
            "the share of the pool's uncertainty that this input stands for, and none above it does, less where it is out of scope; it falls down the list",
        }),
        reason: z.string().openapi({ description: "why it was chosen, in words; the wording may change" }),
      }),
    ),
  })
  .openapi("InputsToLabel");
export type InputsToLabel = DeepReadonly<z.output<typeof inputsToLabel>>;
