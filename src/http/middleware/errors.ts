/** The one place where failures become HTTP. */

import type { z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { ErrorCode, Failure, Result } from "../../core/failure.ts";
import type { HttpEnv } from "../context.ts";

export const errorTypes = [
  "invalid_request_error",
  "authentication_error",
  "permission_error",
  "not_found_error",
  "conflict_error",
  "rate_limit_error",
  "capacity_error",
  "backend_error",
  "server_error",
] as const;
type ErrorType = (typeof errorTypes)[number];

const httpErrors: Record<ErrorCode, { status: ContentfulStatusCode; type: ErrorType }> = {
  invalid_json: { status: 400, type: "invalid_request_error" },
  invalid_parameter: { status: 400, type: "invalid_request_error" },
  missing_parameter: { status: 400, type: "invalid_request_error" },
  unknown_parameter: { status: 400, type: "invalid_request_error" },
  unsupported_media_type: { status: 415, type: "invalid_request_error" },
  body_too_large: { status: 413, type: "invalid_request_error" },
  limit_exceeded: { status: 422, type: "invalid_request_error" },
  upload_incomplete: { status: 400, type: "invalid_request_error" },
  invalid_csv: { status: 422, type: "invalid_request_error" },
  import_rejected: { status: 422, type: "invalid_request_error" },
  invalid_training_file: { status: 422, type: "invalid_request_error" },
  input_empty: { status: 422, type: "invalid_request_error" },
  input_too_long: { status: 422, type: "invalid_request_error" },
  invalid_embedding: { status: 422, type: "invalid_request_error" },
  invalid_label: { status: 422, type: "invalid_request_error" },
  invalid_payload: { status: 422, type: "invalid_request_error" },
  modality_not_supported: { status: 422, type: "invalid_request_error" },
  modality_mismatch: { status: 422, type: "invalid_request_error" },
  task_mismatch: { status: 422, type: "invalid_request_error" },
  too_few_examples: { status: 422, type: "invalid_request_error" },
  too_few_labels: { status: 422, type: "invalid_request_error" },
  invalid_features: { status: 422, type: "invalid_request_error" },
  edge_budget_exceeded: { status: 413, type: "invalid_request_error" },
  not_available: { status: 422, type: "invalid_request_error" },
  invalid_webhook_url: { status: 422, type: "invalid_request_error" },
  idempotency_key_reused: { status: 422, type: "invalid_request_error" },
  invalid_api_key: { status: 401, type: "authentication_error" },
  missing_scope: { status: 403, type: "permission_error" },
  not_found: { status: 404, type: "not_found_error" },
  already_exists: { status: 409, type: "conflict_error" },
  model_in_use: { status: 409, type: "conflict_error" },
  request_in_progress: { status: 409, type: "conflict_error" },
  dataset_changed: { status: 409, type: "conflict_error" },
  job_ended: { status: 409, type: "conflict_error" },
  endpoint_disabled: { status: 409, type: "conflict_error" },
  attempt_ended: { status: 409, type: "conflict_error" },
  invalid_signature: { status: 401, type: "authentication_error" },
  message_replayed: { status: 409, type: "conflict_error" },
  invalid_artifact: { status: 422, type: "invalid_request_error" },
  rate_limited: { status: 429, type: "rate_limit_error" },
  capacity_exceeded: { status: 503, type: "capacity_error" },
  backend_unavailable: { status: 503, type: "backend_error" },
  backend_timeout: { status: 504, type: "backend_error" },
  backend_rate_limited: { status: 503, type: "backend_error" },
  backend_rejected: { status: 502, type: "backend_error" },
  backend_invalid_answer: { status: 502, type: "backend_error" },
  storage_unavailable: { status: 503, type: "server_error" },
  internal_error: { status: 500, type: "server_error" },
};

/** The answer that tells of a failure. */
export function respondError(c: Context<HttpEnv>, failure: Failure): Response {
  const { status, type } = httpErrors[failure.code];
  if (failure.retryAfter !== undefined) c.header("retry-after", String(Math.max(1, Math.ceil(failure.retryAfter))));
  if (status === 401) c.header("www-authenticate", "Bearer");
  const { code, message, param, details } = failure;
  const error = {
    message,
    type,
    code,
    param: param ?? null,
    request_id: c.var.requestId,
    ...(details === undefined ? {} : { details }),
  };
  return c.json({ error }, status);
}

/** The answer to a result: its value with `status`, or its failure. */
export function respond<T>(c: Context<HttpEnv>, result: Result<T>, status: ContentfulStatusCode = 200): Response {
  return result.ok ? c.json(result.value as object, status) : respondError(c, result.failure);
}

/**
 * What a schema found wrong first in what was given, as a failure that says what, where and how to put it right.
 * `whole` names all that was given.
 */
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
  // Of the schemas' own checks only those of limits (schema.ts) have figures.
  if (issue.code === "custom" && issue.params)
    return { code: "limit_exceeded", message, ...paramField, details: issue.params };
  return { code: "invalid_parameter", message, ...paramField };
}

const PATH_CHARACTERS = 200;

type Issue = z.ZodError["issues"][number];

/** The first issue; of a union that fits nowhere, that of the branch which fits best: the fewest wrong fields, then the deepest. */
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

/** A path such as `examples[3].label`; a client's own field name is not quoted at any length. */
export function formatPath(path: readonly PropertyKey[]): string {
  const fullPath = path.reduce<string>(
    (text, part) =>
      typeof part === "number" ? `${text}[${part}]` : text === "" ? String(part) : `${text}.${String(part)}`,
    "",
  );
  return fullPath.length > PATH_CHARACTERS ? `${fullPath.slice(0, PATH_CHARACTERS)}…` : fullPath;
}
