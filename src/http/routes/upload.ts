/** Uploads of files to train on: each is checked line by line while its bytes go to R2. */

import type { Context } from "hono";
import { ok, type Result } from "../../core/failure.ts";
import { limits } from "../../core/limits.ts";
import { deleteFileBytes, type FileWriter, fileWriter } from "../../store/files.ts";
import { newId } from "../../lib/id.ts";
import type { NewFile } from "../../tenant/data/files.ts";
import { ledger } from "../../tenant/tenant.ts";
import { BodyRefused, countBytes, refuse } from "../middleware/body.ts";
import type { HttpEnv } from "../context.ts";
import { answer, failed } from "../middleware/errors.ts";
import type { ExampleShape } from "../../ingest/example.ts";
import { ERRORS_SHOWN, type RowError } from "../../ingest/rows.ts";
import { readForm } from "../../ingest/multipart.ts";
import type { LabelledExample } from "../../api/schema.ts";
import { readTrainingFile } from "../../ingest/training-file.ts";

/** The only purpose that a file has here. */
export const PURPOSE = "fine-tune";
/** What a form may have around its file. */
const FORM_BYTES = 1024 * 1024;
const TOO_LARGE = `A file has at most ${limits.file_bytes} bytes. Split it, or import its examples into a dataset.`;
const FILENAME_CHARACTERS = 256;

/** Stores the file of a form, bytes first, then its row; of one that is refused nothing stays. Answers the file. */
export async function uploadFile(c: Context<HttpEnv>): Promise<Response> {
  const { tenant } = c.var.caller;
  const id = newId("file-");
  const writer = fileWriter(c.env.BUCKET, tenant, id);
  try {
    const declared = Number(c.req.header("content-length"));
    if (declared > limits.file_bytes + FORM_BYTES) throw tooLarge(declared);
    const type = c.req.header("content-type") ?? "";
    const body = countBytes(c.req.raw.body, limits.file_bytes + FORM_BYTES, TOO_LARGE);
    const { fields, file } = await readForm(body, type, "file", async (bytes, name, before) => {
      // To be told only after 100 MB that this is wrong would be a pity.
      if (before.has("purpose")) checkPurpose(before.get("purpose"));
      return { ...(await checkLines(bytes, writer)), filename: filename(name) };
    });
    checkPurpose(fields.get("purpose"));
    if (file === null)
      throw refuse("missing_parameter", "'file' is required: the JSONL file to train on.", { param: "file" });
    c.set("figures", { bytes: file.bytes, examples: file.examples, rejected: file.rejected });
    return answer(c, await commit(c, id, writer, file));
  } catch (error) {
    if (error instanceof BodyRefused) return failed(c, error.failure);
    throw error;
  } finally {
    await writer.abort();
  }
}

/** Lines written at once. */
const LINES = 1_000;

/** Stores examples that came with a request as a file, so that a job can read them again; answers its id. */
export async function storeExamples(
  c: Context<HttpEnv>,
  name: string,
  examples: readonly LabelledExample[],
): Promise<Result<string>> {
  const id = newId("file-");
  const writer = fileWriter(c.env.BUCKET, c.var.caller.tenant, id);
  async function* lines() {
    for (let start = 0; start < examples.length; start += LINES)
      yield Buffer.from(
        examples
          .slice(start, start + LINES)
          .map((example) => `${JSON.stringify(example)}\n`)
          .join(""),
      );
  }
  try {
    const stored = await commit(c, id, writer, { ...(await checkLines(lines(), writer)), filename: `${name}.jsonl` });
    return stored.ok ? ok(id) : stored;
  } catch (error) {
    if (error instanceof BodyRefused) return { ok: false, failure: error.failure };
    throw error;
  } finally {
    await writer.abort();
  }
}

/** Ends a file that was written: bytes first, then its row. */
async function commit(c: Context<HttpEnv>, id: string, writer: FileWriter, file: Lines & { filename: string }) {
  const { tenant } = c.var.caller;
  const checked = { id, ...accept(file) };
  await writer.finish().catch(notStored);
  const committed = await ledger(c.env.TENANT, tenant).commitFile(checked);
  // Without a row nobody could read or delete them; and of a tenant that is gone no sweep would find them either.
  if (!committed.ok) await deleteFileBytes(c.env.BUCKET, tenant, id).catch(() => undefined);
  return committed;
}

function tooLarge(actual: number): BodyRefused {
  return refuse("body_too_large", TOO_LARGE, { param: "file", details: { limit: limits.file_bytes, actual } });
}

function notStored(): never {
  throw refuse("storage_unavailable", "The file could not be stored. Upload it again.", { retryAfter: 5 });
}

function checkPurpose(purpose: string | undefined): void {
  const param = { param: "purpose" };
  if (purpose === undefined) throw refuse("missing_parameter", `'purpose' is required: send '${PURPOSE}'.`, param);
  if (purpose !== PURPOSE)
    throw refuse("invalid_parameter", `'purpose' is not valid: files are for '${PURPOSE}' alone.`, param);
}

/** A file's name as it was given, but for what no name holds; never part of a key. */
function filename(given: string): string {
  return (
    given
      .replace(/\p{Cc}/gu, "")
      .slice(0, FILENAME_CHARACTERS)
      .toWellFormed() || "file"
  );
}

interface Lines {
  readonly bytes: number;
  readonly examples: number;
  readonly rejected: number;
  readonly errors: readonly RowError[];
  /** Null where no line is good. */
  readonly shape: ExampleShape | null;
  readonly labels: ReadonlySet<string>;
}

/** Reads a file to its end, and writes it for as long as all is good. */
async function checkLines(file: AsyncIterable<Uint8Array>, writer: FileWriter): Promise<Lines> {
  const errors: RowError[] = [];
  const labels = new Set<string>();
  let [bytes, lines, examples, rejected] = [0, 0, 0, 0];
  let shape: ExampleShape | null = null;
  async function* written() {
    for await (const chunk of file) {
      bytes += chunk.length;
      if (bytes > limits.file_bytes) throw tooLarge(bytes);
      if (rejected === 0) await writer.write(chunk).catch(notStored);
      yield chunk;
    }
  }
  for await (const row of readTrainingFile(written(), null)) {
    checkLimit(++lines, limits.import_rows, "lines, good, bad or empty");
    if (row === null) continue;
    if ("error" in row) {
      rejected++;
      if (errors.length < ERRORS_SHOWN) errors.push(row.error);
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
  throw refuse("limit_exceeded", message, { param: "file", details: { limit, actual } });
}

/** What a file holds, where it can be trained on. */
function accept({ rejected, errors, shape, labels, ...file }: Lines & { filename: string }): Omit<NewFile, "id"> {
  const [first] = errors;
  if (first) {
    const { line, code } = first;
    const message = `The file was not stored: ${rejected} of ${rejected + file.examples} lines are not valid. Line ${line}: ${first.message}`;
    throw refuse("invalid_training_file", message, { param: "file", details: { line, code, errors } });
  }
  if (shape === null || file.examples < 2)
    throw refuse("too_few_examples", `Training needs at least two examples, and the file has ${file.examples}.`, {
      param: "file",
    });
  if (shape.task === "single_label" && labels.size < 2)
    throw refuse("too_few_labels", "Training needs at least two different labels, and the file has one.", {
      param: "file",
    });
  return { ...file, ...shape, labels: labels.size };
}
