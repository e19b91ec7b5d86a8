import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import {
  datasetImport,
  example,
  exampleChange,
  exampleParams,
  importQuery,
  type RowError,
  type StagedExample,
} from "../../api/examples.ts";
import { deletedObject, listOf, pageQuery } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import { type Failure, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { parseExample } from "../../ingest/example.ts";
import { getImportReader, MAX_ERRORS_SHOWN, tooManyRowsError } from "../../ingest/rows.ts";
import { newId } from "../../lib/id.ts";
import { toExample } from "../../tenant/data/examples.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { App, HttpEnv } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { BodyError } from "../middleware/body.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";

const common = { tags: ["Examples"], security: tenantSecurity };

/** Rows, or characters, of one call to the ledger: a message has at most 32 MiB. */
const STAGE_BATCH_ROWS = 2_000;
const STAGE_BATCH_CHARACTERS = 4_000_000;

export function exampleRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/datasets/{name}/examples",
      summary: "Import labelled examples from JSON, NDJSON or CSV",
      middleware: [tenantAuth("train")] as const,
      request: {
        params: nameParams,
        query: importQuery,
        // Read as a stream by the handler, so not by the validator of a JSON body.
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
    }),
    async (c) => importExamples(c, c.req.valid("param").name, c.req.valid("query").on_error === "abort"),
  );
  addRoute(
    app,
    createRoute({
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
    }),
    async (c) => {
      const { label, ...page } = c.req.valid("query");
      return respond(
        c,
        await getLedger(c.env.TENANT, c.var.caller.tenant).listExamples(c.req.valid("param").name, label, page),
      );
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "patch",
      path: "/v1/datasets/{name}/examples/{id}",
      summary: "Change an example's input or target",
      middleware: [tenantAuth("train")] as const,
      request: { params: exampleParams, body: jsonBody(exampleChange) },
      responses: { 200: jsonResponse(example, "The example as it is now"), ...errorResponses },
    }),
    async (c) => {
      const { name, id } = c.req.valid("param");
      const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
      const current = await tenantLedger.getExample(name, id);
      if (!current.ok) return respondError(c, current.failure);
      const { dataset, row } = current.value;
      const { object: _object, created_at: _created, ...fields } = toExample(dataset.task, row);
      const changed = parseExample({ ...fields, ...c.req.valid("json") }, dataset, "");
      if (!changed.ok) return respondError(c, changed.failure);
      const replacement = { id, expectedHash: row.content_hash, example: changed.value };
      return respond(c, await tenantLedger.replaceExample(dataset, replacement));
    },
  );
  addRoute(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/datasets/{name}/examples/{id}",
      summary: "Delete an example",
      middleware: [tenantAuth("train")] as const,
      request: { params: exampleParams },
      responses: { 200: jsonResponse(deletedObject("example"), "It is gone"), ...errorResponses },
    }),
    async (c) => {
      const { name, id } = c.req.valid("param");
      return respond(c, await getLedger(c.env.TENANT, c.var.caller.tenant).deleteExample(name, id));
    },
  );
  addRoute(
    app,
    createRoute({
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
    }),
    async (c) => {
      const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
      const found = await tenantLedger.findDataset(c.req.valid("param").name);
      if (!found.ok) return respondError(c, found.failure);
      let afterPosition = -1;
      const stream = new ReadableStream<Uint8Array>({
        async pull(controller) {
          const page = await tenantLedger.readExamples(found.value, afterPosition);
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
    },
  );
}

/** Streams a body into the ledger's staging table, then merges it as a whole. */
async function importExamples(c: Context<HttpEnv>, name: string, abortOnError: boolean): Promise<Response> {
  const readRows = getImportReader(c.req.header("content-type") ?? "");
  if (readRows === null) {
    const message = "Send examples as 'application/json', 'application/x-ndjson' or 'text/csv'.";
    return respondError(c, { code: "unsupported_media_type", message, param: "content-type" });
  }
  const contentLength = Number(c.req.header("content-length"));
  if (contentLength > limits.import_body_bytes) {
    const message = `An import has at most ${limits.import_body_bytes} bytes; this one has ${contentLength}. Split it into several.`;
    return respondError(c, {
      code: "body_too_large",
      message,
      details: { limit: limits.import_body_bytes, actual: contentLength },
    });
  }
  const tenantLedger = getLedger(c.env.TENANT, c.var.caller.tenant);
  const id = newId("import_");
  const beginResult = await tenantLedger.beginImport(name, id);
  if (!beginResult.ok) return respondError(c, beginResult.failure);

  const discardImport = async (failure: Failure) => {
    await tenantLedger.dropImport(id);
    return respondError(c, failure);
  };
  const stageResult = await stageRows(readRows(c.req.raw.body, beginResult.value), (rows) =>
    tenantLedger.stageRows(id, rows),
  );
  if (!stageResult.ok) return discardImport(stageResult.failure);
  const { rejected, errors, firstParam, rows } = stageResult.value;
  c.set("logFields", { rows, rejected });
  if (abortOnError && errors[0]) {
    const { line, code, message } = errors[0];
    return discardImport({
      code: "import_rejected",
      message: `Nothing was stored: ${rejected} of ${rows} rows are not valid. Line ${line}: ${message}`,
      ...(firstParam === undefined ? {} : { param: firstParam }),
      details: { line, code, errors },
    });
  }
  const merged = await tenantLedger.mergeImport(id);
  if (!merged.ok) return discardImport(merged.failure);
  const { dataset, ...counts } = merged.value;
  return respond(c, ok({ object: "dataset.import", id, ...counts, rejected, errors, dataset }));
}

interface StageSummary {
  readonly rows: number;
  readonly rejected: number;
  readonly errors: readonly RowError[];
  readonly firstParam: string | undefined;
}

async function stageRows(
  source: ReturnType<NonNullable<ReturnType<typeof getImportReader>>>,
  stage: (rows: StagedExample[]) => Promise<Result<null>>,
): Promise<Result<StageSummary>> {
  const errors: RowError[] = [];
  let firstParam: string | undefined;
  let rejected = 0;
  let emptyRows = 0;
  let rowsRead = 0;
  let batch: StagedExample[] = [];
  let batchCharacters = 0;
  try {
    for await (const item of source) {
      if (++rowsRead > limits.import_rows) throw tooManyRowsError(rowsRead);
      if (item === null) {
        emptyRows++;
        continue;
      }
      if ("error" in item) {
        rejected++;
        if (errors.length === 0) firstParam = item.param;
        if (errors.length < MAX_ERRORS_SHOWN) errors.push(item.error);
        continue;
      }
      batch.push(item.row);
      batchCharacters += item.row.input.length + item.row.target.length;
      if (batch.length < STAGE_BATCH_ROWS && batchCharacters < STAGE_BATCH_CHARACTERS) continue;
      const done = await stage(batch);
      if (!done.ok) return done;
      batch = [];
      batchCharacters = 0;
    }
    const done = batch.length === 0 ? ok(null) : await stage(batch);
    return done.ok ? ok({ rows: rowsRead - emptyRows, rejected, errors, firstParam }) : done;
  } catch (error) {
    if (error instanceof BodyError) return { ok: false, failure: error.failure };
    throw error;
  }
}
