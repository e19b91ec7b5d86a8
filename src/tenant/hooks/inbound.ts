/** Inbound hooks: what other systems may post, what is done with it, and the answers kept so that a replay does nothing. */
import { fail, ok, type Result } from "../../core/failure.ts";
import { targetField } from "../../core/head.ts";
import { limits } from "../../core/limits.ts";
import { type DatasetRow, findDataset } from "../data/datasets.ts";
import { emit } from "./events.ts";
import { getHead } from "../heads/heads.ts";
import { learn, type NewLearning, type UnknownLabel } from "../heads/learning.ts";
import { type Page, type PageRequest, page } from "../page.ts";
import { learnersOf } from "../heads/policies.ts";

export interface HookFields {
  /** JSON Pointers; the texts of a list are joined by a line break. */
  readonly text: string | readonly string[];
  readonly label?: string | undefined;
  readonly labels?: string | undefined;
  readonly value?: string | undefined;
  readonly id?: string | undefined;
}

export type Verification =
  | { readonly scheme: "standard_webhooks" }
  | {
      readonly scheme: "hmac_sha256";
      readonly header: string;
      readonly prefix: string;
      readonly encoding: "hex" | "base64";
    }
  | { readonly scheme: "none" };

export interface HookSpec {
  readonly name: string;
  readonly action: "predict" | "learn";
  readonly head: string | null;
  readonly dataset: string | null;
  readonly fields: HookFields;
  readonly on_unknown_label: UnknownLabel | null;
  readonly verify: Verification;
}

export interface InboundHook extends HookSpec {
  readonly object: "inbound_hook";
  readonly id: string;
  readonly created_at: number;
}

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
    return head.value.modality === "text" ? ok(null) : notText("head");
  }
  const dataset = findDataset(sql, datasetName ?? "");
  if (!dataset.ok) return { ok: false, failure: { ...dataset.failure, param: "dataset" } };
  if (dataset.value.modality !== "text") return notText("dataset");
  const { task } = dataset.value;
  const wanted = targetField[task];
  const other = Object.values(targetField).find((field) => field !== wanted && fields[field] !== undefined);
  if (other !== undefined)
    return fail("task_mismatch", `With the task '${task}' a hook takes 'fields.${wanted}', not 'fields.${other}'.`, {
      param: `fields.${other}`,
    });
  if (fields[wanted] !== undefined) return ok(null);
  return fail("missing_parameter", `With the task '${task}' a hook needs 'fields.${wanted}'.`, {
    param: `fields.${wanted}`,
  });
}

function notText(param: "head" | "dataset") {
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
    now,
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

export function listHooks(sql: SqlStorage, request: PageRequest): Result<Page<InboundHook>> {
  return page(
    request,
    (id) =>
      sql.exec<{ number: number }>("SELECT number FROM inbound_hooks WHERE id = ?", id).toArray()[0]?.number ?? null,
    (below, count) =>
      sql.exec<Row>("SELECT * FROM inbound_hooks WHERE number < ? ORDER BY number DESC LIMIT ?", below, count),
    toHook,
  );
}

export function deleteHook(sql: SqlStorage, id: string): Result<{ id: string; object: "inbound_hook"; deleted: true }> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  sql.exec("DELETE FROM inbound_messages WHERE hook = ?", row.value.number);
  sql.exec("DELETE FROM inbound_hooks WHERE number = ?", row.value.number);
  return ok({ id, object: "inbound_hook", deleted: true });
}

/** The hook of a token, by its hash, with what verifies its messages. */
export function openHook(
  sql: SqlStorage,
  tokenHash: string,
): Result<{ readonly hook: InboundHook; readonly secret: string | null }> {
  const row = sql.exec<Row>("SELECT * FROM inbound_hooks WHERE token_hash = ?", tokenHash).toArray()[0];
  return row ? ok({ hook: toHook(row), secret: row.secret }) : fail("not_found", "No inbound hook has this token.");
}

