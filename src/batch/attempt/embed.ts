/** Embeddings of texts: a remote backbone's, one stretch after another, and a local one's, made when they are asked for. */
import type { Backbone, BackboneFailure } from "../../backbones/backbone.ts";
import { ok, type Result } from "../../core/failure.ts";
import { type RetryPolicy, withRetries } from "../client/worker-client.ts";
import { abortable } from "./cancellation.ts";
import type { EmbeddingMatrix } from "./embedding-matrix.ts";

/** What is lost when an attempt is cut off meanwhile. */
const BATCH_SIZE = 512;

const RETRYABLE_CODES: ReadonlySet<string> = new Set([
  "backend_unavailable",
  "backend_timeout",
  "backend_rate_limited",
]);

/** How an attempt goes about it. */
export interface EmbedOptions {
  readonly retryPolicy: RetryPolicy;
  /** Throws the reason of an aborted one. */
  readonly signal: AbortSignal;
  /** Lets the event loop turn. */
  readonly yieldToEventLoop: () => Promise<void>;
  /** Called after each stretch. */
  readonly onBatch: () => Promise<void>;
}

/**
 * Adds to `rows` until it has one for each text. A backbone that fails is asked again for as long as patience
 * lasts; what it gave before a failure is kept.
 */
export async function embedTexts(
  backbone: Backbone,
  texts: readonly string[],
  embeddings: EmbeddingMatrix,
  { retryPolicy, signal, yieldToEventLoop, onBatch }: EmbedOptions,
): Promise<Result<null>> {
  while (embeddings.count() < texts.length) {
    let failure = incompleteEmbeddings;
    const outcome = await withRetries(retryPolicy, signal, async () => {
      const batch = texts.slice(embeddings.count(), embeddings.count() + BATCH_SIZE);
      await yieldToEventLoop();
      const result = await abortable(signal, backbone.embed(batch));
      const missing = result.rows.findIndex((row) => row?.length !== backbone.dimensions);
      for (const row of result.rows.slice(0, missing === -1 ? batch.length : missing))
        embeddings.push(row as Float32Array);
      if (result.failure === null && missing === -1 && result.rows.length === batch.length)
        return { type: "answer", value: null };
      failure = result.failure ?? incompleteEmbeddings;
      return RETRYABLE_CODES.has(failure.code)
        ? { type: "retry", retryAfterMs: (failure.retryAfter ?? 0) * 1000 }
        : { type: "refused", status: 0 };
    });
    if (outcome.type !== "answer") return { ok: false, failure };
    await onBatch();
  }
  return ok(null);
}

/** A local backbone's embedding of a row's text: it costs less to make it again than to keep it. */
export function embedLazily(backbone: Backbone, texts: readonly string[]): (row: number) => Promise<Float32Array> {
  return async (row) => {
    const { rows } = await backbone.embed([texts[row] ?? ""]);
    return rows[0] as Float32Array;
  };
}

const incompleteEmbeddings: BackboneFailure = {
  code: "backend_invalid_answer",
  message: "The backbone answered fewer embeddings than it was asked for.",
};
