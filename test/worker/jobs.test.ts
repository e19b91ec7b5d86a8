/** Fine-tuning jobs as their owner sees them. */
import { createExecutionContext, SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import OpenAI, { toFile } from "openai";
import { beforeAll, describe, expect, test } from "vitest";
import type { ErrorCode } from "../../src/core/failure.ts";
import { encodeJobState, type JobState, newJobState } from "../../src/core/lifecycle/job.ts";
import { limits } from "../../src/core/limits.ts";
import { createApp } from "../../src/http/app.ts";
import { type ApiResponse, call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { expectAuthorization, expectError, expectHidden } from "./assertions.ts";
import {
  comparisons,
  describeArtifact,
  fakeEndpoint,
  getTrainedHead,
  inLedger,
  listJobEvents,
  listStoredKeys,
  makeManifest,
  mockBatchEndpoint,
  newTenantWithJob,
  respond,
  startJob,
  uploadFile,
  waitForJob,
  waitForSubmission,
} from "./fake-batch-endpoint.ts";

const JOBS = "/v1/fine_tuning/jobs";
const model = "text-static-1";
const jobParams = { model, training_file: "dataset:tickets" };
const respondBusy = respond(429, "", { "retry-after": "600" });
const autoHyperparameters = { n_epochs: "auto", batch_size: "auto", learning_rate_multiplier: "auto" };
let tenant: string;
let key: string;

mockBatchEndpoint();
beforeAll(async () => {
  ({ id: tenant, key } = await tenantWithTickets());
  fakeEndpoint(tenant).onSubmit = respondBusy;
});

const uploadLines = (lines: readonly object[], token = key) => uploadFile(lines, token);

const postJob = (body: object, token = key, headers: Record<string, string> = {}) =>
  call("POST", JOBS, token, body, headers);

async function createJob(body: object = {}, token = key) {
  const answer = await postJob({ ...jobParams, ...body }, token);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
}

/** A call of the same application without a batch endpoint. */
async function callWithoutEndpoint(path: string, body?: object, token = key): Promise<ApiResponse> {
  const request = new Request(`http://graft.test${path}`, {
    method: body === undefined ? "GET" : "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const { BATCH_URL: _url, BATCH_SECRET: _secret, ...others } = env;
  const response = await createApp().fetch(request, others as Cloudflare.Env, createExecutionContext());
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: JSON.parse(text) };
}

describe("OpenAI's own client", () => {
  let client: OpenAI;
  let requests = 0;
  beforeAll(() => {
    client = new OpenAI({
      apiKey: key,
      baseURL: "http://graft.test/v1",
      maxRetries: 0,
      fetch: (url, init) => {
        requests += 1;
        return SELF.fetch(url as string, init as RequestInit);
      },
    });
  });

  test("uploads a file, and makes, lists, finds, pauses, resumes and cancels a job on it", async () => {
    const content = tickets()
      .map(({ text, label }) =>
        JSON.stringify({
          messages: [
            { role: "user", content: text },
            { role: "assistant", content: label },
          ],
        }),
      )
      .join("\n");
    const upload = async (name: string) =>
      client.files.create({ file: await toFile(Buffer.from(content), name), purpose: "fine-tune" });
    const [file, validationFile] = [await upload("a.jsonl"), await upload("b.jsonl")];
    const job = await client.fineTuning.jobs.create({
      model,
      training_file: file.id,
      validation_file: validationFile.id,
      seed: 7,
      suffix: "support",
      metadata: { team: "a" },
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 3 } } },
    });
    expect(job).toMatchObject({
      object: "fine_tuning.job",
      training_file: file.id,
      validation_file: validationFile.id,
      seed: 7,
      metadata: { team: "a" },
      method: { type: "supervised", supervised: { hyperparameters: { ...autoHyperparameters, n_epochs: 3 } } },
      finished_at: null,
      fine_tuned_model: null,
      error: null,
    });
    expect(await client.fineTuning.jobs.retrieve(job.id)).toMatchObject({ id: job.id, created_at: job.created_at });
    expect((await client.fineTuning.jobs.list({ limit: 1 })).data.map(({ id }) => id)).toEqual([job.id]);
    expect((await client.fineTuning.jobs.pause(job.id)).status).toBe("paused");
    expect((await client.fineTuning.jobs.resume(job.id)).status).toMatch(/^(validating_files|queued)$/);
    expect((await client.fineTuning.jobs.cancel(job.id)).status).toBe("cancelled");
    requests = 0;
    const resumed = client.fineTuning.jobs.resume(job.id, { maxRetries: 2 });
    await expect(resumed).rejects.toMatchObject({ status: 409, code: "job_ended" });
    // It would try any 409 three times that does not say that it is final.
    expect(requests).toBe(1);
    await expect(client.fineTuning.jobs.retrieve("ftjob-none")).rejects.toBeInstanceOf(OpenAI.NotFoundError);
  });

  test("reads every job, event and checkpoint, page after page", async () => {
    const { key: apiKey, job, attempt, ...owner } = await newTenantWithJob();
    const ownClient = new OpenAI({
      apiKey,
      baseURL: client.baseURL,
      fetch: (url, init) => SELF.fetch(url as string, init as RequestInit),
    });
    const others = [job];
    for (let i = 0; i < 2; i++) others.unshift((await startJob({ id: owner.id, key: apiKey })).job);
    const jobs: string[] = [];
    for await (const { id } of ownClient.fineTuning.jobs.list({ limit: 2 })) jobs.push(id);
    expect(jobs).toEqual(others);

    for (let step = 1; step <= 5; step++) {
      await attempt.sendAcceptedMessage({
        type: "progress",
        step,
        message: `step ${step}`,
        metrics: { train_loss: 1 / step },
      });
      const artifact = { sha256: `${step}`.repeat(64), bytes: 10 };
      await attempt.sendAcceptedMessage({ type: "checkpoint", step, artifact, metrics: { train_loss: 1 / step } });
    }
    const events: { message: string; type?: string; data?: unknown }[] = [];
    for await (const event of ownClient.fineTuning.jobs.listEvents(job, { limit: 3 })) {
      expect(event).toMatchObject({ object: "fine_tuning.job.event", id: expect.any(String), level: "info" });
      events.unshift(event);
    }
    expect(events.map(({ message }) => message)).toEqual([
      "The job was created.",
      "The examples are valid, and the job is queued.",
      "Attempt 1 is running at the batch endpoint.",
      ...[1, 2, 3, 4, 5].map((step) => `step ${step}`),
    ]);
    expect(events[0]).toMatchObject({ type: "message", data: null });
    expect(events.at(-1)).toMatchObject({ type: "metrics", data: { step: 5, train_loss: 0.2 } });
    const checkpoints: unknown[] = [];
    for await (const checkpoint of ownClient.fineTuning.jobs.checkpoints.list(job, { limit: 2 }))
      checkpoints.unshift(checkpoint);
    expect(checkpoints).toEqual(
      [1, 2, 3, 4, 5].map((step) => ({
        object: "fine_tuning.job.checkpoint",
        id: expect.stringMatching(/^ftckpt-\d+$/),
        created_at: expect.any(Number),
        fine_tuning_job_id: job,
        fine_tuned_model_checkpoint: expect.stringMatching(/^text-static-1:ftckpt-\d+$/),
        step_number: step,
        metrics: { step, train_loss: 1 / step },
      })),
    );
  });
});

