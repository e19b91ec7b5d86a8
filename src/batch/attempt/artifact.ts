/** Bytes named by their SHA-256: sent to the Worker, whole or in parts, and fetched from it. */
import { createHash } from "node:crypto";
import type { z } from "zod";
import { type Artifact, artifact, upload as uploadAnswer, uploadedPart } from "../../jobs/protocol.ts";
import { type CallResult, type Outcome, type WorkerClient, withRetries } from "../client/worker-client.ts";

const binary = { "content-type": "application/octet-stream" };
const json = { "content-type": "application/json" };
/** How often bytes are sent that the Worker refuses, which may have been spoilt on their way, and those fetched that do not come. */
const MAX_TRIES = 3;
/** Many bytes may take so many times as long as a message. */
const TRANSFER_TIMEOUT_FACTOR = 4;

export function artifactOf(parts: readonly Uint8Array[]): Artifact {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return { sha256: hash.digest("hex"), bytes: parts.reduce((sum, { length }) => sum + length, 0) };
}

/** Uploads bytes, as a whole again after a failure. */
export function upload(
  workerClient: WorkerClient,
  parts: readonly Uint8Array[],
  { sha256, bytes }: Artifact,
  maxSingleUploadBytes: number,
  signal: AbortSignal,
): Promise<Outcome<true>> {
  const path = `artifacts/${sha256}`;
  const timeout = () => AbortSignal.timeout(TRANSFER_TIMEOUT_FACTOR * workerClient.retryPolicy.timeoutMs);
  const put = <T>(path: string, body: Uint8Array, read: (response: Response) => Promise<T | null>) =>
    workerClient.call(path, { method: "PUT", headers: binary, body }, read, signal, timeout());
  const discardBody = async (response: Response) => {
    await response.arrayBuffer();
    return true as const;
  };
  const uploadInParts = async (): Promise<CallResult<true>> => {
    const post = { method: "POST", headers: json };
    const body = JSON.stringify({ bytes });
    const parse = async (response: Response) => uploadAnswer.safeParse(await response.json()).data ?? null;
    const startResult = await workerClient.call(`${path}/uploads`, { ...post, body }, parse, signal);
    if (startResult.type !== "answer") return startResult;
    const { upload_id, part_bytes } = startResult.value;
    const uploadPath = `${path}/uploads/${upload_id}`;
    const uploadedParts: z.infer<typeof uploadedPart>[] = [];
    for (let from = 0; from < bytes; from += part_bytes) {
      const part = await put(
        `${uploadPath}/${uploadedParts.length + 1}`,
        sliceParts(parts, from, part_bytes),
        async (response) => uploadedPart.safeParse(await response.json()).data ?? null,
      );
      if (part.type !== "answer") return part;
      uploadedParts.push(part.value);
    }
    return workerClient.call(
      uploadPath,
      { ...post, body: JSON.stringify({ parts: uploadedParts }) },
      completed,
      signal,
      timeout(),
    );
  };
  const completed = async (response: Response) =>
    artifact.safeParse(await response.json()).data?.sha256 === sha256 || null;
  let refusals = 0;
  return withRetries(workerClient.retryPolicy, signal, async () => {
    const result =
      bytes <= maxSingleUploadBytes ? await put(path, sliceParts(parts, 0, bytes), discardBody) : await uploadInParts();
    return result.type === "refused" && ++refusals < MAX_TRIES ? { type: "retry", retryAfterMs: 0 } : result;
  });
}

/** As many bytes from there on as there are, at most `length`. */
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

/** The bytes that an artifact names; null where the Worker has none such, or cannot be reached. */
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
