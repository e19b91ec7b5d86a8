/** Predictions of a head: its weights, the inputs' embeddings, and what the outputs say. */
import type { Input } from "../api/examples.ts";
import type { Prediction, PredictRequest } from "../api/predictions.ts";
import type { Backbone } from "../backbones/backbone.ts";
import { CHARACTERS_PER_CHUNK } from "../backbones/chunks.ts";
import { argmax } from "../core/evaluation/probability.ts";
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import {
  type Head,
  judgeScope,
  logitsOf,
  outputsOf,
  predictionInterval,
  predictionSet,
  thresholdOf,
} from "../core/head.ts";
import { limits } from "../core/limits.ts";
import { createLexicalVectorizer } from "../core/text/lexical.ts";
import { visibleText } from "../core/text/visible.ts";
import { checkEmbedding, checkText } from "../ingest/example.ts";
import { getHead } from "../store/heads.ts";
import { embedInputs } from "../store/inputs.ts";
import type { ServedHead } from "../tenant/heads/served-heads.ts";
import { getHeadBackbone, hasVocabulary } from "./backbones.ts";
import { explainPredictions } from "./explain.ts";
import type { CountedPrediction } from "./meter.ts";
import type { TenantRequest } from "./tenant-request.ts";
import { binUnknownWords } from "./unknown-words.ts";

export type PredictOptions = Omit<PredictRequest, "input"> & {
  /** Whether explanations show training examples. */
  readonly showsExamples?: boolean;
};

const DEFAULT_COVERAGE = 0.9;
/** A scope score has four digits: of a thousand held-out examples, its ranks tell no more. */
const SCOPE_SCORE_STEPS = 10_000;
/** Of a request, the unknown words of so many inputs are counted: that takes a third of the time of a static embedding. */
const MAX_WORD_COUNTS = 32;

/** Embeddings of the inputs of a request, in their order. Versions on one backbone share them. */
export interface EmbeddedRows {
  readonly backbone: string;
  readonly rows: readonly Float32Array[];
}

export interface PredictedInputs {
  readonly predictions: readonly Prediction[];
  /** What each is counted by. */
  readonly counted: readonly CountedPrediction[];
  readonly embedded: EmbeddedRows;
}

/**
 * One prediction per input, in their order. `paramAt` is the path of an input in the request.
 *
 * @param embedded the inputs' embeddings by some backbone, which are used if it is the head's
 */
export async function predictInputs(
  request: TenantRequest,
  served: ServedHead,
  inputs: readonly Input[],
  paramAt: (index: number) => string,
  options: PredictOptions = {},
  embedded: EmbeddedRows | null = null,
): Promise<Result<PredictedInputs>> {
  const { env, tenant, waitUntil } = request;
  const limitFailure = checkLimits(served, inputs.length, options);
  if (limitFailure) return { ok: false, failure: limitFailure };
  const [head, backbone] = await Promise.all([
    getHead(env.KV, env.BUCKET, tenant, served.sha256),
    getHeadBackbone(env, tenant, served),
  ]);
  if (head === null)
    return fail("storage_unavailable", "The head's weights could not be read. Try again.", { retryAfter: 5 });
  if (!backbone.ok) return backbone;
  const checked = checkInputs(served, inputs, paramAt, options.truncate);
  if (!checked.ok) return checked;
  const { truncated, embeddings } = checked.value;
  const texts = head.visibleText ? checked.value.texts.map(visibleText) : checked.value.texts;
  // Heads that read invisible characters embed other texts.
  const name = `${served.backbone.id}@${served.backbone.revision}${head.visibleText ? "" : "~"}`;
  const rows =
    embedded?.backbone === name
      ? ok(embedded.rows)
      : await embed(env.KV, tenant, backbone.value, { texts, embeddings }, waitUntil);
  if (!rows.ok) return rows;
  const { predictions, tops } = await predictRows(head, rows.value, texts, options);
  const explanations = options.explain
    ? await explainPredictions(
        request,
        served,
        { head, backbone: backbone.value },
        rows.value.map((embedding, index) => ({ text: texts[index] ?? "", embedding })),
        options.showsExamples ?? false,
      )
    : null;
  if (explanations?.ok === false) return explanations;
  const countsWords = hasVocabulary(backbone.value);
  return ok({
    predictions: predictions.map((each, index) => {
      const explanation = explanations?.value[index];
      return {
        ...each,
        ...(truncated.has(index) ? { truncated: true as const } : {}),
        ...(explanation === undefined ? {} : { explanation }),
      };
    }),
    counted: tops.map((top, index) => ({
      top,
      scope: predictions[index]?.scope_score,
      unknownWords: countsWords && index < MAX_WORD_COUNTS ? binUnknownWords(texts[index] ?? "") : null,
    })),
    embedded: { backbone: name, rows: rows.value },
  });
}

