/** The examples of a fine-tuning job as its batch endpoint pulls them: lines of JSON. Some examples are held out. */
import { isHeldOut } from "../../core/evaluation/comparison.ts";
import { readTrainingFile } from "../../ingest/check-file.ts";
import type { DataLine } from "../../jobs/protocol.ts";
import type { Attempt } from "../../jobs/token.ts";
import { toHex } from "../../lib/hash.ts";
import { readFile } from "../../store/files.ts";
import type { DataRow } from "../../tenant/data/training-sets.ts";
import type { JobSpec } from "../../tenant/jobs/jobs.ts";
import { getLedger } from "../../tenant/tenant.ts";

/** Rows, and the revision of their dataset; null for files. */
interface RowPage {
  readonly rows: readonly DataRow[];
  readonly revision: number | null;
}

/** The attempt's access is checked before each page. */
const FILE_PAGE_ROWS = 5_000;

/**
 * All examples of a job, then a last line; a stream without that line is incomplete. The examples of the validation file
 * or the test set are held out, and left out of the training examples. Without either the inputs' hashes choose which are held
 * out.
 */
export function streamJobData(env: Cloudflare.Env, attempt: Attempt, job: JobSpec): ReadableStream<Uint8Array> {
  const pages = readDataLines(env, attempt, job);
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await pages.next();
      if (done) controller.close();
      else controller.enqueue(Buffer.from(value.map((line) => `${JSON.stringify(line)}\n`).join("")));
    },
    async cancel() {
      await pages.return();
    },
  });
}

async function* readDataLines(env: Cloudflare.Env, attempt: Attempt, job: JobSpec): AsyncGenerator<DataLine[], void> {
  const { source, validation_file, measurement } = job;
  let rowCount = 0;
  let revision: number | null = null;
  const heldOutGroups = new Set<string>();
  let heldOutPages: AsyncGenerator<RowPage, void> | null = null;
  if (validation_file !== null) heldOutPages = readFilePages(env, attempt, validation_file, job);
  else if (measurement?.test) heldOutPages = readDatasetPages(env, attempt, "test");
  for await (const { rows } of heldOutPages ?? []) {
    for (const { groupHash } of rows) heldOutGroups.add(toHex(groupHash));
    rowCount += rows.length;
    yield rows.map((row) => toDataLine(row, true));
  }
  const pages =
    source.kind === "file" ? readFilePages(env, attempt, source.id, job) : readDatasetPages(env, attempt, "training");
  for await (const page of pages) {
    revision ??= page.revision;
    const trainingRows = page.rows.filter(({ groupHash }) => !heldOutGroups.has(toHex(groupHash)));
    if (trainingRows.length === 0) continue;
    rowCount += trainingRows.length;
    yield trainingRows.map((row) => toDataLine(row, heldOutPages === null && isHeldOut(row.groupHash)));
  }
  yield [{ end: true, rows: rowCount, revision }];
}

function toDataLine({ id, position, input, target, groupHash }: DataRow, heldOut: boolean): DataLine {
  return {
    ...(typeof input === "string" ? { text: input } : { embedding: Buffer.from(input).toString("base64") }),
    target: JSON.parse(target) as string | string[] | number,
    group: toHex(groupHash),
    held_out: heldOut,
    ...(id === null ? {} : { id }),
    ...(position === null ? {} : { position }),
  };
}

/** A dataset as the ledger returns it, about a million characters at a time. */
async function* readDatasetPages(
  env: Cloudflare.Env,
  { tenant, job, attempt }: Attempt,
  rows: "training" | "test",
): AsyncGenerator<RowPage, void> {
  for (let afterPosition = -1; ; ) {
    const page = await getLedger(env.TENANT, tenant).readJobRows(job, attempt, afterPosition, rows);
    // The response has begun. It ends without its last line, and the next call gets the failure.
    if (!page.ok) throw new Error(page.failure.code);
    if (page.value.rows.length === 0) return;
    yield page.value;
    afterPosition = page.value.last;
  }
}

/** A file's rows, with a look at the ledger before each page, as for a dataset: a cancelled job's attempt gets no more. */
async function* readFilePages(
  env: Cloudflare.Env,
  { tenant, job: jobId, attempt }: Attempt,
  id: string,
  job: JobSpec,
): AsyncGenerator<RowPage, void> {
  const body = await readFile(env.BUCKET, tenant, id);
  if (body === null) throw new Error("not_found");
  const shape = { ...job, dimensions: job.modality === "embedding" ? job.dimensions : null };
  let rows: DataRow[] = [];
  for await (const row of readTrainingFile(body, shape).rows) {
    if (row === null) continue;
    // Every line was checked at the upload.
    if ("error" in row) throw new Error(row.error.message);
    rows.push({ ...row.row, id: null, position: null });
    if (rows.length < FILE_PAGE_ROWS) continue;
    const access = await getLedger(env.TENANT, tenant).getCurrentAttempt(jobId, attempt);
    if (!access.ok) throw new Error(access.failure.code);
    yield { rows, revision: null };
    rows = [];
  }
  yield { rows, revision: null };
}