describe("a file that a job needs", () => {
  const deleteFile = (id: string) => call("DELETE", `/v1/files/${id}`, key);

  test.each(["training_file", "validation_file"])(
    "as its %s is not deleted before the job has ended",
    async (field) => {
      const file = await uploadLines(tickets());
      const job = await createJob({ [field]: file });
      const answer = await deleteFile(file);
      expectError(answer, 409, "file_in_use", "id");
      expect(answer.json.error.message).toContain(job.id);
      expect(answer.json.error.details).toEqual({ job: job.id });
      await call("POST", `${JOBS}/${job.id}/pause`, key);
      expectError(await deleteFile(file), 409, "file_in_use", "id");
      expect((await call("GET", `/v1/files/${file}`, key)).status).toBe(200);
      expectError(await call("DELETE", `/v1/files/${file}`, (await newTenant()).key), 404, "not_found");
      await call("POST", `${JOBS}/${job.id}/cancel`, key);
      expect((await deleteFile(file)).status).toBe(200);
      expectError(await deleteFile(file), 404, "not_found");
    },
  );
});

describe("a job", () => {
  test("is answered in OpenAI's shape, with what is Graft's own beside it", async () => {
    const job = await createJob();
    expect(job).toEqual({
      object: "fine_tuning.job",
      id: expect.stringMatching(/^ftjob-[0-9a-f]{32}$/),
      model,
      status: "validating_files",
      error: null,
      created_at: expect.any(Number),
      finished_at: null,
      estimated_finish: null,
      fine_tuned_model: null,
      training_file: "dataset:tickets",
      validation_file: null,
      hyperparameters: autoHyperparameters,
      method: { type: "supervised", supervised: { hyperparameters: autoHyperparameters } },
      seed: 0,
      metadata: null,
      integrations: [],
      organization_id: tenant,
      result_files: [],
      trained_tokens: null,
      graft: {
        head: job.id,
        version: null,
        promoted: false,
        promote: "if_better",
        trainable: "all",
        attempt: 1,
        test: null,
        kind: null,
        comparison: null,
      },
    });
    const queued = await waitForJob(key, job.id, "queued");
    expect(queued).toEqual({ ...job, status: "queued" });
  });

  test("takes what it knows, ignores what it does not, and null where OpenAI's clients send it", async () => {
    const known = {
      seed: 4_294_967_295,
      suffix: "s".repeat(64),
      metadata: { ["k".repeat(64)]: "v".repeat(512), b: "" },
    };
    const job = await createJob({
      ...known,
      validation_file: null,
      head: "support.2",
      promote: "never",
      trainable: { last_layers: 2 },
      integrations: [{ type: "wandb" }],
      method: {
        type: "supervised",
        supervised: { hyperparameters: { batch_size: 8, unknown: 1 }, unknown: 1 },
        unknown: 1,
      },
    });
    expect(job).toMatchObject({
      seed: known.seed,
      metadata: known.metadata,
      graft: { head: "support.2", promote: "never", trainable: { last_layers: 2 } },
    });
    expect(job.method.supervised.hyperparameters).toEqual({ ...autoHyperparameters, batch_size: 8 });
    const nulls = await createJob({ seed: null, suffix: null, metadata: null, validation_file: null });
    expect(nulls).toMatchObject({ seed: 0, metadata: null, validation_file: null });
    expect((await call("GET", `${JOBS}?limit=500&order=x`, key)).status).toBe(200);
    expect((await call("GET", `${JOBS}/${job.id}?include=x`, key)).status).toBe(200);
  });

  test.each<[string, object, object]>([
    ["hyperparameters alone", { hyperparameters: { n_epochs: 2 } }, { ...autoHyperparameters, n_epochs: 2 }],
    [
      "a method's before others",
      {
        hyperparameters: { n_epochs: 2 },
        method: { type: "supervised", supervised: { hyperparameters: { learning_rate_multiplier: 0.5 } } },
      },
      { ...autoHyperparameters, learning_rate_multiplier: 0.5 },
    ],
    ["a method without any", { method: { type: "supervised" } }, autoHyperparameters],
  ])("shows %s in both places", async (_what, body, expected) => {
    const job = await createJob(body);
    expect([job.hyperparameters, job.method.supervised.hyperparameters]).toEqual([expected, expected]);
  });

  test("makes a version of the head that it names, and without one a head of its own, whatever its suffix", async () => {
    expect((await createJob({ head: "named", suffix: "other" })).graft.head).toBe("named");
    for (const body of [{}, { suffix: "my-suffix.1" }]) {
      const { id, graft } = await createJob(body);
      expect(graft.head).toBe(id);
    }
  });

  test("trains on files and data sets of each kind", async () => {
    const { id, key: ownKey } = await tenantWithTickets();
    fakeEndpoint(id).onSubmit = respondBusy;
    const embeddingExamples = [0, 1, 2].map((i) => ({ embedding: [i, 1], value: i }));
    await call("POST", "/v1/datasets", ownKey, {
      name: "points",
      task: "regression",
      modality: "embedding",
      dimensions: 2,
    });
    await call("POST", "/v1/datasets/points/examples", ownKey, { examples: embeddingExamples });
    for (const training_file of ["dataset:points", await uploadLines(embeddingExamples, ownKey)]) {
      expect(await createJob({ model: "embedding", training_file }, ownKey)).toMatchObject({
        model: "embedding",
        training_file,
        graft: { trainable: "head" },
      });
      for (const trainable of ["all", { last_layers: 1 }])
        expectError(
          await postJob({ model: "embedding", training_file, trainable }, ownKey),
          422,
          "not_available",
          "trainable",
        );
    }
    const multiLines = [
      { text: "a", labels: ["x"] },
      { text: "b", labels: [] },
    ];
    const [multi, validation_file] = [await uploadLines(multiLines, ownKey), await uploadLines(multiLines, ownKey)];
    for (const [model, trainable] of [
      ["hash-text-1", "head"],
      ["text-static-1", "all"],
    ])
      expect(await createJob({ model, training_file: multi, validation_file }, ownKey)).toMatchObject({
        model,
        graft: { trainable },
      });
  });

  test("made twice with one Idempotency-Key is one job", async () => {
    const headers = { "idempotency-key": "one job" };
    const before = (await call("GET", `${JOBS}?limit=100`, key)).json.data.length;
    const first = await postJob(jobParams, key, headers);
    const retryResponse = await postJob(jobParams, key, headers);
    expect(retryResponse.headers.get("idempotent-replayed")).toBe("true");
    expect(retryResponse.json).toEqual(first.json);
    expect((await call("GET", `${JOBS}?limit=100`, key)).json.data).toHaveLength(before + 1);
    expectError(
      await postJob({ ...jobParams, seed: 1 }, key, headers),
      422,
      "idempotency_key_reused",
      "Idempotency-Key",
    );
    const paused = await call("POST", `${JOBS}/${first.json.id}/pause`, key, undefined, { "idempotency-key": "pause" });
    await call("POST", `${JOBS}/${first.json.id}/cancel`, key);
    const replayed = await call("POST", `${JOBS}/${first.json.id}/pause`, key, undefined, {
      "idempotency-key": "pause",
    });
    expect(replayed.json).toEqual(paused.json);
  });

  test("is counted while it has not ended", async () => {
    const { id, key: ownKey } = await tenantWithTickets();
    fakeEndpoint(id).onSubmit = respondBusy;
    const countActiveJobs = async () => (await call("GET", "/v1/limits", ownKey)).json.limits.active_jobs.used;
    const jobs = [await createJob({}, ownKey), await createJob({}, ownKey)];
    expect(await countActiveJobs()).toBe(2);
    await call("POST", `${JOBS}/${jobs[0].id}/cancel`, ownKey);
    expect(await countActiveJobs()).toBe(1);
  });
});

