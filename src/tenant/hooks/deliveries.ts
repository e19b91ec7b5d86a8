/** Deliveries: what has become of each event at each webhook endpoint (core/delivery.ts), attempt by attempt. */

import type { List } from "../../api/lists.ts";
import type {
  WebhookDelivery,
  WebhookDeliveryAttempt,
  WebhookDeliveryPageRequest,
  WebhookDeliveryWithAttempts,
} from "../../api/webhooks.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { advance, type Delivery, type DeliveryEvent, outcomeOf } from "../../core/lifecycle/delivery.ts";
import {
  decodeEndpointHealth,
  disableReason,
  encodeEndpointHealth,
  recordOutcome,
} from "../../core/lifecycle/endpoint-health.ts";
import type { EventType } from "../../core/lifecycle/event.ts";
import { toMilliseconds, toSeconds, toSecondsRoundedUp } from "../../lib/time.ts";
import type { SendResult, WebhookMessage } from "../../webhooks/send.ts";
import { paginate } from "../page.ts";
import { EARLIEST_RUN_AT, schedule } from "../tasks/tasks.ts";
import { emit } from "./events.ts";
import {
  disableFailingEndpoint,
  type EndpointRow,
  findEnabledEndpoint,
  findEndpoint,
  signingSecrets,
} from "./webhook-endpoints.ts";

/** Events are kept for so long, and what became of them. */
const RETENTION_MS = 30 * 24 * 3_600_000;
/** The newest so many attempts at a delivery are kept. */
const MAX_RETAINED_ATTEMPTS = 50;
/** Deliveries that one call sends again, and that one run deletes. */
const MAX_REDELIVERIES_PER_REQUEST = 10_000;
const DELETE_BATCH_SIZE = 500;

