import { fail, ok, type Result } from "../core/failure.ts";
import { toMilliseconds, toSeconds } from "../lib/time.ts";

/**
 * The first answer to each `Idempotency-Key`, kept for a day in the ledger that the request changes, and written in
 * the same transaction as the change: a request that was retried after a crash finds either both or neither.
 */
const RETENTION_MS = 24 * 3_600_000;
/** After this a request that has not ended counts as dead, and its key is free again. */
const CLAIM_TIMEOUT_MS = 600_000;

export interface StoredResponse {
  readonly status: number;
  readonly body: unknown;
}

export interface IdempotentRequest {
  readonly key: string;
  /** A hash of method, path and body. */
  readonly requestHash: string;
  /** Names this attempt at the request, and no other: one whose key a later attempt took over changes nothing more. */
  readonly claim: string;
}

interface Row extends Record<string, SqlStorageValue> {
  request: string;
  status: number | null;
  body: string | null;
  started_at: number;
}

/** Claims the key for this request: null to go ahead, an answer to replay, or why neither. */
export function claimKey(
  sql: SqlStorage,
  { key, requestHash, claim }: IdempotentRequest,
  now: number,
): Result<StoredResponse | null> {
  const row = sql
    .exec<Row>("SELECT request, status, body, started_at FROM idempotency WHERE key = ?", key)
    .toArray()[0];
  const isRetained =
    row && now - toMilliseconds(row.started_at) < (row.status === null ? CLAIM_TIMEOUT_MS : RETENTION_MS);
  if (!isRetained) {
    sql.exec(
      "INSERT OR REPLACE INTO idempotency (key, request, started_at, claim) VALUES (?, ?, ?, ?)",
      key,
      requestHash,
      toSeconds(now),
      claim,
    );
    return ok(null);
  }
  if (row.request !== requestHash) {
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

/**
 * Keeps the answer of the running request; call it in the transaction of the change that the answer tells of, and roll
 * that back where this is refused: a later attempt has the key now.
 */
export function saveResponse(sql: SqlStorage, claim: string | null, response: StoredResponse): Result<null> {
  if (claim === null) return ok(null);
  const updatedRows = sql
    .exec(
      "UPDATE idempotency SET status = ?, body = ? WHERE claim = ? RETURNING 1",
      response.status,
      JSON.stringify(response.body),
      claim,
    )
    .toArray();
  if (updatedRows.length > 0) return ok(null);
  return fail(
    "request_in_progress",
    "This request took so long that another with its Idempotency-Key has taken its place. It changed nothing; send it again for the other's answer.",
    { retryAfter: 5 },
  );
}

/** Frees the key of a request that failed and so changed nothing, if no later attempt has it. */
export function releaseKey(sql: SqlStorage, claim: string): void {
  sql.exec("DELETE FROM idempotency WHERE claim = ? AND status IS NULL", claim);
}

/** Forgets answers past their day; returns how many are left. */
export function deleteExpiredResponses(sql: SqlStorage, now: number): number {
  sql.exec("DELETE FROM idempotency WHERE started_at <= ?", toSeconds(now - RETENTION_MS));
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM idempotency").one().n;
}