describe("a job is refused", () => {
  test.each<[string, object, number, ErrorCode, string | null]>([
    ["without a model", { model: undefined }, 400, "missing_parameter", "model"],
    ["without a training file", { training_file: undefined }, 400, "missing_parameter", "training_file"],
    ["for an unknown model", { model: "gpt-4o" }, 404, "not_found", "model"],
    ["for a text set's model 'embedding'", { model: "embedding" }, 404, "not_found", "model"],
    ["for an empty model", { model: "" }, 400, "invalid_parameter", "model"],
    ["for an unknown file", { training_file: "file-abc123" }, 404, "not_found", "training_file"],
    ["for an unknown data set", { training_file: "dataset:none" }, 404, "not_found", "training_file"],
    ["for a data set without a name", { training_file: "dataset:" }, 404, "not_found", "training_file"],
    ["for a data set's bare name", { training_file: "tickets" }, 404, "not_found", "training_file"],
    ["for an unknown validation file", { validation_file: "file-abc123" }, 404, "not_found", "validation_file"],
    ["for a data set as validation file", { validation_file: "dataset:tickets" }, 404, "not_found", "validation_file"],
    ["for all layers of what has none", { model: "hash-text-1", trainable: "all" }, 422, "not_available", "trainable"],
    [
      "for the last layers of what has none",
      { model: "hash-text-1", trainable: { last_layers: 2 } },
      422,
      "not_available",
      "trainable",
    ],
    ["for no layers", { trainable: { last_layers: 0 } }, 400, "invalid_parameter", "trainable.last_layers"],
    ["for unknown layers", { trainable: "none" }, 400, "invalid_parameter", "trainable"],
    ["for an unknown promotion", { promote: true }, 400, "invalid_parameter", "promote"],
    ["for a head that is no name", { head: "No Name" }, 400, "invalid_parameter", "head"],
    ["for a long suffix", { suffix: "s".repeat(65) }, 400, "invalid_parameter", "suffix"],
    ["for a suffix that is no name", { suffix: "My suffix" }, 400, "invalid_parameter", "suffix"],
    [
      "for more layers than there are",
      { trainable: { last_layers: 4 } },
      400,
      "invalid_parameter",
      "trainable.last_layers",
    ],
    ["for an empty suffix", { suffix: "" }, 400, "invalid_parameter", "suffix"],
    ["for a seed that is none", { seed: 1.5 }, 400, "invalid_parameter", "seed"],
    ["for a seed below zero", { seed: -1 }, 400, "invalid_parameter", "seed"],
    ["for a long key", { metadata: { ["k".repeat(65)]: "v" } }, 400, "invalid_parameter", `metadata.${"k".repeat(65)}`],
    ["for a long value", { metadata: { k: "v".repeat(513) } }, 400, "invalid_parameter", "metadata.k"],
    ["for a value that is no text", { metadata: { k: 1 } }, 400, "invalid_parameter", "metadata.k"],
    [
      "for many pairs",
      { metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, "v"])) },
      400,
      "invalid_parameter",
      "metadata",
    ],
    ["for another method", { method: { type: "dpo" } }, 400, "invalid_parameter", "method.type"],
    ["for a method without a type", { method: {} }, 400, "missing_parameter", "method.type"],
    [
      "for no epochs",
      { method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 0 } } } },
      400,
      "invalid_parameter",
      "method.supervised.hyperparameters.n_epochs",
    ],
    [
      "for too many epochs",
      { hyperparameters: { n_epochs: 101 } },
      400,
      "invalid_parameter",
      "hyperparameters.n_epochs",
    ],
    ["for a fine-tuned model that is not there", { model: "ft:text-static-1:none" }, 404, "not_found", "model"],
    ["for half an epoch", { hyperparameters: { n_epochs: 1.5 } }, 400, "invalid_parameter", "hyperparameters.n_epochs"],
    [
      "for a huge batch",
      { hyperparameters: { batch_size: 1025 } },
      400,
      "invalid_parameter",
      "hyperparameters.batch_size",
    ],
    ...[0, 101].map((learning_rate_multiplier): [string, object, number, ErrorCode, string] => [
      `for a learning rate ${learning_rate_multiplier} times as high`,
      { hyperparameters: { learning_rate_multiplier } },
      400,
      "invalid_parameter",
      "hyperparameters.learning_rate_multiplier",
    ]),
    ["for a suffix of control characters", { suffix: "a\nb" }, 400, "invalid_parameter", "suffix"],
    ["for a suffix of half a character", { suffix: "\ud800" }, 400, "invalid_parameter", "suffix"],
    [
      "for a batch size of words",
      { hyperparameters: { batch_size: "large" } },
      400,
      "invalid_parameter",
      "hyperparameters.batch_size",
    ],
  ])("%s", async (_what, body, status, code, param) => {
    expectError(await postJob({ ...jobParams, ...body }), status, code, param);
  });

  test("for a body that is no object, and no JSON", async () => {
    expectError(await call("POST", JOBS, key, "[]", { "content-type": "application/json" }), 400, "invalid_parameter");
    expectError(await call("POST", JOBS, key, "{", { "content-type": "application/json" }), 400, "invalid_json");
    expectError(
      await call("POST", JOBS, key, "a=b", { "content-type": "text/plain" }),
      415,
      "unsupported_media_type",
      "content-type",
    );
  });

  test("for embeddings with a backbone of texts, and says which model is right", async () => {
    const training_file = await uploadLines([
      { embedding: [1], label: "x" },
      { embedding: [2], label: "y" },
    ]);
    const answer = await postJob({ model, training_file });
    expectError(answer, 422, "modality_mismatch", "model");
    expect(answer.json.error.message).toContain("'embedding'");
  });

  test("for a validation file of other examples", async () => {
    const text = await uploadLines([
      { text: "a", label: "x" },
      { text: "b", label: "y" },
    ]);
    const others = [
      await uploadLines([
        { text: "a", value: 1 },
        { text: "b", value: 2 },
      ]),
      await uploadLines([
        { text: "a", labels: [] },
        { text: "b", labels: ["x"] },
      ]),
      await uploadLines([
        { embedding: [1], label: "x" },
        { embedding: [2], label: "y" },
      ]),
    ];
    for (const training_file of [text, "dataset:tickets"])
      for (const validation_file of others)
        expectError(await postJob({ model, training_file, validation_file }), 422, "task_mismatch", "validation_file");
    const wide = await uploadLines([
      { embedding: [1, 2], label: "x" },
      { embedding: [2, 3], label: "y" },
    ]);
    const answer = await postJob({ model: "embedding", training_file: wide, validation_file: others[2] });
    expectError(answer, 422, "task_mismatch", "validation_file");
  });

  test("for a validation file that is the training file", async () => {
    const file = await uploadLines(tickets());
    const answer = await postJob({ model, training_file: file, validation_file: file });
    expectError(answer, 400, "invalid_parameter", "validation_file");
  });

  test("for a head of another task", async () => {
    const owner = await tenantWithTickets();
    const values = tickets().map(({ text }, value) => ({ text, value }));
    const head = { name: "urgency", examples: values, evaluation: { method: "none" } };
    expect((await call("POST", "/v1/heads", owner.key, head)).status).toBe(201);
    expectError(await postJob({ ...jobParams, head: "urgency" }, owner.key), 409, "task_mismatch", "head");
  });

  test("for another tenant's file or data set, as for those that do not exist", async () => {
    const owner = await newTenant();
    const foreign = await uploadLines(
      [
        { text: "a", label: "x" },
        { text: "b", label: "y" },
      ],
      owner.key,
    );
    await call("POST", "/v1/datasets", owner.key, { name: "theirs", task: "single_label", modality: "text" });
    await call("POST", "/v1/datasets/theirs/examples", owner.key, { examples: tickets() });
    expectError(await postJob({ model, training_file: foreign }), 404, "not_found", "training_file");
    expectError(await postJob({ ...jobParams, validation_file: foreign }), 404, "not_found", "validation_file");
    expectError(await postJob({ model, training_file: "dataset:theirs" }), 404, "not_found", "training_file");
  });

  test("for a file that was deleted", async () => {
    const file = await uploadLines([
      { text: "a", label: "x" },
      { text: "b", label: "y" },
    ]);
    expect((await call("DELETE", `/v1/files/${file}`, key)).status).toBe(200);
    expectError(await postJob({ model, training_file: file }), 404, "not_found", "training_file");
    expectError(await postJob({ ...jobParams, validation_file: file }), 404, "not_found", "validation_file");
  });

  test.each<[string, object, object[], ErrorCode]>([
    ["examples", { task: "single_label" }, [], "too_few_examples"],
    ["examples", { task: "regression" }, [{ text: "a", value: 1 }], "too_few_examples"],
    [
      "labels",
      { task: "single_label" },
      [
        { text: "a", label: "x" },
        { text: "b", label: "x" },
      ],
      "too_few_labels",
    ],
    [
      "labels in scope",
      { task: "single_label", out_of_scope_label: "other" },
      [
        { text: "a", label: "x" },
        { text: "b", label: "other" },
      ],
      "too_few_labels",
    ],
    [
      "labels of any number",
      { task: "multi_label" },
      [
        { text: "a", labels: [] },
        { text: "b", labels: [] },
      ],
      "too_few_labels",
    ],
  ])("for a data set of too few %s: %j", async (_what, shape, examples, code) => {
    const { key: ownKey } = await newTenant();
    await call("POST", "/v1/datasets", ownKey, { name: "few", modality: "text", ...shape });
    if (examples.length > 0) await call("POST", "/v1/datasets/few/examples", ownKey, { examples });
    expectError(await postJob({ model, training_file: "dataset:few" }, ownKey), 422, code, "training_file");
  });

  test("beyond the number of active jobs, with the limit and the figure", async () => {
    const { id, key: ownKey } = await tenantWithTickets();
    fakeEndpoint(id).onSubmit = respondBusy;
    const first = await createJob({}, ownKey);
    await waitForJob(ownKey, first.id, "queued");
    await insertJobs(id, limits.active_jobs - 1, () => ({ status: "paused" }));
    const answer = await postJob(jobParams, ownKey);
    expectError(answer, 422, "limit_exceeded");
    expect(answer.json.error.details).toEqual({ limit: limits.active_jobs, actual: limits.active_jobs });
    await call("POST", `${JOBS}/${first.id}/cancel`, ownKey);
    await createJob({}, ownKey);
  });

  test("where the instance has no batch endpoint, and what there is can still be read", async () => {
    const job = await createJob();
    expectError(await callWithoutEndpoint(JOBS, jobParams), 422, "not_available");
    expect((await callWithoutEndpoint(`${JOBS}/${job.id}`)).status).toBe(200);
    expect((await callWithoutEndpoint(JOBS)).json.data[0].id).toBe(job.id);
  });
});

