import { fail, ok, type Result } from "../core/failure.ts";
import { toMilliseconds, toSeconds } from "../lib/time.ts";

/**
 * The first answer to each `Idempotency-Key`, kept for a day in the ledger that the request changes. It is written in the
 * transaction of the change, so a request that is repeated after a crash finds both or neither.
 */
const RETENTION_MS = 24 * 3_600_000;
/** A request without an answer loses its key to a repetition after this time. */
const CLAIM_TIMEOUT_MS = 600_000;

/** A larger answer is stored as a reference to what it shows, where there is one. In bytes of JSON. */
const MAX_BODY_BYTES = 16 * 1024;

export interface StoredResponse {
  readonly status: number;
  readonly body: unknown;
}

/** What a large answer shows. Rows are named by numbers, which no later row gets. */
export type Reference = HeadReference | ChangeReference | IdReference;

/** A version of a head: all of it but `active_version` never changes. */
export interface HeadReference {
  readonly kind: "head";
  readonly head: number;
  readonly version: number;
  readonly active_version: number | null;
}

/** A change of a dataset, which is shown as it is when the answer is repeated. */
export interface ChangeReference {
  readonly kind: "dataset_change";
  readonly dataset: number;
  readonly updated: number;
  readonly deleted: number;
  /** Of decisions on issues. */
  readonly dismissed?: number;
  readonly unchanged?: number;
  /** Numbers of versions that hold embeddings of what was deleted; earlier builds have none. */
  readonly versions?: readonly number[];
}

/** A run on a test set, which never changes, or a recommendation, which is shown as it is. */
export interface IdReference {
  readonly kind: "evaluation" | "recommendation";
  readonly id: string;
}

export interface IdempotentRequest {
  readonly key: string;
  /** A hash of method, path and body. */
  readonly requestHash: string;
  /** Identifies this attempt at the request. If a later attempt has claimed the key, this one can change nothing. */
  readonly claim: string;
}

interface Row extends Record<string, SqlStorageValue> {
  request: string;
  status: number | null;
  body: string | null;
  /** JSON, in the place of a body. A directory has no such column. */
  reference?: string | null;
  started_at: number;
}

/** Claims the key for this request. Answers null to go ahead, or the answer to replay, which `show` makes of a reference. */
export function claimKey(
  sql: SqlStorage,
  { key, requestHash, claim }: IdempotentRequest,
  now: number,
  show?: (reference: Reference) => Result<unknown>,
): Result<StoredResponse | null> {
  const row = sql.exec<Row>("SELECT * FROM idempotency WHERE key = ?", key).toArray()[0];
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
  if (row.status !== null && row.reference && show) {
    const shown = show(JSON.parse(row.reference) as Reference);
    return shown.ok ? ok({ status: row.status, body: shown.value }) : shown;
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
 * Stores the answer to the running request. Call it in the transaction of its change, and roll that back if this fails:
 * a later attempt has the key. `refer` refers to what a large answer shows.
 */
export function saveResponse(
  sql: SqlStorage,
  claim: string | null,
  response: StoredResponse,
  refer?: () => Reference,
): Result<null> {
  if (claim === null) return ok(null);
  const body = JSON.stringify(response.body);
  const reference = refer !== undefined && Buffer.byteLength(body) > MAX_BODY_BYTES ? JSON.stringify(refer()) : null;
  const answer = { column: reference === null ? "body" : "reference", value: reference ?? body };
  const updatedRows = sql
    .exec(
      `UPDATE idempotency SET status = ?, ${answer.column} = ? WHERE claim = ? RETURNING 1`,
      response.status,
      answer.value,
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

/** Frees the key of a request that failed, unless a later attempt has claimed it. */
export function releaseKey(sql: SqlStorage, claim: string): void {
  sql.exec("DELETE FROM idempotency WHERE claim = ? AND status IS NULL", claim);
}

/** Deletes expired answers. Answers how many are left. */
export function deleteExpiredResponses(sql: SqlStorage, now: number): number {
  sql.exec("DELETE FROM idempotency WHERE started_at <= ?", toSeconds(now - RETENTION_MS));
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM idempotency").one().n;
}