interface Row extends Record<string, SqlStorageValue> {
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

/** Those of endpoints that are still there, with the event that each tells of. */
const SELECT_DELIVERIES = `SELECT d.*, e.id AS endpoint_id, v.id AS event_id, v.type, v.created_at FROM deliveries d
  JOIN webhook_endpoints e ON e.number = d.endpoint JOIN events v ON v.sequence = d.event`;

function toDelivery(row: Row): WebhookDelivery {
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
  delivery: Row,
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

function findRow(sql: SqlStorage, id: string): Result<Row> {
  const row = sql.exec<Row>(`${SELECT_DELIVERIES} WHERE d.id = ?`, id).toArray()[0];
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
  // A status that is written out finds its partial index.
  const statusFilter = request.status === undefined ? "" : `AND d.status = '${request.status}'`;
  return paginate(
    request,
    (id) => {
      const row = findRow(sql, id);
      return row.ok ? row.value.number : null;
    },
    (cursor, count) =>
      sql
        .exec<Row>(
          `${SELECT_DELIVERIES} WHERE d.number < ? ${endpointFilter} ${statusFilter} ORDER BY d.number DESC LIMIT ?`,
          cursor,
          count,
        )
        .toArray(),
    toDelivery,
  );
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

function applyEvent(sql: SqlStorage, row: Row, event: DeliveryEvent, now: number, random = 0.5): Delivery {
  const { status, attempt, before: scheduleStart, live, due_at } = row;
  const state = advance({ status, attempt, scheduleStart, inFlight: live === 1, dueAt: due_at }, event, now, random);
  saveDelivery(sql, row.number, state);
  return state;
}

/** Sends a delivery again, whatever has become of it. */
export function redeliver(sql: SqlStorage, id: string, now: number): Result<WebhookDelivery> {
  const row = findRow(sql, id);
  if (!row.ok) return row;
  const enabled = findEnabledEndpoint(sql, row.value.endpoint_id);
  if (!enabled.ok) return enabled;
  applyEvent(sql, row.value, { type: "redeliver" }, now);
  schedule(sql, "deliver", "", EARLIEST_RUN_AT);
  const updatedRow = findRow(sql, id);
  return updatedRow.ok ? ok(toDelivery(updatedRow.value)) : updatedRow;
}

/** Sends again what has failed at an endpoint of the events since `since` (seconds), oldest first, up to a bound. */
export function redeliverFailed(sql: SqlStorage, endpoint: string, since: number, now: number) {
  const endpointRow = findEnabledEndpoint(sql, endpoint);
  if (!endpointRow.ok) return endpointRow;
  const rows = sql
    .exec<Row>(
      `${SELECT_DELIVERIES} WHERE d.endpoint = ? AND d.status = 'failed' AND v.created_at >= ? ORDER BY d.number LIMIT ?`,
      endpointRow.value.number,
      since,
      MAX_REDELIVERIES_PER_REQUEST + 1,
    )
    .toArray();
  const batch = rows.slice(0, MAX_REDELIVERIES_PER_REQUEST);
  for (const row of batch) applyEvent(sql, row, { type: "redeliver" }, now);
  if (batch.length > 0) schedule(sql, "deliver", "", EARLIEST_RUN_AT);
  return ok({
    object: "webhook_endpoint.redelivery" as const,
    id: endpoint,
    deliveries: batch.length,
    has_more: rows.length > batch.length,
  });
}

/** Emits `webhook.test` to an endpoint alone; answers its delivery. */
export function testEndpoint(sql: SqlStorage, id: string, now: number): Result<WebhookDelivery> {
  const endpoint = findEnabledEndpoint(sql, id);
  if (!endpoint.ok) return endpoint;
  emit(sql, "webhook.test", { object: "webhook_endpoint", id }, now, { only: endpoint.value.number });
  const query = `${SELECT_DELIVERIES} WHERE d.endpoint = ? ORDER BY d.number DESC LIMIT 1`;
  return ok(toDelivery(sql.exec<Row>(query, endpoint.value.number).one()));
}

/** An attempt that has been written down and is to be made. */
export interface DeliveryAttempt extends WebhookMessage {
  readonly delivery: number;
  readonly attempt: number;
  readonly endpoint: number;
}

/**
 * Writes down an attempt at the endpoint's delivery that is due first; null where none is, or where the last attempt at it
 * was cut off. Call it in a transaction.
 */
export function beginAttempt(
  sql: SqlStorage,
  endpoint: EndpointRow,
  now: number,
  lease: number,
): DeliveryAttempt | null {
  const row = sql
    .exec<Row & { data: string }>(
      `SELECT d.*, v.id AS event_id, v.type, v.created_at, v.data FROM deliveries d JOIN events v ON v.sequence = d.event
        WHERE d.endpoint = ? AND d.status = 'pending' AND d.due_at <= ? ORDER BY d.due_at LIMIT 1`,
      endpoint.number,
      now,
    )
    .toArray()[0];
  if (row === undefined) return null;
  const { attempt } = applyEvent(sql, row, { type: "begin", lease }, now);
  if (attempt === row.attempt) return null;
  sql.exec("INSERT INTO delivery_attempts (delivery, attempt, started_at) VALUES (?, ?, ?)", row.number, attempt, now);
  if (attempt > MAX_RETAINED_ATTEMPTS) {
    const deleteOldAttempts = "DELETE FROM delivery_attempts WHERE delivery = ? AND attempt <= ?";
    sql.exec(deleteOldAttempts, row.number, attempt - MAX_RETAINED_ATTEMPTS);
  }
  const { event_id, type, created_at, event, data } = row;
  const body = JSON.stringify({
    id: event_id,
    object: "event",
    type,
    created_at,
    timestamp: new Date(toMilliseconds(created_at)).toISOString(),
    sequence: event,
    data: JSON.parse(data),
  });
  const secrets = signingSecrets(endpoint, now);
  return { delivery: row.number, attempt, endpoint: endpoint.number, url: endpoint.url, secrets, id: event_id, body };
}

/** Notes what came of an attempt, of the delivery and of the endpoint. Call it in a transaction; */
export function endAttempt(
  sql: SqlStorage,
  deliveryAttempt: DeliveryAttempt,
  { status, responseBody, error, retryAfter }: SendResult,
  now: number,
  random: number,
): void {
  const row = sql.exec<Row>("SELECT * FROM deliveries WHERE number = ?", deliveryAttempt.delivery).toArray()[0];
  const endpoint = sql
    .exec<EndpointRow>("SELECT * FROM webhook_endpoints WHERE number = ?", deliveryAttempt.endpoint)
    .toArray()[0];
  // Deleted meanwhile.
  if (row === undefined || endpoint === undefined) return;
  const outcome = outcomeOf(error === null ? status : null, retryAfter);
  sql.exec(
    "UPDATE delivery_attempts SET milliseconds = max(0, ? - started_at), status = ?, answer = ?, error = ? WHERE delivery = ? AND attempt = ?",
    now,
    status,
    responseBody,
    error,
    deliveryAttempt.delivery,
    deliveryAttempt.attempt,
  );
  applyEvent(sql, row, { type: "ended", attempt: deliveryAttempt.attempt, outcome }, now, random);
  // What another address answers says nothing of this one.
  if (endpoint.url !== deliveryAttempt.url || endpoint.enabled === 0) return;
  const health = recordOutcome(decodeEndpointHealth(endpoint.health), outcome, now);
  sql.exec("UPDATE webhook_endpoints SET health = ? WHERE number = ?", encodeEndpointHealth(health), endpoint.number);
  const reason = disableReason(health, outcome, now);
  if (reason !== null) disableFailingEndpoint(sql, endpoint, reason, now);
}

/** Deletes deliveries that `where` finds, so many at once; whether some may be left. */
function deleteDeliveries(sql: SqlStorage, where: string, value: number): boolean {
  const selectBatch = `SELECT number FROM deliveries WHERE ${where} LIMIT ${DELETE_BATCH_SIZE}`;
  sql.exec(`DELETE FROM delivery_attempts WHERE delivery IN (${selectBatch})`, value);
  const deleted = sql
    .exec(`DELETE FROM deliveries WHERE number IN (${selectBatch}) RETURNING 1`, value)
    .toArray().length;
  return deleted === DELETE_BATCH_SIZE;
}

/** Deletes a bounded part of the deliveries to an endpoint that was deleted; whether some may be left. */
export function deleteEndpointDeliveries(sql: SqlStorage, endpoint: number): boolean {
  return deleteDeliveries(sql, "endpoint = ?", endpoint);
}

/** Deletes a bounded part of what is older than 30 days; whether some may be left. */
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