/** Further jobs of a tenant's, as its first one but for their state: no work is due for them. Answers their ids. */
function insertJobs(tenantId: string, count: number, state: (i: number) => Partial<JobState>): Promise<string[]> {
  return inLedger(tenantId, ({ sql }) =>
    Array.from({ length: count }, (_, i) => {
      const id = `ftjob-${crypto.randomUUID().replaceAll("-", "")}`;
      const jobState = { ...newJobState("if_better", Date.now()), ...state(i) };
      sql.exec(
        "INSERT INTO jobs (id, status, spec, state, created_at) SELECT ?, ?, spec, ?, created_at FROM jobs ORDER BY number LIMIT 1",
        id,
        jobState.status,
        encodeJobState(jobState),
      );
      return id;
    }),
  );
}

const endedFields = { finishedAt: 1_790_000_000_000 };
const stateFields = {
  validating_files: {},
  queued: { validated: true, submitAt: Date.now() + 3_600_000 },
  running: { validated: true, inFlight: true },
  paused: { validated: true },
  succeeded: { validated: true, ...endedFields },
  failed: endedFields,
  cancelled: endedFields,
};
type Status = keyof typeof stateFields;

describe("a command", () => {
  const unchangedStatuses: Record<string, readonly Status[]> = {
    cancel: ["cancelled"],
    pause: ["paused"],
    resume: ["validating_files", "queued", "running"],
  };
  const refusedStatuses: Record<string, readonly Status[]> = {
    cancel: ["succeeded", "failed"],
    pause: ["succeeded", "failed", "cancelled"],
    resume: ["succeeded", "failed", "cancelled"],
  };
  const resultStatuses: Record<string, string> = { cancel: "cancelled", pause: "paused", resume: "queued" };
  const cases = ["cancel", "pause", "resume"].flatMap((command) =>
    (Object.keys(stateFields) as Status[]).map((status) => [command, status] as const),
  );

  test.each(cases)("%s of a job that is %s has the effect of once", async (command, status) => {
    await createJob();
    const [id] = await insertJobs(tenant, 1, () => ({ ...stateFields[status], status }));
    const path = `${JOBS}/${id}`;
    const before = (await call("GET", path, key)).json;
    expect(before.status).toBe(status);
    const events = (await listJobEvents(key, id ?? "")).length;
    const answers = [await call("POST", `${path}/${command}`, key), await call("POST", `${path}/${command}`, key)];
    const after = (await call("GET", path, key)).json;
    if (refusedStatuses[command]?.includes(status)) {
      for (const answer of answers) expectError(answer, 409, "job_ended");
      expect(after).toEqual(before);
      return;
    }
    for (const answer of answers) expect(answer.json).toEqual(after);
    if (unchangedStatuses[command]?.includes(status)) {
      expect(after).toEqual(before);
      expect(await listJobEvents(key, id ?? "")).toHaveLength(events);
      return;
    }
    expect(after.status).toBe(resultStatuses[command]);
    expect(after.finished_at).toEqual(command === "cancel" ? expect.any(Number) : null);
    expect(await listJobEvents(key, id ?? "")).toHaveLength(events + 1);
  });

  test("takes a body that OpenAI's clients do not send, and none at all", async () => {
    const { id } = await createJob();
    for (const body of [undefined, {}, { reason: "x" }])
      expect((await call("POST", `${JOBS}/${id}/pause`, key, body)).json.status).toBe("paused");
  });

  test("resume before the examples were checked has them checked", async () => {
    await createJob();
    const [id = ""] = await insertJobs(tenant, 1, () => ({ status: "paused" }));
    expect((await call("POST", `${JOBS}/${id}/resume`, key)).json.status).toBe("validating_files");
    await waitForJob(key, id, "queued");
  });
});

