/**
 * What a batch endpoint calls, under `/internal/batch/jobs/{id}/attempts/{n}`: the data it pulls, artifacts, and messages.
 * Every call carries the token of its job and attempt; messages are signed as well. docs/batch-endpoint.md is the contract.
 */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { z } from "zod";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { completion, LARGEST_SINGLE_UPLOAD, message, PART_BYTES, uploadRequest } from "../../jobs/protocol.ts";
import { verify } from "../../jobs/sign.ts";
import { verifyToken } from "../../jobs/token.ts";
import { completeUpload, putArtifact } from "../../store/artifacts.ts";
import { artifactKey } from "../../store/keys.ts";
import type { JobSpec } from "../../tenant/jobs/jobs.ts";
import { ledger } from "../../tenant/tenant.ts";
import { bearer } from "../middleware/auth.ts";
import { dataStream } from "./batch-data.ts";
import { finish } from "./batch-finish.ts";
import { parseJson } from "../middleware/body.ts";
import type { App, HttpEnv } from "../context.ts";
import { answer, failed, schemaFailure } from "../middleware/errors.ts";
import { serverKeysOf } from "../middleware/keys.ts";

const ATTEMPT = "/internal/batch/jobs/:job/attempts/:attempt{[1-9][0-9]{0,8}}";
const ARTIFACT = `${ATTEMPT}/artifacts/:sha256{[0-9a-f]{64}}`;
const MESSAGE_BYTES = 2_500_000;

/** Lets a call through with the token of the attempt that its path names, if that is the current one. */
const currentAttempt = createMiddleware<HttpEnv>(async (c, next) => {
  const attempt = verifyToken(serverKeysOf(c.env), bearer(c) ?? "");
  if (attempt === null || attempt.job !== c.req.param("job") || String(attempt.attempt) !== c.req.param("attempt")) {
    const message = "The token is missing or wrong, or that of another job or attempt.";
    return failed(c, { code: "invalid_api_key", message });
  }
  c.set("attempt", attempt);
  await next();
});

/** The specification of the current attempt's job. */
function spec(c: Context<HttpEnv>): Promise<Result<JobSpec>> {
  const { tenant, job, attempt } = c.var.attempt;
  return ledger(c.env.TENANT, tenant).currentAttempt(job, attempt);
}

