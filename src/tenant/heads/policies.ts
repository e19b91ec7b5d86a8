/**
 * Heads that learn by themselves: their policy, how the active version did on what it then learnt, and when a training
 * is due. A retraining (retraining.ts) is a row of `due` by the head's name, so that requests for it are one; what it has
 * to know beside the policy is a row of `head_learning`.
 */
import { fail, ok, type Result } from "../../core/failure.ts";
import { DRIFT_WINDOW, defaultPolicy, driftChance, isDrifting, type Policy, type Seen } from "../../core/lifecycle/policy.ts";
import type { DatasetRow } from "../data/datasets.ts";
import { schedule } from "../tasks/tasks.ts";
import { emit } from "../hooks/events.ts";
import { getHead, type HeadObject, type HeadRecord } from "./heads.ts";
import { isActiveJob } from "../jobs/jobs.ts";

export interface Learning {
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

export interface Learner {
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

/** A head with all that its policy is about. */
export function findLearner(sql: SqlStorage, name: string): Result<Learner> {
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

export function saveState(sql: SqlStorage, { id, state }: Learner, change: Partial<Learning>): Learning {
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

/** Whether the policy calls for a training now. */
export function isWanted(sql: SqlStorage, learner: Learner): boolean {
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

export function noDataset(name: string) {
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
