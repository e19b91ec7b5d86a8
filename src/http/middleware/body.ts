/** Checks and reads the body of a request: JSON of bounded size. Imports and files are read as streams by their routes. */
import { isUtf8 } from "node:buffer";
import { bodyLimit } from "hono/body-limit";
import { createMiddleware } from "hono/factory";
import type { Failure } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { checkJsonShape, connectionLost, notUtf8Failure } from "../../ingest/body.ts";
import type { HttpEnv } from "../context.ts";
import { notJsonFailure, respondError } from "./errors.ts";

const JSON_TYPE = /^application\/([a-z-.]+\+)?json\s*(;|$)/i;
const METHODS_WITH_BODY: ReadonlySet<string> = new Set(["POST", "PUT", "PATCH"]);
const STREAMED_BODY_PATH = /^\/v1\/(datasets\/[^/]+\/examples|files)$/;

/** Why a body's encoding is refused, or null where routes can read it. */
export function checkEncoding(contentType: string, contentEncoding: string): Failure | null {
  const encoding = contentEncoding.trim().toLowerCase();
  if (encoding !== "" && encoding !== "identity") {
    const message = `The body must be sent as it is, not with the content-encoding '${encoding.slice(0, 100)}'.`;
    return { code: "unsupported_media_type", message, param: "content-encoding" };
  }
  const charset = /;\s*charset\s*=\s*"?([^\s";]+)/i.exec(contentType)?.[1];
  if (charset === undefined || /^utf-?8$/i.test(charset)) return null;
  const message = `The body must be UTF-8, not '${charset.slice(0, 100)}'. Encode it as UTF-8; an import reads other encodings without a charset, by '?encoding='.`;
  return { code: "unsupported_media_type", message, param: "content-type" };
}

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
 * Refuses a body that no route takes. Reads JSON bodies whole, so that an exception thrown later is never a lost client
 * connection. It runs only for callers whose key is known.
 */
export const checkBody = createMiddleware<HttpEnv>(async (c, next) => {
  if (!METHODS_WITH_BODY.has(c.req.method)) return next();
  const type = c.req.header("content-type") ?? "";
  const encodingFailure = checkEncoding(type, c.req.header("content-encoding") ?? "");
  if (encodingFailure) return respondError(c, encodingFailure);
  if (STREAMED_BODY_PATH.test(c.req.path)) return next();
  if (!JSON_TYPE.test(type)) {
    // curl sends an empty body without a length.
    const isEmpty = c.req.raw.body === null || c.req.header("content-length") === "0";
    return isEmpty ? next() : respondError(c, notJsonFailure(type));
  }
  let bytes: Uint8Array | null = null;
  const read = limitJsonBody(c, async () => {
    bytes = new Uint8Array(await c.req.raw.arrayBuffer());
  });
  const errorResponse = await read.catch(() => respondError(c, connectionLost));
  if (errorResponse) return errorResponse;
  if (bytes !== null) {
    if (!isUtf8(bytes)) return respondError(c, notUtf8Failure);
    const text = new TextDecoder().decode(bytes);
    const shapeFailure = checkJsonShape(text);
    if (shapeFailure) return respondError(c, shapeFailure);
    // hono looks here first; otherwise it would decode the body by way of another response. It caches promises, which its
    // type does not say.
    (c.req.bodyCache as unknown as { text: Promise<string> }).text = Promise.resolve(text);
  }
  return next();
});