/** Outside of the contract with callers, and of /openapi.json. */
export function batchRoutes(app: App): void {
  app.use(`${ATTEMPT}/*`, currentAttempt);

  app.get(`${ATTEMPT}/data`, async (c) => {
    const { tenant, job: id, attempt } = c.var.attempt;
    const job = await ledger(c.env.TENANT, tenant).openJobData(id, attempt);
    if (!job.ok) return failed(c, job.failure);
    if (job.value === null)
      return failed(c, { code: "attempt_ended", message: "The job's examples are gone, and it has failed." });
    return c.body(dataStream(c.env, c.var.attempt, job.value), 200, { "content-type": "application/x-ndjson" });
  });

  app.get(ARTIFACT, async (c) => {
    const job = await spec(c);
    if (!job.ok) return failed(c, job.failure);
    const object = await c.env.BUCKET.get(keyOf(c));
    if (object === null) return failed(c, { code: "not_found", message: "No artifact of this job has this SHA-256." });
    return c.body(object.body, 200, { "content-type": "application/octet-stream", "content-length": `${object.size}` });
  });

  app.put(ARTIFACT, async (c) => {
    const bytes = contentLength(c, LARGEST_SINGLE_UPLOAD);
    if (!bytes.ok) return failed(c, bytes.failure);
    const job = await spec(c);
    if (!job.ok) return failed(c, job.failure);
    const sha256 = c.req.param("sha256");
    const stored = await putArtifact(c.env.BUCKET, keyOf(c), sha256, c.req.raw.body ?? new ArrayBuffer(0));
    if (stored === "stored") return c.json({ sha256, bytes: bytes.value });
    return failed(c, stored === "wrong" ? notThoseBytes : notStored);
  });

  app.post(`${ARTIFACT}/uploads`, async (c) => {
    const wanted = await readJson(c, uploadRequest);
    if (!wanted.ok) return failed(c, wanted.failure);
    const actual = wanted.value.bytes;
    if (actual > limits.artifact_bytes) return failed(c, tooLarge(limits.artifact_bytes, actual));
    const job = await spec(c);
    if (!job.ok) return failed(c, job.failure);
    const { uploadId } = await c.env.BUCKET.createMultipartUpload(keyOf(c));
    return c.json({ object: "batch.upload", upload_id: uploadId, part_bytes: PART_BYTES });
  });

  app.put(`${ARTIFACT}/uploads/:upload/:part{[1-9][0-9]{0,4}}`, async (c) => {
    const bytes = contentLength(c, PART_BYTES);
    if (!bytes.ok) return failed(c, bytes.failure);
    const job = await spec(c);
    if (!job.ok) return failed(c, job.failure);
    const part = Number(c.req.param("part"));
    const upload = c.env.BUCKET.resumeMultipartUpload(keyOf(c), c.req.param("upload"));
    const uploaded = await upload.uploadPart(part, c.req.raw.body ?? new ArrayBuffer(0)).catch(() => null);
    return uploaded ? c.json({ part, etag: uploaded.etag }) : failed(c, notThoseBytes);
  });

  app.post(`${ARTIFACT}/uploads/:upload`, async (c) => {
    const wanted = await readJson(c, completion);
    if (!wanted.ok) return failed(c, wanted.failure);
    const job = await spec(c);
    if (!job.ok) return failed(c, job.failure);
    const { sha256, upload } = c.req.param();
    if (!(await completeUpload(c.env.BUCKET, keyOf(c), sha256, upload, wanted.value.parts)))
      return failed(c, notThoseBytes);
    const object = await c.env.BUCKET.head(keyOf(c));
    return object ? c.json({ sha256, bytes: object.size }) : failed(c, notThoseBytes);
  });

  app.post(`${ATTEMPT}/messages`, async (c) => {
    const secrets = [c.env.BATCH_SECRET, c.env.PREVIOUS_BATCH_SECRET].filter((key): key is string => !!key);
    const read = await readText(c);
    if (!read.ok) return failed(c, read.failure);
    const messageId = verify(secrets, read.value, c.req.raw.headers);
    if (messageId === null) {
      const message = "The signature is missing, wrong, or more than five minutes old.";
      return failed(c, { code: "invalid_signature", message });
    }
    const parsed = readAs(read.value, message);
    if (!parsed.ok) return failed(c, parsed.failure);
    const { tenant, job, attempt } = c.var.attempt;
    const { id, attempt: told, ...said } = parsed.value;
    if (id !== job || told !== attempt)
      return failed(c, {
        code: "invalid_parameter",
        message: "The message is of another job or attempt.",
        param: "id",
      });
    const owner = ledger(c.env.TENANT, tenant);
    if (said.type === "finished") return answer(c, await finish(c.env, c.var.attempt, messageId, said.manifest));
    const event =
      said.type === "checkpoint"
        ? { type: said.type, attempt, artifact: said.artifact }
        : said.type === "evaluated"
          ? { type: said.type, attempt, judgement: said.judgement }
          : said.type === "failed"
            ? { type: "attempt_failed" as const, attempt, message: said.message, retryable: said.retryable }
            : { type: said.type === "stopped" ? said.type : ("heard" as const), attempt };
    return answer(c, await owner.receiveMessage(job, attempt, messageId, event, said));
  });
}

const { failure: notThoseBytes } = fail(
  "invalid_artifact",
  "The bytes are not those that the SHA-256 names, or did not come whole. Upload them again.",
);

const { failure: notStored } = fail("storage_unavailable", "The bytes could not be stored. Upload them again.", {
  retryAfter: 1,
});

function tooLarge(limit: number, actual: number): Failure {
  const message = `At most ${limit} bytes are taken here; this has ${actual}.`;
  return { code: "body_too_large", message, details: { limit, actual } };
}

function keyOf(c: Context<HttpEnv>): string {
  return artifactKey(c.var.attempt.tenant, c.var.attempt.job, c.req.param("sha256") ?? "");
}

/** How many bytes a body says that it has: R2 takes none of unknown length. */
function contentLength(c: Context<HttpEnv>, limit: number): Result<number> {
  const bytes = Number(c.req.header("content-length") ?? Number.NaN);
  if (!Number.isInteger(bytes) || bytes < 1)
    return fail("missing_parameter", "Say by 'content-length' how many bytes there are.", { param: "content-length" });
  return bytes > limit ? { ok: false, failure: tooLarge(limit, bytes) } : ok(bytes);
}

async function readText(c: Context<HttpEnv>): Promise<Result<string>> {
  const bytes = contentLength(c, MESSAGE_BYTES);
  if (!bytes.ok) return bytes;
  const text = await c.req.text().catch(() => null);
  return text === null ? fail("upload_incomplete", "The connection ended before the whole body had come.") : ok(text);
}

async function readJson<T>(c: Context<HttpEnv>, schema: z.ZodType<T>): Promise<Result<T>> {
  const text = await readText(c);
  return text.ok ? readAs(text.value, schema) : text;
}

function readAs<T>(text: string, schema: z.ZodType<T>): Result<T> {
  const given = parseJson(text);
  if (!given.ok) return given;
  const parsed = schema.safeParse(given.value);
  return parsed.success ? ok(parsed.data) : { ok: false, failure: schemaFailure(parsed.error, given.value) };
}
