/** Uploads in parts. R2 keeps the parts of an unfinished one and cannot list them: whoever begins it notes its id first. */

/** R2's error code for an upload that has ended, or never began. */
const NO_SUCH_UPLOAD = "(10024)";

export interface Upload {
  /** The R2 key of what is uploaded. */
  readonly key: string;
  readonly id: string;
}

/** Deletes the parts of an upload. Of one that has ended it changes nothing. */
export async function abortUpload(bucket: R2Bucket, { key, id }: Upload): Promise<void> {
  try {
    await bucket.resumeMultipartUpload(key, id).abort();
  } catch (error) {
    if (!String(error).includes(NO_SUCH_UPLOAD)) throw error;
  }
}
