/** The texts of docs/errors: Markdown, a module each. */

import already_exists from "../../../docs/errors/already_exists.md";
import attempt_ended from "../../../docs/errors/attempt_ended.md";
import backend_invalid_answer from "../../../docs/errors/backend_invalid_answer.md";
import backend_rate_limited from "../../../docs/errors/backend_rate_limited.md";
import backend_rejected from "../../../docs/errors/backend_rejected.md";
import backend_timeout from "../../../docs/errors/backend_timeout.md";
import backend_unavailable from "../../../docs/errors/backend_unavailable.md";
import body_too_large from "../../../docs/errors/body_too_large.md";
import capacity_exceeded from "../../../docs/errors/capacity_exceeded.md";
import dataset_changed from "../../../docs/errors/dataset_changed.md";
import edge_budget_exceeded from "../../../docs/errors/edge_budget_exceeded.md";
import endpoint_disabled from "../../../docs/errors/endpoint_disabled.md";
import file_in_use from "../../../docs/errors/file_in_use.md";
import idempotency_key_reused from "../../../docs/errors/idempotency_key_reused.md";
import import_rejected from "../../../docs/errors/import_rejected.md";
import input_empty from "../../../docs/errors/input_empty.md";
import input_too_long from "../../../docs/errors/input_too_long.md";
import internal_error from "../../../docs/errors/internal_error.md";
import invalid_api_key from "../../../docs/errors/invalid_api_key.md";
import invalid_artifact from "../../../docs/errors/invalid_artifact.md";
import invalid_csv from "../../../docs/errors/invalid_csv.md";
import invalid_embedding from "../../../docs/errors/invalid_embedding.md";
import invalid_features from "../../../docs/errors/invalid_features.md";
import invalid_json from "../../../docs/errors/invalid_json.md";
import invalid_label from "../../../docs/errors/invalid_label.md";
import invalid_parameter from "../../../docs/errors/invalid_parameter.md";
import invalid_payload from "../../../docs/errors/invalid_payload.md";
import invalid_signature from "../../../docs/errors/invalid_signature.md";
import invalid_training_file from "../../../docs/errors/invalid_training_file.md";
import invalid_webhook_url from "../../../docs/errors/invalid_webhook_url.md";
import job_ended from "../../../docs/errors/job_ended.md";
import limit_exceeded from "../../../docs/errors/limit_exceeded.md";
import malformed_request from "../../../docs/errors/malformed_request.md";
import message_replayed from "../../../docs/errors/message_replayed.md";
import method_not_allowed from "../../../docs/errors/method_not_allowed.md";
import missing_parameter from "../../../docs/errors/missing_parameter.md";
import missing_scope from "../../../docs/errors/missing_scope.md";
import modality_mismatch from "../../../docs/errors/modality_mismatch.md";
import modality_not_supported from "../../../docs/errors/modality_not_supported.md";
import model_in_use from "../../../docs/errors/model_in_use.md";
import not_available from "../../../docs/errors/not_available.md";
import not_found from "../../../docs/errors/not_found.md";
import origin_not_allowed from "../../../docs/errors/origin_not_allowed.md";
import overview from "../../../docs/errors/README.md";
import rate_limited from "../../../docs/errors/rate_limited.md";
import request_in_progress from "../../../docs/errors/request_in_progress.md";
import request_timeout from "../../../docs/errors/request_timeout.md";
import storage_full from "../../../docs/errors/storage_full.md";
import storage_unavailable from "../../../docs/errors/storage_unavailable.md";
import task_mismatch from "../../../docs/errors/task_mismatch.md";
import tenant_suspended from "../../../docs/errors/tenant_suspended.md";
import too_few_examples from "../../../docs/errors/too_few_examples.md";
import too_few_labels from "../../../docs/errors/too_few_labels.md";
import unknown_parameter from "../../../docs/errors/unknown_parameter.md";
import unsupported_media_type from "../../../docs/errors/unsupported_media_type.md";
import upload_incomplete from "../../../docs/errors/upload_incomplete.md";
import type { ErrorCode } from "../../core/failure.ts";

export const errorOverview: string = overview;

export const errorTexts: Readonly<Record<ErrorCode, string>> = {
  invalid_json,
  invalid_parameter,
  missing_parameter,
  unknown_parameter,
  unsupported_media_type,
  body_too_large,
  limit_exceeded,
  upload_incomplete,
  malformed_request,
  method_not_allowed,
  request_timeout,
  invalid_csv,
  import_rejected,
  invalid_training_file,
  input_empty,
  input_too_long,
  invalid_embedding,
  invalid_label,
  invalid_payload,
  modality_not_supported,
  modality_mismatch,
  task_mismatch,
  too_few_examples,
  too_few_labels,
  invalid_features,
  edge_budget_exceeded,
  not_available,
  invalid_webhook_url,
  idempotency_key_reused,
  invalid_api_key,
  missing_scope,
  origin_not_allowed,
  tenant_suspended,
  not_found,
  already_exists,
  model_in_use,
  file_in_use,
  request_in_progress,
  dataset_changed,
  job_ended,
  endpoint_disabled,
  attempt_ended,
  invalid_signature,
  message_replayed,
  invalid_artifact,
  rate_limited,
  capacity_exceeded,
  backend_unavailable,
  backend_timeout,
  backend_rate_limited,
  backend_rejected,
  backend_invalid_answer,
  storage_unavailable,
  storage_full,
  internal_error,
};
