/**
 * When a head trains again by its policy. The task `retrain` has the head's name, so several requests for a retraining
 * are one task. Its policy and the state of its retraining are a row of `head_learning`.
 */
import type { Head } from "../../api/heads.ts";
import { ok, type Result } from "../../core/failure.ts";
import { defaultPolicy, type Policy } from "../../core/lifecycle/policy.ts";
import { storedJson } from "../../core/lifecycle/stored-json.ts";
import type { DatasetRow } from "../data/datasets.ts";
import { schedule } from "../tasks/tasks.ts";
import { getHead, type HeadRecord } from "./heads.ts";

export interface RetrainingState {
  readonly attempt: number;
  /** Whether that attempt may still have a result. */
  readonly attemptOpen: boolean;
  readonly failures: number;
  /** No attempt begins before this. */
  readonly nextAt: number;
  /** The fine-tuning job that the last retraining became, because it was too large for one request. */
  readonly job: string | null;
  /** Examples up to this revision count as trained on, because a retraining with them failed or became a job. */
  readonly watermark: { readonly dataset: number; readonly revision: number } | null;
  readonly retrainForDrift: boolean;
  /** The version whose drift was reported. */
  readonly driftReportedFor: number | null;
  readonly lastFailure: { readonly code: string; readonly message: string } | null;
}

const initialState: RetrainingState = {
  attempt: 0,
  attemptOpen: false,
  failures: 0,
  nextAt: 0,
  job: null,
  watermark: null,
  retrainForDrift: false,
  driftReportedFor: null,
  lastFailure: null,
};

const { encode: encodeState, decode: decodeState } = storedJson<RetrainingState>({
  attemptOpen: "open",
  watermark: "tried",
  retrainForDrift: "driftWanted",
  driftReportedFor: "toldOf",
  lastFailure: "failed",
});

export interface RetrainingContext {
  readonly id: number;
  readonly name: string;
  readonly policy: Policy;
  readonly state: RetrainingState;
  /** The active version; null if none is active. */
  readonly activeHead: Head | null;
  readonly newestHead: HeadRecord;
  /** What the active version, or else the newest, was trained on; null if it was no dataset, or is deleted. */
  readonly dataset: DatasetRow | null;
}

/** A head with its policy, the state of its retraining, and its dataset. */
export function findRetrainingContext(sql: SqlStorage, name: string): Result<RetrainingContext> {
  const head = getHead(sql, name, null);
  if (!head.ok) return head;
  const row = sql
    .exec<{ id: number; last_version: number; policy: string | null; state: string | null }>(
      "SELECT heads.id, last_version, policy, state FROM heads LEFT JOIN head_learning ON head = heads.id WHERE name = ?",
      name,
    )
    .one();
  const { version } = head.value;
  const dataset = sql
    .exec<DatasetRow>(
      "SELECT datasets.* FROM head_versions JOIN datasets ON datasets.id = dataset WHERE head = ? AND version = ?",
      row.id,
      version,
    )
    .toArray()[0];
  const newest = version === row.last_version ? head : getHead(sql, name, row.last_version);
  if (!newest.ok) return newest;
  return ok({
    id: row.id,
    name,
    policy: row.policy === null ? defaultPolicy : (JSON.parse(row.policy) as Policy),
    state: row.state === null ? initialState : decodeState(row.state),
    activeHead: head.value.active_version === null ? null : head.value,
    newestHead: newest.value,
    dataset: dataset ?? null,
  });
}

export function saveRetrainingState(
  sql: SqlStorage,
  { id, state }: RetrainingContext,
  change: Partial<RetrainingState>,
): RetrainingState {
  const newState = { ...state, ...change };
  sql.exec(
    "INSERT INTO head_learning (head, state) VALUES (?, ?) ON CONFLICT (head) DO UPDATE SET state = excluded.state",
    id,
    encodeState(newState),
  );
  return newState;
}

/** Examples that are new or changed since the newest version was trained, or since the watermark. */
export function countNewExamples(sql: SqlStorage, { id, state, dataset }: RetrainingContext): number {
  if (dataset === null) return 0;
  const { trained } = sql
    .exec<{ trained: number }>(
      "SELECT json_extract(record, '$.dataset.revision') AS trained FROM head_versions WHERE head = ? AND dataset = ? ORDER BY version DESC LIMIT 1",
      id,
      dataset.id,
    )
    .one();
  const watermark = state.watermark?.dataset === dataset.id ? state.watermark.revision : 0;
  return sql
    .exec<{ n: number }>(
      "SELECT count(*) AS n FROM examples WHERE dataset = ? AND revision > ? AND revision <= ?",
      dataset.id,
      Math.max(watermark, trained),
      dataset.revision,
    )
    .one().n;
}

/** Whether the policy asks for a retraining now. */
export function shouldRetrain(sql: SqlStorage, context: RetrainingContext): boolean {
  const { retrain_after_examples: threshold } = context.policy;
  if (context.dataset === null) return false;
  return context.state.retrainForDrift || (threshold !== null && countNewExamples(sql, context) >= threshold);
}

export function scheduleRetraining(
  sql: SqlStorage,
  { name, state }: Pick<RetrainingContext, "name" | "state">,
  now: number,
): void {
  schedule(sql, "retrain", name, Math.max(now, state.nextAt));
}

/** Of the heads that learn from one dataset, more than these are ignored. */
const MAX_LEARNING_HEADS = 10;

/** The heads with a policy whose active version was trained on a dataset. */
export function listLearningHeads(sql: SqlStorage, dataset: number): string[] {
  return sql
    .exec<{ name: string }>(
      `SELECT heads.name FROM head_versions
       JOIN heads ON heads.id = head_versions.head AND version = coalesce(active_version, last_version)
       JOIN head_learning ON head_learning.head = heads.id AND policy IS NOT NULL
       WHERE dataset = ? ORDER BY heads.id LIMIT ?`,
      dataset,
      MAX_LEARNING_HEADS,
    )
    .toArray()
    .map(({ name }) => name);
}

/** Schedules retraining of the heads whose policy asks for it. Call it in each transaction that changes examples. */
export function scheduleDueRetrainings(sql: SqlStorage, dataset: number, now: number): void {
  for (const name of listLearningHeads(sql, dataset)) {
    const context = findRetrainingContext(sql, name);
    if (context.ok && shouldRetrain(sql, context.value)) scheduleRetraining(sql, context.value, now);
  }
}
