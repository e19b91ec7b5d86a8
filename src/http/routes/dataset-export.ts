import { createRoute, z } from "@hono/zod-openapi";
import { exportQuery } from "../../api/datasets.ts";
import type { Example } from "../../api/examples.ts";
import { nameParams } from "../../api/schema.ts";
import { type Task, targetField } from "../../core/head.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respondError } from "../middleware/errors.ts";
import { addRoute, errorResponses, type RouteContext, tenantSecurity } from "../route.ts";

const exportRoute = createRoute({
  tags: ["Examples"],
  security: tenantSecurity,
  method: "get",
  path: "/v1/datasets/{name}/export",
  operationId: "exportExamples",
  summary: "Export every example, oldest first, as NDJSON or CSV",
  description: "Streams the whole dataset. What is exported can be imported again.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams, query: exportQuery },
  responses: {
    200: {
      description: "One example a line; what an import takes",
      content: { "application/x-ndjson": { schema: z.string() }, "text/csv": { schema: z.string() } },
    },
    ...errorResponses,
  },
});

export function datasetExportRoutes(app: App): void {
  addRoute(app, exportRoute, exportExamples);
}

async function exportExamples(c: RouteContext<typeof exportRoute>): Promise<Response> {
  const ledger = c.var.ledger();
  const { name } = c.req.valid("param");
  const found = await ledger.findDataset(name);
  if (!found.ok) return respondError(c, found.failure);
  const { task, modality } = found.value;
  const { format, revision = found.value.revision } = c.req.valid("query");
  if (revision !== found.value.revision) {
    const storedRevision = await ledger.findRevision(name, revision);
    if (!storedRevision.ok) return respondError(c, { ...storedRevision.failure, param: "revision" });
  }
  if (format === "csv" && modality !== "text")
    return respondError(c, {
      code: "modality_mismatch",
      message: "A CSV holds texts, and this dataset has embeddings. Export it as 'ndjson'.",
      param: "format",
    });
  const toLine = format === "csv" ? (example: Example) => toCsvLine(task, example) : toJsonLine;
  let afterPosition = -1;
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      if (format === "csv") controller.enqueue(Buffer.from(`id,text,${targetField[task]}\r\n`));
    },
    async pull(controller) {
      const page = await ledger.readExamples(found.value, afterPosition, revision);
      if (!page.ok) return controller.error(new Error(page.failure.code));
      if (page.value.examples.length === 0) return controller.close();
      afterPosition = page.value.last;
      controller.enqueue(Buffer.from(page.value.examples.map(toLine).join("")));
    },
  });
  return c.body(stream, 200, {
    "content-type": format === "csv" ? "text/csv; charset=utf-8" : "application/x-ndjson",
  });
}

function toJsonLine({ object: _object, created_at: _created, ...line }: Example): string {
  return `${JSON.stringify(line)}\n`;
}

/** A record of RFC 4180. */
function toCsvLine(task: Task, { id, text = "", label = "", labels = [], value }: Example): string {
  const target = { single_label: label, multi_label: joinLabels(labels), regression: String(value) }[task];
  return `${[id, text, target].map(quote).join(",")}\r\n`;
}

/** Also what spreadsheets would trim or take for several cells is quoted. */
function quote(field: string): string {
  return /[",;\t|\r\n]|^\s|\s$/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;
}

/** Labels in one cell, as an import splits them: a backslash before a separator makes it a part of the label. */
function joinLabels(labels: readonly string[]): string {
  // White space keeps a backslash at a label's end apart from the separator, and is trimmed.
  return labels.map((label) => label.replaceAll("|", "\\|").replace(/\\$/, "\\ ")).join("|");
}
