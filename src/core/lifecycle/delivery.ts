/**
 * The delivery of one event to one webhook endpoint, as a pure state machine. `endpoint-health.ts` decides when its
 * attempts may start. An event may come twice, late or out of order. If it does not apply to the state, it changes
 * nothing. Times are in milliseconds; `random` is uniform in [0, 1).
 *
 *   pending → succeeded | failed, and back to pending when a delivery is requested again
 *
 * An attempt is recorded before it is made, with the time by which it must have ended. If the process dies, the next
 * attempt is due then. The attempt's number rises with each attempt, and only the outcome of the newest one counts,
 * once.
 */
const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** How long a delivery waits before each of its attempts, from the end of the previous one. */
export const RETRY_SCHEDULE: readonly number[] = [
  0,
  5 * SECOND,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
  20 * HOUR,
  24 * HOUR,
];
/**
 * Each wait is longer or shorter by up to this share, so that deliveries that failed together are not retried together.
 */
const JITTER = 0.1;

export interface Delivery {
  readonly status: "pending" | "succeeded" | "failed";
  /** The number of the newest attempt; 0 before the first. */
  readonly attempt: number;
  /** The newest attempt when the delivery was last requested. Only attempts after it count towards the schedule. */
  readonly scheduleStart: number;
  /** Whether the outcome of the newest attempt is not known yet. */
  readonly inFlight: boolean;
  /** When the next attempt is due; null if none is. */
  readonly dueAt: number | null;
}

/** The outcome of an attempt. `retryAfter` is the wait that the endpoint asked for. */
export type AttemptOutcome =
  | { readonly type: "succeeded" }
  | { readonly type: "gone" }
  | { readonly type: "failed"; readonly busy: boolean; readonly retryAfter: number | null };

export type DeliveryEvent =
  /** An attempt is about to be made. Its outcome will be known within `lease`, or never. */
  | { readonly type: "begin"; readonly lease: number }
  | { readonly type: "ended"; readonly attempt: number; readonly outcome: AttemptOutcome }
  | { readonly type: "redeliver" }
  /** Its endpoint was disabled. */
  | { readonly type: "disable" };

/** A delivery that is due at once. To a disabled endpoint, it has failed already. */
export function newDelivery(enabled: boolean, now: number): Delivery {
  const dueAt = enabled ? now : null;
  return { status: enabled ? "pending" : "failed", attempt: 0, scheduleStart: 0, inFlight: false, dueAt };
}

/** The next state. `begin` has started a new attempt only if `attempt` has risen. */
export function advance(state: Delivery, event: DeliveryEvent, now: number, random: number): Delivery {
  const { status, attempt, scheduleStart, inFlight, dueAt } = state;
  const attemptsMade = attempt - scheduleStart;
  switch (event.type) {
    case "begin":
      if (status !== "pending" || dueAt === null || dueAt > now) return state;
      // The last attempt was cut off.
      if (attemptsMade >= RETRY_SCHEDULE.length) return { ...state, status: "failed", inFlight: false, dueAt: null };
      return { ...state, attempt: attempt + 1, inFlight: true, dueAt: now + event.lease };
    case "ended": {
      if (!inFlight || event.attempt !== attempt) return state;
      if (event.outcome.type === "succeeded") return { ...state, status: "succeeded", inFlight: false, dueAt: null };
      if (status !== "pending") return { ...state, inFlight: false };
      const wait = RETRY_SCHEDULE[attemptsMade];
      if (wait === undefined) return { ...state, status: "failed", inFlight: false, dueAt: null };
      return { ...state, inFlight: false, dueAt: now + wait * (1 - JITTER + 2 * JITTER * random) };
    }
    case "redeliver":
      // An attempt in flight may still succeed: wait for its end.
      return { ...state, status: "pending", scheduleStart: attempt, dueAt: inFlight && dueAt !== null ? dueAt : now };
    case "disable":
      return status === "pending" ? { ...state, status: "failed", dueAt: null } : state;
  }
}

/** The statuses with which an endpoint says that it is overloaded. */
const BUSY_STATUSES: ReadonlySet<number> = new Set([429, 502, 503, 504]);

/**
 * The outcome of an attempt with this status, which is null if no response came. A redirect is a failure: it is never
 * followed.
 */
export function outcomeOf(status: number | null, retryAfter: number | null): AttemptOutcome {
  if (status !== null && status >= 200 && status < 300) return { type: "succeeded" };
  if (status === 410) return { type: "gone" };
  return { type: "failed", busy: status !== null && BUSY_STATUSES.has(status), retryAfter };
}
