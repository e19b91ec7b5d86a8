/** Revisions of datasets, and what differs between them. */
import { createRoute } from "@hono/zod-openapi";
import { listOf, pageQuery } from "../../api/lists.ts";
import { type DatasetDiff, datasetDiff, diffQuery, revision } from "../../api/revisions.ts";
import { nameParams } from "../../api/schema.ts";
import { ok } from "../../core/failure.ts";
import type { DifferenceAt } from "../../tenant/data/diff.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Datasets"], security: tenantSecurity };

const listRevisionsRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets/{name}/revisions",
  operationId: "listRevisions",
  summary: "List the revisions of a dataset that are kept",
  description:
    "A revision is kept for 30 days after the next one, and as long as a version of a head or a job names it. Newest first.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams, query: pageQuery },
  responses: { 200: jsonResponse(listOf(revision), "Revisions, newest first"), ...errorResponses },
});

const diffRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets/{name}/diff",
  operationId: "compareRevisions",
  summary: "Compare two revisions of a dataset",
  description: "Counts the examples that differ, and shows a page of them, oldest first.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams, query: diffQuery },
  responses: { 200: jsonResponse(datasetDiff, "How many examples differ, and a page of them"), ...errorResponses },
});

export function revisionRoutes(app: App): void {
  addRoute(app, listRevisionsRoute, async (c) =>
    respond(c, await c.var.ledger().listRevisions(c.req.valid("param").name, c.req.valid("query"))),
  );
  addRoute(app, diffRoute, compareRevisions);
}

/** Reads all differences, to count them, and keeps those of the page. */
async function compareRevisions(c: RouteContext<typeof diffRoute>): Promise<Response> {
  const { name } = c.req.valid("param");
  const { from, to, type, limit, after } = c.req.valid("query");
  const start = after === undefined ? -1 : /^\d{1,15}$/.test(after) ? Number(after) : null;
  if (start === null)
    return respondError(c, {
      code: "invalid_parameter",
      message: "'after' is the 'last_id' of the page before.",
      param: "after",
    });
  const counts = { added: 0, removed: 0, changed: 0 };
  const page: DifferenceAt[] = [];
  for (let position: number | null = -1; position !== null; ) {
    const shownAfter = page.length > limit ? null : start;
    const step = await c.var.ledger().diffRevisions(name, { from, to, shownAfter }, position);
    if (!step.ok) return respondError(c, step.failure);
    for (const difference of step.value.differences) {
      counts[difference.type]++;
      const isShown = difference.position > start && (type === undefined || difference.type === type);
      if (isShown && page.length <= limit) page.push(difference);
    }
    position = step.value.last;
  }
  const shown = page.slice(0, limit);
  const toCursor = (difference: DifferenceAt | undefined) => (difference ? String(difference.position) : null);
  const diff: DatasetDiff = {
    object: "dataset.diff",
    dataset: name,
    from,
    to,
    ...counts,
    data: shown.map(({ position: _position, ...difference }) => difference),
    first_id: toCursor(shown[0]),
    last_id: toCursor(shown.at(-1)),
    has_more: page.length > limit,
  };
  return respond(c, ok(diff));
}
