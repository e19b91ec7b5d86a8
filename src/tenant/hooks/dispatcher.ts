/**
 * Sends a tenant's webhooks. It lives in the memory of the Durable Object. The task `deliver` starts it; then every
 * attempt that ends starts the next one. The ledger has each attempt before it is sent: if the memory is lost, `due` says
 * when to go on, and the event is sent again under the same id.
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
import type { Transactions } from "../transactions.ts";
import { beginAttempt, type DeliveryAttempt, endAttempt } from "./delivery-attempts.ts";
import type { EndpointRow } from "./webhook-endpoints.ts";

/** After this many attempts the next alarm goes on. An alarm may make far more calls. */
const MAX_ATTEMPTS_PER_ALARM = 500;
/** An attempt counts as interrupted this long after its time limit. */
const LEASE_MARGIN_MS = 5_000;

interface EndpointSchedule extends EndpointRow {
  /** When its first pending delivery is due; null if it has none. */
  due_at: number | null;
}

interface PendingEndpoint {
  readonly row: EndpointSchedule;
  readonly load: EndpointLoad;
  readonly readyAt: number;
}

export interface DispatcherHost {
  /** Keeps the object alive until the promise has settled. */
  waitUntil(work: Promise<void>): void;
  /** Hears of bugs: nothing else is thrown. */
  onError(error: unknown): void;
}

export class Dispatcher {
  readonly #ledger: Transactions;
  readonly #host: DispatcherHost;
  readonly #timeoutMs: number;
  readonly #allowedOrigins: ReadonlySet<string>;
  /** The start of each attempt in flight, by delivery, by endpoint. */
  readonly #inFlight = new Map<number, Map<number, number>>();
  #attemptsLeft = 0;
  #isRecheckScheduled = false;

  constructor(ledger: Transactions, host: DispatcherHost) {
    this.#ledger = ledger;
    this.#host = host;
    this.#timeoutMs = toMilliseconds(Number(ledger.env.WEBHOOK_TIMEOUT_SECONDS) || 20);
    this.#allowedOrigins = parseOrigins(ledger.env.WEBHOOK_ORIGINS) ?? new Set();
  }

  /** Starts the attempts that are due, as far as connections allow. Answers when to go on, or null if none is pending. */
  dispatchDue(): number | null {
    this.#attemptsLeft = MAX_ATTEMPTS_PER_ALARM;
    return this.#dispatch();
  }

  get #leaseMs(): number {
    return this.#timeoutMs + LEASE_MARGIN_MS;
  }

  #dispatch(): number | null {
    // The task `deliver` waits until the tenant is active again.
    if (this.#ledger.isSuspended) return Date.now();
    for (;;) {
      const now = Date.now();
      const loads = this.#readLoads();
      const pending = [...loads].flatMap(([row, load]): PendingEndpoint[] =>
        row.enabled === 0 || row.due_at === null
          ? []
          : [{ row, load, readyAt: Math.max(row.due_at, load.health.circuitOpenUntil) }],
      );
      const ready = pending.filter(({ readyAt }) => readyAt <= now).sort((a, b) => a.readyAt - b.readyAt);
      const next = ready.find(({ load }) => canDispatch(load, [...loads.values()], now));
      if (next === undefined || this.#attemptsLeft <= 0) return this.#nextDispatch(pending, now);
      this.#startAttempt(next.row, now);
    }
  }

  /** All endpoints. A disabled one may still have attempts in flight. */
  #readLoads(): Map<EndpointSchedule, EndpointLoad> {
    const rows = this.#ledger.storage.sql.exec<EndpointSchedule>(
      "SELECT e.*, (SELECT min(d.due_at) FROM deliveries d WHERE d.endpoint = e.number AND d.status = 'pending') AS due_at FROM webhook_endpoints e",
    );
    return new Map(
      rows.toArray().map((row) => [
        row,
        {
          health: decodeEndpointHealth(row.health),
          attemptStarts: [...(this.#inFlight.get(row.number)?.values() ?? [])],
        },
      ]),
    );
  }

  /** When to go on, if no attempt can be started now. */
  #nextDispatch(pending: readonly PendingEndpoint[], now: number): number | null {
    const laterTimes = pending.map(({ readyAt }) => readyAt).filter((readyAt) => readyAt > now);
    if (laterTimes.length === pending.length) return laterTimes.length === 0 ? null : Math.min(...laterTimes);
    if (this.#attemptsLeft <= 0) return now;
    this.#scheduleRecheck();
    return Math.min(now + this.#leaseMs, ...laterTimes);
  }

  #startAttempt(endpoint: EndpointRow, now: number): void {
    const { storage, secretKeys } = this.#ledger;
    const attempt = storage.transactionSync(() => beginAttempt(storage.sql, secretKeys, endpoint, now, this.#leaseMs));
    if (attempt === null) return;
    this.#attemptsLeft--;
    const starts = this.#inFlight.get(attempt.endpoint) ?? new Map<number, number>();
    this.#inFlight.set(attempt.endpoint, starts.set(attempt.delivery, now));
    this.#host.waitUntil(this.#send(attempt));
  }

  async #send(attempt: DeliveryAttempt): Promise<void> {
    const { storage } = this.#ledger;
    try {
      const result = await sendMessage(attempt, this.#allowedOrigins, this.#timeoutMs);
      if (this.#ledger.exists)
        storage.transactionSync(() => endAttempt(storage.sql, attempt, result, Date.now(), Math.random()));
    } catch (error) {
      this.#host.onError(error);
    } finally {
      this.#inFlight.get(attempt.endpoint)?.delete(attempt.delivery);
    }
    this.#dispatchAndReschedule();
  }

  /** Starts the attempts that can start now, and has the task `deliver` go on in time. */
  #dispatchAndReschedule(): void {
    const { storage, exists } = this.#ledger;
    if (!exists) return;
    try {
      const next = this.#dispatch();
      if (next === null) return;
      const task = storage.sql.exec<{ run_at: number }>("SELECT run_at FROM due WHERE kind = 'deliver'").toArray()[0];
      if (task !== undefined && task.run_at <= next) return;
      schedule(storage.sql, "deliver", "", next);
      this.#host.waitUntil(setNextAlarm(storage));
    } catch (error) {
      this.#host.onError(error);
    }
  }

  /** Looks again when an attempt may have turned out to be slow, which changes what other endpoints may start. */
  #scheduleRecheck(): void {
    if (this.#isRecheckScheduled) return;
    this.#isRecheckScheduled = true;
    setTimeout(() => {
      this.#isRecheckScheduled = false;
      this.#dispatchAndReschedule();
    }, SLOW_ATTEMPT_MS);
  }
}
