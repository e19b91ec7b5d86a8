/**
 * The batch endpoint of the tests, played by them: it takes what the Worker submits, and calls back as an attempt does.
 * How it behaves is told tenant by tenant, since jobs of earlier tests may still be under way.
 */
import { runInDurableObject, SELF } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, expect, vi } from "vitest";
import type { z } from "zod";
import { type dataLine, type Message, type Submission, submission } from "../../src/jobs/protocol.ts";
import { sha256Hex } from "../../src/lib/hash.ts";
import { headKey } from "../../src/store/keys.ts";
import { setNextAlarm } from "../../src/tenant/tasks/tasks.ts";
import type { Tenant } from "../../src/tenant/tenant.ts";
import { type ApiResponse, call, newTenant, tenantWithTickets, tickets } from "./api.ts";
import { validateResponse } from "./openapi.ts";

export const SECRET = env.BATCH_SECRET ?? "";
const ORIGIN = "http://batch.test/";
export const WAIT_OPTIONS = { timeout: 30_000, interval: 10 };

/** A call of the Worker's. */
export interface ReceivedRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  readonly text: string;
}
export type Handler = (request: ReceivedRequest, signal: AbortSignal) => Response | Promise<Response>;
interface FakeEndpoint {
  readonly submissions: ReceivedRequest[];
  readonly stops: ReceivedRequest[];
  onSubmit: Handler;
  onStop: Handler;
}

/** An answer to a submission or a stop. */
export const acknowledge =
  (status: "running" | "stopping" | "ended", code = 200): Handler =>
  ({ text }) => {
    const { id, attempt } = JSON.parse(text) as Submission;
    return Response.json({ object: "batch.attempt", id, attempt, status }, { status: code });
  };
/** No answer, for as long as the Worker waits. */
export const neverRespond: Handler = (_, signal) =>
  new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
export const respond =
  (status: number, body: string | object = "", headers: Record<string, string> = {}): Handler =>
  () =>
    new Response(typeof body === "string" ? body : JSON.stringify(body), { status, headers });

const endpoints = new Map<string, FakeEndpoint>();
const owners = new Map<string, string>();

/** What the endpoint has been told of a tenant, and how it behaves towards it: it takes and stops everything at first. */
export function fakeEndpoint(tenant: string): FakeEndpoint {
  const existing = endpoints.get(tenant);
  if (existing !== undefined) return existing;
  const endpoint = { submissions: [], stops: [], onSubmit: acknowledge("running", 202), onStop: acknowledge("ended") };
  endpoints.set(tenant, endpoint);
  return endpoint;
}

/** Has this file's submissions come here. */
export function mockBatchEndpoint(): void {
  let otherFetch = globalThis.fetch;
  beforeAll(() => {
    otherFetch = globalThis.fetch;
    globalThis.fetch = async (input, init) => {
      if (typeof input !== "string" || !input.startsWith(ORIGIN)) return otherFetch(input, init);
      const request = {
        method: init?.method ?? "GET",
        url: input,
        headers: new Headers(init?.headers),
        text: String(init?.body),
      };
      const { id, tenant } = JSON.parse(request.text) as Submission;
      if (tenant !== undefined) owners.set(id, tenant);
      const endpoint = fakeEndpoint(owners.get(id) ?? "");
      (input.endsWith("/stop") ? endpoint.stops : endpoint.submissions).push(request);
      return (input.endsWith("/stop") ? endpoint.onStop : endpoint.onSubmit)(request, init?.signal as AbortSignal);
    };
  });
  afterAll(() => {
    globalThis.fetch = otherFetch;
  });
}

/** The tenant's submission number `count`, once it has come. */
export async function waitForSubmission(tenant: string, count = 1): Promise<Submission> {
  const { submissions } = fakeEndpoint(tenant);
  await vi.waitUntil(() => submissions.length >= count, WAIT_OPTIONS);
  return submission.parse(JSON.parse(submissions[count - 1]?.text ?? ""));
}

/** A job as the tenant sees it, once it is as wanted. */
// biome-ignore lint/suspicious/noExplicitAny: as an answer's body
export async function waitForJob(key: string, id: string, expected: string | ((job: any) => boolean)): Promise<any> {
  const matches = typeof expected === "string" ? (job: { status: string }) => job.status === expected : expected;
  let last: unknown = null;
  try {
    return await vi.waitUntil(async () => {
      last = (await call("GET", `/v1/fine_tuning/jobs/${id}`, key)).json;
      return matches(last as { status: string }) ? last : false;
    }, WAIT_OPTIONS);
  } catch {
    throw new Error(`The job did not become as wanted: ${JSON.stringify(last)}`);
  }
}

