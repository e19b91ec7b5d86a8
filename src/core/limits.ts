/** Every limit of the service, as `GET /v1/limits` shows them. Bytes are bytes; characters are UTF-16 code units. */
export const limits = {
  datasets: 1_000,
  examples_per_dataset: 200_000,
  labels_per_dataset: 10_000,
  heads: 1_000,
  versions_per_head: 1_000,
  api_keys: 1_000,
  /** Whose layers were trained; several revisions of one count as one. */
  fine_tuned_backbones: 100,
  files: 1_000,
  webhook_endpoints: 50,
  inbound_hooks: 1_000,
  /** Fine-tuning jobs that have not ended; of those that have, the newest so many are kept. */
  active_jobs: 100,
  ended_jobs: 1_000,
  /** Events kept of a job, metrics among them. */
  events_per_job: 2_000,
  /** What an attempt at a job may upload at once. */
  artifact_bytes: 512 * 1024 * 1024,
  /** A head's weights: KV, from which every location reads them, holds no larger value. */
  head_bytes: 25 * 1024 * 1024,
  /** What fine-tuning changed of a backbone: decoded it is about twice as large, and an isolate keeps it in memory. */
  backbone_bytes: 10 * 1024 * 1024,
  text_characters: 32_768,
  label_characters: 256,
  largest_value: 1e15,
  labels_per_example: 256,
  embedding_dimensions: 4_096,
  inputs_per_request: 2_048,
  /** Inputs times labels shown for each: what a prediction's answer holds. */
  scores_per_request: 500_000,
  /** Inputs times labels times dimensions: what a prediction computes in one stretch. */
  prediction_operations: 1_000_000_000,
  /** Inputs times dimensions of an answer of embeddings. */
  embedding_numbers_per_request: 1_000_000,
  /** Texts of a request that a fine-tuned backbone embeds, in all: a word that it has not met lately costs some 0.2 ms. */
  fine_tuned_characters_per_request: 2_000_000,
  /** A head's record as JSON, with its labels and evaluation: a row of the ledger has at most 2 MB. */
  head_record_bytes: 1_900_000,
  examples_per_training_request: 10_000,
  /** Targets of a data set that is trained on, as UTF-8 of their JSON: all of them go through one message. */
  training_target_bytes: 8_000_000,
  /** Examples of one request for feedback: each is predicted before it is learnt. */
  examples_per_feedback: 1_000,
  json_body_bytes: 16 * 1024 * 1024,
  /** What another system posts to an inbound hook. */
  inbound_body_bytes: 1024 * 1024,
  import_body_bytes: 100 * 1024 * 1024,
  file_bytes: 100 * 1024 * 1024,
  /** Good rows, bad ones and, in NDJSON and CSV, empty lines; the lines of a file as well. */
  import_rows: 400_000,
  import_line_bytes: 1024 * 1024,
} as const;

/**
 * What one training may cost inside a request: bytes of arrays alive at once (an isolate has 128 MB for everything),
 * and floating-point operations, those of embedding counted in (about 12 GFLOP a second on one core; the platform stops a
 * request at `cpu_ms`).
 */
export const edgeBudget = { bytes: 56_000_000, operations: 800_000_000_000 } as const;
