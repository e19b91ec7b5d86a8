/** What is probably wrong with the examples of a dataset, and what a person decides about it. */
import { createRoute } from "@hono/zod-openapi";
import { datasetIssue, issueChange, issueQuery, issueResolution, type Resolution } from "../../api/issues.ts";
import { listOf } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { readTarget } from "../../ingest/example.ts";
import type { Decision } from "../../tenant/data/issue-resolution.ts";
import { refreshIssues } from "../../training/issues.ts";
import { type App, tenantRequest } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Datasets"], security: tenantSecurity };

const listIssuesRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/datasets/{name}/issues",
  operationId: "listDatasetIssues",
  summary: "List what is probably wrong with the examples of a dataset",
  description:
    "Wrong labels, conflicts, near-duplicates under different labels, duplicates and outliers, most likely first. The first page finds them again if the dataset has changed, which takes about as long as a training; pages after it are of the same list. Examples that have changed since are left out, and so is what was dismissed.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams, query: issueQuery },
  responses: { 200: jsonResponse(listOf(datasetIssue), "Issues, most likely first"), ...errorResponses },
});

const resolveIssuesRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/datasets/{name}/issues/resolve",
  operationId: "resolveDatasetIssues",
  summary: "Decide what becomes of issues",
  description:
    "Gives examples another label, deletes them, or dismisses issues for good; all of it or, where one id is not known, nothing. An issue that was resolved before is left as it is.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { params: nameParams, body: jsonBody(issueResolution) },
  responses: { 200: jsonResponse(issueChange, "How many examples have changed"), ...errorResponses },
});

export function issueRoutes(app: App): void {
  addRoute(app, listIssuesRoute, async (c) => {
    const response = listIssues(c);
    // A client may disconnect: the work then has 30 seconds more to end, and to release its slot.
    c.executionCtx.waitUntil(response);
    return response;
  });
  addRoute(app, resolveIssuesRoute, resolveIssues);
}

async function listIssues(c: RouteContext<typeof listIssuesRoute>): Promise<Response> {
  const { name } = c.req.valid("param");
  const { head, ...page } = c.req.valid("query");
  if (page.after === undefined) {
    const refreshed = await refreshIssues(tenantRequest(c), name, head);
    if (!refreshed.ok) return respondError(c, refreshed.failure);
  }
  return respond(c, await c.var.ledger().listIssues(name, page));
}

async function resolveIssues(c: RouteContext<typeof resolveIssuesRoute>): Promise<Response> {
  const { name } = c.req.valid("param");
  const ledger = c.var.ledger();
  const dataset = await ledger.findDataset(name);
  if (!dataset.ok) return respondError(c, dataset.failure);
  const decisions: Decision[] = [];
  for (const [index, item] of c.req.valid("json").items.entries()) {
    const decision = toDecision(item, dataset.value.task, `items[${index}]`);
    if (!decision.ok) return respondError(c, decision.failure);
    decisions.push(decision.value);
  }
  return respond(c, await ledger.resolveIssues(c.var.idempotencyClaim, name, decisions));
}

const targetFields = ["label", "labels", "value"] as const;

function toDecision({ id, action, ...target }: Resolution, task: Task, path: string): Result<Decision> {
  const given = targetFields.find((field) => target[field] !== undefined);
  if (given === undefined) return ok({ id, action, target: null });
  if (action !== "relabel")
    return fail("invalid_parameter", `'${given}' is for 'relabel' alone. Leave it out.`, { param: `${path}.${given}` });
  const read = readTarget(target, task, path);
  return read.ok ? ok({ id, action, target: JSON.stringify(read.value) }) : read;
}