describe("every route", () => {
  const body = (path: string, method: string) => (path === JOBS && method === "POST" ? jobParams : undefined);
  const routes = [
    ["POST", JOBS],
    ["GET", JOBS],
    ["GET", `${JOBS}/ID`],
    ["GET", `${JOBS}/ID/events`],
    ["GET", `${JOBS}/ID/checkpoints`],
    ["POST", `${JOBS}/ID/cancel`],
    ["POST", `${JOBS}/ID/pause`],
    ["POST", `${JOBS}/ID/resume`],
  ] as const;

  test.each(routes)("%s %s wants a key with the scope train", async (method, path) => {
    const { id } = await createJob();
    await expectAuthorization(key, "train", method, path.replace("ID", id), body(path, method));
  });

  test.each(routes.slice(2))("%s %s finds no job of another tenant's", async (method, path) => {
    const { id: owner, key: ownKey } = await tenantWithTickets();
    fakeEndpoint(owner).onSubmit = respondBusy;
    const { id } = await createJob({}, ownKey);
    const remove = () => inLedger(owner, ({ sql }) => sql.exec("DELETE FROM jobs"));
    await expectHidden(method, path.replace("ID", id), undefined, remove);
    expectError(await call(method, path.replace("ID", id), ownKey), 404, "not_found");
    expectError(await call(method, path.replace("ID", "x".repeat(101)), ownKey), 400, "invalid_parameter", "id");
  });

  test.each([JOBS, `${JOBS}/ID/events`, `${JOBS}/ID/checkpoints`])("GET %s pages in OpenAI's way", async (path) => {
    const { id } = await createJob();
    const jobPath = path.replace("ID", id);
    expectError(await call("GET", `${jobPath}?limit=0`, key), 400, "invalid_parameter", "limit");
    expectError(await call("GET", `${jobPath}?limit=x`, key), 400, "invalid_parameter", "limit");
    for (const after of ["none", "ftevent-", "ftckpt-1", `ftevent-${"9".repeat(16)}`])
      expectError(await call("GET", `${jobPath}?after=${after}`, key), 400, "invalid_parameter", "after");
    const { json } = await call("GET", jobPath, key);
    expect(json).toMatchObject({
      object: "list",
      first_id: json.data[0]?.id ?? null,
      last_id: json.data.at(-1)?.id ?? null,
    });
  });

  test("of events and checkpoints takes those of its own job alone", async () => {
    const other = await createJob();
    const { id } = await createJob();
    const foreign = (await call("GET", `${JOBS}/${other.id}/events`, key)).json.first_id;
    expectError(await call("GET", `${JOBS}/${id}/events?after=${foreign}`, key), 400, "invalid_parameter", "after");
  });
});

