/** Failures and exceptions as HTTP responses. */

import type { Context } from "hono";
import { HTTPException } from "hono/http-exception";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { ErrorType } from "../../api/errors.ts";
import type { ErrorCode, Failure, Result } from "../../core/failure.ts";
import { invalidJson } from "../../ingest/json-error.ts";
import type { App, HttpEnv } from "../context.ts";

const httpErrors: Record<ErrorCode, { status: ContentfulStatusCode; type: ErrorType }> = {
  invalid_json: { status: 400, type: "invalid_request_error" },
  invalid_parameter: { status: 400, type: "invalid_request_error" },
  missing_parameter: { status: 400, type: "invalid_request_error" },
  unknown_parameter: { status: 400, type: "invalid_request_error" },
  unsupported_media_type: { status: 415, type: "invalid_request_error" },
  body_too_large: { status: 413, type: "invalid_request_error" },
  limit_exceeded: { status: 422, type: "invalid_request_error" },
  upload_incomplete: { status: 400, type: "invalid_request_error" },
  malformed_request: { status: 400, type: "invalid_request_error" },
  method_not_allowed: { status: 405, type: "invalid_request_error" },
  request_timeout: { status: 408, type: "invalid_request_error" },
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
  origin_not_allowed: { status: 403, type: "permission_error" },
  tenant_suspended: { status: 403, type: "permission_error" },
  not_found: { status: 404, type: "not_found_error" },
  already_exists: { status: 409, type: "conflict_error" },
  model_in_use: { status: 409, type: "conflict_error" },
  file_in_use: { status: 409, type: "conflict_error" },
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
  storage_full: { status: 507, type: "capacity_error" },
  internal_error: { status: 500, type: "server_error" },
};

/** A whole number or a decimal, as a template writes it. */
const NUMBER = /(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]\d+)?/g;

/** The message; of a limit, with the limit and the actual figure, unless it has both. */
export function withFigures({ message, details }: Failure): string {
  const { limit, actual } = details ?? {};
  if (typeof limit !== "number" || typeof actual !== "number") return message;
  const figures = new Set(message.match(NUMBER));
  if (figures.has(String(limit)) && figures.has(String(actual))) return message;
  return `${message} The limit is ${limit}; this is ${actual}.`;
}

const otherStatuses = {
  409: { status: 409, type: "conflict_error" },
  422: { status: 422, type: "invalid_request_error" },
} as const;

/** The page on a code, on this server. */
function docUrl(c: Context<HttpEnv>, code: ErrorCode): string {
  return new URL(`/docs/errors/${code}`, c.req.url).href;
}

/** The response to a failure. Official clients repeat a 409 by themselves unless they are told that it is final. */
export function respondError(c: Context<HttpEnv>, failure: Failure): Response {
  const { status, type } = failure.status === undefined ? httpErrors[failure.code] : otherStatuses[failure.status];
  if (failure.retryAfter !== undefined) c.header("retry-after", String(Math.max(1, Math.ceil(failure.retryAfter))));
  else if (status < 500) c.header("x-should-retry", "false");
  if (status === 401) c.header("www-authenticate", "Bearer");
  const { code, param, details } = failure;
  const error = {
    message: withFigures(failure),
    type,
    code,
    param: param ?? null,
    request_id: c.var.requestId,
    doc_url: docUrl(c, code),
    ...(details === undefined ? {} : { details }),
  };
  return c.json({ error }, status);
}

/** The response to a result: its value with `status`, or its failure. */
export function respond<T>(c: Context<HttpEnv>, result: Result<T>, status: ContentfulStatusCode = 200): Response {
  return result.ok ? c.json(result.value as object, status) : respondError(c, result.failure);
}

export function notJsonFailure(type: string): Failure {
  const correction =
    type === ""
      ? "but the header is missing"
      : /^application\/x-www-form-urlencoded/i.test(type)
        ? "not a form, which curl sends unless it is told otherwise by -H"
        : `not '${type.slice(0, 100)}'`;
  const message = `The body must be JSON: send 'content-type: application/json', ${correction}.`;
  return { code: "unsupported_media_type", message, param: "content-type" };
}

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/** The methods that the app has routes for at a path. */
function allowedMethods(app: App, path: string): string[] {
  // Middleware is registered for all methods.
  const isAllowed = (method: string) => app.router.match(method, path)[0].some(([[, route]]) => route.method !== "ALL");
  return METHODS.filter(isAllowed).flatMap((method) => (method === "GET" ? ["GET", "HEAD"] : [method]));
}

/** Answers where no route is, or one finds nothing: 405 if the path has a route for other methods alone. */
export function handleNotFound(app: App) {
  return (c: Context<HttpEnv>): Response => {
    const { method, path } = c.req;
    const allowed = allowedMethods(app, path);
    if (allowed.length > 0 && !allowed.includes(method)) {
      const message = `${path} does not take ${method}, but ${allowed.join(", ")}.`;
      c.header("allow", allowed.join(", "));
      return respondError(c, { code: "method_not_allowed", message });
    }
    const message = `There is nothing at ${method} ${path}. All routes are in /openapi.json and at /docs.`;
    return respondError(c, { code: "not_found", message });
  };
}

/** What SQLite and the file system say of a disk, or of an object's storage, without room. */
const STORAGE_FULL = /SQLITE_FULL|database or disk is full|ENOSPC|no space left on device/i;

/** The response to an exception: hono's own for a bad body, the platform's for full or lost storage, or a bug. */
export async function handleError(error: Error, c: Context<HttpEnv>): Promise<Response> {
  if (error instanceof HTTPException && error.status === 400) return respondError(c, invalidJson(await c.req.text()));
  if (error instanceof HTTPException && error.status === 415) {
    return respondError(c, notJsonFailure(c.req.header("content-type") ?? ""));
  }
  if (STORAGE_FULL.test(String(error))) {
    return respondError(c, {
      code: "storage_full",
      message: "The storage of the server is full, so nothing can be added. Reading, predicting and deleting go on.",
      retryAfter: 60,
    });
  }
  // The platform sets these where a ledger is overloaded, or out of reach for a moment.
  const { overloaded, retryable } = error as { overloaded?: boolean; retryable?: boolean };
  const isConnectionLost = /network connection lost/i.test(String(error));
  if (overloaded || retryable || isConnectionLost) {
    return respondError(c, {
      code: overloaded ? "capacity_exceeded" : "storage_unavailable",
      message: "The storage behind this request did not answer. Try again in a few seconds.",
      retryAfter: 5,
    });
  }
  console.error(
    JSON.stringify({ request_id: c.var.requestId, event: "unexpected_error", error: error.stack ?? String(error) }),
  );
  return respondError(c, {
    code: "internal_error",
    message: "Something went wrong on our side. Try again; if it lasts, tell us the request id.",
    retryAfter: 5,
  });
}