/** A message that was verified, by what names it, and until when (Unix seconds) its answer is kept. */
export interface MessageName {
  readonly message: string;
  readonly until: number;
}

export type Answer = Readonly<Record<string, unknown>>;
/** What a message is answered, and whether it was before. */
export interface Answered {
  readonly answer: Answer;
  readonly replayed: boolean;
}

function keptAnswer(sql: SqlStorage, hook: number, message: string, now: number): Answered | null {
  const row = sql
    .exec<{ answer: string }>(
      "SELECT answer FROM inbound_messages WHERE hook = ? AND message = ? AND expires_at > ?",
      hook,
      message,
      now,
    )
    .toArray()[0];
  return row ? { answer: JSON.parse(row.answer) as Answer, replayed: true } : null;
}

/** The answer that a message got before; else, for a hook that learns, the data set and the heads that it teaches. */
export function beginMessage(
  sql: SqlStorage,
  id: string,
  message: string,
  now: number,
): Result<Answered | { readonly dataset: DatasetRow | null; readonly learners: readonly string[] }> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  const kept = keptAnswer(sql, row.value.number, message, now);
  if (kept !== null) return ok(kept);
  const { dataset: name } = toHook(row.value);
  const dataset = name === null ? null : findDataset(sql, name);
  if (!dataset?.ok) return ok({ dataset: null, learners: [] });
  return ok({ dataset: dataset.value, learners: learnersOf(sql, dataset.value.id) });
}

/**
 * Does what a message asks for, unless it was done before, and keeps its answer. Call it in a transaction, which has the
 * effect, the event and the answer, or none of them.
 */
function once(
  sql: SqlStorage,
  id: string,
  { message, until }: MessageName,
  now: number,
  effect: (hook: InboundHook) => Result<Answer>,
): Result<Answered> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  const { number } = row.value;
  const kept = keptAnswer(sql, number, message, now);
  if (kept !== null) return ok(kept);
  const answer = effect(toHook(row.value));
  if (!answer.ok) return answer;
  sql.exec("DELETE FROM inbound_messages WHERE expires_at <= ?", now);
  sql.exec(
    "INSERT INTO inbound_messages (hook, message, answer, expires_at) VALUES (?, ?, ?, ?)",
    number,
    message,
    JSON.stringify(answer.value),
    until,
  );
  return ok({ answer: answer.value, replayed: false });
}

export interface Predicted {
  readonly head: string;
  readonly version: number;
  /** The sender's own id. */
  readonly input_id: string | null;
  readonly prediction: Answer;
}

/** Tells of a prediction that was made for a hook. */
export function predicted(
  sql: SqlStorage,
  id: string,
  name: MessageName,
  made: Predicted,
  now: number,
): Result<Answered> {
  return once(sql, id, name, now, (hook) => {
    const { head, version, input_id, prediction } = made;
    const told = { id, object: hook.object, hook: hook.name, head, version, input_id, prediction };
    emit(sql, "inbound.predicted", told, now);
    return ok({ object: "inbound.prediction", id, input_id, model: `${head}@${version}`, ...prediction });
  });
}

/** Learns the example that a hook was sent. */
export function learnt(
  sql: SqlStorage,
  id: string,
  name: MessageName,
  dataset: DatasetRow,
  example: NewLearning,
  now: number,
): Result<Answered> {
  return once(sql, id, name, now, (hook) => {
    const done = learn(sql, dataset, [example], hook.on_unknown_label ?? "reject", now);
    if (!done.ok) return done;
    const [one] = done.value;
    const told = { dataset: dataset.name, example: one?.id ?? "", outcome: one?.outcome ?? "unchanged" };
    if (told.outcome !== "unchanged")
      emit(sql, "inbound.learned", { id, object: hook.object, hook: hook.name, ...told }, now);
    return ok({ object: "inbound.learning", id, ...told });
  });
}
