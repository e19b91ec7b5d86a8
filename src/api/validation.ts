/** What a schema finds wrong, as a failure that says what it is, where it is and how to correct it. */
import type { z } from "@hono/zod-openapi";
import type { Failure } from "../core/failure.ts";
import "./messages.ts";

/** The most telling issue of a zod error as a failure. `rootName` names the whole value in the message. */
export function schemaFailure(error: z.ZodError, value: unknown, rootName = "The body"): Failure {
  const issue = findBestIssue(error.issues);
  if (issue === undefined) return { code: "invalid_parameter", message: "The request is not valid." };
  const { path } = issue;
  if (issue.code === "unrecognized_keys") {
    const param = formatPath([...path, issue.keys[0] ?? ""]);
    return {
      code: "unknown_parameter",
      message: `There is no parameter '${param}' here. Remove it, or check its spelling.`,
      param,
    };
  }
  const param = path.length === 0 ? undefined : formatPath(path);
  const subject = param === undefined ? rootName : `'${param}'`;
  const paramField = param === undefined ? {} : { param };
  if (param !== undefined && getValueAt(value, path) === undefined)
    return { code: "missing_parameter", message: `${subject} is required.`, param };
  const message = `${subject} is not valid: ${issue.message}.`;
  // Only `limitIssue` attaches figures to an issue.
  if (issue.code === "custom" && issue.params)
    return { code: "limit_exceeded", message, ...paramField, details: issue.params };
  return { code: "invalid_parameter", message, ...paramField };
}

const MAX_PATH_CHARACTERS = 200;

type Issue = z.ZodError["issues"][number];

/** The first issue. For a union it is the issue of the branch that fits best: fewest wrong fields, then deepest path. */
function findBestIssue(issues: readonly Issue[]): Issue | undefined {
  const first = issues[0];
  if (first?.code !== "invalid_union") return first;
  const [best] = first.errors
    .flatMap((branch) => {
      const issue = findBestIssue(branch);
      const isNested = issue && (issue.path.length > 0 || issue.code === "unrecognized_keys");
      return isNested ? [{ issue, fields: branch.filter(({ path }) => path.length < 2).length }] : [];
    })
    .sort((a, b) => a.fields - b.fields || b.issue.path.length - a.issue.path.length);
  return best ? { ...best.issue, path: [...first.path, ...best.issue.path] } : first;
}

function getValueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((value, part) => (value as Record<PropertyKey, unknown> | null | undefined)?.[part], root);
}

/** A path such as `examples[3].label`. A long path, which may hold a client's own field name, is cut. */
export function formatPath(path: readonly PropertyKey[]): string {
  const fullPath = path.reduce<string>(
    (text, part) =>
      typeof part === "number" ? `${text}[${part}]` : text === "" ? String(part) : `${text}.${String(part)}`,
    "",
  );
  return fullPath.length > MAX_PATH_CHARACTERS ? `${fullPath.slice(0, MAX_PATH_CHARACTERS)}…` : fullPath;
}
