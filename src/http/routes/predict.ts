import { createRoute } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { Input } from "../../api/examples.ts";
import { type Prediction, type PredictRequest, predictions, predictRequest } from "../../api/predictions.ts";
import { nameParams } from "../../api/schema.ts";
import type { Backbone } from "../../backbones/backbone.ts";
import { CHARACTERS_PER_CHUNK } from "../../backbones/chunks.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { type Head, predict, predictionInterval, predictionSet } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { createLexicalVectorizer } from "../../core/text/lexical.ts";
import { checkEmbedding, checkText } from "../../ingest/example.ts";
import { getServedHead, type ServedHead } from "../../serving/active-heads.ts";
import { getHeadBackbone } from "../../serving/backbones.ts";
import { getHead } from "../../store/heads.ts";
import { embedInputs } from "../../store/inputs.ts";
import type { App, HttpEnv } from "../context.ts";
import { tenantAuth } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { addRoute, errorResponses, jsonBody, jsonResponse, tenantSecurity } from "../route.ts";

type PredictParams = Omit<PredictRequest, "input">;

const DEFAULT_COVERAGE = 0.9;

export function predictRoutes(app: App): void {
  addRoute(
    app,
    createRoute({
      tags: ["Heads"],
      security: tenantSecurity,
      method: "post",
      path: "/v1/heads/{name}/predict",
      summary: "Classify inputs by a head",
      middleware: [tenantAuth("predict")] as const,
      request: { params: nameParams, body: jsonBody(predictRequest) },
      responses: { 200: jsonResponse(predictions, "As many predictions as inputs, in their order"), ...errorResponses },
    }),
    async (c) => {
      const params = c.req.valid("json");
      const { tenant } = c.var.caller;
      const served = await getServedHead(c.env, tenant, c.req.valid("param").name, params.version ?? null);
      if (!served.ok) return respondError(c, served.failure);
      if (params.coverage !== undefined && served.value.task === "multi_label") {
        const message = "'coverage' is for one label or a value, not for any number of labels.";
        return respondError(c, { code: "task_mismatch", message, param: "coverage" });
      }
      if (params.out_of_scope_threshold !== undefined && served.value.task !== "single_label") {
        const message = "'out_of_scope_threshold' is for heads of one label alone.";
        return respondError(c, { code: "task_mismatch", message, param: "out_of_scope_threshold" });
      }
      const inputs = Array.isArray(params.input) ? params.input : [params.input];
      const paramAt = (index: number) => (Array.isArray(params.input) ? `input[${index}]` : "input");
      const data = await predictInputs(c, served.value, inputs, paramAt, params);
      if (!data.ok) return respondError(c, data.failure);
      c.set("logFields", { inputs: inputs.length, version: served.value.version });
      return respond(c, ok({ object: "list", model: `${served.value.id}@${served.value.version}`, data: data.value }));
    },
  );
}

/** What a head of the caller's says of inputs, as many as they are. `at` is an input's path in the request. */
export async function predictInputs(
  c: Context<HttpEnv>,
  served: ServedHead,
  inputs: readonly Input[],
  paramAt: (index: number) => string,
  params: PredictParams = {},
): Promise<Result<Prediction[]>> {
  const { tenant } = c.var.caller;
  const limitFailure = checkLimits(served, inputs.length, params);
  if (limitFailure) return { ok: false, failure: limitFailure };
  const [head, backbone] = await Promise.all([
    getHead(c.env.KV, c.env.BUCKET, tenant, served.sha256),
    getHeadBackbone(c.env, tenant, served),
  ]);
  if (head === null)
    return fail("storage_unavailable", "The head's weights could not be read. Try again.", { retryAfter: 5 });
  if (!backbone.ok) return backbone;
  const embedded = await embed(c.env, tenant, served, backbone.value, inputs, paramAt, (work) =>
    c.executionCtx.waitUntil(work),
  );
  if (!embedded.ok) return embedded;
  const outputs = await predictAll(head, embedded.value.rows, embedded.value.texts);
  return ok(outputs.map((each, index) => ({ index, ...toPrediction(head, each, params) })));
}