/** Operations of predictions between two chances for other requests: some tens of milliseconds. */
export const OPERATIONS_PER_YIELD = 10_000_000;
/** What it counts to rank a label, and to read a character for lexical features, without their weights. */
const OPERATIONS_PER_LABEL = 100;
const OPERATIONS_PER_CHARACTER = OPERATIONS_PER_YIELD / CHARACTERS_PER_CHUNK;

/** What the prediction of one input counts towards OPERATIONS_PER_YIELD. */
export function predictionOperations({ bias, dimensions, lexical }: Head, text: string): number {
  const outputs = bias.length;
  const characterOperations = lexical === null ? 0 : outputs + OPERATIONS_PER_CHARACTER;
  return outputs * (dimensions + OPERATIONS_PER_LABEL) + text.length * characterOperations;
}

/** A prediction per row, and its most probable label. Yields to other requests in between. */
async function predictRows(
  head: Head,
  rows: readonly Float32Array[],
  texts: readonly string[],
  options: PredictOptions,
): Promise<{ predictions: Prediction[]; tops: CountedPrediction["top"][] }> {
  const readFeatures = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  const predictions: Prediction[] = [];
  const tops: CountedPrediction["top"][] = [];
  let operations = 0;
  for (const [index, embedding] of rows.entries()) {
    if (operations >= OPERATIONS_PER_YIELD) {
      await scheduler.wait(0);
      operations = 0;
    }
    const text = texts[index] ?? "";
    operations += predictionOperations(head, text);
    const logits = logitsOf(head, embedding, readFeatures?.(text) ?? null);
    const outputs = outputsOf(head, logits, head.temperature);
    predictions.push({ index, ...toPrediction(head, { logits, outputs, embedding }, options) });
    const label = argmax(outputs);
    tops.push(head.task === "regression" ? null : { label, score: outputs[label] ?? 0 });
  }
  return { predictions, tops };
}

