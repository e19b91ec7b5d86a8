/** Embedding many inputs inside a request: a chunk at a time, so that other requests of the isolate get their turn. */
import type { Failure } from "../core/failure.ts";
import type { Backbone, BackboneFailure } from "./backbone.ts";
import { MAX_CHARACTERS } from "./sentence-encoder/tokenizer.ts";

/** Characters that a local backbone embeds without a pause: some tens of milliseconds of work at most. */
export const CHARACTERS_PER_CHUNK = 50_000;
/**
 * How many times as long as a static backbone others take for a character: a fine-tuned one for words that its cache does
 * not have, a sentence encoder for short texts.
 */
const FINE_TUNED_COST_FACTOR = 25;
const ENCODER_COST_FACTOR = 40;

/** About what a sentence encoder takes in one pass: some 25 ms of work. */
const ENCODER_CHARACTERS_PER_CHUNK = 500;

/** Is awaited before each chunk. It lets other requests run, and stops the work by returning a failure. */
export type YieldToEventLoop = () => Promise<Failure | null>;

/** Whether a sentence encoder computes in this isolate, a shared one or one that was fine-tuned. */
export function runsEncoder({ cost }: Pick<Backbone, "cost">): boolean {
  return cost === "local_cached";
}

/** The cost of a character where work is bounded: 1 for a static backbone. */
function costFactor(backbone: Pick<Backbone, "kind" | "cost">): number {
  if (runsEncoder(backbone)) return ENCODER_COST_FACTOR;
  return backbone.kind === "fine_tuned" ? FINE_TUNED_COST_FACTOR : 1;
}

/** How many characters of an input the backbone reads. */
export function maxCharacters(backbone: Pick<Backbone, "cost">): number {
  return runsEncoder(backbone) ? MAX_CHARACTERS : Number.POSITIVE_INFINITY;
}

/**
 * The work of embedding so many texts, in bytes of text that a static backbone would read meanwhile; 0 for a remote
 * backbone, which works elsewhere.
 */
export function embeddingWork(backbone: Pick<Backbone, "kind" | "cost"> | null, bytes: number, texts: number): number {
  if (backbone === null || texts === 0 || backbone.cost === "remote") return 0;
  return Math.min(bytes, texts * maxCharacters(backbone)) * costFactor(backbone);
}

/**
 * Embeds inputs: with a remote backbone all at once, with a local one, which computes in this isolate, chunk by chunk.
 * Returns a row an input, in order, up to the chunk that failed. A row that the backbone did not return is undefined.
 */
export async function embedInChunks(
  backbone: Backbone,
  inputs: readonly string[],
  yieldToEventLoop: YieldToEventLoop,
): Promise<{ readonly rows: readonly (Float32Array | undefined)[]; readonly failure: Failure | null }> {
  const charactersPerChunk = runsEncoder(backbone)
    ? ENCODER_CHARACTERS_PER_CHUNK
    : CHARACTERS_PER_CHUNK / costFactor(backbone);
  const rows: (Float32Array | undefined)[] = [];
  while (rows.length < inputs.length) {
    const stopFailure = await yieldToEventLoop();
    if (stopFailure !== null) return { rows, failure: stopFailure };
    const chunk = backbone.cost === "remote" ? inputs : takeChunk(inputs, rows.length, charactersPerChunk);
    const embedding = await backbone.embed(chunk);
    for (const i of chunk.keys()) {
      const row = embedding.rows[i];
      rows.push(row?.length === backbone.dimensions ? row : undefined);
    }
    if (embedding.failure) return { rows, failure: toFailure(embedding.failure) };
    if (rows.includes(undefined)) return { rows, failure: missingRowFailure };
  }
  return { rows, failure: null };
}

/** The inputs from `start` on, until they have so many characters. There is at least one. */
function takeChunk(inputs: readonly string[], start: number, minCharacters: number): readonly string[] {
  let end = start;
  for (let characters = 0; end < inputs.length && characters < minCharacters; end++)
    characters += inputs[end]?.length ?? 0;
  return inputs.slice(start, end);
}

/** A backbone's failure as the request's. A failure that a later request may not meet says when to try again. */
function toFailure({ code, message, retryAfter: requestedDelay }: BackboneFailure): Failure {
  const retryable = code === "backend_unavailable" || code === "backend_timeout" || code === "backend_rate_limited";
  const retryAfter = requestedDelay ?? (retryable ? 5 : undefined);
  return { code, message, ...(retryAfter === undefined ? {} : { retryAfter }) };
}

export const missingRowFailure: Failure = {
  code: "backend_invalid_answer",
  message: "The backbone answered fewer embeddings than it was asked for.",
  retryAfter: 5,
};
