/** What other systems are told of: each event is written in the transaction of the change that it tells of. */
import { newDelivery } from "../../core/lifecycle/delivery.ts";
import type { EventType } from "../../core/lifecycle/event.ts";
import { newId } from "../../lib/id.ts";
import { FIRST_OF_ALL, schedule } from "../tasks/tasks.ts";

/** What an event tells is thin: enough to act on, and ids to ask for the rest by. */
export type EventData = Readonly<Record<string, unknown>> & { readonly id: string };

/** Data of more bytes of JSON are cut down to the id and the type of object. */
const MOST_DATA = 16_000;

interface Listener extends Record<string, SqlStorageValue> {
  number: number;
  events: string;
  enabled: number;
}

/**
 * Adds an event, and a delivery of it to every webhook endpoint that wants to be told; call it in the transaction of the
 * change. `now` in seconds; `to` names endpoints by their numbers.
 */
export function emit(
  sql: SqlStorage,
  type: EventType,
  data: EventData,
  now: number,
  to: { readonly only?: number; readonly except?: number } = {},
): void {
  const whole = JSON.stringify(data);
  const fits = new TextEncoder().encode(whole).length <= MOST_DATA;
  const kept = fits ? whole : JSON.stringify({ id: data.id, object: data.object, truncated: true });
  const { sequence } = sql
    .exec<{ sequence: number }>(
      "INSERT INTO events (id, type, data, created_at) VALUES (?, ?, ?, ?) RETURNING sequence",
      newId("evt_"),
      type,
      kept,
      now,
    )
    .one();
  let due = false;
  for (const { number, events, enabled } of sql.exec<Listener>(
    "SELECT number, events, enabled FROM webhook_endpoints",
  )) {
    const told = to.only === undefined ? wants(JSON.parse(events) as string[], type) : to.only === number;
    if (!told || to.except === number) continue;
    const { status, attempt, before, dueAt } = newDelivery(enabled === 1, now * 1000);
    sql.exec(
      "INSERT INTO deliveries (id, event, endpoint, status, attempt, before, live, due_at) VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
      newId("whd_"),
      sequence,
      number,
      status,
      attempt,
      before,
      dueAt,
    );
    due ||= enabled === 1;
  }
  if (due) schedule(sql, "deliver", "", FIRST_OF_ALL);
}

function wants(events: readonly string[], type: EventType): boolean {
  return events.includes("*") || events.includes(type);
}
