import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { codes, type Failure, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { newId } from "../../lib/id.ts";
import { toExample } from "../../tenant/data/examples.ts";
import type { StagedExample } from "../../tenant/data/imports.ts";
import { ledger } from "../../tenant/tenant.ts";
import { tenantKey } from "../middleware/auth.ts";
import { BodyRefused } from "../middleware/body.ts";
import { type App, type HttpEnv, route } from "../context.ts";
import { dataset, nameParams } from "./datasets.ts";
import { answer, failed } from "../middleware/errors.ts";
import { parseExample } from "../../ingest/example.ts";
import { ERRORS_SHOWN, importReader, type RowError, tooManyRows } from "../../ingest/rows.ts";
import { body, deleted, errors, example, json, labelledExample, listOf, pageQuery, tenantSecurity } from "../../api/schema.ts";

const imported = z
  .object({
    object: z.literal("dataset.import"),
    id: z.string(),
    added: z.number().int(),
    updated: z.number().int(),
    unchanged: z.number().int(),
    rejected: z.number().int(),
    errors: z.array(z.object({ line: z.number().int(), code: z.enum(codes), message: z.string() })),
    dataset,
  })
  .openapi("DatasetImport");
const common = { tags: ["Examples"], security: tenantSecurity };
const exampleParams = nameParams.extend({ id: z.string().min(1).max(256) });
const examplePatch = labelledExample.omit({ id: true });

/** Rows, or characters, of one call to the ledger: a message has at most 32 MiB. */
const STAGED_ROWS = 2_000;
const STAGED_SIZE = 4_000_000;

export function exampleRoutes(app: App): void {
  route(
    app,
    createRoute({
      ...common,
      method: "post",
      path: "/v1/datasets/{name}/examples",
      summary: "Import labelled examples from JSON, NDJSON or CSV",
      middleware: [tenantKey("train")] as const,
      request: {
        params: nameParams,
        query: z.strictObject({ on_error: z.enum(["continue", "abort"]).default("continue") }),
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
        200: json(imported, "What became of the rows; with on_error=abort nothing is stored unless all are good"),
        ...errors,
      },
    }),
    async (c) => importExamples(c, c.req.valid("param").name, c.req.valid("query").on_error === "abort"),
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/datasets/{name}/examples",
      summary: "List examples",
      middleware: [tenantKey("train")] as const,
      request: {
        params: nameParams,
        query: pageQuery.extend({ label: z.string().min(1).max(limits.label_characters).optional() }),
      },
      responses: { 200: json(listOf(example), "Examples, newest first"), ...errors },
    }),
    async (c) => {
      const { label, ...page } = c.req.valid("query");
      return answer(
        c,
        await ledger(c.env.TENANT, c.var.caller.tenant).listExamples(c.req.valid("param").name, label, page),
      );
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "patch",
      path: "/v1/datasets/{name}/examples/{id}",
      summary: "Change an example's input or target",
      middleware: [tenantKey("train")] as const,
      request: { params: exampleParams, body: body(examplePatch) },
      responses: { 200: json(example, "The example as it is now"), ...errors },
    }),
    async (c) => {
      const { name, id } = c.req.valid("param");
      const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
      const current = await tenant.getExample(name, id);
      if (!current.ok) return failed(c, current.failure);
      const { dataset, row } = current.value;
      const { object: _object, created_at: _created, ...fields } = toExample(dataset.task, row);
      const changed = parseExample({ ...fields, ...c.req.valid("json") }, dataset, "");
      if (!changed.ok) return failed(c, changed.failure);
      return answer(c, await tenant.replaceExample(dataset, id, row.content_hash, changed.value));
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "delete",
      path: "/v1/datasets/{name}/examples/{id}",
      summary: "Delete an example",
      middleware: [tenantKey("train")] as const,
      request: { params: exampleParams },
      responses: { 200: json(deleted("example"), "It is gone"), ...errors },
    }),
    async (c) => {
      const { name, id } = c.req.valid("param");
      return answer(c, await ledger(c.env.TENANT, c.var.caller.tenant).deleteExample(name, id));
    },
  );
  route(
    app,
    createRoute({
      ...common,
      method: "get",
      path: "/v1/datasets/{name}/export",
      summary: "Export every example as NDJSON, oldest first",
      middleware: [tenantKey("train")] as const,
      request: { params: nameParams },
      responses: {
        200: { description: "One example a line", content: { "application/x-ndjson": { schema: z.string() } } },
        ...errors,
      },
    }),
    async (c) => {
      const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
      const found = await tenant.findDataset(c.req.valid("param").name);
      if (!found.ok) return failed(c, found.failure);
      let above = -1;
      const stream = new ReadableStream<Uint8Array>({
        async pull(controller) {
          const page = await tenant.readExamples(found.value, above);
          if (!page.ok) return controller.error(new Error(page.failure.code));
          if (page.value.examples.length === 0) return controller.close();
          above = page.value.last;
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
async function importExamples(c: Context<HttpEnv>, name: string, abort: boolean): Promise<Response> {
  const read = importReader(c.req.header("content-type") ?? "");
  if (read === null) {
    const message = "Send examples as 'application/json', 'application/x-ndjson' or 'text/csv'.";
    return failed(c, { code: "unsupported_media_type", message, param: "content-type" });
  }
  const declared = Number(c.req.header("content-length"));
  if (declared > limits.import_body_bytes) {
    const message = `An import has at most ${limits.import_body_bytes} bytes; this one has ${declared}. Split it into several.`;
    return failed(c, {
      code: "body_too_large",
      message,
      details: { limit: limits.import_body_bytes, actual: declared },
    });
  }
  const tenant = ledger(c.env.TENANT, c.var.caller.tenant);
  const id = newId("import_");
  const begun = await tenant.beginImport(name, id);
  if (!begun.ok) return failed(c, begun.failure);

  const drop = async (failure: Failure) => {
    await tenant.dropImport(id);
    return failed(c, failure);
  };
  const staged = await stageRows(read(c.req.raw.body, begun.value), (rows) => tenant.stage(id, rows));
  if (!staged.ok) return drop(staged.failure);
  const { rejected, errors, firstParam, rows } = staged.value;
  c.set("figures", { rows, rejected });
  if (abort && errors[0]) {
    const { line, code, message } = errors[0];
    return drop({
      code: "import_rejected",
      message: `Nothing was stored: ${rejected} of ${rows} rows are not valid. Line ${line}: ${message}`,
      ...(firstParam === undefined ? {} : { param: firstParam }),
      details: { line, code, errors },
    });
  }
  const merged = await tenant.mergeImport(id);
  if (!merged.ok) return drop(merged.failure);
  const { dataset, ...counts } = merged.value;
  return answer(c, ok({ object: "dataset.import", id, ...counts, rejected, errors, dataset }));
}

interface Staged {
  readonly rows: number;
  readonly rejected: number;
  readonly errors: readonly RowError[];
  readonly firstParam: string | undefined;
}

async function stageRows(
  source: ReturnType<NonNullable<ReturnType<typeof importReader>>>,
  stage: (rows: StagedExample[]) => Promise<Result<null>>,
): Promise<Result<Staged>> {
  const errors: RowError[] = [];
  let firstParam: string | undefined;
  let rejected = 0;
  let empty = 0;
  let read = 0;
  let waiting: StagedExample[] = [];
  let size = 0;
  try {
    for await (const item of source) {
      if (++read > limits.import_rows) throw tooManyRows(read);
      if (item === null) {
        empty++;
        continue;
      }
      if ("error" in item) {
        rejected++;
        if (errors.length === 0) firstParam = item.param;
        if (errors.length < ERRORS_SHOWN) errors.push(item.error);
        continue;
      }
      waiting.push(item.row);
      size += item.row.input.length + item.row.target.length;
      if (waiting.length < STAGED_ROWS && size < STAGED_SIZE) continue;
      const done = await stage(waiting);
      if (!done.ok) return done;
      waiting = [];
      size = 0;
    }
    const done = waiting.length === 0 ? ok(null) : await stage(waiting);
    return done.ok ? ok({ rows: read - empty, rejected, errors, firstParam }) : done;
  } catch (error) {
    if (error instanceof BodyRefused) return { ok: false, failure: error.failure };
    throw error;
  }
}
