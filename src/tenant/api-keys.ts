import type { ApiKey, Scope } from "../api/api-keys.ts";
import type { List, PageRequest } from "../api/lists.ts";
import { fail, ok, type Result } from "../core/failure.ts";
import { limits } from "../core/limits.ts";
import { toSeconds } from "../lib/time.ts";
import { findListPosition } from "./deleted-positions.ts";
import { paginate } from "./page.ts";

/** What an isolate may rely on while its lease of a key lasts. */
export type KeyLease = ValidApiKey & { readonly suspended: boolean };

type ValidApiKey = Pick<ApiKey, "id" | "scopes" | "expires_at" | "origins">;

interface Row extends Record<string, SqlStorageValue> {
  rowid: number;
  id: string;
  name: string;
  scopes: string;
  created_at: number;
  expires_at: number | null;
  /** JSON; null for a key of any caller. */
  origins: string | null;
}

const parseOrigins = ({ origins }: Row): readonly string[] | null => (origins === null ? null : JSON.parse(origins));

function toApiKey(row: Row): ApiKey {
  return {
    object: "api_key",
    id: row.id,
    name: row.name,
    scopes: row.scopes.split(" ") as Scope[],
    created_at: row.created_at,
    expires_at: row.expires_at,
    origins: parseOrigins(row),
  };
}

export interface NewApiKey {
  readonly id: string;
  readonly name: string;
  /** SHA-256 of the whole key, in hexadecimal: the key itself is never stored. */
  readonly hash: string;
  readonly scopes: readonly Scope[];
  readonly expires_at: number | null;
  readonly origins: readonly string[] | null;
}

export function createApiKey(sql: SqlStorage, key: NewApiKey, now: number): Result<ApiKey> {
  const count = countApiKeys(sql);
  if (count >= limits.api_keys) {
    return fail(
      "limit_exceeded",
      `A tenant has at most ${limits.api_keys} API keys; this one has ${count}. Delete one first.`,
      { details: { limit: limits.api_keys, actual: count } },
    );
  }
  sql.exec(
    "INSERT INTO api_keys (id, name, hash, scopes, created_at, expires_at, origins) VALUES (?, ?, ?, ?, ?, ?, ?)",
    key.id,
    key.name,
    key.hash,
    key.scopes.join(" "),
    toSeconds(now),
    key.expires_at,
    key.origins === null ? null : JSON.stringify(key.origins),
  );
  return ok(toApiKey(sql.exec<Row>("SELECT rowid, * FROM api_keys WHERE id = ?", key.id).one()));
}

export function countApiKeys(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM api_keys WHERE revoked_at IS NULL").one().n;
}

export function listApiKeys(sql: SqlStorage, request: PageRequest): Result<List<ApiKey>> {
  return paginate(request, {
    findPosition: (id) => findListPosition(sql, "api_keys", id),
    readRows: (cursor, count) =>
      sql
        .exec<Row>(
          "SELECT rowid, * FROM api_keys WHERE revoked_at IS NULL AND rowid < ? ORDER BY rowid DESC LIMIT ?",
          cursor,
          count,
        )
        .toArray(),
    toObject: toApiKey,
  });
}

/** Deletes a key, and revoked ones that an earlier build kept. */
export function revokeApiKey(sql: SqlStorage, id: string): Result<ApiKey> {
  sql.exec("DELETE FROM api_keys WHERE revoked_at IS NOT NULL");
  const row = sql.exec<Row>("DELETE FROM api_keys WHERE id = ? RETURNING rowid, *", id).toArray()[0];
  return row ? ok(toApiKey(row)) : fail("not_found", `No API key '${id}'.`);
}

/** Deletes all keys with this name, without a trace. */
export function deleteApiKeysByName(sql: SqlStorage, name: string): void {
  sql.exec("DELETE FROM api_keys WHERE name = ?", name);
}

/** The key with this hash; null if there is none, or it is revoked or expired. */
export function findValidApiKey(sql: SqlStorage, hash: string, now: number): ValidApiKey | null {
  const row = sql.exec<Row>("SELECT rowid, * FROM api_keys WHERE hash = ? AND revoked_at IS NULL", hash).toArray()[0];
  if (!row || (row.expires_at !== null && row.expires_at <= toSeconds(now))) return null;
  const { id, scopes, expires_at, origins } = toApiKey(row);
  return { id, scopes, expires_at, origins };
}
