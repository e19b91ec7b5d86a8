import { createRoute, z } from "@hono/zod-openapi";
import { datasetImport, example, exampleChange, exampleParams, importQuery } from "../../api/examples.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import { type Failure, ok } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { parseExample } from "../../ingest/example.ts";
import { getImportReader } from "../../ingest/rows.ts";
import { stageRows } from "../../ingest/stage.ts";
import { newId } from "../../lib/id.ts";
import { toExample } from "../../tenant/data/examples.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Examples"], security: tenantSecurity };

const importRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/datasets/{name}/examples",
  summary: "Import labelled examples from JSON, NDJSON or CSV",
  middleware: [tenantAuth("train")] as const,
  request: {
    params: nameParams,
    query: importQuery,
    // The handler reads JSON as a stream too, so it is not declared here: its validator would read it whole.
    body: {
      content: {
        "application/x-ndjson": { schema: z.string().openapi({ description: "one example a line" }) },
        "text/csv": {
          schema: z
            .string()
            .openapi({ description: "a header (text, or id,text; then label, labels or value), then rows" }),
        },
      },
    },
  },
  responses: {
    200: jsonResponse(
      datasetImport,
      "What became of the rows; with on_error=abort nothing is stored unless all are good",
    ),
    ...errorResponses,
  },
});

const listExamplesRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets/{name}/examples",
  summary: "List examples",
  middleware: [tenantAuth("train")] as const,
  request: {
    params: nameParams,
    query: pageQuery.extend({ label: z.string().min(1).max(limits.label_characters).optional() }),
  },
  responses: { 200: jsonResponse(listOf(example), "Examples, newest first"), ...errorResponses },
});

const changeExampleRoute = createRoute({
  ...common,
  method: "patch",
  path: "/v1/datasets/{name}/examples/{id}",
  summary: "Change an example's input or target",
  middleware: [tenantAuth("train")] as const,
  request: { params: exampleParams, body: jsonBody(exampleChange) },
  responses: { 200: jsonResponse(example, "The example as it is now"), ...errorResponses },
});

const deleteExampleRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/datasets/{name}/examples/{id}",
  summary: "Delete an example",
  middleware: [tenantAuth("train")] as const,
  request: { params: exampleParams },
  responses: { 200: jsonResponse(deletedObject("example"), "It is gone"), ...errorResponses },
});

const exportRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets/{name}/export",
  summary: "Export every example as NDJSON, oldest first",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams },
  responses: {
    200: { description: "One example a line", content: { "application/x-ndjson": { schema: z.string() } } },
    ...errorResponses,
  },
});

export function exampleRoutes(app: App): void {
  addRoute(app, importRoute, importExamples);
  addRoute(app, listExamplesRoute, async (c) => {
    const { label, ...page } = c.req.valid("query");
    return respond(c, await c.var.ledger().listExamples(c.req.valid("param").name, label, page));
  });
  addRoute(app, changeExampleRoute, changeExample);
  addRoute(app, deleteExampleRoute, async (c) => {
    const { name, id } = c.req.valid("param");
    return respond(c, await c.var.ledger().deleteExample(name, id));
  });
  addRoute(app, exportRoute, exportExamples);
}

/** Streams a body into the ledger's staging table, then merges all of it at once. */
async function importExamples(c: RouteContext<typeof importRoute>): Promise<Response> {
  const readRows = getImportReader(c.req.header("content-type") ?? "");
  if (readRows === null) {
    const message = "Send examples as 'application/json', 'application/x-ndjson' or 'text/csv'.";
    return respondError(c, { code: "unsupported_media_type", message, param: "content-type" });
  }
  const contentLength = Number(c.req.header("content-length"));
  if (contentLength > limits.import_body_bytes) {
    return respondError(c, {
      code: "body_too_large",
      message: `An import has at most ${limits.import_body_bytes} bytes; this one has ${contentLength}. Split it into several.`,
      details: { limit: limits.import_body_bytes, actual: contentLength },
    });
  }
  const ledger = c.var.ledger();
  const id = newId("import_");
  const beginResult = await ledger.beginImport(c.req.valid("param").name, id);
  if (!beginResult.ok) return respondError(c, beginResult.failure);
  const discardImport = async (failure: Failure) => {
    await ledger.dropImport(id);
    return respondError(c, failure);
  };
  const staged = await stageRows(readRows(c.req.raw.body, beginResult.value), (rows) => ledger.stageRows(id, rows));
  if (!staged.ok) return discardImport(staged.failure);
  const { rejected, errors, firstParam, rows } = staged.value;
  c.set("logFields", { rows, rejected });
  if (c.req.valid("query").on_error === "abort" && errors[0]) {
    const { line, code, message } = errors[0];
    return discardImport({
      code: "import_rejected",
      message: `Nothing was stored: ${rejected} of ${rows} rows are not valid. Line ${line}: ${message}`,
      ...(firstParam === undefined ? {} : { param: firstParam }),
      details: { line, code, errors },
    });
  }
  const merged = await ledger.mergeImport(id);
  if (!merged.ok) return discardImport(merged.failure);
  const { dataset, ...counts } = merged.value;
  return respond(c, ok({ object: "dataset.import", id, ...counts, rejected, errors, dataset }));
}

async function changeExample(c: RouteContext<typeof changeExampleRoute>): Promise<Response> {
  const { name, id } = c.req.valid("param");
  const current = await c.var.ledger().getExample(name, id);
  if (!current.ok) return respondError(c, current.failure);
  const { dataset, row } = current.value;
  const { object: _object, created_at: _created, ...fields } = toExample(dataset.task, row);
  const changed = parseExample({ ...fields, ...c.req.valid("json") }, dataset, "");
  if (!changed.ok) return respondError(c, changed.failure);
  const replacement = { id, expectedHash: row.content_hash, example: changed.value };
  return respond(c, await c.var.ledger().replaceExample(dataset, replacement));
}

async function exportExamples(c: RouteContext<typeof exportRoute>): Promise<Response> {
  const ledger = c.var.ledger();
  const found = await ledger.findDataset(c.req.valid("param").name);
  if (!found.ok) return respondError(c, found.failure);
  let afterPosition = -1;
  const stream = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const page = await ledger.readExamples(found.value, afterPosition);
      if (!page.ok) return controller.error(new Error(page.failure.code));
      if (page.value.examples.length === 0) return controller.close();
      afterPosition = page.value.last;
      const lines = page.value.examples.map(({ object: _object, created_at: _created, ...line }) =>
        JSON.stringify(line),
      );
      controller.enqueue(Buffer.from(`${lines.join("\n")}\n`));
    },
  });
  return c.body(stream, 200, { "content-type": "application/x-ndjson" });
}
