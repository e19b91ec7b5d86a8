export type Modality = "text" | "image" | "embedding";

/** Why a backbone gave no embedding. `retryAfter` is in seconds, where the other side named a time. */
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

/** One row an input, in order. A row is missing exactly where the backbone failed; what did succeed is kept. */
export interface EmbedResult {
  readonly rows: readonly (Float32Array | undefined)[];
  readonly failure: BackboneFailure | null;
}

/**
 * A frozen, pre-trained function from inputs to embeddings. The same id and revision always give the same embedding of
 * the same input, so embeddings are cached under both; whatever changes them (weights, pooling, dimensions) changes
 * the revision.
 */
export interface Backbone {
  readonly id: string;
  readonly revision: string;
  readonly modality: Modality;
  readonly dimensions: number;
  readonly kind: "hash" | "static" | "fine_tuned" | "openai" | "workers_ai";
  readonly license: string;
  readonly parameters: number;
  readonly bytes: number;
  /** "remote" embeddings cost more than a KV read, so each input is cached; "local" ones cost microseconds. */
  readonly cost: "local" | "remote";
  embed(inputs: readonly string[]): Promise<EmbedResult>;
}

/** What a remote backbone's configuration says about it. */
export type Identity = Pick<Backbone, "id" | "revision" | "license" | "parameters">;
