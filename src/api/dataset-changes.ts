/** Changes of many examples of a dataset at once, and what they answer. */
import { z } from "@hono/zod-openapi";
import { limits } from "../core/limits.ts";
import { dataset } from "./datasets.ts";
import { exampleId, searchText, storedLabel } from "./examples.ts";
import { versionsWithVectors } from "./lists.ts";
import { type DeepReadonly, label, requestTime, withLimit } from "./schema.ts";

export const labelRename = z.strictObject({ label: storedLabel, to: label }).openapi("LabelRename");
export type LabelRename = DeepReadonly<z.input<typeof labelRename>>;

export const labelDeletion = z.strictObject({ label: storedLabel }).openapi("LabelDeletion");

export const exampleDeletion = z
  .strictObject({
    ids: withLimit(z.array(exampleId).min(1), limits.ids_per_deletion, "ids").optional(),
    label: storedLabel.optional(),
    contains: searchText.optional().openapi({ description: "a part of the text, taken literally" }),
    before: requestTime.optional().openapi({ description: "Unix seconds; examples that were added earlier" }),
    dry_run: z.boolean().default(false).openapi({ description: "deletes nothing and answers what would be deleted" }),
  })
  .openapi("ExampleDeletion", { description: "exactly one of ids, label, contains and before" });
export type ExampleDeletion = DeepReadonly<z.input<typeof exampleDeletion>>;

export const datasetChange = z
  .object({
    object: z.literal("dataset.change"),
    id: z.string().openapi({ description: "the dataset's name" }),
    updated: z.number().int().openapi({ description: "examples that have another label" }),
    deleted: z.number().int().openapi({ description: "examples that are gone" }),
    versions_with_vectors: versionsWithVectors.optional(),
    dry_run: z.literal(true).optional().openapi({ description: "nothing was changed" }),
    dataset,
  })
  .openapi("DatasetChange");
export type DatasetChange = DeepReadonly<z.output<typeof datasetChange>>;
