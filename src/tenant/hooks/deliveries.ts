/** Deliveries: the state of each event at each webhook endpoint (core/lifecycle/delivery.ts), with its attempts. */

import type { List } from "../../api/lists.ts";
import type {
  WebhookDelivery,
  WebhookDeliveryAttempt,
  WebhookDeliveryPageRequest,
  WebhookDeliveryWithAttempts,
} from "../../api/webhooks.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { advance, type Delivery, type DeliveryEvent } from "../../core/lifecycle/delivery.ts";
import type { EventType } from "../../core/lifecycle/event.ts";
import { toSeconds, toSecondsRoundedUp } from "../../lib/time.ts";
import { findListPosition } from "../deleted-positions.ts";
import { paginate } from "../page.ts";
import { EARLIEST_RUN_AT, schedule } from "../tasks/tasks.ts";
import { emit } from "./events.ts";
import { findEnabledEndpoint, findEndpoint } from "./webhook-endpoints.ts";

/** How long events and their deliveries are kept. */
const RETENTION_MS = 30 * 24 * 3_600_000;
const MAX_REDELIVERIES_PER_REQUEST = 10_000;
const DELETE_BATCH_SIZE = 500;

export interface DeliveryRow extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  event: number;
  endpoint: number;
  status: WebhookDelivery["status"];
  attempt: number;
  before: number;
  live: number;
  due_at: number | null;
  endpoint_id: string;
  event_id: string;
  type: EventType;
  created_at: number;
}

interface AttemptRow extends Record<string, SqlStorageValue> {
  attempt: number;
  started_at: number;
  milliseconds: number | null;
  status: number | null;
  answer: string | null;
  error: string | null;
}

/** Deliveries to endpoints that still exist, each with its event. */
const SELECT_DELIVERIES = `SELECT d.*, e.id AS endpoint_id, v.id AS event_id, v.type, v.created_at FROM deliveries d
  JOIN webhook_endpoints e ON e.number = d.endpoint JOIN events v ON v.sequence = d.event`;

function toDelivery(row: DeliveryRow): WebhookDelivery {
  return {
    object: "webhook_delivery",
    id: row.id,
    endpoint: row.endpoint_id,
    event: { id: row.event_id, type: row.type, sequence: row.event },
    status: row.status,
    attempt_count: row.attempt,
    next_attempt_at: row.due_at === null ? null : toSecondsRoundedUp(row.due_at),
    created_at: row.created_at,
  };
}

function toAttempt(
  { attempt, started_at, milliseconds, status, answer, error }: AttemptRow,
  delivery: DeliveryRow,
): WebhookDeliveryAttempt {
  const isInterrupted = milliseconds === null && !(delivery.live === 1 && attempt === delivery.attempt);
  return {
    number: attempt,
    created_at: toSeconds(started_at),
    milliseconds,
    status,
    answer,
    error: isInterrupted ? "The service was interrupted; whether the event arrived is not known." : error,
  };
}

function findRow(sql: SqlStorage, id: string): Result<DeliveryRow> {
  const row = sql.exec<DeliveryRow>(`${SELECT_DELIVERIES} WHERE d.id = ?`, id).toArray()[0];
  return row ? ok(row) : fail("not_found", `No webhook delivery '${id}'.`);
}

/** A delivery with its attempts, oldest first. */
export function getDelivery(sql: SqlStorage, id: string): Result<WebhookDeliveryWithAttempts> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  const attempts = sql
    .exec<AttemptRow>("SELECT * FROM delivery_attempts WHERE delivery = ? ORDER BY attempt", row.value.number)
    .toArray();
  return ok({ ...toDelivery(row.value), attempts: attempts.map((attempt) => toAttempt(attempt, row.value)) });
}

export function listDeliveries(sql: SqlStorage, request: WebhookDeliveryPageRequest): Result<List<WebhookDelivery>> {
  const endpoint = request.endpoint === undefined ? null : findEndpoint(sql, request.endpoint);
  if (endpoint?.ok === false) return { ok: false, failure: { ...endpoint.failure, param: "endpoint" } };
  const endpointFilter = endpoint === null ? "" : `AND d.endpoint = ${endpoint.value.number}`;
  // With a literal status SQLite finds the partial index.
  const statusFilter = request.status === undefined ? "" : `AND d.status = '${request.status}'`;
  return paginate(request, {
    findPosition: (id) => findListPosition(sql, "deliveries", id),
    readRows: (cursor, count) =>
      sql
        .exec<DeliveryRow>(
          `${SELECT_DELIVERIES} WHERE d.number < ? ${endpointFilter} ${statusFilter} ORDER BY d.number DESC LIMIT ?`,
          cursor,
          count,
        )
        .toArray(),
    toObject: toDelivery,
  });
}

