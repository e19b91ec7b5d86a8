/** Inbound hooks: URLs that other systems post to. */

import type { InboundHook } from "../../api/inbound-hooks.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { targetField } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { findDataset } from "../data/datasets.ts";
import { findListPosition } from "../deleted-positions.ts";
import { getHead } from "../heads/heads.ts";
import { paginate } from "../page.ts";
import { decryptSecret, encryptSecret, type SecretKeys, type StoredSecret } from "./secrets.ts";

/** What a hook does; stored as JSON. */
export type HookSpec = Omit<InboundHook, "object" | "id" | "created_at">;

export interface NewHook {
  readonly id: string;
  /** SHA-256 of the token in the hook's URL, which is itself stored nowhere. */
  readonly tokenHash: string;
  readonly secret: string | null;
  readonly spec: HookSpec;
}

export interface HookRow extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  spec: string;
  secret: StoredSecret | null;
  created_at: number;
}

export function toHook({ id, spec, created_at }: HookRow): InboundHook {
  // A hook from before texts were cut has no such setting.
  const { truncate = true, ...stored } = JSON.parse(spec) as Omit<HookSpec, "truncate"> & { truncate?: boolean };
  return { object: "inbound_hook", id, ...stored, truncate, created_at };
}

/** The row of a hook. */
export function findHookRow(sql: SqlStorage, id: string): Result<HookRow> {
  const row = sql.exec<HookRow>("SELECT * FROM inbound_hooks WHERE id = ?", id).toArray()[0];
  return row ? ok(row) : fail("not_found", `No inbound hook '${id}'.`);
}

/** Refuses a hook whose head or dataset does not exist, or does not take what the hook would give it. */
function checkSpec(sql: SqlStorage, { head: headName, dataset: datasetName, fields }: HookSpec): Result<null> {
  if (headName !== null) {
    const head = getHead(sql, headName, null);
    if (!head.ok) return { ok: false, failure: { ...head.failure, param: "head" } };
    return head.value.modality === "text" ? ok(null) : notTextFailure("head");
  }
  const dataset = findDataset(sql, datasetName ?? "");
  if (!dataset.ok) return { ok: false, failure: { ...dataset.failure, param: "dataset" } };
  if (dataset.value.modality !== "text") return notTextFailure("dataset");
  const { task } = dataset.value;
  const targetFieldName = targetField[task];
  const unexpectedField = Object.values(targetField).find(
    (field) => field !== targetFieldName && fields[field] !== undefined,
  );
  if (unexpectedField !== undefined)
    return fail(
      "task_mismatch",
      `With the task '${task}' a hook takes 'fields.${targetFieldName}', not 'fields.${unexpectedField}'.`,
      {
        param: `fields.${unexpectedField}`,
      },
    );
  if (fields[targetFieldName] !== undefined) return ok(null);
  return fail("missing_parameter", `With the task '${task}' a hook needs 'fields.${targetFieldName}'.`, {
    param: `fields.${targetFieldName}`,
  });
}

function notTextFailure(param: "head" | "dataset") {
  return fail("modality_mismatch", `What other systems post is text, and this ${param} takes none.`, { param });
}

export function createHook(sql: SqlStorage, keys: SecretKeys, hook: NewHook, now: number): Result<InboundHook> {
  const checked = checkSpec(sql, hook.spec);
  if (!checked.ok) return checked;
  const count = countHooks(sql);
  if (count >= limits.inbound_hooks)
    return fail(
      "limit_exceeded",
      `A tenant has at most ${limits.inbound_hooks} inbound hooks; this one has ${count}. Delete one first.`,
      { details: { limit: limits.inbound_hooks, actual: count } },
    );
  sql.exec(
    "INSERT INTO inbound_hooks (id, token_hash, spec, secret, created_at) VALUES (?, ?, ?, ?, ?)",
    hook.id,
    hook.tokenHash,
    JSON.stringify(hook.spec),
    hook.secret === null ? null : encryptSecret(keys, hook.id, hook.secret),
    toSeconds(now),
  );
  return getHook(sql, hook.id);
}

export function countHooks(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM inbound_hooks").one().n;
}

export function getHook(sql: SqlStorage, id: string): Result<InboundHook> {
  const row = findHookRow(sql, id);
  return row.ok ? ok(toHook(row.value)) : row;
}

export function listHooks(sql: SqlStorage, request: PageRequest): Result<List<InboundHook>> {
  return paginate(request, {
    findPosition: (id) => findListPosition(sql, "inbound_hooks", id),
    readRows: (cursor, count) =>
      sql.exec<HookRow>("SELECT * FROM inbound_hooks WHERE number < ? ORDER BY number DESC LIMIT ?", cursor, count),
    toObject: toHook,
  });
}

export function deleteHook(sql: SqlStorage, id: string): Result<{ id: string; object: "inbound_hook"; deleted: true }> {
  const row = findHookRow(sql, id);
  if (!row.ok) return row;
  sql.exec("DELETE FROM inbound_messages WHERE hook = ?", row.value.number);
  sql.exec("DELETE FROM inbound_hooks WHERE number = ?", row.value.number);
  return ok({ id, object: "inbound_hook", deleted: true });
}

const unreadableSecret = fail(
  "storage_unavailable",
  "The hook's secret was encrypted under a server key that is no longer set. The operator sets it as PREVIOUS_SERVER_KEY.",
  { retryAfter: 60 },
);

/** The hook with this token, and the secret that verifies its messages. */
export function findHookByToken(
  sql: SqlStorage,
  keys: SecretKeys,
  tokenHash: string,
): Result<{ readonly hook: InboundHook; readonly secret: string | null }> {
  const row = sql.exec<HookRow>("SELECT * FROM inbound_hooks WHERE token_hash = ?", tokenHash).toArray()[0];
  if (row === undefined) return fail("not_found", "No inbound hook has this token.");
  const secret = row.secret === null ? null : decryptSecret(keys, row.id, row.secret);
  return row.secret !== null && secret === null ? unreadableSecret : ok({ hook: toHook(row), secret });
}