describe("POST /v1/heads beyond the budget of a request", () => {
  const manyExamples = Array.from({ length: 3000 }, (_, i) => ({ text: `text ${i}`, label: `label ${i}` }));
  const head = (body: object, token: string, headers: Record<string, string> = {}) =>
    call("POST", "/v1/heads", token, { name: "many", ...body }, headers);

  async function newTenantWithMany(): Promise<{ id: string; key: string }> {
    const owner = await newTenant();
    await call("POST", "/v1/datasets", owner.key, { name: "many", task: "single_label", modality: "text" });
    const imported = await call("POST", "/v1/datasets/many/examples", owner.key, { examples: manyExamples });
    expect(imported.json).toMatchObject({ added: manyExamples.length });
    return owner;
  }

  test("makes a job of a data set, which makes the head's next version", async () => {
    const { id, key: ownKey } = await newTenantWithMany();
    const headParams = {
      dataset: "many",
      hyperparameters: { l2: 2, class_weight: "balanced", lexical: false, seed: 5 },
      evaluation: { method: "holdout", fraction: 0.25, detail: "full" },
    };
    const answer = await head(headParams, ownKey, { "idempotency-key": "many" });
    expect(answer.status, answer.text).toBe(202);
    expect(answer.headers.get("location")).toBe(`${JOBS}/${answer.json.id}`);
    expect(answer.json).toMatchObject({
      object: "fine_tuning.job",
      model,
      training_file: "dataset:many",
      seed: 5,
      graft: { head: "many", promote: "always", trainable: "head" },
    });
    const submission = await waitForSubmission(id);
    expect(submission).toMatchObject({
      id: answer.json.id,
      hyperparameters: headParams.hyperparameters,
      evaluation: headParams.evaluation,
    });
    const retryResponse = await head(headParams, ownKey, { "idempotency-key": "many" });
    expect([retryResponse.status, retryResponse.json]).toEqual([202, answer.json]);
    expect(retryResponse.headers.get("location")).toBe(answer.headers.get("location"));
    expect((await call("GET", JOBS, ownKey)).json.data).toHaveLength(1);
    expectError(await call("GET", "/v1/heads/many", ownKey), 404, "not_found");
  });

  test("takes 'clamp' along where values are trained", async () => {
    const owner = await tenantWithTickets();
    const examples = tickets().map(({ text }, value) => ({ text, value }));
    for (const clamp of [true, false]) {
      const answer = await head({ examples, method: "fine_tune", clamp }, owner.key);
      expect(answer.status, answer.text).toBe(202);
      expect(await waitForSubmission(owner.id, clamp ? 1 : 2)).toMatchObject({ id: answer.json.id, clamp });
    }
  });

  test("is what a fine-tuning asked for by its method always is", async () => {
    const { id, key: ownKey } = await tenantWithTickets();
    fakeEndpoint(id).onSubmit = respondBusy;
    for (const [examples, training_file] of [
      [{ dataset: "tickets" }, "dataset:tickets"],
      [{ examples: tickets() }, expect.stringMatching(/^file-/)],
    ] as const) {
      const answer = await head({ ...examples, method: "fine_tune" }, ownKey);
      expect(answer.status, answer.text).toBe(202);
      expect(answer.headers.get("location")).toBe(`${JOBS}/${answer.json.id}`);
      expect(answer.json).toMatchObject({
        model,
        training_file,
        graft: { head: "many", promote: "if_better", trainable: "all" },
      });
    }
    const answer = await callWithoutEndpoint(
      "/v1/heads",
      { name: "a", dataset: "tickets", method: "fine_tune" },
      ownKey,
    );
    expectError(answer, 422, "not_available", "method");
    const none = await head({ examples: tickets(), method: "fine_tune", backbone: "hash-text-1" }, ownKey);
    expectError(none, 422, "not_available", "method");
    expect((await call("GET", "/v1/files", ownKey)).json.data).toHaveLength(1);
  });

  test("makes a job of examples in the request, which are kept as a file", async () => {
    const { id, key: ownKey } = await newTenant();
    fakeEndpoint(id).onSubmit = respondBusy;
    const answer = await head({ examples: manyExamples, promote: false }, ownKey);
    expect(answer.status, answer.text).toBe(202);
    expect(answer.json.graft).toMatchObject({ head: "many", promote: "never" });
    const { data } = (await call("GET", "/v1/files", ownKey)).json;
    expect(data).toHaveLength(1);
    expect(data[0]).toMatchObject({ id: answer.json.training_file, filename: "many.jsonl" });
    expect(data[0].graft).toEqual({
      task: "single_label",
      modality: "text",
      dimensions: null,
      examples: 3000,
      labels: 3000,
    });
    const content = await call("GET", `/v1/files/${data[0].id}`, ownKey);
    expect(content.status).toBe(200);
  });

  test("is refused where the head is to be trained in the request, or there is no batch endpoint", async () => {
    const { key: ownKey } = await newTenantWithMany();
    for (const body of [{ dataset: "many" }, { examples: manyExamples }]) {
      expectError(await head({ ...body, method: "head" }, ownKey), 413, "edge_budget_exceeded");
      const answer = await callWithoutEndpoint("/v1/heads", { name: "many", ...body }, ownKey);
      expectError(answer, 413, "edge_budget_exceeded");
      expect(Object.keys(answer.json.error.details)).toEqual(["estimate", "budget"]);
    }
    expect((await call("GET", JOBS, ownKey)).json.data).toEqual([]);
    expect((await call("GET", "/v1/files", ownKey)).json.data).toEqual([]);
  });

  test("is refused where a tenant has too many jobs, and its examples are not kept", async () => {
    const { id, key: ownKey } = await tenantWithTickets();
    fakeEndpoint(id).onSubmit = respondBusy;
    await waitForJob(ownKey, (await createJob({}, ownKey)).id, "queued");
    await insertJobs(id, limits.active_jobs - 1, () => ({ status: "paused" }));
    expectError(await head({ examples: manyExamples }, ownKey), 422, "limit_exceeded");
    expect((await call("GET", "/v1/files", ownKey)).json.data).toEqual([]);
    await expect.poll(() => listStoredKeys(id, "files/")).toEqual([]);
  });

  test("is refused with what is wrong with it, in the words of its own parameters", async () => {
    const { key: ownKey } = await newTenant();
    const embedding = Array(4096).fill(0);
    await call("POST", "/v1/datasets", ownKey, {
      name: "wide",
      task: "single_label",
      modality: "embedding",
      dimensions: 4096,
    });
    const lines = Array.from({ length: 3600 }, (_, i) => {
      const id = i === 0 ? { id: "other" } : {};
      return JSON.stringify({ ...id, embedding: embedding.with(i, 1), label: i === 0 ? "other" : "x" });
    });
    const headers = { "content-type": "application/x-ndjson" };
    await call("POST", "/v1/datasets/wide/examples", ownKey, lines.join("\n"), headers);
    const lexical = await head({ dataset: "wide", hyperparameters: { lexical: true } }, ownKey);
    expectError(lexical, 422, "modality_mismatch", "hyperparameters.lexical");
    const named = await head({ dataset: "wide", backbone: "text-static-1" }, ownKey);
    expectError(named, 422, "modality_mismatch", "backbone");
    expect((await call("DELETE", "/v1/datasets/wide/examples/other", ownKey)).status).toBe(200);
    expectError(await head({ dataset: "wide" }, ownKey), 422, "too_few_labels", "dataset");
    expect((await call("GET", JOBS, ownKey)).json.data).toEqual([]);
  });
});

