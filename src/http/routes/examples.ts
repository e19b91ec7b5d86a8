import { createRoute, z } from "@hono/zod-openapi";
import { example, exampleChange, exampleListQuery, exampleParams } from "../../api/examples.ts";
import { type DatasetImport, datasetImport, type ImportFigures, importQuery, importTypes } from "../../api/imports.ts";
import { deletedExample, listOf } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import { type Failure, ok, type Result } from "../../core/failure.ts";
import { targetField } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { limitImportBytes } from "../../ingest/body.ts";
import { formatOfType } from "../../ingest/detect.ts";
import { parseExample, withTarget } from "../../ingest/example.ts";
import { type ReadFile, readFileRows } from "../../ingest/rows.ts";
import { stageRows } from "../../ingest/stage.ts";
import { createImportSummary, toFigures } from "../../ingest/summary.ts";
import { newId } from "../../lib/id.ts";
import { isKnownWord } from "../../serving/backbones.ts";
import type { DatasetRow } from "../../tenant/data/datasets.ts";
import { toExample } from "../../tenant/data/examples.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Examples"], security: tenantSecurity };

const textBody = (description: string) => z.string().openapi({ description });

const importRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/datasets/{name}/examples",
  operationId: "importExamples",
  summary: "Import labelled examples from JSON, NDJSON, CSV or the file of a labelling tool",
  description:
    "Reads the body as a stream, and shows its rows as a whole once all of it has come. Good rows are kept; bad ones are counted and explained. An id that is there already is updated.",
  middleware: [tenantAuth("train")] as const,
  request: {
    params: nameParams,
    query: importQuery,
    // The handler reads JSON as a stream too, so it is not declared here: its validator would read it whole.
    body: {
      content: {
        "application/x-ndjson": {
          schema: textBody("one example a line; also as 'application/ndjson' and 'application/jsonl'"),
        },
        "text/csv": { schema: textBody("rows, after a header or with columns named by the query") },
        "text/tab-separated-values": { schema: textBody("the same, separated by tabs") },
        "application/yaml": { schema: textBody("training data of Rasa") },
      },
    },
  },
  responses: {
    200: jsonResponse(
      datasetImport,
      "What became of the rows, or with dry_run=true would become of them; with on_error=abort nothing is stored unless all are good",
    ),
    ...errorResponses,
  },
});

const listExamplesRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets/{name}/examples",
  operationId: "listExamples",
  summary: "List examples",
  description: "Examples with their inputs and targets, of one label if it is given.",
  middleware: [tenantAuth("train")] as const,
  request: {
    params: nameParams,
    query: exampleListQuery,
  },
  responses: { 200: jsonResponse(listOf(example), "Examples, newest first"), ...errorResponses },
});

const getExampleRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets/{name}/examples/{id}",
  operationId: "getExample",
  summary: "Get an example",
  description: "The example with its input and target.",
  middleware: [tenantAuth("train")] as const,
  request: { params: exampleParams },
  responses: { 200: jsonResponse(example, "The example"), ...errorResponses },
});

const changeExampleRoute = createRoute({
  ...common,
  method: "patch",
  path: "/v1/datasets/{name}/examples/{id}",
  operationId: "updateExample",
  summary: "Change an example's input or target",
  description: "Replaces the fields that are given. The rest of the example stays.",
  middleware: [tenantAuth("train")] as const,
  request: { params: exampleParams, body: jsonBody(exampleChange) },
  responses: { 200: jsonResponse(example, "The example as it is now"), ...errorResponses },
});

const deleteExampleRoute = createRoute({
  ...common,
  method: "delete",
  path: "/v1/datasets/{name}/examples/{id}",
  operationId: "deleteExample",
  summary: "Delete an example",
  description:
    "Deletes one example by its id. Heads that were trained on it stay as they are; those that hold its embedding are named.",
  middleware: [tenantAuth("train")] as const,
  request: { params: exampleParams },
  responses: { 200: jsonResponse(deletedExample, "It is gone"), ...errorResponses },
});

export function exampleRoutes(app: App): void {
  addRoute(app, importRoute, importExamples);
  addRoute(app, listExamplesRoute, async (c) => {
    const { label, contains, ...page } = c.req.valid("query");
    return respond(c, await c.var.ledger().listExamples(c.req.valid("param").name, { label, contains }, page));
  });
  addRoute(app, getExampleRoute, async (c) => {
    const { name, id } = c.req.valid("param");
    const found = await c.var.ledger().getExample(name, id);
    return respond(c, found.ok ? ok(toExample(found.value.dataset.task, found.value.row)) : found);
  });
  addRoute(app, changeExampleRoute, changeExample);
  addRoute(app, deleteExampleRoute, async (c) => {
    const { name, id } = c.req.valid("param");
    return respond(c, await c.var.ledger().deleteExample(name, id));
  });
}

