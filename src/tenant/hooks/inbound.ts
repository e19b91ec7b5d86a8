/** Inbound hooks: what other systems may post, what is done with it, and the answers kept so that a replay does nothing. */

import type { InboundHook } from "../../api/inbound-hooks.ts";
import type { List, PageRequest } from "../../api/lists.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { targetField } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { toSeconds } from "../../lib/time.ts";
import { type DatasetRow, findDataset } from "../data/datasets.ts";
import { type FeedbackExample, upsertExamples } from "../heads/feedback.ts";
import { getHead } from "../heads/heads.ts";
import { listLearningHeads } from "../heads/policies.ts";
import { paginate } from "../page.ts";
import { emit } from "./events.ts";

/** What a hook does; stored as JSON. */
export type HookSpec = Omit<InboundHook, "object" | "id" | "created_at">;

export interface NewHook {
  readonly id: string;
  /** SHA-256 of the token in the hook's URL, which is itself stored nowhere. */
  readonly tokenHash: string;
  readonly secret: string | null;
  readonly spec: HookSpec;
}

interface Row extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  spec: string;
  secret: string | null;
  created_at: number;
}

function toHook({ id, spec, created_at }: Row): InboundHook {
  return { object: "inbound_hook", id, ...(JSON.parse(spec) as HookSpec), created_at };
}

function findRow(sql: SqlStorage, id: string): Result<Row> {
  const row = sql.exec<Row>("SELECT * FROM inbound_hooks WHERE id = ?", id).toArray()[0];
  return row ? ok(row) : fail("not_found", `No inbound hook '${id}'.`);
}

/** Refuses a hook whose head or data set is not there, or takes something else than it would be given. */
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

export function createHook(sql: SqlStorage, hook: NewHook, now: number): Result<InboundHook> {
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
    hook.secret,
    toSeconds(now),
  );
  return getHook(sql, hook.id);
}

export function countHooks(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM inbound_hooks").one().n;
}

export function getHook(sql: SqlStorage, id: string): Result<InboundHook> {
  const row = findRow(sql, id);
  return row.ok ? ok(toHook(row.value)) : row;
}

export function listHooks(sql: SqlStorage, request: PageRequest): Result<List<InboundHook>> {
  return paginate(request, {
    findPosition: (id) =>
      sql.exec<{ number: number }>("SELECT number FROM inbound_hooks WHERE id = ?", id).toArray()[0]?.number ?? null,
    readRows: (cursor, count) =>
      sql.exec<Row>("SELECT * FROM inbound_hooks WHERE number < ? ORDER BY number DESC LIMIT ?", cursor, count),
    toObject: toHook,
  });
}

export function deleteHook(sql: SqlStorage, id: string): Result<{ id: string; object: "inbound_hook"; deleted: true }> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  sql.exec("DELETE FROM inbound_messages WHERE hook = ?", row.value.number);
  sql.exec("DELETE FROM inbound_hooks WHERE number = ?", row.value.number);
  return ok({ id, object: "inbound_hook", deleted: true });
}

/** The hook of a token, by its hash, with what verifies its messages. */
export function findHookByToken(
  sql: SqlStorage,
  tokenHash: string,
): Result<{ readonly hook: InboundHook; readonly secret: string | null }> {
  const row = sql.exec<Row>("SELECT * FROM inbound_hooks WHERE token_hash = ?", tokenHash).toArray()[0];
  return row ? ok({ hook: toHook(row), secret: row.secret }) : fail("not_found", "No inbound hook has this token.");
}

/** What identifies a verified message, and how long its answer is kept. */
export interface MessageKey {
  readonly messageId: string;
  readonly expiresAt: number;
}

export type ResponseBody = Readonly<Record<string, unknown>>;
/** What a message is answered, and whether it was before. */
export interface HookResponse {
  readonly body: ResponseBody;
  readonly replayed: boolean;
}

