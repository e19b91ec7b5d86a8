/**
 * Heads that learn by themselves: their policy, how the active version did on what it then learnt, and when a training
 * is due. A retraining is a row of `due` by the head's name, so that requests for it are one; what it has to know beside
 * the policy is a row of `head_learning`. An attempt has a number: what an older one brings has no effect.
 */
import { type Failure, fail, ok, type Result } from "../core/failure.ts";
import {
  DRIFT_WINDOW,
  defaultPolicy,
  driftChance,
  isDrifting,
  type Policy,
  promotesMade,
  retrainingBackoff,
  type Seen,
} from "../core/policy.ts";
import type { DatasetRow } from "./datasets.ts";
import { schedule } from "./due.ts";
import { emit } from "./events.ts";
import { commitHead, getHead, type HeadObject, type HeadRecord, type NewHead } from "./heads.ts";
import { createJob, isActiveJob, type Job, type JobSpec } from "./jobs.ts";

interface Learning {
  readonly attempt: number;
  /** Whether that attempt may still bring something. */
  readonly open: boolean;
  readonly failures: number;
  /** Not before this, in milliseconds, does a retraining begin. */
  readonly nextAt: number;
  /** The fine-tuning job that the last retraining made of what was beyond one request. */
  readonly job: string | null;
  /** Up to where examples count as trained on, or tried, whatever versions say. */
  readonly tried: { readonly dataset: number; readonly revision: number } | null;
  readonly driftWanted: boolean;
  /** The version whose drift was told of. */
  readonly toldOf: number | null;
  readonly failed: { readonly code: string; readonly message: string } | null;
}

const fresh: Learning = {
  attempt: 0,
  open: false,
  failures: 0,
  nextAt: 0,
  job: null,
  tried: null,
  driftWanted: false,
  toldOf: null,
  failed: null,
};

/** While a job trains the head, a retraining that is wanted again looks so often whether it has ended. */
const JOB_LOOK_MS = 60_000;

interface Learner {
  readonly id: number;
  readonly name: string;
  readonly policy: Policy;
  readonly state: Learning;
  /** The active version; null where none is. */
  readonly serving: HeadObject | null;
  readonly newest: HeadRecord;
  /** What the active version, or else the newest, was trained on; null where that is gone, or was no data set. */
  readonly dataset: DatasetRow | null;
}

function findLearner(sql: SqlStorage, name: string): Result<Learner> {
  const shown = getHead(sql, name, null);
  if (!shown.ok) return shown;
  const row = sql
    .exec<{ id: number; last_version: number; policy: string | null; state: string | null }>(
      "SELECT heads.id, last_version, policy, state FROM heads LEFT JOIN head_learning ON head = heads.id WHERE name = ?",
      name,
    )
    .one();
  const { version } = shown.value;
  const dataset = sql
    .exec<DatasetRow>(
      "SELECT datasets.* FROM head_versions JOIN datasets ON datasets.id = dataset WHERE head = ? AND version = ?",
      row.id,
      version,
    )
    .toArray()[0];
  const newest = version === row.last_version ? shown : getHead(sql, name, row.last_version);
  if (!newest.ok) return newest;
  return ok({
    id: row.id,
    name,
    policy: row.policy === null ? defaultPolicy : (JSON.parse(row.policy) as Policy),
    state: row.state === null ? fresh : (JSON.parse(row.state) as Learning),
    serving: shown.value.active_version === null ? null : shown.value,
    newest: newest.value,
    dataset: dataset ?? null,
  });
}

function saveState(sql: SqlStorage, { id, state }: Learner, change: Partial<Learning>): Learning {
  const changed = { ...state, ...change };
  sql.exec(
    "INSERT INTO head_learning (head, state) VALUES (?, ?) ON CONFLICT (head) DO UPDATE SET state = excluded.state",
    id,
    JSON.stringify(changed),
  );
  return changed;
}

/** Examples that are new or changed since the newest version was trained on them, or that was tried. */
function countNew(sql: SqlStorage, { id, state, dataset }: Learner): number {
  if (dataset === null) return 0;
  const { trained } = sql
    .exec<{ trained: number }>(
      "SELECT json_extract(record, '$.dataset.revision') AS trained FROM head_versions WHERE head = ? AND dataset = ? ORDER BY version DESC LIMIT 1",
      id,
      dataset.id,
    )
    .one();
  const tried = state.tried?.dataset === dataset.id ? state.tried.revision : 0;
  return sql
    .exec<{ n: number }>(
      "SELECT count(*) AS n FROM examples WHERE dataset = ? AND revision > ?",
      dataset.id,
      Math.max(tried, trained),
    )
    .one().n;
}

function isWanted(sql: SqlStorage, learner: Learner): boolean {
  const { retrain_after_examples: after } = learner.policy;
  if (learner.dataset === null) return false;
  return learner.state.driftWanted || (after !== null && countNew(sql, learner) >= after);
}

function request(sql: SqlStorage, { name, state }: Pick<Learner, "name" | "state">, now: number): void {
  schedule(sql, "retrain", name, Math.max(now * 1000, state.nextAt));
}

