/**
 * A typed client of the HTTP API, over fetch alone: it runs in Node, in browsers and in Workers.
 *
 *   const graft = createClient({ baseUrl: "http://127.0.0.1:8787", key: "gk_acme_…" });
 *   await graft.datasets.create({ name: "tickets", task: "single_label", modality: "text" });
 *   await graft.datasets.import("tickets", csv, "text/csv");
 *   const head = await graft.heads.train({ name: "support", dataset: "tickets", method: "head" });
 *   const { data } = await graft.heads.predict("support", { input: "I want my money back" });
 */

import type { ErrorCode } from "./core/failure.ts";
import type { Task } from "./core/head.ts";
import type { EventType } from "./core/lifecycle/event.ts";

/** An answer of the API that is an error. `code` is from the closed list in docs/errors/. */
export class GraftError extends Error {
  override readonly name = "GraftError";
  readonly status: number;
  /** null where something between the client and the API answered. */
  readonly code: ErrorCode | null;
  /** The path into the request of what was wrong, such as `examples[3].label`. */
  readonly param: string | null;
  readonly requestId: string | null;
  /** In seconds, where trying again may help. */
  readonly retryAfter: number | null;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(response: Response, error: Partial<ErrorBody>) {
    super(error.message ?? `HTTP ${response.status} without an error of the API's own.`);
    this.status = response.status;
    this.code = error.code ?? null;
    this.param = error.param ?? null;
    this.requestId = error.request_id ?? response.headers.get("x-request-id");
    const seconds = response.headers.get("retry-after");
    this.retryAfter = seconds === null ? null : Number(seconds);
    this.details = error.details ?? {};
  }
}

interface ErrorBody {
  readonly message: string;
  readonly code: ErrorCode;
  readonly param: string | null;
  readonly request_id: string;
  readonly details?: Readonly<Record<string, unknown>>;
}

export type Scope = "predict" | "train" | "manage";

export interface List<T> {
  readonly object: "list";
  readonly data: readonly T[];
  readonly first_id: string | null;
  readonly last_id: string | null;
  readonly has_more: boolean;
}

/** Newest first; `after` continues behind the last id of the page before. */
export interface PageRequest {
  readonly limit?: number;
  readonly after?: string;
}

export interface ApiKey {
  readonly object: "api_key";
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly created_at: number;
  readonly expires_at: number | null;
  /** Shown only in the answer that made the key. */
  readonly secret?: string;
}

export interface Tenant {
  readonly object: "tenant";
  readonly id: string;
  readonly name: string | null;
  readonly status: "active" | "deleting" | "deleted";
  readonly created_at: number;
}

export interface NewTenant extends Tenant {
  readonly key: ApiKey & { readonly secret: string };
}

export interface Dataset {
  readonly object: "dataset";
  readonly id: string;
  readonly name: string;
  readonly task: Task;
  readonly modality: "text" | "embedding";
  readonly dimensions: number | null;
  readonly out_of_scope_label: string | null;
  readonly examples: number;
  readonly labels: Readonly<Record<string, number>>;
  readonly revision: number;
  readonly created_at: number;
  readonly updated_at: number;
}

export interface NewDataset {
  readonly name: string;
  readonly task: Task;
  readonly modality: "text" | "embedding";
  readonly dimensions?: number;
  readonly out_of_scope_label?: string;
}

export type Input = string | { readonly text: string } | { readonly embedding: readonly number[] };

export interface Example {
  readonly id?: string;
  readonly text?: string;
  readonly embedding?: readonly number[];
  readonly label?: string;
  readonly labels?: readonly string[];
  readonly value?: number;
}

export interface DatasetImport {
  readonly object: "dataset.import";
  readonly id: string;
  readonly added: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly rejected: number;
  /** The first hundred. */
  readonly errors: readonly { readonly line: number; readonly code: ErrorCode; readonly message: string }[];
  readonly dataset: Dataset;
}

export type ImportType = "text/csv" | "application/x-ndjson" | "application/json";

