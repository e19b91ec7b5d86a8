import { createRoute, z } from "@hono/zod-openapi";
import { FILE_PURPOSE, file, fileListQuery, fileParams } from "../../api/files.ts";
import { deletedObject, listOf } from "../../api/lists.ts";
import { ok } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { bodyError, limitBytes } from "../../ingest/body.ts";
import { FILE_TOO_LARGE, fileTooLargeError } from "../../ingest/check-file.ts";
import { readForm } from "../../ingest/multipart.ts";
import { readFile } from "../../store/files.ts";
import { type FileReader, type NamedFile, storeFile } from "../../training/files.ts";
import { type App, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, anyQuery, errorResponses, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Files"], security: tenantSecurity };

const uploadRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/files",
  operationId: "createFile",
  summary: "Upload a file to fine-tune on",
  description:
    "OpenAI's route. Lines are checked while they arrive; a file with a bad line is refused with the first hundred of them.",
  middleware: [tenantAuth("train")] as const,
  request: {
    query: anyQuery,
    body: {
      required: true,
      content: {
        "multipart/form-data": {
          // Not a zod schema: its validator would read the whole form into memory.
          schema: {
            type: "object",
            properties: {
              purpose: { type: "string", enum: [FILE_PURPOSE] },
              file: {
                type: "string",
                format: "binary",
                description: "JSONL: on each line a labelled example, or a chat whose last message is the label",
              },
            },
            required: ["purpose", "file"],
          },
        },
      },
    },
  },
  responses: {
    200: jsonResponse(file, "The file, checked and stored; one with a bad line is not stored"),
    ...errorResponses,
  },
});

const listFilesRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/files",
  operationId: "listFiles",
  summary: "List files",
  description: "OpenAI's list of files.",
  middleware: [tenantAuth("train")] as const,
  request: { query: fileListQuery },
  responses: { 200: jsonResponse(listOf(file), "Files, newest first unless asked otherwise"), ...errorResponses },
});

const getFileRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/files/{id}",
  operationId: "getFile",
  summary: "Get a file's description",
  description: "What is known of the file: its size, and under 'graft' what its lines hold.",
  middleware: [tenantAuth("train")] as const,
  request: { query: anyQuery, params: fileParams },
  responses: { 200: jsonResponse(file, "The file"), ...errorResponses },
});

const deleteFileRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/files/{id}",
  operationId: "deleteFile",
  summary: "Delete a file",
  description: "Deletes the file for good. A file that a job still needs is kept, with 409.",
  middleware: [tenantAuth("train")] as const,
  request: { query: anyQuery, params: fileParams },
  responses: {
    200: jsonResponse(deletedObject("file"), "It is gone; what was trained on it stays"),
    ...errorResponses,
  },
});

const fileContentRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/files/{id}/content",
  operationId: "getFileContent",
  summary: "Get a file's bytes as they were uploaded",
  description: "Streams the file, byte for byte.",
  middleware: [tenantAuth("train")] as const,
  request: { query: anyQuery, params: fileParams },
  responses: {
    200: {
      description: "The bytes",
      content: { "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) } },
    },
    ...errorResponses,
  },
});

export function fileRoutes(app: App): void {
  addRoute(app, uploadRoute, uploadFile);
  addRoute(app, listFilesRoute, async (c) => {
    const { limit, after, order, purpose = FILE_PURPOSE } = c.req.valid("query");
    if (purpose !== FILE_PURPOSE)
      return respond(c, ok({ object: "list", data: [], first_id: null, last_id: null, has_more: false }));
    return respond(c, await c.var.ledger().listFiles({ limit, after, order }));
  });
  addRoute(app, getFileRoute, async (c) => respond(c, await c.var.ledger().getFile(c.req.valid("param").id)));
  addRoute(app, deleteFileRoute, async (c) => respond(c, await c.var.ledger().deleteFile(c.req.valid("param").id)));
  addRoute(app, fileContentRoute, getFileContent);
}

/** What a form may have beside its file. */
const MAX_FORM_OVERHEAD_BYTES = 1024 * 1024;
const MAX_FORM_BYTES = limits.file_bytes + MAX_FORM_OVERHEAD_BYTES;
const MAX_FILENAME_CHARACTERS = 256;

async function uploadFile(c: RouteContext<typeof uploadRoute>): Promise<Response> {
  const stored = await storeFile(tenantRequest(c), async (read) => {
    const uploaded = await readUpload(c, read);
    c.set("logFields", { bytes: uploaded.bytes, examples: uploaded.examples, rejected: uploaded.rejected });
    return uploaded;
  });
  return respond(c, stored);
}

async function readUpload(c: RouteContext<typeof uploadRoute>, read: FileReader): Promise<NamedFile> {
  const contentLength = Number(c.req.header("content-length"));
  if (contentLength > MAX_FORM_BYTES) throw fileTooLargeError(contentLength);
  const type = c.req.header("content-type") ?? "";
  const body = limitBytes(c.req.raw.body, MAX_FORM_BYTES, FILE_TOO_LARGE);
  const form = await readForm(body, type, "file", async (bytes, name, earlierFields) => {
    // A wrong purpose is refused before 100 MB are read.
    if (earlierFields.has("purpose")) checkPurpose(earlierFields.get("purpose"));
    return { ...(await read(bytes)), filename: sanitizeFilename(name) };
  });
  checkPurpose(form.fields.get("purpose"));
  if (form.file === null)
    throw bodyError("missing_parameter", "'file' is required: the JSONL file to train on.", { param: "file" });
  return form.file;
}

function checkPurpose(purpose: string | undefined): void {
  const paramField = { param: "purpose" };
  if (purpose === undefined)
    throw bodyError("missing_parameter", `'purpose' is required: send '${FILE_PURPOSE}'.`, paramField);
  if (purpose !== FILE_PURPOSE)
    throw bodyError("invalid_parameter", `'purpose' is not valid: files are for '${FILE_PURPOSE}' alone.`, paramField);
}

/** A file's name without characters that no name may hold. It is never part of a storage key. */
function sanitizeFilename(name: string): string {
  return (
    name
      .replace(/\p{Cc}/gu, "")
      .slice(0, MAX_FILENAME_CHARACTERS)
      .toWellFormed() || "file"
  );
}

async function getFileContent(c: RouteContext<typeof fileContentRoute>): Promise<Response> {
  const found = await c.var.ledger().getFile(c.req.valid("param").id);
  if (!found.ok) return respondError(c, found.failure);
  const bytes = await readFile(c.env.BUCKET, c.var.caller.tenant, found.value.id).catch(() => null);
  if (bytes) return c.body(bytes, 200, { "content-type": "application/octet-stream" });
  const message = "The file's bytes could not be read. Try again in a few seconds.";
  return respondError(c, { code: "storage_unavailable", message, retryAfter: 5 });
}
