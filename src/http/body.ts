/** What a body may be: JSON of bounded size, but for imports, which are read as streams with limits of their own. */
import { bodyLimit } from "hono/body-limit";
import { createMiddleware } from "hono/factory";
import type { Failure } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import type { HttpEnv } from "./context.ts";
import { failed } from "./errors.ts";

const JSON_TYPE = /^application\/([a-z-.]+\+)?json\s*(;|$)/i;
const WITH_BODY: ReadonlySet<string> = new Set(["POST", "PUT", "PATCH"]);

export function notJson(type: string): Failure {
  const message = `The body must be JSON: send 'content-type: application/json'${type === "" ? "" : `, not '${type.slice(0, 100)}'`}.`;
  return { code: "unsupported_media_type", message, param: "content-type" };
}

const IMPORT_PATH = /^\/v1\/datasets\/[^/]+\/examples$/;

const jsonLimit = bodyLimit({
  maxSize: limits.json_body_bytes,
  onError: (c) =>
    failed(c, {
      code: "body_too_large",
      message: `A JSON body has at most ${limits.json_body_bytes} bytes. Send large data sets as NDJSON or CSV.`,
      details: { limit: limits.json_body_bytes, actual: Number(c.req.header("content-length")) || null },
    }),
});

/**
 * Refuses bodies that no route takes, and reads the others whole, but for imports, so that what is thrown later is never
 * the client's connection. It runs only for callers whose key is known.
 */
export const boundedBody = createMiddleware<HttpEnv>(async (c, next) => {
  if (!WITH_BODY.has(c.req.method)) return next();
  const type = c.req.header("content-type") ?? "";
  const isImport = IMPORT_PATH.test(c.req.path);
  if (!JSON_TYPE.test(type)) {
    return isImport || c.req.header("content-length") === "0" ? next() : failed(c, notJson(type));
  }
  const read = jsonLimit(c, async () => {
    if (!isImport) await c.req.text();
  });
  const refused = await read.catch(() =>
    failed(c, {
      code: "upload_incomplete",
      message: "The connection ended before the whole body had come. Nothing was changed; send it again.",
    }),
  );
  return refused ?? next();
});
