import { createRoute } from "@hono/zod-openapi";
import { embeddingRequest, embeddings } from "../../api/embeddings.ts";
import type { Backbone } from "../../backbones/backbone.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { visibleText } from "../../core/text/visible.ts";
import { type CheckedText, checkText } from "../../ingest/example.ts";
import { findBackbone } from "../../serving/backbones.ts";
import { embedInputs } from "../../store/inputs.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import {
  addRoute,
  anyQuery,
  errorResponses,
  jsonBody,
  jsonResponse,
  type RouteContext,
  tenantSecurity,
} from "../route.ts";

const embeddingRoute = createRoute({
  tags: ["Backbones"],
  security: tenantSecurity,
  method: "post",
  path: "/v1/embeddings",
  operationId: "createEmbeddings",
  summary: "Embed texts by a backbone",
  description:
    "OpenAI's route. Inputs that the backbone has embedded for this tenant before may come from a cache: see the header 'x-cache'.",
  middleware: [tenantAuth("predict")] as const,
  request: { query: anyQuery, body: jsonBody(embeddingRequest) },
  responses: { 200: jsonResponse(embeddings, "OpenAI's list of embeddings"), ...errorResponses },
});

export function embeddingRoutes(app: App): void {
  addRoute(app, embeddingRoute, embed);
}

async function embed(c: RouteContext<typeof embeddingRoute>): Promise<Response> {
  const { model, input, encoding_format, dimensions, truncate } = c.req.valid("json");
  const { tenant } = c.var.caller;
  const backbone = await findBackbone(c.env, tenant, model, "model");
  if (!backbone.ok) return respondError(c, backbone.failure);
  if (dimensions !== undefined && dimensions !== backbone.value.dimensions) {
    const message = `The embeddings of '${model}' have ${backbone.value.dimensions} dimensions, and cannot be cut.`;
    return respondError(c, { code: "invalid_parameter", message, param: "dimensions" });
  }
  const checked = checkTexts(input, backbone.value, truncate);
  if (!checked.ok) return respondError(c, checked.failure);
  const texts = checked.value.map(({ text }) => visibleText(text));
  const waitUntil = (work: Promise<unknown>) => c.executionCtx.waitUntil(work);
  const embedded = await embedInputs(c.env.KV, tenant, backbone.value, texts, waitUntil);
  if (!embedded.ok) return respondError(c, embedded.failure);
  const { rows, cacheHits } = embedded.value;
  c.header("x-cache", `hit=${cacheHits}, miss=${rows.length - cacheHits}`);
  c.set("logFields", { inputs: rows.length, hits: cacheHits });
  const encode = encoding_format === "float" ? (row: Float32Array) => Array.from(row) : toBase64;
  const data = rows.map((row, index) => ({
    object: "embedding",
    index,
    embedding: encode(row),
    ...(checked.value[index]?.truncated ? { truncated: true } : {}),
  }));
  // Backbones count tokens differently, so words are counted in their place.
  const tokens = texts.reduce((sum, text) => sum + text.trim().split(/\s+/).length, 0);
  return respond(c, ok({ object: "list", data, model, usage: { prompt_tokens: tokens, total_tokens: tokens } }));
}

function checkTexts(
  input: string | readonly string[],
  { dimensions }: Backbone,
  truncate: boolean | undefined,
): Result<CheckedText[]> {
  const inputs = typeof input === "string" ? [input] : input;
  const limit = limits.embedding_numbers_per_request;
  const actual = inputs.length * dimensions;
  if (actual > limit) {
    const message = `An answer has at most ${limit} numbers; this one would have ${actual}. Send fewer inputs in a request.`;
    return fail("limit_exceeded", message, { param: "input", details: { limit, actual } });
  }
  const texts: CheckedText[] = [];
  for (const [index, text] of inputs.entries()) {
    const checked = checkText(text, typeof input === "string" ? "input" : `input[${index}]`, truncate);
    if (!checked.ok) return checked;
    texts.push(checked.value);
  }
  return ok(texts);
}

function toBase64(row: Float32Array): string {
  return Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString("base64");
}
