/** Messages to inbound hooks. The answer to each is stored, so that a replayed message changes nothing. */
import type { InboundHook } from "../../api/inbound-hooks.ts";
import { ok, type Result } from "../../core/failure.ts";
import { toSeconds } from "../../lib/time.ts";
import { type DatasetRow, findDataset } from "../data/datasets.ts";
import { type FeedbackExample, upsertExamples } from "../heads/feedback.ts";
import { listLearningHeads } from "../heads/retraining-context.ts";
import { emit } from "./events.ts";
import { findHookRow, toHook } from "./inbound.ts";

/** What identifies a verified message, and how long its answer is kept. */
export interface MessageKey {
  readonly messageId: string;
  readonly expiresAt: number;
}

/** A message whose effect is to be applied once. */
export interface VerifiedMessage extends MessageKey {
  /** How many webhooks led to it. */
  readonly hops: number;
}

export type ResponseBody = Readonly<Record<string, unknown>>;
/** The answer to a message, and whether it is the stored answer to the same message. */
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

/** The stored answer to a message. Without one: the dataset that the hook adds to, and the heads that learn from it. */
export function getMessageContext(
  sql: SqlStorage,
  id: string,
  messageId: string,
  now: number,
): Result<HookResponse | { readonly dataset: DatasetRow | null; readonly learners: readonly string[] }> {
  const row = findHookRow(sql, id);
  if (!row.ok) return row;
  const storedResponse = findStoredResponse(sql, row.value.number, messageId, now);
  if (storedResponse !== null) return ok(storedResponse);
  const { dataset: name } = toHook(row.value);
  const dataset = name === null ? null : findDataset(sql, name);
  if (!dataset?.ok) return ok({ dataset: null, learners: [] });
  return ok({ dataset: dataset.value, learners: listLearningHeads(sql, dataset.value.id) });
}

/** Applies a message once and stores its answer. Call it in a transaction: effect, event and answer belong together. */
function handleOnce(
  sql: SqlStorage,
  id: string,
  { messageId, expiresAt }: MessageKey,
  now: number,
  effect: (hook: InboundHook) => Result<ResponseBody>,
): Result<HookResponse> {
  const row = findHookRow(sql, id);
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
  /** The sender's id of the message. */
  readonly input_id: string | null;
  readonly prediction: ResponseBody;
}

/** Emits the prediction that was made for a message. */
export function recordPrediction(
  sql: SqlStorage,
  id: string,
  message: VerifiedMessage,
  hookPrediction: HookPrediction,
  now: number,
): Result<HookResponse> {
  return handleOnce(sql, id, message, now, (hook) => {
    const { head, version, input_id, prediction } = hookPrediction;
    const eventData = { id, object: hook.object, hook: hook.name, head, version, input_id, prediction };
    emit(sql, "inbound.predicted", eventData, now, { hops: message.hops });
    return ok({ object: "inbound.prediction", id, input_id, model: `${head}@${version}`, ...prediction });
  });
}

export interface HookExample {
  readonly dataset: DatasetRow;
  readonly example: FeedbackExample;
  /** Whether its text was cut. */
  readonly truncated: boolean;
}

/** Adds the example of a message to the hook's dataset. */
export function learnExample(
  sql: SqlStorage,
  id: string,
  message: VerifiedMessage,
  { dataset, example, truncated }: HookExample,
  now: number,
): Result<HookResponse> {
  return handleOnce(sql, id, message, now, (hook) => {
    const results = upsertExamples(sql, dataset, [example], hook.on_unknown_label ?? "reject", now);
    if (!results.ok) return results;
    const [result] = results.value;
    const summary = { dataset: dataset.name, example: result?.id ?? "", outcome: result?.outcome ?? "unchanged" };
    if (summary.outcome !== "unchanged")
      emit(sql, "inbound.learned", { id, object: hook.object, hook: hook.name, ...summary }, now, {
        hops: message.hops,
      });
    return ok({ object: "inbound.learning", id, ...summary, ...(truncated ? { truncated } : {}) });
  });
}