export interface Evaluation {
  readonly method: "cross_validation" | "holdout" | "none";
  readonly folds?: number;
  readonly detail: "summary" | "full";
  /** How many were held out, out-of-scope ones not counted; with none there are no figures. */
  readonly examples: number;
  readonly accuracy?: number;
  readonly accuracy_interval?: readonly [number, number];
  readonly macro_f1?: number;
  readonly micro_f1?: number;
  readonly log_loss?: number;
  readonly ece?: number;
  readonly ece_uncalibrated?: number;
  readonly per_class?: readonly {
    readonly label: string;
    readonly precision: number;
    readonly recall: number;
    readonly f1: number;
    readonly support: number;
  }[];
  /** `matrix[true][predicted]`, both in the order of `labels`. */
  readonly confusion?: { readonly labels: readonly string[]; readonly matrix: readonly (readonly number[])[] };
  readonly out_of_scope?: {
    readonly score: string;
    readonly threshold: number;
    readonly expected_recall: number | null;
  } | null;
  readonly r2?: number | null;
  readonly mae?: number;
  readonly rmse?: number;
}

export interface Head {
  readonly object: "head";
  readonly id: string;
  readonly version: number;
  readonly active_version: number | null;
  readonly task: Task;
  readonly modality: "text" | "image" | "embedding";
  readonly labels: readonly string[];
  readonly dimensions: number;
  readonly backbone: { readonly id: string; readonly revision: string };
  readonly dataset: { readonly name: string | null; readonly revision: number | null; readonly examples: number };
  readonly training: {
    readonly method: "head" | "fine_tune";
    readonly examples: number;
    readonly iterations: number;
    readonly converged: boolean;
    readonly objective: number;
    readonly l2: number;
    readonly temperature: number;
    /** Whether it reads words beside the embedding; heads of earlier versions do not say. */
    readonly lexical?: boolean;
    readonly milliseconds: number;
  };
  readonly evaluation: Evaluation | null;
  readonly sha256: string;
  readonly bytes: number;
  readonly created_at: number;
}

/** All that a prediction needs, by `formula`. */
export interface HeadExport {
  readonly object: "head.export";
  readonly id: string;
  readonly version: number;
  readonly format: "json";
  readonly task: Task;
  readonly labels: readonly string[];
  readonly dimensions: number;
  readonly backbone: { readonly id: string; readonly revision: string };
  /** outputs × dimensions */
  readonly weights: readonly (readonly number[])[];
  /** How a text's lexical features are made and weighed (docs/lexical-features.md); null for a head without. */
  readonly lexical: {
    readonly buckets: number;
    readonly scale: number;
    readonly seen: readonly number[];
    readonly idf: readonly number[];
    /** outputs × columns */
    readonly weights: readonly (readonly number[])[];
  } | null;
  readonly bias: readonly number[];
  readonly temperature: number;
  readonly out_of_scope_threshold: number | null;
  readonly formula: string;
}

export interface NewHead {
  readonly name: string;
  /** Either a data set's name or the examples themselves. */
  readonly dataset?: string;
  readonly examples?: readonly Example[];
  readonly backbone?: string;
  readonly hyperparameters?: {
    readonly l2?: "auto" | number;
    readonly class_weight?: "balanced" | null;
    readonly lexical?: "auto" | boolean;
    readonly seed?: number;
  };
  readonly evaluation?: {
    readonly method?: "auto" | "cross_validation" | "holdout" | "none";
    readonly folds?: number;
    readonly fraction?: number;
    readonly detail?: "summary" | "full";
  };
  readonly promote?: boolean;
  readonly method?: "auto" | "head" | "fine_tune";
}

/** What a training answers: under `auto`, data beyond what one request may use makes a job, and `fine_tune` always does. */
export type TrainResponse<T extends NewHead> = T extends { readonly method: "head" }
  ? Head
  : T extends { readonly method: "fine_tune" }
    ? FineTuningJob
    : Head | FineTuningJob;

export interface File {
  readonly object: "file";
  readonly id: string;
  readonly bytes: number;
  readonly created_at: number;
  readonly filename: string;
  readonly purpose: "fine-tune";
  readonly status: "processed";
  readonly graft: {
    readonly task: Task;
    readonly modality: "text" | "embedding";
    readonly dimensions: number | null;
    readonly examples: number;
    readonly labels: number;
  };
}

/** Which layers of the backbone a job trains, the head being the last. */
export type Trainable = "all" | "head" | { readonly last_layers: number };

export interface FineTuningHyperparameters {
  readonly n_epochs: "auto" | number;
  readonly batch_size: "auto" | number;
  readonly learning_rate_multiplier: "auto" | number;
}

