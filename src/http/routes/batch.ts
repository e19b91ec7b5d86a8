/**
 * The calls of a batch endpoint, under `/internal/batch/jobs/{id}/attempts/{n}`: it pulls data, uploads artifacts and sends
 * messages. Every call has the token of its job and attempt; messages are signed as well. docs/batch-endpoint.md is the
 * contract. These routes are not in /openapi.json.
 */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { z } from "zod";
import { schemaFailure } from "../../api/validation.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import type { JobEvent } from "../../core/lifecycle/job.ts";
import { limits } from "../../core/limits.ts";
import { parseJson } from "../../ingest/body.ts";
import {
  completion,
  MAX_SINGLE_UPLOAD_BYTES,
  type Message,
  message,
  PART_BYTES,
  uploadRequest,
} from "../../jobs/protocol.ts";
import { verify } from "../../jobs/sign.ts";
import { verifyAttemptToken } from "../../jobs/token.ts";
import { completeUpload, putArtifact } from "../../store/artifacts.ts";
import { artifactKey } from "../../store/keys.ts";
import { abortUpload } from "../../store/uploads.ts";
import type { JobSpec } from "../../tenant/jobs/jobs.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App, HttpEnv } from "../context.ts";
import { bearerToken } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { getServerKeys } from "../middleware/keys.ts";
import { streamJobData } from "./batch-data.ts";
import { finishAttempt } from "./batch-finish.ts";

const ATTEMPT_PATH = "/internal/batch/jobs/:job/attempts/:attempt{[1-9][0-9]{0,8}}";
const ARTIFACT_PATH = `${ATTEMPT_PATH}/artifacts/:sha256{[0-9a-f]{64}}`;
const UPLOADS_PATH = `${ARTIFACT_PATH}/uploads`;
const MAX_MESSAGE_BYTES = 2_500_000;

export function batchRoutes(app: App): void {
  app.use(`${ATTEMPT_PATH}/*`, attemptAuth);
  app.get(`${ATTEMPT_PATH}/data`, pullData);
  app.get(ARTIFACT_PATH, downloadArtifact);
  app.put(ARTIFACT_PATH, uploadArtifact);
  app.post(UPLOADS_PATH, startUpload);
  app.put(`${UPLOADS_PATH}/:upload/:part{[1-9][0-9]{0,4}}`, uploadPart);
  app.post(`${UPLOADS_PATH}/:upload`, finishUpload);
  app.post(`${ATTEMPT_PATH}/messages`, receiveMessage);
}

/** Lets a call through whose token is of the attempt in its path. */
const attemptAuth = createMiddleware<HttpEnv>(async (c, next) => {
  const attempt = verifyAttemptToken(getServerKeys(c.env), bearerToken(c) ?? "");
  if (attempt === null || attempt.job !== c.req.param("job") || String(attempt.attempt) !== c.req.param("attempt")) {
    const message = "The token is missing or wrong, or that of another job or attempt.";
    return respondError(c, { code: "invalid_api_key", message });
  }
  c.set("attempt", attempt);
  await next();
});

/** The specification of the job, if the attempt is its current one. */
function getJobSpec(c: Context<HttpEnv>): Promise<Result<JobSpec>> {
  const { tenant, job, attempt } = c.var.attempt;
  return getLedger(c.env.TENANT, tenant).getCurrentAttempt(job, attempt);
}

function getArtifactKey(c: Context<HttpEnv>): string {
  return artifactKey(c.var.attempt.tenant, c.var.attempt.job, c.req.param("sha256") ?? "");
}

async function pullData(c: Context<HttpEnv>): Promise<Response> {
  const { tenant, job: id, attempt } = c.var.attempt;
  const job = await getLedger(c.env.TENANT, tenant).checkJobData(id, attempt);
  if (!job.ok) return respondError(c, job.failure);
  if (job.value === null)
    return respondError(c, { code: "attempt_ended", message: "The job's examples are gone, and it has failed." });
  return c.body(streamJobData(c.env, c.var.attempt, job.value), 200, { "content-type": "application/x-ndjson" });
}

async function downloadArtifact(c: Context<HttpEnv>): Promise<Response> {
  const job = await getJobSpec(c);
  if (!job.ok) return respondError(c, job.failure);
  const object = await c.env.BUCKET.get(getArtifactKey(c));
  if (object === null)
    return respondError(c, { code: "not_found", message: "No artifact of this job has this SHA-256." });
  return c.body(object.body, 200, { "content-type": "application/octet-stream", "content-length": `${object.size}` });
}

async function uploadArtifact(c: Context<HttpEnv>): Promise<Response> {
  const bytes = readContentLength(c, MAX_SINGLE_UPLOAD_BYTES);
  if (!bytes.ok) return respondError(c, bytes.failure);
  const job = await getJobSpec(c);
  if (!job.ok) return respondError(c, job.failure);
  const sha256 = c.req.param("sha256") ?? "";
  const stored = await putArtifact(c.env.BUCKET, getArtifactKey(c), sha256, c.req.raw.body ?? new ArrayBuffer(0));
  if (stored === "stored") return c.json({ sha256, bytes: bytes.value });
  return respondError(c, stored === "wrong" ? artifactMismatch : storageFailure);
}

async function startUpload(c: Context<HttpEnv>): Promise<Response> {
  const request = await readJson(c, uploadRequest);
  if (!request.ok) return respondError(c, request.failure);
  const actual = request.value.bytes;
  if (actual > limits.artifact_bytes) return respondError(c, bodyTooLarge(limits.artifact_bytes, actual));
  const job = await getJobSpec(c);
  if (!job.ok) return respondError(c, job.failure);
  const key = getArtifactKey(c);
  const { uploadId } = await c.env.BUCKET.createMultipartUpload(key);
  const upload = { key, id: uploadId };
  const noted = await getLedger(c.env.TENANT, c.var.attempt.tenant).beginUpload(upload);
  if (noted.ok) return c.json({ object: "batch.upload", upload_id: uploadId, part_bytes: PART_BYTES });
  await abortUpload(c.env.BUCKET, upload).catch(() => undefined);
  return respondError(c, noted.failure);
}