/** Refuses more scores than a response may hold, and more operations than a request may take. */
export function checkLimits(head: ServedHead, inputs: number, options: PredictOptions): Failure | null {
  const outputs = Math.max(1, head.labelCount);
  // A prediction set may hold every label, and so may the labels of a multi-label input.
  const showsAllLabels = options.coverage !== undefined || head.task === "multi_label";
  const scoresPerInput = showsAllLabels ? outputs : Math.min(options.top_k ?? 1, outputs);
  if (options.explain && inputs > limits.explained_inputs) {
    const details = { limit: limits.explained_inputs, actual: inputs };
    const message = `At most ${details.limit} inputs of a request are explained; this one has ${inputs}. Send fewer inputs, or leave 'explain' out.`;
    return { code: "limit_exceeded", message, param: "input", details };
  }
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

interface CheckedInputs {
  readonly texts: readonly string[];
  /** The indices of texts that were cut. */
  readonly truncated: ReadonlySet<number>;
  readonly embeddings: readonly Float32Array[];
}

/** The inputs as texts, or as embeddings of the head's dimensions. */
function checkInputs(
  head: ServedHead,
  inputs: readonly Input[],
  paramAt: (index: number) => string,
  truncate: boolean | undefined,
): Result<CheckedInputs> {
  const texts: string[] = [];
  const truncated = new Set<number>();
  const embeddings: Float32Array[] = [];
  for (const [index, input] of inputs.entries()) {
    const fields = typeof input === "string" ? { text: input } : input;
    if ("image" in fields)
      return fail("modality_not_supported", "No image backbone exists yet. Send texts or embeddings.", {
        param: `${paramAt(index)}.image`,
      });
    const modality = "text" in fields ? "text" : "embedding";
    if (modality !== head.modality) {
      const message = `Head '${head.id}' takes inputs of modality '${head.modality}', not '${modality}'.`;
      return fail("modality_mismatch", message, { param: paramAt(index) });
    }
    const param = typeof input === "string" ? paramAt(index) : `${paramAt(index)}.${modality}`;
    if ("text" in fields) {
      const checked = checkText(fields.text, param, truncate);
      if (!checked.ok) return checked;
      texts.push(checked.value.text);
      if (checked.value.truncated) truncated.add(index);
    } else {
      const checked = checkEmbedding(fields.embedding, head.dimensions, param);
      if (!checked.ok) return checked;
      embeddings.push(checked.value);
    }
  }
  return ok({ texts, truncated, embeddings });
}

/** The inputs' embeddings by the backbone on which the head was trained; null for embeddings of the caller's own. */
async function embed(
  kv: KVNamespace,
  tenant: string,
  backbone: Backbone | null,
  { texts, embeddings }: Pick<CheckedInputs, "texts" | "embeddings">,
  waitUntil: TenantRequest["waitUntil"],
): Promise<Result<readonly Float32Array[]>> {
  if (backbone === null) return ok(embeddings);
  const embedded = await embedInputs(kv, tenant, backbone, texts, waitUntil);
  return embedded.ok ? ok(embedded.value.rows) : embedded;
}

function toPrediction(
  head: Head,
  {
    embedding,
    logits,
    outputs,
  }: { readonly embedding: Float32Array; readonly logits: Float64Array; readonly outputs: Float64Array },
  options: PredictOptions,
): Omit<Prediction, "index"> {
  if (head.task === "regression") {
    const value = outputs[0] ?? 0;
    const interval = predictionInterval(head, value, options.coverage ?? DEFAULT_COVERAGE);
    return { value, interval: interval.every(Number.isFinite) ? interval : null };
  }
  const ranked = Array.from(outputs, (score, i) => ({ label: head.labels[i] ?? "", score, index: i })).sort(
    (a, b) => b.score - a.score,
  );
  const scores = (list: typeof ranked) => list.map(({ label, score }) => ({ label, score }));
  const top = ranked[0] ?? { label: "", score: 0 };
  if (head.task === "multi_label") {
    const isPredicted = ({ score, index }: (typeof ranked)[number]) =>
      score >= (options.threshold ?? thresholdOf(head, index));
    const labels = ranked.filter(isPredicted).map(({ label }) => label);
    // All that are predicted, with those between them that have higher thresholds.
    const shown = Math.max(1, ranked.findLastIndex(isPredicted) + 1);
    return { labels, scores: scores(ranked.slice(0, options.top_k ?? shown)) };
  }
  const scope = judgeScope(head, logits, embedding, options.out_of_scope_threshold);
  return {
    label: top.label,
    score: top.score,
    in_scope: scope.inScope,
    ...(head.scope === null || scope.score === null
      ? {}
      : { scope_score: Math.round(scope.score * SCOPE_SCORE_STEPS) / SCOPE_SCORE_STEPS }),
    scores: scores(ranked.slice(0, options.top_k ?? 1)),
    ...(options.coverage === undefined
      ? {}
      : { set: predictionSet(head, outputs, options.coverage).map((i) => head.labels[i] ?? "") }),
  };
}