/** Streams a body into the ledger's staging table, then merges all of it at once. */
async function importExamples(c: RouteContext<typeof importRoute>): Promise<Response> {
  const { on_error, dry_run, truncate, ...options } = c.req.valid("query");
  const mediaType = (c.req.header("content-type") ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  if (formatOfType(mediaType) === undefined && options.format === undefined) {
    const message = `Send examples as one of ${importTypes.map((type) => `'${type}'`).join(", ")}; or say what they are by '?format='.`;
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
  const begun = await ledger.beginImport(c.req.valid("param").name, id);
  if (!begun.ok) return respondError(c, begun.failure);
  // When this request ends, however it does, the ledger drops what is staged. An earlier build has no connections.
  const { connection, ...dataset } = begun.value;
  const file = readFileRows({
    chunks: limitImportBytes(c.req.raw.body),
    mediaType,
    shape: dataset,
    options: { ...options, truncate: truncate === "true" },
  });
  try {
    return respond(c, await stageAndMerge(c, id, dataset, file));
  } finally {
    (connection as Partial<Disposable> | undefined)?.[Symbol.dispose]?.();
  }
}

async function stageAndMerge(
  c: RouteContext<typeof importRoute>,
  id: string,
  { task }: DatasetRow,
  file: ReadFile,
): Promise<Result<DatasetImport>> {
  const { on_error, dry_run } = c.req.valid("query");
  const ledger = c.var.ledger();
  const summary = createImportSummary(task, isKnownWord);
  const staged = await stageRows(file.rows, summary.add, (rows) => ledger.stageRows(id, rows));
  if (!staged.ok) return staged;
  const { rejected, errors, firstParam, rows } = staged.value;
  c.set("logFields", { rows, rejected });
  const isDryRun = dry_run === "true";
  const figuresOf = (labels: Readonly<Record<string, number>>): ImportFigures => ({
    rejected,
    errors,
    ...toFigures(summary, file.report, labels),
    ...(isDryRun ? { sample: [...summary.sample], labels: Object.fromEntries(summary.labelCounts) } : {}),
  });
  const isNothing = rows === rejected && rejected + file.report.skipped.size > 0;
  if (isNothing || (on_error === "abort" && rejected > 0)) {
    const figures = figuresOf(Object.fromEntries(summary.labelCounts));
    return { ok: false, failure: rejectImport(rows, firstParam, figures) };
  }
  const merged = isDryRun ? await ledger.previewImport(id) : await ledger.mergeImport(id);
  if (!merged.ok) return merged;
  const { dataset, ...counts } = merged.value;
  const figures = { ...counts, ...figuresOf(dataset.labels), dataset };
  return ok({ object: "dataset.import", id, ...(isDryRun ? { dry_run: true } : {}), ...figures });
}

/** Nothing was stored: because no row was good, or because one was bad and all had to be good. */
function rejectImport(rows: number, param: string | undefined, figures: ImportFigures): Failure {
  const { rejected, errors } = figures;
  const [first] = errors;
  const why = first ? `Line ${first.line}: ${first.message}` : figures.warnings[0]?.message;
  return {
    code: "import_rejected",
    message: `Nothing was stored: ${rejected} of ${rows} rows are not valid. ${why}`,
    ...(param === undefined ? {} : { param }),
    details: {
      ...(first === undefined ? {} : { line: first.line, code: first.code }),
      added: 0,
      updated: 0,
      unchanged: 0,
      ...figures,
    },
  };
}

async function changeExample(c: RouteContext<typeof changeExampleRoute>): Promise<Response> {
  const { name, id } = c.req.valid("param");
  const current = await c.var.ledger().getExample(name, id);
  if (!current.ok) return respondError(c, current.failure);
  const { dataset, row } = current.value;
  const { object: _object, created_at: _created, ...fields } = toExample(dataset.task, row);
  const change = c.req.valid("json");
  const changed = parseExample({ ...fields, ...change }, dataset, "");
  if (!changed.ok) return respondError(c, changed.failure);
  // Stored labels stay as they are, also those from before labels were trimmed, until they are renamed.
  const isTargetChanged = change[targetField[dataset.task]] !== undefined;
  const example = isTargetChanged ? changed.value : withTarget(changed.value, row.target);
  const replacement = { id, expectedHash: row.content_hash, example };
  return respond(c, await c.var.ledger().replaceExample(dataset, replacement));
}