export type PolicyObject = ReturnType<typeof toPolicy>;

function toPolicy(sql: SqlStorage, learner: Learner) {
  const { name, policy, state, serving } = learner;
  return {
    object: "head.policy" as const,
    id: name,
    ...policy,
    new_examples: countNew(sql, learner),
    retraining: state.open || (state.job !== null && isActiveJob(sql, state.job)),
    recent: serving === null ? { judged: 0, hits: 0 } : seenOf(sql, learner.id, serving.version),
    drifting: serving !== null && state.toldOf === serving.version,
    last_failure: state.failed,
  };
}

export function getPolicy(sql: SqlStorage, name: string): Result<PolicyObject> {
  const learner = findLearner(sql, name);
  return learner.ok ? ok(toPolicy(sql, learner.value)) : learner;
}

/** Sets a head's policy; where it asks for a training already, one follows. `now` in seconds. */
export function setPolicy(sql: SqlStorage, name: string, policy: Policy, now: number): Result<PolicyObject> {
  const found = findLearner(sql, name);
  if (!found.ok) return found;
  const { serving, newest, state, dataset } = found.value;
  const learns = policy.retrain_after_examples !== null || policy.retrain_on_drift;
  if (learns && dataset === null) return noDataset(name);
  if (policy.retrain_on_drift && newest.task === "regression")
    return fail("task_mismatch", "Drift is seen by hits and misses, which a regression has none of.", {
      param: "retrain_on_drift",
    });
  const drifting = serving !== null && state.toldOf === serving.version && newest.version === serving.version;
  const driftWanted = policy.retrain_on_drift && (state.driftWanted || drifting);
  const changed = { ...found.value, policy, state: saveState(sql, found.value, { driftWanted }) };
  sql.exec("UPDATE head_learning SET policy = ? WHERE head = ?", JSON.stringify(policy), changed.id);
  if (isWanted(sql, changed)) request(sql, changed, now);
  return ok(toPolicy(sql, changed));
}

function noDataset(name: string) {
  return fail(
    "not_available",
    `Head '${name}' has no dataset to learn into: it was trained on examples sent along, or its dataset is gone. Train it on a dataset.`,
  );
}

/** The active version that feedback is about, and the data set that it goes into. */
export function openFeedback(sql: SqlStorage, name: string): Result<{ version: number; dataset: DatasetRow }> {
  const learner = findLearner(sql, name);
  if (!learner.ok) return learner;
  const { serving, dataset } = learner.value;
  if (serving === null) return fail("not_found", `No version of head '${name}' is active yet. Promote one.`);
  return dataset === null ? noDataset(name) : ok({ version: serving.version, dataset });
}

/** Heads with a policy whose active version was trained on a data set; at most so many are looked at. */
const LEARNERS = 10;

export function learnersOf(sql: SqlStorage, dataset: number): string[] {
  return sql
    .exec<{ name: string }>(
      `SELECT heads.name FROM head_versions
       JOIN heads ON heads.id = head_versions.head AND version = coalesce(active_version, last_version)
       JOIN head_learning ON head_learning.head = heads.id AND policy IS NOT NULL
       WHERE dataset = ? ORDER BY heads.id LIMIT ?`,
      dataset,
      LEARNERS,
    )
    .toArray()
    .map(({ name }) => name);
}

/** Call it in each transaction that changes examples. `now` in seconds. */
export function considerRetraining(sql: SqlStorage, dataset: number, now: number): void {
  for (const name of learnersOf(sql, dataset)) {
    const learner = findLearner(sql, name);
    if (learner.ok && isWanted(sql, learner.value)) request(sql, learner.value, now);
  }
}

function seenOf(sql: SqlStorage, head: number, version: number): Seen {
  return sql
    .exec<{ judged: number; hits: number }>(
      "SELECT count(*) AS judged, coalesce(sum(hit), 0) AS hits FROM judged_examples WHERE head = ? AND version = ?",
      head,
      version,
    )
    .one();
}

/**
 * Notes which examples a version had predicted right before they were learnt, if it is still the active one, and tells of
 * drift once a version. Call it in the transaction that learns them. `now` in seconds.
 */
export function noteHits(sql: SqlStorage, name: string, version: number, hits: readonly boolean[], now: number): void {
  const found = findLearner(sql, name);
  if (!found.ok || hits.length === 0 || found.value.serving?.version !== version) return;
  const learner = found.value;
  for (const hit of hits.slice(-DRIFT_WINDOW))
    sql.exec("INSERT INTO judged_examples (head, version, hit) VALUES (?, ?, ?)", learner.id, version, Number(hit));
  sql.exec("DELETE FROM judged_examples WHERE head = ? AND version <> ?", learner.id, version);
  sql.exec(
    "DELETE FROM judged_examples WHERE head = ?1 AND number <= (SELECT number FROM judged_examples WHERE head = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
    learner.id,
    DRIFT_WINDOW,
  );
  const { evaluation } = found.value.serving;
  const seen = seenOf(sql, learner.id, version);
  if (learner.state.toldOf === version || !isDrifting(seen, evaluation)) return;
  const { judged, hits: right } = seen;
  const figures = { judged, accuracy: right / judged, held_out_accuracy: evaluation?.accuracy };
  emit(
    sql,
    "head.drifting",
    { id: name, object: "head", version, ...figures, p_value: driftChance(seen, evaluation) },
    now,
  );
  const driftWanted = learner.policy.retrain_on_drift;
  const state = saveState(sql, learner, { toldOf: version, driftWanted });
  if (driftWanted) request(sql, { name, state }, now);
}

