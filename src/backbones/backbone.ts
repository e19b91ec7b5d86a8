export type Modality = "text" | "image" | "embedding";

/** Why a backbone returned no embedding. `retryAfter`, in seconds, is there if its endpoint named a time. */
export interface BackboneFailure {
  readonly code:
    | "backend_unavailable"
    | "backend_timeout"
    | "backend_rate_limited"
    | "backend_rejected"
    | "backend_invalid_answer";
  readonly message: string;
  readonly retryAfter?: number;
}

/** A row an input, in order. The rows that the backbone failed to compute are undefined, the others are kept. */
export interface EmbedResult {
  readonly rows: readonly (Float32Array | undefined)[];
  readonly failure: BackboneFailure | null;
}

/**
 * A frozen, pre-trained function from inputs to embeddings. For the same id and revision, the same input always has the
 * same embedding, so that embeddings can be cached. A change of weights, pooling or dimensions needs a new revision.
 */
export interface Backbone {
  readonly id: string;
  readonly revision: string;
  readonly modality: Modality;
  readonly dimensions: number;
  readonly kind: "hash" | "static" | "sentence_encoder" | "fine_tuned" | "openai" | "workers_ai";
  readonly license: string;
  readonly parameters: number;
  readonly bytes: number;
  /**
   * "local": it takes microseconds. "local_cached": it takes milliseconds of this isolate, more than a KV read, so each
   * input is cached. "remote": another system computes it, and each input is cached.
   */
  readonly cost: "local" | "local_cached" | "remote";
  embed(inputs: readonly string[]): Promise<EmbedResult>;
  /** Left out: which word adds what to an embedding is not known. */
  readonly wordSum?: WordSum;
}

/** The first numbers of an embedding, if they are a sum over the words of the text (core/text/words.ts). */
export interface WordSum {
  readonly dimensions: number;
  /** The text as it is read: with its spelling corrected. */
  read(text: string): string;
  /**
   * The product of each word's part with each of the directions, which have `dimensions` numbers: of a direction, a number
   * a word. Null where the parts cancel out.
   */
  multiply(words: readonly string[], directions: readonly Float32Array[]): readonly Float64Array[] | null;
}

/** The part of a remote backbone that its configuration names. */
export type Identity = Pick<Backbone, "id" | "revision" | "license" | "parameters">;
