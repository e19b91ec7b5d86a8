/** Stores training files: bytes first, then the ledger's row. Of a refused file nothing stays. */
import type { LabelledExample } from "../api/examples.ts";
import type { File } from "../api/files.ts";
import { ok, type Result } from "../core/failure.ts";
import { BodyError, bodyError } from "../ingest/body.ts";
import { describeFile, type FileSummary, summarizeFile } from "../ingest/check-file.ts";
import { newId } from "../lib/id.ts";
import type { TenantRequest } from "../serving/tenant-request.ts";
import { createFileWriter, deleteFileBytes, type FileWriter, type UploadRecorder } from "../store/files.ts";
import { getLedger } from "../tenant/tenant.ts";

export type NamedFile = FileSummary & { readonly filename: string };
/** Checks the bytes of a file, and stores them for as long as all of its lines are valid. */
export type FileReader = (bytes: AsyncIterable<Uint8Array>) => Promise<FileSummary>;

/** Stores the file that `receive` passes to its reader. A BodyError that `receive` throws becomes the result's failure. */
export async function storeFile(
  request: TenantRequest,
  receive: (read: FileReader) => Promise<NamedFile>,
): Promise<Result<File>> {
  const id = newId("file-");
  const writer = createFileWriter(request.env.BUCKET, request.tenant, id, makeRecorder(request));
  const write = (chunk: Uint8Array) => writer.write(chunk).catch(throwStorageError);
  try {
    return await commitFile(request, id, writer, await receive((bytes) => summarizeFile(bytes, write)));
  } catch (error) {
    if (error instanceof BodyError) return { ok: false, failure: error.failure };
    throw error;
  } finally {
    await writer.abort();
  }
}

/** Notes uploads in the tenant's ledger. */
function makeRecorder({ env, tenant }: TenantRequest): UploadRecorder {
  const ledger = getLedger(env.TENANT, tenant);
  return {
    async begin(upload) {
      const noted = await ledger.beginUpload(upload);
      if (!noted.ok) throw new BodyError(noted.failure);
    },
    end: async (upload) => void (await ledger.endUpload(upload)),
  };
}

async function commitFile(
  { env, tenant }: TenantRequest,
  id: string,
  writer: FileWriter,
  { filename, ...summary }: NamedFile,
): Promise<Result<File>> {
  const file = { id, filename, ...describeFile(summary) };
  const ledger = getLedger(env.TENANT, tenant);
  const upload = await writer.close().catch(throwStorageError);
  const committed = await ledger.commitFile(file, upload);
  if (committed.ok) return committed;
  // Without a row nobody can read or delete the bytes; and no sweep would find those of a deleted tenant.
  await deleteFileBytes(env.BUCKET, tenant, id).catch(() => undefined);
  if (upload !== null) await ledger.endUpload(upload);
  return committed;
}

function throwStorageError(error: unknown): never {
  if (error instanceof BodyError) throw error;
  throw bodyError("storage_unavailable", "The file could not be stored. Upload it again.", { retryAfter: 5 });
}

const LINES_PER_CHUNK = 1_000;

/** Stores the examples of a request as a file, so that a job can read them again. Returns the file's id. */
export async function storeExamples(
  request: TenantRequest,
  name: string,
  examples: readonly LabelledExample[],
): Promise<Result<string>> {
  async function* chunks() {
    for (let start = 0; start < examples.length; start += LINES_PER_CHUNK) {
      const lines = examples.slice(start, start + LINES_PER_CHUNK).map((example) => `${JSON.stringify(example)}\n`);
      yield Buffer.from(lines.join(""));
    }
  }
  const stored = await storeFile(request, async (read) => ({ ...(await read(chunks())), filename: `${name}.jsonl` }));
  return stored.ok ? ok(stored.value.id) : stored;
}
