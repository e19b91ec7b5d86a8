/** The queue of a head's live inputs: what is captured, the list, and labels that make them examples. */
import { createRoute } from "@hono/zod-openapi";
import {
  type CapturedLabel,
  capturedDeletion,
  capturedInput,
  deletedCaptured,
  headCapture,
  newCapturedLabels,
  newHeadCapture,
} from "../../api/capture.ts";
import type { RowError, StoredExample } from "../../api/examples.ts";
import { headFeedback } from "../../api/feedback.ts";
import { listOf, pageQuery } from "../../api/lists.ts";
import { nameParams } from "../../api/schema.ts";
import type { Failure } from "../../core/failure.ts";
import { parseExample } from "../../ingest/example.ts";
import { MAX_ERRORS_SHOWN } from "../../ingest/rows.ts";
import { endHeadLeases } from "../../serving/active-heads.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { idempotency } from "../middleware/idempotency.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, type RouteContext, tenantSecurity } from "../route.ts";

const common = { tags: ["Heads"], security: tenantSecurity };

const getCaptureRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/heads/{name}/capture",
  operationId: "getHeadCapture",
  summary: "Get which live inputs of a head are captured",
  description: "Whether capture is on, by what inputs are kept, and how many are in the queue.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: nameParams },
  responses: { 200: jsonResponse(headCapture, "The head's capture"), ...errorResponses },
});

const setCaptureRoute = createRoute({
  ...common,
  method: "put",
  path: "/v1/heads/{name}/capture",
  operationId: "setHeadCapture",
  summary: "Set which live inputs of a head are captured, to be labelled",
  description:
    "A share of the inputs that are predicted from now on, and those of a low score, go into the head's queue; null ends it. Off by default. Effective everywhere within 30 seconds.",
  middleware: [tenantAuth("manage")] as const,
  request: { params: nameParams, body: jsonBody(newHeadCapture) },
  responses: { 200: jsonResponse(headCapture, "The head's capture"), ...errorResponses },
});

const listCapturedRoute = createRoute({
  ...common,
  method: "get",
  path: "/v1/heads/{name}/captured",
  operationId: "listCapturedInputs",
  summary: "List the captured inputs of a head",
  description: "Live inputs that wait for a label, each with what was predicted.",
  middleware: [tenantAuth("train")] as const,
  request: { params: nameParams, query: pageQuery },
  responses: { 200: jsonResponse(listOf(capturedInput), "The inputs, newest first"), ...errorResponses },
});

const labelCapturedRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/heads/{name}/captured/label",
  operationId: "labelCapturedInputs",
  summary: "Label captured inputs, which makes them examples",
  description:
    "Stores the inputs with their labels in the dataset of the active version, as feedback does, and takes them from the queue. They say nothing of the head's accuracy, since what is captured and labelled is chosen.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { params: nameParams, body: jsonBody(newCapturedLabels) },
  responses: {
    200: jsonResponse(headFeedback, "What became of them; 'line' of an error is an item's place in the request"),
    ...errorResponses,
  },
});

const deleteCapturedRoute = createRoute({
  ...common,
  method: "post",
  path: "/v1/heads/{name}/captured/delete",
  operationId: "deleteCapturedInputs",
  summary: "Delete captured inputs by their ids or a part of their texts",
  description: "Takes exactly one of the conditions. The same input may be captured again when it comes again.",
  middleware: [tenantAuth("train"), idempotency("tenant")] as const,
  request: { params: nameParams, body: jsonBody(capturedDeletion) },
  responses: { 200: jsonResponse(deletedCaptured, "How many inputs are gone"), ...errorResponses },
});

export function captureRoutes(app: App): void {
  addRoute(app, getCaptureRoute, async (c) => respond(c, await c.var.ledger().getCapture(c.req.valid("param").name)));
  addRoute(app, setCaptureRoute, async (c) => {
    const { name } = c.req.valid("param");
    const result = await c.var.ledger().setCapture(name, c.req.valid("json"));
    endHeadLeases(c.var.caller.tenant, name);
    return respond(c, result);
  });
  addRoute(app, listCapturedRoute, async (c) =>
    respond(c, await c.var.ledger().listCaptured(c.req.valid("param").name, c.req.valid("query"))),
  );
  addRoute(app, labelCapturedRoute, labelCaptured);
  addRoute(app, deleteCapturedRoute, async (c) => {
    const deletion = c.req.valid("json");
    if ((deletion.ids === undefined) === (deletion.contains === undefined)) return respondError(c, notOneCondition);
    const { name } = c.req.valid("param");
    return respond(c, await c.var.ledger().deleteCaptured(c.var.idempotencyClaim, name, deletion));
  });
}

const notOneCondition: Failure = {
  code: "invalid_parameter",
  message: "Which inputs to delete is said by exactly one of 'ids' and 'contains'.",
  status: 422,
};

async function labelCaptured(c: RouteContext<typeof labelCapturedRoute>): Promise<Response> {
  const { name } = c.req.valid("param");
  const { items } = c.req.valid("json");
  const ledger = c.var.ledger();
  const target = await ledger.readLabellingTarget(
    name,
    items.map(({ id }) => id),
  );
  if (!target.ok) return respondError(c, target.failure);
  const { dataset, version, inputs } = target.value;
  const labelled: { id: string; example: StoredExample }[] = [];
  const rowErrors: RowError[] = [];
  for (const [index, item] of items.entries()) {
    const input = inputs[index] ?? null;
    const parsed =
      input === null ? notCaptured(item) : parseExample(toExample(item, input), dataset, `items[${index}]`);
    if (parsed.ok) labelled.push({ id: item.id, example: parsed.value });
    else rowErrors.push({ line: index + 1, code: parsed.failure.code, message: parsed.failure.message });
  }
  const rejections = { rejected: rowErrors.length, errors: rowErrors.slice(0, MAX_ERRORS_SHOWN) };
  c.set("logFields", { examples: labelled.length, rejected: rowErrors.length });
  const examples = labelled.map(({ example }) => ({ example, outcomes: [] }));
  const ids = labelled.map(({ id }) => id);
  const batch = { dataset, version, examples, rejections };
  return respond(c, await ledger.labelCaptured(c.var.idempotencyClaim, name, ids, batch));
}

function notCaptured({ id }: CapturedLabel) {
  const message = `No captured input '${id}': it was labelled or deleted, or has expired.`;
  return { ok: false, failure: { code: "not_found", message } } as const;
}

function toExample({ id: _id, ...target }: CapturedLabel, input: string | ArrayBuffer) {
  if (typeof input === "string") return { ...target, text: input };
  return { ...target, embedding: Array.from(new Float32Array(input)) };
}
