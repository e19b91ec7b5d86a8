/** The examples of a fine-tuning job as its batch endpoint pulls them: lines of JSON, of which some are held out. */
import { isHeldOut } from "../../core/evaluation/comparison.ts";
import type { DataLine } from "../../jobs/protocol.ts";
import type { Attempt } from "../../jobs/token.ts";
import { readFile } from "../../store/files.ts";
import { hex } from "../../lib/hash.ts";
import type { JobSpec } from "../../tenant/jobs/jobs.ts";
import { ledger } from "../../tenant/tenant.ts";
import type { DataRow } from "../../tenant/data/training-sets.ts";
import { readTrainingFile } from "../../ingest/training-file.ts";

/** Rows, and the revision of the data set that they are of; null for files. */
interface Rows {
  readonly rows: readonly DataRow[];
  readonly revision: number | null;
}

const FILE_ROWS = 1_000;

/**
 * All examples of a job, then a line that says so: a stream without that line is not whole. Held out is what the
 * validation file has, which is then not trained on wherever else it stands, or a part that the inputs' hashes choose.
 */
export function dataStream(env: Cloudflare.Env, attempt: Attempt, job: JobSpec): ReadableStream<Uint8Array> {
  const pages = dataLines(env, attempt, job);
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

async function* dataLines(env: Cloudflare.Env, attempt: Attempt, job: JobSpec): AsyncGenerator<DataLine[], void> {
  const { source, validation_file } = job;
  let sent = 0;
  let revision: number | null = null;
  const groups = new Set<string>();
  if (validation_file !== null) {
    for await (const { rows } of fileRows(env, attempt.tenant, validation_file, job)) {
      for (const { groupHash } of rows) groups.add(hex(groupHash));
      sent += rows.length;
      yield rows.map((row) => toLine(row, true));
    }
  }
  const pages = source.kind === "file" ? fileRows(env, attempt.tenant, source.id, job) : datasetRows(env, attempt);
  for await (const page of pages) {
    revision ??= page.revision;
    const trained = page.rows.filter(({ groupHash }) => !groups.has(hex(groupHash)));
    if (trained.length === 0) continue;
    sent += trained.length;
    yield trained.map((row) => toLine(row, validation_file === null && isHeldOut(row.groupHash)));
  }
  yield [{ end: true, rows: sent, revision }];
}

function toLine({ input, target, groupHash }: DataRow, heldOut: boolean): DataLine {
  return {
    ...(typeof input === "string" ? { text: input } : { embedding: Buffer.from(input).toString("base64") }),
    target: JSON.parse(target) as string | string[] | number,
    group: hex(groupHash),
    held_out: heldOut,
  };
}

/** A data set as the ledger answers it, a million characters or so at a time. */
async function* datasetRows(env: Cloudflare.Env, { tenant, job, attempt }: Attempt): AsyncGenerator<Rows, void> {
  for (let above = -1; ; ) {
    const page = await ledger(env.TENANT, tenant).readJobRows(job, attempt, above);
    // The answer has begun: it ends without its last line, and the next call is told why.
    if (!page.ok) throw new Error(page.failure.code);
    if (page.value.rows.length === 0) return;
    yield page.value;
    above = page.value.last;
  }
}

async function* fileRows(env: Cloudflare.Env, tenant: string, id: string, job: JobSpec): AsyncGenerator<Rows, void> {
  const body = await readFile(env.BUCKET, tenant, id);
  if (body === null) throw new Error("not_found");
  const shape = { ...job, dimensions: job.modality === "embedding" ? job.dimensions : null };
  let rows: DataRow[] = [];
  for await (const row of readTrainingFile(body, shape)) {
    if (row === null) continue;
    // It was checked when it was uploaded.
    if ("error" in row) throw new Error(row.error.message);
    rows.push(row.row);
    if (rows.length < FILE_ROWS) continue;
    yield { rows, revision: null };
    rows = [];
  }
  yield { rows, revision: null };
}
