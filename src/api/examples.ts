/** Inputs and labelled examples. */
import { z } from "@hono/zod-openapi";
import { errorCodes } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { pageQuery } from "./lists.ts";
import { type DeepReadonly, label, limitIssue, nameParams, unixSeconds, withLimit } from "./schema.ts";

const inputMessage = "an input is a text, or an object with one of 'text', 'embedding' and 'image'";
const textField = z.string();
/** Its numbers are checked where they are: `z.array` would copy millions of them for a training, in most of a second. */
const embeddingField = z
  .custom<number[]>(Array.isArray, { error: "expected a list of numbers", abort: true })
  .check(({ value, issues }) => {
    const [limit, actual] = [limits.embedding_dimensions, value.length];
    const index = value.findIndex((number) => !Number.isFinite(number));
    if (index >= 0) issues.push({ code: "custom", input: value[index], path: [index], message: "expected a number" });
    else if (actual > limit) issues.push(limitIssue(value, limit, actual, "numbers"));
  })
  .openapi({ type: "array", items: { type: "number" }, maxItems: limits.embedding_dimensions });
const imageField = z.string().openapi({ description: "base64 of a PNG or JPEG" });

export const input = z
  .union(
    [
      textField,
      z.strictObject({ text: textField }),
      z.strictObject({ embedding: embeddingField }),
      z.strictObject({ image: imageField }),
    ],
    { error: inputMessage },
  )
  .openapi("Input");
export type Input = DeepReadonly<z.output<typeof input>>;

export const exampleId = z
  .string()
  .min(1)
  .max(256)
  // A URL's path cannot end in these.
  .regex(/^(?!\.{1,2}$)/, "an id is not '.' or '..'");

/** A label as it may be stored: those from before labels were trimmed keep their white space. */
export const storedLabel = withLimit(z.string().min(1), limits.label_characters, "characters");
/** A part of a text to look for. */
export const searchText = withLimit(z.string().min(1), limits.text_characters, "characters");

/** A labelled example as it comes in. Which fields it needs depends on the task and the modality of its dataset. */
export const labelledExample = z
  .strictObject({
    id: exampleId.optional(),
    text: textField.optional(),
    embedding: embeddingField.optional(),
    image: imageField.optional(),
    label: label.optional(),
    labels: withLimit(z.array(label), limits.labels_per_example, "labels").optional(),
    value: z.number().optional(),
  })
  .openapi("LabelledExample");
export type LabelledExample = DeepReadonly<z.output<typeof labelledExample>>;
export const exampleChange = labelledExample.omit({ id: true });
export type ExampleChange = DeepReadonly<z.input<typeof exampleChange>>;

export const exampleListQuery = pageQuery.extend({
  label: storedLabel.optional(),
  contains: searchText.optional().openapi({ description: "a part of the text, taken literally" }),
});
export type ExampleListQuery = Partial<DeepReadonly<z.output<typeof exampleListQuery>>>;

export const exampleParams = nameParams.extend({ id: z.string().min(1).max(256) });

export const example = z
  .object({
    object: z.literal("example"),
    id: z.string(),
    text: z.string().optional(),
    embedding: z.array(z.number()).optional(),
    label: z.string().optional(),
    labels: z.array(z.string()).optional(),
    value: z.number().optional(),
    created_at: unixSeconds,
  })
  .openapi("Example");
export type Example = DeepReadonly<z.output<typeof example>>;

/** Why a row or an example is rejected. `line` counts from 1. */
export const rowError = z.object({ line: z.number().int(), code: z.enum(errorCodes), message: z.string() });
export type RowError = DeepReadonly<z.output<typeof rowError>>;

/** An example as the ledger stores it. Its hashes are made where the input is read; the ledger only compares them. */
export interface StoredExample {
  /** The caller's own id, if given. */
  readonly id: string | null;
  readonly inputHash: Uint8Array;
  /** Of the input without case and spacing. A split never separates rows that share it. */
  readonly groupHash: Uint8Array;
  /** Of input and target together. */
  readonly contentHash: Uint8Array;
  /** A text, or the bytes of an embedding as 32-bit floats. */
  readonly input: string | Uint8Array;
  /** JSON: a label, a sorted list of labels, or a number. */
  readonly target: string;
}

/** A row of an import. */
export interface StagedExample extends StoredExample {
  /** The row's place in the body; unique within the import. */
  readonly line: number;
}
