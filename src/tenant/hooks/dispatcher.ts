/**
 * What sends a tenant's webhooks: held in the Durable Object's memory, set going by the `due` table's `deliver`, and then by
 * itself with every attempt that ends. An attempt is in the ledger before it is made. Where the memory is lost the ledger
 * says when the next one is due, and the event goes out again under the same id.
 */
import { type Health, mayBegin, SLOW, type Standing } from "../../core/lifecycle/delivery.ts";
import { parseOrigins } from "../../webhooks/address.ts";
import { sendMessage } from "../../webhooks/send.ts";
import { type Begun, beginAttempt, endAttempt } from "./deliveries.ts";
import { arm, schedule } from "../tasks/tasks.ts";
import type { EndpointRow } from "./webhook-endpoints.ts";

/** What the platform allows an alarm in calls is far more; past this many attempts the next alarm goes on. */
const ATTEMPTS_AN_ALARM = 500;
/** What an attempt may take beyond its time limit before it counts as cut off. */
const LEASE_MARGIN_MS = 5_000;

interface Waiting extends EndpointRow {
  /** When the first of its pending deliveries is due; null without one. */
  due_at: number | null;
}

export interface Pump {
  /** Begins what is due and has room; when to look again, in milliseconds, or null where nothing is pending. */
  readonly kick: () => number | null;
}

/**
 * `active` says whether the tenant still is; `keep` has the platform wait for a promise; `failed` hears of bugs. Nothing
 * else is thrown.
 */
export function createPump(
  env: Cloudflare.Env,
  storage: DurableObjectStorage,
  active: () => boolean,
  keep: (work: Promise<void>) => void,
  failed: (error: unknown) => void,
): Pump {
  const { sql } = storage;
  const timeoutMs = (Number(env.WEBHOOK_TIMEOUT_SECONDS) || 20) * 1000;
  const lease = timeoutMs + LEASE_MARGIN_MS;
  const allowed = parseOrigins(env.WEBHOOK_ORIGINS) ?? new Set<string>();
  /** When each attempt under way began, by delivery, by endpoint. */
  const underWay = new Map<number, Map<number, number>>();
  let left = 0;
  let looking = false;

  const standings = (rows: readonly Waiting[]) =>
    new Map<number, Standing>(
      rows.map(({ number, health }) => [
        number,
        { health: JSON.parse(health) as Health, since: [...(underWay.get(number)?.values() ?? [])] },
      ]),
    );

  /** Begins one attempt where one may begin: true; else when to look again, or null. */
  function beginOne(now: number): true | number | null {
    // Disabled ones may still have attempts under way.
    const rows = sql
      .exec<Waiting>(
        "SELECT e.*, (SELECT min(d.due_at) FROM deliveries d WHERE d.endpoint = e.number AND d.status = 'pending') AS due_at FROM webhook_endpoints e",
      )
      .toArray();
    const all = standings(rows);
    const waiting = rows.flatMap((row) => {
      const standing = all.get(row.number);
      if (standing === undefined || row.enabled === 0 || row.due_at === null) return [];
      return [{ row, standing, at: Math.max(row.due_at, standing.health.openUntil) }];
    });
    const ready = waiting.filter(({ at }) => at <= now).sort((a, b) => a.at - b.at);
    const later = waiting.flatMap(({ at }) => (at > now ? [at] : []));
    const next = ready.find(({ standing }) => mayBegin(standing, [...all.values()], now));
    if (next === undefined || left <= 0) {
      if (ready.length === 0) return later.length === 0 ? null : Math.min(...later);
      if (left <= 0) return now;
      lookAgain();
      return Math.min(now + lease, ...later);
    }
    const begun = storage.transactionSync(() => beginAttempt(sql, next.row, now, lease));
    if (begun !== null) {
      left--;
      const attempts = underWay.get(begun.endpoint) ?? new Map<number, number>();
      underWay.set(begun.endpoint, attempts.set(begun.delivery, now));
      keep(attempt(begun));
    }
    return true;
  }

  function begin(): number | null {
    for (;;) {
      const next = beginOne(Date.now());
      if (next !== true) return next;
    }
  }

  async function attempt(begun: Begun): Promise<void> {
    try {
      const answered = await sendMessage(begun, allowed, timeoutMs);
      if (active()) storage.transactionSync(() => endAttempt(sql, begun, answered, Date.now(), Math.random()));
    } catch (error) {
      failed(error);
    } finally {
      underWay.get(begun.endpoint)?.delete(begun.delivery);
    }
    goOn();
  }

  /** Begins what may begin now, and has the `due` table come back in time for the rest. */
  function goOn(): void {
    if (!active()) return;
    try {
      const next = begin();
      if (next === null) return;
      const due = sql.exec<{ run_at: number }>("SELECT run_at FROM due WHERE kind = 'deliver'").toArray()[0];
      if (due !== undefined && due.run_at <= next) return;
      schedule(sql, "deliver", "", next);
      keep(arm(storage));
    } catch (error) {
      failed(error);
    }
  }

  /** What waits for room is looked at again when an attempt may have turned out to be slow. */
  function lookAgain(): void {
    if (looking) return;
    looking = true;
    setTimeout(() => {
      looking = false;
      goOn();
    }, SLOW);
  }

  return {
    kick() {
      left = ATTEMPTS_AN_ALARM;
      return begin();
    },
  };
}