export interface NewFineTuningJob {
  /** A backbone's id. */
  readonly model: string;
  /** A file's id, or `dataset:` and the name of a data set. */
  readonly training_file: string;
  readonly validation_file?: string;
  readonly seed?: number;
  /** Names the fine-tuned model; the same again makes a new revision of it. */
  readonly suffix?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  /** The head that gets a new version; by default the suffix, or the job's id. */
  readonly head?: string;
  readonly promote?: "if_better" | "always" | "never";
  /** By default "all" where the model has layers that can be trained, else "head". */
  readonly trainable?: Trainable;
  readonly method?: {
    readonly type: "supervised";
    readonly supervised?: { readonly hyperparameters?: Partial<FineTuningHyperparameters> };
  };
}

export interface FineTuningJob {
  readonly object: "fine_tuning.job";
  readonly id: string;
  readonly model: string;
  readonly status: "validating_files" | "queued" | "running" | "paused" | "succeeded" | "failed" | "cancelled";
  readonly error: { readonly code: string; readonly message: string; readonly param: string | null } | null;
  readonly created_at: number;
  readonly finished_at: number | null;
  /** A model of the tenant's own, once the job has succeeded; on embeddings of your own only a name. */
  readonly fine_tuned_model: string | null;
  readonly training_file: string;
  readonly validation_file: string | null;
  readonly hyperparameters: FineTuningHyperparameters;
  readonly graft: {
    readonly head: string;
    readonly version: number | null;
    readonly promoted: boolean;
    readonly promote: "if_better" | "always" | "never";
    readonly trainable: Trainable;
    readonly attempt: number;
    readonly comparison: {
      readonly head_accuracy: number;
      readonly fine_tuned_accuracy: number;
      readonly test_examples: number;
      readonly p_value: number;
      readonly verdict: "better" | "not_better" | "inconclusive";
    } | null;
  };
}

export interface FineTuningJobEvent {
  readonly object: "fine_tuning.job.event";
  readonly id: string;
  readonly created_at: number;
  readonly level: "info" | "warn" | "error";
  readonly message: string;
  readonly type: "message" | "metrics";
  readonly data: Readonly<Record<string, number>> | null;
}

export interface WebhookEndpoint {
  readonly object: "webhook_endpoint";
  readonly id: string;
  readonly url: string;
  readonly events: readonly (EventType | "*")[];
  readonly description: string | null;
  readonly enabled: boolean;
  readonly disabled_reason: "request" | "gone" | "failing" | null;
  readonly failing_since: number | null;
  readonly created_at: number;
  /** Shown only in the answer that made it. */
  readonly secret?: string;
}

export interface NewWebhookEndpoint {
  readonly url: string;
  /** `["*"]` for all. */
  readonly events: readonly (EventType | "*")[];
  readonly description?: string | null;
}

export interface WebhookDelivery {
  readonly object: "webhook_delivery";
  readonly id: string;
  /** The endpoint's id. */
  readonly endpoint: string;
  readonly event: { readonly id: string; readonly type: EventType; readonly sequence: number };
  readonly status: "pending" | "succeeded" | "failed";
  readonly attempt_count: number;
  readonly next_attempt_at: number | null;
  readonly created_at: number;
}

export interface WebhookDeliveryWithAttempts extends WebhookDelivery {
  /** Oldest first. */
  readonly attempts: readonly {
    readonly number: number;
    readonly created_at: number;
    readonly milliseconds: number | null;
    /** The HTTP status. */
    readonly status: number | null;
    /** The first KiB. */
    readonly answer: string | null;
    readonly error: string | null;
  }[];
}

export interface WebhookRedelivery {
  readonly object: "webhook_endpoint.redelivery";
  readonly id: string;
  readonly deliveries: number;
  readonly has_more: boolean;
}

export interface PredictRequest {
  readonly input: Input | readonly Input[];
  readonly top_k?: number;
  readonly version?: number;
  readonly coverage?: number;
  readonly out_of_scope_threshold?: number;
}

