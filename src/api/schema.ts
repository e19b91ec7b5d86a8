/** Schemas that more than one resource uses. */
import { z } from "@hono/zod-openapi";
import { errorCodes } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { errorTypes } from "../http/middleware/errors.ts";

export const name = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,63}$/, "a name begins with a letter or digit and has at most 64 of a-z 0-9 . _ -")
  .openapi({ example: "support" });

const limitKeywords = { string: "maxLength", array: "maxItems", number: "maximum" } as const;

/** A schema of at most `limit`, one of those that `GET /v1/limits` shows: what is beyond it fails as limit_exceeded. */
export function withLimit<T extends z.ZodString | z.ZodArray | z.ZodNumber>(schema: T, limit: number, unit: string): T {
  const checked = schema.check(({ value, issues }: { value: string | unknown[] | number; issues: unknown[] }) => {
    const actual = typeof value === "number" ? value : value.length;
    const message = `at most ${limit} ${unit} are allowed, and this has ${actual}`;
    // Not final, as zod's own bounds are not: else a union would look for the fault in its other branches.
    if (actual > limit)
      issues.push({ code: "custom", input: value, message, params: { limit, actual }, continue: true });
  });
  return checked.openapi({ [limitKeywords[schema.type]]: limit }) as T;
}

export const label = withLimit(
  z.string().min(1, "a label has at least 1 character"),
  limits.label_characters,
  "characters",
);

export const unixSeconds = z.number().int().openapi({ description: "Unix seconds" });

const inputMessage = "an input is a text, or an object with one of 'text', 'embedding' and 'image'";
const textField = z.string();
const embeddingField = withLimit(z.array(z.number()), limits.embedding_dimensions, "numbers");
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

/** A labelled example as it comes in: which fields must be there depends on the data set's task and modality. */
export const labelledExample = z
  .strictObject({
    id: z
      .string()
      .min(1)
      .max(256)
      // No URL can end in these.
      .regex(/^(?!\.{1,2}$)/, "an id is not '.' or '..'")
      .optional(),
    text: textField.optional(),
    embedding: embeddingField.optional(),
    image: imageField.optional(),
    label: label.optional(),
    labels: withLimit(z.array(label), limits.labels_per_example, "labels").optional(),
    value: z.number().optional(),
  })
  .openapi("LabelledExample");
export type LabelledExample = z.infer<typeof labelledExample>;

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

export const pageQuery = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20).openapi({
    description: "at most so many: a page of very large objects has fewer, and has_more says that more follow",
  }),
  after: z.string().min(1).max(256).optional(),
});

/** The same for OpenAI's clients, which may ask for more than a page holds, and for what is not known here. */
export const openAiPageQuery = z.looseObject({
  limit: z.coerce
    .number()
    .int()
    .min(1)
    .default(20)
    .transform((limit) => Math.min(limit, 100))
    .openapi({ description: "at most so many; a page has no more than 100" }),
  after: z.string().min(1).max(256).optional(),
});

export function listOf<T extends z.ZodType>(item: T) {
  return z.object({
    object: z.literal("list"),
    data: z.array(item),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
    has_more: z.boolean(),
  });
}

export const error = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.enum(errorTypes),
      code: z.enum(errorCodes),
      param: z.string().nullable(),
      request_id: z.string(),
      details: z.record(z.string(), z.unknown()).optional(),
    }),
  })
  .openapi("Error");

export function jsonResponse<T extends z.ZodType>(schema: T, description: string) {
  return { description, content: { "application/json": { schema } } };
}

export function jsonBody<T extends z.ZodType>(schema: T) {
  return { content: { "application/json": { schema } }, required: true } as const;
}

export function deletedObject(object: string) {
  return z.object({ id: z.string(), object: z.literal(object), deleted: z.literal(true) });
}

/** Every route may answer with an error; its status and code are in docs/errors/. */
export const errorResponses = { default: jsonResponse(error, "An error, with a page on each code in docs/errors/") };
export const tenantSecurity = [{ apiKey: [] }];
export const operatorSecurity = [{ adminKey: [] }];
