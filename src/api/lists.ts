/** Lists, their pages, and what a deletion answers. */
import { z } from "@hono/zod-openapi";
import { type DeepReadonly, queryNumber } from "./schema.ts";

const DEFAULT_LIMIT = 20;
const MAX_LIMIT = 100;

export const pageQuery = z.strictObject({
  limit: queryNumber.pipe(z.number().min(1).max(MAX_LIMIT)).default(DEFAULT_LIMIT).openapi({
    type: "integer",
    minimum: 1,
    maximum: MAX_LIMIT,
    description: "at most so many: a page of very large objects has fewer, and has_more says that more follow",
  }),
  after: z.string().min(1).max(256).optional(),
});

/** For OpenAI's clients: they may ask for more than a page holds, and may send parameters that are unknown here. */
export const openAiPageQuery = z.looseObject({
  limit: queryNumber
    .pipe(z.number().min(1))
    .default(DEFAULT_LIMIT)
    .transform((limit) => Math.min(limit, MAX_LIMIT))
    .openapi({ type: "integer", minimum: 1, description: `at most so many; a page has no more than ${MAX_LIMIT}` }),
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

export function deletedObject(object: string) {
  return z.object({ id: z.string(), object: z.literal(object), deleted: z.literal(true) });
}

/** Beside the deletion of examples. */
export const versionsWithVectors = z.array(z.string()).openapi({
  description:
    "the versions of heads, as head@version, that still hold the embedding of an example that is gone, newest first, at most 1000; left out where there are none. Deleting a head deletes them",
});

/** A page of a list, as a checked query asks for it. Newest first; `after` is the last id of the page before. */
export type PageRequest = DeepReadonly<z.output<typeof pageQuery>>;
/** The same as a client asks for it. */
export type PageQuery = Partial<PageRequest>;
export type List<T> = Omit<DeepReadonly<z.output<ReturnType<typeof listOf<z.ZodNull>>>>, "data"> & {
  readonly data: readonly T[];
};
export const deletedExample = deletedObject("example").extend({
  versions_with_vectors: versionsWithVectors.optional(),
});
export type DeletedExample = DeepReadonly<z.output<typeof deletedExample>>;
export type DeletedObject = DeepReadonly<z.output<ReturnType<typeof deletedObject>>>;
