/** The life of a fine-tuning job (core/lifecycle/job.ts): each event changes its state and schedules the work that follows. */
import type { FineTuningJob } from "../../api/jobs.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { EventType } from "../../core/lifecycle/event.ts";
import {
  dueAt,
  encodeJobState,
  hasEnded,
  hasTrainableLayers,
  type JobEvent,
  type JobRules,
  type JobState,
  newJobState,
  refusalReason,
} from "../../core/lifecycle/job.ts";
import { advance } from "../../core/lifecycle/job-transitions.ts";
import { toSeconds } from "../../lib/time.ts";
import { findDataset } from "../data/datasets.ts";
import { deleteFile, getFile } from "../data/files.ts";
import { readLabelCounts } from "../data/label-counts.ts";
import { countRows, findRevision } from "../data/revisions.ts";
import { checkBackboneLimit, fineTunedId } from "../heads/backbones.ts";
import { checkHeadTask } from "../heads/heads.ts";
import { emit } from "../hooks/events.ts";
import { schedule } from "../tasks/tasks.ts";
import { estimateJob } from "./estimate.ts";
import { checkActiveJobs, deleteOldJobs, findJob, findVisibleJob, type JobRow, type JobSpec, toJob } from "./jobs.ts";
import { addLogRecord } from "./log.ts";
import { recordMeasurement } from "./measured-points.ts";

export type JobCommand = "cancel" | "pause" | "resume";

/** Checks that the files or the dataset of a job exist and have enough examples and labels to train on. */
export function checkSource(sql: SqlStorage, spec: JobSpec): Result<null> {
  const { source, validation_file } = spec;
  const param = "training_file";
  if (validation_file !== null) {
    const file = getFile(sql, validation_file);
    if (!file.ok) return { ok: false, failure: { ...file.failure, param: "validation_file" } };
  }
  if (source.kind === "file") {
    const file = getFile(sql, source.id);
    return file.ok ? ok(null) : { ok: false, failure: { ...file.failure, param } };
  }
  const test = spec.measurement?.test ?? null;
  if (test !== null && !hasDataset(sql, test))
    return fail("not_found", `No dataset '${test.name}'.`, { param: "test_dataset" });
  const dataset = findDataset(sql, source.name);
  if (!dataset.ok || dataset.value.id !== source.id)
    return fail("not_found", `No dataset '${source.name}'.`, { param });
  const revision = source.revision ?? dataset.value.revision;
  const storedRevision = findRevision(sql, dataset.value, revision);
  if (!storedRevision.ok) return storedRevision;
  const isCurrent = revision === dataset.value.revision;
  // Examples that were deleted since are left out of an earlier revision, so its rows are counted as far as it matters.
  const n = isCurrent ? storedRevision.value.examples : countRows(sql, dataset.value, revision, 2);
  if (n < 2)
    return fail("too_few_examples", `Training needs at least two examples; '${source.name}' has ${n}.`, { param });
  // The labels of an earlier revision are found when it is read.
  if (spec.task === "regression" || !isCurrent) return ok(null);
  const labels = Object.keys(readLabelCounts(sql, dataset.value.id)).filter(
    (label) => label !== spec.out_of_scope_label,
  );
  const minLabels = spec.task === "single_label" ? 2 : 1;
  if (labels.length >= minLabels) return ok(null);
  return fail(
    "too_few_labels",
    `Training needs at least ${minLabels === 1 ? "one label" : "two labels"}; '${source.name}' has ${labels.length}.`,
    { param },
  );
}

function hasDataset(sql: SqlStorage, { name, id }: { readonly name: string; readonly id: number }): boolean {
  const dataset = findDataset(sql, name);
  return dataset.ok && dataset.value.id === id;
}

