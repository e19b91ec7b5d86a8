/** Uploads of files to train on: each is checked line by line while its bytes go to R2. */

import type { Context } from "hono";
import type { LabelledExample, RowError } from "../../api/examples.ts";
import { FILE_PURPOSE } from "../../api/files.ts";
import { ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import type { ExampleShape } from "../../ingest/example.ts";
import { readForm } from "../../ingest/multipart.ts";
import { MAX_ERRORS_SHOWN } from "../../ingest/rows.ts";
import { readTrainingFile } from "../../ingest/training-file.ts";
import { newId } from "../../lib/id.ts";
import { createFileWriter, deleteFileBytes, type FileWriter } from "../../store/files.ts";
import type { NewFile } from "../../tenant/data/files.ts";
import { getLedger } from "../../tenant/tenant.ts";
import type { HttpEnv } from "../context.ts";
import { BodyError, bodyError, limitBytes } from "../middleware/body.ts";
import { respond, respondError } from "../middleware/errors.ts";

/** What a form may have around its file. */
const MAX_FORM_OVERHEAD_BYTES = 1024 * 1024;
const TOO_LARGE_MESSAGE = `A file has at most ${limits.file_bytes} bytes. Split it, or import its examples into a dataset.`;
const MAX_FILENAME_CHARACTERS = 256;

/** Stores the file of a form, bytes first, then its row; of one that is refused nothing stays. Answers the file. */
export async function uploadFile(c: Context<HttpEnv>): Promise<Response> {
  const { tenant } = c.var.caller;
  const id = newId("file-");
  const writer = createFileWriter(c.env.BUCKET, tenant, id);
  try {
    const contentLength = Number(c.req.header("content-length"));
    if (contentLength > limits.file_bytes + MAX_FORM_OVERHEAD_BYTES) throw tooLargeError(contentLength);
    const type = c.req.header("content-type") ?? "";
    const body = limitBytes(c.req.raw.body, limits.file_bytes + MAX_FORM_OVERHEAD_BYTES, TOO_LARGE_MESSAGE);
    const { fields, file } = await readForm(body, type, "file", async (bytes, name, earlierFields) => {
      // To be told only after 100 MB that this is wrong would be a pity.
      if (earlierFields.has("purpose")) checkPurpose(earlierFields.get("purpose"));
      return { ...(await checkLines(bytes, writer)), filename: sanitizeFilename(name) };
    });
    checkPurpose(fields.get("purpose"));
    if (file === null)
      throw bodyError("missing_parameter", "'file' is required: the JSONL file to train on.", { param: "file" });
    c.set("logFields", { bytes: file.bytes, examples: file.examples, rejected: file.rejected });
    return respond(c, await commitFile(c, id, writer, file));
  } catch (error) {
    if (error instanceof BodyError) return respondError(c, error.failure);
    throw error;
  } finally {
    await writer.abort();
  }
}

/** Lines written at once. */
const LINES_PER_CHUNK = 1_000;

/** Stores examples that came with a request as a file, so that a job can read them again; answers its id. */
export async function storeExamples(
  c: Context<HttpEnv>,
  name: string,
  examples: readonly LabelledExample[],
): Promise<Result<string>> {
  const id = newId("file-");
  const writer = createFileWriter(c.env.BUCKET, c.var.caller.tenant, id);
  async function* lines() {
    for (let start = 0; start < examples.length; start += LINES_PER_CHUNK)
      yield Buffer.from(
        examples
          .slice(start, start + LINES_PER_CHUNK)
          .map((example) => `${JSON.stringify(example)}\n`)
          .join(""),
      );
  }
  try {
    const stored = await commitFile(c, id, writer, {
      ...(await checkLines(lines(), writer)),
      filename: `${name}.jsonl`,
    });
    return stored.ok ? ok(id) : stored;
  } catch (error) {
    if (error instanceof BodyError) return { ok: false, failure: error.failure };
    throw error;
  } finally {
    await writer.abort();
  }
}

/** Ends a file that was written: bytes first, then its row. */
async function commitFile(
  c: Context<HttpEnv>,
  id: string,
  writer: FileWriter,
  file: FileSummary & { filename: string },
) {
  const { tenant } = c.var.caller;
  const checked = { id, ...toNewFile(file) };
  await writer.close().catch(throwStorageError);
  const committed = await getLedger(c.env.TENANT, tenant).commitFile(checked);
  // Without a row nobody could read or delete them; and of a tenant that is gone no sweep would find them either.
  if (!committed.ok) await deleteFileBytes(c.env.BUCKET, tenant, id).catch(() => undefined);
  return committed;
}

function tooLargeError(actual: number): BodyError {
  return bodyError("body_too_large", TOO_LARGE_MESSAGE, {
    param: "file",
    details: { limit: limits.file_bytes, actual },
  });
}

function throwStorageError(): never {
  throw bodyError("storage_unavailable", "The file could not be stored. Upload it again.", { retryAfter: 5 });
}

function checkPurpose(purpose: string | undefined): void {
  const paramField = { param: "purpose" };
  if (purpose === undefined)
    throw bodyError("missing_parameter", `'purpose' is required: send '${FILE_PURPOSE}'.`, paramField);
  if (purpose !== FILE_PURPOSE)
    throw bodyError("invalid_parameter", `'purpose' is not valid: files are for '${FILE_PURPOSE}' alone.`, paramField);
}

/** A file's name as it was given, but for what no name holds; never part of a key. */
function sanitizeFilename(name: string): string {
  return (
    name
      .replace(/\p{Cc}/gu, "")
      .slice(0, MAX_FILENAME_CHARACTERS)
      .toWellFormed() || "file"
  );
}

interface FileSummary {
  readonly bytes: number;
  readonly examples: number;
  readonly rejected: number;
  readonly errors: readonly RowError[];
  /** Null where no line is good. */
  readonly shape: ExampleShape | null;
  readonly labels: ReadonlySet<string>;
}

/** Reads a file to its end, and writes it for as long as all is good. */
async function checkLines(file: AsyncIterable<Uint8Array>, writer: FileWriter): Promise<FileSummary> {
  const errors: RowError[] = [];
  const labels = new Set<string>();
  let [bytes, lines, examples, rejected] = [0, 0, 0, 0];
  let shape: ExampleShape | null = null;
  async function* writeChunks() {
    for await (const chunk of file) {
      bytes += chunk.length;
      if (bytes > limits.file_bytes) throw tooLargeError(bytes);
      if (rejected === 0) await writer.write(chunk).catch(throwStorageError);
      yield chunk;
    }
  }
  for await (const row of readTrainingFile(writeChunks(), null)) {
    checkLimit(++lines, limits.import_rows, "lines, good, bad or empty");
    if (row === null) continue;
    if ("error" in row) {
      rejected++;
      if (errors.length < MAX_ERRORS_SHOWN) errors.push(row.error);
      continue;
    }
    shape = row.shape;
    checkLimit(++examples, limits.examples_per_dataset, "examples");
    if (shape.task === "regression") continue;
    for (const label of [JSON.parse(row.row.target) as string | string[]].flat()) labels.add(label);
    checkLimit(labels.size, limits.labels_per_dataset, "labels");
  }
  return { bytes, examples, rejected, errors, shape, labels };
}

function checkLimit(actual: number, limit: number, unit: string): void {
  if (actual <= limit) return;
  const message = `A file has at most ${limit} ${unit}; this one has more. Split it into several.`;
  throw bodyError("limit_exceeded", message, { param: "file", details: { limit, actual } });
}

/** What a file holds, where it can be trained on. */
function toNewFile({
  rejected,
  errors,
  shape,
  labels,
  ...file
}: FileSummary & { filename: string }): Omit<NewFile, "id"> {
  const [first] = errors;
  if (first) {
    const { line, code } = first;
    const message = `The file was not stored: ${rejected} of ${rejected + file.examples} lines are not valid. Line ${line}: ${first.message}`;
    throw bodyError("invalid_training_file", message, { param: "file", details: { line, code, errors } });
  }
  if (shape === null || file.examples < 2)
    throw bodyError("too_few_examples", `Training needs at least two examples, and the file has ${file.examples}.`, {
      param: "file",
    });
  if (shape.task === "single_label" && labels.size < 2)
    throw bodyError("too_few_labels", "Training needs at least two different labels, and the file has one.", {
      param: "file",
    });
  return { ...file, ...shape, labels: labels.size };
}
