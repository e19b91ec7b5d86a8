/** Revisions of a dataset, and what differs between two of them. */
import { z } from "@hono/zod-openapi";
import { example } from "./examples.ts";
import { listOf, pageQuery } from "./lists.ts";
import { type DeepReadonly, revisionNumber, unixSeconds } from "./schema.ts";

export const revision = z
  .object({
    object: z.literal("dataset.revision"),
    id: z.string(),
    revision: z.number().int(),
    examples: z
      .number()
      .int()
      .openapi({ description: "when the revision was made; examples that were deleted since are in none any more" }),
    pinned: z
      .boolean()
      .openapi({ description: "a version of a head or a job names it, so it is kept longer than 30 days" }),
    created_at: unixSeconds,
  })
  .openapi("DatasetRevision");
export type Revision = DeepReadonly<z.output<typeof revision>>;

const differenceType = z.enum(["added", "removed", "changed"]);

export const diffQuery = pageQuery.extend({
  from: revisionNumber.openapi({ description: "the revision that is compared with" }),
  to: revisionNumber.openapi({ description: "the revision that is compared" }),
  type: differenceType.optional().openapi({ description: "shows differences of this type alone; all are counted" }),
});
export type DiffRequest = DeepReadonly<z.output<typeof diffQuery>>;
export type DiffQuery = DeepReadonly<Partial<DiffRequest> & Pick<DiffRequest, "from" | "to">>;

const difference = z.object({
  object: z.literal("dataset.difference"),
  id: z.string().openapi({ description: "of the example" }),
  type: differenceType,
  example: example.nullable(),
  previous: example.nullable(),
});
export type Difference = DeepReadonly<z.output<typeof difference>>;

export const datasetDiff = listOf(difference)
  .extend({
    object: z.literal("dataset.diff"),
    dataset: z.string(),
    from: z.number().int().openapi({ description: "the revision that is compared with" }),
    to: z.number().int().openapi({ description: "the revision that is compared" }),
    added: z.number().int().openapi({ description: "examples that 'to' has and 'from' has not" }),
    removed: z.number().int().openapi({ description: "examples that 'from' has and 'to' has not" }),
    changed: z.number().int().openapi({ description: "examples that both have, with another content" }),
  })
  .openapi("DatasetDiff", { description: "Oldest first; 'after' takes the 'last_id' of the page before." });
export type DatasetDiff = DeepReadonly<z.output<typeof datasetDiff>>;
