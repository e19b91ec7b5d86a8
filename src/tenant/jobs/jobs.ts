/** Fine-tuning jobs: their rows, and the object that the contract shows. */
import type { DatasetModality } from "../../api/datasets.ts";
import type { HeadHyperparameters, TrainingChoice } from "../../api/heads.ts";
import type { FineTuningHyperparameters, FineTuningJob } from "../../api/jobs.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { type Candidate, compare, hasTestExamples } from "../../core/evaluation/comparison.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import type { TrainedEncoder } from "../../core/job-cost.ts";
import {
  decodeJobState,
  hasEnded,
  hasTrainableLayers,
  type JobState,
  type PromotionMode,
} from "../../core/lifecycle/job.ts";
import { nextSubmission } from "../../core/lifecycle/job-order.ts";
import { limits } from "../../core/limits.ts";
import type { Cost } from "../../core/linear/types.ts";
import type { Submission } from "../../jobs/protocol.ts";
import { toMilliseconds, toSeconds } from "../../lib/time.ts";
import { findListPosition } from "../deleted-positions.ts";
import { fineTunedId } from "../heads/backbones.ts";
import { paginate } from "../page.ts";

/** The job's request. It never changes. */
export interface JobSpec {
  readonly tenant: string;
  readonly source: /** Without a revision each attempt reads the dataset as it is then. */
    | { readonly kind: "dataset"; readonly name: string; readonly id: number; readonly revision?: number }
    /** `own`: made for this job, and deleted with its end. */
    | { readonly kind: "file"; readonly id: string; readonly own: boolean };
  readonly validation_file: string | null;
  readonly task: Task;
  readonly modality: DatasetModality;
  readonly dimensions: number;
  readonly out_of_scope_label: string | null;
  /** null where the inputs are embeddings. */
  readonly backbone: { readonly id: string; readonly revision: string } | null;
  /** A job that names no head makes one of its own, under its id. */
  readonly head: string;
  readonly promote: PromotionMode;
  readonly trainable: Submission["trainable"];
  /** If the layers are a sentence encoder's. Jobs that older builds made have none. */
  readonly encoder?: TrainedEncoder | null;
  readonly suffix: string | null;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly seed: number;
  /** For training the layers of the backbone, as the caller gave them. */
  readonly hyperparameters: FineTuningHyperparameters;
  readonly training: Omit<HeadHyperparameters, "seed">;
  readonly evaluation: Submission["evaluation"];
  /** Decides the order of jobs. Jobs that older builds made have none. */
  readonly estimate?: Cost;
  /** Jobs that older builds made have none. */
  readonly clamp?: boolean;
  /** The name of the dataset on which the version is tested after the job. */
  readonly test_dataset?: string | null;
  readonly in_scope_recall?: number;
  /** Of a training with a goal. */
  readonly choice?: TrainingChoice;
  /** Whose measurement this is. Such a job only compares; its tenant sees the recommendation, and not the job. */
  readonly measurement?: JobMeasurement;
}

export interface JobMeasurement {
  /** The id of the recommendation. */
  readonly recommendation: string;
  /** The size of the sample. */
  readonly examples: number;
  /** Of a second, in USD, by the prices when it was made. */
  readonly usd_per_second: number;
  /** The dataset on which the candidates are compared; null: on the sample's own folds. */
  readonly test: { readonly name: string; readonly id: number; readonly revision: number } | null;
}

export interface JobRow {
  readonly number: number;
  readonly id: string;
  readonly spec: JobSpec;
  readonly state: JobState;
  readonly created_at: number;
}

interface StoredJob extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  spec: string;
  state: string;
  created_at: number;
}

function toRow({ number, id, spec, state, created_at }: StoredJob): JobRow {
  return { number, id, created_at, spec: JSON.parse(spec) as JobSpec, state: decodeJobState(state) };
}

/** Whether a job was to train a head that it names. */
export function hasNamedHead({ id, spec }: Pick<JobRow, "id" | "spec">): boolean {
  return spec.head !== id;
}

/** What a job's model is: layers of its own, or the shared backbone under another name. */
function kindOf({ spec, state }: JobRow): Candidate | null {
  if (state.status !== "succeeded") return null;
  return state.refit === "fine_tuned" && hasTrainableLayers(spec.trainable) ? "fine_tuned" : "head";
}

/** What the job says of the comparison of its candidates. Null where nothing could be compared. */
function toComparison({ comparison, refit }: JobState): FineTuningJob["graft"]["comparison"] {
  if (comparison === null || !hasTestExamples(comparison)) return null;
  const { head_accuracy, fine_tuned_accuracy, test_examples } = comparison;
  return { head_accuracy, fine_tuned_accuracy, test_examples, ...compare(comparison), kept: refit };
}

/** A job in the shape of OpenAI's API. */
export function toJob(row: JobRow): FineTuningJob {
  const { id, spec, state, created_at } = row;
  const model = spec.backbone?.id ?? "embedding";
  return {
    object: "fine_tuning.job",
    id,
    model,
    status: state.status,
    error: state.error,
    created_at,
    finished_at: state.finishedAt === null ? null : toSeconds(state.finishedAt),
    estimated_finish: null,
    fine_tuned_model: state.status === "succeeded" ? fineTunedId(model, spec.suffix, id) : null,
    training_file: spec.source.kind === "dataset" ? `dataset:${spec.source.name}` : spec.source.id,
    validation_file: spec.validation_file,
    hyperparameters: spec.hyperparameters,
    method: { type: "supervised", supervised: { hyperparameters: spec.hyperparameters } },
    seed: spec.seed,
    metadata: spec.metadata,
    integrations: [],
    organization_id: spec.tenant,
    result_files: [],
    trained_tokens: null,
    graft: {
      head: spec.head,
      version: state.version,
      promoted: state.promoted,
      promote: spec.promote,
      trainable: spec.trainable,
      attempt: state.attempt,
      test: state.test ?? null,
      ...(row.spec.choice === undefined ? {} : { choice: row.spec.choice }),
      kind: kindOf(row),
      comparison: toComparison(state),
    },
  };
}