function saveDelivery(
  sql: SqlStorage,
  number: number,
  { status, attempt, scheduleStart, inFlight, dueAt }: Delivery,
): void {
  sql.exec(
    "UPDATE deliveries SET status = ?, attempt = ?, before = ?, live = ?, due_at = ? WHERE number = ?",
    status,
    attempt,
    scheduleStart,
    inFlight ? 1 : 0,
    dueAt === null ? null : Math.round(dueAt),
    number,
  );
}

export function applyDeliveryEvent(
  sql: SqlStorage,
  row: DeliveryRow,
  event: DeliveryEvent,
  now: number,
  random = 0.5,
): Delivery {
  const { status, attempt, before: scheduleStart, live, due_at } = row;
  const state = advance({ status, attempt, scheduleStart, inFlight: live === 1, dueAt: due_at }, event, now, random);
  saveDelivery(sql, row.number, state);
  return state;
}

/** Sends a delivery again, whatever its state is. */
export function redeliver(sql: SqlStorage, id: string, now: number): Result<WebhookDelivery> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  const enabled = findEnabledEndpoint(sql, row.value.endpoint_id);
  if (!enabled.ok) return enabled;
  applyDeliveryEvent(sql, row.value, { type: "redeliver" }, now);
  schedule(sql, "deliver", "", EARLIEST_RUN_AT);
  const updatedRow = findRow(sql, id);
  return updatedRow.ok ? ok(toDelivery(updatedRow.value)) : updatedRow;
}

/** Sends failed deliveries of events since a time (Unix seconds) again: oldest first, a bounded number. */
export function redeliverFailed(sql: SqlStorage, endpoint: string, sinceSeconds: number, now: number) {
  const endpointRow = findEnabledEndpoint(sql, endpoint);
  if (!endpointRow.ok) return endpointRow;
  const rows = sql
    .exec<DeliveryRow>(
      `${SELECT_DELIVERIES} WHERE d.endpoint = ? AND d.status = 'failed' AND v.created_at >= ? ORDER BY d.number LIMIT ?`,
      endpointRow.value.number,
      sinceSeconds,
      MAX_REDELIVERIES_PER_REQUEST + 1,
    )
    .toArray();
  const batch = rows.slice(0, MAX_REDELIVERIES_PER_REQUEST);
  for (const row of batch) applyDeliveryEvent(sql, row, { type: "redeliver" }, now);
  if (batch.length > 0) schedule(sql, "deliver", "", EARLIEST_RUN_AT);
  return ok({
    object: "webhook_endpoint.redelivery" as const,
    id: endpoint,
    deliveries: batch.length,
    has_more: rows.length > batch.length,
  });
}

/** Emits `webhook.test` to one endpoint. Answers the delivery. */
export function testEndpoint(sql: SqlStorage, id: string, now: number): Result<WebhookDelivery> {
  const endpoint = findEnabledEndpoint(sql, id);
  if (!endpoint.ok) return endpoint;
  emit(sql, "webhook.test", { object: "webhook_endpoint", id }, now, { only: endpoint.value.number });
  const query = `${SELECT_DELIVERIES} WHERE d.endpoint = ? ORDER BY d.number DESC LIMIT 1`;
  return ok(toDelivery(sql.exec<DeliveryRow>(query, endpoint.value.number).one()));
}

/** Deletes a bounded number of deliveries. Answers whether some may be left. */
function deleteDeliveries(sql: SqlStorage, where: string, value: number): boolean {
  const selectBatch = `SELECT number FROM deliveries WHERE ${where} LIMIT ${DELETE_BATCH_SIZE}`;
  sql.exec(`DELETE FROM delivery_attempts WHERE delivery IN (${selectBatch})`, value);
  const deleted = sql
    .exec(`DELETE FROM deliveries WHERE number IN (${selectBatch}) RETURNING 1`, value)
    .toArray().length;
  return deleted === DELETE_BATCH_SIZE;
}

/** Deletes a bounded number of deliveries to a deleted endpoint. Answers whether some may be left. */
export function deleteEndpointDeliveries(sql: SqlStorage, endpoint: number): boolean {
  return deleteDeliveries(sql, "endpoint = ?", endpoint);
}

/** Deletes a bounded number of expired events with their deliveries. Answers whether some may be left. */
export function deleteExpiredEvents(sql: SqlStorage, now: number): boolean {
  const cutoff = toSeconds(now - RETENTION_MS);
  const { last } = sql
    .exec<{ last: number | null }>("SELECT max(sequence) AS last FROM events WHERE created_at <= ?", cutoff)
    .one();
  if (last === null) return false;
  if (deleteDeliveries(sql, "event <= ?", last)) return true;
  const selectBatch = "SELECT sequence FROM events WHERE sequence <= ? LIMIT ?";
  sql.exec(`DELETE FROM events WHERE sequence IN (${selectBatch})`, last, DELETE_BATCH_SIZE);
  return sql.exec("SELECT 1 FROM events WHERE sequence <= ? LIMIT 1", last).toArray().length > 0;
}
