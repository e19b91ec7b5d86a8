import { createRoute, z } from "@hono/zod-openapi";
import { FILE_PURPOSE, file, fileListQuery, fileParams } from "../../api/files.ts";
import { deletedObject, listOf } from "../../api/lists.ts";
import { ok } from "../../core/failure.ts";
import { readFile } from "../../store/files.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, anyQuery, errorResponses, jsonResponse, tenantSecurity } from "../route.ts";
import { uploadFile } from "./upload.ts";

const common = { tags: ["Files"], security: tenantSecurity };
export function fileRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/files",
      summary: "Upload a file to fine-tune on",
      middleware: [tenantAuth("train")] as const,
      request: {
        query: anyQuery,
        body: {
          required: true,
          content: {
            "multipart/form-data": {
              // No zod schema: its validator would read the form whole into memory.
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
    }),
    (c) => uploadFile(c),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/files",
      summary: "List files",
      middleware: [tenantAuth("train")] as const,
      request: { query: fileListQuery },
      responses: { 200: jsonResponse(listOf(file), "Files, newest first unless asked otherwise"), ...errorResponses },
    }),
    async (c) => {
      const { limit, after, order, purpose = FILE_PURPOSE } = c.req.valid("query");
      if (purpose !== FILE_PURPOSE)
        return respond(c, ok({ object: "list", data: [], first_id: null, last_id: null, has_more: false }));
      return respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).listFiles({ limit, after, order }));
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/files/{id}",
      summary: "Get a file's description",
      middleware: [tenantAuth("train")] as const,
      request: { query: anyQuery, params: fileParams },
      responses: { 200: jsonResponse(file, "The file"), ...errorResponses },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).getFile(c.req.valid("param").id)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/files/{id}",
      summary: "Delete a file",
      middleware: [tenantAuth("train")] as const,
      request: { query: anyQuery, params: fileParams },
      responses: {
        200: jsonResponse(deletedObject("file"), "It is gone; what was trained on it stays"),
        ...errorResponses,
      },
    }),
    async (c) => respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).deleteFile(c.req.valid("param").id)),
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/files/{id}/content",
      summary: "Get a file's bytes as they were uploaded",
      middleware: [tenantAuth("train")] as const,
      request: { query: anyQuery, params: fileParams },
      responses: {
        200: {
          description: "The bytes",
          content: { "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) } },
        },
        ...errorResponses,
      },
    }),
    async (c) => {
      const { tenant } = c.var.caller;
      const found = await getLedger(c.env.TENANT, tenant).getFile(c.req.valid("param").id);
      if (!found.ok) return respondError(c, found.failure);
      const bytes = await readFile(c.env.BUCKET, tenant, found.value.id).catch(() => null);
      if (bytes) return c.body(bytes, 200, { "content-type": "application/octet-stream" });
      const message = "The file's bytes could not be read. Try again in a few seconds.";
      return respondError(c, { code: "storage_unavailable", message, retryAfter: 5 });
    },
  );
}