export interface Prediction {
  readonly index: number;
  readonly label?: string;
  readonly labels?: readonly string[];
  readonly value?: number;
  /** null where too few examples were held out for the coverage. */
  readonly interval?: readonly [number, number] | null;
  readonly score?: number;
  readonly in_scope?: boolean;
  /** The `top_k` most probable labels, most probable first. */
  readonly scores?: readonly { readonly label: string; readonly score: number }[];
  readonly set?: readonly string[];
}

export interface Predictions {
  readonly object: "list";
  readonly model: string;
  readonly data: readonly Prediction[];
}

export interface HeadPolicySettings {
  /** New or changed examples after which the head trains again; null, the default, for never. */
  readonly retrain_after_examples?: number | null;
  readonly retrain_on_drift?: boolean;
  readonly promote?: "if_not_worse" | "always" | "never";
}

export interface HeadPolicy extends Required<HeadPolicySettings> {
  readonly object: "head.policy";
  readonly id: string;
  /** New or changed since the newest version was trained. */
  readonly new_examples: number;
  readonly retraining: boolean;
  /** Of the last examples learnt, how many the active version had predicted right. */
  readonly recent: { readonly judged: number; readonly hits: number };
  readonly drifting: boolean;
  readonly last_failure: { readonly code: string; readonly message: string } | null;
}

export interface HeadFeedback {
  readonly object: "head.feedback";
  readonly id: string;
  readonly head: string;
  readonly version: number;
  readonly added: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly rejected: number;
  /** The first hundred; `line` is an example's place, from 1. */
  readonly errors: readonly { readonly line: number; readonly code: ErrorCode; readonly message: string }[];
  /** Examples whose input the data set did not have, and how many of them the version predicted right. */
  readonly judged: number;
  readonly hits: number;
  readonly policy: HeadPolicy;
}

/** JSON Pointers into what another system posts. */
export interface HookFields {
  readonly text: string | readonly string[];
  readonly label?: string;
  readonly labels?: string;
  readonly value?: string;
  readonly id?: string;
}

interface HmacScheme {
  readonly scheme: "hmac_sha256";
  readonly header: string;
  readonly prefix?: string;
  readonly encoding: "hex" | "base64";
}

export interface NewInboundHook {
  readonly name: string;
  readonly action: "predict" | "learn";
  /** What a hook that predicts asks. */
  readonly head?: string;
  /** What a hook that learns adds to. */
  readonly dataset?: string;
  readonly fields: HookFields;
  readonly on_unknown_label?: "reject" | "add";
  /** A secret is given where the other system makes it; else one is made. */
  readonly verify:
    | { readonly scheme: "standard_webhooks"; readonly secret?: string }
    | (HmacScheme & { readonly secret?: string })
    | { readonly scheme: "none" };
}

export interface InboundHook {
  readonly object: "inbound_hook";
  readonly id: string;
  readonly name: string;
  readonly action: "predict" | "learn";
  readonly head: string | null;
  readonly dataset: string | null;
  readonly fields: HookFields;
  readonly on_unknown_label: "reject" | "add" | null;
  readonly verify: { readonly scheme: "standard_webhooks" } | Required<HmacScheme> | { readonly scheme: "none" };
  readonly created_at: number;
  /** Shown, as the secret is, only in the answer that made the hook. */
  readonly url?: string;
  readonly secret?: string;
}

export interface Model {
  readonly object: "model";
  readonly id: string;
  readonly created: number;
  readonly owned_by: string;
  readonly graft: {
    readonly kind: string;
    readonly modality: "text" | "image" | "embedding";
    readonly dimensions: number;
    readonly revision: string;
    readonly license: string;
    readonly parameters: number;
    readonly bytes: number;
    /** Of one that a fine-tuning job made: the shared backbone that it was made of, and the job. */
    readonly base?: { readonly id: string; readonly revision: string };
    readonly job?: string;
  };
}

export interface Embeddings {
  readonly object: "list";
  readonly data: readonly {
    readonly object: "embedding";
    readonly index: number;
    readonly embedding: readonly number[];
  }[];
  readonly model: string;
  readonly usage: { readonly prompt_tokens: number; readonly total_tokens: number };
}

export interface DeletedObject {
  readonly id: string;
  readonly object: string;
  readonly deleted: true;
}

export interface ClientOptions {
  /** Without a path, such as `http://127.0.0.1:8787`. */
  readonly baseUrl: string;
  /** A tenant's key; for `tenants`, the operator's. */
  readonly key: string;
  readonly fetch?: typeof fetch;
}