describe("what a job made", () => {
  test("serves, and stays when the job's data set and its head's other versions go", async () => {
    const { id, key: ownKey, job, attempt } = await newTenantWithJob({ head: "support" });
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.not_better });
    expect(await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead) })).toMatchObject({
      directive: "end",
    });
    const ended = (await call("GET", `${JOBS}/${job}`, ownKey)).json;
    expect(ended).toMatchObject({
      status: "succeeded",
      finished_at: expect.any(Number),
      fine_tuned_model: `ft:${model}:${job}`,
      graft: { head: "support", version: 1, promoted: true, kind: "head" },
    });
    expect(ended.graft.comparison).toEqual({
      test_examples: 50,
      head_accuracy: 0.8,
      fine_tuned_accuracy: 0.7,
      p_value: expect.closeTo(0.125, 9),
      expected_gain: expect.closeTo(-0.1, 9),
      chance_of_loss: expect.closeTo(0.956, 2),
      verdict: "not_better",
      kept: "head",
    });
    const head = (await call("GET", "/v1/heads/support", ownKey)).json;
    expect(head).toMatchObject({
      version: 1,
      active_version: 1,
      dataset: { name: "tickets", revision: 1, examples: 18 },
      evaluation: trainedHead.head.evaluation,
      ...describeArtifact(trainedHead.bytes),
    });
    await call("DELETE", "/v1/datasets/tickets", ownKey);
    const input = ["I want a refund of the charge", "the password reset page rejects me"];
    const predicted = await call("POST", "/v1/heads/support/predict", ownKey, { input });
    expect(predicted.json.data.map(({ label }: { label: string }) => label)).toEqual(["billing", "login"]);
    expect((await call("GET", `${JOBS}/${job}`, ownKey)).json).toEqual(ended);
    expect(await listStoredKeys(id, "heads/")).toEqual([describeArtifact(trainedHead.bytes).sha256]);
  });
});