export async function listJobEvents(
  key: string,
  id: string,
): Promise<{ level: string; message: string; type: string }[]> {
  return (await call("GET", `/v1/fine_tuning/jobs/${id}/events?limit=100`, key)).json.data.toReversed();
}

export const tenantStub = (tenant: string) => env.TENANT.get(env.TENANT.idFromName(tenant));

export function inLedger<T>(tenant: string, work: (storage: DurableObjectStorage, instance: Tenant) => T | Promise<T>) {
  return runInDurableObject(tenantStub(tenant), (instance: Tenant, { storage }) => work(storage, instance));
}

/** Rows of a tenant's `due` table, of one kind or of all but the daily sweep. */
export function listDueTasks(tenant: string, kind?: string) {
  return inLedger(tenant, ({ sql }) =>
    sql
      .exec<{ kind: string; ref: string; run_at: number; attempts: number }>(
        "SELECT kind, ref, run_at, attempts FROM due WHERE iif(?1 IS NULL, kind <> 'sweep', kind = ?1) ORDER BY id",
        kind ?? null,
      )
      .toArray(),
  );
}

/** As if so much time had passed: all that a ledger has noted of its jobs, and what is due, is that much earlier. */
export function advanceTime(tenant: string, seconds: number): Promise<void> {
  return inLedger(tenant, (storage) => {
    storage.transactionSync(() => {
      const earlier = (name: string) => `'$.${name}', json_extract(state, '$.${name}') - ?1`;
      const times = ["submitAt", "heardAt", "stopAt"].map(earlier).join(", ");
      storage.sql.exec(`UPDATE jobs SET state = json_set(state, ${times})`, 1000 * seconds);
      storage.sql.exec("UPDATE batch_messages SET received_at = received_at - ?", seconds);
      storage.sql.exec("UPDATE due SET run_at = run_at - ? WHERE kind <> 'sweep'", 1000 * seconds);
    });
    return setNextAlarm(storage);
  });
}

/** What a tenant has in R2, below a part of its own. */
export async function listStoredKeys(tenant: string, part = ""): Promise<string[]> {
  const prefix = `tenants/${tenant}/${part}`;
  return (await env.BUCKET.list({ prefix })).objects.map(({ key }) => key.slice(prefix.length));
}

type RequestBody = string | Uint8Array<ArrayBuffer> | ReadableStream | undefined;
interface SigningOptions {
  readonly id?: string;
  readonly secret?: string;
  readonly timestamp?: number;
  readonly headers?: Record<string, string>;
}

let messages = 0;

/** The headers that sign a body, by the library alone. */
export function webhookHeaders(
  body: string,
  { id = `msg_${++messages}`, secret = SECRET, timestamp = Date.now(), headers = {} }: SigningOptions,
) {
  const date = new Date(timestamp);
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(timestamp / 1000)),
    "webhook-signature": new Webhook(secret).sign(id, date, body),
    ...headers,
  };
}

export type DataLine = z.infer<typeof dataLine>;

/** What an attempt at a job calls. */
export function attemptClient({ id, attempt, token }: Pick<Submission, "id" | "attempt" | "token">) {
  const path = `/internal/batch/jobs/${id}/attempts/${attempt}`;
  const send = async (method: string, suffix: string, body?: RequestBody, headers: Record<string, string> = {}) => {
    const response = await SELF.fetch(`http://graft.test${path}${suffix}`, {
      method,
      headers: { authorization: `Bearer ${token}`, ...headers },
      ...(body === undefined ? {} : { body }),
    });
    expect(response.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/);
    return response;
  };
  const sendCallback = async (...args: Parameters<typeof send>): Promise<ApiResponse> => {
    const response = await send(...args);
    const text = await response.text();
    const json = response.headers.get("content-type")?.startsWith("application/json") ? JSON.parse(text) : null;
    expect(response.status, text).not.toBe(500);
    if (response.status >= 400) await validateResponse(args[0], path, response, json);
    return { status: response.status, headers: response.headers, text, json };
  };
  const postMessage = (body: string, signing: SigningOptions = {}) =>
    sendCallback("POST", "/messages", body, webhookHeaders(body, signing));
  const sendMessage = (message: Message | object, signing: SigningOptions = {}) =>
    postMessage(JSON.stringify({ id, attempt, ...message }), signing);
  return {
    path,
    send,
    callback: sendCallback,
    post: postMessage,
    tell: sendMessage,
    /** Tells what is taken; answers what the attempt is to do. */
    async sendAcceptedMessage(
      message: Message,
      signing: SigningOptions = {},
    ): Promise<{ directive: string; refit: string | null }> {
      const answer = await sendMessage(message, signing);
      expect(answer.status, answer.text).toBe(200);
      return answer.json;
    },
    async fetchData(): Promise<DataLine[]> {
      const answer = await sendCallback("GET", "/data");
      expect(answer.status, answer.text).toBe(200);
      return answer.text
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line) as DataLine);
    },
    uploadArtifact: (bytes: Uint8Array<ArrayBuffer>, sha256 = sha256Hex(bytes)) =>
      sendCallback("PUT", `/artifacts/${sha256}`, bytes, { "content-length": String(bytes.length) }),
  };
}

