/** What a schema says of a value that does not fit, where it has no words of its own. */
import { z } from "@hono/zod-openapi";

type RawIssue = Parameters<NonNullable<ReturnType<typeof z.config>["customError"]>>[0];

const typeNames: Readonly<Record<string, string>> = {
  string: "a string",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  object: "an object",
  record: "an object",
  null: "null",
};

const units: Readonly<Record<string, string>> = { string: "characters", array: "entries" };

function typeOf(value: unknown): string {
  if (value === null) return "null";
  if (typeof value === "number") return Number.isFinite(value) ? "a number" : "not a number that can be computed with";
  return typeNames[Array.isArray(value) ? "array" : typeof value] ?? "something else";
}

const toList = (values: readonly unknown[]) =>
  values.map((value) => (typeof value === "string" ? `'${value}'` : String(value))).join(", ");

/** Such as `it must have at least 2 entries, and has 1`, or `it must be above 0, and is -1`. */
function describeBound(bound: string, limit: unknown, origin: string, input: unknown): string {
  const unit = units[origin];
  if (unit === undefined) return `it must be ${bound} ${limit}, and is ${String(input)}`;
  return `it must have ${bound} ${limit} ${unit}, and has ${(input as { length: number }).length}`;
}

/** The words for an issue; undefined for those that the schemas of this API never raise. */
function describeIssue(issue: RawIssue): string | undefined {
  const { code, input } = issue;
  if (code === "invalid_type")
    return `it is ${typeOf(input)}, and must be ${typeNames[issue.expected] ?? "another type"}`;
  if (code === "too_small")
    return describeBound(issue.inclusive === false ? "above" : "at least", issue.minimum, issue.origin, input);
  if (code === "too_big")
    return describeBound(issue.inclusive === false ? "below" : "at most", issue.maximum, issue.origin, input);
  if (code === "invalid_value")
    return `it must be ${issue.values.length === 1 ? "" : "one of "}${toList(issue.values)}`;
  if (code === "invalid_key") return `one of its keys does not fit: ${issue.issues[0]?.message}`;
  if (code === "invalid_union") return "it has none of the forms that are taken here";
  if (code === "invalid_format") return "it does not have the form that is taken here";
  return undefined;
}

z.config({ customError: describeIssue });