describe("a job that names no head", () => {
  test.each(["if_better", "always", "never"])("makes a model, and promotes nothing under '%s'", async (promote) => {
    const owner = await tenantWithTickets();
    const head = { name: "support", dataset: "tickets", evaluation: { method: "none" } };
    expect((await call("POST", "/v1/heads", owner.key, head)).status).toBe(201);
    const { attempt, job } = await startJob(owner, { suffix: "support", promote });
    const trainedHead = await getTrainedHead();
    await attempt.uploadArtifact(trainedHead.bytes);
    await attempt.sendAcceptedMessage({ type: "evaluated", judgement: comparisons.better });
    await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead, "fine_tuned") });
    expect(await waitForJob(owner.key, job, "succeeded")).toMatchObject({
      fine_tuned_model: `ft:${model}:support`,
      graft: { head: job, version: 1, promoted: false, promote },
    });
    const heads = await call("GET", "/v1/heads", owner.key);
    expect(
      heads.json.data.map(({ id, version, active_version }: ApiResponse["json"]) => [id, version, active_version]),
    ).toEqual([
      [job, 1, null],
      ["support", 1, 1],
    ]);
    expect((await listJobEvents(owner.key, job)).at(-1)?.message).toMatch(/version 1, which was not promoted/);
    expect((await call("POST", `/v1/heads/${job}/promote`, owner.key, { version: 1 })).status).toBe(200);
    expect((await call("POST", `/v1/heads/${job}/predict`, owner.key, { input: "refund" })).status).toBe(200);
  });
});

test("a job whose candidates could not be compared says so, and 'if_better' promotes nothing", async () => {
  const { key: ownKey, job, attempt } = await newTenantWithJob({ head: "support" });
  const trainedHead = await getTrainedHead();
  await attempt.uploadArtifact(trainedHead.bytes);
  const judgement = { test_examples: 0, head_accuracy: 0, fine_tuned_accuracy: 0, only_head: 0, only_fine_tuned: 0 };
  await attempt.sendAcceptedMessage({ type: "evaluated", judgement });
  await attempt.sendAcceptedMessage({ type: "finished", manifest: makeManifest(trainedHead) });
  const ended = await waitForJob(ownKey, job, "succeeded");
  expect(ended.graft).toMatchObject({ version: 1, promoted: false, kind: "head", comparison: null });
  const warnings = (await listJobEvents(ownKey, job)).filter(({ level }) => level === "warn");
  expect(warnings.map(({ message }) => message)).toEqual([expect.stringContaining("Nothing could be compared")]);
  expect((await call("GET", "/v1/heads/support", ownKey)).json).toMatchObject({ version: 1, active_version: null });
});

describe("old jobs", () => {
  test("that have ended are forgotten with their events, oldest first, and no other", async () => {
    const { id, key: ownKey } = await tenantWithTickets();
    fakeEndpoint(id).onSubmit = respondBusy;
    const first = await createJob({}, ownKey);
    await waitForJob(ownKey, first.id, "queued");
    const oldJobs = await insertJobs(id, limits.ended_jobs + 5, () => ({
      ...stateFields.succeeded,
      status: "succeeded",
    }));
    await inLedger(id, ({ sql }) =>
      sql.exec(
        "INSERT INTO job_events (job, kind, key, record, created_at) SELECT number, 'event', 'x', '{}', 0 FROM jobs",
      ),
    );
    await createJob({}, ownKey);
    const remainingRows = await inLedger(id, ({ sql }) => ({
      ids: sql.exec<{ id: string }>("SELECT id FROM jobs WHERE status = 'succeeded' ORDER BY number").toArray(),
      orphans: sql.exec("SELECT 1 FROM job_events WHERE job NOT IN (SELECT number FROM jobs)").toArray(),
    }));
    expect(remainingRows.orphans).toEqual([]);
    expect(remainingRows.ids.length).toBeLessThanOrEqual(limits.ended_jobs);
    expect(remainingRows.ids.length).toBeGreaterThan(limits.ended_jobs - 10);
    expect(remainingRows.ids.map((row) => row.id)).toEqual(oldJobs.slice(-remainingRows.ids.length));
    expect((await call("GET", `${JOBS}/${first.id}`, ownKey)).status).toBe(200);
    expectError(await call("GET", `${JOBS}/${oldJobs[0]}`, ownKey), 404, "not_found");
  });
});