function findStoredResponse(sql: SqlStorage, hook: number, messageId: string, now: number): HookResponse | null {
  const row = sql
    .exec<{ answer: string }>(
      "SELECT answer FROM inbound_messages WHERE hook = ? AND message = ? AND expires_at > ?",
      hook,
      messageId,
      toSeconds(now),
    )
    .toArray()[0];
  return row ? { body: JSON.parse(row.answer) as ResponseBody, replayed: true } : null;
}

/** The answer that a message got before; else, for a hook that learns, the data set and the heads that it teaches. */
export function getMessageContext(
  sql: SqlStorage,
  id: string,
  messageId: string,
  now: number,
): Result<HookResponse | { readonly dataset: DatasetRow | null; readonly learners: readonly string[] }> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  const storedResponse = findStoredResponse(sql, row.value.number, messageId, now);
  if (storedResponse !== null) return ok(storedResponse);
  const { dataset: name } = toHook(row.value);
  const dataset = name === null ? null : findDataset(sql, name);
  if (!dataset?.ok) return ok({ dataset: null, learners: [] });
  return ok({ dataset: dataset.value, learners: listLearningHeads(sql, dataset.value.id) });
}

/**
 * Does what a message asks for, unless it was done before, and keeps its answer. Call it in a transaction, which has the
 * effect, the event and the answer, or none of them.
 */
function handleOnce(
  sql: SqlStorage,
  id: string,
  { messageId, expiresAt }: MessageKey,
  now: number,
  effect: (hook: InboundHook) => Result<ResponseBody>,
): Result<HookResponse> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  const { number } = row.value;
  const storedResponse = findStoredResponse(sql, number, messageId, now);
  if (storedResponse !== null) return ok(storedResponse);
  const body = effect(toHook(row.value));
  if (!body.ok) return body;
  sql.exec("DELETE FROM inbound_messages WHERE expires_at <= ?", toSeconds(now));
  sql.exec(
    "INSERT INTO inbound_messages (hook, message, answer, expires_at) VALUES (?, ?, ?, ?)",
    number,
    messageId,
    JSON.stringify(body.value),
    toSeconds(expiresAt),
  );
  return ok({ body: body.value, replayed: false });
}

export interface HookPrediction {
  readonly head: string;
  readonly version: number;
  /** The sender's own id. */
  readonly input_id: string | null;
  readonly prediction: ResponseBody;
}

/** Tells of a prediction that was made for a hook. */
export function recordPrediction(
  sql: SqlStorage,
  id: string,
  messageKey: MessageKey,
  hookPrediction: HookPrediction,
  now: number,
): Result<HookResponse> {
  return handleOnce(sql, id, messageKey, now, (hook) => {
    const { head, version, input_id, prediction } = hookPrediction;
    const eventData = { id, object: hook.object, hook: hook.name, head, version, input_id, prediction };
    emit(sql, "inbound.predicted", eventData, now);
    return ok({ object: "inbound.prediction", id, input_id, model: `${head}@${version}`, ...prediction });
  });
}

export interface HookExample {
  readonly dataset: DatasetRow;
  readonly example: FeedbackExample;
}

/** Adds the example of a message to the hook's dataset. */
export function learnExample(
  sql: SqlStorage,
  id: string,
  messageKey: MessageKey,
  { dataset, example }: HookExample,
  now: number,
): Result<HookResponse> {
  return handleOnce(sql, id, messageKey, now, (hook) => {
    const results = upsertExamples(sql, dataset, [example], hook.on_unknown_label ?? "reject", now);
    if (!results.ok) return results;
    const [result] = results.value;
    const summary = { dataset: dataset.name, example: result?.id ?? "", outcome: result?.outcome ?? "unchanged" };
    if (summary.outcome !== "unchanged")
      emit(sql, "inbound.learned", { id, object: hook.object, hook: hook.name, ...summary }, now);
    return ok({ object: "inbound.learning", id, ...summary });
  });
}