/** For calls that create or change something: the same key within 24 hours does it once. */
export interface RequestOptions {
  readonly idempotencyKey?: string;
}

type Query = Readonly<Record<string, string | number | undefined>>;
export type Client = ReturnType<typeof createClient>;

/**
 * A client for one key. Every call resolves to the API's answer as it is in the contract, or throws a `GraftError`;
 * where no answer came at all, fetch's own error.
 */
export function createClient(options: ClientOptions) {
  const { key } = options;
  const baseUrl = options.baseUrl.replace(/\/+$/, "");
  const send = options.fetch ?? fetch;

  async function request(method: string, path: string, init: RequestInit = {}, query: Query = {}): Promise<Response> {
    const url = new URL(baseUrl + path);
    for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, `${value}`);
    const response = await send(url, { ...init, method, headers: { authorization: `Bearer ${key}`, ...init.headers } });
    if (response.ok) return response;
    const body = (await response.json().catch(() => null)) as { error?: Partial<ErrorBody> } | null;
    throw new GraftError(response, body?.error ?? {});
  }
  async function get<T>(path: string, query?: Query): Promise<T> {
    return (await request("GET", path, {}, query)).json() as Promise<T>;
  }
  async function post<T>(path: string, body: unknown, requestOptions: RequestOptions = {}): Promise<T> {
    const idempotency =
      requestOptions.idempotencyKey === undefined ? {} : { "idempotency-key": requestOptions.idempotencyKey };
    const headers = { "content-type": "application/json", ...idempotency };
    return (await request("POST", path, { headers, body: JSON.stringify(body) })).json() as Promise<T>;
  }
  async function patch<T>(path: string, body: unknown): Promise<T> {
    const headers = { "content-type": "application/json" };
    return (await request("PATCH", path, { headers, body: JSON.stringify(body) })).json() as Promise<T>;
  }
  async function put<T>(path: string, body: unknown): Promise<T> {
    const init = { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    return (await request("PUT", path, init)).json() as Promise<T>;
  }
  async function remove<T>(path: string): Promise<T> {
    return (await request("DELETE", path)).json() as Promise<T>;
  }
  const resourcePath = (collection: string, name: string | number) => `/v1/${collection}/${encodeURIComponent(name)}`;

  return {
    /** Whether the server is ready to serve: its tensors, storage and default backbone answer. */
    async ready(): Promise<boolean> {
      const response = await send(`${baseUrl}/health/ready`).catch(() => null);
      await response?.body?.cancel();
      return response?.ok ?? false;
    },

    /** For the operator's key alone. */
    tenants: {
      create: (tenant: { id?: string; name?: string } = {}, requestOptions?: RequestOptions) =>
        post<NewTenant>("/v1/admin/tenants", tenant, requestOptions),
      list: (page: PageRequest = {}) => get<List<Tenant>>("/v1/admin/tenants", { ...page }),
      get: (id: string) => get<Tenant>(resourcePath("admin/tenants", id)),
      /** Begins the deletion of everything that the tenant has. */
      delete: (id: string) => remove<Tenant>(resourcePath("admin/tenants", id)),
      createApiKey: (
        id: string,
        apiKey: { name: string; scopes: readonly Scope[]; expires_at?: number },
        requestOptions?: RequestOptions,
      ) => post<ApiKey>(`${resourcePath("admin/tenants", id)}/api_keys`, apiKey, requestOptions),
    },

    datasets: {
      create: (dataset: NewDataset, requestOptions?: RequestOptions) =>
        post<Dataset>("/v1/datasets", dataset, requestOptions),
      list: (page: PageRequest = {}) => get<List<Dataset>>("/v1/datasets", { ...page }),
      get: (name: string) => get<Dataset>(resourcePath("datasets", name)),
      delete: (name: string) => remove<DeletedObject>(resourcePath("datasets", name)),
      /**
       * Adds labelled examples. A stream (Node's `createReadStream` too) is sent as it is read, never whole in memory.
       * The import becomes visible as a whole; rows that are not valid are left out and told of, or with
       * `on_error: "abort"` nothing is stored and it throws.
       */
      async import(
        name: string,
        body: string | Blob | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>,
        contentType: ImportType,
        query: { on_error?: "continue" | "abort" } = {},
      ): Promise<DatasetImport> {
        // `duplex` is what the Fetch standard asks for with a stream; TypeScript's types do not have it everywhere.
        const requestBody = typeof body === "object" && Symbol.asyncIterator in body ? toStream(body) : body;
        const init = { headers: { "content-type": contentType }, body: requestBody, duplex: "half" } as RequestInit;
        return (
          await request("POST", `${resourcePath("datasets", name)}/examples`, init, query)
        ).json() as Promise<DatasetImport>;
      },
      /** Adds examples from memory. */
      add: (name: string, examples: readonly Example[]) =>
        post<DatasetImport>(`${resourcePath("datasets", name)}/examples`, { examples }),
      examples: (name: string, page: PageRequest & { label?: string } = {}) =>
        get<List<Example & { readonly id: string }>>(`${resourcePath("datasets", name)}/examples`, { ...page }),
      /** Every example as NDJSON, oldest first. */
      async export(name: string): Promise<ReadableStream<Uint8Array>> {
        const { body } = await request("GET", `${resourcePath("datasets", name)}/export`);
        return body ?? new ReadableStream({ start: (controller) => controller.close() });
      },
    },

    models: {
      list: () => get<{ readonly object: "list"; readonly data: readonly Model[] }>("/v1/models"),
      get: (id: string) => get<Model>(resourcePath("models", id)),
      /** Deletes one that a fine-tuning job made; refused while heads need it. */
      delete: (id: string) => remove<DeletedObject>(resourcePath("models", id)),
    },

    embeddings: {
      create: (params: { model: string; input: string | readonly string[] }) =>
        post<Embeddings>("/v1/embeddings", params),
    },

    heads: {
      /**
       * Trains the next version of a head; resolves when it is trained, evaluated and stored, or, unless `method` is
       * `head`, when a job is made of what is beyond one request. Under `fine_tune` it always makes a job.
       */
      train: <const T extends NewHead>(head: T, requestOptions?: RequestOptions) =>
        post<TrainResponse<T>>("/v1/heads", head, requestOptions),
      list: (page: PageRequest = {}) => get<List<Head>>("/v1/heads", { ...page }),
      /** The active version, or the given one. */
      get: (name: string, version?: number) =>
        get<Head>(
          version === undefined ? resourcePath("heads", name) : `${resourcePath("heads", name)}/versions/${version}`,
        ),
      versions: (name: string, page: PageRequest = {}) =>
        get<List<Head>>(`${resourcePath("heads", name)}/versions`, { ...page }),
      /** A version's weights and labels, usable without this service. */
      export: (name: string, version: number) =>
        get<HeadExport>(`${resourcePath("heads", name)}/versions/${version}/export`),
      delete: (name: string) => remove<DeletedObject>(resourcePath("heads", name)),
      /** Makes a version the active one; everywhere within 30 seconds. */
      promote: (name: string, version: number, requestOptions?: RequestOptions) =>
        post<Head>(`${resourcePath("heads", name)}/promote`, { version }, requestOptions),
      /** As many predictions as inputs, in their order. */
      predict: (name: string, params: PredictRequest) =>
        post<Predictions>(`${resourcePath("heads", name)}/predict`, params),
      /** Teaches a head: the newer label of an input takes the place of the older. */
      feedback: (name: string, examples: readonly Example[], requestOptions?: RequestOptions) =>
        post<HeadFeedback>(`${resourcePath("heads", name)}/feedback`, { examples }, requestOptions),
      /** When the head trains again by itself; with settings, sets all of them. */
      policy: async (name: string, settings?: HeadPolicySettings): Promise<HeadPolicy> => {
        const path = `${resourcePath("heads", name)}/policy`;
        return settings === undefined ? get<HeadPolicy>(path) : put<HeadPolicy>(path, settings);
      },
    },

    /** URLs to which other systems post their own JSON, to have it classified or learnt. */
    inboundHooks: {
      create: (hook: NewInboundHook, requestOptions?: RequestOptions) =>
        post<InboundHook>("/v1/inbound_hooks", hook, requestOptions),
      list: (page: PageRequest = {}) => get<List<InboundHook>>("/v1/inbound_hooks", { ...page }),
      get: (id: string) => get<InboundHook>(resourcePath("inbound_hooks", id)),
      delete: (id: string) => remove<DeletedObject>(resourcePath("inbound_hooks", id)),
    },

    files: {
      /** Uploads a file to train on: JSONL of labelled examples, or of chats whose last message is the label. */
      async create(file: Blob, filename: string): Promise<File> {
        const form = new FormData();
        form.set("purpose", "fine-tune");
        form.set("file", file, filename);
        return (await request("POST", "/v1/files", { body: form })).json() as Promise<File>;
      },
      list: (page: PageRequest = {}) => get<List<File>>("/v1/files", { ...page }),
      get: (id: string) => get<File>(resourcePath("files", id)),
      delete: (id: string) => remove<DeletedObject>(resourcePath("files", id)),
    },

    /** Fine-tuning jobs; OpenAI's client speaks to them as well. */
    jobs: {
      create: (job: NewFineTuningJob, requestOptions?: RequestOptions) =>
        post<FineTuningJob>("/v1/fine_tuning/jobs", job, requestOptions),
      list: (page: PageRequest = {}) => get<List<FineTuningJob>>("/v1/fine_tuning/jobs", { ...page }),
      get: (id: string) => get<FineTuningJob>(resourcePath("fine_tuning/jobs", id)),
      events: (id: string, page: PageRequest = {}) =>
        get<List<FineTuningJobEvent>>(`${resourcePath("fine_tuning/jobs", id)}/events`, { ...page }),
      cancel: (id: string) => post<FineTuningJob>(`${resourcePath("fine_tuning/jobs", id)}/cancel`, {}),
      pause: (id: string) => post<FineTuningJob>(`${resourcePath("fine_tuning/jobs", id)}/pause`, {}),
      resume: (id: string) => post<FineTuningJob>(`${resourcePath("fine_tuning/jobs", id)}/resume`, {}),
    },

    /** Where events are told of; docs/webhooks.md says how to receive them. */
    webhookEndpoints: {
      create: (endpoint: NewWebhookEndpoint, requestOptions?: RequestOptions) =>
        post<WebhookEndpoint>("/v1/webhook_endpoints", endpoint, requestOptions),
      list: (page: PageRequest = {}) => get<List<WebhookEndpoint>>("/v1/webhook_endpoints", { ...page }),
      get: (id: string) => get<WebhookEndpoint>(resourcePath("webhook_endpoints", id)),
      update: (id: string, change: Partial<NewWebhookEndpoint> & { readonly enabled?: boolean }) =>
        patch<WebhookEndpoint>(resourcePath("webhook_endpoints", id), change),
      delete: (id: string) => remove<DeletedObject>(resourcePath("webhook_endpoints", id)),
      /** The secret before signs as well for 24 hours. */
      rotateSecret: (id: string, requestOptions?: RequestOptions) =>
        post<WebhookEndpoint>(`${resourcePath("webhook_endpoints", id)}/rotate_secret`, {}, requestOptions),
      /** Sends the event `webhook.test` to this endpoint alone. */
      test: (id: string, requestOptions?: RequestOptions) =>
        post<WebhookDelivery>(`${resourcePath("webhook_endpoints", id)}/test`, {}, requestOptions),
      /** Sends again what has failed, of the events since a time in Unix seconds. */
      redeliver: (id: string, since: number, requestOptions?: RequestOptions) =>
        post<WebhookRedelivery>(`${resourcePath("webhook_endpoints", id)}/redeliver`, { since }, requestOptions),
    },

    webhookDeliveries: {
      list: (query: PageRequest & { endpoint?: string; status?: WebhookDelivery["status"] } = {}) =>
        get<List<WebhookDelivery>>("/v1/webhook_deliveries", { ...query }),
      get: (id: string) => get<WebhookDeliveryWithAttempts>(resourcePath("webhook_deliveries", id)),
      /** Sends an event again, under the same id, whatever has become of it. */
      redeliver: (id: string, requestOptions?: RequestOptions) =>
        post<WebhookDelivery>(`${resourcePath("webhook_deliveries", id)}/redeliver`, {}, requestOptions),
    },
  };
}

/** An iterable of bytes as what fetch takes; the next piece is asked for when the last one is sent. */
function toStream(chunks: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  const iterator = chunks[Symbol.asyncIterator]();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await iterator.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await iterator.return?.();
    },
  });
}
