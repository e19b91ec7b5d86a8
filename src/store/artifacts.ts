/** The uploads of fine-tuning jobs' attempts, checkpoints and trained models. They stay in R2 until the job ends. */
import { toHex } from "../lib/hash.ts";
import { artifactKey, artifactsPrefix } from "./keys.ts";

/** R2's error code for bytes that do not match the given hash. */
const BAD_DIGEST = "10037";

/** Stores bytes of known length. R2 checks their hash; "wrong" means that it does not match. */
export async function putArtifact(
  bucket: R2Bucket,
  key: string,
  sha256: string,
  body: ReadableStream | ArrayBuffer,
): Promise<"stored" | "wrong" | "unavailable"> {
  return bucket.put(key, body, { sha256 }).then(
    () => "stored",
    (error) => (String(error).includes(BAD_DIGEST) ? "wrong" : "unavailable"),
  );
}

/**
 * Completes an upload in parts. R2 cannot check the hash of such an upload, so the object is read back. Returns false if
 * the upload fails, or if the hash does not match and the object is deleted.
 */
export async function completeUpload(
  bucket: R2Bucket,
  key: string,
  sha256: string,
  uploadId: string,
  parts: readonly { readonly part: number; readonly etag: string }[],
): Promise<boolean> {
  const uploaded = parts.map(({ part, etag }) => ({ partNumber: part, etag }));
  const completed = await bucket
    .resumeMultipartUpload(key, uploadId)
    .complete(uploaded)
    .then(
      () => true,
      () => false,
    );
  const object = completed ? await bucket.get(key) : null;
  if (object === null) return false;
  const digest = new crypto.DigestStream("SHA-256");
  await object.body.pipeTo(digest);
  if (toHex(new Uint8Array(await digest.digest)) === sha256) return true;
  await bucket.delete(key);
  return false;
}

/** Deletes one artifact of a job, or all of them. */
export async function deleteArtifacts(bucket: R2Bucket, tenant: string, job: string, sha256?: string): Promise<void> {
  if (sha256 !== undefined) return bucket.delete(artifactKey(tenant, job, sha256));
  for (let truncated = true; truncated; ) {
    const listed = await bucket.list({ prefix: artifactsPrefix(tenant, job) });
    if (listed.objects.length > 0) await bucket.delete(listed.objects.map(({ key }) => key));
    truncated = listed.truncated;
  }
}
