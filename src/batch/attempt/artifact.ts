/** Artifacts: bytes named by their SHA-256, uploaded to the Worker, whole or in parts, and downloaded from it. */
import { createHash } from "node:crypto";
import type { z } from "zod";
import { type Artifact, artifact, upload as uploadAnswer, uploadedPart } from "../../jobs/protocol.ts";
import { type CallResult, type Outcome, type WorkerClient, withRetries } from "../client/worker-client.ts";

const binary = { "content-type": "application/octet-stream" };
const json = { "content-type": "application/json" };
/** How often refused bytes are sent, which may have been damaged on the way, and how often a failing download is tried. */
const MAX_TRIES = 3;
/** A transfer may take so many times as long as a message. */
const TRANSFER_TIMEOUT_FACTOR = 4;

export function artifactOf(parts: readonly Uint8Array[]): Artifact {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return { sha256: hash.digest("hex"), bytes: parts.reduce((sum, { length }) => sum + length, 0) };
}

/** Uploads bytes, in parts if there are more than `maxSingleUploadBytes`. After a failure it sends all of them again. */
export async function upload(
  workerClient: WorkerClient,
  parts: readonly Uint8Array[],
  target: Artifact,
  maxSingleUploadBytes: number,
  signal: AbortSignal,
): Promise<Outcome<true>> {
  let refusals = 0;
  return withRetries(workerClient.retryPolicy, signal, async () => {
    const result =
      target.bytes <= maxSingleUploadBytes
        ? await uploadWhole(workerClient, parts, target, signal)
        : await uploadInParts(workerClient, parts, target, signal);
    return result.type === "refused" && ++refusals < MAX_TRIES ? { type: "retry", retryAfterMs: 0 } : result;
  });
}

function uploadWhole(
  workerClient: WorkerClient,
  parts: readonly Uint8Array[],
  { sha256, bytes }: Artifact,
  signal: AbortSignal,
): Promise<CallResult<true>> {
  const discardBody = async (response: Response) => {
    await response.arrayBuffer();
    return true as const;
  };
  return put(workerClient, `artifacts/${sha256}`, sliceParts(parts, 0, bytes), discardBody, signal);
}

async function uploadInParts(
  workerClient: WorkerClient,
  parts: readonly Uint8Array[],
  { sha256, bytes }: Artifact,
  signal: AbortSignal,
): Promise<CallResult<true>> {
  const path = `artifacts/${sha256}/uploads`;
  const start = { method: "POST", headers: json, body: JSON.stringify({ bytes }) };
  const readStart = async (response: Response) => uploadAnswer.safeParse(await response.json()).data ?? null;
  const started = await workerClient.call(path, start, readStart, signal);
  if (started.type !== "answer") return started;
  const { upload_id, part_bytes } = started.value;
  const readPart = async (response: Response) => uploadedPart.safeParse(await response.json()).data ?? null;
  const uploadedParts: z.infer<typeof uploadedPart>[] = [];
  for (let from = 0; from < bytes; from += part_bytes) {
    const partPath = `${path}/${upload_id}/${uploadedParts.length + 1}`;
    const part = await put(workerClient, partPath, sliceParts(parts, from, part_bytes), readPart, signal);
    if (part.type !== "answer") return part;
    uploadedParts.push(part.value);
  }
  const completion = { method: "POST", headers: json, body: JSON.stringify({ parts: uploadedParts }) };
  const readCompletion = async (response: Response) =>
    artifact.safeParse(await response.json()).data?.sha256 === sha256 || null;
  return workerClient.call(`${path}/${upload_id}`, completion, readCompletion, signal, transferTimeout(workerClient));
}

function put<T>(
  workerClient: WorkerClient,
  path: string,
  body: Uint8Array,
  read: (response: Response) => Promise<T | null>,
  signal: AbortSignal,
): Promise<CallResult<T>> {
  return workerClient.call(path, { method: "PUT", headers: binary, body }, read, signal, transferTimeout(workerClient));
}

function transferTimeout({ retryPolicy }: WorkerClient): AbortSignal {
  return AbortSignal.timeout(TRANSFER_TIMEOUT_FACTOR * retryPolicy.timeoutMs);
}

/** The bytes from `from` on, at most `length`. */
function sliceParts(parts: readonly Uint8Array[], from: number, length: number): Uint8Array {
  const slices: Uint8Array[] = [];
  let start = 0;
  for (const part of parts) {
    const [first, last] = [Math.max(0, from - start), Math.min(part.length, from + length - start)];
    if (first < last) slices.push(part.subarray(first, last));
    start += part.length;
  }
  return Buffer.concat(slices);
}

/** The bytes that an artifact names; null if the Worker does not have them, or cannot be reached. */
export async function download(
  workerClient: WorkerClient,
  { sha256, bytes }: Artifact,
  signal: AbortSignal,
): Promise<Buffer | null> {
  let tries = 0;
  const outcome = await withRetries(workerClient.retryPolicy, signal, async () => {
    const result = await workerClient.getStream(`artifacts/${sha256}`, (chunks) => readAll(chunks, bytes), signal);
    return result.type === "retry" && ++tries >= MAX_TRIES ? { type: "refused", status: 0 } : result;
  });
  if (outcome.type !== "answer") return null;
  return artifactOf([outcome.value]).sha256 === sha256 ? outcome.value : null;
}

async function readAll(chunks: AsyncIterable<Uint8Array>, maxBytes: number): Promise<Buffer> {
  const buffers: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    buffers.push(chunk);
    length += chunk.length;
    if (length > maxBytes) break;
  }
  return Buffer.concat(buffers);
}
