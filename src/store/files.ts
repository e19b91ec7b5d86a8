import { fileKey } from "./keys.ts";
import { abortUpload, type Upload } from "./uploads.ts";

/** R2 takes only streams of known length. In an upload in parts, all parts but the last must have the same size. */
export const PART_BYTES = 8 * 1024 * 1024;
const INITIAL_BUFFER_BYTES = 64 * 1024;

/** Writes a file to R2. The file can be read only after `close`. */
export interface FileWriter {
  /** Adds bytes; waits if a part has to be stored. */
  write(bytes: Uint8Array): Promise<void>;
  /** Resolves to the upload in parts by which the bytes were stored; null if they were stored at once. */
  close(): Promise<Upload | null>;
  /** Discards the written bytes; does nothing after `close`. */
  abort(): Promise<void>;
}

/** Where the uploads in parts are noted that have not ended. */
export interface UploadRecorder {
  /** Called before the first part. Rejects if there may be no such upload. */
  begin(upload: Upload): Promise<void>;
  end(upload: Upload): Promise<void>;
}

/** A writer that holds at most one part in memory. Small files are stored at once, others in parts. */
export function createFileWriter(bucket: R2Bucket, tenant: string, id: string, recorder: UploadRecorder): FileWriter {
  const key = fileKey(tenant, id);
  const parts: R2UploadedPart[] = [];
  let upload: R2MultipartUpload | null = null;
  let buffer = new Uint8Array(INITIAL_BUFFER_BYTES);
  let filled = 0;

  const ensureCapacity = (bytes: number) => {
    if (bytes <= buffer.length) return;
    const larger = new Uint8Array(Math.max(bytes, Math.min(2 * buffer.length, PART_BYTES)));
    larger.set(buffer.subarray(0, filled));
    buffer = larger;
  };
  const storePart = async () => {
    if (upload === null) {
      upload = await bucket.createMultipartUpload(key);
      await recorder.begin({ key, id: upload.uploadId });
    }
    parts.push(await upload.uploadPart(parts.length + 1, buffer.subarray(0, filled)));
    filled = 0;
  };
  return {
    async write(bytes) {
      for (let offset = 0; offset < bytes.length; ) {
        // Only once another byte follows: the last part must not be empty.
        if (filled === PART_BYTES) await storePart();
        const chunk = bytes.subarray(offset, offset + PART_BYTES - filled);
        ensureCapacity(filled + chunk.length);
        buffer.set(chunk, filled);
        filled += chunk.length;
        offset += chunk.length;
      }
    },
    async close() {
      if (upload === null) {
        await bucket.put(key, buffer.subarray(0, filled));
        return null;
      }
      await storePart();
      await upload.complete(parts);
      const completed = { key, id: upload.uploadId };
      upload = null;
      return completed;
    },
    async abort() {
      if (upload === null) return;
      const aborted = { key, id: upload.uploadId };
      upload = null;
      // If either fails, a task of the ledger aborts it later.
      await abortUpload(bucket, aborted)
        .then(() => recorder.end(aborted))
        .catch(() => undefined);
    },
  };
}

/** A file's bytes as a stream; null if the file is not stored. */
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