/**
 * Begins an attempt at a retraining that is still wanted: its number; or when to look again in milliseconds, or null where
 * there is nothing to do. An attempt that is lost with its object counts as one that failed. `now` in milliseconds.
 */
export function beginRetraining(sql: SqlStorage, name: string, now: number): { attempt: number } | number | null {
  const found = findLearner(sql, name);
  if (!found.ok || !isWanted(sql, found.value)) return null;
  const { state } = found.value;
  if (state.nextAt > now) return state.nextAt;
  if (state.job !== null && isActiveJob(sql, state.job)) return now + JOB_LOOK_MS;
  if (state.open && retrainingBackoff(state.failures) === null)
    return giveUp(sql, found.value, { code: "internal_error", message: "The training was lost each time." }, now);
  const [attempt, failures] = [state.attempt + 1, state.failures + 1];
  saveState(sql, found.value, { attempt, open: true, failures, nextAt: now + (retrainingBackoff(failures) ?? 0) });
  return { attempt };
}

const ended = fail("attempt_ended", "Another retraining of this head has begun, or this one has ended.");

function openAttempt(sql: SqlStorage, name: string, attempt: number): Result<Learner> {
  const learner = findLearner(sql, name);
  if (!learner.ok) return learner;
  return learner.value.state.open && learner.value.state.attempt === attempt ? learner : ended;
}

/** What an attempt is to train, and by which policy. */
export function openRetraining(
  sql: SqlStorage,
  name: string,
  attempt: number,
): Result<{ dataset: string; backbone: string | null; promote: Policy["promote"] }> {
  const learner = openAttempt(sql, name, attempt);
  if (!learner.ok) return learner;
  const { dataset, policy, serving, newest } = learner.value;
  if (dataset === null) return noDataset(name);
  const { modality, backbone } = serving ?? newest;
  return ok({
    dataset: dataset.name,
    backbone: modality === "embedding" ? null : backbone.id,
    promote: policy.promote,
  });
}

/** Adds the version that an attempt made, and promotes it where the policy says so. `now` in seconds. */
export function commitRetraining(sql: SqlStorage, attempt: number, head: NewHead, now: number): Result<HeadObject> {
  const learner = openAttempt(sql, head.id, attempt);
  if (!learner.ok) return learner;
  const { policy, serving } = learner.value;
  const promote = promotesMade(policy.promote, head.task, head.evaluation, serving);
  const made = commitHead(sql, head, promote, now);
  if (made.ok) saveState(sql, learner.value, { ...done, job: null });
  return made;
}

const done = { open: false, failures: 0, nextAt: 0, driftWanted: false, failed: null } as const;

/** Makes the fine-tuning job of what is beyond one request; its examples count as trained on. `now` in seconds. */
export function createRetrainingJob(
  sql: SqlStorage,
  attempt: number,
  id: string,
  spec: JobSpec,
  now: number,
): Result<Job> {
  const learner = openAttempt(sql, spec.head, attempt);
  if (!learner.ok) return learner;
  const job = createJob(sql, id, spec, now);
  if (job.ok) saveState(sql, learner.value, { ...done, job: id, tried: triedOf(learner.value) });
  return job;
}

function triedOf({ dataset }: Learner): Learning["tried"] {
  return dataset === null ? null : { dataset: dataset.id, revision: dataset.revision };
}

/**
 * Ends an attempt that failed: what may be tried again is, later each time; the rest is told of, and not tried again until
 * there are as many new examples once more. Answers when it is due again, or null. `now` in milliseconds.
 */
export function failRetraining(
  sql: SqlStorage,
  name: string,
  attempt: number,
  failure: Pick<Failure, "code" | "message" | "retryAfter">,
  now: number,
): number | null {
  const learner = openAttempt(sql, name, attempt);
  if (!learner.ok) return null;
  const backoff = retrainingBackoff(learner.value.state.failures);
  if (failure.retryAfter === undefined || backoff === null) return giveUp(sql, learner.value, failure, now);
  const nextAt = now + Math.max(backoff, failure.retryAfter * 1000);
  saveState(sql, learner.value, { open: false, nextAt });
  return nextAt;
}

function giveUp(
  sql: SqlStorage,
  learner: Learner,
  { code, message }: Pick<Failure, "code" | "message">,
  now: number,
): null {
  const reason = { code, message };
  const version = learner.serving?.version ?? null;
  emit(sql, "head.failed", { id: learner.name, object: "head", version, reason }, Math.floor(now / 1000));
  saveState(sql, learner, { ...done, failed: reason, tried: triedOf(learner) });
  return null;
}
