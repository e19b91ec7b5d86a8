/** Bytes named by their SHA-256: sent to the Worker, whole or in parts, and fetched from it. */
import { createHash } from "node:crypto";
import type { z } from "zod";
import { type Artifact, artifact, upload as uploadAnswer, uploadedPart } from "../../jobs/protocol.ts";
import { type Called, type Edge, type Outcome, persist } from "../client/worker-client.ts";

const binary = { "content-type": "application/octet-stream" };
const json = { "content-type": "application/json" };
/** How often bytes are sent that the Worker refuses, which may have been spoilt on their way, and those fetched that do not come. */
const MOST_TRIES = 3;
/** Many bytes may take so many times as long as a message. */
const PATIENT = 4;

export function artifactOf(parts: readonly Uint8Array[]): Artifact {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return { sha256: hash.digest("hex"), bytes: parts.reduce((sum, { length }) => sum + length, 0) };
}

/** Uploads bytes, as a whole again after a failure. */
export function upload(
  edge: Edge,
  parts: readonly Uint8Array[],
  { sha256, bytes }: Artifact,
  largestSingle: number,
  signal: AbortSignal,
): Promise<Outcome<true>> {
  const path = `artifacts/${sha256}`;
  const timeout = () => AbortSignal.timeout(PATIENT * edge.pace.timeoutMs);
  const put = <T>(path: string, body: Uint8Array, read: (response: Response) => Promise<T | null>) =>
    edge.call(path, { method: "PUT", headers: binary, body }, read, signal, timeout());
  const done = async (response: Response) => {
    await response.arrayBuffer();
    return true as const;
  };
  const inParts = async (): Promise<Called<true>> => {
    const post = { method: "POST", headers: json };
    const body = JSON.stringify({ bytes });
    const parse = async (response: Response) => uploadAnswer.safeParse(await response.json()).data ?? null;
    const begun = await edge.call(`${path}/uploads`, { ...post, body }, parse, signal);
    if (begun.type !== "answer") return begun;
    const { upload_id, part_bytes } = begun.value;
    const at = `${path}/uploads/${upload_id}`;
    const uploaded: z.infer<typeof uploadedPart>[] = [];
    for (let from = 0; from < bytes; from += part_bytes) {
      const part = await put(
        `${at}/${uploaded.length + 1}`,
        cut(parts, from, part_bytes),
        async (response) => uploadedPart.safeParse(await response.json()).data ?? null,
      );
      if (part.type !== "answer") return part;
      uploaded.push(part.value);
    }
    return edge.call(at, { ...post, body: JSON.stringify({ parts: uploaded }) }, completed, signal, timeout());
  };
  const completed = async (response: Response) =>
    artifact.safeParse(await response.json()).data?.sha256 === sha256 || null;
  let refusals = 0;
  return persist(edge.pace, signal, async () => {
    const called = bytes <= largestSingle ? await put(path, cut(parts, 0, bytes), done) : await inParts();
    return called.type === "refused" && ++refusals < MOST_TRIES ? { type: "again", after: 0 } : called;
  });
}

/** As many bytes from there on as there are, at most `length`. */
function cut(parts: readonly Uint8Array[], from: number, length: number): Uint8Array {
  const taken: Uint8Array[] = [];
  let start = 0;
  for (const part of parts) {
    const [first, last] = [Math.max(0, from - start), Math.min(part.length, from + length - start)];
    if (first < last) taken.push(part.subarray(first, last));
    start += part.length;
  }
  return Buffer.concat(taken);
}

/** The bytes that an artifact names; null where the Worker has none such, or cannot be reached. */
export async function download(edge: Edge, { sha256, bytes }: Artifact, signal: AbortSignal): Promise<Buffer | null> {
  let tries = 0;
  const outcome = await persist(edge.pace, signal, async () => {
    const called = await edge.pull(`artifacts/${sha256}`, (chunks) => read(chunks, bytes), signal);
    return called.type === "again" && ++tries >= MOST_TRIES ? { type: "refused", status: 0 } : called;
  });
  if (outcome.type !== "answer") return null;
  return artifactOf([outcome.value]).sha256 === sha256 ? outcome.value : null;
}

async function read(chunks: AsyncIterable<Uint8Array>, most: number): Promise<Buffer> {
  const read: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    read.push(chunk);
    length += chunk.length;
    if (length > most) break;
  }
  return Buffer.concat(read);
}
