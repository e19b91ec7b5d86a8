/**
 * What sends a tenant's webhooks: held in the Durable Object's memory, set going by the `due` table's `deliver`, and then by
 * itself with every attempt that ends. An attempt is in the ledger before it is made. Where the memory is lost the ledger
 * says when the next one is due, and the event goes out again under the same id.
 */

import {
  canDispatch,
  decodeEndpointHealth,
  type EndpointLoad,
  SLOW_ATTEMPT_MS,
} from "../../core/lifecycle/endpoint-health.ts";
import { toMilliseconds } from "../../lib/time.ts";
import { sendMessage } from "../../webhooks/send.ts";
import { parseOrigins } from "../../webhooks/url.ts";
import { schedule, setNextAlarm } from "../tasks/tasks.ts";
import { beginAttempt, type DeliveryAttempt, endAttempt } from "./deliveries.ts";
import type { EndpointRow } from "./webhook-endpoints.ts";

/** What the platform allows an alarm in calls is far more; past this many attempts the next alarm goes on. */
const MAX_ATTEMPTS_PER_ALARM = 500;
/** What an attempt may take beyond its time limit before it counts as cut off. */
const LEASE_MARGIN_MS = 5_000;

interface EndpointSchedule extends EndpointRow {
  /** When the first of its pending deliveries is due; null without one. */
  due_at: number | null;
}

export interface Dispatcher {
  /** Begins what is due and has room; when to look again, in milliseconds, or null where nothing is pending. */
  readonly dispatchDue: () => number | null;
}

/**
 * `active` says whether the tenant still is; `keep` has the platform wait for a promise; `failed` hears of bugs. Nothing
 * else is thrown.
 */
export function createDispatcher(
  env: Cloudflare.Env,
  storage: DurableObjectStorage,
  isActive: () => boolean,
  waitUntil: (work: Promise<void>) => void,
  onError: (error: unknown) => void,
): Dispatcher {
  const { sql } = storage;
  const timeoutMs = toMilliseconds(Number(env.WEBHOOK_TIMEOUT_SECONDS) || 20);
  const lease = timeoutMs + LEASE_MARGIN_MS;
  const allowedOrigins = parseOrigins(env.WEBHOOK_ORIGINS) ?? new Set<string>();
  /** When each attempt under way began, by delivery, by endpoint. */
  const inFlight = new Map<number, Map<number, number>>();
  let attemptsLeft = 0;
  let isRecheckScheduled = false;

  const computeLoads = (rows: readonly EndpointSchedule[]) =>
    new Map<number, EndpointLoad>(
      rows.map(({ number, health }) => [
        number,
        { health: decodeEndpointHealth(health), attemptStarts: [...(inFlight.get(number)?.values() ?? [])] },
      ]),
    );

  /** Begins one attempt where one may begin: true; else when to look again, or null. */
  function dispatchOne(now: number): true | number | null {
    // Disabled ones may still have attempts under way.
    const rows = sql
      .exec<EndpointSchedule>(
        "SELECT e.*, (SELECT min(d.due_at) FROM deliveries d WHERE d.endpoint = e.number AND d.status = 'pending') AS due_at FROM webhook_endpoints e",
      )
      .toArray();
    const loads = computeLoads(rows);
    const pending = rows.flatMap((row) => {
      const load = loads.get(row.number);
      if (load === undefined || row.enabled === 0 || row.due_at === null) return [];
      return [{ row, load, readyAt: Math.max(row.due_at, load.health.circuitOpenUntil) }];
    });
    const ready = pending.filter(({ readyAt }) => readyAt <= now).sort((a, b) => a.readyAt - b.readyAt);
    const laterTimes = pending.flatMap(({ readyAt }) => (readyAt > now ? [readyAt] : []));
    const next = ready.find(({ load }) => canDispatch(load, [...loads.values()], now));
    if (next === undefined || attemptsLeft <= 0) {
      if (ready.length === 0) return laterTimes.length === 0 ? null : Math.min(...laterTimes);
      if (attemptsLeft <= 0) return now;
      scheduleRecheck();
      return Math.min(now + lease, ...laterTimes);
    }
    const deliveryAttempt = storage.transactionSync(() => beginAttempt(sql, next.row, now, lease));
    if (deliveryAttempt !== null) {
      attemptsLeft--;
      const attempts = inFlight.get(deliveryAttempt.endpoint) ?? new Map<number, number>();
      inFlight.set(deliveryAttempt.endpoint, attempts.set(deliveryAttempt.delivery, now));
      waitUntil(sendAttempt(deliveryAttempt));
    }
    return true;
  }

  function dispatch(): number | null {
    for (;;) {
      const next = dispatchOne(Date.now());
      if (next !== true) return next;
    }
  }

  async function sendAttempt(deliveryAttempt: DeliveryAttempt): Promise<void> {
    try {
      const sendResult = await sendMessage(deliveryAttempt, allowedOrigins, timeoutMs);
      if (isActive())
        storage.transactionSync(() => endAttempt(sql, deliveryAttempt, sendResult, Date.now(), Math.random()));
    } catch (error) {
      onError(error);
    } finally {
      inFlight.get(deliveryAttempt.endpoint)?.delete(deliveryAttempt.delivery);
    }
    dispatchAndReschedule();
  }

  /** Begins what may begin now, and has the `due` table come back in time for the rest. */
  function dispatchAndReschedule(): void {
    if (!isActive()) return;
    try {
      const next = dispatch();
      if (next === null) return;
      const task = sql.exec<{ run_at: number }>("SELECT run_at FROM due WHERE kind = 'deliver'").toArray()[0];
      if (task !== undefined && task.run_at <= next) return;
      schedule(sql, "deliver", "", next);
      waitUntil(setNextAlarm(storage));
    } catch (error) {
      onError(error);
    }
  }

  /** What waits for room is looked at again when an attempt may have turned out to be slow. */
  function scheduleRecheck(): void {
    if (isRecheckScheduled) return;
    isRecheckScheduled = true;
    setTimeout(() => {
      isRecheckScheduled = false;
      dispatchAndReschedule();
    }, SLOW_ATTEMPT_MS);
  }

  return {
    dispatchDue() {
      attemptsLeft = MAX_ATTEMPTS_PER_ALARM;
      return dispatch();
    },
  };
}
