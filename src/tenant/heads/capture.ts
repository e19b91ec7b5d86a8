/**
 * The queue of a head's live inputs. Isolates write what they have predicted. The ledger takes an input once, if capture is on
 * and was when it was predicted, and if it is no example already.
 */
import type { CapturedPrediction, HeadCapture, NewHeadCapture } from "../../api/capture.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Task } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { DAY_SECONDS, toSeconds } from "../../lib/time.ts";
import { schedule } from "../tasks/tasks.ts";

/** By what inputs are captured. */
export type Capture = NewHeadCapture;

interface Setting extends Capture {
  /** In milliseconds: what was predicted before is not taken. */
  readonly takenFrom: number;
  /** In Unix seconds. */
  readonly updatedAt: number;
}

/** An input as an isolate has predicted it. */
export interface NewCapturedInput {
  /** A text, or the bytes of an embedding as 32-bit floats. */
  readonly input: string | Uint8Array;
  readonly inputHash: Uint8Array;
  /** Of the input without case and spacing. */
  readonly groupHash: Uint8Array;
  readonly version: number;
  readonly prediction: CapturedPrediction;
  /** When it was predicted, in milliseconds. */
  readonly predictedAt: number;
}

/** The number of a head, which its queue is kept by. */
export function findHeadNumber(sql: SqlStorage, name: string): Result<number> {
  const row = sql.exec<{ id: number }>("SELECT id FROM heads WHERE name = ?", name).toArray()[0];
  return row ? ok(row.id) : fail("not_found", `No head '${name}'.`);
}

/** An input's number by its id; null if it can be none's. Numbers are not reused. */
export function toNumber(id: string): number | null {
  const digits = /^cap_([1-9]\d{0,14})$/.exec(id)?.[1];
  return digits === undefined ? null : Number(digits);
}

function readSetting(sql: SqlStorage, head: number): Setting | null {
  const row = sql.exec<{ setting: string }>("SELECT setting FROM head_capture WHERE head = ?", head).toArray()[0];
  return row === undefined ? null : (JSON.parse(row.setting) as Setting);
}

function saveSetting(sql: SqlStorage, head: number, setting: Setting): void {
  sql.exec("INSERT OR REPLACE INTO head_capture (head, setting) VALUES (?, ?)", head, JSON.stringify(setting));
}

/** By what a head's inputs are captured; null: none are. */
export function readCapture(sql: SqlStorage, head: number): Capture | null {
  const setting = readSetting(sql, head);
  if (setting === null) return null;
  const { takenFrom: _takenFrom, updatedAt: _updatedAt, ...capture } = setting;
  return capture;
}

export function getCapture(sql: SqlStorage, name: string, now: number): Result<HeadCapture> {
  const head = findHeadNumber(sql, name);
  if (!head.ok) return head;
  const setting = readSetting(sql, head.value);
  const queue = sql
    .exec<{ inputs: number; bytes: number }>(
      "SELECT count(*) AS inputs, coalesce(sum(bytes), 0) AS bytes FROM captured_inputs WHERE head = ? AND expires_at > ?",
      ...[head.value, toSeconds(now)],
    )
    .one();
  return ok({
    object: "head.capture",
    id: name,
    enabled: setting !== null,
    sampling_rate: setting?.sampling_rate ?? null,
    max_score: setting?.max_score ?? null,
    retention_days: setting?.retention_days ?? null,
    ...queue,
    updated_at: setting?.updatedAt ?? null,
  });
}

/** Sets by what inputs are captured; null ends it. A shorter retention holds for what is in the queue as well. */
export function setCapture(sql: SqlStorage, name: string, capture: Capture | null, now: number): Result<HeadCapture> {
  const head = findHeadNumber(sql, name);
  if (!head.ok) return head;
  if (capture === null) {
    sql.exec("DELETE FROM head_capture WHERE head = ?", head.value);
    return getCapture(sql, name, now);
  }
  if (capture.max_score !== undefined && taskOf(sql, head.value) === "regression")
    return fail("task_mismatch", `Head '${name}' predicts values, which have no score. Leave 'max_score' out.`, {
      param: "max_score",
    });
  const takenFrom = readSetting(sql, head.value)?.takenFrom ?? now;
  saveSetting(sql, head.value, { ...capture, takenFrom, updatedAt: toSeconds(now) });
  sql.exec(
    "UPDATE captured_inputs SET expires_at = min(expires_at, created_at + ?) WHERE head = ?",
    ...[capture.retention_days * DAY_SECONDS, head.value],
  );
  scheduleExpiry(sql);
  return getCapture(sql, name, now);
}

