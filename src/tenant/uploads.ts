/**
 * Uploads in parts, of files and of jobs' artifacts. Each is in the ledger before its first part, as the task that aborts
 * it after a day; so the parts of an interrupted one are deleted, and those of a deleted tenant as well.
 */
import { fail, ok, type Result } from "../core/failure.ts";
import type { Upload } from "../store/uploads.ts";
import { DAY_MS, schedule } from "./tasks/tasks.ts";

/** Far more than a tenant needs at once. They are aborted in one request when the tenant is deleted. */
export const MAX_UPLOADS = 200;

function toRef({ key, id }: Upload): string {
  return `${key} ${id}`;
}

/** The upload that a task is to abort. */
export function parseUpload(ref: string): Upload {
  const space = ref.indexOf(" ");
  return { key: ref.slice(0, space), id: ref.slice(space + 1) };
}

/** Notes an upload that begins. Doing so twice changes nothing. */
export function beginUpload(sql: SqlStorage, upload: Upload, now: number): Result<null> {
  if (listUploads(sql, "").length >= MAX_UPLOADS)
    return fail("capacity_exceeded", `More than ${MAX_UPLOADS} uploads have not ended. Try again later.`, {
      retryAfter: 60,
    });
  schedule(sql, "abort_upload", toRef(upload), now + DAY_MS);
  return ok(null);
}

/** Forgets an upload that was completed or aborted. */
export function endUpload(sql: SqlStorage, upload: Upload): void {
  sql.exec("DELETE FROM due WHERE kind = 'abort_upload' AND ref = ?", toRef(upload));
}

/** The uploads that have not ended, of what is below a prefix of R2's keys. */
export function listUploads(sql: SqlStorage, prefix: string): Upload[] {
  return sql
    .exec<{ ref: string }>(
      "SELECT ref FROM due WHERE kind = 'abort_upload' AND substr(ref, 1, length(?1)) = ?1",
      prefix,
    )
    .toArray()
    .map(({ ref }) => parseUpload(ref));
}
