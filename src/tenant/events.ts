/** What other systems are told of: each event is written in the transaction of the change that it tells of. */
import type { EventType } from "../core/event.ts";

/** What an event tells is thin: enough to act on, and ids to ask for the rest by. */
export type EventData = Readonly<Record<string, unknown>> & { readonly id: string };

/** Data of more characters of JSON are cut down to the id and the type of object. */
const MOST_DATA = 16_000;

/** Adds an event; call it in the transaction of the change. `now` in seconds. */
export function emit(sql: SqlStorage, type: EventType, data: EventData, now: number): void {
  const whole = JSON.stringify(data);
  const kept =
    whole.length <= MOST_DATA ? whole : JSON.stringify({ id: data.id, object: data.object, truncated: true });
  const id = `evt_${crypto.randomUUID().replaceAll("-", "")}`;
  sql.exec("INSERT INTO events (id, type, data, created_at) VALUES (?, ?, ?, ?)", id, type, kept, now);
}
