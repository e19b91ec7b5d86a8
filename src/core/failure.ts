/**
 * Every way in which a request can fail, as a closed set. `http/middleware/errors.ts` gives each its status and type,
 * and each has a page in docs/errors/.
 */
export const errorCodes = [
  "invalid_json",
  "invalid_parameter",
  "missing_parameter",
  "unknown_parameter",
  "unsupported_media_type",
  "body_too_large",
  "limit_exceeded",
  "upload_incomplete",
  "malformed_request",
  "method_not_allowed",
  "request_timeout",
  "invalid_csv",
  "import_rejected",
  "invalid_training_file",
  "input_empty",
  "input_too_long",
  "invalid_embedding",
  "invalid_label",
  "invalid_payload",
  "modality_not_supported",
  "modality_mismatch",
  "task_mismatch",
  "too_few_examples",
  "too_few_labels",
  "invalid_features",
  "edge_budget_exceeded",
  "not_available",
  "invalid_webhook_url",
  "idempotency_key_reused",
  "invalid_api_key",
  "missing_scope",
  "origin_not_allowed",
  "tenant_suspended",
  "not_found",
  "already_exists",
  "model_in_use",
  "file_in_use",
  "request_in_progress",
  "dataset_changed",
  "job_ended",
  "endpoint_disabled",
  "attempt_ended",
  "invalid_signature",
  "message_replayed",
  "invalid_artifact",
  "rate_limited",
  "capacity_exceeded",
  "backend_unavailable",
  "backend_timeout",
  "backend_rate_limited",
  "backend_rejected",
  "backend_invalid_answer",
  "storage_unavailable",
  "storage_full",
  "internal_error",
] as const;

export type ErrorCode = (typeof errorCodes)[number];

/**
 * An expected failure. `param` is a path into the request, such as `examples[3].label`; `retryAfter` is in seconds.
 * `status`: the HTTP status in place of the code's own: 409 if the request is at odds with what is stored.
 */
export interface Failure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly param?: string;
  readonly retryAfter?: number;
  readonly status?: 409 | 422;
  readonly details?: Readonly<Record<string, unknown>>;
}

export type Result<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly failure: Failure };

export function ok<T>(value: T): Result<T> {
  return { ok: true, value };
}

export function fail(
  code: ErrorCode,
  message: string,
  extras: Omit<Failure, "code" | "message"> = {},
): { ok: false; failure: Failure } {
  return { ok: false, failure: { code, message, ...extras } };
}