function taskOf(sql: SqlStorage, head: number): Task | null {
  const query = "SELECT json_extract(record, '$.task') AS task FROM head_versions WHERE head = ? LIMIT 1";
  return sql.exec<{ task: Task }>(query, head).toArray()[0]?.task ?? null;
}

/** About what a row takes beside its input and its prediction, in bytes. */
const ROW_BYTES = 200;

/** Takes inputs into a head's queue. The oldest ones go where there are too many. */
export function recordCaptured(sql: SqlStorage, name: string, inputs: readonly NewCapturedInput[]): Result<null> {
  const head = findHeadNumber(sql, name);
  const setting = head.ok ? readSetting(sql, head.value) : null;
  if (!head.ok || setting === null) return ok(null);
  for (const { input, inputHash, groupHash, version, prediction, predictedAt } of inputs) {
    if (predictedAt < setting.takenFrom || isExample(sql, head.value, inputHash)) continue;
    const createdAt = toSeconds(predictedAt);
    sql.exec(
      `INSERT INTO captured_inputs (head, version, group_hash, input, prediction, bytes, created_at, expires_at)
       VALUES (?1, ?2, ?3, ?4, ?5, octet_length(?4) + octet_length(?5) + ${ROW_BYTES}, ?6, ?7)
       ON CONFLICT (head, group_hash) DO NOTHING`,
      ...[head.value, version, groupHash, input, JSON.stringify(prediction), createdAt],
      createdAt + setting.retention_days * DAY_SECONDS,
    );
  }
  deleteOldest(sql, head.value);
  scheduleExpiry(sql);
  return ok(null);
}

/** Whether the dataset of the head's active version has the input. */
function isExample(sql: SqlStorage, head: number, inputHash: Uint8Array): boolean {
  const query = `SELECT 1 FROM heads JOIN head_versions ON head = heads.id AND version = active_version
    JOIN examples ON examples.dataset = head_versions.dataset AND input_hash = ? WHERE heads.id = ? LIMIT 1`;
  return sql.exec(query, inputHash, head).toArray().length > 0;
}

/** Keeps the newest inputs of a head, as many as the limits allow. */
function deleteOldest(sql: SqlStorage, head: number): void {
  sql.exec(
    `DELETE FROM captured_inputs WHERE number IN (SELECT number FROM (
       SELECT number, row_number() OVER newest AS place, sum(bytes) OVER newest AS total FROM captured_inputs
       WHERE head = ?1 WINDOW newest AS (ORDER BY number DESC)
     ) WHERE place > ?2 OR total > ?3)`,
    ...[head, limits.captured_inputs_per_head, limits.captured_bytes_per_head],
  );
}

/** When the next input of any queue expires; null if there is none. In milliseconds. */
function nextExpiry(sql: SqlStorage): number | null {
  const query = "SELECT min(expires_at) AS expires_at FROM captured_inputs";
  const { expires_at: seconds } = sql.exec<{ expires_at: number | null }>(query).one();
  return seconds === null ? null : seconds * 1_000;
}

function scheduleExpiry(sql: SqlStorage): void {
  const next = nextExpiry(sql);
  if (next !== null) schedule(sql, "expire_captured", "", next);
}

const MAX_ROWS_PER_DELETION = 500;

/** Deletes a bounded number of inputs that have expired. Answers when to go on, or null if none is left in any queue. */
export function deleteExpiredInputs(sql: SqlStorage, now: number): number | null {
  sql.exec(
    "DELETE FROM captured_inputs WHERE number IN (SELECT number FROM captured_inputs WHERE expires_at <= ? LIMIT ?)",
    ...[toSeconds(now), MAX_ROWS_PER_DELETION],
  );
  return nextExpiry(sql);
}

/** Has what isolates predicted before now, and have not written yet, not taken: something was deleted. */
export function refuseEarlier(sql: SqlStorage, head: number, now: number): void {
  const setting = readSetting(sql, head);
  if (setting !== null) saveSetting(sql, head, { ...setting, takenFrom: now });
}
