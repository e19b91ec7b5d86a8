/** What is probably wrong with the examples of a dataset, and what a person has decided about it. */
import { z } from "@hono/zod-openapi";
import { issueTypes } from "../core/labels/issue.ts";
import { limits } from "../core/limits.ts";
import { datasetChange } from "./dataset-changes.ts";
import { example } from "./examples.ts";
import { pageQuery } from "./lists.ts";
import { type DeepReadonly, label, name, withLimit } from "./schema.ts";

export const issueType = z.enum(issueTypes);

export const issueQuery = pageQuery.extend({
  type: issueType.optional().openapi({ description: "issues of this type alone" }),
  head: name.optional().openapi({
    description:
      "the head on whose backbone the examples are judged; by default the one that was trained last on the dataset",
  }),
});
export type IssueQuery = Partial<DeepReadonly<z.output<typeof issueQuery>>>;
export type IssuePageRequest = DeepReadonly<Omit<z.output<typeof issueQuery>, "head">>;

export const datasetIssue = z
  .object({
    object: z.literal("dataset.issue"),
    id: z.string().openapi({
      description: "made of the type, the example's id and its content: the same each time the issues are found",
    }),
    type: issueType.openapi({
      description:
        "label_error: models of the other examples expect another label; conflict: the same input, apart from case and spacing, has another label too; near_duplicate: nearly the same input has another label; duplicate: the same input has the same label; outlier: the input is far from those of every label",
    }),
    example,
    suggested_label: z.string().nullable().openapi({
      description: "for one label an example; null if none is suggested",
    }),
    suggested_labels: z.array(z.string()).optional().openapi({ description: "for any number of labels" }),
    suggested_value: z.number().optional().openapi({ description: "for regression" }),
    score: z.number().min(0).max(1).openapi({ description: "how likely it is that something is to be changed" }),
    related_id: z.string().optional().openapi({ description: "the id of the example that this one is compared with" }),
    reason: z.string().openapi({ description: "why, in a sentence; the wording may change" }),
  })
  .openapi("DatasetIssue");
export type DatasetIssue = DeepReadonly<z.output<typeof datasetIssue>>;

const resolution = z.strictObject({
  id: z.string().min(1).max(100).openapi({ description: "the issue's" }),
  action: z.enum(["relabel", "dismiss", "delete"]).openapi({
    description:
      "relabel: gives the example the label that is named, or else the suggested one; dismiss: nothing is wrong, do not ask again; delete: deletes the example",
  }),
  label: label.optional(),
  labels: withLimit(z.array(label), limits.labels_per_example, "labels").optional(),
  value: z.number().optional(),
});
export type Resolution = DeepReadonly<z.output<typeof resolution>>;

export const issueResolution = z
  .strictObject({
    items: withLimit(z.array(resolution).min(1), limits.issues_per_resolution, "items").openapi({
      description: "what to do about each issue",
    }),
  })
  .openapi("IssueResolution");
export type IssueResolution = DeepReadonly<z.input<typeof issueResolution>>;

export const issueChange = datasetChange
  .omit({ dry_run: true, versions_with_vectors: true })
  .extend({
    dismissed: z.number().int().openapi({ description: "issues that are not asked again" }),
    unchanged: z.number().int().openapi({
      description: "issues that were resolved before, or whose example has been changed or deleted since",
    }),
  })
  .openapi("IssueChange");
export type IssueChange = DeepReadonly<z.output<typeof issueChange>>;