export function createJob(sql: SqlStorage, id: string, spec: JobSpec, now: number): Result<FineTuningJob> {
  const checked = checkSource(sql, spec);
  if (!checked.ok) return checked;
  const taskCheck = checkHeadTask(sql, spec.head, spec.task, "head");
  if (!taskCheck.ok) return taskCheck;
  const active = checkActiveJobs(sql, 1);
  if (!active.ok) return active;
  if (spec.backbone !== null && hasTrainableLayers(spec.trainable)) {
    const limitCheck = checkBackboneLimit(sql, fineTunedId(spec.backbone.id, spec.suffix, id));
    if (!limitCheck.ok) return limitCheck;
  }
  deleteOldJobs(sql);
  const job = addJob(sql, id, spec, newJobState(spec.promote, now), now);
  if (!job.ok) return job;
  addLogRecord(sql, job.value, { level: "info", message: "The job was created." }, now);
  emit(sql, "fine_tuning.job.created", jobEventData(job.value), now);
  return ok(toJob(job.value));
}

/** Adds a job's row, and the task that works for it. */
export function addJob(sql: SqlStorage, id: string, spec: JobSpec, state: JobState, now: number): Result<JobRow> {
  sql.exec(
    "INSERT INTO jobs (id, status, spec, state, created_at) VALUES (?, ?, ?, ?, ?)",
    id,
    state.status,
    JSON.stringify({ ...spec, estimate: estimateJob(sql, spec) } satisfies JobSpec),
    encodeJobState(state),
    toSeconds(now),
  );
  schedule(sql, "job", id, now);
  return findJob(sql, id);
}

/**
 * Applies an event to a job: saves its new state, logs and emits the change, and schedules the tasks that follow. Call
 * it in a transaction. Answers the changed job.
 */
export function applyEvent(sql: SqlStorage, job: JobRow, event: JobEvent, now: number, rules: JobRules): JobRow {
  const { state, log } = advance(job.state, event, now, rules);
  for (const entry of log) addLogRecord(sql, job, entry, now);
  if (state === job.state) return job;
  sql.exec("UPDATE jobs SET status = ?, state = ? WHERE number = ?", state.status, encodeJobState(state), job.number);
  const eventType = statusEventType(state.status);
  const isVisible = job.spec.measurement === undefined;
  if (isVisible && eventType !== null && state.status !== job.state.status)
    emit(sql, eventType, jobEventData({ ...job, state }), now);
  const due = dueAt(state, rules);
  if (due !== null) schedule(sql, "job", job.id, due);
  if (state.status === "queued") schedule(sql, "submit_jobs", "", state.submitAt);
  const { source } = job.spec;
  if (hasEnded(state) && source.kind === "file" && source.own) deleteFile(sql, source.id, now);
  // An attempt that is being stopped may still upload artifacts: delete them again once it is no longer live.
  if (hasEnded(state) && (!hasEnded(job.state) || (job.state.inFlight && !state.inFlight)))
    schedule(sql, "delete_artifacts", job.id, now);
  const previousCheckpoint = job.state.checkpoint?.sha256;
  if (previousCheckpoint !== undefined && previousCheckpoint !== state.checkpoint?.sha256)
    schedule(sql, "delete_artifacts", `${job.id}/${previousCheckpoint}`, now);
  if (!isVisible && hasEnded(state)) recordMeasurement(sql, { ...job, state });
  return { ...job, state };
}

/** The type of event that reports a new status; null for the statuses that none reports. */
function statusEventType(status: JobState["status"]): EventType | null {
  return status === "validating_files" || status === "queued" ? null : `fine_tuning.job.${status}`;
}

/** A job in the data of an event. */
function jobEventData(row: JobRow) {
  const { object, id, status, model, fine_tuned_model, training_file, error, graft } = toJob(row);
  const { head, version, promoted, kind, comparison } = graft;
  return {
    object,
    id,
    status,
    model,
    fine_tuned_model,
    training_file,
    error,
    head,
    version,
    promoted,
    kind,
    comparison,
  };
}

export function commandJob(
  sql: SqlStorage,
  id: string,
  command: JobCommand,
  now: number,
  rules: JobRules,
): Result<FineTuningJob> {
  const job = findVisibleJob(sql, id);
  if (!job.ok) return job;
  const refusalMessage = refusalReason(job.value.state, command);
  if (refusalMessage !== null) return fail("job_ended", refusalMessage);
  return ok(toJob(applyEvent(sql, job.value, { type: command }, now, rules)));
}
