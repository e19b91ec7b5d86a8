/** Webhook endpoints: the URLs that a tenant's events are sent to. */

import type { List, PageRequest } from "../../api/lists.ts";
import type { WebhookEndpoint, WebhookEndpointChange } from "../../api/webhooks.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { decodeEndpointHealth, encodeEndpointHealth, newEndpointHealth } from "../../core/lifecycle/endpoint-health.ts";
import { limits } from "../../core/limits.ts";
import { toMilliseconds, toSeconds } from "../../lib/time.ts";
import { findListPosition } from "../deleted-positions.ts";
import { paginate } from "../page.ts";
import { schedule } from "../tasks/tasks.ts";
import { emit } from "./events.ts";
import { decryptSecret, encryptSecret, type SecretKeys, type StoredSecret } from "./secrets.ts";

/** How long after a rotation the previous secret signs as well. */
const ROTATION_OVERLAP_MS = 24 * 3_600_000;

export type NewWebhookEndpoint = Pick<WebhookEndpoint, "id" | "url" | "events" | "description"> & {
  readonly secret: string;
};

/** A row as it is stored; `health` is what `encodeEndpointHealth` gives. */
export interface EndpointRow extends Record<string, SqlStorageValue> {
  number: number;
  id: string;
  url: string;
  events: string;
  description: string | null;
  enabled: number;
  disabled_reason: WebhookEndpoint["disabled_reason"];
  secret: StoredSecret;
  previous_secret: StoredSecret | null;
  previous_until: number;
  health: string;
  created_at: number;
}

function toEndpoint(row: EndpointRow): WebhookEndpoint {
  const { failingSince } = decodeEndpointHealth(row.health);
  return {
    object: "webhook_endpoint",
    id: row.id,
    url: row.url,
    events: JSON.parse(row.events) as NewWebhookEndpoint["events"],
    description: row.description,
    enabled: row.enabled === 1,
    disabled_reason: row.disabled_reason,
    failing_since: failingSince === null ? null : toSeconds(failingSince),
    created_at: row.created_at,
  };
}

export function findEndpoint(sql: SqlStorage, id: string): Result<EndpointRow> {
  const row = sql.exec<EndpointRow>("SELECT * FROM webhook_endpoints WHERE id = ?", id).toArray()[0];
  return row ? ok(row) : fail("not_found", `No webhook endpoint '${id}'.`);
}

/** An endpoint, if it is enabled. */
export function findEnabledEndpoint(sql: SqlStorage, id: string): Result<EndpointRow> {
  const row = findEndpoint(sql, id);
  if (!row.ok || row.value.enabled === 1) return row;
  return fail("endpoint_disabled", `The webhook endpoint '${id}' is disabled. Enable it first.`);
}

export function getEndpoint(sql: SqlStorage, id: string): Result<WebhookEndpoint> {
  const row = findEndpoint(sql, id);
  return row.ok ? ok(toEndpoint(row.value)) : row;
}

export function countEndpoints(sql: SqlStorage): number {
  return sql.exec<{ n: number }>("SELECT count(*) AS n FROM webhook_endpoints").one().n;
}

export function createEndpoint(
  sql: SqlStorage,
  keys: SecretKeys,
  endpoint: NewWebhookEndpoint,
  now: number,
): Result<WebhookEndpoint> {
  const count = countEndpoints(sql);
  const limit = limits.webhook_endpoints;
  if (count >= limit) {
    return fail("limit_exceeded", `A tenant has at most ${limit} webhook endpoints. Delete one first.`, {
      details: { limit, actual: count },
    });
  }
  sql.exec(
    "INSERT INTO webhook_endpoints (id, url, events, description, enabled, secret, health, created_at) VALUES (?, ?, ?, ?, 1, ?, ?, ?)",
    endpoint.id,
    endpoint.url,
    JSON.stringify(endpoint.events),
    endpoint.description,
    encryptSecret(keys, endpoint.id, endpoint.secret),
    encodeEndpointHealth(newEndpointHealth),
    toSeconds(now),
  );
  return getEndpoint(sql, endpoint.id);
}

