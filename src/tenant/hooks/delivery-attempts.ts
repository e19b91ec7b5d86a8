/** Attempts at deliveries: each is in the ledger before it is sent, and gets its outcome at its end. */
import { outcomeOf } from "../../core/lifecycle/delivery.ts";
import {
  decodeEndpointHealth,
  disableReason,
  encodeEndpointHealth,
  recordOutcome,
} from "../../core/lifecycle/endpoint-health.ts";
import { toMilliseconds } from "../../lib/time.ts";
import type { SendResult, WebhookMessage } from "../../webhooks/send.ts";
import { applyDeliveryEvent, type DeliveryRow } from "./deliveries.ts";
import type { SecretKeys } from "./secrets.ts";
import { disableFailingEndpoint, type EndpointRow, signingSecrets } from "./webhook-endpoints.ts";

/** Attempts that are kept of each delivery: the newest. */
const MAX_RETAINED_ATTEMPTS = 50;

/** An attempt that the ledger has, and that is to be sent. */
export interface DeliveryAttempt extends WebhookMessage {
  readonly delivery: number;
  readonly attempt: number;
  readonly endpoint: number;
}

/**
 * Writes down an attempt at the endpoint's first due delivery. Null if none is due, or if the last attempt of the
 * schedule was interrupted, which fails the delivery. Call it in a transaction.
 */
export function beginAttempt(
  sql: SqlStorage,
  keys: SecretKeys,
  endpoint: EndpointRow,
  now: number,
  lease: number,
): DeliveryAttempt | null {
  const row = sql
    .exec<DeliveryRow & { data: string; hops: number }>(
      `SELECT d.*, v.id AS event_id, v.type, v.created_at, v.data, v.hops FROM deliveries d JOIN events v ON v.sequence = d.event
        WHERE d.endpoint = ? AND d.status = 'pending' AND d.due_at <= ? ORDER BY d.due_at LIMIT 1`,
      endpoint.number,
      now,
    )
    .toArray()[0];
  if (row === undefined) return null;
  const { attempt } = applyDeliveryEvent(sql, row, { type: "begin", lease }, now);
  if (attempt === row.attempt) return null;
  sql.exec("INSERT INTO delivery_attempts (delivery, attempt, started_at) VALUES (?, ?, ?)", row.number, attempt, now);
  if (attempt > MAX_RETAINED_ATTEMPTS) {
    const deleteOldAttempts = "DELETE FROM delivery_attempts WHERE delivery = ? AND attempt <= ?";
    sql.exec(deleteOldAttempts, row.number, attempt - MAX_RETAINED_ATTEMPTS);
  }
  const { event_id, type, created_at, event, data, hops } = row;
  const body = JSON.stringify({
    id: event_id,
    object: "event",
    type,
    created_at,
    timestamp: new Date(toMilliseconds(created_at)).toISOString(),
    sequence: event,
    data: JSON.parse(data),
  });
  const secrets = signingSecrets(keys, endpoint, now);
  return {
    delivery: row.number,
    attempt,
    endpoint: endpoint.number,
    url: endpoint.url,
    secrets,
    id: event_id,
    body,
    hops,
  };
}

/** Records the outcome of an attempt for its delivery and its endpoint. Call it in a transaction. */
export function endAttempt(
  sql: SqlStorage,
  deliveryAttempt: DeliveryAttempt,
  { status, responseBody, error, retryAfter }: SendResult,
  now: number,
  random: number,
): void {
  const row = sql.exec<DeliveryRow>("SELECT * FROM deliveries WHERE number = ?", deliveryAttempt.delivery).toArray()[0];
  const endpoint = sql
    .exec<EndpointRow>("SELECT * FROM webhook_endpoints WHERE number = ?", deliveryAttempt.endpoint)
    .toArray()[0];
  // The endpoint was deleted meanwhile.
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
  applyDeliveryEvent(sql, row, { type: "ended", attempt: deliveryAttempt.attempt, outcome }, now, random);
  // An answer from a former URL says nothing about the new one.
  if (endpoint.url !== deliveryAttempt.url || endpoint.enabled === 0) return;
  const health = recordOutcome(decodeEndpointHealth(endpoint.health), outcome, now);
  sql.exec("UPDATE webhook_endpoints SET health = ? WHERE number = ?", encodeEndpointHealth(health), endpoint.number);
  const reason = disableReason(health, outcome, now);
  if (reason !== null) disableFailingEndpoint(sql, endpoint, reason, now);
}