async function uploadPart(c: Context<HttpEnv>): Promise<Response> {
  const bytes = readContentLength(c, PART_BYTES);
  if (!bytes.ok) return respondError(c, bytes.failure);
  const job = await getJobSpec(c);
  if (!job.ok) return respondError(c, job.failure);
  const part = Number(c.req.param("part"));
  const upload = c.env.BUCKET.resumeMultipartUpload(getArtifactKey(c), c.req.param("upload") ?? "");
  const uploaded = await upload.uploadPart(part, c.req.raw.body ?? new ArrayBuffer(0)).catch(() => null);
  return uploaded ? c.json({ part, etag: uploaded.etag }) : respondError(c, artifactMismatch);
}

async function finishUpload(c: Context<HttpEnv>): Promise<Response> {
  const request = await readJson(c, completion);
  if (!request.ok) return respondError(c, request.failure);
  const job = await getJobSpec(c);
  if (!job.ok) return respondError(c, job.failure);
  const { sha256 = "", upload = "" } = c.req.param();
  const key = getArtifactKey(c);
  if (!(await completeUpload(c.env.BUCKET, key, sha256, upload, request.value.parts)))
    return respondError(c, artifactMismatch);
  await getLedger(c.env.TENANT, c.var.attempt.tenant).endUpload({ key, id: upload });
  const object = await c.env.BUCKET.head(key);
  return object ? c.json({ sha256, bytes: object.size }) : respondError(c, artifactMismatch);
}

async function receiveMessage(c: Context<HttpEnv>): Promise<Response> {
  const secrets = [c.env.BATCH_SECRET, c.env.PREVIOUS_BATCH_SECRET].filter((key): key is string => !!key);
  const text = await readText(c);
  if (!text.ok) return respondError(c, text.failure);
  const messageId = verify(secrets, text.value, c.req.raw.headers);
  if (messageId === null) {
    const message = "The signature is missing, wrong, or more than five minutes old.";
    return respondError(c, { code: "invalid_signature", message });
  }
  const parsed = parseAs(text.value, message);
  if (!parsed.ok) return respondError(c, parsed.failure);
  const { tenant, job, attempt } = c.var.attempt;
  const { id, attempt: messageAttempt, ...payload } = parsed.value;
  if (id !== job || messageAttempt !== attempt)
    return respondError(c, {
      code: "invalid_parameter",
      message: "The message is of another job or attempt.",
      param: "id",
    });
  if (payload.type === "finished")
    return respond(c, await finishAttempt(c.env, c.var.attempt, messageId, payload.manifest));
  const event = toJobEvent(payload, attempt);
  const ledger = getLedger(c.env.TENANT, tenant);
  return respond(c, await ledger.receiveMessage({ job, attempt, messageId, event, message: payload }));
}

/** What a message means for the job's state. */
function toJobEvent(payload: Exclude<Message, { type: "finished" }>, attempt: number): JobEvent {
  switch (payload.type) {
    case "checkpoint":
      return { type: "checkpoint", attempt, artifact: payload.artifact };
    case "evaluated":
      return { type: "evaluated", attempt, comparison: payload.judgement, cost: payload.cost };
    case "failed":
      if (payload.endpoint_restarted) return { type: "endpoint_lost", attempt, message: payload.message };
      return { type: "attempt_failed", attempt, message: payload.message, retryable: payload.retryable };
    case "stopped":
      return { type: "stopped", attempt };
    case "heartbeat":
    case "progress":
      return { type: "heartbeat", attempt };
  }
}

const { failure: artifactMismatch } = fail(
  "invalid_artifact",
  "The bytes are not those that the SHA-256 names, or did not come whole. Upload them again.",
);

const { failure: storageFailure } = fail("storage_unavailable", "The bytes could not be stored. Upload them again.", {
  retryAfter: 1,
});

function bodyTooLarge(limit: number, actual: number): Failure {
  const message = `At most ${limit} bytes are taken here; this has ${actual}.`;
  return { code: "body_too_large", message, details: { limit, actual } };
}

/** The `content-length` of a body: R2 takes no body of unknown length. */
function readContentLength(c: Context<HttpEnv>, limit: number): Result<number> {
  const bytes = Number(c.req.header("content-length") ?? Number.NaN);
  if (!Number.isInteger(bytes) || bytes < 1)
    return fail("missing_parameter", "Say by 'content-length' how many bytes there are.", { param: "content-length" });
  return bytes > limit ? { ok: false, failure: bodyTooLarge(limit, bytes) } : ok(bytes);
}

async function readText(c: Context<HttpEnv>): Promise<Result<string>> {
  const bytes = readContentLength(c, MAX_MESSAGE_BYTES);
  if (!bytes.ok) return bytes;
  const text = await c.req.text().catch(() => null);
  return text === null ? fail("upload_incomplete", "The connection ended before the whole body had come.") : ok(text);
}

async function readJson<T>(c: Context<HttpEnv>, schema: z.ZodType<T>): Promise<Result<T>> {
  const text = await readText(c);
  return text.ok ? parseAs(text.value, schema) : text;
}

function parseAs<T>(text: string, schema: z.ZodType<T>): Result<T> {
  const json = parseJson(text);
  if (!json.ok) return json;
  const parsed = schema.safeParse(json.value);
  return parsed.success ? ok(parsed.data) : { ok: false, failure: schemaFailure(parsed.error, json.value) };
}
