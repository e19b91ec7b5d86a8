import { fail, ok, type Result } from "../core/failure.ts";

/**
 * The first answer to each `Idempotency-Key`, kept for a day in the ledger that the request changes, and written in
 * the same transaction as the change: a request that was retried after a crash finds either both or neither.
 */
const KEPT_SECONDS = 24 * 3600;
/** After this a request that never ended counts as dead, and its key is free again. */
const RUNNING_SECONDS = 600;

export interface Answer {
  readonly status: number;
  readonly body: unknown;
}

export interface Idempotency {
  readonly key: string;
  /** A hash of method, path and body. */
  readonly request: string;
}

interface Row extends Record<string, SqlStorageValue> {
  request: string;
  status: number | null;
  body: string | null;
  started_at: number;
}

/** Claims the key for this request: null to go ahead, an answer to replay, or why neither. `now` in seconds. */
export function begin(sql: SqlStorage, { key, request }: Idempotency, now: number): Result<Answer | null> {
  const row = sql
    .exec<Row>("SELECT request, status, body, started_at FROM idempotency WHERE key = ?", key)
    .toArray()[0];
  const kept = row && now - row.started_at < (row.status === null ? RUNNING_SECONDS : KEPT_SECONDS);
  if (!kept) {
    sql.exec("INSERT OR REPLACE INTO idempotency (key, request, started_at) VALUES (?, ?, ?)", key, request, now);
    return ok(null);
  }
  if (row.request !== request) {
    return fail(
      "idempotency_key_reused",
      "This Idempotency-Key was used for another request. Use a new key for each request.",
      {
        param: "Idempotency-Key",
      },
    );
  }
  if (row.status === null || row.body === null) {
    return fail(
      "request_in_progress",
      "The first request with this Idempotency-Key is still running. Try again later.",
      { retryAfter: 5 },
    );
  }
  return ok({ status: row.status, body: JSON.parse(row.body) });
}

/** Keeps the answer of the running request; call it in the transaction of the change that the answer tells of. */
export function finish(sql: SqlStorage, key: string | null, answer: Answer): void {
  if (key === null) return;
  sql.exec(
    "UPDATE idempotency SET status = ?, body = ? WHERE key = ?",
    answer.status,
    JSON.stringify(answer.body),
    key,
  );
}

/** Frees the key of a request that failed and so changed nothing. */
export function release(sql: SqlStorage, key: string): void {
  sql.exec("DELETE FROM idempotency WHERE key = ? AND status IS NULL", key);
}

/** Forgets answers past their day; returns how many are left. */
export function expire(sql: SqlStorage, now: number): number {
  sql.exec("DELETE FROM idempotency WHERE started_at <= ?", now - KEPT_SECONDS);
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM idempotency").one().n;
}
