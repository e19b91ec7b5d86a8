/**
 * A backbone behind any endpoint with OpenAI's embeddings API. Rows stay as the endpoint returns them: whether they have
 * unit norm depends on the model. No failure's message contains the key, an input or text from the endpoint.
 */
import { z } from "zod";
import { parseRetryAfter } from "../lib/retry.ts";
import type { Backbone, Identity } from "./backbone.ts";
import {
  type CallResult,
  callFailure,
  platformRetryIo,
  type RemoteOptions,
  type RetryIo,
  remoteBackbone,
  validateRow,
} from "./remote.ts";

export interface OpenAiOptions extends RemoteOptions {
  /** Such as `https://api.openai.com/v1`. Calls go to `<baseUrl>/embeddings`. */
  readonly baseUrl: string;
  /** Whether calls send `dimensions`. Only some models support that. */
  readonly sendDimensions: boolean;
  /** The requested format; either is accepted in a response. base64 has a quarter of the bytes. */
  readonly encodingFormat: "float" | "base64";
  readonly key: string | undefined;
}

/** Network, random numbers, waiting and the time in milliseconds, which tests replace. */
export interface OpenAiIo extends RetryIo {
  fetch(url: string, init: RequestInit): Promise<Response>;
  now(): number;
}

const platformIo: OpenAiIo = { ...platformRetryIo, fetch: (url, init) => fetch(url, init), now: Date.now };

const responseSchema = z.object({
  data: z.array(z.object({ index: z.int(), embedding: z.union([z.string(), z.array(z.number())]) })),
});

export function openAiBackbone(identity: Identity, options: OpenAiOptions, io: OpenAiIo = platformIo): Backbone {
  const call = (batch: readonly string[], signal: AbortSignal) => request(batch, options, signal, io);
  return remoteBackbone("openai", identity, options, call, io);
}

async function request(
  batch: readonly string[],
  options: OpenAiOptions,
  signal: AbortSignal,
  io: OpenAiIo,
): Promise<CallResult> {
  const headers: Record<string, string> = { "content-type": "application/json", accept: "application/json" };
  if (options.key !== undefined) headers.authorization = `Bearer ${options.key}`;
  const body = JSON.stringify({
    model: options.model,
    input: batch,
    encoding_format: options.encodingFormat,
    ...(options.sendDimensions ? { dimensions: options.dimensions } : {}),
  });
  let response: Response;
  let text: string | null = null;
  try {
    // Following a redirect could hand the key to another host.
    response = await io.fetch(`${options.baseUrl}/embeddings`, {
      method: "POST",
      headers,
      body,
      signal,
      redirect: "manual",
    });
    if (response.ok) text = await readBounded(response, maxResponseBytes(batch.length, options.dimensions));
    else await response.body?.cancel();
  } catch {
    return callFailure("backend_unavailable", "The backbone's endpoint could not be reached, or cut the connection.", {
      retry: true,
    });
  }
  if (!response.ok) return responseFailure(response, io.now());
  if (text === null)
    return callFailure("backend_invalid_answer", "The backbone's answer is far longer than its embeddings can be.");
  return parseResponse(text, batch.length, options.dimensions);
}

/** A double has at most 25 characters in JSON. The rest is for punctuation, indentation and the other fields. */
function maxResponseBytes(inputs: number, dimensions: number): number {
  return 65_536 + inputs * (256 + dimensions * 48);
}

/** The body as text; null if it has more than `limit` bytes, because an endpoint must not fill the isolate's memory. */
async function readBounded(response: Response, limit: number): Promise<string | null> {
  if (response.body === null) return "";
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let text = "";
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    bytes += value.byteLength;
    if (bytes > limit) {
      await reader.cancel();
      return null;
    }
    text += decoder.decode(value, { stream: true });
  }
}

function responseFailure(response: Response, now: number): CallResult {
  const { status } = response;
  const retryAfter = parseRetryAfterSeconds(response.headers.get("retry-after"), now);
  if (status === 429 || (status === 503 && retryAfter !== undefined)) {
    const message = `The backbone's endpoint is at its limit (HTTP ${status}).`;
    return callFailure("backend_rate_limited", message, { retry: true, retryAfter });
  }
  if (status >= 500 || status === 408) {
    return callFailure("backend_unavailable", `The backbone's endpoint failed (HTTP ${status}).`, { retry: true });
  }
  if (status === 401 || status === 403) {
    return callFailure("backend_rejected", `The backbone's endpoint refused its key (HTTP ${status}).`);
  }
  if (status >= 300 && status < 400) {
    return callFailure(
      "backend_rejected",
      `The backbone's endpoint redirects (HTTP ${status}); redirects are not followed.`,
    );
  }
  return callFailure("backend_rejected", `The backbone's endpoint refused the request (HTTP ${status}).`);
}

/** A longer wait is a mistake of the endpoint, or a number that a header cannot hold. */
const MAX_RETRY_AFTER_SECONDS = 86_400;

/**
 * A Retry-After header (RFC 9110, section 10.2.3), a number of seconds or a date, as seconds after `now` (in
 * milliseconds); at most a day.
 */
export function parseRetryAfterSeconds(header: string | null, now: number): number | undefined {
  // Some endpoints send fractions of a second, which the RFC does not allow, or very long waits.
  if (header !== null && /^\d+(\.\d+)?$/.test(header)) return Math.min(Number(header), MAX_RETRY_AFTER_SECONDS);
  const milliseconds = parseRetryAfter(header, now);
  return milliseconds === null ? undefined : Math.min(Math.ceil(milliseconds / 1000), MAX_RETRY_AFTER_SECONDS);
}

function parseResponse(text: string, inputs: number, dimensions: number): CallResult {
  const invalid = (what: string) => callFailure("backend_invalid_answer", `The backbone's answer ${what}.`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return invalid("is not JSON");
  }
  const parsed = responseSchema.safeParse(json);
  if (!parsed.success) return invalid(`is not OpenAI's, at ${parsed.error.issues[0]?.path.join(".") || "its top"}`);
  const { data } = parsed.data;
  if (data.length !== inputs) return invalid(`has ${data.length} embeddings for ${inputs} inputs`);
  const rows = new Map<number, Float32Array>();
  for (const { index, embedding } of data) {
    if (index < 0 || index >= inputs || rows.has(index)) return invalid(`has index ${index} twice or out of range`);
    const values = typeof embedding === "string" ? decodeBase64(embedding) : embedding;
    const row = values && validateRow(values, dimensions);
    if (!row) return invalid(`has at index ${index} not ${dimensions} finite numbers`);
    rows.set(index, row);
  }
  return { ok: true, rows: Array.from({ length: inputs }, (_, i) => rows.get(i) as Float32Array) };
}

/** Little-endian 32-bit floats in base64; null if the text is not that. */
function decodeBase64(text: string): Float32Array | null {
  try {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return bytes.length % 4 === 0 ? new Float32Array(bytes.buffer) : null;
  } catch {
    return null;
  }
}