export const describeArtifact = (bytes: Uint8Array) => ({ sha256: sha256Hex(bytes), bytes: bytes.length });

interface TrainedHead {
  readonly bytes: Uint8Array<ArrayBuffer>;
  // biome-ignore lint/suspicious/noExplicitAny: as an answer's body
  readonly head: any;
}
const trainedHeads = new Map<string, Promise<TrainedHead>>();

/** A head that was trained on the tickets, as a tenant apart has it; each of these names gives other bytes. */
export function getTrainedHead(name: "one" | "two" | "three" = "one"): Promise<TrainedHead> {
  const train = async () => {
    const { id, key } = await newTenant();
    const hyperparameters = { l2: { one: 0.1, two: 0.2, three: 0.3 }[name] };
    const { json } = await call("POST", "/v1/heads", key, { name, examples: tickets(), hyperparameters });
    const object = await env.BUCKET.get(headKey(id, json.sha256));
    if (object === null) throw new Error("The head has no bytes.");
    return { bytes: new Uint8Array(await object.arrayBuffer()), head: json };
  };
  const cached = trainedHeads.get(name) ?? train();
  trainedHeads.set(name, cached);
  return cached;
}

/** What an attempt tells of a head at its end. */
export function makeManifest({ bytes, head }: TrainedHead, candidate: "head" | "fine_tuned" = "head") {
  const { method: _method, ...training } = head.training;
  return {
    artifact: describeArtifact(bytes),
    candidate,
    dataset: { revision: 1, examples: 18 },
    training,
    evaluation: head.evaluation,
  };
}

export const comparisons = {
  better: { test_examples: 50, head_accuracy: 0.8, fine_tuned_accuracy: 0.96, only_head: 1, only_fine_tuned: 9 },
  not_better: { test_examples: 50, head_accuracy: 0.8, fine_tuned_accuracy: 0.7, only_head: 6, only_fine_tuned: 1 },
  inconclusive: { test_examples: 50, head_accuracy: 0.8, fine_tuned_accuracy: 0.82, only_head: 4, only_fine_tuned: 5 },
} as const;

/** The id of a file of these lines. */
export async function uploadFile(lines: readonly object[], key: string): Promise<string> {
  const form = new FormData();
  form.set("purpose", "fine-tune");
  form.set("file", new File([lines.map((line) => `${JSON.stringify(line)}\n`).join("")], "train.jsonl"));
  const encoded = new Response(form);
  const headers = { "content-type": encoded.headers.get("content-type") ?? "" };
  const answer = await call("POST", "/v1/files", key, new Uint8Array(await encoded.arrayBuffer()), headers);
  expect(answer.status, answer.text).toBe(200);
  return answer.json.id;
}

/** A tenant with the tickets, and a job on them that runs; `job` adds to what is asked for. */
export async function newTenantWithJob(job: object = {}) {
  const tenant = await tenantWithTickets();
  return { ...tenant, ...(await startJob(tenant, job)) };
}

/** A further job of a tenant's, which runs; it trains the head alone, unless `job` says otherwise. */
export async function startJob({ id: tenant, key }: { id: string; key: string }, job: object = {}) {
  const count = fakeEndpoint(tenant).submissions.length;
  const body = { model: "text-static-1", training_file: "dataset:tickets", trainable: "head", ...job };
  const response = await call("POST", "/v1/fine_tuning/jobs", key, body);
  expect(response.status, response.text).toBe(200);
  const submission = await waitForSubmission(tenant, count + 1);
  await waitForJob(key, response.json.id, "running");
  return { tenant, key, job: response.json.id as string, submission, attempt: attemptClient(submission) };
}