const ACTIVE = "status NOT IN ('succeeded', 'failed', 'cancelled')";
const MEASURED_RECOMMENDATION = "json_extract(spec, '$.measurement.recommendation')";
/** Jobs that measure are not shown. */
const VISIBLE = `${MEASURED_RECOMMENDATION} IS NULL`;

export function findJob(sql: SqlStorage, id: string): Result<JobRow> {
  const row = sql.exec<StoredJob>("SELECT * FROM jobs WHERE id = ?", id).toArray()[0];
  return row ? ok(toRow(row)) : fail("not_found", `No fine-tuning job '${id}'.`);
}

/** The same, for its tenant: without jobs that measure for a recommendation. */
export function findVisibleJob(sql: SqlStorage, id: string): Result<JobRow> {
  const job = findJob(sql, id);
  return job.ok && job.value.spec.measurement !== undefined ? fail("not_found", `No fine-tuning job '${id}'.`) : job;
}

export function listJobs(sql: SqlStorage, request: PageRequest): Result<List<FineTuningJob>> {
  return paginate(request, {
    findPosition: (id) => findListPosition(sql, "jobs", id),
    readRows: (cursor, count) =>
      sql.exec<StoredJob>(
        `SELECT * FROM jobs WHERE number < ? AND ${VISIBLE} ORDER BY number DESC LIMIT ?`,
        cursor,
        count,
      ),
    toObject: (row) => toJob(toRow(row)),
  });
}

/** The jobs that measure for a recommendation. */
export function listMeasurements(sql: SqlStorage, recommendation: string): JobRow[] {
  const query = `SELECT * FROM jobs WHERE ${MEASURED_RECOMMENDATION} = ? ORDER BY number`;
  return sql.exec<StoredJob>(query, recommendation).toArray().map(toRow);
}

/** The jobs that measure on a dataset, by its number. */
export function listMeasurementsOfDataset(sql: SqlStorage, dataset: number): JobRow[] {
  const query = `SELECT * FROM jobs WHERE json_extract(spec, '$.source.id') = ? AND NOT (${VISIBLE}) ORDER BY number`;
  return sql.exec<StoredJob>(query, dataset).toArray().map(toRow);
}

export function countActiveJobs(sql: SqlStorage): number {
  return sql.exec<{ n: number }>(`SELECT count(*) AS n FROM jobs WHERE ${ACTIVE}`).one().n;
}

/** Refuses further jobs if there would be too many that have not ended. */
export function checkActiveJobs(sql: SqlStorage, added: number): Result<null> {
  const [limit, actual] = [limits.active_jobs, countActiveJobs(sql)];
  if (actual + added <= limit) return ok(null);
  const message = `A tenant has at most ${limit} jobs that have not ended. Wait for some to end, or cancel some.`;
  return fail("limit_exceeded", message, { details: { limit, actual } });
}

/** Refuses to delete a file that a job needs as long as it has not ended. */
export function checkFileUnused(sql: SqlStorage, file: string): Result<null> {
  const job = sql
    .exec<{ id: string }>(
      `SELECT id FROM jobs WHERE ${ACTIVE} AND ? IN (json_extract(spec, '$.source.id'), json_extract(spec, '$.validation_file')) ORDER BY number LIMIT 1`,
      file,
    )
    .toArray()[0];
  if (job === undefined) return ok(null);
  const message = `File '${file}' is needed by the job '${job.id}', which has not ended. Cancel the job, or wait until it has ended.`;
  return fail("file_in_use", message, { param: "id", details: { job: job.id } });
}

/** Keeps the newest of the jobs that have ended. */
export function deleteOldJobs(sql: SqlStorage): void {
  const old = `SELECT number FROM jobs WHERE NOT (${ACTIVE}) AND ${VISIBLE} ORDER BY number DESC LIMIT -1 OFFSET ${limits.ended_jobs}`;
  sql.exec(`DELETE FROM job_events WHERE job IN (${old})`);
  sql.exec(`DELETE FROM jobs WHERE number IN (${old})`);
}

export function deleteJob(sql: SqlStorage, number: number): void {
  sql.exec("DELETE FROM jobs WHERE number = ?", number);
}

/** Whether a job still needs the stored artifact with this hash. */
export function isArtifactReferenced(sql: SqlStorage, id: string, sha256: string): boolean {
  const job = findJob(sql, id);
  return job.ok && !hasEnded(job.value.state) && job.value.state.checkpoint?.sha256 === sha256;
}

/** Whether a job has not ended, so that its attempts may still upload artifacts. */
export function isActiveJob(sql: SqlStorage, id: string): boolean {
  const job = findJob(sql, id);
  return job.ok && !hasEnded(job.value.state);
}

/** The queued job to submit next, and when; null if none is queued. */
export function findNextSubmission(sql: SqlStorage, now: number): { job: JobRow; at: number } | null {
  const rows = sql.exec<StoredJob>("SELECT * FROM jobs WHERE status = 'queued' ORDER BY number").toArray();
  const queue = rows.map(toRow).map((row) => {
    const { state, spec, created_at } = row;
    return { row, state, operations: spec.estimate?.operations ?? null, createdAt: toMilliseconds(created_at) };
  });
  const next = nextSubmission(queue, now);
  return next && { job: next.job.row, at: next.at };
}
