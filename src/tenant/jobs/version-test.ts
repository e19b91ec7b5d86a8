/**
 * The test of a job's version on its test set, after the job: a task of the ledger, which calls the Worker. Under
 * `if_better` the test decides whether the version is promoted. What it cannot test stays as it is, with a warning.
 */
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { awaitsTest, type JobRules, type JobTest, shouldPromoteTested } from "../../core/lifecycle/job.ts";
import { makeVersionTestToken } from "../../jobs/token.ts";
import { addRun, type NewRun } from "../heads/evaluations.ts";
import { getHead, promoteHead } from "../heads/heads.ts";
import { mayPromote } from "../heads/traffic.ts";
import type { ScheduledTask } from "../tasks/tasks.ts";
import { callWorker } from "../tasks/worker-call.ts";
import type { Transactions } from "../transactions.ts";
import { getJobRules } from "./job-runner.ts";
import { findJob, hasNamedHead, type JobRow } from "./jobs.ts";
import { applyEvent } from "./lifecycle.ts";

/** Longer than any test takes, with the wait for its slot. */
const TEST_TIMEOUT_MS = 600_000;
export const VERSION_TEST_PATH = "/internal/jobs";
/** A test that may succeed later is tried so many times, over some hours. */
const MAX_ATTEMPTS = 10;

const testEnded = fail("attempt_ended", "The version of this job was tested already, or there is none to test.");

interface UntestedJob extends JobRow {
  readonly version: number;
  readonly dataset: string;
}

function findUntestedJob(sql: SqlStorage, id: string): Result<UntestedJob> {
  const job = findJob(sql, id);
  if (!job.ok) return job;
  const { state, spec } = job.value;
  const dataset = spec.test_dataset ?? null;
  if (!awaitsTest(state) || state.version === null || dataset === null) return testEnded;
  return ok({ ...job.value, version: state.version, dataset });
}

export function getVersionTest(
  sql: SqlStorage,
  id: string,
): Result<{ readonly head: string; readonly version: number; readonly dataset: string }> {
  const job = findUntestedJob(sql, id);
  if (!job.ok) return job;
  const { spec, version, dataset } = job.value;
  return ok({ head: spec.head, version, dataset });
}

/** Stores the test, and promotes the version if it is to be. A test that came before has no effect. */
export function commitVersionTest(
  sql: SqlStorage,
  id: string,
  run: NewRun,
  now: number,
  rules: JobRules,
): Result<{ readonly id: string }> {
  const job = findUntestedJob(sql, id);
  if (!job.ok) return job;
  const { spec, state, version, dataset } = job.value;
  const head = getHead(sql, spec.head, version);
  if (!head.ok) return head;
  const added = addRun(sql, { head: spec.head, version, sha256: head.value.sha256 }, run, now);
  if (!added.ok) return added;
  const isWanted = hasNamedHead(job.value) && shouldPromoteTested(state, added.value, head.value.active_version);
  // While shares of the live traffic are set, it waits as the promotions of trainings do.
  const promoted = isWanted && mayPromote(sql, findHeadNumber(sql, spec.head), version);
  if (promoted) promoteHead(sql, spec.head, version, now);
  const { evaluation } = added.value;
  const accuracy = evaluation.accuracy ?? evaluation.r2 ?? null;
  const test: JobTest = { dataset, evaluation: added.value.id, accuracy, failure: null };
  applyEvent(sql, job.value, { type: "tested", test, promoted }, now, rules);
  return ok({ id: added.value.id });
}

function findHeadNumber(sql: SqlStorage, name: string): number {
  return sql.exec<{ id: number }>("SELECT id FROM heads WHERE name = ?", name).one().id;
}

function failVersionTest(sql: SqlStorage, id: string, failure: Failure, now: number, rules: JobRules): void {
  const job = findUntestedJob(sql, id);
  if (!job.ok) return;
  const { code, message } = failure;
  const test: JobTest = { dataset: job.value.dataset, evaluation: null, accuracy: null, failure: { code, message } };
  applyEvent(sql, job.value, { type: "tested", test, promoted: false }, now, rules);
}

/** Runs the task `test_version`. Throws if it is to be tried again. */
export async function runVersionTest(
  { env, storage }: Transactions,
  ctx: DurableObjectState,
  tenant: string,
  { ref: job, attempts }: ScheduledTask,
): Promise<null> {
  if (!findUntestedJob(storage.sql, job).ok) return null;
  const tested = await callWorker(ctx, {
    path: `${VERSION_TEST_PATH}/${job}/test`,
    token: makeVersionTestToken(env.SERVER_KEY, { tenant, job }),
    timeout: TEST_TIMEOUT_MS,
  });
  if (tested.ok) return null;
  const { failure } = tested;
  if (failure.retryAfter !== undefined && attempts + 1 < MAX_ATTEMPTS)
    throw new Error(`The test ended with ${failure.code}.`);
  storage.transactionSync(() => failVersionTest(storage.sql, job, failure, Date.now(), getJobRules(env)));
  return null;
}
