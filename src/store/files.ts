import { fileKey } from "./keys.ts";

/** R2 takes streams of a known length alone, and of an upload in parts all but the last must have the same size. */
export const PART_BYTES = 8 * 1024 * 1024;
const FIRST_ROOM = 64 * 1024;

/** Bytes on their way to R2; nothing is there to be read before `finish`. */
export interface FileWriter {
  /** Takes the next bytes, and waits while a part is stored. */
  write(bytes: Uint8Array): Promise<void>;
  finish(): Promise<void>;
  /** Forgets what was written; called after `finish` it changes nothing. Parts that R2 keeps all the same, it drops after 7 days. */
  abort(): Promise<void>;
}

/** Stores a file's bytes as they come, never more than a part of them in memory: small files at once, others in parts. */
export function fileWriter(bucket: R2Bucket, tenant: string, id: string): FileWriter {
  const key = fileKey(tenant, id);
  const parts: R2UploadedPart[] = [];
  let upload: R2MultipartUpload | null = null;
  let part = new Uint8Array(FIRST_ROOM);
  let filled = 0;

  const makeRoom = (bytes: number) => {
    if (bytes <= part.length) return;
    const larger = new Uint8Array(Math.max(bytes, Math.min(2 * part.length, PART_BYTES)));
    larger.set(part.subarray(0, filled));
    part = larger;
  };
  const storePart = async () => {
    upload ??= await bucket.createMultipartUpload(key);
    parts.push(await upload.uploadPart(parts.length + 1, part.subarray(0, filled)));
    filled = 0;
  };
  return {
    async write(bytes) {
      for (let at = 0; at < bytes.length; ) {
        // Not as soon as it is full: the last part, too, has at least a byte.
        if (filled === PART_BYTES) await storePart();
        const taken = bytes.subarray(at, at + PART_BYTES - filled);
        makeRoom(filled + taken.length);
        part.set(taken, filled);
        filled += taken.length;
        at += taken.length;
      }
    },
    async finish() {
      if (upload === null) {
        await bucket.put(key, part.subarray(0, filled));
        return;
      }
      await storePart();
      await upload.complete(parts);
      upload = null;
    },
    async abort() {
      await upload?.abort().catch(() => undefined);
      upload = null;
    },
  };
}

/** A file's bytes as a stream, or null where there are none. */
export async function readFile(
  bucket: R2Bucket,
  tenant: string,
  id: string,
): Promise<ReadableStream<Uint8Array> | null> {
  const object = await bucket.get(fileKey(tenant, id));
  return object?.body ?? null;
}

/** Whether a file's bytes are stored. */
export async function hasFile(bucket: R2Bucket, tenant: string, id: string): Promise<boolean> {
  return (await bucket.head(fileKey(tenant, id))) !== null;
}

export async function deleteFileBytes(bucket: R2Bucket, tenant: string, id: string): Promise<void> {
  await bucket.delete(fileKey(tenant, id));
}
