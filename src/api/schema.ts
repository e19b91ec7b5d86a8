/** Schemas and type helpers that more than one resource uses. A resource's types are inferred from its schemas. */
import { z } from "@hono/zod-openapi";
import type { Task } from "../core/head.ts";
import { limits } from "../core/limits.ts";
import { countCharacters, isLongerThan } from "../core/text/characters.ts";
import { toSeconds } from "../lib/time.ts";

/** A value that nobody changes, at any depth. */
export type DeepReadonly<T> = unknown extends T ? T : { readonly [K in keyof T]: DeepReadonly<T[K]> };

export const name = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,63}$/, "a name begins with a letter or digit and has at most 64 of a-z 0-9 . _ -")
  .openapi({ example: "support" });
export const idParams = z.object({ id: z.string().min(1).max(100) });
export const nameParams = z.object({ name });

const limitKeywords = { string: "maxLength", array: "maxItems", number: "maximum" } as const;

/** What a limit bounds: a number itself, the characters of a text, or the length of a list. */
function sizeOf(value: string | readonly unknown[] | number): number {
  if (typeof value === "string") return countCharacters(value);
  return typeof value === "number" ? value : value.length;
}

/** What a check of a schema finds where a limit is exceeded. Fails as `limit_exceeded`. */
export function limitIssue(input: unknown, limit: number, actual: number, unit: string) {
  const message = `at most ${limit} ${unit} are allowed, and this has ${actual}`;
  // `continue`, as zod's own bounds set it: otherwise a union would report the issue of another branch.
  return { code: "custom" as const, input, message, params: { limit, actual }, continue: true };
}

/** A schema bounded by one of the limits of `GET /v1/limits`. A value beyond it fails as `limit_exceeded`. */
export function withLimit<T extends z.ZodString | z.ZodArray | z.ZodNumber>(schema: T, limit: number, unit: string): T {
  const checked = schema.check(({ value, issues }: { value: string | unknown[] | number; issues: unknown[] }) => {
    if (typeof value === "string" ? isLongerThan(value, limit) : sizeOf(value) > limit)
      issues.push(limitIssue(value, limit, sizeOf(value), unit));
  });
  return checked.openapi({ [limitKeywords[schema.type]]: limit }) as T;
}

/** White space around it is cut off, and its characters are composed (NFC), so that what looks equal is equal. */
export const label = withLimit(
  z.string().trim().normalize("NFC").min(1, "a label has at least 1 character"),
  limits.label_characters,
  "characters",
);

/** Beside inputs of a request. */
export const truncateFlag = z
  .boolean()
  .openapi({ description: "texts beyond the limit are cut at the end of a word, and not refused" });
/** Of an item whose text was cut; left out of others. */
export const truncated = z.literal(true).optional().openapi({ description: "the text was cut" });

export const task = z.enum(["single_label", "multi_label", "regression"]) satisfies z.ZodType<Task>;
/** Whole Unix seconds. `descriptions.ts` says which time a field is. */
export const unixSeconds = z.number().int();
const TEN_YEARS_SECONDS = 10 * 366 * 24 * 60 * 60;
/** A time that a caller names. One that is far ahead is taken for milliseconds. */
export const requestTime = unixSeconds
  .min(0)
  .refine((seconds) => seconds <= toSeconds(Date.now()) + TEN_YEARS_SECONDS, {
    error: "it is more than 10 years ahead: give Unix seconds, not milliseconds",
  });
/** A number in a query. An empty one is not 0, and `1e1` is none. */
export const queryNumber = z
  .string()
  .regex(/^\d{1,15}$/, { error: "it must be a whole number, in digits alone" })
  .transform(Number);
/** A revision of a dataset in a query. */
export const revisionNumber = queryNumber.openapi({ type: "integer", minimum: 0 });
/** A revision of a dataset to train on. */
export const datasetRevision = z
  .number()
  .int()
  .min(0)
  .openapi({ description: "a revision of the dataset that is kept; by default the present one" });
/** A backbone in one of its revisions. */
export const backboneRevision = z.object({ id: z.string(), revision: z.string() });
/** Two numbers, lower first. OpenAPI shows a list of fixed length, not a tuple. */
export const interval = z.array(z.number()).length(2) as unknown as z.ZodType<[number, number]>;
