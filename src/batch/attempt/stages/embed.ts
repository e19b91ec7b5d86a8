/** Stage 2: the embeddings of texts. A backbone of cost "local" makes each on demand, others make them batch by batch. */
import type { Backbone, BackboneFailure } from "../../../backbones/backbone.ts";
import { ok, type Result } from "../../../core/failure.ts";
import { type RetryPolicy, withRetries } from "../../client/worker-client.ts";
import { abortable } from "../cancellation.ts";
import type { EmbeddingMatrix } from "../embedding-matrix.ts";

/** At most so many embeddings are lost if an attempt is cut off. */
const BATCH_SIZE = 512;

const RETRYABLE_CODES: ReadonlySet<string> = new Set([
  "backend_unavailable",
  "backend_timeout",
  "backend_rate_limited",
]);

export interface EmbedOptions {
  readonly retryPolicy: RetryPolicy;
  /** If it is aborted, its reason is thrown. */
  readonly signal: AbortSignal;
  readonly yieldToEventLoop: () => Promise<void>;
  /** Is awaited after each batch. */
  readonly onBatch: () => Promise<void>;
}

/**
 * Adds embeddings to `embeddings` until each text has one. A backbone that fails is called again, as the retry policy says.
 * Rows that came before a failure are kept.
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
      let added = 0;
      for (const row of result.rows) {
        if (row?.length !== backbone.dimensions || added === batch.length) break;
        embeddings.push(row);
        added++;
      }
      if (result.failure === null && added === batch.length && result.rows.length === added)
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

/** The embedding of a row's text, made at each call. */
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
