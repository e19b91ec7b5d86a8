/** Every limit of the service, as `GET /v1/limits` shows them. Characters are Unicode code points. */
export const limits = {
  datasets: 1_000,
  examples_per_dataset: 200_000,
  labels_per_dataset: 10_000,
  heads: 1_000,
  versions_per_head: 1_000,
  /** Versions of a head that answer by shares, and versions that shadow them. */
  traffic_versions: 4,
  shadow_versions: 2,
  api_keys: 1_000,
  /** Backbones with trained layers. All revisions of one count as one. */
  fine_tuned_backbones: 100,
  files: 1_000,
  /** The newest runs on test sets, and what they take in the ledger. Older ones are deleted. */
  evaluations: 1_000,
  evaluation_bytes: 256 * 1024 * 1024,
  /** The newest recommendations, likewise. */
  recommendations: 1_000,
  recommendation_bytes: 64 * 1024 * 1024,
  webhook_endpoints: 50,
  inbound_hooks: 1_000,
  /** Webhooks in a row, each of which an inbound hook's message has caused. */
  webhook_hops: 3,
  /** Fine-tuning jobs that have not ended. */
  active_jobs: 100,
  /** The newest jobs that have ended. Older ones are deleted. */
  ended_jobs: 1_000,
  /** Events kept of a job, including metrics. */
  events_per_job: 2_000,
  /** One upload of a job's attempt. */
  artifact_bytes: 512 * 1024 * 1024,
  /** A head's weights. Every location reads them from KV, which holds no larger value. */
  head_bytes: 25 * 1024 * 1024,
  /** What fine-tuning changed in a backbone. An isolate keeps it in memory, where it is about twice as large. */
  backbone_bytes: 10 * 1024 * 1024,
  text_characters: 32_768,
  label_characters: 256,
  label_description_characters: 1_000,
  largest_value: 1e15,
  labels_per_example: 256,
  embedding_dimensions: 4_096,
  /** The numbers of an example's embedding. One far beyond the others' size would make them all alike to a training. */
  largest_embedding_number: 1e6,
  inputs_per_request: 2_048,
  /** The scores in a prediction's response: inputs times the labels shown for each. */
  scores_per_request: 500_000,
  /** The inputs of a prediction that are explained. */
  explained_inputs: 32,
  /** What a prediction computes: inputs times labels times dimensions. */
  prediction_operations: 1_000_000_000,
  /** The numbers in a response of embeddings: inputs times dimensions. */
  embedding_numbers_per_request: 1_000_000,
  /** All texts of a request that a shared backbone embeds: at most about 2.5 s of one core, if it knows no word. */
  characters_per_request: 2_000_000,
  /** What a sentence encoder reads of all texts of a request: at most about 7 s of one core. */
  encoder_characters_per_request: 200_000,
  /** The JSON of a head's record, with its labels and evaluation. A row of the ledger has at most 2 MB. */
  head_record_bytes: 1_900_000,
  examples_per_training_request: 10_000,
  /** The JSON of a dataset's targets, in UTF-8, for training. They are sent in a single message. */
  training_target_bytes: 8_000_000,
  ids_per_deletion: 1_000,
  issues_per_resolution: 1_000,
  /** Decisions on the issues of a dataset that are kept. */
  resolved_issues: 100_000,
  /** Examples of a feedback request. Each is predicted before it is stored. */
  examples_per_feedback: 1_000,
  /** A head's queue of live inputs: of more the oldest go. */
  captured_inputs_per_head: 10_000,
  captured_bytes_per_head: 4 * 1024 * 1024,
  /** What a choice of inputs to label next answers. */
  inputs_to_label: 500,
  json_body_bytes: 16 * 1024 * 1024,
  /** Of a JSON text that is parsed as one: arrays and objects in each other. */
  json_depth: 64,
  /** Arrays, objects, and fields of objects, each of which takes 50 to 100 bytes in memory. */
  json_nodes: 250_000,
  /** Elements of an array, or fields of an object. */
  json_elements: 100_000,
  /** The body of a request to an inbound hook. */
  inbound_body_bytes: 1024 * 1024,
  import_body_bytes: 100 * 1024 * 1024,
  /** What a tenant's past versions of examples take in its ledger. Beyond it, the oldest revisions are not kept. */
  history_bytes: 1024 * 1024 * 1024,
  /** What the rows of all imports that are under way take in a tenant's ledger. */
  staged_bytes: 512 * 1024 * 1024,
  file_bytes: 100 * 1024 * 1024,
  /** Accepted and rejected rows together; in NDJSON and CSV, empty lines count as well. Also the lines of a file. */
  import_rows: 400_000,
  import_line_bytes: 1024 * 1024,
} as const;

/**
 * What one training may cost inside a request. `bytes` are those of arrays alive at once; an isolate has 128 MB for
 * everything. `operations` are floating-point operations, including those of embedding: 12 to 17 GFLOP a second on one
 * core, where the platform stops a request at `cpu_ms`.
 */
export const edgeBudget = { bytes: 56_000_000, operations: 1_400_000_000_000 } as const;