/** What the head says of each input. Lexical features are read a stretch of text at a time, and let others in between. */
async function predictAll(
  head: Head,
  rows: readonly Float32Array[],
  texts: readonly string[],
): Promise<readonly Float64Array[]> {
  if (head.lexical === null) return rows.map((embedding) => predict(head, embedding));
  const readFeatures = createLexicalVectorizer(head.lexical);
  const outputs: Float64Array[] = [];
  let charactersLeft = CHARACTERS_PER_CHUNK;
  for (const [index, embedding] of rows.entries()) {
    const text = texts[index] ?? "";
    if (charactersLeft <= 0) {
      await scheduler.wait(0);
      charactersLeft = CHARACTERS_PER_CHUNK;
    }
    charactersLeft -= text.length;
    outputs.push(predict(head, embedding, readFeatures(text)));
  }
  return outputs;
}

/** Refuses more scores than an answer holds, or more work than one stretch of computation should take. */
function checkLimits(head: ServedHead, inputs: number, params: PredictParams): Failure | null {
  const outputs = Math.max(1, head.labelCount);
  // A coverage may show every label, and so may a head of many labels an input.
  const showsAllLabels = params.coverage !== undefined || head.task === "multi_label";
  const scoresPerInput = showsAllLabels ? outputs : Math.min(params.top_k ?? 1, outputs);
  const limitExceeded = (what: string, limit: number, actual: number): Failure => ({
    code: "limit_exceeded",
    message: `A prediction has at most ${limit} ${what}; this one has ${actual}. Send fewer inputs in a request.`,
    param: "input",
    details: { limit, actual },
  });
  const scores = inputs * scoresPerInput;
  if (scores > limits.scores_per_request)
    return limitExceeded("inputs times scores", limits.scores_per_request, scores);
  const operations = inputs * outputs * head.dimensions;
  if (operations <= limits.prediction_operations) return null;
  return limitExceeded("inputs times labels times dimensions", limits.prediction_operations, operations);
}

/** The inputs' embeddings by the backbone that the head was trained on, and the texts, where they are texts. */
async function embed(
  env: Cloudflare.Env,
  tenant: string,
  head: ServedHead,
  backbone: Backbone | null,
  inputs: readonly Input[],
  paramAt: (index: number) => string,
  waitUntil: (work: Promise<unknown>) => void,
): Promise<Result<{ rows: readonly Float32Array[]; texts: readonly string[] }>> {
  const texts: string[] = [];
  const embeddings: Float32Array[] = [];
  for (const [index, item] of inputs.entries()) {
    const fields = typeof item === "string" ? { text: item } : item;
    if ("image" in fields)
      return fail("modality_not_supported", "No image backbone exists yet. Send texts or embeddings.", {
        param: `${paramAt(index)}.image`,
      });
    const modality = "text" in fields ? "text" : "embedding";
    if (modality !== head.modality) {
      return fail(
        "modality_mismatch",
        `Head '${head.id}' takes inputs of modality '${head.modality}', not '${modality}'.`,
        { param: paramAt(index) },
      );
    }
    const param = typeof item === "string" ? paramAt(index) : `${paramAt(index)}.${modality}`;
    const checked =
      "text" in fields ? checkText(fields.text, param) : checkEmbedding(fields.embedding, head.dimensions, param);
    if (!checked.ok) return checked;
    if (typeof checked.value === "string") texts.push(checked.value);
    else embeddings.push(checked.value);
  }
  if (backbone === null) return ok({ rows: embeddings, texts });
  const embedded = await embedInputs(env.KV, tenant, backbone, texts, waitUntil);
  return embedded.ok ? ok({ rows: embedded.value.rows, texts }) : embedded;
}

function toPrediction(head: Head, outputs: Float64Array, params: PredictParams): Omit<Prediction, "index"> {
  if (head.task === "regression") {
    const value = outputs[0] ?? 0;
    const interval = predictionInterval(head, value, params.coverage ?? DEFAULT_COVERAGE);
    return { value, interval: interval.every(Number.isFinite) ? interval : null };
  }
  const ranked = Array.from(outputs, (score, i) => ({ label: head.labels[i] ?? "", score })).sort(
    (a, b) => b.score - a.score,
  );
  const top = ranked[0] ?? { label: "", score: 0 };
  if (head.task === "multi_label") {
    const labels = ranked.filter(({ score }) => score >= 0.5).map(({ label }) => label);
    return { labels, scores: ranked.slice(0, params.top_k ?? Math.max(1, labels.length)) };
  }
  const threshold = params.out_of_scope_threshold ?? head.outOfScopeThreshold;
  return {
    label: top.label,
    score: top.score,
    in_scope: threshold === null || top.score >= threshold,
    scores: ranked.slice(0, params.top_k ?? 1),
    ...(params.coverage === undefined
      ? {}
      : { set: predictionSet(head, outputs, params.coverage).map((i) => head.labels[i] ?? "") }),
  };
}
