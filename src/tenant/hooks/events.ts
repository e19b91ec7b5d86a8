/** Events: each is written in the transaction of the change that it reports. */

import { newDelivery } from "../../core/lifecycle/delivery.ts";
import type { EventType } from "../../core/lifecycle/event.ts";
import { newId } from "../../lib/id.ts";
import { toMilliseconds, toSeconds } from "../../lib/time.ts";
import { EARLIEST_RUN_AT, schedule } from "../tasks/tasks.ts";

/** The data of an event: enough to act on, and the ids to ask for more. */
export type EventData = Readonly<Record<string, unknown>> & { readonly id: string };

/** Larger data are cut down to the id and the type of object. */
const MAX_DATA_BYTES = 16_000;

interface Listener extends Record<string, SqlStorageValue> {
  number: number;
  events: string;
  enabled: number;
}

/**
 * Adds an event, and a delivery to every webhook endpoint that subscribes to its type. Call it in the transaction of the
 * change. `only` and `except` are numbers of endpoints; `hops` counts the webhooks that led to the event.
 */
export function emit(
  sql: SqlStorage,
  type: EventType,
  data: EventData,
  now: number,
  { only, except, hops = 0 }: { readonly only?: number; readonly except?: number; readonly hops?: number } = {},
): void {
  const json = JSON.stringify(data);
  const fits = new TextEncoder().encode(json).length <= MAX_DATA_BYTES;
  const storedData = fits ? json : JSON.stringify({ id: data.id, object: data.object, truncated: true });
  const createdAt = toSeconds(now);
  const { sequence } = sql
    .exec<{ sequence: number }>(
      "INSERT INTO events (id, type, data, created_at, hops) VALUES (?, ?, ?, ?, ?) RETURNING sequence",
      newId("evt_"),
      type,
      storedData,
      createdAt,
      hops,
    )
    .one();
  let hasPending = false;
  for (const { number, events, enabled } of sql.exec<Listener>(
    "SELECT number, events, enabled FROM webhook_endpoints",
  )) {
    const isRecipient = only === undefined ? isSubscribed(JSON.parse(events) as string[], type) : only === number;
    if (!isRecipient || except === number) continue;
    const { status, attempt, scheduleStart, dueAt } = newDelivery(enabled === 1, toMilliseconds(createdAt));
    sql.exec(
      "INSERT INTO deliveries (id, event, endpoint, status, attempt, before, live, due_at) VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
      newId("whd_"),
      sequence,
      number,
      status,
      attempt,
      scheduleStart,
      dueAt,
    );
    hasPending ||= enabled === 1;
  }
  if (hasPending) schedule(sql, "deliver", "", EARLIEST_RUN_AT);
}

function isSubscribed(events: readonly string[], type: EventType): boolean {
  return events.includes("*") || events.includes(type);
}
