/** What a body may be: JSON of bounded size, but for imports and files, which are read as streams with limits of their own. */
import { isUtf8 } from "node:buffer";
import { bodyLimit } from "hono/body-limit";
import { createMiddleware } from "hono/factory";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import type { HttpEnv } from "../context.ts";
import { respondError } from "./errors.ts";

const JSON_TYPE = /^application\/([a-z-.]+\+)?json\s*(;|$)/i;
const METHODS_WITH_BODY: ReadonlySet<string> = new Set(["POST", "PUT", "PATCH"]);

export function notJsonFailure(type: string): Failure {
  const message = `The body must be JSON: send 'content-type: application/json'${type === "" ? "" : `, not '${type.slice(0, 100)}'`}.`;
  return { code: "unsupported_media_type", message, param: "content-type" };
}

export const notUtf8Failure: Failure = {
  code: "invalid_json",
  message: "The body is not UTF-8, as JSON must be. Encode it as UTF-8.",
};

/** Why a body in an encoding that no route reads is refused; null where it may be read. */
export function checkEncoding(contentType: string, contentEncoding: string): Failure | null {
  const encoding = contentEncoding.trim().toLowerCase();
  if (encoding !== "" && encoding !== "identity") {
    const message = `The body must be sent as it is, not with the content-encoding '${encoding.slice(0, 100)}'.`;
    return { code: "unsupported_media_type", message, param: "content-encoding" };
  }
  const charset = /;\s*charset\s*=\s*"?([^\s";]+)/i.exec(contentType)?.[1];
  if (charset === undefined || /^utf-?8$/i.test(charset)) return null;
  const message = `The body must be UTF-8, not '${charset.slice(0, 100)}'. Encode it as UTF-8.`;
  return { code: "unsupported_media_type", message, param: "content-type" };
}

const STREAMED_BODY_PATH = /^\/v1\/(datasets\/[^/]+\/examples|files)$/;

const connectionLost: Failure = {
  code: "upload_incomplete",
  message: "The connection ended before the whole body had come. Nothing was changed; send it again.",
};

const limitJsonBody = bodyLimit({
  maxSize: limits.json_body_bytes,
  onError: (c) =>
    respondError(c, {
      code: "body_too_large",
      message: `A JSON body has at most ${limits.json_body_bytes} bytes. Send large data sets as NDJSON or CSV.`,
      details: { limit: limits.json_body_bytes, actual: Number(c.req.header("content-length")) || null },
    }),
});

/**
 * Refuses bodies that no route takes, and reads the others whole, but for those read as streams, so that what is thrown later is never
 * the client's connection. It runs only for callers whose key is known.
 */
export const checkBody = createMiddleware<HttpEnv>(async (c, next) => {
  if (!METHODS_WITH_BODY.has(c.req.method)) return next();
  const type = c.req.header("content-type") ?? "";
  const encodingFailure = checkEncoding(type, c.req.header("content-encoding") ?? "");
  if (encodingFailure) return respondError(c, encodingFailure);
  const isStreamed = STREAMED_BODY_PATH.test(c.req.path);
  if (!JSON_TYPE.test(type)) {
    // Without a body there may be no length either, as curl sends it.
    const isEmpty = c.req.raw.body === null || c.req.header("content-length") === "0";
    return isStreamed || isEmpty ? next() : respondError(c, notJsonFailure(type));
  }
  let bytes: Uint8Array | null = null;
  const read = limitJsonBody(c, async () => {
    if (!isStreamed) bytes = new Uint8Array(await c.req.raw.arrayBuffer());
  });
  const errorResponse = await read.catch(() => respondError(c, connectionLost));
  if (errorResponse) return errorResponse;
  if (bytes !== null) {
    if (!isUtf8(bytes)) return respondError(c, notUtf8Failure);
    // Where hono looks first, or it would decode by way of another response. It keeps promises there, which its type does not say.
    (c.req.bodyCache as unknown as { text: Promise<string> }).text = Promise.resolve(new TextDecoder().decode(bytes));
  }
  return next();
});

/** Thrown while a body is read as a stream: it is not read on, and nothing of it counts. */
export class BodyError extends Error {
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.code);
    this.failure = failure;
  }
}

export function bodyError(...args: Parameters<typeof fail>): BodyError {
  return new BodyError(fail(...args).failure);
}

/** Passes a body on, counted: past the limit, or where the connection ends early, it throws a BodyRefused. */
export async function* limitBytes(
  body: ReadableStream<Uint8Array> | null,
  limit: number,
  message: string,
): AsyncGenerator<Uint8Array> {
  if (body === null) return;
  let actual = 0;
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new BodyError(connectionLost);
      });
      if (done) return;
      actual += value.byteLength;
      if (actual > limit) throw bodyError("body_too_large", message, { details: { limit, actual } });
      yield value;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** What a body says, where it is JSON. */
export function parseJson(text: string): Result<unknown> {
  try {
    return ok(JSON.parse(text));
  } catch {
    return fail("invalid_json", "The body is not valid JSON. Check quotes, commas and brackets.");
  }
}