export function listEndpoints(sql: SqlStorage, request: PageRequest): Result<List<WebhookEndpoint>> {
  return paginate(request, {
    findPosition: (id) => findListPosition(sql, "webhook_endpoints", id),
    readRows: (cursor, count) =>
      sql
        .exec<EndpointRow>(
          "SELECT * FROM webhook_endpoints WHERE number < ? ORDER BY number DESC LIMIT ?",
          cursor,
          count,
        )
        .toArray(),
    toObject: toEndpoint,
  });
}

/** Changes the given fields. Enabling an endpoint, or changing its URL, resets its health. */
export function updateEndpoint(sql: SqlStorage, id: string, patch: WebhookEndpointChange): Result<WebhookEndpoint> {
  const row = findEndpoint(sql, id);
  if (!row.ok) return row;
  const { number, url, events, description, enabled, health } = row.value;
  const resetsHealth = (patch.enabled === true && enabled === 0) || (patch.url !== undefined && patch.url !== url);
  sql.exec(
    "UPDATE webhook_endpoints SET url = ?, events = ?, description = ?, health = ? WHERE number = ?",
    patch.url ?? url,
    patch.events === undefined ? events : JSON.stringify(patch.events),
    patch.description === undefined ? description : patch.description,
    resetsHealth ? encodeEndpointHealth(newEndpointHealth) : health,
    number,
  );
  if (patch.enabled === true)
    sql.exec("UPDATE webhook_endpoints SET enabled = 1, disabled_reason = NULL WHERE number = ?", number);
  if (patch.enabled === false && enabled === 1) disableEndpoint(sql, number, "request");
  return getEndpoint(sql, id);
}

/** Disables an endpoint and fails its pending deliveries, as `advance` in core/lifecycle/delivery.ts does. */
function disableEndpoint(
  sql: SqlStorage,
  number: number,
  reason: NonNullable<WebhookEndpoint["disabled_reason"]>,
): void {
  sql.exec("UPDATE webhook_endpoints SET enabled = 0, disabled_reason = ? WHERE number = ?", reason, number);
  sql.exec("UPDATE deliveries SET status = 'failed', due_at = NULL WHERE endpoint = ? AND status = 'pending'", number);
}

/** Disables an endpoint because of its answers, and emits an event to the others. */
export function disableFailingEndpoint(
  sql: SqlStorage,
  { id, number, description }: EndpointRow,
  reason: "gone" | "failing",
  now: number,
): void {
  disableEndpoint(sql, number, reason);
  const data = { object: "webhook_endpoint", id, description, enabled: false, disabled_reason: reason };
  emit(sql, "webhook_endpoint.disabled", data, now, { except: number });
}

/** Sets a new secret. The previous one signs as well for a day. */
export function rotateSecret(
  sql: SqlStorage,
  keys: SecretKeys,
  { id, secret }: Pick<NewWebhookEndpoint, "id" | "secret">,
  now: number,
): Result<WebhookEndpoint> {
  sql.exec(
    "UPDATE webhook_endpoints SET previous_secret = secret, previous_until = ?, secret = ? WHERE id = ?",
    toSeconds(now + ROTATION_OVERLAP_MS),
    encryptSecret(keys, id, secret),
    id,
  );
  return getEndpoint(sql, id);
}

/** The secrets that sign at `now`; none if they were encrypted under a server key that is no longer set. */
export function signingSecrets(keys: SecretKeys, row: EndpointRow, now: number): string[] {
  const { id, secret, previous_secret, previous_until } = row;
  const isRotating = previous_secret !== null && toMilliseconds(previous_until) > now;
  const decrypted = (isRotating ? [secret, previous_secret] : [secret]).map((stored) =>
    decryptSecret(keys, id, stored),
  );
  return decrypted.filter((readable) => readable !== null);
}

export function deleteEndpoint(sql: SqlStorage, id: string, now: number): Result<{ readonly id: string }> {
  const row = findEndpoint(sql, id);
  if (!row.ok) return row;
  sql.exec("DELETE FROM webhook_endpoints WHERE number = ?", row.value.number);
  schedule(sql, "delete_deliveries", String(row.value.number), now);
  return ok({ id });
}
