import { createRoute } from "@hono/zod-openapi";
import { embeddingRequest, embeddings } from "../../api/embeddings.ts";
import { ok } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { checkText } from "../../ingest/example.ts";
import { findBackbone } from "../../serving/backbones.ts";
import { embedInputs } from "../../store/inputs.ts";
import type { App } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, anyQuery, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";

export function embeddingRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      tags: ["Backbones"],
      security: tenantSecurity,
      method: "post",
      path: "/v1/embeddings",
      summary: "Embed texts by a backbone",
      middleware: [tenantAuth("predict")] as const,
      request: { query: anyQuery, body: jsonBody(embeddingRequest) },
      responses: { 200: jsonResponse(embeddings, "OpenAI's list of embeddings"), ...errorResponses },
    }),
    async (c) => {
      const { model, input, encoding_format, dimensions } = c.req.valid("json");
      const backbone = await findBackbone(c.env, c.var.caller.tenant, model, "model");
      if (!backbone.ok) return respondError(c, backbone.failure);
      if (dimensions !== undefined && dimensions !== backbone.value.dimensions) {
        const message = `The embeddings of '${model}' have ${backbone.value.dimensions} dimensions, and cannot be cut.`;
        return respondError(c, { code: "invalid_parameter", message, param: "dimensions" });
      }
      const inputs = typeof input === "string" ? [input] : input;
      const numberCount = inputs.length * backbone.value.dimensions;
      if (numberCount > limits.embedding_numbers_per_request) {
        const limit = limits.embedding_numbers_per_request;
        const message = `An answer has at most ${limit} numbers; this one would have ${numberCount}. Send fewer inputs in a request.`;
        return respondError(c, {
          code: "limit_exceeded",
          message,
          param: "input",
          details: { limit, actual: numberCount },
        });
      }
      const texts: string[] = [];
      for (const [index, text] of inputs.entries()) {
        const checked = checkText(text, typeof input === "string" ? "input" : `input[${index}]`);
        if (!checked.ok) return respondError(c, checked.failure);
        texts.push(checked.value);
      }
      const embedded = await embedInputs(c.env.KV, c.var.caller.tenant, backbone.value, texts, (work) =>
        c.executionCtx.waitUntil(work),
      );
      if (!embedded.ok) return respondError(c, embedded.failure);
      const { rows, cacheHits } = embedded.value;
      c.header("x-cache", `hit=${cacheHits}, miss=${rows.length - cacheHits}`);
      c.set("logFields", { inputs: rows.length, hits: cacheHits });
      const data = rows.map((row, index) => ({
        object: "embedding",
        index,
        embedding:
          encoding_format === "float"
            ? Array.from(row)
            : Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString("base64"),
      }));
      // Backbones count no tokens alike; words stand in for them.
      const tokens = texts.reduce((sum, text) => sum + text.trim().split(/\s+/).length, 0);
      return respond(c, ok({ object: "list", data, model, usage: { prompt_tokens: tokens, total_tokens: tokens } }));
    },
  );
}
